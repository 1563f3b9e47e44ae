"""C-FIND as a client (PS3.4 C.4.1): what a peer lists.

The Study Root model is asked; the Patient Root model only where a peer takes no other. Questions go level by level with
one value for each unique key above, which is what every peer must answer (hierarchical search, PS3.4 C.4.1.3.1).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from dicom_io.errors import Rejected
from plugin.dimse.client.association import TIMEOUT_S, Peer, PeerRejected, PeerUnreachable, associate, end
from plugin.dimse.status import PENDING, SUCCESS, is_temporary

log = logging.getLogger(__name__)

STUDY_ROOT, PATIENT_ROOT = (
    str(StudyRootQueryRetrieveInformationModelFind),
    str(PatientRootQueryRetrieveInformationModelFind),
)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# A peer that goes on for ever must come to an end here; no study has as many instances.
_MOST_ANSWERS = 200_000
_UIDS_IN_A_LIST = 100
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_SHOWN = ("PatientID", "PatientName", "StudyDate", "AccessionNumber", "StudyDescription", "ModalitiesInStudy")


class CannotAsk(Rejected):
    """The peer offers no search, or refuses this one: asking again will not help."""


@dataclass(frozen=True)
class Listed:
    """An instance that a peer says it has. sop_class_uid: "" where it did not say."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


@dataclass(frozen=True)
class FoundStudy:
    """A study that a peer lists, as it describes it; "" for what it left out. instances: None where it did not say."""

    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    study_date: str = ""
    accession_number: str = ""
    description: str = ""
    modalities: tuple[str, ...] = ()
    instances: int | None = None


class Named(Protocol):
    """An instance with its place, as `has` is told it."""

    @property
    def study_instance_uid(self) -> str: ...
    @property
    def series_instance_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...


def instances(peer: Peer, study: str, timeout_s: float = TIMEOUT_S, *, patient_id: str = "") -> list[Listed]:
    """All instances of a study that the peer lists, series by series; empty where it does not know the study.

    timeout_s: for each answer. patient_id: asked for where the peer knows only the Patient Root model, if it is empty.

    Raises:
        PeerUnreachable: no association, or no answer; try again.
        CannotAsk: the peer offers no C-FIND, or refuses the question.
    """
    check_uid(study)
    with _asked(peer, timeout_s) as ask:
        above = ask.above(study, patient_id)
        series = [each for each in (_text(found, "SeriesInstanceUID") for found in ask.series(above)) if each]
        return [listed for uid in dict.fromkeys(series) for listed in ask.instances(above, uid)]


def studies(peer: Peer, conditions: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> list[FoundStudy]:
    """Studies that meet all conditions: DICOM keyword of a study or patient -> value, wildcards and ranges as in DICOM.

    Raises:
        PeerUnreachable, CannotAsk: as `instances`.
    """
    query = Dataset()
    for keyword in (*_SHOWN, "StudyInstanceUID", "NumberOfStudyRelatedInstances"):
        setattr(query, keyword, None)
    for keyword, value in conditions.items():
        setattr(query, keyword, value)
    if not all(value.isascii() for value in conditions.values()):
        query.SpecificCharacterSet = "ISO_IR 192"
    with _asked(peer, timeout_s) as ask:
        return [study for study in map(_study, ask("STUDY", query)) if study.study_instance_uid]


def has(peer: Peer, wanted: Sequence[Named], timeout_s: float = TIMEOUT_S) -> list[bool | None]:
    """Whether the peer lists each instance, in order; None where it answers no such question.

    Raises:
        PeerUnreachable: it does not answer now.
    """
    try:
        with _asked(peer, timeout_s) as ask:
            answers: dict[str, bool | None] = {}
            for (study, series), group in groupby(sorted(wanted, key=_place), key=_place):
                answers |= _has_in_series(ask, study, series, [each.sop_instance_uid for each in group])
            return [answers[each.sop_instance_uid] for each in wanted]
    except (CannotAsk, PeerRejected):
        return [None for _ in wanted]


def check_uid(uid: str) -> None:
    """Raises Rejected for what is no UID (PS3.5 9); a `*` would ask for everything."""
    if not _UID.fullmatch(uid) or len(uid) > 64:
        raise Rejected(f"{uid[:70]!r} is no UID (digits and dots, at most 64 characters); give one whole UID")


def sop_class(text: str) -> str:
    """A SOP Class UID as a peer gives it; "" for what is none, which cannot be proposed to anybody (PS3.5 9)."""
    return text if _UID.fullmatch(text) and len(text) <= 64 else ""


def _place(each: Named) -> tuple[str, str]:
    return each.study_instance_uid, each.series_instance_uid


def _has_in_series(ask: _Questions, study: str, series: str, uids: list[str]) -> dict[str, bool | None]:
    """By lists of UIDs (PS3.4 C.2.2.2.2), and what a list did not find one by one: not every peer knows lists."""
    try:
        above = ask.above(study, "")
        found = {
            listed.sop_instance_uid
            for start in range(0, len(uids), _UIDS_IN_A_LIST)
            for listed in ask.instances(above, series, uids[start : start + _UIDS_IN_A_LIST])
        }
        if len(uids) > 1:
            for uid in set(uids) - found:
                found |= {listed.sop_instance_uid for listed in ask.instances(above, series, [uid])}
    except CannotAsk:
        return dict.fromkeys(uids)
    return {uid: uid in found for uid in uids}


class _Questions:
    """What can be asked on one association."""

    def __init__(self, peer: Peer, association: Association, model: str) -> None:
        self._peer, self._association, self._model = peer, association, model

    def __call__(self, level: str, query: Dataset) -> list[Dataset]:
        query.QueryRetrieveLevel = level
        found: list[Dataset] = []
        if not self._association.is_established:
            raise PeerUnreachable(f"{self._peer} ended the association while it was asked; look at its log")
        for status, identifier in self._association.send_c_find(query, self._model):
            code = status.get("Status")
            if code is None:
                raise PeerUnreachable(f"{self._peer} does not answer C-FIND at level {level}; look at its log")
            if code in PENDING:
                if identifier is None or len(found) >= _MOST_ANSWERS:
                    self._association.abort()
                    raise CannotAsk(f"{self._peer} answers C-FIND with what cannot be read, or without end")
                found.append(identifier)
            elif is_temporary(code):
                raise PeerUnreachable(f"{self._peer} cannot answer C-FIND now: {_said(status)}")
            elif code != SUCCESS:
                raise CannotAsk(f"{self._peer} refuses C-FIND at level {level}: {_said(status)}")
        return found

    def above(self, study: str, patient_id: str) -> dict[str, str]:
        """The unique keys above a series. In the Patient Root model Patient ID (0010,0020) is one."""
        keys = {"StudyInstanceUID": study}
        if self._model == STUDY_ROOT:
            return keys
        if not patient_id:
            found = self("STUDY", _query(keys, "PatientID"))
            patient_id = _text(found[0], "PatientID") if found else ""
        return keys | {"PatientID": patient_id}

    def series(self, above: Mapping[str, str]) -> list[Dataset]:
        return self("SERIES", _query(above, "SeriesInstanceUID"))

    def instances(self, above: Mapping[str, str], series: str, uids: Sequence[str] = ()) -> list[Listed]:
        """Those of one series; uids: only these."""
        query = _query(dict(above) | {"SeriesInstanceUID": series}, "SOPInstanceUID", "SOPClassUID")
        if uids:
            query.SOPInstanceUID = list(uids)
        answers = (
            Listed(series, _text(found, "SOPInstanceUID"), sop_class(_text(found, "SOPClassUID")))
            for found in self("IMAGE", query)
        )
        return [each for each in dict.fromkeys(answers) if each.sop_instance_uid]


@contextmanager
def _asked(peer: Peer, timeout_s: float) -> Iterator[_Questions]:
    contexts = [build_context(model, _SYNTAXES) for model in (STUDY_ROOT, PATIENT_ROOT)]
    association = associate(peer, contexts, timeout_s)
    try:
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        models = [model for model in (STUDY_ROOT, PATIENT_ROOT) if model in accepted]
        if not models:
            raise CannotAsk(f"{peer} offers no C-FIND; have it allow queries of {peer.calling_aet}")
        yield _Questions(peer, association, models[0])
    finally:
        end(association)


def _query(keys: Mapping[str, str], *wanted: str) -> Dataset:
    query = Dataset()
    for keyword in wanted:
        setattr(query, keyword, None)
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _said(status: Dataset) -> str:
    comment = str(status.get("ErrorComment") or "no comment given")
    return f"0x{status.Status:04X} ({comment})"


def _text(found: Dataset, keyword: str) -> str:
    value = found.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _study(found: Dataset) -> FoundStudy:
    modalities = found.get("ModalitiesInStudy") or ()
    count = _text(found, "NumberOfStudyRelatedInstances")
    return FoundStudy(
        _text(found, "StudyInstanceUID"),
        _text(found, "PatientID"),
        _text(found, "PatientName"),
        _text(found, "StudyDate"),
        _text(found, "AccessionNumber"),
        _text(found, "StudyDescription"),
        tuple(map(str, modalities))
        if isinstance(modalities, MultiValue)
        else ((str(modalities),) if modalities else ()),
        int(count) if count.isdecimal() else None,
    )
