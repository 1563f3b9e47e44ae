"""Objects that hold a marker in every attribute that can hold a text, to see what of it is left."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator

from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_io.confidentiality.echoes import IDENTIFYING
from dicom_io.confidentiality.profile import row

MARKER = "ZQXJMARKER77"
MARKED_UID = "1.2.826.0.1.3680043.77424277.1963"
MARKED_DATE = "19630713"
MARKED_TIME = "031337"

_OF_VR = {
    **dict.fromkeys(("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), MARKER),
    **dict.fromkeys(("OB", "UN"), MARKER.encode()),
    "UI": MARKED_UID,
    "DA": MARKED_DATE,
    "DT": MARKED_DATE + MARKED_TIME,
    "TM": MARKED_TIME,
}
# These must be what they are for the object to be read at all.
_STRUCTURAL = {"SOPClassUID", "SpecificCharacterSet", "EncapsulatedDocument", "ContentSequence", "SpecimenLabelInImage"}


# Sequences that hold every attribute again: one that the table does not list, and some that it lists, with other
# actions.
_FULL = ("ReferencedSeriesSequence", "SourceImageSequence", "VerifyingObserverSequence", "GraphicAnnotationSequence")


def attributes(vrs: Collection[str] = _OF_VR) -> Iterator[tuple[int, str, str]]:
    """(tag, VR, keyword) of every attribute of the data dictionary with one of these VRs, retired ones included.

    Bytes (OB) can hold anything; of these only the attributes that the table lists.
    """
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 > 2 and vr in vrs and keyword and keyword not in _STRUCTURAL and (vr != "OB" or row(tag)):
            yield tag, vr, keyword


def marked(*, names: bool = True, deeper: int = 2) -> Dataset:
    """A data set with the marker everywhere, in private elements, in unknown ones, and in sequences that deep.

    names: also where it names somebody (VR PN and the attributes that `echoes` looks at).
    """
    ds = Dataset()
    for tag, vr, keyword in attributes():
        if names or not (vr == "PN" or keyword in IDENTIFYING):
            ds.add(DataElement(tag, vr, _OF_VR[vr], already_converted=vr != "PN"))
    ds.add(DataElement(0x00161234, "UN", MARKER.encode()))  # a standard tag that no dictionary knows
    ds.add(DataElement(0x60003000, "OB", MARKER.encode()))
    ds.add(DataElement(0x60004000, "LT", MARKER))
    ds.add(DataElement(0x50003000, "OB", MARKER.encode()))
    block = ds.private_block(0x0009, MARKER, create=True)
    for number, vr in enumerate(("LO", "UN", "UT", "OB", "UI", "DA", "SH"), 1):
        block.add_new(number, vr, _OF_VR[vr])
    own = ds.private_block(0x4D4D, "MIRALL", create=True)
    for number in (1, 2, 3, 4, 5, 6, 8, 9, 0x0A, 0x20):
        own.add_new(number, "UT", MARKER)
    if deeper:
        inner = marked(names=names, deeper=deeper - 1)
        block.add_new(0x30, "SQ", Sequence([inner]))
        for keyword in _FULL if deeper == 2 else _FULL[:1]:
            setattr(ds, keyword, [inner])
        few = _few(names)
        for tag, _, keyword in attributes({"SQ"}):
            if keyword not in _FULL:
                ds.add(DataElement(tag, "SQ", Sequence([few])))
    return ds


def _few(names: bool) -> Dataset:
    """What may stand in any sequence."""
    ds = Dataset()
    ds.SeriesDescription = ds.TextValue = ds.CodeMeaning = ds.CodeValue = MARKER
    if names:
        ds.PatientName = ds.PersonName = MARKER
    ds.ReferencedSOPInstanceUID, ds.StudyDate = MARKED_UID, MARKED_DATE
    return ds


def file_of(ds: Dataset) -> bytes:
    """As a file, with the marker in its preamble and file meta information, too."""
    ds.SOPClassUID = MRImageStorage
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = MARKED_UID
    ds.file_meta.SourceApplicationEntityTitle = MARKER
    ds.file_meta.ImplementationVersionName = MARKER
    ds.file_meta.PrivateInformationCreatorUID = MARKED_UID
    ds.file_meta.PrivateInformation = MARKER.encode()
    ds.preamble = MARKER.encode().ljust(128, b"\0")
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(raw: bytes) -> Dataset:
    return dcmread(io.BytesIO(raw))


def where(ds: Dataset, needle: str, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a text still stands: keywords from the outermost sequence to the attribute."""
    for element in ds:
        name = element.keyword or str(element.tag)
        if element.VR == "SQ":
            for item in element.value:
                yield from where(item, needle, (*path, name))
        elif needle in (element.value.decode("latin1") if isinstance(element.value, bytes) else str(element.value)):
            yield (*path, name)
