"""C-STORE as a client (PS3.4 B): files as they are where the peer takes that, else in a lossless encoding.

Data sets go from the disk to the network in pieces; none is ever held whole.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from dicom_io import encoding
from dicom_io.dataset import file_meta
from dicom_io.encoding import CannotEncode
from dicom_io.errors import NotDicom, Rejected, UndecodablePixels
from plugin.dimse import transmission
from plugin.dimse.client.association import TIMEOUT_S, Peer, associate, end
from plugin.dimse.status import PROCESSING_FAILURE, SUCCESS, is_temporary
from plugin.dimse.transmission import Message

# Odd context IDs from 1 to 255 (PS3.8 9.3.2.2).
_MAXIMUM_CONTEXTS = 128
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORISED = 0x0124  # PS3.7 C.5.15; here: our own gate held the object back
_LOOK_EVERY_S = 0.0005

Check = Callable[[Path], None]
"""Told of a file with exactly the bytes that are about to leave; raises Rejected where they must not."""


@dataclass(frozen=True)
class Sent:
    """What the peer answered for one file.

    status: DIMSE status, None where no answer came. reason: "" on success. can_retry: the same file may be taken later.
    transfer_syntax_uid: in which it went out, "" where it did not; without an answer to what did, the peer may or may
    not have it.
    """

    path: Path
    sop_instance_uid: str
    status: int | None
    reason: str = ""
    can_retry: bool = False
    transfer_syntax_uid: str = ""

    @property
    def accepted(self) -> bool:
        """The peer has it."""
        return self.status is not None and is_accepted(self.status)


Originator = tuple[str, int]
"""AE title and Message ID of the C-MOVE request that a C-STORE is part of (PS3.7 9.1.1.1)."""


@dataclass(frozen=True)
class Kind:
    """What decides on the presentation context of an object."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Load:
    """One object that is to be sent. path: a DICOM file (PS3.10)."""

    path: Path
    sop_instance_uid: str
    kind: Kind


def send(
    peer: Peer,
    paths: Sequence[Path],
    timeout_s: float = TIMEOUT_S,
    *,
    prefer: Sequence[str] = (),
    check: Check = lambda path: None,
) -> Iterator[Sent]:
    """C-STORE each file; one answer per file, in an order that keeps associations few.

    Contexts are built from the files: for each SOP class one per stored transfer syntax, and an uncompressed one. A
    file that the peer does not take as stored is sent in the first of `prefer` that it takes, else uncompressed; never
    with loss. prefer: the transfer syntaxes that the peer takes, the best first; where any are named, no other
    compressed ones are proposed. More than 128 contexts take several associations. check: sees the bytes that leave.

    Raises:
        PeerUnreachable: no association.
        NotDicom: a file is no DICOM file.
    """
    transmission.install()
    loads = [_load(path) for path in paths]
    for batch in batches((load.kind for load in loads), prefer):
        kinds, proposed = batch
        association = associate(peer, proposed, timeout_s)
        try:
            carrier = Carrier(str(peer), association, prefer)
            with carrier.at_work():
                for load in loads:
                    if load.kind in kinds:
                        yield carrier.send(load, check)
        finally:
            end(association)


def negotiated(
    peer: Peer, paths: Sequence[Path], timeout_s: float = TIMEOUT_S, *, prefer: Sequence[str] = ()
) -> dict[Path, UID | None]:
    """In which transfer syntax `send` would try each file first; None where the peer takes none that we can write.

    Only associations are opened; nothing is sent. Raises as `send`.
    """
    loads = [_load(path) for path in paths]
    found: dict[Path, UID | None] = {}
    for kinds, proposed in batches((load.kind for load in loads), prefer):
        association = associate(peer, proposed, timeout_s)
        try:
            carrier = Carrier(str(peer), association, prefer)
            found |= {load.path: next(iter(carrier.syntaxes(load.kind)), None) for load in loads if load.kind in kinds}
        finally:
            end(association)
    return found


def _load(path: Path) -> Load:
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        kind = Kind(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        return Load(path, str(meta.MediaStorageSOPInstanceUID), kind)
    except (pydicom.errors.InvalidDicomError, AttributeError, EOFError) as error:
        raise NotDicom(f"{path} is no DICOM file with file meta information; send DICOM files (PS3.10) only") from error


def batches(
    kinds: Iterable[Kind], prefer: Sequence[str] = ()
) -> Iterator[tuple[frozenset[Kind], list[PresentationContext]]]:
    """The contexts to propose, at most 128 for an association, and the kinds that each association is for."""
    stored: dict[str, dict[str, None]] = {}
    for kind in kinds:
        stored.setdefault(kind.sop_class_uid, {})[kind.transfer_syntax_uid] = None
    batch: set[Kind] = set()
    contexts: list[PresentationContext] = []
    for sop_class, syntaxes in stored.items():
        own = [build_context(sop_class, list(one)) for one in _proposals(list(syntaxes), prefer)]
        if contexts and len(contexts) + len(own) > _MAXIMUM_CONTEXTS:
            yield frozenset(batch), contexts
            batch, contexts = set(), []
        batch |= {Kind(sop_class, syntax) for syntax in syntaxes}
        contexts = [*contexts, *own]
    if contexts:
        yield frozenset(batch), contexts


def _proposals(stored: Sequence[str], prefer: Sequence[str]) -> list[tuple[str, ...]]:
    """Transfer syntaxes of the contexts of one SOP class.

    A context for each syntax, since the peer picks one of a context; the uncompressed ones that are left, which each
    peer must know one of (PS3.5 10.1), share the last.
    """
    alone = [syntax for syntax in stored if not prefer or syntax in prefer or syntax in _UNCOMPRESSED]
    for syntax in prefer:
        if syntax not in alone and any(encoding.can_write(UID(one), UID(syntax)) for one in stored):
            alone.append(syntax)
    rest = tuple(syntax for syntax in _UNCOMPRESSED if syntax not in alone)
    return [*((syntax,) for syntax in alone), *([rest] if rest else [])]


class Carrier:
    """Sends objects over one association on which the peer is the provider of storage classes (PS3.4 B).

        with carrier.at_work():
            carrier.send(load, check)

    peer: its name in messages. prefer: as for `send`. is_given_up: the peer did not answer; nothing more is sent to it.
    """

    def __init__(self, peer: str, association: Association, prefer: Sequence[str] = ()) -> None:
        self.peer, self._association = peer, association
        self._contexts: dict[str, dict[str, int]] = {}
        self._message_id = 0
        self.is_given_up = False
        _have_it_alone(association)
        accepted = [context for context in association.accepted_contexts if context.as_scu]
        for context in accepted:
            own = self._contexts.setdefault(str(context.abstract_syntax), {})
            own.setdefault(str(context.transfer_syntax[0]), context.context_id)
        for sop_class, own in self._contexts.items():
            best = {syntax: own[syntax] for syntax in prefer if syntax in own}
            self._contexts[sop_class] = best | own

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """This thread has the association to itself; one that did not answer is aborted afterwards."""
        try:
            with self._association.dul.lent():
                yield
        finally:
            if self.is_given_up and not self._association.is_aborted:
                # It may take a moment until it is seen that the connection is gone; its release would wait for that.
                self._association.abort()

    def send(self, load: Load, check: Check, originator: Originator | None = None) -> Sent:
        """C-STORE one object, as stored or in the best encoding that the peer takes."""
        refused = Sent(load.path, load.sop_instance_uid, SOP_CLASS_NOT_SUPPORTED, self._not_taken(load.kind))
        stored = UID(load.kind.transfer_syntax_uid)
        for syntax in self.syntaxes(load.kind):
            self._association.dul.look()
            if self.is_given_up or not is_open(self._association):
                reason = f"the association with {self.peer} ended before this object was sent"
                return Sent(load.path, load.sop_instance_uid, None, reason, can_retry=True)
            try:
                with _Encoded(load.path, stored, syntax) as path:
                    held = _held(path, check)
                    if held:
                        return Sent(load.path, load.sop_instance_uid, NOT_AUTHORISED, held)
                    return self._store(load, path, syntax, originator)
            except (CannotEncode, UndecodablePixels) as error:
                refused = Sent(load.path, load.sop_instance_uid, SOP_CLASS_NOT_SUPPORTED, str(error))
            except NotDicom as error:
                return Sent(load.path, load.sop_instance_uid, PROCESSING_FAILURE, str(error))
            except OSError as error:
                reason = f"instance {load.sop_instance_uid} cannot be read ({error.strerror}); look at its disk"
                return Sent(load.path, load.sop_instance_uid, PROCESSING_FAILURE, reason, can_retry=True)
        return refused

    def syntaxes(self, kind: Kind) -> list[UID]:
        """Transfer syntaxes in which the peer takes such objects and we can write them without loss, best first."""
        acceptable = [UID(syntax) for syntax in self._contexts.get(kind.sop_class_uid, {})]
        return encoding.candidates(UID(kind.transfer_syntax_uid), acceptable)

    def _not_taken(self, kind: Kind) -> str:
        sop_class, syntax = UID(kind.sop_class_uid).name, UID(kind.transfer_syntax_uid).name
        return f"{self.peer} does not take SOP class {sop_class} in {syntax}; have it accept them"

    def _store(self, load: Load, path: Path, syntax: UID, originator: Originator | None) -> Sent:
        self._message_id = self._message_id % 0xFFFF + 1
        message = Message(
            context_id=self._contexts[load.kind.sop_class_uid][syntax],
            message_id=self._message_id,
            sop_class_uid=load.kind.sop_class_uid,
            sop_instance_uid=load.sop_instance_uid,
            path=path,
            start=_start(path),
            originator=originator,
        )
        answer = self._association.dul.exchange(message, self._association.dimse_timeout)
        if not _answers(answer, message):
            self.is_given_up = True
            reason = f"{self.peer} did not answer; whether it has the object is not known"
            return Sent(load.path, load.sop_instance_uid, None, reason, can_retry=True, transfer_syntax_uid=syntax)
        status = int(answer.Status)
        if is_accepted(status):
            return Sent(load.path, load.sop_instance_uid, status, transfer_syntax_uid=syntax)
        reason = f"{self.peer} answered 0x{status:04X} ({answer.ErrorComment or 'no comment given'})"
        return Sent(load.path, load.sop_instance_uid, status, reason, is_temporary(status), transfer_syntax_uid=syntax)


def _answers(answer: Any, message: Message) -> bool:
    """It is the response to this request."""
    is_it = isinstance(answer, C_STORE) and answer.is_valid_response
    return is_it and answer.MessageIDBeingRespondedTo == message.message_id


class _Encoded:
    """A file with the object in the encoding in which it leaves: the stored one, or one that lives as long as this."""

    def __init__(self, path: Path, stored: UID, syntax: UID) -> None:
        self._path, self._syntax, self._is_stored = path, syntax, syntax == stored
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        if self._is_stored:
            return self._path
        self._folder = tempfile.TemporaryDirectory(prefix="mirall-")
        target = Path(self._folder.name) / "object.dcm"
        try:
            encoding.write(self._path, target, self._syntax)
        except BaseException:
            self._folder.cleanup()
            raise
        return target

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _held(path: Path, check: Check) -> str:
    """Why the bytes must not leave, "" where they may."""
    try:
        check(path)
    except Rejected as error:
        return str(error)
    return ""


def _start(path: Path) -> int:
    """Where the data set begins."""
    if path.stat().st_size == 0:
        raise NotDicom(f"{path.name} is empty; put the whole file there")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return file_meta(raw, path.name)[1]


def _have_it_alone(association: Association) -> None:
    """Keep pynetdicom's own thread of an association that we opened from taking answers, until it is released.

    To pause it for each message, as pynetdicom does, is not enough: it may wake up late, after the next one was sent.
    """
    if association.is_requestor and association.is_established:
        association._reactor_checkpoint.clear()
        while not association._is_paused and association.is_established:
            time.sleep(_LOOK_EVERY_S)


def is_open(association: Association) -> bool:
    """Whether messages can be sent: established, and the connection is there (state 6 of PS3.8 9.2).

    pynetdicom says that an association is established a moment before it leaves state 5.
    """
    return bool(association.is_established and association.dul.state_machine.current_state in ("Sta5", "Sta6"))


def is_accepted(status: int) -> bool:
    """Stored, perhaps with a warning (PS3.4 B.2.3: 0000, Bxxx)."""
    return status == SUCCESS or status >> 12 == 0xB
