"""DICOM files in, labelled DICOM files out: places, pixels, names and marks of what is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import oblique_studies as toy
import pytest
import torch
from highdicom.sr import srread
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from scipy import ndimage

from dicom_io import labels, nifti, parametric_map, picture, secondary_capture, segmentation, series
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Projection
from models import cases as training_cases
from models import generator, predictor
from plugin import drawing, encodings, outputs, pipeline
from plugin.model_input import Case, cases
from plugin.outputs import Made
from plugin.settings import Profile

AT, LATER = datetime(2026, 3, 4, 5, 6, 7), datetime(2026, 9, 8, 7, 6, 5)
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"
NEW = 50  # a patient of no cohort
LONG = (70, *toy.SHAPE[1:])


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> list[Path]:
    """T1 and FLAIR of a new patient."""
    return toy.write(tmp_path_factory.mktemp("head"), toy.mr("T1", NEW), toy.mr("FLAIR", NEW))


@pytest.fixture(scope="module")
def segmented(head, head_segmenter, tmp_path_factory) -> list[Made]:
    return pipeline.predict(head, head_segmenter.folder, tmp_path_factory.mktemp("segmented"), made_at=AT)


@pytest.fixture(scope="module")
def long_pet(tmp_path_factory) -> list[Path]:
    """70 slices, more than one capture holds and longer than the card allows."""
    return toy.write(tmp_path_factory.mktemp("long"), toy.pet(NEW, shape=LONG))


@pytest.fixture(scope="module")
def forced(long_pet, slice_classifier, tmp_path_factory) -> list[Made]:
    out = tmp_path_factory.mktemp("forced")
    return pipeline.predict(long_pet, slice_classifier.folder, out, made_at=AT, force=True)


def input_of(files: Sequence[Path], model: predictor.Classifier | predictor.Segmenter) -> Case:
    (case,) = cases(series.volumes(files), model.channels)
    return case


def object_of(made: Sequence[Made], sop_class: str) -> Dataset:
    (found,) = (dcmread(each.path) for each in made if each.record.sop_class_uid == sop_class)
    return found


def names(made: Sequence[Made]) -> list[tuple[str, str]]:
    return [(each.record.series_instance_uid, each.record.sop_instance_uid) for each in made]


# What is written


def test_a_segmenter_gives_a_seg_and_a_capture_that_carry_the_labels_of_their_records(segmented):
    assert [each.record.sop_class_uid for each in segmented] == [SEG, TRUE_COLOUR]
    for each in segmented:
        labels.check(each.path.read_bytes(), each.record)
        assert LabelRecord.from_json(each.path.with_suffix(".record.json").read_text()) == each.record
        assert each.path.name == f"{each.record.sop_instance_uid}.dcm"
        assert not each.record.is_synthetic and not each.record.out_of_domain


def test_the_seg_says_for_each_place_in_the_patient_what_the_model_said(segmented, head, head_segmenter):
    model = predictor.load(head_segmenter.folder)
    case = input_of(head, model)
    said = model.predict(case.image).mask.voxels
    assert 20 < said.sum() < 0.2 * said.size
    seg = object_of(segmented, SEG)
    np.testing.assert_array_equal(segmentation.read(seg, case.image).voxels, said)
    # By hand, without our reader: the frame at the position of each slice.
    by_place = {
        tuple(map(float, ds.ImagePositionPatient)): plane for ds, plane in zip(case.datasets, said, strict=True)
    }
    frames = np.atleast_3d(seg.pixel_array)
    seen = 0
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        (plane,) = (plane for where, plane in by_place.items() if np.abs(place - where).max() < 1e-4)
        np.testing.assert_array_equal(frame, plane)
        seen += int(frame.sum())
    assert seen == said.sum()


def test_the_finding_is_the_volume_of_the_mask(segmented, head, head_segmenter):
    model = predictor.load(head_segmenter.folder)
    voxels = (model.predict(input_of(head, model).image).mask.voxels > 0).sum()
    millilitres = voxels * 3.3 * 2.1 * 1.7 / 1000
    assert {each.finding for each in segmented} == {f"{millilitres:.1f} ml of lesion"}


def test_results_lie_on_the_last_channel_and_name_the_others(segmented):
    t1, flair = ([toy.uid(NEW, "", name, number) for number in range(6, 0, -1)] for name in ("T1", "FLAIR"))
    seg, capture = object_of(segmented, SEG), object_of(segmented, TRUE_COLOUR)
    for each in segmented:
        assert each.record.source_uids == (*flair, *t1)
    for each in (seg, capture):
        assert each.StudyInstanceUID == toy.uid(NEW, "", "study")
        assert each.PatientID == f"PAT-{NEW}"
        held = {
            str(item.ReferencedSOPInstanceUID)
            for one in each.ReferencedSeriesSequence
            for item in one.ReferencedInstanceSequence
        }
        assert held == {*t1, *flair}
    assert seg.FrameOfReferenceUID == toy.uid(NEW, "", "frame of reference")
    shown = {
        str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        for group in seg.PerFrameFunctionalGroupsSequence
    }
    assert shown <= set(flair)


def test_the_capture_shows_the_last_channel_as_it_is_and_the_mask_outlined(segmented, head, head_segmenter):
    model = predictor.load(head_segmenter.folder)
    case = input_of(head, model)
    mask = model.predict(case.image).mask.voxels > 0
    frames = secondary_capture.read_back(object_of(segmented, TRUE_COLOUR))
    zoom = drawing.SHOWN_PX // toy.SHAPE[2]
    assert frames.shape == (toy.SHAPE[0], toy.SHAPE[1] * zoom, toy.SHAPE[2] * zoom, 3)
    small = frames[:, ::zoom, ::zoom].astype(int)  # top left pixel of each block
    low, high = np.percentile(case.image.voxels[1], drawing.PERCENTILES)
    gray = np.rint(255 * np.clip((case.image.voxels[1] - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(small[~mask], np.repeat(gray[..., None], 3, -1)[~mask])
    edge = (small == picture.PALETTE[0]).all(-1)
    assert edge.any() and not (edge & ~mask).any()
    # Left of the first column of a mask there is none: the outline is drawn there.
    first = mask & ~np.roll(mask, 1, axis=2)
    assert edge[first].all()


def test_each_frame_of_the_overlay_lies_where_its_slice_lies_in_smaller_pixels(segmented):
    capture = object_of(segmented, TRUE_COLOUR)
    zoom = drawing.SHOWN_PX // toy.SHAPE[2]
    groups = capture.PerFrameFunctionalGroupsSequence
    assert len(groups) == toy.SHAPE[0]
    shared = capture.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(step) for step in shared.PixelSpacing] == pytest.approx([2.1 / zoom, 1.7 / zoom])
    for number, group in enumerate(groups):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        assert (place - toy.ORIGIN_MM) @ toy.AXES[:, 2] == pytest.approx(3.3 * number, abs=1e-3)


# Numbers beside pictures


@pytest.fixture(scope="module")
def in_numbers(head, head_segmenter, tmp_path_factory) -> list[Made]:
    out, asked = tmp_path_factory.mktemp("numbers"), encodings.DEFAULT | {"report", "map"}
    return pipeline.predict(head, head_segmenter.folder, out, made_at=AT, encodings=asked)


def test_a_report_and_a_map_come_beside_the_same_seg_and_captures(in_numbers, segmented):
    assert [each.encoding for each in in_numbers] == ["binary", "report", "map", "multi-frame"]
    assert [each for each in names(in_numbers) if each in names(segmented)] == names(segmented)
    assert {each.finding for each in in_numbers} == {segmented[0].finding}
    for each in in_numbers:
        labels.check(each.path.read_bytes(), each.record)


def test_the_report_measures_the_segments_of_the_seg_that_it_refers_to(in_numbers, head, head_segmenter):
    model = predictor.load(head_segmenter.folder)
    mask = model.predict(input_of(head, model).image).mask
    [path] = [each.path for each in in_numbers if each.encoding == "report"]
    [group] = srread(path).content.get_volumetric_roi_measurement_groups()
    numbers = {each.name.meaning: each.value for each in group.get_measurements()}
    assert numbers["Volume"] == pytest.approx(float((mask.voxels > 0).sum()) * 3.3 * 2.1 * 1.7 / 1000, rel=1e-4)
    assert numbers[codes.SCT.NumberOfLesions.meaning] == ndimage.label(mask.voxels, np.ones((3, 3, 3)))[1]
    assert group.referenced_segment.referenced_sop_instance_uid == object_of(in_numbers, SEG).SOPInstanceUID


def test_each_report_refers_to_the_seg_of_its_own_profile(head, head_segmenter, tmp_path):
    asked = encodings.needed([Profile(segmentation="labelmap", reports=True), Profile(reports=True)])
    made = {
        each.encoding: dcmread(each.path)
        for each in pipeline.predict(head, head_segmenter.folder, tmp_path, made_at=AT, encodings=asked)
    }
    for seg, told in (("binary", "report"), ("labelmap", "report on labelmap")):
        held = {
            str(item.ReferencedSOPInstanceUID)
            for study in made[told].CurrentRequestedProcedureEvidenceSequence
            for one in study.ReferencedSeriesSequence
            for item in one.ReferencedSOPSequence
        }
        assert made[seg].SOPInstanceUID in held
        assert made["labelmap" if seg == "binary" else "binary"].SOPInstanceUID not in held


def test_what_is_measured_has_the_units_of_the_channel_that_is_measured(head, head_segmenter):
    """A volume of several channels says the units of its first."""
    model = predictor.load(head_segmenter.folder)
    case = input_of(head, model)
    assert drawing.last_units(model, replace(case.image, units="g/ml{SUVbw}")) == model.channels[-1].units == "1"


def test_the_map_is_the_probability_where_the_slices_lie(in_numbers, head, head_segmenter):
    model = predictor.load(head_segmenter.folder)
    case = input_of(head, model)
    [path] = [each.path for each in in_numbers if each.encoding == "map"]
    read = parametric_map.read(dcmread(path), case.image)
    np.testing.assert_array_equal(read.voxels, model.predict(case.image).probability.voxels)


def test_a_classifier_reports_on_the_study_and_on_its_most_suspicious_slice(long_pet, slice_classifier, tmp_path):
    asked = encodings.DEFAULT | {"report", "map"}
    made = pipeline.predict(long_pet, slice_classifier.folder, tmp_path, made_at=AT, force=True, encodings=asked)
    model = predictor.load(slice_classifier.folder)
    case = input_of(long_pet, model)
    found = model.predict(case.image)
    [path] = [each.path for each in made if each.encoding == "report"]
    whole, group = srread(path).content.get_image_measurement_groups()
    reading = model.description.study
    chance = reading.probability(found.suspicions)
    numbers = {each.name.meaning: each.value for each in whole.get_measurements()}
    assert numbers == pytest.approx({"Probability": chance, "Threshold Value": reading.threshold}, abs=1e-6)
    assert whole.finding_type.meaning == "lesion in the study"
    assert len(whole.source_images) == len(case.datasets)
    told = f"study: lesion {chance:.2f} (threshold {reading.threshold:.2f}), the highest of its pictures"
    assert all(told in each.finding for each in made)
    numbers = {each.name.meaning: each for each in group.get_measurements()}
    assert numbers["Probability"].value == pytest.approx(found.probabilities[:, 1].max(), abs=1e-6)
    assert numbers["Probability"].derivation == codes.SCT.Maximum
    assert numbers["Threshold Value"].value == pytest.approx(found.threshold)
    [image] = group.source_images
    assert image.referenced_sop_instance_uid == case.datasets[found.probabilities[:, 1].argmax()].SOPInstanceUID
    [calibrated] = group.get_qualitative_evaluations()
    assert calibrated.value.meaning == "Yes"


@pytest.fixture(scope="module")
def salient(long_pet, slice_classifier, tmp_path_factory) -> list[Made]:
    asked = {"saliency", "saliency, single-frame", "saliency, multi-frame"}
    out = tmp_path_factory.mktemp("salient")
    return pipeline.predict(long_pet, slice_classifier.folder, out, made_at=AT, force=True, encodings=asked)


def test_a_map_of_saliency_lies_on_the_slices_that_it_is_of(salient, long_pet, slice_classifier):
    model = predictor.load(slice_classifier.folder)
    case = input_of(long_pet, model)
    [told] = [each for each in salient if each.encoding == "saliency"]
    labels.check(told.path.read_bytes(), told.record)
    dataset = dcmread(told.path)
    np.testing.assert_array_equal(parametric_map.read(dataset, case.image).voxels, model.saliency(case.image))
    mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert "Saliency" in str(mapping)
    assert '"saliency":"grad-cam"' in told.record.parameters


def test_captures_of_a_saliency_are_the_pictures_under_their_maps(salient, long_pet, slice_classifier):
    model = predictor.load(slice_classifier.folder)
    case = input_of(long_pet, model)
    values = model.saliency(case.image)
    assert values.max() > 0
    many = [dcmread(each.path) for each in salient if each.encoding == "saliency, multi-frame"]
    frames = np.concatenate([secondary_capture.read_back(dataset) for dataset in many])
    single = [dcmread(each.path) for each in salient if each.encoding == "saliency, single-frame"]
    assert len(frames) == len(single) == len(values) == 70
    zoom, height = drawing.SHOWN_PX // toy.SHAPE[2], toy.SHAPE[1]
    gray = picture.window(case.image.voxels[0], 0, 7)
    for frame, plane, value in zip(frames, gray, values, strict=True):
        drawn = picture.heat(picture.rgb(plane), value / values.max())
        np.testing.assert_array_equal(frame[: height * zoom : zoom, ::zoom], drawn)


def test_of_mammograms_saliency_is_captures_alone(view_classifier, tmp_path):
    files = toy.write(tmp_path / "in", [toy.mammogram(NEW, "L", "CC", ill=True)])
    asked = {"saliency", "saliency, multi-frame"}
    [made] = pipeline.predict(files, view_classifier.folder, tmp_path / "out", made_at=AT, encodings=asked)
    assert made.encoding == "saliency, multi-frame"
    labels.check(made.path.read_bytes(), made.record)
    (frame,) = secondary_capture.read_back(dcmread(made.path))
    model = predictor.load(view_classifier.folder)
    case = input_of(files, model)
    thinned = case.image.pixels[::2, ::2]
    value = model.saliency(case.image)[0, ::2, ::2]
    value /= max(value.max(), 1e-12)
    gray = picture.window(thinned, *np.percentile(thinned, drawing.PERCENTILES))
    np.testing.assert_array_equal(
        frame[: len(thinned)], picture.heat(picture.rgb(gray), value / max(value.max(), 1e-12))
    )


def test_what_a_segment_is_called_says_what_it_is():
    segments = outputs.segments_of(("background", "tumour", "mass", "oedema"))
    assert [(segment.number, segment.label) for segment in segments] == [(1, "tumour"), (2, "mass"), (3, "oedema")]
    assert [segment.property_type for segment in segments] == [
        segmentation.NEOPLASM,
        segmentation.MASS,
        segmentation.LESION,
    ]
    assert len({segment.colour for segment in segments}) == 3


# Names and repeats


def test_a_repeat_gives_the_same_names_whenever_it_runs_and_the_same_bytes_at_the_same_time(
    segmented, head, head_segmenter, tmp_path
):
    again = pipeline.predict(head, head_segmenter.folder, tmp_path / "again", made_at=AT)
    assert [each.path.read_bytes() for each in again] == [each.path.read_bytes() for each in segmented]
    later = pipeline.predict(head, head_segmenter.folder, tmp_path / "later", made_at=LATER)
    assert names(later) == names(segmented)
    assert object_of(later, SEG).ContentDate == "20260908"


def test_a_pixel_changed_in_another_channel_than_the_last_gives_new_names(head, segmented, head_segmenter, tmp_path):
    t1 = toy.mr("T1", NEW)
    pixels = bytearray(t1[2].PixelData)
    pixels[0] ^= 1
    t1[2].PixelData = bytes(pixels)
    files = toy.write(tmp_path / "in", t1, toy.mr("FLAIR", NEW))
    changed = pipeline.predict(files, head_segmenter.folder, tmp_path / "out", made_at=AT)
    for old, new in zip(names(segmented), names(changed), strict=True):
        assert old[0] != new[0] and old[1] != new[1]


# The model's card


def test_an_input_outside_the_card_is_refused_and_leaves_nothing(long_pet, slice_classifier, tmp_path):
    with pytest.raises(OutOfDomain, match=r"70 slices of 3\.30 mm between slices covering 231 mm; the card of toy-sli"):
        pipeline.predict(long_pet, slice_classifier.folder, tmp_path / "out", made_at=AT)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(("said", "refused"), [("KNEE", True), ("HEAD", False), ("Head ", False), ("", False)])
def test_another_body_part_than_the_card_names_is_refused(head_segmenter, tmp_path, said, refused):
    folder = tmp_path / "version"
    shutil.copytree(head_segmenter.folder, folder)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["mirall"]["domain"]["body_parts"] = ["BRAIN", "HEAD"]
    path.write_text(json.dumps(metadata))
    images = [*toy.mr("T1", NEW), *toy.mr("FLAIR", NEW)]
    for image in images:
        image.BodyPartExamined = said
    files = toy.write(tmp_path / "in", images)
    if refused:
        with pytest.raises(OutOfDomain, match=r"is of body part KNEE; the card of .* says BRAIN, HEAD; choose another"):
            pipeline.predict(files, folder, tmp_path / "out", made_at=AT)
    made = pipeline.predict(files, folder, tmp_path / "out", made_at=AT, force=refused)
    assert {each.record.out_of_domain for each in made} == {refused}


@pytest.mark.parametrize("order", [min, max])
def test_an_input_outside_the_card_is_left_out_and_the_findings_say_so(slice_classifier, tmp_path, order):
    # Series are read in the order of their UIDs: the one that is refused comes first, or last.
    name = order("abcdefgh", key=lambda name: toy.uid(NEW, "", name))
    short = toy.pet(NEW)
    files = toy.write(tmp_path / "in", short, toy.pet(NEW, shape=LONG, name=name))
    both = cases(series.volumes(files), predictor.load(slice_classifier.folder).channels)
    assert [case.image.spatial_shape[0] for case in both] == ([6, 70] if order is max else [70, 6])
    told: list[dict] = []
    made = pipeline.predict(
        files,
        slice_classifier.folder,
        tmp_path / "out",
        made_at=AT,
        progress=lambda state: told.append(dict(state)),
    )
    alone = pipeline.predict(
        toy.write(tmp_path / "alone", short), slice_classifier.folder, tmp_path / "out alone", made_at=AT
    )
    assert [each.path.read_bytes() for each in made] == [each.path.read_bytes() for each in alone]
    assert not any(each.record.out_of_domain for each in made)
    refused = next(case for case in both if case.image.spatial_shape[0] == 70).datasets[0].SeriesInstanceUID
    for with_other, without in zip(made, alone, strict=True):
        assert with_other.finding.startswith(
            f"{without.finding}; 1 other input is outside the card and left out: series {refused}: the volume has "
        )
    assert told[-1] == {"stage": "done", "done": 1, "total": 1}


def test_of_inputs_that_are_all_outside_the_card_each_is_named(slice_classifier, tmp_path):
    files = toy.write(tmp_path / "in", toy.pet(NEW, shape=LONG), toy.pet(NEW, shape=LONG, name="second"))
    both = cases(series.volumes(files), predictor.load(slice_classifier.folder).channels)
    assert len(both) == 2
    with pytest.raises(OutOfDomain) as refused:
        pipeline.predict(files, slice_classifier.folder, tmp_path / "out", made_at=AT)
    for case in both:
        assert f"series {case.datasets[0].SeriesInstanceUID}: the volume has 70 slices " in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_forced_run_is_marked_in_every_object_and_record(forced):
    for each in forced:
        dataset = dcmread(each.path)
        assert each.record.out_of_domain
        assert "OUT OF DOMAIN" in dataset.SeriesDescription
        labels.check(each.path.read_bytes(), each.record)


def test_a_forced_segmentation_is_marked_in_the_seg_and_in_the_capture(head_segmenter, tmp_path):
    shape = (9, *toy.SHAPE[1:])  # 30 mm of head; the card says 25 at most
    files = toy.write(tmp_path / "in", toy.mr("T1", NEW, shape=shape), toy.mr("FLAIR", NEW, shape=shape))
    made = pipeline.predict(files, head_segmenter.folder, tmp_path / "out", made_at=AT, force=True)
    assert len(made) == 2
    for each in made:
        assert each.record.out_of_domain
        assert "OUT OF DOMAIN" in dcmread(each.path).SeriesDescription


def test_forcing_what_is_inside_the_card_marks_nothing(head, segmented, head_segmenter, tmp_path):
    made = pipeline.predict(head, head_segmenter.folder, tmp_path, made_at=AT, force=True)
    assert [each.path.read_bytes() for each in made] == [each.path.read_bytes() for each in segmented]


# Classifiers


def test_more_than_64_slices_become_consecutive_instances_of_one_series(forced, long_pet):
    datasets = [dcmread(each.path) for each in forced]
    assert [int(ds.NumberOfFrames) for ds in datasets] == [64, 6]
    assert [int(ds.InstanceNumber) for ds in datasets] == [1, 2]
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 1
    assert len({ds.SOPInstanceUID for ds in datasets}) == 2
    # Frame i lies where slice i lies, over the border between the instances too.
    groups = [group for ds in datasets for group in ds.PerFrameFunctionalGroupsSequence]
    places = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float)
    along = (places - places[0]) @ toy.AXES[:, 2]
    np.testing.assert_allclose(along, 3.3 * np.arange(70), atol=1e-3)


def test_each_slice_stands_above_its_own_probability(forced, long_pet, slice_classifier):
    model = predictor.load(slice_classifier.folder)
    case = input_of(long_pet, model)
    found = model.predict(case.image)
    chances = found.probabilities[:, 1]
    assert len({f"{chance:.2f}" for chance in chances}) > 2
    frames = np.concatenate([secondary_capture.read_back(dcmread(each.path)) for each in forced])
    zoom = drawing.SHOWN_PX // toy.SHAPE[2]
    height = toy.SHAPE[1] * zoom
    shown = np.rint(255 * np.clip(case.image.voxels[0] / 7, 0, 1))  # SUV 0 to 7
    np.testing.assert_array_equal(frames[:, :height:zoom, ::zoom, 0], shown)
    for frame, chance in zip(frames, chances, strict=True):
        ink = picture.text_strip(f"lesion {chance:.2f} (threshold {found.threshold:.2f})", frame.shape[1])
        np.testing.assert_array_equal(frame[height : height + len(ink), :, 1] > 0, ink)
    [finding] = {each.finding for each in forced}
    assert finding.startswith(f"lesion {chances.max():.2f} (threshold {found.threshold:.2f}); study: lesion ")


def test_each_mammogram_has_a_capture_of_its_own_with_its_probability(view_classifier, tmp_path):
    pictures = [toy.mammogram(NEW, side, "CC", ill=False) for side in "LR"]
    files = toy.write(tmp_path / "in", pictures)
    made = pipeline.predict(files, view_classifier.folder, tmp_path / "out", made_at=AT)
    model = predictor.load(view_classifier.folder)
    inputs = {case.datasets[0].SOPInstanceUID: case.image for case in cases(series.volumes(files), model.channels)}
    assert len(made) == len(inputs) == 2
    for each in made:
        labels.check(each.path.read_bytes(), each.record)
        (source,) = each.record.source_uids
        image = inputs[source]
        assert isinstance(image, Projection)
        found = model.predict(image)
        text = f"lesion {found.probabilities[0, 1]:.2f} (threshold {found.threshold:.2f})"
        assert each.finding.startswith(f"{text}; study: lesion ")
        dataset = dcmread(each.path)
        assert int(dataset.get("NumberOfFrames")) == 1
        assert "PerFrameFunctionalGroupsSequence" not in dataset  # no place in the patient
        (frame,) = secondary_capture.read_back(dataset)
        thinned = image.pixels[::2, ::2]  # 530 rows are more than 512
        ink = picture.text_strip(text, thinned.shape[1])
        assert frame.shape == (265 + len(ink), 155, 3)
        low, high = np.percentile(thinned, drawing.PERCENTILES)
        gray = np.rint(255 * np.clip((thinned - low) / (high - low), 0, 1))
        np.testing.assert_array_equal(frame[:265, :, 2], gray)
        np.testing.assert_array_equal(frame[265:, :, 0] > 0, ink)


def test_views_of_one_examination_have_one_report_and_those_of_two_have_two(view_classifier, tmp_path):
    first = [toy.mammogram(NEW, side, "CC", ill=side == "R") for side in "LR"]
    second = [toy.mammogram(NEW + 1, side, "CC", ill=False) for side in "LR"]
    files = toy.write(tmp_path / "in", [*first, *second])
    asked = encodings.DEFAULT | {"report"}
    made = pipeline.predict(files, view_classifier.folder, tmp_path / "out", made_at=AT, encodings=asked)
    model = predictor.load(view_classifier.folder)
    found = {}
    for case in cases(series.volumes(files), model.channels):
        found[str(case.datasets[0].SOPInstanceUID)] = model.predict(case.image).suspicions
    reports = {frozenset(each.record.source_uids): each for each in made if each.encoding == "report"}
    assert len(reports) == 2
    for views in (first, second):
        names = [str(view.SOPInstanceUID) for view in views]
        told = reports[frozenset(names)]
        labels.check(told.path.read_bytes(), told.record)
        whole, single = srread(told.path).content.get_image_measurement_groups()
        chance = model.description.study.probability(np.concatenate([found[name] for name in names]))
        assert whole.get_measurements()[0].value == pytest.approx(chance, abs=1e-6)
        [image] = single.source_images
        assert image.referenced_sop_instance_uid == max(names, key=lambda name: found[name].max())


# Synthetic input


def test_one_synthetic_channel_makes_every_result_synthetic(head_segmenter, tmp_path):
    files = toy.write(tmp_path / "in", toy.mr("T1", NEW, synthetic=True), toy.mr("FLAIR", NEW))
    made = pipeline.predict(files, head_segmenter.folder, tmp_path / "out", made_at=AT)
    assert len(made) == 2
    for each in made:
        dataset = dcmread(each.path)
        assert each.record.synthetic_input
        assert dataset.SyntheticData == "YES"
        assert dataset.SeriesDescription.startswith("SYNTHETIC")
        labels.check(each.path.read_bytes(), each.record)


# One way to a tensor


@pytest.mark.parametrize("kind", ["head_segmenter", "slice_classifier", "view_classifier"])
def test_a_training_case_predicted_from_its_dicom_gives_the_tensor_that_was_trained_on(kind, request):
    released = request.getfixturevalue(kind)
    model = predictor.load(released.folder)
    item = released.cohort.training[0]
    (case,) = training_cases.load(released.cohort, [item], model.model.model_input)
    served = cases(series.volumes([released.cohort.folder / "dicom" / "1"]), model.channels)
    (tensor,) = (model.input_tensor(each.image) for each in served if _is_of(each, case))
    given = tensor.as_tensor()
    given = given if given.ndim == 4 else given[:, None]  # a projection is one slice in training
    assert given.shape[-1] != given.shape[-2]  # no axis could stand for another
    assert torch.equal(given, case.image)


def _is_of(served: Case, trained: training_cases.Case) -> bool:
    """Of the two mammograms, the one of the same side; there is one volume."""
    return getattr(served.image, "laterality", "") == getattr(trained.source, "laterality", "")


# Generators


@pytest.fixture(scope="module")
def generated(slice_generator, tmp_path_factory) -> list[Made]:
    out = tmp_path_factory.mktemp("generated")
    return pipeline.generate(slice_generator.folder, out, n=70, seed=7, made_at=AT)


def test_generated_frames_are_the_samples_of_the_seed_within_half_a_step(generated, slice_generator):
    samples = generator.load(slice_generator.folder).sample(70, 7)[:, 0]
    datasets = [dcmread(each.path) for each in generated]
    assert [int(ds.NumberOfFrames) for ds in datasets] == [64, 6]
    frames = np.concatenate([secondary_capture.read_back(ds) for ds in datasets])
    half_a_step = 10 / 65535 / 2  # pixel_range of the recipe in 16 bits
    assert 0 < np.abs(frames - samples).max() <= half_a_step * 1.01
    assert [float(step) for step in datasets[0].PixelSpacing] == pytest.approx(
        [2.1 * 34 / 16, 1.7 * 34 / 16], rel=1e-3
    )  # 34 x 25 pixels, padded to 34 x 34, scaled to 16 x 16


def test_generated_objects_are_synthetic_and_of_a_patient_who_does_not_exist(generated):
    for each in generated:
        dataset = dcmread(each.path)
        labels.check(each.path.read_bytes(), each.record)
        assert dataset.SyntheticData == "YES"
        assert dataset.PatientID.startswith("MIRALL-SYN-")
        assert (each.record.kind, each.record.seed, each.record.source_uids) == ("generated", 7, ())
        assert each.finding == "70 pictures, seed 7"
        assert len(each.record.audit_id) == 16  # names the evaluation of the model version
    assert len({each.record.study_instance_uid for each in generated}) == 1


def test_generating_again_gives_the_same_bytes_and_another_seed_other_names(generated, slice_generator, tmp_path):
    again = pipeline.generate(slice_generator.folder, tmp_path / "a", n=70, seed=7, made_at=AT)
    assert [each.path.read_bytes() for each in again] == [each.path.read_bytes() for each in generated]
    other = pipeline.generate(slice_generator.folder, tmp_path / "b", n=2, seed=8, made_at=AT)
    assert other[0].record.study_instance_uid != generated[0].record.study_instance_uid


def test_png_files_say_in_words_and_in_text_chunks_that_they_are_synthetic(slice_generator, tmp_path):
    written = pipeline.generate_files(slice_generator.folder, tmp_path, n=3, seed=7, label=None, form="png")
    model = generator.load(slice_generator.folder)
    assert model.audit_id
    assert len({path.name for path in written}) == 3
    for path, sample in zip(written, model.sample(3, 7)[:, 0], strict=True):
        with Image.open(path) as image:
            assert image.text == {"Synthetic": "YES", "Model": "toy-maker:1", "Seed": "7", "AuditID": model.audit_id}
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels[:16], np.rint(sample * 25.5))
        assert pixels[16:].any()  # the visible mark, below


def test_nifti_files_say_in_header_and_sidecar_that_they_are_synthetic(slice_generator, tmp_path):
    written = pipeline.generate_files(slice_generator.folder, tmp_path, n=2, seed=7, label=None, form="nifti")
    model = generator.load(slice_generator.folder)
    assert len(written) == 2
    for number, (path, sample) in enumerate(zip(written, model.sample(2, 7)[:, 0], strict=True)):
        header = nibabel.load(path)
        assert header.header["descrip"].item() == b"Synthetic=YES"
        np.testing.assert_array_equal(np.asarray(header.dataobj).squeeze(), sample.T)
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["synthetic"] is True
        assert sidecar["note"] == {"model": "toy-maker:1", "seed": 7, "sample": number, "audit_id": model.audit_id}
        back = nifti.read_projection(path)
        assert back.is_synthetic
        assert back.spacing_mm == pytest.approx(model.spacing_mm)
    assert len({nifti.read_projection(path).source.sop_instance_uid for path in written}) == 2


def test_what_a_model_cannot_do_is_a_sentence(slice_generator, slice_classifier, long_pet, tmp_path):
    with pytest.raises(Rejected, match="toy-maker:1 is a generator; use `mirall generate`"):
        pipeline.predict(long_pet, slice_generator.folder, tmp_path, made_at=AT)
    with pytest.raises(Rejected, match="toy-slices:1 is a predictor; use `mirall predict`"):
        pipeline.generate(slice_classifier.folder, tmp_path, n=1, seed=0, made_at=AT)
    with pytest.raises(Rejected, match="toy-maker:1 makes unlabelled slices; ask without label 'lesion'"):
        pipeline.generate(slice_generator.folder, tmp_path, n=1, seed=0, label="lesion", made_at=AT)
    assert not list(tmp_path.iterdir())


def test_progress_counts_up_to_what_there_was_to_do(view_classifier, tmp_path):
    files = toy.write(tmp_path / "in", [toy.mammogram(NEW, side, "CC", ill=False) for side in "LR"])
    told: list[dict] = []
    pipeline.predict(
        files, view_classifier.folder, tmp_path / "out", made_at=AT, progress=lambda state: told.append(dict(state))
    )
    assert [(state["stage"], state["done"], state["total"]) for state in told] == [
        ("reading", 0, 2),
        ("predicting", 0, 2),
        ("predicting", 1, 2),
        ("done", 2, 2),
    ]


def test_each_encoding_that_is_asked_for_is_written_with_the_same_finding(head, head_segmenter, tmp_path) -> None:
    wanted = ["binary", "labelmap", "multi-frame", "single-frame"]
    made = pipeline.predict(head, head_segmenter.folder, tmp_path, made_at=AT, encodings=wanted)
    assert {each.encoding for each in made} == set(wanted)
    assert len({each.finding for each in made}) == 1
    binary, label_map = (next(each for each in made if each.encoding == name) for name in wanted[:2])
    read = [segmentation.read(dcmread(each.path)) for each in (binary, label_map)]
    assert (read[0].voxels == read[1].voxels).all() and read[0].same_grid_as(read[1])
    multi = [each for each in made if each.encoding == "multi-frame"]
    single = [each for each in made if each.encoding == "single-frame"]
    assert len(single) == sum(int(dcmread(each.path).NumberOfFrames) for each in multi)
