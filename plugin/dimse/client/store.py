"""C-STORE as a client (PS3.4 B): files as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config, build_context
from pynetdicom.association import Association

from dicom_io.errors import NotDicom
from plugin.dimse.client.association import TIMEOUT_S, Peer, associate, end
from plugin.dimse.client.echo import SUCCESS

# Odd context IDs from 1 to 255 (PS3.8 9.3.2.2).
_MAXIMUM_CONTEXTS = 128
_UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
SOP_CLASS_NOT_SUPPORTED = 0x0122


@dataclass(frozen=True)
class Sent:
    """What the peer answered for one file.

    status: DIMSE status, None where no answer came (the peer may or may not have it). reason: "" on success.
    can_retry: the same file may be taken later.
    """

    path: Path
    sop_instance_uid: str
    status: int | None
    reason: str = ""
    can_retry: bool = False

    @property
    def accepted(self) -> bool:
        """The peer has it."""
        return self.status is not None and is_accepted(self.status)


def send(peer: Peer, paths: Sequence[Path], timeout_s: float = TIMEOUT_S) -> Iterator[Sent]:
    """C-STORE each file; one answer per file, in an order that keeps associations few.

    Contexts are built from the files, one per SOP class and transfer syntax; beside an uncompressed one Implicit VR
    Little Endian is proposed, which each receiver must know (PS3.5 10.1). Bytes of a data set go out as they lie in the
    file unless the peer takes nothing but implicit VR. More than 128 contexts take several associations.

    Raises:
        PeerUnreachable: no association.
        NotDicom: a file is no DICOM file.
    """
    kinds = {path: _kind(path) for path in paths}
    contexts = list(dict.fromkeys((kind.sop_class_uid, kind.transfer_syntax_uid) for kind in kinds.values()))
    per_association = _MAXIMUM_CONTEXTS // 2
    for start in range(0, len(contexts), per_association):
        batch = contexts[start : start + per_association]
        files = [path for path in paths if (kinds[path].sop_class_uid, kinds[path].transfer_syntax_uid) in set(batch)]
        yield from _send_batch(peer, batch, files, kinds, timeout_s)


@dataclass(frozen=True)
class _Kind:
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def _kind(path: Path) -> _Kind:
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        return _Kind(
            str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID)
        )
    except (pydicom.errors.InvalidDicomError, AttributeError, EOFError) as error:
        raise NotDicom(f"{path} is no DICOM file with file meta information; send DICOM files (PS3.10) only") from error


def _send_batch(
    peer: Peer, contexts: list[tuple[str, str]], files: list[Path], kinds: dict[Path, _Kind], timeout_s: float
) -> Iterator[Sent]:
    implicit = [(abstract, ImplicitVRLittleEndian) for abstract, syntax in contexts if syntax in _UNCOMPRESSED]
    proposed = [build_context(abstract, syntax) for abstract, syntax in dict.fromkeys([*contexts, *implicit])]
    # Files go out in pieces as they lie on disk; a setting of the whole process in pynetdicom.
    _config.STORE_SEND_CHUNKED_DATASET = True
    association = associate(peer, proposed, timeout_s)
    accepted = {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in association.accepted_contexts}
    try:
        for number, path in enumerate(files, 1):
            yield _send_one(peer, association, path, kinds[path], accepted, number % 0xFFFF)
    finally:
        end(association)


def _send_one(
    peer: Peer, association: Association, path: Path, kind: _Kind, accepted: set[tuple[str, str]], message_id: int
) -> Sent:
    uid = kind.sop_instance_uid
    as_it_is = (kind.sop_class_uid, kind.transfer_syntax_uid) in accepted
    if not as_it_is and not (
        kind.transfer_syntax_uid in _UNCOMPRESSED and (kind.sop_class_uid, ImplicitVRLittleEndian) in accepted
    ):
        reason = (
            f"{peer} does not take SOP class {UID(kind.sop_class_uid).name} in {UID(kind.transfer_syntax_uid).name}; "
            "have it accept them"
        )
        return Sent(path, uid, SOP_CLASS_NOT_SUPPORTED, reason)
    if not association.is_established:
        return Sent(path, uid, None, f"the association with {peer} ended before this file was sent", can_retry=True)
    answer = association.send_c_store(path if as_it_is else pydicom.dcmread(path), msg_id=message_id)
    if "Status" not in answer:
        # pynetdicom may take a moment to see that the connection is gone, and would wait for its timeout with the next.
        association.abort()
        return Sent(path, uid, None, f"{peer} did not answer; whether it has the object is not known", can_retry=True)
    status = int(answer.Status)
    if is_accepted(status):
        return Sent(path, uid, status)
    comment = str(answer.get("ErrorComment") or "no comment given")
    # A7xx: out of resources, which may pass (PS3.4 B.2.3).
    return Sent(path, uid, status, f"{peer} answered 0x{status:04X} ({comment})", can_retry=status >> 8 == 0xA7)


def is_accepted(status: int) -> bool:
    """Stored, perhaps with a warning (PS3.4 B.2.3: 0000, Bxxx)."""
    return status == SUCCESS or status >> 12 == 0xB
