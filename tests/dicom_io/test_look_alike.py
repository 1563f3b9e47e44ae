"""Generated images in a modality's own class: our reader gives the values back, and they say what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_results as made
import numpy as np
import pytest
import SimpleITK
from made_results import MADE_AT, MODEL, SHAPE
from pydicom import Dataset

from dicom_io import labels, look_alike, series
from dicom_io.errors import Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Projection, Volume

Needs = Callable[[str], str]
COMMON: dict[str, Any] = {"model": MODEL, "seed": 42, "label": "T1", "made_at": MADE_AT}


def volume(modality: str) -> Volume:
    voxels = np.random.default_rng(4).uniform(0 if modality == "PT" else -2, 9, SHAPE).astype(np.float32)
    return Volume(voxels, made.affine(), "", {"MR": "1", "PT": "g/ml{SUVbw}"}[modality])


def picture(laterality: str = "L", view: str = "MLO") -> Projection:
    """A breast at the left, 60 x 41, denser at the chest wall."""
    pixels = np.zeros((60, 41), np.float32)
    pixels[10:50, :25] = np.random.default_rng(1).random((40, 25))
    side = "left" if laterality == "L" else "right"
    return Projection(
        pixels if side == "left" else pixels[:, ::-1].copy(), "1", None, (0.1, 0.085), "imager", laterality, view, side
    )


def stored(objects: list[tuple[Dataset, LabelRecord]], folder: Path) -> Path:
    for number, made_object in enumerate(reversed(objects)):
        (folder / f"{number}.dcm").write_bytes(labels.encode(*made_object))
    return folder


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_our_reader_gives_the_values_back_at_their_places(modality: Any, tmp_path: Path) -> None:
    image = volume(modality)
    stored(look_alike.generated(image, modality=modality, **COMMON), tmp_path)
    readout = series.volumes([tmp_path])
    [entry] = readout.volumes
    step = np.ptp([*image.voxels.flat, *([0.0] if modality == "PT" else [])]) / 65535
    assert np.abs(entry.volume.voxels - image.voxels).max() <= step / 2 * 1.01
    np.testing.assert_allclose(entry.volume.affine, image.affine, atol=1e-5)
    assert (entry.volume.units, entry.volume.is_synthetic, entry.modality) == (image.units, True, modality)


def test_a_mammogram_comes_back_with_its_breast_view_and_spacing(tmp_path: Path) -> None:
    pictures = [picture(), picture("R", "CC")]
    stored(look_alike.mammograms(pictures, value_range=(0.0, 1.0), **COMMON), tmp_path)
    back = {one.projection.laterality: one.projection for one in series.volumes([tmp_path]).projections}
    for wanted in pictures:
        found = back[wanted.laterality]
        np.testing.assert_array_equal(found.pixels, np.rint(wanted.pixels.astype(np.float64) * 4095))
        assert (found.view, found.breast_side, found.spacing_of) == (wanted.view, wanted.breast_side, "imager")
        assert found.spacing_mm == pytest.approx(wanted.spacing_mm) and found.is_synthetic


def test_itk_reads_a_series_of_them(tmp_path: Path) -> None:
    image = volume("MR")
    stored(look_alike.generated(image, modality="MR", **COMMON), tmp_path)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    theirs = SimpleITK.ReadImage(names)
    assert theirs.GetSize() == image.spatial_shape[::-1]
    place = theirs.TransformIndexToPhysicalPoint((3, 7, 2))
    index = tuple(int(n) for n in np.rint(image.index_at(place)))
    np.testing.assert_allclose(image.position_mm(index), place, atol=1e-3)
    assert theirs[3, 7, 2] == pytest.approx(float(image.voxels[index]), abs=1e-3)


def test_they_are_labelled_as_synthetic_of_nobody() -> None:
    for modality in ("MR", "PT"):
        dataset, record = made.alike(modality)  # type: ignore[arg-type]
        assert dataset.SyntheticData == "YES" and dataset.PatientID.startswith("MIRALL-SYN-")
        assert dataset.SeriesDescription.startswith("SYNTHETIC UNPROVEN T1")
        assert dataset.Manufacturer == "Mirall" and record.look_alike
        assert LabelRecord.from_json(record.to_json()) == record


def test_repeats_are_the_same_bytes_and_another_seed_or_modality_another_object() -> None:
    assert labels.encode(*made.alike()) == labels.encode(*made.alike())
    uids = {made.alike()[1].sop_instance_uid, made.alike("PT")[1].sop_instance_uid}
    uids.add(look_alike.generated(volume("MR"), modality="MR", **{**COMMON, "seed": 43})[1][1].sop_instance_uid)
    assert len(uids) == 3


def test_what_no_scanner_of_the_modality_gives_is_refused() -> None:
    with pytest.raises(ValueError, match="unit g/ml"):
        look_alike.generated(volume("MR"), modality="PT", **COMMON)
    below = replace(volume("PT"), voxels=volume("PT").voxels - 1)
    with pytest.raises(Rejected, match="does not begin at 0"):
        look_alike.generated(below, modality="PT", **COMMON)
    with pytest.raises(Rejected, match="view unknown"):
        look_alike.mammograms([replace(picture(), view="")], value_range=(0.0, 1.0), **COMMON)
    with pytest.raises(Rejected, match="spacing at the imager"):
        look_alike.mammograms([replace(picture(), spacing_mm=None)], value_range=(0.0, 1.0), **COMMON)
    with pytest.raises(Rejected, match=r"outside of 0 to 0\.5"):
        look_alike.mammograms([picture()], value_range=(0.0, 0.5), **COMMON)


@pytest.mark.parametrize("kind", ["MR", "PT", "MG"])
def test_the_validator_finds_no_error(kind: str, tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "image.dcm"
    if kind == "MG":
        objects = look_alike.mammograms([picture(), picture("R", "CC")], value_range=(0.0, 1.0), **COMMON)
    else:
        objects = look_alike.generated(volume(kind), modality=kind, **COMMON)  # type: ignore[arg-type]
    for made_object in objects[:2]:
        path.write_bytes(labels.encode(*made_object))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []


def test_the_window_of_an_mr_needs_no_function_and_spans_the_values(tmp_path: Path) -> None:
    """OHIF 3.13 draws an image black whose VOI LUT Function is other than LINEAR."""
    dataset, _ = look_alike.generated(volume("MR"), modality="MR", **COMMON)[0]
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)

    assert "VOILUTFunction" not in dataset
    assert centre - 0.5 - (width - 1) / 2 == pytest.approx(intercept, abs=1e-6)
    assert centre - 0.5 + (width - 1) / 2 == pytest.approx(intercept + 65535 * slope, abs=1e-6)
