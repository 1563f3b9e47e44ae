"""Where the class of an image comes from: its own header, a table, the folder that it lies in, a report on it.

    attribute:PatientSex                        one value, the same in all slices
    attribute:AnatomicRegionSequence.CodeMeaning    within the first item of a sequence
    csv:labels.csv                              a column `label`, and one of patient, study, series, sop uid, path
    folder                                      the first folder below the path that was given
    sr                                          the Finding (121071, DCM) of a Structured Report (TID 1500) on the image
    sr:121402^DCM                               the value of another coded concept of it

A label is a word, or one word for each slice where the table names instances. An attribute that identifies a person
cannot be a label: labels stand in the cohort's data list, which holds pseudonyms only. A report that no person took
part in is a prediction and no truth, and is not taken unless that is asked for.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Label = str | tuple[str, ...]

# Persons, dates and UIDs (PS3.5 6.2), and what else names a person or one visit.
_IDENTIFYING_VRS = ("PN", "DA", "DT", "TM", "UI")
_IDENTIFYING = (
    *("PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "PatientAddress"),
    *("PatientTelephoneNumbers", "PatientComments", "MedicalRecordLocator", "AdmissionID", "MilitaryRank"),
)
_KEYS = {
    "patient": ("patient", "patient id", "patientid"),
    "study": ("study", "study uid", "study instance uid", "studyinstanceuid"),
    "series": ("series", "series uid", "series instance uid", "seriesinstanceuid"),
    "sop": ("sop uid", "sop instance uid", "sopinstanceuid", "instance"),
    "path": ("path", "file", "folder"),
}


@dataclass(frozen=True, eq=False)
class Example:
    """An image that was read, with what is known of it. Never written as it is: it holds the patient's ID.

    datasets: headers, and paths: files, one per slice in slice order (one for a projection). root: the path given that
    they lie below. part: "" or which of several volumes of its series. reports: SR data sets of its study.
    """

    image: Volume | Projection
    datasets: tuple[Dataset, ...]
    paths: tuple[Path, ...]
    root: Path | None
    patient_id: str
    study_uid: str
    series_uid: str
    modality: str
    contrast: str = ""
    part: str = ""
    reports: tuple[Dataset, ...] = ()

    @property
    def sop_uids(self) -> tuple[str, ...]:
        return tuple(str(ds.SOPInstanceUID) for ds in self.datasets)


class LabelSource(Protocol):
    """`of` gives the label or raises Rejected with what is missing. `unused`: sentences on what was never asked for.

    reads_reports: whether it needs `Example.reports`.
    """

    reads_reports: ClassVar[bool]

    def of(self, example: Example) -> Label: ...

    def unused(self) -> list[str]: ...


def parse(text: str, *, with_automatic: bool = False) -> LabelSource:
    """A source from its name on the command line. with_automatic: reports that no person took part in count, too.

    Raises:
        Rejected: no such source, an attribute that is unknown or identifies a person, or a table that cannot be read.
    """
    kind, _, detail = text.partition(":")
    makers: Mapping[str, Callable[[str], LabelSource]] = {
        "attribute": of_attribute,
        "csv": lambda path: of_table(Path(path)),
        "folder": lambda _: FolderName(),
        "sr": lambda concept: Reported(*_concept(concept), with_automatic),
    }
    if kind not in makers or (kind == "folder" and detail) or (kind in ("attribute", "csv") and not detail):
        raise Rejected(
            f"labels cannot come from {text!r}; give attribute:KEYWORD, csv:FILE, folder, sr or sr:CODE^SCHEME"
        )
    return makers[kind](detail)


# --- attributes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """path: keywords, the outer sequences first."""

    path: tuple[str, ...]
    reads_reports: ClassVar[bool] = False

    def of(self, example: Example) -> Label:
        found = {self._value(ds) for ds in example.datasets}
        name = ".".join(self.path)
        if len(found) > 1:
            raise Rejected(f"{name} has {len(found)} values within one image; take an attribute that all slices share")
        (value,) = found
        if not value:
            raise Rejected(f"{name} is absent or empty, so it is of no class; label it otherwise")
        return value

    def unused(self) -> list[str]:
        return []

    def _value(self, ds: Dataset) -> str:
        *outer, last = self.path
        for keyword in outer:
            items = ds.get(keyword)
            if not items:
                return ""
            ds = items[0]
        value = ds.get(last)
        if value is None:
            return ""
        return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value).strip()


def of_attribute(text: str) -> Attribute:
    """From keywords joined by dots. Raises Rejected as `parse` does."""
    path = tuple(text.split("."))
    for keyword in path:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise Rejected(f"{keyword!r} is no DICOM keyword; see PS3.6 for their spelling")
        if dictionary_VR(tag) in _IDENTIFYING_VRS or keyword in _IDENTIFYING:
            raise Rejected(f"{keyword} identifies a person or a visit, and labels stand in the data list; take another")
    return Attribute(path)


# --- tables -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """key: what `rows` are looked up by ("patient", "study", "series", "sop", "path"). home: of relative paths."""

    key: str
    rows: Mapping[str, str]
    home: Path
    name: str
    asked: set[str] = field(default_factory=set)
    reads_reports: ClassVar[bool] = False

    def of(self, example: Example) -> Label:
        if self.key == "sop":
            return self._of_slices(example)
        found = {self._looked_up(each) for each in self._names(example)}
        if len(found) > 1:
            raise Rejected(f"{self.name} has {len(found)} labels for files of one image; give it one")
        (label,) = found
        if not label:
            raise Rejected(f"{self.name} has no row for its {self.key}; add one")
        return label

    def unused(self) -> list[str]:
        left = len(self.rows.keys() - self.asked)
        return [f"{left} of {len(self.rows)} rows of {self.name} belong to no image that was taken"] if left else []

    def _of_slices(self, example: Example) -> Label:
        labels = [self._looked_up((uid,)) for uid in example.sop_uids]
        missing = labels.count("")
        if missing:
            raise Rejected(f"{self.name} has no row for {missing} of its {len(labels)} instances; add them")
        return labels[0] if isinstance(example.image, Projection) else tuple(labels)

    def _names(self, example: Example) -> list[tuple[str, ...]]:
        """For each file of the image the keys that a row may have for it, the closest first."""
        if self.key == "path":
            return [tuple(map(str, (path.resolve(), *path.resolve().parents))) for path in example.paths]
        return [({"patient": example.patient_id, "study": example.study_uid, "series": example.series_uid}[self.key],)]

    def _looked_up(self, names: Sequence[str]) -> str:
        for name in names:
            if name in self.rows:
                self.asked.add(name)
                return self.rows[name]
        return ""


def of_table(path: Path) -> Table:
    """From a CSV file with a header. Messages name rows by number: keys may be patients' IDs.

    Raises:
        Rejected: no such file, no `label` column, no key column or several, or a key with two labels.
    """
    if not path.is_file():
        raise Rejected(f"{path} does not exist; give a CSV file with labels")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            listed = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Rejected(f"{path.name} cannot be read as CSV in UTF-8 ({error}); save it as such") from error
    if not listed:
        raise Rejected(f"{path.name} has no rows below its header; give at least one label")
    key, column, label = _columns(path.name, list(listed[0]))
    rows: dict[str, str] = {}
    for number, row in enumerate(listed, start=2):
        name, value = (row[column] or "").strip(), (row[label] or "").strip()
        if not name or not value:
            raise Rejected(f"row {number} of {path.name} lacks its {key} or its label; fill it in, or take it out")
        if key == "path":
            name = str((path.parent / name).resolve())
        if rows.setdefault(name, value) != value:
            raise Rejected(f"row {number} of {path.name} gives another label than an earlier row; give one")
    return Table(key, rows, path.parent, path.name)


def _columns(name: str, header: Sequence[str]) -> tuple[str, str, str]:
    """(kind of key, its column, the column of labels)."""
    plain = {column: (column or "").strip().lower().replace("_", " ") for column in header}
    labels = [column for column, text in plain.items() if text == "label"]
    keys = [(key, column) for key, spelled in _KEYS.items() for column, text in plain.items() if text in spelled]
    if len(labels) != 1 or len(keys) != 1:
        raise Rejected(
            f"{name} has the columns {', '.join(map(str, header))}; it needs `label`, and one of patient, study, "
            "series, sop uid or path"
        )
    return *keys[0], labels[0]


# --- folders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FolderName:
    """The first folder below the path that was given: CLASS/anything/file.dcm."""

    reads_reports: ClassVar[bool] = False

    def of(self, example: Example) -> Label:
        root = example.root
        if root is None:
            raise Rejected("objects of the archive lie in no folders with names; take an attribute or a table")
        below = {path.relative_to(root).parts[:-1] for path in example.paths if path.is_relative_to(root)}
        names = {parts[0] if parts else "" for parts in below}
        if len(names) != 1 or names == {""}:
            raise Rejected(f"it does not lie in one folder below {root.name}; give the folder above the classes")
        return names.pop()

    def unused(self) -> list[str]:
        return []


# --- reports ------------------------------------------------------------------------------------------------------

# PS3.16: Observer Type and its values (TID 1002), and the concept that a group of measurements states (TID 1411).
_OBSERVER_TYPE, _PERSON, _DEVICE = ("121005", "DCM"), ("121006", "DCM"), ("121007", "DCM")
_FINDING = "121071^DCM"


@dataclass(frozen=True)
class Reported:
    """The value of a coded concept in an SR of the study, where that is about one of the image's instances.

    code, scheme: of the concept. What a group of content states is about the images that the group refers to, or about
    all images of the report where it refers to none.
    """

    code: str
    scheme: str
    with_automatic: bool = False
    reads_reports: ClassVar[bool] = True

    def of(self, example: Example) -> Label:
        own = set(example.sop_uids)
        found: set[str] = set()
        for report in example.reports:
            here = {value for value, about in self._stated(report, _evidence(report)) if not own.isdisjoint(about)}
            if here and not self.with_automatic and _is_by_program(report):
                raise Rejected(
                    f"SR {report.SOPInstanceUID} was written by a program alone, which is no truth to learn from; "
                    "allow that on purpose, or take another"
                )
            found |= here
        if len(found) != 1:
            held = ", ".join(sorted(found)) or "no value"
            raise Rejected(
                f"the reports of its study state {held} of ({self.code}, {self.scheme}) for it; one is needed"
            )
        return found.pop()

    def unused(self) -> list[str]:
        return []

    def _stated(self, node: Dataset, about: set[str]) -> Iterator[tuple[str, set[str]]]:
        """(meaning, SOP Instance UIDs that it is about) of each value of the concept below a content item."""
        for item in node.get("ContentSequence") or ():
            values = item.get("ConceptCodeSequence")
            if values and _code(item, "ConceptNameCodeSequence") == (self.code, self.scheme):
                yield str(values[0].get("CodeMeaning") or "").strip(), about
            yield from self._stated(item, _images(item) or about)


def _concept(text: str) -> tuple[str, str]:
    code, _, scheme = (text or _FINDING).partition("^")
    if not code or not scheme:
        raise Rejected(f"{text!r} is no coded concept; write CODE^SCHEME, such as {_FINDING}")
    return code, scheme


def _code(item: Dataset, keyword: str) -> tuple[str, str]:
    code = (item.get(keyword) or [{}])[0]
    return str(code.get("CodeValue") or ""), str(code.get("CodingSchemeDesignator") or "")


def _images(node: Dataset) -> set[str]:
    """SOP Instance UIDs that a content item and what is below it refer to."""
    own = {str(item.ReferencedSOPInstanceUID) for item in node.get("ReferencedSOPSequence") or ()}
    return own.union(*(_images(item) for item in node.get("ContentSequence") or ()))


def _evidence(report: Dataset) -> set[str]:
    """SOP Instance UIDs of Current Requested Procedure Evidence (0040,A375)."""
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    }


def _is_by_program(report: Dataset) -> bool:
    observers = {
        _code(item, "ConceptCodeSequence")
        for item in report.get("ContentSequence") or ()
        if _code(item, "ConceptNameCodeSequence") == _OBSERVER_TYPE
    }
    return _DEVICE in observers and _PERSON not in observers
