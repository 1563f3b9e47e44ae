"""Which contrast an MR shows, by its times and by its words, and intensities that compare."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from dicom_io.errors import Rejected
from dicom_io.magnetic_resonance import contrast, evidence, head_mask, normalise, otsu
from dicom_io.series import stack, volumes
from dicom_io.volume import Volume


def _image(make, **attributes):
    return make.image(make.voxels()[0], "MR", **attributes)


@pytest.mark.parametrize(
    ("kind", "tr", "te", "ti", "expected"),
    [
        ("SE", 500, 12, None, "T1"),
        ("SE", 4000, 95, None, "T2"),
        ("SE", 3000, 15, None, ""),  # proton density
        (["SE", "IR"], 9000, 120, 2500, "FLAIR"),
        (["SE", "IR"], 5000, 60, 160, ""),  # STIR
        (["GR", "IR"], 2300, 2.9, 900, "T1"),  # MPRAGE
        ("GR", 8.2, 4.2, None, "T1"),
        ("GR", 620, 20, None, ""),  # T2*
        (["EP", "SE"], 5000, 90, None, ""),  # diffusion
        ("SE", None, 12, None, ""),
    ],
)
def test_contrast_by_the_sequences_times(make, kind, tr, te, ti, expected):
    ds = _image(make, ScanningSequence=kind, RepetitionTime=tr, EchoTime=te, InversionTime=ti)

    assert contrast(ds) == expected
    assert f"TE {te:g}" in evidence(ds).reason or expected == ""


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("AX T1 SE", "T1"),
        ("t2_tse_tra_320", "T2"),
        ("Axial T2 FLAIR", "FLAIR"),
        ("t2_spc_da-fl dark-fluid", "FLAIR"),
        ("Sag MPRAGE", "T1"),
        ("AX T2* GRE", ""),
        ("T1 and T2 map", ""),
        ("LOCALIZER", ""),
        ("PT12", ""),
    ],
)
def test_contrast_by_words_where_times_were_stripped(make, description, expected):
    assert contrast(_image(make, SeriesDescription=description)) == expected


def test_words_and_times_that_contradict_each_other_give_no_contrast_and_both_reasons(make):
    ds = _image(make, SeriesDescription="AX T2", ScanningSequence="SE", RepetitionTime=500, EchoTime=12)

    assert contrast(ds) == ""
    assert "say T1" in evidence(ds).reason
    assert "'AX T2' says T2" in evidence(ds).reason


def test_a_flair_without_inversion_time_is_known_by_its_name(make):
    times = {"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "EchoTime": 120}

    assert contrast(_image(make, SeriesDescription="ax flair", **times)) == "FLAIR"
    assert contrast(_image(make, SeriesDescription="ax flair", InversionTime=2500, **times)) == "FLAIR"


def test_maps_computed_from_images_have_no_contrast(make):
    ds = _image(make, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], SeriesDescription="T1 ADC")

    assert contrast(ds) == ""
    assert "a map computed from images" in evidence(ds).reason


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("mr-t1-t2-pair/STS_001/MR_T1", "T1"),
        ("mr-t1-t2-pair/STS_001/MR_T2", "T2"),
        ("pet-suv-sarcoma/STS_003/MR_T1", "T1"),
        ("mr-breast-dce/UCSF-BR-06/image_dce_pe1", ""),
        ("mr-phantom/GE_MR750_epi_4d", ""),
    ],
)
def test_contrast_of_real_series(test_data, folder, expected):
    assert volumes([test_data / folder]).volumes[0].contrast == expected


# --- intensities --------------------------------------------------------------------------------------------------


@pytest.fixture
def head() -> Volume:
    """An ellipsoid with dark fluid in its middle, a speck of noise beside it, and air."""
    z, y, x = np.mgrid[:20, :40, :34]
    r = ((z - 10) / 8) ** 2 + ((y - 21) / 16) ** 2 + ((x - 15) / 12) ** 2
    rng = np.random.default_rng(0)
    voxels = np.where(r < 1, 600 + rng.normal(0, 60, r.shape), np.abs(rng.normal(0, 15, r.shape)))
    voxels[r < 0.05] = 30
    voxels[1, 1:3, 1:3] = 700
    return Volume(voxels.astype(np.float32), np.diag([3.0, 1, 0.9, 1]), "2.25.1", "1")


def test_the_head_is_the_largest_object_with_its_fluid(head):
    z, y, x = np.mgrid[:20, :40, :34]
    expected = ((z - 10) / 8) ** 2 + ((y - 21) / 16) ** 2 + ((x - 15) / 12) ** 2 < 1

    mask = head_mask(head.voxels)

    np.testing.assert_array_equal(mask, expected)


def test_inside_the_head_mean_and_spread_are_one_scale_and_outside_is_zero(head):
    normalised = normalise(head)
    mask = head_mask(head.voxels)

    assert normalised.voxels[mask].mean() == pytest.approx(0, abs=1e-5)
    assert normalised.voxels[mask].std() == pytest.approx(1, abs=1e-5)
    assert not normalised.voxels[~mask].any()
    np.testing.assert_array_equal(normalised.affine, head.affine)


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0), (37, 0), (2, 150)])
def test_a_scanners_gain_and_offset_change_nothing(head, gain, offset):
    other = head.with_voxels(head.voxels * np.float32(gain) + np.float32(offset))

    np.testing.assert_allclose(normalise(other).voxels, normalise(head).voxels, atol=2e-3)


def test_channels_are_normalised_each_by_itself(head):
    both = head.with_voxels(np.stack([head.voxels, 9 * head.voxels]))

    normalised = normalise(both).voxels

    np.testing.assert_allclose(normalised[0], normalised[1], atol=1e-3)
    np.testing.assert_array_equal(normalised[0], normalise(head).voxels)


def test_a_constant_volume_is_refused(head):
    with pytest.raises(Rejected, match="all voxels of the MR volume have one value"):
        normalise(head.with_voxels(np.full(head.spatial_shape, 4, np.float32)))


def test_otsu_agrees_with_scikit_image():
    rng = np.random.default_rng(6)
    values = np.concatenate([rng.normal(100, 40, 30000), rng.normal(400, 90, 9000)]).astype(np.float32)
    width = float(np.ptp(values)) / 256

    assert otsu(values) == pytest.approx(threshold_otsu(values), abs=1.01 * width)


def test_otsu_takes_the_middle_of_an_empty_gap():
    values = np.concatenate([np.linspace(0, 100, 500), np.linspace(500, 600, 300)]).astype(np.float32)

    assert otsu(values) == pytest.approx(300, abs=5)


def test_a_real_series_is_normalised(test_data):
    (one,) = volumes([test_data / "mr-t1-t2-pair/STS_001/MR_T1"]).volumes
    mask = head_mask(one.volume.voxels)

    assert 0.2 < mask.mean() < 0.8
    assert normalise(one.volume).voxels[mask].std() == pytest.approx(1, abs=1e-4)


def test_stacked_magnitudes_have_no_unit(make):
    assert stack(make.slices(make.series())).units == "1"
