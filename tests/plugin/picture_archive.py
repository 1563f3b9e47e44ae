"""A PACS in this process that can be asked and sends, with the bad habits that tests give it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dicom_objects import slice_of
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from plugin.dimse.client.association import Peer

_KEYS = {
    "STUDY": ("StudyInstanceUID",),
    "SERIES": ("StudyInstanceUID", "SeriesInstanceUID"),
    "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
STUDY_ROOT = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
PATIENT_ROOT = (PatientRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelGet)


@dataclass
class PictureArchive:
    """offers: the models. withheld: SOP Instance UIDs that it lists, claims to send, and does not.

    knows_lists: of UIDs. names_classes: SOP Class UID in answers. hangs_at: "find" or "get", where it never answers.
    find_status: of every C-FIND, in place of answers.
    asked: levels of C-FIND, and of C-GET or C-MOVE with the number of instances named.
    """

    objects: Sequence[Dataset] = ()
    offers: Sequence[Any] = STUDY_ROOT
    withheld: set[str] = field(default_factory=set)
    knows_lists: bool = True
    names_classes: bool = True
    hangs_at: str = ""
    find_status: int = 0x0000
    asked: list[str] = field(default_factory=list)
    moved_to: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> PictureArchive:
        entity = AE("PACS")
        for model in self.offers:
            entity.add_supported_context(model)
        if self.offers:
            entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        else:
            entity.add_supported_context("1.2.840.10008.1.1")
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get), (evt.EVT_C_MOVE, self._move)]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *error: object) -> None:
        self.end.set()
        self._server.shutdown()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def peer(self) -> Peer:
        return Peer("PACS", "127.0.0.1", self.port, "MIRALL")

    def _matching(self, query: Dataset) -> list[Dataset]:
        keys = ("PatientID", "AccessionNumber", *_KEYS["IMAGE"])
        return [each for each in self.objects if all(self._matches(query.get(key), each[key].value) for key in keys)]

    def _matches(self, wanted: Any, value: str) -> bool:
        if not wanted:
            return True
        if isinstance(wanted, str):
            return wanted == value
        return self.knows_lists and value in wanted

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        level = query.QueryRetrieveLevel
        self.asked.append(f"find {level}")
        if self.hangs_at == "find":
            self.end.wait(20)
        if self.find_status:
            yield self.find_status, None
            return
        found = {tuple(each[key].value for key in _KEYS[level]): each for each in self._matching(query)}
        for each in found.values():
            answer = Dataset()
            answer.SpecificCharacterSet = "ISO_IR 192"
            for key in (*_KEYS[level], *(element.keyword for element in query)):
                if key in each and (self.names_classes or key != "SOPClassUID"):
                    setattr(answer, key, each[key].value)
            yield 0xFF00, answer

    def _sends(self, event: Any, verb: str) -> list[Dataset]:
        query = event.identifier
        named = query.get("SOPInstanceUID") or []
        count = 1 if isinstance(named, str) else len(named)
        self.asked.append(f"{verb} {query.QueryRetrieveLevel}" + (f" {count}" if count else ""))
        return self._matching(query)

    def _get(self, event: Any) -> Iterator[Any]:
        objects = self._sends(event, "get")
        sent = [each for each in objects if each.SOPInstanceUID not in self.withheld]
        yield len(sent)
        if self.hangs_at == "get":
            while not event.is_cancelled and not self.end.wait(0.02):
                pass
            self.cancelled.set()
            yield 0xFE00, None
            return
        for each in sent:
            yield 0xFF00, each

    def _move(self, event: Any) -> Iterator[Any]:
        self.moved_to.append(event.move_destination.strip())
        self._sends(event, "move")
        yield None, None


def study(slices: int = 5, *, study: str = "2.25.77", series: str = "2.25.78", **attributes: Any) -> list[Dataset]:
    """Slices of one series, each with its own UID, as a PACS would send them."""
    made = [
        slice_of(f"2.25.79{number:03}", study=study, series=series, value=number, **attributes)
        for number in range(slices)
    ]
    for each in made:
        each.file_meta = _meta(each)
    return made


def _meta(dataset: Dataset) -> Any:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
