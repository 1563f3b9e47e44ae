"""SUVbw: each branch of the rule against its closed form, each refusal by what it names, and another package."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_io.errors import MissingAttribute, Rejected, UnknownUnits
from dicom_io.pet import average_count_rate_time_s, scan_start, suvbw_factor
from dicom_io.series import stack, volumes

HALF_LIFE_S = 6588.0
DOSE_BQ, WEIGHT_KG = 3.7e8, 71.5


@pytest.fixture
def pet(make):
    """`pet(**attributes)`: an oblique PET series in BQML, injected an hour before the scan; isotope_… is the dose."""

    def series(**attributes):
        isotope = Dataset()
        isotope.RadionuclideTotalDose = DOSE_BQ
        isotope.RadionuclideHalfLife = HALF_LIFE_S
        isotope.RadiopharmaceuticalStartTime = "090000"
        for keyword in [key for key in attributes if key.startswith("isotope_")]:
            setattr(isotope, keyword.removeprefix("isotope_"), attributes.pop(keyword))
        defaults = {
            "Units": "BQML",
            "DecayCorrection": "START",
            "CorrectedImage": ["DECY", "ATTN", "SCAT"],
            "PatientWeight": WEIGHT_KG,
            "SeriesDate": "20250310",
            "SeriesTime": "100000",
            "AcquisitionDate": "20250310",
            "AcquisitionTime": "100000",
            "ActualFrameDuration": 240000,
            "FrameReferenceTime": 120000,
            "RadiopharmaceuticalInformationSequence": [isotope],
            "RescaleIntercept": 0,
        }
        datasets = make.series("PT", **defaults | attributes)
        for number, ds in enumerate(datasets):
            ds.RescaleSlope = 1 + number / 3
        return datasets

    return series


def _factor(elapsed_s: float) -> float:
    return 1000 * WEIGHT_KG / (DOSE_BQ * 2 ** (-elapsed_s / HALF_LIFE_S))


# --- the rule -----------------------------------------------------------------------------------------------------


def test_a_volume_comes_out_in_suv_with_each_slices_own_slope(make, pet):
    volume = stack(make.slices(pet()))

    for number, stored in enumerate(make.voxels()):
        expected = stored * float(pet()[number].RescaleSlope) * _factor(3600)
        np.testing.assert_allclose(volume.voxels[number], expected, rtol=1e-6)
    assert volume.units == "g/ml{SUVbw}"


def test_a_uniform_body_that_took_up_the_whole_dose_has_suv_one(make, pet):
    """The definition: dose spread evenly over the weight, at 1 g/ml, read at the scan start."""
    activity = DOSE_BQ * 2 ** (-3600 / HALF_LIFE_S) / (1000 * WEIGHT_KG)
    datasets = pet()
    for ds in datasets:
        ds.RescaleSlope = f"{activity / 1000:.10f}"
        ds.PixelData = np.full((7, 4), 1000, np.int16).tobytes()

    np.testing.assert_allclose(stack(make.slices(datasets)).voxels, 1, rtol=1e-6)


def test_start_decays_the_dose_to_the_series_time(pet):
    assert suvbw_factor(pet(AcquisitionTime="100500")) == pytest.approx(_factor(3600), rel=1e-9)


def test_admin_takes_the_dose_as_injected_and_needs_no_times(pet):
    series = pet(
        DecayCorrection="ADMIN", SeriesTime=None, AcquisitionTime=None, isotope_RadiopharmaceuticalStartTime=""
    )

    assert suvbw_factor(series) == pytest.approx(_factor(0), rel=1e-9)


def test_the_earliest_acquisition_of_the_whole_series_counts(pet):
    """A series of several bed positions, whose first image in the list is not the first that was taken."""
    series = pet(AcquisitionTime="101000")
    series[3].AcquisitionTime = "100000"

    assert suvbw_factor(series) == pytest.approx(_factor(3600), rel=1e-9)


def test_a_later_series_time_gives_way_to_ges_own_scan_time(pet):
    series = pet(SeriesTime="143000", AcquisitionTime="100200")
    for ds in series:
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20250310100130.00")

    assert suvbw_factor(series) == pytest.approx(_factor(3690), rel=1e-9)


def test_ges_scan_time_is_read_from_implicit_bytes_too(make, pet):
    series = pet(SeriesTime="143000", AcquisitionTime="100200")
    for ds in series:
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "UN", b"20250310100130.00 ")

    assert suvbw_factor(series) == pytest.approx(_factor(3690), rel=1e-9)


def test_a_later_series_time_without_ge_is_replaced_by_the_frames_own_times(pet):
    """Acquisition time less frame reference time plus the time of the average count rate."""
    rate = math.log(2) / HALF_LIFE_S
    x = rate * 240
    average_s = math.log(x / (1 - math.exp(-x))) / rate
    series = pet(SeriesTime="143000", AcquisitionTime="100300", FrameReferenceTime=180000 + 1000 * average_s)

    assert suvbw_factor(series) == pytest.approx(_factor(3600), rel=1e-9)


def test_the_average_count_rate_of_a_short_frame_is_at_its_middle_and_of_a_long_one_before(pet):
    short, long = pet(ActualFrameDuration=1000)[0], pet(ActualFrameDuration=7_200_000)[0]

    assert average_count_rate_time_s(short) == pytest.approx(0.5, rel=1e-4)
    time_s = average_count_rate_time_s(long)
    # At that time the rate is its mean over the frame: (1 - exp(-lambda T)) / (lambda T) of its start.
    rate = math.log(2) / HALF_LIFE_S
    assert math.exp(-rate * time_s) == pytest.approx((1 - math.exp(-rate * 7200)) / (rate * 7200), rel=1e-12)
    assert time_s < 3600


def test_a_start_datetime_is_preferred_to_a_start_time(pet):
    series = pet(isotope_RadiopharmaceuticalStartDateTime="20250310083000")

    assert suvbw_factor(series) == pytest.approx(_factor(5400), rel=1e-9)


def test_a_start_time_later_than_the_scan_was_the_day_before(pet):
    series = pet(SeriesTime="001500", AcquisitionTime="001500", isotope_RadiopharmaceuticalStartTime="233000")

    assert suvbw_factor(series) == pytest.approx(_factor(2700), rel=1e-9)


def test_grams_per_millilitre_are_taken_as_they_are(make, pet):
    series = pet(Units="GML", PatientWeight=None, CorrectedImage=None, RadiopharmaceuticalInformationSequence=None)

    assert suvbw_factor(series) == 1
    np.testing.assert_array_equal(stack(make.slices(series)).voxels[0], make.voxels()[0])


def test_an_acquisition_without_date_is_of_the_series_date(pet):
    assert suvbw_factor(pet(AcquisitionDate=None)) == pytest.approx(_factor(3600), rel=1e-9)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"PatientWeight": None}, r"has no PatientWeight \(0010,1030\)"),
        ({"PatientWeight": 0}, r"PatientWeight \(0010,1030\) is 0"),
        ({"isotope_RadionuclideTotalDose": None}, r"has no RadionuclideTotalDose \(0018,1074\)"),
        ({"isotope_RadionuclideTotalDose": 0}, r"RadionuclideTotalDose \(0018,1074\) is 0"),
        ({"isotope_RadionuclideHalfLife": None}, r"has no RadionuclideHalfLife \(0018,1075\)"),
        ({"isotope_RadionuclideHalfLife": 0}, r"RadionuclideHalfLife \(0018,1075\) is 0"),
        ({"isotope_RadiopharmaceuticalStartTime": ""}, r"neither RadiopharmaceuticalStartDateTime .* \(0018,1072\)"),
        ({"RadiopharmaceuticalInformationSequence": None}, r"\(0054,0016\) has 0 items"),
        ({"SeriesTime": None}, "no SeriesDate or no SeriesTime"),
        ({"SeriesDate": None}, "no SeriesDate or no SeriesTime"),
        ({"AcquisitionTime": None}, "no AcquisitionDate or no AcquisitionTime"),
        ({"SeriesTime": "143000", "FrameReferenceTime": None}, r"has no FrameReferenceTime \(0054,1300\)"),
        ({"SeriesTime": "143000", "ActualFrameDuration": None}, r"has no ActualFrameDuration \(0018,1242\)"),
        ({"SeriesTime": "143000", "ActualFrameDuration": 0}, r"ActualFrameDuration \(0018,1242\) is 0"),
    ],
)
def test_what_is_missing_or_zero_is_refused_by_name(make, pet, attributes, sentence):
    with pytest.raises(MissingAttribute, match=f"PET series 2.25.772.*{sentence}"):
        stack(make.slices(pet(**attributes)))


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"Units": "CNTS"}, r"Units \(0054,1001\) are CNTS, and only BQML and GML"),
        ({"Units": None}, r"Units \(0054,1001\) are absent"),
        ({"Units": "GML", "SUVType": "LBM"}, r"SUV Type \(0054,1006\) is LBM, not BW"),
        ({"DecayCorrection": "NONE"}, r"Decay Correction \(0054,1102\) is NONE"),
        ({"DecayCorrection": None}, r"Decay Correction \(0054,1102\) is absent"),
        ({"CorrectedImage": ["DECY", "SCAT"]}, r"lacks ATTN"),
        ({"CorrectedImage": ["ATTN"]}, r"lacks DECY"),
        ({"CorrectedImage": None}, r"lacks ATTN and DECY"),
        ({"isotope_RadionuclideTotalDose": 370}, r"\(0018,1074\) is 370, too little for Bq"),
        ({"isotope_RadiopharmaceuticalStartDateTime": "20250310110000"}, r"lies -3600 s before the scan start"),
        ({"isotope_RadiopharmaceuticalStartDateTime": "20250210090000"}, r"half-life of 6588 s makes impossible"),
    ],
)
def test_what_gives_no_suv_is_refused_with_its_value(make, pet, attributes, sentence):
    with pytest.raises(UnknownUnits, match=f"PET series 2.25.772.*{sentence}"):
        stack(make.slices(pet(**attributes)))


def test_a_series_with_two_kinds_of_units_is_refused(make, pet):
    series = pet()
    series[2].Units = "CNTS"

    with pytest.raises(UnknownUnits, match=r"Units \(0054,1001\) differs between slices \(BQML, CNTS\)"):
        stack(make.slices(series))


@pytest.mark.parametrize("turned", [False, True], ids=["in file order", "in reverse"])
@pytest.mark.parametrize(
    ("keyword", "other", "sentence"),
    [
        ("PatientWeight", 85, r"PatientWeight \(0010,1030\) differs between slices \(71\.5, 85\)"),
        ("PatientWeight", None, r"PatientWeight \(0010,1030\) differs between slices \(71\.5, absent\)"),
        ("DecayCorrection", "ADMIN", r"DecayCorrection \(0054,1102\) differs between slices \(ADMIN, START\)"),
        ("isotope_RadionuclideTotalDose", 2.1e8, r"RadionuclideTotalDose \(0018,1074\) .* \(210000000, 370000000\)"),
        ("isotope_RadionuclideHalfLife", 1223, r"RadionuclideHalfLife \(0018,1075\) .* \(1223, 6588\)"),
        ("isotope_RadiopharmaceuticalStartTime", "093000", r"StartTime \(0018,1072\) .* \(090000, 093000\)"),
        (
            "isotope_RadiopharmaceuticalStartDateTime",
            "20250310083000",
            r"StartDateTime \(0018,1078\) .* \(20250310083000, absent\)",
        ),
        ("RadiopharmaceuticalInformationSequence", None, r"RadionuclideTotalDose .* \(370000000, absent\)"),
    ],
)
def test_a_series_of_which_one_slice_was_corrected_is_refused_in_either_order(
    make, pet, tmp_path, keyword, other, sentence, turned
):
    series = [*pet()[:-1], pet(**{keyword: other})[-1]]
    if turned:
        series.reverse()

    with pytest.raises(UnknownUnits, match=sentence):
        suvbw_factor(series)
    readout = volumes([make.folder(series, tmp_path)])
    assert not readout.volumes and "differs between slices" in readout.refused[0][1]


def test_the_same_value_written_in_two_ways_is_one_value(pet):
    series = [
        *pet()[:-1],
        pet(
            PatientWeight="71.50",
            isotope_RadiopharmaceuticalStartTime="090000.00",
            isotope_RadionuclideHalfLife="6588.0",
        )[-1],
    ]

    assert suvbw_factor(series) == pytest.approx(_factor(3600), rel=1e-9)


def test_a_correction_that_one_slice_lacks_is_refused(make, pet):
    series = pet()
    series[4].CorrectedImage = ["DECY"]

    with pytest.raises(UnknownUnits, match="lacks ATTN"):
        stack(make.slices(series))


def test_two_injections_are_refused(make, pet):
    series = pet()
    for ds in series:
        ds.RadiopharmaceuticalInformationSequence = [*ds.RadiopharmaceuticalInformationSequence, Dataset()]

    with pytest.raises(MissingAttribute, match="has 2 items"):
        stack(make.slices(series))


@pytest.mark.parametrize("attribute", ["AcquisitionTime", "SeriesTime", "SeriesDate"])
def test_a_time_that_cannot_be_read_is_refused_with_its_text(pet, attribute):
    series = pet()
    for ds in series:
        ds[attribute]._value = "99X"

    with pytest.raises(MissingAttribute, match=rf"{attribute}.*99X"):
        suvbw_factor(series)


def test_a_refused_pet_stops_no_other_series(make, pet, tmp_path):
    make.folder(pet(PatientWeight=None), tmp_path / "pet")
    make.folder(make.series("CT", SeriesInstanceUID="2.25.9"), tmp_path / "ct")

    readout = volumes([tmp_path])

    assert [one.modality for one in readout.volumes] == ["CT"]
    assert "PatientWeight" in readout.refused[0][1]


# --- the real series ----------------------------------------------------------------------------------------------


def test_the_real_series_start_agrees_with_its_decay_factors(test_data):
    """Decay Factor (0054,1321) is what the time since the series' start gives: the rule picked that start."""
    (one,) = volumes([test_data / "pet-fdg-raw/STS_001/FDG_PET"]).volumes
    start = scan_start(one.datasets)

    assert start.strftime("%Y%m%d%H%M%S") == one.datasets[0].SeriesDate + one.datasets[0].SeriesTime[:6]
    for ds in one.datasets[::20]:
        reference_s = float(ds.FrameReferenceTime) / 1000
        assert float(ds.DecayFactor) == pytest.approx(2 ** (reference_s / HALF_LIFE_S), rel=0.02)


def test_the_real_series_has_the_suv_of_the_closed_form(test_data):
    """71 kg, 388.78 MBq at 10:35:00, scan start 11:20:11, half-life 6588 s; written out by hand."""
    (one,) = volumes([test_data / "pet-fdg-raw/STS_001/FDG_PET"]).volumes
    factor = 71000 / (3.88777472e8 * 2 ** (-2711 / 6588))

    for number in (0, 133, 266):
        ds = one.datasets[number]
        np.testing.assert_allclose(
            one.volume.voxels[number], ds.pixel_array * float(ds.RescaleSlope) * factor, rtol=1e-6
        )
    assert one.volume.voxels.max() == pytest.approx(66.5215, abs=1e-4)


def test_the_real_series_has_the_suv_of_an_independent_radiomics_package(test_data, monkeypatch):
    """MIRP (IBSI-compliant). It imports itk (1.5 GB) for NIfTI files only, which are not read here."""
    pytest.importorskip("mirp", reason="mirp is not installed; `pip install --no-deps mirp` and its light dependencies")
    try:
        import itk  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "itk", types.ModuleType("itk"))
    from mirp._data_import.read_data import read_image
    from mirp.data_import.import_image import import_image

    folder = test_data / "pet-fdg-raw/STS_001/FDG_PET"
    theirs = read_image(import_image(str(folder))[0], to_numpy=False)[0]
    (one,) = volumes([folder]).volumes

    np.testing.assert_allclose(one.volume.voxels, theirs.get_voxel_grid(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.volume.affine[:3, 3], theirs.image_origin[::-1], atol=1e-6)


def test_the_real_series_without_dose_is_refused_by_name(test_data):
    (one,) = volumes([test_data / "pet-fdg-raw/STS_001/FDG_PET"]).volumes
    for ds in one.datasets:
        del ds.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose

    with pytest.raises(Rejected, match="RadionuclideTotalDose"):
        suvbw_factor(one.datasets)
