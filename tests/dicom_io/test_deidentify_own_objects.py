"""What a model made still says so when it was de-identified."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import made_results as made
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_io import labels, pixels
from dicom_io.confidentiality.profile import Option
from dicom_io.deidentify import Policy, deidentify
from dicom_io.provenance import FICTITIOUS_PATIENT_PREFIX, LabelRecord

KEY = bytes(range(32))
POLICY = Policy(KEY, frozenset({Option.CLEAN_STRUCTURED_CONTENT}), on_burned_in="blank")
KINDS: dict[str, Callable[[], tuple[Dataset, LabelRecord]]] = {
    "generated": lambda: made.generated()[0],
    "generated-from-real": made.from_real,
    "segmentation": lambda: made.seg(synthetic=True),
    "parametric-map": lambda: made.probability(synthetic=True),
    "report": lambda: made.reported(synthetic=True),
    "capture": lambda: made.capture(synthetic=True),
}


@pytest.fixture(params=KINDS)
def result(request) -> tuple[Dataset, LabelRecord]:
    dataset, record = KINDS[request.param]()
    return dcmread(BytesIO(labels.encode(dataset, record))), record


def test_the_flag_the_equipment_and_our_private_block_survive(result):
    original, record = result
    new, _ = deidentify(original, POLICY)
    assert new.SyntheticData == "YES" and new.ContentQualification == original.ContentQualification
    purposes = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in new.ContributingEquipmentSequence]
    before = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in original.ContributingEquipmentSequence]
    assert purposes == [*before, "109104"]
    ours, was = new.ContributingEquipmentSequence[-2], original.ContributingEquipmentSequence[-1]
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
        assert ours[keyword].value == was[keyword].value
    assert ours.DeviceUID.startswith("2.25.") and ours.DeviceUID != was.DeviceUID
    block = new.private_block(labels.PRIVATE_GROUP, labels.PRIVATE_CREATOR)
    for element in original.group_dataset(labels.PRIVATE_GROUP):
        if element.tag.element >= 0x1000:
            assert str(block[element.tag.element & 0xFF].value) == str(element.value), element
    assert block[3].value == record.model.content_hash


def test_the_visible_mark_is_no_text_that_is_made_black():
    for kind in ("generated", "capture"):
        original, _ = KINDS[kind]()
        rows = labels.mark_rows(original)
        new, _ = deidentify(original, POLICY)
        np.testing.assert_array_equal(
            np.atleast_3d(pixels.stored(new, 0))[-rows:], np.atleast_3d(pixels.stored(original, 0))[-rows:]
        )


def test_a_fictitious_patient_can_still_be_told_from_a_real_one():
    original, _ = made.generated()[0]
    new, _ = deidentify(original, POLICY)
    assert new.PatientID.startswith(FICTITIOUS_PATIENT_PREFIX) and new.PatientID != original.PatientID


def test_uids_in_the_parameters_of_our_block_are_mapped():
    original, _ = made.capture()
    uid = str(original.StudyInstanceUID) + ".11111.22222.33333.4444"
    block = original.private_block(labels.PRIVATE_GROUP, labels.PRIVATE_CREATOR)
    block[9].value = f'{{"of": "{uid}", "threshold": 0.4}}'
    new, _ = deidentify(original, POLICY)
    parameters = str(new.private_block(labels.PRIVATE_GROUP, labels.PRIVATE_CREATOR)[9].value)
    assert uid not in parameters
    assert parameters.startswith('{"of": "2.25.') and parameters.endswith('"threshold": 0.4}')


def test_a_segmentation_keeps_the_references_of_its_frames():
    original, _ = made.seg()
    new, _ = deidentify(original, POLICY)
    frame = new.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    series = new.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert frame.ReferencedSOPInstanceUID in {item.ReferencedSOPInstanceUID for item in series}
