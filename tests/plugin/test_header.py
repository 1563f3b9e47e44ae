"""Headers as the index keeps them, beside what pydicom makes of the same files."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from dicom_objects import file_of, slice_of
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.sequence import Sequence

from plugin.archive import levels
from plugin.archive.received import inspect

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def check_as_pydicom_reads_it(path: Path) -> None:
    header, dataset = inspect(path).header, dcmread(path)
    for level in levels.KEYWORDS:
        attributes = levels.attributes(dataset, level)
        columns = header.columns(level)
        # Compared as stored: JSON knows no tuples, and one kind of number.
        assert orjson.loads(columns.attributes) == orjson.loads(orjson.dumps(attributes))
        assert orjson.loads(columns.search) == columns.searched == levels.search_text(attributes)
    for keyword in ("PatientID", "SOPInstanceUID", "Rows", "ImageType", "SyntheticData"):
        assert header.text(keyword) == levels.text(dataset, keyword)


@pytest.mark.parametrize("folder", ["transfer-syntaxes", "seg-sr", "mammo-dicom"])
def test_real_objects_in_every_encoding_are_read_as_by_pydicom(test_data, folder):
    paths = sorted((test_data / folder).rglob("*.dcm"))[:20]
    assert paths
    for path in paths:
        check_as_pydicom_reads_it(path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Ὅμηρος^山田=やまだ"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
        {"PatientComments": "x" * 300, "ImageType": ["DERIVED", "SECONDARY"], "PixelSpacing": [0.5, 0.25]},
    ],
)
def test_names_in_any_script_and_values_too_long_to_remember_are_read_as_by_pydicom(tmp_path, attributes):
    path = tmp_path / "a.dcm"
    for patient in ("P1", "P2"):  # the second finds what the first left behind
        path.write_bytes(file_of(slice_of("1.2.3", patient=patient, **attributes)))
        check_as_pydicom_reads_it(path)


def test_the_same_bytes_mean_something_else_in_another_character_set(tmp_path):
    names = {}
    for number, encoding in enumerate(("ISO_IR 100", "ISO_IR 126")):
        dataset = slice_of(f"1.2.{number}", SpecificCharacterSet=encoding)
        raw = file_of(dataset).replace(b"Phantom^One", b"Ph\xe4\xed\xf4om^1")
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(raw)
        names[encoding] = orjson.loads(inspect(path).header.columns("study").attributes)["00100010"]
        check_as_pydicom_reads_it(path)
    assert names["ISO_IR 100"] != names["ISO_IR 126"]


def test_a_sequence_is_read_with_and_without_a_length(tmp_path):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-04000", "SRT", "Breast"
    dataset = slice_of("1.2.3")
    dataset.ProcedureCodeSequence = Sequence([item])
    for number, undefined in enumerate((False, True)):
        dataset["ProcedureCodeSequence"].is_undefined_length = undefined
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(file_of(dataset))
        check_as_pydicom_reads_it(path)


def test_no_indexed_attribute_needs_another_one_to_be_read():
    """Values are parsed alone; one whose VR depends on the pixel representation could not be."""
    for keywords in levels.KEYWORDS.values():
        for keyword in keywords:
            tag = tag_for_keyword(keyword)
            assert tag is not None
            assert " or " not in dictionary_VR(tag), keyword
