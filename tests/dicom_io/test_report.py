"""Reports: what was found, on which images and segments, by whom; as highdicom and DCMTK read it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL
from pydicom import Dataset, dcmread

from dicom_io import labels, measurements, report, segmentation, series
from dicom_io.errors import Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.report import ClassProbability, Region

Needs = Callable[[str], str]


def written(**changes: Any) -> tuple[Dataset, LabelRecord]:
    datasets = changes.get("sources", made.sources())
    arguments: dict[str, Any] = {
        "sources": datasets,
        "source_refs": made.references(datasets),
        "model": MODEL,
        "parameters": {"threshold": 0.41},
        "description": "tumour",
        "made_at": MADE_AT,
        "classes": [ClassProbability("tumour", 0.83, 0.41)],
    }
    return report.report(**{**arguments, **changes})


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


def as_highdicom_reads(made_object: tuple[Dataset, LabelRecord]) -> highdicom.sr.MeasurementReport:
    return highdicom.sr.srread(BytesIO(labels.encode(*made_object))).content


def values_of(group: Any) -> dict[tuple[str, str], tuple[float, str]]:
    """(measurement, derivation) -> (value, unit)."""
    return {
        (each.name.meaning, each.derivation.meaning if each.derivation else ""): (each.value, each.unit.value)
        for each in group.get_measurements()
    }


def test_highdicom_reads_the_probabilities_the_threshold_and_whether_they_are_calibrated() -> None:
    groups = as_highdicom_reads(made.reported()).get_image_measurement_groups()
    first, second = sorted(groups, key=lambda group: group.tracking_identifier == "a class with a long name")
    assert values_of(first) == {("Probability", ""): (0.83, "1"), ("Threshold Value", ""): (0.41, "1")}
    assert values_of(second)[("Probability", "")][0] == pytest.approx(1 / 3)
    calibrated = [group.get_qualitative_evaluations()[0].value.meaning for group in (first, second)]
    assert calibrated == ["Yes", "No"]
    assert first.finding_type.value == "108369006"
    assert (second.finding_type.scheme_designator, second.finding_type.meaning) == (
        "99MIRALL",
        "a class with a long name",
    )
    images = [len(group.source_images) for group in (first, second)]
    assert images == [6, 1]
    assert second.source_images[0].referenced_sop_instance_uid == "2.25.9902.3"


def test_highdicom_reads_what_was_measured_in_each_segment() -> None:
    datasets = made.sources()
    mask, uptake = made.mask(datasets), made.uptake(datasets)
    groups = as_highdicom_reads(made.reported()).get_volumetric_roi_measurement_groups()
    assert len(groups) == 2
    for number, group in enumerate(groups, start=1):
        chosen = uptake.voxels[mask.voxels == number].astype(float)
        volume_ml = chosen.size * 3.5 * 1.25 * 0.8 / 1000
        found = values_of(group)
        assert found[("Volume", "")] == (pytest.approx(volume_ml), "ml")
        assert found[("Metabolic Volume", "")] == (pytest.approx(volume_ml), "ml")
        assert found[("SUVbw", "Maximum")] == (pytest.approx(chosen.max()), "g/ml{SUVbw}")
        assert found[("SUVbw", "Mean")] == (pytest.approx(chosen.mean()), "g/ml{SUVbw}")
        assert found[("Total Lesion Glycolysis", "")] == (pytest.approx(chosen.mean() * volume_ml), "g")
        assert found[("Number of lesions (observable entity)", "")][0] == 2
        segment = group.referenced_segment
        assert segment.referenced_segment_numbers in (number, [number])
        assert segment.referenced_sop_instance_uid == made.seg()[1].sop_instance_uid


def test_no_uptake_is_reported_where_there_is_none() -> None:
    mask = made.mask(made.sources())
    made_object = written(
        classes=(), regions=[Region(1, measurements.measure(mask, mask, 1))], segmentation=made.seg()[0]
    )
    [group] = as_highdicom_reads(made_object).get_volumetric_roi_measurement_groups()
    assert {name for name, _ in values_of(group)} == {"Volume", "Number of lesions (observable entity)"}
    assert decoded(made_object).ConceptNameCodeSequence[0].CodeValue == "126001"


def test_the_observer_is_the_model_version_as_a_device() -> None:
    ds = decoded(made.reported())
    texts = {item.ConceptNameCodeSequence[0].CodeValue: item for item in ds.ContentSequence}
    assert MODEL.device_uid == texts["121012"].UID
    assert (texts["121014"].TextValue, texts["121015"].TextValue) == ("Mirall", "lesion-finder")
    assert texts["121106"].TextValue == "AI - research only - lesion-finder:2.1.0"
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


def test_containers_are_separate_and_the_title_is_one_that_viewers_show_as_text() -> None:
    ds = decoded(made.reported())
    assert ds.ConceptNameCodeSequence[0].CodeValue == "126003"
    waiting, containers = [ds], 0
    while waiting:
        item = waiting.pop()
        if item.ValueType == "CONTAINER":
            containers += 1
            assert item.ContinuityOfContent == "SEPARATE"
        waiting += item.get("ContentSequence") or []
    assert containers == 6


def test_a_report_of_synthetic_images_is_synthetic_and_says_so_in_its_text() -> None:
    ds = decoded(made.reported(synthetic=True, out_of_domain=True))
    assert ds.SyntheticData == "YES" and ds.SeriesDescription.startswith("SYNTHETIC AI OUT OF DOMAIN")
    comment = "SYNTHETIC - AI - research only - lesion-finder:2.1.0 - OUT OF DOMAIN"
    assert comment in [item.get("TextValue") for item in ds.ContentSequence]


def test_images_and_seg_are_evidence_each_once() -> None:
    made_object = made.reported()
    [study] = decoded(made_object).CurrentRequestedProcedureEvidenceSequence
    named = [
        item.ReferencedSOPInstanceUID for one in study.ReferencedSeriesSequence for item in one.ReferencedSOPSequence
    ]
    assert len(named) == 7 and set(named) == set(made_object[1].source_uids)
    assert made.seg()[1].sop_instance_uid in named


def test_frames_of_a_multi_frame_image_are_named() -> None:
    datasets = made.frames()
    made_object = written(
        sources=datasets,
        source_refs=made.frame_references(datasets),
        classes=[ClassProbability("tumour", 0.8), ClassProbability("necrosis", 0.2, images=(0, 3))],
    )
    groups = as_highdicom_reads(made_object).get_image_measurement_groups()
    frames = {group.tracking_identifier: group.source_images[0].referenced_frame_numbers for group in groups}
    assert frames == {"tumour": [2, 4, 6, 8, 10, 12], "necrosis 0 3": [6, 12]}
    assert all(len(group.source_images) == 1 for group in groups)
    assert made_object[1].source_frames == ((2, 4, 6, 8, 10, 12),)


def test_the_same_input_gives_the_same_bytes_and_other_numbers_another_report() -> None:
    assert labels.encode(*made.reported()) == labels.encode(*made.reported())
    others = [
        written(),
        written(classes=[ClassProbability("tumour", 0.84, 0.41)]),
        written(classes=[ClassProbability("tumour", 0.83, 0.41, True)]),
        written(parameters={}),
    ]
    assert len({record.sop_instance_uid for _, record in others}) == 4
    assert written(made_at=datetime(2031, 1, 1))[1].sop_instance_uid == others[0][1].sop_instance_uid


@pytest.mark.parametrize("found", [ClassProbability("tumour", 1.2), ClassProbability("tumour", 0.5, -0.1)])
def test_what_is_no_probability_is_refused(found: ClassProbability) -> None:
    with pytest.raises(Rejected, match=r"of tumour is .* none from 0 to 1"):
        written(classes=[found])


def test_what_cannot_be_reported_is_refused() -> None:
    measured = measurements.measure(made.mask(made.sources()), made.mask(made.sources()))
    with pytest.raises(ValueError, match="says nothing"):
        written(classes=())
    with pytest.raises(ValueError, match="segments of a SEG"):
        written(regions=[Region(1, measured)])
    with pytest.raises(Rejected, match=r"describes the segments \[1, 2\], not 3"):
        written(regions=[Region(3, measured)], segmentation=made.seg()[0])
    elsewhere = made.seg()[0]
    elsewhere.StudyInstanceUID = "2.25.1"
    with pytest.raises(Rejected, match="studies"):
        written(regions=[Region(1, measured)], segmentation=elsewhere)


def test_dcmtk_reads_the_whole_report(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(labels.encode(*made.reported()))
    said = subprocess.run([needs("dsrdump"), "+Pc", str(path)], capture_output=True, text=True, check=True)
    assert said.stderr.replace("W: The VR checker does not support this Specific Character Set: ISO_IR 192\n", "") == ""
    for words in ('"PET Measurement Report"', "Total Lesion Glycolysis", "Referenced Segment", "Algorithm Version"):
        assert words in said.stdout


def test_the_validator_finds_no_error(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "report.dcm"
    for made_object in (made.reported(), made.reported(synthetic=True, out_of_domain=True), written()):
        path.write_bytes(labels.encode(*made_object))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_real_pet_is_reported(test_data: Path, tmp_path: Path, needs: Needs) -> None:
    entry = series.volumes([test_data / "pet-fdg-raw" / "STS_001"]).volumes[0]
    mask = entry.volume.with_voxels((entry.volume.voxels > 4).astype(np.float32), units="1")
    seg, _ = segmentation.segmentation(
        mask,
        sources=entry.datasets,
        segments=made.SEGMENTS[:1],
        model=MODEL,
        parameters={"threshold": 4},
        description="hot",
        made_at=MADE_AT,
    )
    measured = measurements.measure(entry.volume, mask)
    made_object = written(
        sources=entry.datasets, source_refs=entry.volume.sources, regions=[Region(1, measured)], segmentation=seg
    )
    path = tmp_path / "report.dcm"
    path.write_bytes(labels.encode(*made_object))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
    [group] = as_highdicom_reads(made_object).get_volumetric_roi_measurement_groups()
    found = values_of(group)
    assert found[("SUVbw", "Maximum")][0] == pytest.approx(float(entry.volume.voxels.max()), rel=1e-6)
    assert 0 < found[("SUVbw", "Peak Value Within ROI")][0] <= found[("SUVbw", "Maximum")][0]


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_real_mammogram_is_reported(test_data: Path, tmp_path: Path, needs: Needs) -> None:
    [entry] = series.volumes([test_data / "mammo-dicom"]).projections
    assert entry.projection.source is not None
    found = [ClassProbability("mass", 0.7, 0.5, finding=segmentation.MASS)]
    path = tmp_path / "report.dcm"
    made_object = written(sources=[entry.dataset], source_refs=[entry.projection.source], classes=found)
    path.write_bytes(labels.encode(*made_object))
    # Its birth date is no date; who the patient is is copied as it stands.
    assert [line for line in made.errors_of_dciodvfy(needs("dciodvfy"), path) if "PatientBirthDate" not in line] == []
