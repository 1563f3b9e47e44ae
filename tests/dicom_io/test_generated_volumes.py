"""Generated volumes with a place, masks that lie on them, and pictures generated from real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import made_results as made
import numpy as np
import pytest
import SimpleITK
from made_results import MADE_AT, MODEL, SEGMENTS, SHAPE
from pydicom import Dataset, dcmread

from dicom_io import capture_planes, labels, secondary_capture, segmentation, series
from dicom_io.dataset import read_with_hash
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.secondary_capture import dequantise, quantise
from dicom_io.volume import Volume

Needs = Callable[[str], str]
Made = tuple[Dataset, LabelRecord]


def volume(slices: int = SHAPE[0]) -> Volume:
    voxels = np.random.default_rng(2).uniform(-1000, 2000, (slices, *SHAPE[1:])).astype(np.float32)
    return Volume(voxels, made.affine(), "", "[hnsf'U]")


def written(image: Volume, **changes: Any) -> list[Made]:
    arguments: dict[str, Any] = {"model": MODEL, "seed": 5, "label": "tumour", "made_at": MADE_AT}
    return secondary_capture.generated_volume(image, **{**arguments, **changes})


def decoded(made_object: Made) -> tuple[Dataset, str]:
    return read_with_hash(labels.encode(*made_object))


def mask_on(image: Volume) -> Volume:
    voxels = np.zeros(image.spatial_shape, np.float32)
    voxels[1:3, 2:9, 3:15], voxels[2, 4:6, 5:7], voxels[-1, 10, 16] = 1, 2, 2
    return image.with_voxels(voxels, units="1")


def seg_on(image: Volume, captures: list[Made], **changes: Any) -> Made:
    arguments: dict[str, Any] = {
        "captures": captures,
        "segments": SEGMENTS,
        "model": MODEL,
        "parameters": {"seed": 5},
        "description": "lesions",
        "made_at": MADE_AT,
    }
    return segmentation.of_generated(mask_on(image), **{**arguments, **changes})


@pytest.mark.parametrize("form", ["multi-frame", "single-frame"])
@pytest.mark.parametrize("slices", [6, 70])
def test_a_generated_volume_comes_back_with_its_place(slices: int, form: str) -> None:
    image = volume(slices)
    objects = written(image, form=form)
    assert len(objects) == {"multi-frame": -(-slices // 64), "single-frame": slices}[form]
    back = secondary_capture.read_volume(*zip(*reversed([decoded(each) for each in objects]), strict=True))
    np.testing.assert_array_equal(back.voxels, dequantise(quantise(image.voxels)))
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-5)
    assert back.units == "[hnsf'U]" and back.is_synthetic
    assert back.frame_of_reference_uid == objects[0][1].frame_of_reference_uid != ""
    assert [source.frame for source in back.sources[:3]] == ([1, 2, 3] if form == "multi-frame" else [1, 1, 1])


def test_itk_finds_the_voxels_at_the_same_places(tmp_path: Path) -> None:
    image = volume()
    [made_object] = written(image)
    (tmp_path / "volume.dcm").write_bytes(labels.encode(*made_object))
    theirs = SimpleITK.ReadImage(str(tmp_path / "volume.dcm"))
    for index in [(0, 0, 0), (5, 10, 16), (2, 7, 3)]:
        place = theirs.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place, image.position_mm(index), atol=1e-4)
        assert theirs[index[::-1]] == pytest.approx(image.voxels[index], abs=0.05)


def test_what_changes_a_volume_changes_its_uids() -> None:
    image = volume()
    moved = replace(image, affine=image.affine @ np.diag([1, 1, 2, 1]))
    uids = [
        written(image)[0][1].sop_instance_uid,
        written(moved)[0][1].sop_instance_uid,
        written(image, seed=6)[0][1].sop_instance_uid,
        written(image, form="single-frame")[0][1].sop_instance_uid,
    ]
    assert len(set(uids)) == 4
    assert labels.encode(*written(image)[0]) == labels.encode(*written(volume())[0])


@pytest.mark.parametrize("form", ["multi-frame", "single-frame"])
@pytest.mark.parametrize("slices", [6, 70])
def test_a_mask_of_a_generated_volume_lies_on_it(slices: int, form: str) -> None:
    image = volume(slices)
    captures = written(image, form=form)
    ds, _ = decoded(seg_on(image, captures))
    back = secondary_capture.read_volume(*zip(*[decoded(each) for each in captures], strict=True))
    np.testing.assert_array_equal(segmentation.read(ds, back).voxels, mask_on(image).voxels)
    shown = captures[0][0]
    assert (ds.Rows, ds.Columns, ds.FrameOfReferenceUID) == (shown.Rows, shown.Columns, shown.FrameOfReferenceUID)
    assert (ds.PatientID, ds.StudyInstanceUID, ds.SyntheticData) == (shown.PatientID, shown.StudyInstanceUID, "YES")
    headers = {
        (header.SOPInstanceUID, number): header.ImagePositionPatient
        for capture, _ in captures
        for number, header in enumerate(capture_planes.headers(capture), start=1)
    }
    for frame in ds.PerFrameFunctionalGroupsSequence:
        [item] = frame.DerivationImageSequence[0].SourceImageSequence
        named = (item.ReferencedSOPInstanceUID, int(item.get("ReferencedFrameNumber") or 1))
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, headers[named])


def test_a_mask_that_is_made_again_later_has_the_same_uids() -> None:
    image, later = volume(), MADE_AT.replace(year=MADE_AT.year + 1)
    first = seg_on(image, written(image))[1]
    again = seg_on(image, written(image, made_at=later), made_at=later)[1]
    other = seg_on(image, written(image, seed=6))[1]
    assert (again.sop_instance_uid, again.series_instance_uid) == (first.sop_instance_uid, first.series_instance_uid)
    assert other.sop_instance_uid != first.sop_instance_uid


def test_a_mask_beside_the_generated_volume_is_refused() -> None:
    image = volume()
    moved = replace(image, affine=image.affine.copy())
    moved.affine[:3, 3] += 2.0
    with pytest.raises(Rejected, match="beside its source"):
        seg_on(moved, written(image))


def test_captures_without_planes_are_no_volume() -> None:
    with pytest.raises(MissingAttribute, match="has no ImagePositionPatient"):
        secondary_capture.read_volume(*zip(*[decoded(each) for each in made.generated()], strict=True))
    with pytest.raises(Rejected, match="not of one series"):
        both = [*written(volume()), *written(volume(), seed=6)]
        secondary_capture.read_volume(*zip(*[decoded(each) for each in both], strict=True))
    with pytest.raises(ValueError, match="axes"):
        written(replace(volume(), voxels=volume().voxels[np.newaxis]))


def from_real(**changes: Any) -> list[Made]:
    datasets = changes.get("sources", made.sources())
    arguments: dict[str, Any] = {
        "model": MODEL,
        "sources": datasets,
        "source_refs": made.references(datasets),
        "seed": 5,
        "description": "T2 from T1",
        "purpose": "translation",
        "parameters": {"steps": 20},
        "made_at": MADE_AT,
        "units": "1",
        "value_range": (0.0, 1.0),
        "audit_id": "audit-7",
    }
    frames = np.random.default_rng(3).random(SHAPE, np.float32)
    return secondary_capture.generated_from_real(changes.pop("frames", frames), **{**arguments, **changes})


def test_pictures_generated_from_real_ones_stay_with_their_patient_and_their_place() -> None:
    [made_object] = from_real()
    ds, digest = decoded(made_object)
    assert (ds.SyntheticData, ds.ConversionType, ds.PatientID) == ("YES", "SYN", "P-17")
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == ("2.25.9901", "2.25.9903")
    assert labels.visible_mark(made_object[1]) == "SYNTHETIC - lesion-finder:2.1.0 - not for diagnosis"
    back = secondary_capture.read_volume([ds], [digest])
    assert back.same_grid_as(made.mask(made.sources())) and back.is_synthetic
    frames = np.random.default_rng(3).random(SHAPE, np.float32)
    assert np.abs(back.voxels - frames).max() <= 0.5 / 65535 * 1.001


def test_warped_pictures_claim_no_place() -> None:
    [made_object] = from_real(zoom=None, frames=np.zeros((2, 30, 40), np.float32))
    ds, _ = decoded(made_object)
    assert "FrameOfReferenceUID" not in ds and "SharedFunctionalGroupsSequence" not in ds
    assert len(ds.SourceImageSequence) == 6


def test_pictures_without_a_place_have_the_spacing_that_is_known() -> None:
    frames = np.zeros((1, 30, 40), np.float32)
    [spaced] = from_real(zoom=None, frames=frames, spacing_mm=(0.25, 0.4))
    [unknown] = from_real(zoom=None, frames=frames)
    assert list(decoded(spaced)[0].PixelSpacing) == [0.25, 0.4] and "PixelSpacing" not in decoded(unknown)[0]


def test_another_seed_is_another_object_and_a_capture_of_the_same_pixels_too() -> None:
    frames = np.random.default_rng(3).random(SHAPE, np.float32)
    datasets = made.sources()
    captured = secondary_capture.of_prediction(
        frames,
        model=MODEL,
        sources=datasets,
        source_refs=made.references(datasets),
        description="",
        purpose="translation",
        parameters={"steps": 20},
        made_at=MADE_AT,
        zoom=1,
    )
    uids = [from_real()[0][1], from_real(seed=6)[0][1], captured[0][1]]
    assert len({record.sop_instance_uid for record in uids}) == 3
    assert labels.encode(*from_real()[0]) == labels.encode(*from_real()[0])


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_the_validator_finds_no_error(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "object.dcm"
    image = volume()
    objects = [
        *written(image),
        written(image, form="single-frame")[1],
        *from_real(),
        from_real(form="single-frame")[0],
        seg_on(image, written(image)),
        seg_on(image, written(image, form="single-frame"), form="binary", empty_frames=True),
    ]
    for made_object in objects:
        path.write_bytes(labels.encode(*made_object))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == [], made_object[1].kind


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("folder", ["mr-t1-t2-pair/STS_001/MR_T1", "mr-breast-dce/UCSF-BR-06/image_dce_3dfgre_orig"])
def test_pictures_generated_from_real_images_lie_on_them(
    folder: str, test_data: Path, tmp_path: Path, needs: Needs
) -> None:
    entry = series.volumes([test_data / folder]).volumes[0]
    made_objects = from_real(
        frames=entry.volume.voxels,
        sources=list(entry.datasets),
        source_refs=entry.volume.sources,
        value_range=(0, float(entry.volume.voxels.max())),
    )
    back = []
    for made_object in made_objects:
        path = tmp_path / "object.dcm"
        path.write_bytes(labels.encode(*made_object))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
        back.append(read_with_hash(path.read_bytes()))
    volume_back = secondary_capture.read_volume(*zip(*back, strict=True))
    assert volume_back.same_grid_as(entry.volume, tolerance_mm=0.05)
    assert np.abs(volume_back.voxels - entry.volume.voxels).max() <= entry.volume.voxels.max() / 65535


def test_dcmread_of_the_bytes_is_enough_to_read_a_volume_back() -> None:
    [made_object] = written(volume())
    raw = labels.encode(*made_object)
    np.testing.assert_array_equal(
        secondary_capture.read_back(dcmread(BytesIO(raw))), dequantise(quantise(volume().voxels))
    )
