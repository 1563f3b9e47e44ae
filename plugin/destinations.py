"""Peers that results go to: by C-STORE, by STOW-RS, and a fake in memory for tests.

A destination sends objects in the encoding that its peer takes, losslessly, and says for each how it went. An answer
that the peer has the object already is a success: it is the same object under the same UID (promise 2). What is encoded
anew passes the label gate as the bytes that leave.
"""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import httpx
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from dicom_io import encoding, labels
from dicom_io.errors import NotDicom, Rejected, TryAgain, Unlabelled
from dicom_io.provenance import LabelRecord
from plugin.dicomweb.json_model import values
from plugin.dimse.client import find
from plugin.dimse.client.association import Peer
from plugin.dimse.client.commitment import NotOffered, ask
from plugin.dimse.client.echo import echo
from plugin.dimse.client.store import Sent, negotiated, send
from plugin.dimse.status import PROCESSING_FAILURE, is_temporary
from plugin.jobs.commitments import Reference, Report
from plugin.security import tls
from plugin.settings import BadSettings
from plugin.settings import Destination as Address

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0  # a PACS may write to slow disks before it answers
DUPLICATE = 0x0111  # PS3.7 C.5.4, Duplicate SOP Instance; the peer has it
REPORT_WAIT_S = 3.0  # how long an association is kept for a report on it; others come to our node

Outcome = Literal["confirmed", "sent", "again", "unknown", "refused"]


@dataclass(frozen=True)
class Parcel:
    """One stored object that is to leave. path: the file (PS3.10) with its bytes, which have passed the gate.

    record: what its job says of an object of ours; None for others' work.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    path: Path
    record: LabelRecord | None = None

    def check(self, encoded: Path) -> None:
        """The gate for the same object in other bytes. Raises Unlabelled."""
        if self.record is not None:
            labels.check(encoded.read_bytes(), self.record)


@dataclass(frozen=True)
class Receipt:
    """How a send went.

    outcome: "confirmed": the answer lists the object; "sent": answered with success; "again": not taken now;
        "unknown": no answer after the object had left; "refused": the same object will not be taken later either.
    """

    outcome: Outcome
    sentence: str = ""


class Destination(Protocol):
    """A peer that takes objects."""

    def send(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """Send in order; one receipt for each parcel. Raises nothing: what goes wrong stands in the receipts."""
        ...

    def has(self, parcels: Sequence[Parcel]) -> list[bool | None]:
        """Whether the peer's own query lists each object; None where it answers no such question.

        Raises:
            TryAgain: it does not answer now.
        """
        ...

    def negotiate(self, parcels: Sequence[Parcel]) -> list[UID | None]:
        """The transfer syntax that each object would leave in; None where the peer takes none. Nothing is sent.

        Raises:
            TryAgain: it does not answer.
        """
        ...

    def commit(
        self,
        transaction_uid: str,
        parcels: Sequence[Parcel],
        enter: Callable[[Report, str], bool],
        is_open: Callable[[], bool],
    ) -> None:
        """Ask the peer for storage commitment of objects that it was sent; it reports to `enter`, now or later.

        is_open: whether the report is still to come.

        Raises:
            NotOffered: it offers none.
            TryAgain: it does not answer now.
        """
        ...

    def echo(self) -> str:
        """One sentence that the peer answers.

        Raises:
            TryAgain: it does not.
        """
        ...


@dataclass
class InMemoryDestination:
    """A peer in memory. down: connections fail; answers: receipts to give instead, used up one by one.

    commits: whether it offers storage commitment; promised: the requests that it took, Transaction UID -> instances.
    """

    down: bool = False
    can_be_asked: bool = True
    commits: bool = False
    promised: dict[str, list[Reference]] = field(default_factory=dict)
    answers: list[Receipt] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)

    def send(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        return [self._take(parcel) for parcel in parcels]

    def _take(self, parcel: Parcel) -> Receipt:
        if self.down:
            return Receipt("again", "the destination does not answer: connection refused")
        if self.answers:
            return self.answers.pop(0)
        self.received.append(parcel.sop_instance_uid)
        self.objects[parcel.sop_instance_uid] = parcel.path.read_bytes()
        return Receipt("sent")

    def has(self, parcels: Sequence[Parcel]) -> list[bool | None]:
        if self.down:
            raise TryAgain("the destination does not answer: connection refused")
        if not self.can_be_asked:
            return [None for _ in parcels]
        return [parcel.sop_instance_uid in self.objects for parcel in parcels]

    def negotiate(self, parcels: Sequence[Parcel]) -> list[UID | None]:
        if self.down:
            raise TryAgain("the destination does not answer: connection refused")
        return [UID(parcel.transfer_syntax_uid) for parcel in parcels]

    def commit(
        self,
        transaction_uid: str,
        parcels: Sequence[Parcel],
        enter: Callable[[Report, str], bool],
        is_open: Callable[[], bool],
    ) -> None:
        if self.down:
            raise TryAgain("the destination does not answer: connection refused")
        if not self.commits:
            raise NotOffered("the destination offers no storage commitment")
        self.promised[transaction_uid] = _references(parcels)

    def echo(self) -> str:
        if self.down:
            raise TryAgain("the destination does not answer: connection refused")
        return "the destination answers"


class StowDestination:
    """A DICOMweb peer: STOW-RS (PS3.18 10.5) to send, QIDO-RS (10.6) to ask.

    The request is made here and not by dicomweb-client, whose `store_instances` encodes each data set anew: what leaves
    must be the stored bytes, or others that passed the gate. prefer: transfer syntaxes that the peer takes, the best
    first; objects leave in the first that can be written without loss.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        client: tls.Client | None = None,
        transport: httpx.BaseTransport | None = None,
        prefer: Sequence[str] = (),
    ) -> None:
        self._url = url.rstrip("/")
        self._prefer = prefer
        self._headers = {"Accept": "application/dicom+json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._tls = client or tls.Client("destinations")
        self._transport = transport

    def send(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        try:
            client = self._client()
        except TryAgain as error:
            return [Receipt("again", str(error)) for _ in parcels]
        with client as http:
            return [self._post(http, parcel) for parcel in parcels]

    def has(self, parcels: Sequence[Parcel]) -> list[bool | None]:
        with self._client() as http:
            return [self._ask(http, parcel) for parcel in parcels]

    def echo(self) -> str:
        try:
            with self._client() as http:
                response = http.get(f"{self._url}/studies", params={"limit": "1"})
        except httpx.HTTPError as error:
            raise TryAgain(f"{self._url} does not answer: {_why(error)}") from error
        if response.status_code not in (200, 204):
            raise TryAgain(f"{self._url} answers a search with HTTP {response.status_code}; check url and token")
        return f"{self._url} answers a search with HTTP {response.status_code}"

    def negotiate(self, parcels: Sequence[Parcel]) -> list[UID | None]:
        """By the profile alone: STOW-RS has no question before the deed."""
        prefer = [UID(each) for each in self._prefer]
        stored = [UID(parcel.transfer_syntax_uid) for parcel in parcels]
        return [next(iter(encoding.candidates(each, prefer)), each) for each in stored]

    def commit(
        self,
        transaction_uid: str,
        parcels: Sequence[Parcel],
        enter: Callable[[Report, str], bool],
        is_open: Callable[[], bool],
    ) -> None:
        raise NotOffered(f"{self._url} is DICOMweb, where storage commitment is not asked for; its QIDO-RS is")

    def _client(self) -> httpx.Client:
        """Raises TryAgain where its certificates cannot be used: a person puts them right, and all goes on."""
        try:
            context = tls.https_context(self._tls)
        except BadSettings as error:
            raise TryAgain(str(error)) from error
        # No proxy of the environment: mirall.toml says where objects go.
        return httpx.Client(
            timeout=self._timeout,
            headers=self._headers,
            transport=self._transport,
            verify=context,
            trust_env=False,
        )

    def _post(self, http: httpx.Client, parcel: Parcel) -> Receipt:
        boundary = uuid.uuid4().hex
        try:
            raw = _encoded(parcel, self._prefer)
        except OSError as error:
            return _unreadable(error)
        except Unlabelled as error:
            return Receipt("refused", str(error))
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        # Not joined, which would hold a long object several times; with its length: not every server takes chunks.
        body = (head, raw, f"\r\n--{boundary}--\r\n".encode())
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(sum(map(len, body))),
        }
        try:
            response = http.post(f"{self._url}/studies", content=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Receipt("again", f"{self._url} does not answer: {_why(error)}")
        except httpx.HTTPError as error:
            return Receipt("unknown", f"{self._url} took the object but did not answer: {_why(error)}")
        return _stow_receipt(self._url, parcel, response)

    def _ask(self, http: httpx.Client, parcel: Parcel) -> bool | None:
        url = f"{self._url}/studies/{parcel.study_instance_uid}/series/{parcel.series_instance_uid}/instances"
        try:
            response = http.get(url, params={"SOPInstanceUID": parcel.sop_instance_uid})
        except httpx.HTTPError as error:
            raise TryAgain(f"{self._url} does not answer a search: {_why(error)}") from error
        if response.status_code == 204:
            return False
        if response.status_code >= 500:
            raise TryAgain(f"{self._url} answers a search with HTTP {response.status_code}")
        listed = _json(response) if response.status_code == 200 else None
        if not isinstance(listed, list):
            return None
        uids = [uid for each in listed for uid in values(each, "00080018")]
        if parcel.sop_instance_uid in uids:
            return True
        # A list whose entries cannot be read says nothing of what is not in it.
        return False if len(uids) == len(listed) else None


class DimseDestination:
    """A DICOM peer: C-STORE (PS3.4 B) to send, storage commitment (J) and C-FIND (C) to ask.

    prefer: transfer syntaxes that the peer takes, the best first; none named: as stored.
    """

    def __init__(self, peer: Peer, prefer: Sequence[str] = ()) -> None:
        self._peer = peer
        self._prefer = prefer

    def send(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        answers: dict[Path, Receipt] = {}
        paths = [parcel.path for parcel in parcels]
        try:
            for sent in send(self._peer, paths, ANSWER_TIMEOUT_S, prefer=self._prefer, check=_Gate(parcels).check):
                answers[sent.path] = _dimse_receipt(sent)
        except TryAgain as error:
            # No association, perhaps only a second one: the others have their answers.
            return [answers.get(path) or Receipt("again", str(error)) for path in paths]
        except (OSError, NotDicom) as error:
            left = [parcel for parcel in parcels if parcel.path not in answers]
            if len(left) == 1:
                answers[left[0].path] = _unreadable(error)
            else:  # one of them cannot be read; alone each shows whether it is that one
                answers |= {parcel.path: self.send([parcel])[0] for parcel in left}
        return [answers[path] for path in paths]

    def negotiate(self, parcels: Sequence[Parcel]) -> list[UID | None]:
        found = negotiated(self._peer, [parcel.path for parcel in parcels], CONNECT_TIMEOUT_S, prefer=self._prefer)
        return [found[parcel.path] for parcel in parcels]

    def has(self, parcels: Sequence[Parcel]) -> list[bool | None]:
        return find.has(self._peer, parcels, ANSWER_TIMEOUT_S)

    def commit(
        self,
        transaction_uid: str,
        parcels: Sequence[Parcel],
        enter: Callable[[Report, str], bool],
        is_open: Callable[[], bool],
    ) -> None:
        ask(
            self._peer,
            transaction_uid,
            _references(parcels),
            enter,
            is_open,
            wait_s=REPORT_WAIT_S,
            timeout_s=ANSWER_TIMEOUT_S,
        )

    def echo(self) -> str:
        echo(self._peer, CONNECT_TIMEOUT_S)
        return f"{self._peer} answers C-ECHO"


class _Gate:
    """The label gate for what is encoded on the way; the stored bytes of each parcel have passed it already."""

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self._stored = {parcel.path for parcel in parcels}
        self._parcels = {parcel.sop_instance_uid: parcel for parcel in parcels}

    def check(self, path: Path) -> None:
        """Raises Unlabelled."""
        if path not in self._stored:
            self._parcels[str(read_file_meta_info(path).MediaStorageSOPInstanceUID)].check(path)


def _dimse_receipt(sent: Sent) -> Receipt:
    if sent.status is None:
        return Receipt("unknown" if sent.transfer_syntax_uid else "again", sent.reason)
    if sent.accepted or sent.status == DUPLICATE:
        return Receipt("sent")
    return Receipt("again" if sent.can_retry or is_temporary(sent.status) else "refused", sent.reason)


def opened(address: Address, calling_aet: str) -> Destination:
    """The peer that a section [destinations.NAME] describes."""
    if address.kind == "stow":
        client = tls.Client.of(address)
        return StowDestination(str(address.url), address.token, client, prefer=address.profile.transfer_syntaxes)
    return DimseDestination(Peer.of(address, calling_aet), address.profile.transfer_syntaxes)


def _stow_receipt(url: str, parcel: Parcel, response: httpx.Response) -> Receipt:
    """Read a STOW-RS answer (PS3.18 10.5.3): (0008,1199) lists what was stored, (0008,1198) what was not and why."""
    answer = _json(response)
    whole = answer[0] if isinstance(answer, list) and answer else answer  # servers wrap the object in a list, or do not
    for item in values(whole, "00081198"):
        # One object was sent: what is refused without a name, or with one that cannot be read, is that one.
        if parcel.sop_instance_uid in (values(item, "00081155") or [parcel.sop_instance_uid]):
            return _refusal(url, _reason(values(item, "00081197")))
    for item in values(whole, "00081199"):
        if parcel.sop_instance_uid in values(item, "00081155"):
            return Receipt("confirmed")
    if response.status_code in (200, 202):
        return Receipt("sent")
    sentence = f"{url} answered with HTTP {response.status_code}: {response.text[:200].strip() or 'no words'}"
    # What is wrong with the request stays wrong; a missing right, path or disk may be mended over there.
    return Receipt("refused" if response.status_code in (400, 406, 409, 413, 415, 422) else "again", sentence)


def _encoded(parcel: Parcel, prefer: Sequence[str]) -> bytes:
    """The bytes to send: as stored where that is acceptable or nothing else is possible, else in the first transfer
    syntax of `prefer` in which the object can be written without loss. Raises OSError, Unlabelled."""
    stored = UID(parcel.transfer_syntax_uid)
    for syntax in encoding.candidates(stored, [UID(each) for each in prefer]):
        if syntax == stored:
            break
        with tempfile.TemporaryDirectory(prefix="mirall-") as folder:
            encoded = Path(folder, "encoded.dcm")
            try:
                encoding.write(parcel.path, encoded, syntax)
            except Rejected as error:  # this object resists this syntax; the next may do
                log.info("%s is not sent in %s: %s", parcel.sop_instance_uid, syntax.name, error)
                continue
            parcel.check(encoded)
            return encoded.read_bytes()
    return parcel.path.read_bytes()


def _references(parcels: Sequence[Parcel]) -> list[Reference]:
    return [Reference(parcel.sop_class_uid, parcel.sop_instance_uid) for parcel in parcels]


def _refusal(url: str, reason: int) -> Receipt:
    if reason == DUPLICATE:
        return Receipt("sent")
    sentence = f"{url} did not store the object: failure reason 0x{reason:04X} (0008,1197)"
    return Receipt("again" if is_temporary(reason) else "refused", sentence)


def _json(response: httpx.Response) -> object:
    """The JSON of an answer; None where it holds none."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _reason(given: Sequence[object]) -> int:
    """Failure Reason (0008,1197): a number, though some servers write "42752", "A700" or "0xA700"; Processing Failure
    (PS3.7 C.5.14) where there is none that can be read."""
    text = str(given[0]) if given else ""
    for base in (10, 16):
        try:
            return int(text, base)
        except ValueError:
            continue
    return PROCESSING_FAILURE


def _unreadable(error: Exception) -> Receipt:
    """Our own file, not the peer's answer. A disk may come back; what is no DICOM file stays so."""
    if isinstance(error, NotDicom):
        return Receipt("refused", str(error))
    return Receipt("again", f"the object cannot be read: {error}; look at the data folder's disk")


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
