"""NIfTI files: the round trip, what other readers see, and masks of other makers."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from dicom_io import nifti
from dicom_io.dataset import read
from dicom_io.errors import Rejected
from dicom_io.series import stack
from dicom_io.structure_set import mask as mask_of_contours
from dicom_io.volume import Projection, Source, Volume


@pytest.fixture
def volume(make) -> Volume:
    datasets = make.series("CT")
    datasets[1].SyntheticData = "YES"
    return stack(make.slices(datasets))


def _assert_same(one: Volume, other: Volume) -> None:
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert (one.units, one.frame_of_reference_uid, one.sources) == (
        other.units,
        other.frame_of_reference_uid,
        other.sources,
    )


def test_a_volume_comes_back_bit_for_bit(volume, tmp_path):
    nifti.write(volume, tmp_path / "a/v.nii.gz")

    back = nifti.read(tmp_path / "a/v.nii.gz")

    _assert_same(back, volume)
    assert back.voxels.dtype == np.float32
    assert back.is_synthetic


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_come_back_in_their_order(volume, channels, tmp_path):
    many = volume.with_voxels(np.stack([volume.voxels + 1000 * n for n in range(channels)]))
    nifti.write(many, tmp_path / "v.nii.gz")

    _assert_same(nifti.read(tmp_path / "v.nii.gz"), many)


def test_a_single_slice_stays_a_volume(volume, tmp_path):
    one = volume.crop((2, 0, 0), (3, 7, 4))
    nifti.write(one, tmp_path / "v.nii.gz")

    _assert_same(nifti.read(tmp_path / "v.nii.gz"), one)


def test_the_same_volume_gives_the_same_bytes(volume, tmp_path):
    for name in ("a", "b"):
        nifti.write(volume, tmp_path / f"{name}.nii.gz")

    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_nibabel_finds_each_voxel_at_its_place_in_ras(volume, tmp_path):
    nifti.write(volume, tmp_path / "v.nii.gz")
    image = nibabel.load(tmp_path / "v.nii.gz")

    for index in ((0, 0, 0), (4, 6, 3), (2, 5, 1)):
        x, y, z = volume.position_mm(index)
        place = np.linalg.solve(image.affine, [-x, -y, z, 1])[:3]
        np.testing.assert_allclose(place, index[::-1], atol=1e-4)
        assert image.dataobj[index[::-1]] == volume.voxels[index]


def test_itk_finds_each_voxel_at_its_place_in_lps(volume, tmp_path):
    nifti.write(volume, tmp_path / "v.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "v.nii.gz"))

    for index in ((0, 0, 0), (4, 6, 3), (2, 5, 1)):
        place = image.TransformContinuousIndexToPhysicalPoint([float(n) for n in index[::-1]])
        np.testing.assert_allclose(place, volume.position_mm(index), atol=1e-3)
        assert image[index[::-1]] == volume.voxels[index]


def test_synthetic_voxels_are_marked_in_header_and_sidecar(volume, tmp_path):
    nifti.write(volume, tmp_path / "v.nii.gz")
    nifti.write(replace(volume, sources=()), tmp_path / "real.nii.gz")

    assert bytes(nibabel.load(tmp_path / "v.nii.gz").header["descrip"]).rstrip(b"\0") == b"Synthetic=YES"
    assert json.loads((tmp_path / "v.json").read_text())["synthetic"] is True
    assert b"YES" not in bytes(nibabel.load(tmp_path / "real.nii.gz").header["descrip"])


def test_a_file_without_sidecar_is_refused(volume, tmp_path):
    nifti.write(volume, tmp_path / "v.nii.gz")
    (tmp_path / "v.json").unlink()

    with pytest.raises(Rejected, match=r"v\.nii\.gz has no v\.json beside it"):
        nifti.read(tmp_path / "v.nii.gz")


def test_a_header_that_was_moved_by_another_tool_is_refused(volume, tmp_path):
    nifti.write(volume, tmp_path / "v.nii.gz")
    image = nibabel.load(tmp_path / "v.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 1
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), moved), tmp_path / "v.nii.gz")

    with pytest.raises(Rejected, match="name different places"):
        nifti.read(tmp_path / "v.nii.gz")


@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_projection_comes_back_with_all_it_knows(channels, tmp_path):
    projection = Projection(
        pixels=np.random.default_rng(1).random((*channels, 7, 4), np.float32),
        units="1",
        source=Source("1.2", "2.25.1", "ab", synthetic=True),
        spacing_mm=(0.1, 0.07),
        spacing_of="imager",
        laterality="R",
        view="MLO",
        breast_side="right",
    )
    nifti.write_projection(projection, tmp_path / "p.nii.gz")

    back = nifti.read_projection(tmp_path / "p.nii.gz")

    np.testing.assert_array_equal(back.pixels, projection.pixels)
    assert replace(back, pixels=projection.pixels).__dict__ == projection.__dict__
    np.testing.assert_allclose(nibabel.load(tmp_path / "p.nii.gz").header.get_zooms()[:2], (0.07, 0.1), rtol=1e-6)
    assert nifti.kind(tmp_path / "p.nii.gz") == "projection"


def test_a_projection_without_source_or_spacing_comes_back(tmp_path):
    nifti.write_projection(Projection(np.ones((3, 2), np.float32), "1"), tmp_path / "p.nii.gz")

    back = nifti.read_projection(tmp_path / "p.nii.gz")

    assert (back.source, back.spacing_mm, back.is_synthetic) == (None, None, False)


def test_a_projection_is_not_read_as_a_volume(tmp_path):
    nifti.write_projection(Projection(np.ones((3, 2), np.float32), "1"), tmp_path / "p.nii.gz")

    with pytest.raises(Rejected, match="is a projection, not a volume"):
        nifti.read(tmp_path / "p.nii.gz")


# --- masks of other makers ----------------------------------------------------------------------------------------


def _foreign(volume: Volume, axes: tuple[int, ...], flips: tuple[int, ...], path) -> np.ndarray:
    """Write a lopsided mask with its axes turned and flipped as another tool may; returns it on the volume's grid."""
    mask = (np.random.default_rng(2).random(volume.spatial_shape) > 0.5).astype(np.uint8)
    image = nibabel.Nifti1Image(mask.T, np.diag([-1.0, -1, 1, 1]) @ volume.affine @ np.eye(4)[[2, 1, 0, 3]])
    turned = image.as_reoriented(np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)]))
    nibabel.save(turned, path)
    return mask


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_a_mask_with_turned_and_flipped_axes_is_put_on_the_grid(volume, axes, flips, tmp_path):
    expected = _foreign(volume, axes, flips, tmp_path / "m.nii.gz")

    mask = nifti.mask_on(tmp_path / "m.nii.gz", volume)

    np.testing.assert_array_equal(mask.voxels, expected)
    np.testing.assert_array_equal(mask.affine, volume.affine)
    assert (mask.units, mask.sources) == ("1", volume.sources)


def test_a_mask_on_another_grid_is_refused_with_both_places(volume, tmp_path):
    _foreign(volume.crop((0, 0, 0), (5, 6, 4)), (0, 1, 2), (1, 1, 1), tmp_path / "m.nii.gz")

    with pytest.raises(Rejected, match=r"m\.nii\.gz has \(5, 6, 4\) voxels from .*, the image \(5, 7, 4\)"):
        nifti.mask_on(tmp_path / "m.nii.gz", volume)


def test_a_mask_that_lies_one_slice_off_is_refused(volume, tmp_path):
    moved = replace(volume, affine=volume.affine.copy())
    moved.affine[:3, 3] += moved.affine[:3, 0]
    _foreign(moved, (0, 1, 2), (1, 1, 1), tmp_path / "m.nii.gz")

    with pytest.raises(Rejected, match="resample it onto the image first"):
        nifti.mask_on(tmp_path / "m.nii.gz", volume)


def test_a_mask_with_coarser_voxels_is_refused(volume, tmp_path):
    coarse = replace(volume, affine=volume.affine @ np.diag([1.0, 2, 1, 1]))
    _foreign(coarse, (0, 1, 2), (1, 1, 1), tmp_path / "m.nii.gz")

    with pytest.raises(Rejected, match="resample it onto the image first"):
        nifti.mask_on(tmp_path / "m.nii.gz", volume)


def test_published_masks_are_the_polygons_of_their_structure_sets_voxel_for_voxel(test_data, sarcoma_pets):
    """Twenty patients, one NIfTI mask and one RTSTRUCT each, drawn on the PET; another tool filled the polygons."""
    assert len(sarcoma_pets) == 20
    for patient, one in sarcoma_pets.items():
        folder = test_data / "pet-suv-sarcoma" / patient

        published = nifti.mask_on(folder / "PET_mask.nii.gz", one.volume)
        drawn = mask_of_contours(read(folder / "PET_RTSTRUCT/RS.dcm"), "GTV_Mass_PET", one.volume)

        assert published.voxels.sum() > 200
        np.testing.assert_array_equal(drawn.voxels, published.voxels)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.0, 1.0, 255.0], "uint8"),
        ([-1024.0, 3071.0, 0.0], "int16"),
        ([0.0, 40000.0, 1.0], "float32"),
        ([0.0, 0.5, 1.0], "float32"),
        ([0.0, np.nan, 1.0], "float32"),
        ([-0.0, -32768.0, 32767.0], "int16"),
    ],
)
def test_whole_numbers_are_kept_in_few_bits_and_come_back_the_same(volume, values, kind, tmp_path):
    voxels = np.resize(np.array(values, np.float32), volume.spatial_shape)
    nifti.write(volume.with_voxels(voxels), tmp_path / "a.nii.gz")

    assert nibabel.load(tmp_path / "a.nii.gz").get_data_dtype() == kind
    again = nifti.read(tmp_path / "a.nii.gz").voxels
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, voxels)
