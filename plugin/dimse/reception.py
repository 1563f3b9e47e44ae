"""Where pynetdicom puts a data set that it receives: a file in the store's own incoming/ folder.

pynetdicom can write a data set to disk as it arrives, which keeps the bytes as they are and the memory small, but it
creates the file in the system's temporary folder, from where a rename into the store is a copy, and often not durable.
It opens that file by a name of its module, `NamedTemporaryFile`, in the thread of the association; the name is bound to
a function that asks the association's node for the file.
"""

from __future__ import annotations

import threading
from tempfile import NamedTemporaryFile
from typing import Any

from pynetdicom import AE, _config, dimse_messages
from pynetdicom.dul import DULServiceProvider

from plugin.archive.storage import Reception, Storage


class ReceivingAE(AE):
    """An application entity whose C-STORE requests are received into `storage`."""

    def __init__(self, ae_title: str, storage: Storage) -> None:
        super().__init__(ae_title)
        self.storage = storage


def _open(*args: Any, **kwargs: Any) -> Any:
    """Called by pynetdicom with NamedTemporaryFile's arguments when a C-STORE request with a data set begins."""
    provider = threading.current_thread()
    if isinstance(provider, DULServiceProvider) and isinstance(provider.assoc.ae, ReceivingAE):
        return provider.assoc.ae.storage.receive()
    return NamedTemporaryFile(*args, **kwargs)


def install() -> None:
    """Turn on chunked reception and storage of any SOP class; both are settings of the whole process in pynetdicom."""
    dimse_messages.NamedTemporaryFile = _open
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    # Its log handlers format each message whether or not anybody reads it: a third of the time of a C-STORE.
    _config.LOG_HANDLER_LEVEL = "none"


def reception_of(request: Any) -> Reception:
    """The file of a C-STORE request."""
    reception = request._dataset_file
    assert isinstance(reception, Reception)
    return reception
