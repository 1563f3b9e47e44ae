"""De-identification: nothing of a marker is left, what options keep is kept, and the object stays what it was."""

from __future__ import annotations

import io
import json
import re
import subprocess
from collections import Counter
from copy import deepcopy
from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from marked_objects import MARKED_DATE, MARKED_TIME, MARKED_UID, MARKER, file_of, marked, reread, where
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, MRImageStorage

from dicom_io import labels
from dicom_io.confidentiality.profile import Option, need, resolved, row, rows, safe_private
from dicom_io.confidentiality.protection import MACHINE_TEXT
from dicom_io.deidentify import Policy, deidentify, write
from dicom_io.errors import Rejected

KEY = bytes(range(32))
BASIC = Policy(KEY)
HEADER_OPTIONS = [one for one in Option if one not in (Option.CLEAN_PIXEL_DATA, Option.CLEAN_VISUAL_FEATURES)]


def policy(*options: Option, **more: object) -> Policy:
    return Policy(KEY, frozenset(options), **more)  # type: ignore[arg-type]


def encoded(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def full_of_markers() -> bytes:
    return file_of(marked())


@pytest.fixture(scope="module")
def flat_markers() -> bytes:
    """With a few attributes in each sequence."""
    return file_of(marked(deeper=1))


@pytest.fixture
def mr(make) -> Dataset:
    """A small MR image with what scanners write."""
    ds = make.series()[2]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "471147", "19600312", "F"
    ds.PatientAge, ds.PatientWeight = "059Y", "61.5"
    ds.StudyDate, ds.SeriesDate, ds.AcquisitionDate = "20190301", "20190301", "20190301"
    ds.StudyTime, ds.AcquisitionTime = "235501", "000312.25"
    ds.InstitutionName, ds.Manufacturer, ds.StationName = "St. Mary", "Siemens", "MR2"
    ds.SeriesDescription, ds.StudyDescription, ds.SequenceName = "t1_mprage_sag", "Brain - Dr. Smith", "*tfl3d1"
    return ds


# Nothing is left


def test_a_marker_in_every_attribute_of_the_dictionary_is_nowhere_in_the_bytes(full_of_markers):
    before = len(re.findall(MARKER.encode(), full_of_markers))
    assert before > 50_000
    new, _ = deidentify(reread(full_of_markers), BASIC)
    after = encoded(new)
    for marker in (MARKER, MARKED_UID, MARKED_DATE, MARKED_TIME):
        assert marker.encode() not in after, list(where(new, marker))[:5]
    assert after[:128] == bytes(128)
    assert {element.keyword for element in new.file_meta} == {
        *("FileMetaInformationVersion", "TransferSyntaxUID"),
        *("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID"),
        *("ImplementationClassUID", "ImplementationVersionName"),
    }


def test_where_nothing_names_somebody_only_code_strings_and_texts_of_machines_stay():
    new, _ = deidentify(reread(file_of(marked(names=False, deeper=1))), BASIC)
    left = {path[-1] for path in where(new, MARKER)}
    units = "(4D4D,100A)"  # of our own block: any unit may stand there
    others = {word for word in left - {units} if dictionary_VR(tag_for_keyword(word)) != "CS"}
    assert others == MACHINE_TEXT - {"CodeMeaning"}  # its scheme here is none that is public
    for marker in (MARKED_UID, MARKED_DATE, MARKED_TIME):
        assert not list(where(new, marker))


@pytest.mark.parametrize("option", HEADER_OPTIONS, ids=lambda option: option.name)
def test_each_option_keeps_markers_only_where_its_column_says_so(flat_markers, option):
    new, _ = deidentify(reread(flat_markers), policy(option))
    unlisted = {Option.RETAIN_FULL_DATES: {"DA", "DT", "TM"}, Option.RETAIN_UIDS: {"UI"}}.get(option, set())
    for marker in (MARKER, MARKED_UID, MARKED_DATE, MARKED_TIME):
        if marker == MARKED_TIME and option is Option.RETAIN_MODIFIED_DATES:
            continue  # Times of day stay when dates move by whole days.
        for keyword in {path[-1] for path in where(new, marker)}:
            entry = row(tag_for_keyword(keyword))
            vr = dictionary_VR(tag_for_keyword(keyword))
            assert entry.options.get(option) == "K" if entry else vr in unlisted, keyword


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        (Option.RETAIN_INSTITUTION_IDENTITY, {"InstitutionName", "InstitutionAddress"}),
        (Option.RETAIN_DEVICE_IDENTITY, {"StationName", "DeviceSerialNumber", "DetectorID"}),
        (Option.RETAIN_PATIENT_CHARACTERISTICS, {"EthnicGroup", "SmokingStatus", "PatientAge"}),
        (Option.RETAIN_UIDS, {"StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"}),
        (Option.RETAIN_FULL_DATES, {"StudyDate", "AcquisitionDateTime"}),
    ],
)
def test_each_option_does_keep_what_it_is_for(flat_markers, option, kept):
    new, _ = deidentify(reread(flat_markers), policy(option))
    original = reread(flat_markers)
    for keyword in kept:
        assert str(new[keyword].value) == str(original[keyword].value)


def test_a_name_in_a_text_that_a_machine_writes_goes_too(mr):
    mr.SequenceName, mr.ReceiveCoilName = "doe_jane_t1", "HeadNeck_20"
    new, _ = deidentify(mr, BASIC)
    assert "SequenceName" not in new
    assert new.ReceiveCoilName == "HeadNeck_20"


def test_the_given_object_stays_as_it_is(mr):
    before = encoded(mr)
    deidentify(mr, policy(Option.RETAIN_MODIFIED_DATES, Option.CLEAN_DESCRIPTORS))
    assert encoded(mr) == before


def test_the_same_input_gives_the_same_bytes_and_another_key_other_names(mr):
    assert encoded(deidentify(mr, BASIC)[0]) == encoded(deidentify(mr, BASIC)[0])
    other, _ = deidentify(mr, Policy(bytes(32)))
    one, _ = deidentify(mr, BASIC)
    assert one.PatientID != other.PatientID and one.SOPInstanceUID != other.SOPInstanceUID


# What the profile asks


def test_marks_say_what_was_done_and_keep_those_of_an_earlier_step(mr):
    mr.DeidentificationMethod = "by hand, at St. Mary"
    mr.DeidentificationMethodCodeSequence = [labels.code_item(Option.RETAIN_UIDS.code)]
    new, report = deidentify(mr, policy(Option.CLEAN_DESCRIPTORS))
    assert new.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in new.DeidentificationMethodCodeSequence]
    assert codes == ["113110", "113100", "113105"]
    assert "Mary" not in new.DeidentificationMethod and "2024b" in new.DeidentificationMethod
    assert report.options == ("113100", "113105")
    assert "BurnedInAnnotation" not in new
    (item,) = new.ContributingEquipmentSequence
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109104"


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "REMOVED"), ((Option.RETAIN_MODIFIED_DATES,), "MODIFIED"), ((Option.RETAIN_FULL_DATES,), "UNMODIFIED")],
)
def test_it_is_said_what_became_of_the_dates(mr, options, said):
    assert deidentify(mr, policy(*options))[0].LongitudinalTemporalInformationModified == said


def test_dates_that_were_moved_before_are_not_called_unmodified(mr):
    mr.LongitudinalTemporalInformationModified = "MODIFIED"
    new, _ = deidentify(mr, policy(Option.RETAIN_FULL_DATES))
    assert new.LongitudinalTemporalInformationModified == "MODIFIED"


def test_all_dates_of_a_patient_move_by_the_same_days_and_times_over_midnight_stay(mr, make):
    later = make.series()[0]
    later.PatientID, later.StudyDate, later.ContentDate = mr.PatientID, "20200229", "202002"
    later.AcquisitionDateTime = "20200301000312.5+0100"
    one, two = (deidentify(ds, policy(Option.RETAIN_MODIFIED_DATES))[0] for ds in (mr, later))

    def day(text: str) -> date:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))

    moved = day(one.StudyDate) - date(2019, 3, 1)
    assert -3650 <= moved.days <= -1
    assert day(two.StudyDate) - date(2020, 2, 29) == moved == day(two.AcquisitionDateTime) - date(2020, 3, 1)
    assert two.AcquisitionDateTime.endswith("000312.5+0100")
    assert (one.StudyTime, one.AcquisitionTime) == ("235501", "000312.25")
    assert two.get("ContentDate") in (None, "")  # "202002" is no date of VR DA, and is not guessed at
    assert not one.PatientBirthDate


def test_another_patients_dates_move_by_other_days(mr):
    shifts = set()
    for number in range(20):
        mr.PatientID = f"patient {number}"
        shifts.add(deidentify(mr, policy(Option.RETAIN_MODIFIED_DATES))[0].StudyDate)
    assert len(shifts) > 15


def test_a_date_with_the_range_of_one_day_moves_by_that_day(mr):
    new, _ = deidentify(mr, policy(Option.RETAIN_MODIFIED_DATES, shift_days=1))
    assert new.StudyDate == "20190228"


def test_references_hold_and_uids_of_the_standard_stay(make):
    one, two = make.series()[:2]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = two.SOPClassUID, two.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = two.SeriesInstanceUID, [reference]
    one.ReferencedSeriesSequence = [series]
    one.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach brain atlas
    first, second = (deidentify(ds, BASIC)[0] for ds in (one, two))
    inside = first.ReferencedSeriesSequence[0]
    assert inside.SeriesInstanceUID == second.SeriesInstanceUID == first.SeriesInstanceUID
    assert inside.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == second.SOPInstanceUID
    assert inside.ReferencedInstanceSequence[0].ReferencedSOPClassUID == MRImageStorage
    assert first.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert UID(first.SOPInstanceUID).is_valid and first.SOPInstanceUID.startswith("2.25.")


def test_text_stays_when_each_word_is_known_and_goes_whole_when_one_is_not(mr):
    new, _ = deidentify(mr, policy(Option.CLEAN_DESCRIPTORS))
    assert new.SeriesDescription == "t1_mprage_sag"
    assert "StudyDescription" not in new
    mr.PatientName = "Sag^Ada"
    assert "SeriesDescription" not in deidentify(mr, policy(Option.CLEAN_DESCRIPTORS))[0]


def test_what_is_measured_stays(mr):
    new, _ = deidentify(mr, BASIC)
    for keyword in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Modality"):
        assert new[keyword].value == mr[keyword].value
    assert (new.Manufacturer, new.SequenceName) == ("Siemens", "*tfl3d1")


def test_private_elements_of_the_standards_list_stay_only_with_the_option(mr):
    block = mr.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0.00123")
    block.add_new(0x10, "LO", "Jane Doe")
    assert not any(tag.is_private for tag in deidentify(mr, BASIC)[0])
    new, _ = deidentify(reread(encoded(mr)), policy(Option.RETAIN_SAFE_PRIVATE))
    kept = new.private_block(0x7053, "Philips PET Private Group")
    assert float(kept[0x00].value) == 0.00123
    assert 0x10 not in kept


def test_a_site_may_call_further_private_elements_safe(mr):
    mr.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    listed = frozenset({("SIEMENS MR HEADER", 0x0019, 0x0C)})
    new, _ = deidentify(mr, policy(Option.RETAIN_SAFE_PRIVATE, safe_private=listed - safe_private()))
    assert new.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 1000


def test_types_decide_between_removal_nothing_and_a_dummy():
    assert resolved(("X", "Z", "D"), "3") == "X"
    assert resolved(("X", "Z", "D"), "2") == "Z"
    assert resolved(("X", "Z", "D"), "1") == "D"
    assert resolved(("X", "Z", "D"), None) == "D"
    assert resolved(("X", "Z", "U*"), "3") == "X"
    assert resolved(("X", "Z", "U*"), "1") == "U"
    assert resolved(("X",), "1") == "D" and resolved(("X",), None) == "X"
    mammogram = "1.2.840.10008.5.1.4.1.1.1.2"
    assert need(mammogram, ("DetectorID",)) == "3" and need(mammogram, ("ContentDate",)) != "3"
    assert need("1.2.3", ("DetectorID",)) is None


def test_the_table_is_whole():
    assert len(rows()) == 621
    assert row(0x60023000).name == "Overlay Data" and row(0x50000010).name == "Curve Data" and row(0x00091001)
    assert all(set(entry.basic) <= {"X", "Z", "D", "U", "U*"} for entry in rows().values())


def test_the_report_holds_what_was_done_and_no_value(mr):
    _, report = deidentify(mr, policy(Option.CLEAN_DESCRIPTORS))
    done = {(one.keyword, one.action): one.count for one in report.done}
    assert done["PatientName", "replaced"] == 1 and done["StudyDescription", "removed"] == 1
    assert done["SeriesDescription", "cleaned"] == 1
    text = report.to_json()
    assert json.loads(text)["sop_class_uid"] == MRImageStorage
    assert not any(word in text for word in ("Jane", "471147", "St. Mary", "20190301", "2.25.772"))


# What is refused


def test_keys_and_options_that_do_not_fit_are_refused():
    for wrong in (
        lambda: Policy(b"short"),
        lambda: policy(Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES),
        lambda: policy(Option.CLEAN_PIXEL_DATA),
        lambda: policy(Option.CLEAN_VISUAL_FEATURES),
        lambda: policy(shift_days=0),
    ):
        with pytest.raises(Rejected):
            wrong()


def test_documents_directories_labels_of_slides_and_private_classes_are_refused(mr):
    for attribute, value, said in (
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.104.1", "0042,0011"),
        ("SOPClassUID", "1.2.840.113619.4.2", "SOP class"),
        ("SOPClassUID", "1.2.840.10008.1.3.10", "SOP class"),
        ("SpecimenLabelInImage", "YES", "label"),
    ):
        wrong = deepcopy(mr)
        setattr(wrong, attribute, value)
        with pytest.raises(Rejected, match=said):
            deidentify(wrong, BASIC)


def test_a_value_that_cannot_be_read_is_refused_with_its_tag(mr):
    raw = encoded(mr).replace(b"\x28\0\x10\0US\x02\0", b"\x28\0\x10\0US\x03\0")
    with pytest.raises(Rejected, match="cannot be read"):
        deidentify(dcmread(io.BytesIO(raw), force=True), BASIC)


def test_a_kept_value_that_cannot_be_encoded_is_refused_and_leaves_no_file(mr, tmp_path):
    new, _ = deidentify(mr, BASIC)
    new["Rows"].value = "many"
    with pytest.raises(Rejected, match="cannot be encoded"):
        write(new, tmp_path)
    assert not list(tmp_path.iterdir())


# Reports


@pytest.fixture
def report_of_findings(make) -> Dataset:
    images = make.series()
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    root = hd.sr.ContainerContentItem(hd.sr.CodedConcept("121070", "DCM", "Findings"))
    observer = hd.sr.CodedConcept("121008", "DCM", "Person Observer Name")
    items = [hd.sr.PnameContentItem(observer, "Smith^Ann", hd.sr.RelationshipTypeValues.HAS_OBS_CONTEXT)]
    for code, text in (("121071", "tumour of Mrs Doe"), ("121106", "left breast"), ("121999", "seen by Ann")):
        items.append(hd.sr.TextContentItem(hd.sr.CodedConcept(code, "DCM", "Some finding"), text, contains))
    root.ContentSequence = hd.sr.ContentSequence(items)
    for image in images:
        image.PatientName, image.PatientBirthDate, image.PatientSex = "Doe^Jane", "", ""
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "", "", "", ""
        image.ReferringPhysicianName = ""
    return hd.sr.ComprehensiveSR(
        evidence=images,
        content=root,
        series_number=7,
        series_instance_uid=make.uid(),
        sop_instance_uid=make.uid(),
        instance_number=1,
        manufacturer="Mirall",
    )


def test_a_report_is_refused_without_the_option_and_cleaned_with_it(report_of_findings):
    original = reread(encoded(report_of_findings))
    with pytest.raises(Rejected, match="113104"):
        deidentify(original, BASIC)
    new, _ = deidentify(original, policy(Option.CLEAN_STRUCTURED_CONTENT, Option.CLEAN_DESCRIPTORS))
    raw = encoded(new)
    assert not any(word in raw for word in (b"Smith", b"Doe", b"Ann"))
    texts = [item.TextValue for item in new.ContentSequence if item.ValueType == "TEXT"]
    # A finding (X/D) gets a dummy, a comment of known words stays, an unlisted text with a name gets a dummy.
    assert texts == ["ANONYMIZED", "left breast", "ANONYMIZED"]
    (evidence,) = new.CurrentRequestedProcedureEvidenceSequence
    references = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert all(item.ReferencedSOPInstanceUID.startswith("2.25.") for item in references)


def test_without_clean_descriptors_a_listed_comment_is_removed(report_of_findings):
    new, _ = deidentify(reread(encoded(report_of_findings)), policy(Option.CLEAN_STRUCTURED_CONTENT))
    assert "left breast" not in [item.get("TextValue") for item in new.ContentSequence]


# Graphics


def test_overlays_go_whole_also_those_in_unused_bits_of_pixels(mr):
    pixels = np.arange(mr.Rows * mr.Columns, dtype=np.uint16).reshape(mr.Rows, mr.Columns)
    mr.PixelRepresentation, mr.BitsStored, mr.HighBit = 0, 12, 11
    mr.PixelData = (pixels | 0x8000 * (pixels % 3 == 0)).astype(np.uint16).tobytes()
    mr.add_new(0x60000010, "US", mr.Rows)
    mr.add_new(0x60000100, "US", 16)
    mr.add_new(0x60000102, "US", 15)
    new, _ = deidentify(mr, BASIC)
    assert not any(element.tag.group == 0x6000 for element in new)
    np.testing.assert_array_equal(np.frombuffer(new.PixelData, np.uint16).reshape(pixels.shape), pixels)


# Other tools, real data

REAL = (
    "pet-fdg-raw/STS_001/FDG_PET/1-001.dcm",
    "pet-fdg-raw/STS_001/RTSTRUCT/1-1.dcm",
    "mr-breast-dce/UCSF-BR-06/image_dce_3dfgre_orig/1-001.dcm",
    "mr-t1-t2-pair/STS_001/MR_T1/1-11.dcm",
    "seg-sr/liver.dcm",
    "seg-sr/partial_overlaps.dcm",
    "seg-sr/highdicom/sr_document.dcm",
    "wsi-breast/CPTAC-BRCA_15BR001_level.dcm",
)
ALL = policy(*(option for option in HEADER_OPTIONS if option is not Option.RETAIN_FULL_DATES))


def errors_of(program: str, path: Path) -> Counter[str]:
    said = subprocess.run([program, "-new", path], capture_output=True, check=False)
    lines = (said.stderr + said.stdout).decode("latin1").splitlines()
    return Counter(re.sub(r"<[^<>/]*>|value = .*", "", line) for line in lines if line.startswith("Error"))


@pytest.mark.parametrize("name", REAL)
def test_dciodvfy_finds_no_error_that_the_original_does_not_have(test_data, needs, tmp_path, name):
    original = test_data / name
    for chosen in (policy(Option.CLEAN_STRUCTURED_CONTENT), ALL):
        new, _ = deidentify(dcmread(original), chosen)
        made = errors_of(needs("dciodvfy"), write(new, tmp_path)) - errors_of(needs("dciodvfy"), original)
        assert not made


@pytest.mark.parametrize("name", REAL)
def test_dcmdump_shows_nothing_that_names_the_patient(test_data, needs, tmp_path, name):
    original = dcmread(test_data / name)
    new, _ = deidentify(original, policy(Option.CLEAN_STRUCTURED_CONTENT, Option.CLEAN_DESCRIPTORS))
    path = write(new, tmp_path)
    shown = subprocess.run([needs("dcmdump"), "-q", "+L", path], capture_output=True, check=True).stdout.decode(
        "latin1"
    )
    keywords = ("PatientID", "PatientName", "AccessionNumber", "StudyDate", "InstitutionName", "StationName")
    keywords += (
        "StudyInstanceUID",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "ReferringPhysicianName",
    )
    for value in (str(original.get(keyword) or "") for keyword in keywords):
        if len(value) > 3:
            assert value not in shown


def test_the_transfer_syntax_and_the_encoded_pixels_stay(test_data, tmp_path):
    for path in sorted((test_data / "transfer-syntaxes").glob("*.dcm*")):
        original = dcmread(path)
        new = dcmread(write(deidentify(original, BASIC)[0], tmp_path))
        assert new.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert new.PixelData == original.PixelData
        assert new.PatientName != original.PatientName
