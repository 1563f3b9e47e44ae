"""SUV: each branch of the rule against its closed form, each refusal by what it names, and another package."""

from __future__ import annotations

import copy
import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_io import nifti
from dicom_io.body_size import body_surface_area_cm2, lean_body_mass_g
from dicom_io.dataset import read
from dicom_io.errors import MissingAttribute, Rejected, UnknownUnits
from dicom_io.pet import suv_factors, units_of
from dicom_io.pet_times import acquisition, average_count_rate_time_s, scan_start
from dicom_io.series import stack, volumes
from dicom_io.volume import stack_channels

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


def _factor(elapsed_s: float, half_life_s: float = HALF_LIFE_S) -> float:
    return 1000 * WEIGHT_KG / (DOSE_BQ * 2 ** (-elapsed_s / half_life_s))


def _factor_of(series, **options) -> float:
    """The one factor that all slices have."""
    factors = suv_factors(series, **options)
    assert factors.shape == (len(series),) and factors.dtype == np.float64 and np.ptp(factors) == 0
    return float(factors[0])


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
    assert _factor_of(pet(AcquisitionTime="100500")) == pytest.approx(_factor(3600), rel=1e-9)


def test_admin_takes_the_dose_as_injected_and_needs_no_times(pet):
    series = pet(
        DecayCorrection="ADMIN", SeriesTime=None, AcquisitionTime=None, isotope_RadiopharmaceuticalStartTime=""
    )

    assert _factor_of(series) == pytest.approx(_factor(0), rel=1e-9)


def test_the_earliest_acquisition_of_the_whole_series_counts(pet):
    """A series of several bed positions, whose first image in the list is not the first that was taken."""
    series = pet(AcquisitionTime="101000")
    series[3].AcquisitionTime = "100000"

    assert _factor_of(series) == pytest.approx(_factor(3600), rel=1e-9)


def test_a_later_series_time_gives_way_to_ges_own_scan_time(pet):
    series = pet(SeriesTime="143000", AcquisitionTime="100200")
    for ds in series:
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20250310100130.00")

    assert _factor_of(series) == pytest.approx(_factor(3690), rel=1e-9)


def test_ges_scan_time_is_read_from_implicit_bytes_too(make, pet):
    series = pet(SeriesTime="143000", AcquisitionTime="100200")
    for ds in series:
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "UN", b"20250310100130.00 ")

    assert _factor_of(series) == pytest.approx(_factor(3690), rel=1e-9)


def test_a_later_series_time_without_ge_is_replaced_by_the_frames_own_times(pet):
    """Acquisition time less frame reference time plus the time of the average count rate."""
    rate = math.log(2) / HALF_LIFE_S
    x = rate * 240
    average_s = math.log(x / (1 - math.exp(-x))) / rate
    series = pet(SeriesTime="143000", AcquisitionTime="100300", FrameReferenceTime=180000 + 1000 * average_s)

    assert _factor_of(series) == pytest.approx(_factor(3600), rel=1e-9)


def test_the_average_count_rate_of_a_short_frame_is_at_its_middle_and_of_a_long_one_before(pet):
    short, long = pet(ActualFrameDuration=1000)[0], pet(ActualFrameDuration=7_200_000)[0]

    assert average_count_rate_time_s(short) == pytest.approx(0.5, rel=1e-4)
    time_s = average_count_rate_time_s(long)
    # At that time the rate is its mean over the frame: (1 - exp(-lambda T)) / (lambda T) of its start.
    rate = math.log(2) / HALF_LIFE_S
    assert math.exp(-rate * time_s) == pytest.approx((1 - math.exp(-rate * 7200)) / (rate * 7200), rel=1e-12)
    assert time_s < 3600


def test_a_start_datetime_tells_the_day_that_a_start_time_does_not(pet):
    series = pet(
        SeriesDate="20250314",
        AcquisitionDate="20250314",
        isotope_RadionuclideHalfLife=282_276,  # Zr-89, imaged four days after the injection
        isotope_RadiopharmaceuticalStartDateTime="20250310090000",
    )

    elapsed_s = 4 * 86400 + 3600
    assert _factor_of(series) == pytest.approx(_factor(elapsed_s, half_life_s=282_276), rel=1e-9)


def test_a_start_time_alone_of_an_isotope_that_lasts_for_days_is_refused(pet):
    with pytest.raises(UnknownUnits, match=r"\(0018,1072\) 09:00:00 has no date, .* 45721 s more than one day fits"):
        suv_factors(pet(isotope_RadionuclideHalfLife=45721))  # Cu-64


def test_a_start_datetime_without_a_start_time_is_enough(pet):
    series = pet(isotope_RadiopharmaceuticalStartTime=None, isotope_RadiopharmaceuticalStartDateTime="20250310083000.5")

    assert _factor_of(series) == pytest.approx(_factor(5399.5), rel=1e-9)


@pytest.mark.parametrize(("seconds", "refused"), [("090059", False), ("085901", False), ("090101", True)])
def test_start_datetime_and_start_time_may_differ_by_a_minute(pet, seconds, refused):
    series = pet(isotope_RadiopharmaceuticalStartDateTime=f"20250310{seconds}")

    if refused:
        with pytest.raises(UnknownUnits, match=r"is 09:01:01 on the scanner's clock, but .* is 09:00:00"):
            suv_factors(series)
    else:
        assert _factor_of(series) == pytest.approx(_factor(3600), rel=0.01)


def test_the_two_clocks_are_compared_over_midnight(pet):
    series = pet(
        SeriesTime="003000",
        AcquisitionTime="003000",
        isotope_RadiopharmaceuticalStartTime="000010",
        isotope_RadiopharmaceuticalStartDateTime="20250309235950",
    )

    assert _factor_of(series) == pytest.approx(_factor(1810), rel=1e-9)


@pytest.mark.parametrize(
    ("stated", "own"),
    [
        ("20250310080000+0000", "+0100"),
        ("20250310040000-0400", "+0100"),
        ("20250309213000-1030", "+0100"),
        ("20250310090000", "+0100"),
        ("20250310090000+0545", None),
    ],
)
def test_an_offset_from_utc_is_converted_where_the_scanners_own_is_known(pet, stated, own):
    series = pet(TimezoneOffsetFromUTC=own, isotope_RadiopharmaceuticalStartDateTime=stated)

    assert _factor_of(series) == pytest.approx(_factor(3600), rel=1e-9)


def test_an_offset_that_contradicts_the_start_time_is_refused(pet):
    series = pet(TimezoneOffsetFromUTC="+0200", isotope_RadiopharmaceuticalStartDateTime="20250310090000+0100")

    with pytest.raises(UnknownUnits, match=r"is 10:00:00 on the scanner's clock, .* is 09:00:00; .* \(0008,0201\)"):
        suv_factors(series)


def test_offsets_that_are_more_than_a_day_apart_are_refused(pet):
    series = pet(
        TimezoneOffsetFromUTC="-1130",
        isotope_RadiopharmaceuticalStartTime=None,
        isotope_RadiopharmaceuticalStartDateTime="20250310090000+1400",
    )

    with pytest.raises(
        UnknownUnits, match=r"\+1400 and Timezone Offset From UTC \(0008,0201\) -1130 are more than 24 h"
    ):
        suv_factors(series)


@pytest.mark.parametrize(
    "attributes",
    [
        {"TimezoneOffsetFromUTC": "+1", "isotope_RadiopharmaceuticalStartDateTime": "20250310090000+0100"},
        {"TimezoneOffsetFromUTC": "+1500", "isotope_RadiopharmaceuticalStartDateTime": "20250310090000+0100"},
        {"isotope_RadiopharmaceuticalStartDateTime": "20250310090000+1500"},
        {"isotope_RadiopharmaceuticalStartDateTime": "20250310"},
        {"isotope_RadiopharmaceuticalStartDateTime": "2025031009"},
        {"isotope_RadiopharmaceuticalStartTime": "09"},
    ],
)
def test_a_time_or_an_offset_that_is_none_is_refused(pet, attributes):
    with pytest.raises(MissingAttribute, match="which cannot be read"):
        suv_factors(pet(**attributes))


def test_a_start_time_later_than_the_scan_was_the_day_before(pet):
    series = pet(SeriesTime="001500", AcquisitionTime="001500", isotope_RadiopharmaceuticalStartTime="233000")

    assert _factor_of(series) == pytest.approx(_factor(2700), rel=1e-9)


def test_grams_per_millilitre_are_taken_as_they_are(make, pet):
    series = pet(Units="GML", PatientWeight=None, CorrectedImage=None, RadiopharmaceuticalInformationSequence=None)

    assert _factor_of(series) == 1
    np.testing.assert_array_equal(stack(make.slices(series)).voxels[0], make.voxels()[0])


def test_an_acquisition_without_date_is_of_the_series_date(pet):
    assert _factor_of(pet(AcquisitionDate=None)) == pytest.approx(_factor(3600), rel=1e-9)


@pytest.mark.parametrize("creators_place", [0x10, 0x11])
@pytest.mark.parametrize(
    ("group", "creator", "element"), [(0x0009, "GEMS_PETD_01", 0x0D), (0x0071, "SIEMENS MED PT", 0x22)]
)
def test_a_makers_scan_start_is_read_from_implicit_files(make, pet, group, creator, element, creators_place):
    series = pet(SeriesTime="143000", AcquisitionTime="100200")
    for ds in series:
        if creators_place == 0x11:
            ds.private_block(group, "ANOTHER MAKER", create=True)
        ds.private_block(group, creator, create=True).add_new(element, "DT", "20250310100130.000000")
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    assert _factor_of([item.dataset for item in make.slices(series)]) == pytest.approx(_factor(3690), rel=1e-9)


@pytest.mark.parametrize("series_time", ["100000", "143000"], ids=["of the scan", "of a reconstruction"])
def test_siemens_says_itself_to_when_its_images_were_corrected(pet, series_time):
    """Of several injections in one session the images are corrected to another time than the first acquisition."""
    series = pet(SeriesTime=series_time, AcquisitionTime="100500", Manufacturer="SIEMENS")
    for ds in series:
        ds.private_block(0x0071, "SIEMENS MED PT", create=True).add_new(0x22, "DT", "20250310100300.500000")

    assert _factor_of(series) == pytest.approx(_factor(3780.5), rel=1e-9)


def test_a_makers_scan_start_that_differs_between_slices_is_refused(pet):
    series = pet()
    series[1].private_block(0x0071, "SIEMENS MED PT", create=True).add_new(0x22, "DT", "20250310100300")

    with pytest.raises(UnknownUnits, match=r"\(0071,xx22\) differs between slices \(20250310100300, absent\)"):
        suv_factors(series)


@pytest.mark.parametrize("maker", ["Philips Medical Systems", "CANON_MEC", "UIH", "TOSHIBA", "SIEMENS"])
@pytest.mark.parametrize("later", ["", "143000"], ids=["a scan's series time", "a later series time"])
def test_every_maker_without_a_statement_of_its_own_has_the_same_rule(pet, maker, later):
    """Two bed positions, of which the second came first in the list; it was taken five minutes after the first."""
    average_ms = 1000 * average_count_rate_time_s(pet()[0])
    series = pet(Manufacturer=maker, SeriesTime=later or "100000", FrameReferenceTime=300_000 + average_ms)
    for ds, clock in zip(series, ("100600", "100600", "100100", "100100", "100100"), strict=True):
        ds.AcquisitionTime = clock
        if clock == "100100":
            ds.FrameReferenceTime = average_ms

    assert _factor_of(series) == pytest.approx(_factor(3600 if not later else 3660), rel=1e-9)


def test_ges_frame_reference_time_counts_to_the_start_of_the_frame(pet):
    series = pet(Manufacturer="GE MEDICAL SYSTEMS", SeriesTime="143000", AcquisitionTime="100500")
    for ds in series:
        ds.FrameReferenceTime = 300_000
    series[4].AcquisitionTime, series[4].FrameReferenceTime = "100000", 0  # the first bed position

    assert _factor_of(series) == pytest.approx(_factor(3600), rel=1e-9)


@pytest.mark.parametrize(("maker", "reference_ms"), [("UIH", 0), ("UIH", -5), ("GE MEDICAL SYSTEMS", -5)])
def test_a_frame_reference_time_that_was_not_filled_is_refused(pet, maker, reference_ms):
    with pytest.raises(
        MissingAttribute, match=rf"FrameReferenceTime \(0054,1300\) is {reference_ms}, so the scan start"
    ):
        suv_factors(pet(Manufacturer=maker, SeriesTime="143000", FrameReferenceTime=reference_ms))


def test_a_part_of_a_series_has_the_scan_start_of_the_whole(pet):
    series = pet(AcquisitionTime="101000")
    series[0].AcquisitionTime = "095000"  # before the series time
    for number, ds in enumerate(series):
        ds.FrameReferenceTime = 1000 * average_count_rate_time_s(ds) + 600_000 * (number > 0)
    series[0].AcquisitionTime = "100000"

    for ds in series:
        ds.SeriesTime = "143000"
    assert suv_factors(series[3:], series=series) == pytest.approx([_factor(3600)] * 2, rel=1e-9)
    assert suv_factors(series[3:], series=series).shape == (2,)


@pytest.mark.parametrize(("apart_ms", "refused"), [(9_000, False), (11_000, True)])
def test_frames_that_lead_to_several_scan_starts_are_refused(pet, apart_ms, refused):
    """GE's series hold the time of the first bed position in every slice; counted back, each bed has another start."""
    series = pet(SeriesTime="143000", FrameReferenceTime=300_000)
    series[2].FrameReferenceTime = 300_000 + apart_ms

    if refused:
        with pytest.raises(
            UnknownUnits, match=r"\(0054,1300\) puts the scan start at 09:56:48 in one slice and at 09:56:59"
        ):
            suv_factors(series)
    else:
        assert _factor_of(series) == pytest.approx(_factor(3600 - 180), rel=2e-3)


# --- decay correction NONE --------------------------------------------------------------------------------------------


def test_without_decay_correction_each_slice_has_the_dose_of_its_own_time(pet):
    """A point source of known activity: its mean over each frame, integrated in small steps, has one SUV."""
    series = pet(DecayCorrection="NONE", CorrectedImage=["ATTN", "SCAT"], ActualFrameDuration=1_200_000)
    for number, ds in enumerate(series):
        ds.AcquisitionTime = f"1{number}0730"
    factors = suv_factors(series)

    steps_s = (np.arange(200_000) + 0.5) * 1200 / 200_000
    for number, factor in enumerate(factors):
        since_injection_s = 3600 * (number + 1) + 450 + steps_s
        mean_activity = np.mean(5000.0 * 2 ** (-since_injection_s / HALF_LIFE_S))
        assert factor * mean_activity == pytest.approx(5000 * 1000 * WEIGHT_KG / DOSE_BQ, rel=1e-9)
    assert len(set(factors)) == 5


def test_without_decay_correction_a_volume_has_each_slices_own_factor(make, pet):
    series = pet(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    for number, ds in enumerate(series):
        ds.AcquisitionTime = f"10{10 * number:02}00"

    volume = stack(make.slices(series))

    for stored, ds, factor, voxels in zip(make.voxels(), series, suv_factors(series), volume.voxels, strict=True):
        np.testing.assert_allclose(voxels, stored * float(ds.RescaleSlope) * factor, rtol=1e-6)


def test_without_decay_correction_a_scan_over_midnight_has_one_injection(pet):
    series = pet(
        DecayCorrection="NONE",
        CorrectedImage=["ATTN"],
        SeriesTime="233000",
        isotope_RadiopharmaceuticalStartTime="2300",
    )
    for ds, (day, clock) in zip(
        series, [("10", "2330"), ("10", "2340"), ("10", "2350"), ("11", "0000"), ("11", "0010")], strict=True
    ):
        ds.AcquisitionDate, ds.AcquisitionTime = f"202503{day}", clock

    average_s = average_count_rate_time_s(series[0])
    expected = [_factor(1800 + 600 * number + average_s) for number in range(5)]
    np.testing.assert_allclose(suv_factors(series), expected, rtol=1e-9)
    np.testing.assert_allclose(suv_factors(series[4:], series=series), expected[4:], rtol=1e-9)


@pytest.mark.parametrize("keyword", ["ActualFrameDuration", "AcquisitionTime"])
def test_without_decay_correction_the_times_of_frames_are_needed(pet, keyword):
    series = pet(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    del series[3][keyword]

    with pytest.raises(MissingAttribute, match=keyword):
        suv_factors(series)


def test_without_decay_correction_an_acquisition_time_that_is_not_of_the_frame_is_refused(pet):
    series = pet(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    series[2].FrameReferenceTime = 420_000

    with pytest.raises(
        UnknownUnits, match=r"10:00:00 have Frame Reference Times \(0054,1300\) from 120000 to 420000 ms"
    ):
        suv_factors(series)


def test_without_decay_correction_attenuation_still_must_be_corrected(pet):
    with pytest.raises(UnknownUnits, match="lacks ATTN, so BQML"):
        suv_factors(pet(DecayCorrection="NONE", CorrectedImage=["SCAT"]))


# --- Philips' counts --------------------------------------------------------------------------------------------------


def _philips(series, suv=None, activity=None, vr="DS"):
    for ds in series:
        block = ds.private_block(0x7053, "Philips PET Private Group", create=True)
        for element, value in ((0x00, suv), (0x09, activity)):
            if value is not None:
                block.add_new(element, vr, value.encode() if vr == "UN" else value)
    return series


@pytest.mark.parametrize("activity", [None, "1.75", "0"])
def test_counts_become_suv_by_philips_own_factor(pet, activity):
    series = _philips(pet(Units="CNTS", PatientWeight=None), suv="0.000551", activity=activity)

    assert _factor_of(series) == 0.000551


@pytest.mark.parametrize("suv", [None, "0", "0.000000", ""])
def test_counts_become_activities_where_philips_computed_no_suv(pet, suv):
    series = _philips(pet(Units="CNTS"), suv=suv, activity="1.75")

    assert _factor_of(series) == pytest.approx(1.75 * _factor(3600), rel=1e-9)


def test_philips_factors_are_those_of_each_slice(pet):
    series = pet(Units="CNTS")
    for number, ds in enumerate(series):
        _philips([ds], activity=f"{1 + number}")

    np.testing.assert_allclose(suv_factors(series), np.arange(1, 6) * _factor(3600), rtol=1e-9)
    np.testing.assert_allclose(suv_factors(series[3:], series=series), np.arange(4, 6) * _factor(3600), rtol=1e-9)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_philips_factors_are_read_from_unknown_bytes(make, pet, syntax):
    series = _philips(pet(Units="CNTS"), suv="0.000551 ", vr="UN")
    assert _factor_of(series) == 0.000551

    for ds in series:
        ds.file_meta.TransferSyntaxUID = syntax
    assert _factor_of([item.dataset for item in make.slices(series)]) == 0.000551


def test_counts_of_philips_become_other_suvs_through_body_weight(pet):
    series = _philips(pet(Units="CNTS", PatientSize=1.68, PatientSex="F"), suv="0.000551")

    assert _factor_of(series, kind="BSA") == pytest.approx(0.000551 * _bsa_cm2() / (1000 * WEIGHT_KG), rel=1e-12)


@pytest.mark.parametrize(
    ("factors", "attributes", "sentence"),
    [
        ({"suv": "0", "activity": "0"}, {}, r"neither Philips' SUV Scale Factor \(7053,xx00\) nor its Activity"),
        ({"suv": "-1"}, {}, r"\(7053,xx00\) is -1"),
        ({"activity": "nan"}, {}, r"\(7053,xx09\) is nan"),
        ({"suv": "1.2,5"}, {}, r"\(7053,xx00\) .*1\.2,5.*cannot be read"),
        ({"suv": "0.0005"}, {"CorrectedImage": ["DECY"]}, "lacks ATTN, so CNTS are not"),
        ({"suv": "0.0005"}, {"CorrectedImage": ["ATTN"], "DecayCorrection": "NONE"}, "needs START or ADMIN"),
    ],
)
def test_counts_that_give_no_suv_are_refused(pet, factors, attributes, sentence):
    series = _philips(pet(Units="CNTS", **attributes), **factors, vr="UN")

    with pytest.raises(Rejected, match=sentence):
        suv_factors(series)


def test_counts_of_which_one_slice_has_no_factor_are_refused(pet):
    series = pet(Units="CNTS")
    _philips(series[:-1], suv="0.0005", activity="2")
    _philips(series[-1:], activity="2")

    with pytest.raises(UnknownUnits, match="in all slices"):
        suv_factors(series)


# --- kinds of SUV -----------------------------------------------------------------------------------------------------


def _bsa_cm2(weight_kg=WEIGHT_KG, height_cm=168):
    """Du Bois, in logarithms."""
    return 1e4 * 0.007184 * math.exp(0.425 * math.log(weight_kg) + 0.725 * math.log(height_cm))


def _lbm_g(sex, weight_kg=WEIGHT_KG, height_cm=168):
    bmi = 1e4 * weight_kg / height_cm**2
    return 9.27e6 * weight_kg / (8780 + 244 * bmi if sex == "F" else 6680 + 216 * bmi)


def test_the_formulas_of_body_size_written_out(pet):
    """70 kg and 1.70 m: 0.007184 * 6.0831 * 41.41 m2; 648900 / 11911.8 and 648900 / 14690.0 kg."""
    man, woman = (pet(PatientWeight=70, PatientSize=1.7, PatientSex=sex)[0] for sex in "MF")

    assert body_surface_area_cm2(man) == pytest.approx(18097, abs=1)
    assert lean_body_mass_g(man) == pytest.approx(54475, abs=1)
    assert lean_body_mass_g(woman) == pytest.approx(44173, abs=1)


@pytest.mark.parametrize(
    ("kind", "units"), [("BW", "g/ml{SUVbw}"), ("BSA", "cm2/ml{SUVbsa}"), ("LBM", "g/ml{SUVlbm(Janma)}")]
)
def test_each_kind_has_its_units(kind, units):
    assert units_of(kind) == units


def test_an_unknown_kind_is_refused(pet):
    with pytest.raises(Rejected, match="SUV kind IBW is unknown; ask for one of BW, BSA, LBM"):
        suv_factors(pet(), kind="IBW")


@pytest.mark.parametrize(
    ("kind", "sex", "norm"), [("BSA", None, _bsa_cm2()), ("LBM", "F", _lbm_g("F")), ("LBM", "M", _lbm_g("M"))]
)
def test_activity_is_measured_by_surface_or_lean_mass(pet, kind, sex, norm):
    series = pet(PatientSize=1.68, PatientSex=sex)

    assert _factor_of(series, kind=kind) == pytest.approx(_factor(3600) * norm / (1000 * WEIGHT_KG), rel=1e-12)


NORMS = {"BW": 1000 * WEIGHT_KG, "BSA": _bsa_cm2(), "LBMJANMA": _lbm_g("F")}


@pytest.mark.parametrize("stored", NORMS)
@pytest.mark.parametrize("kind", ["BW", "BSA", "LBM"])
def test_a_stored_suv_becomes_another_through_the_patients_size(pet, stored, kind):
    series = pet(
        Units="CM2ML" if stored == "BSA" else "GML",
        SUVType=stored,
        PatientSize=1.68,
        PatientSex="F",
        CorrectedImage=None,
    )

    expected = NORMS["LBMJANMA" if kind == "LBM" else kind] / NORMS[stored]
    assert _factor_of(series, kind=kind) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("units", "stored", "kind"), [("GML", None, "BW"), ("CM2ML", None, "BSA"), ("GML", "LBMJANMA", "LBM")]
)
def test_a_stored_suv_of_the_kind_that_is_asked_for_needs_no_size(pet, units, stored, kind):
    assert _factor_of(pet(Units=units, SUVType=stored, PatientWeight=None), kind=kind) == 1


@pytest.mark.parametrize("stored", ["LBM", "LBMJAMES128", "IBW", "SUVPEAK"])
@pytest.mark.parametrize("kind", ["BW", "BSA", "LBM"])
def test_a_stored_suv_by_another_formula_is_refused(pet, stored, kind):
    with pytest.raises(UnknownUnits, match=rf"SUV Type \(0054,1006\) is {stored}.* not computed here"):
        suv_factors(pet(Units="GML", SUVType=stored, PatientSize=1.68, PatientSex="F"), kind=kind)


@pytest.mark.parametrize(
    ("attributes", "kind", "sentence"),
    [
        ({"PatientSize": None}, "BSA", r"has no PatientSize \(0010,1020\)"),
        ({"PatientSize": 0}, "LBM", r"PatientSize \(0010,1020\) is 0"),
        ({"PatientSize": 168}, "BSA", r"is 168 m, which nobody is; correct it if it is in cm"),
        ({"PatientSize": 0.0168}, "LBM", "is 0.0168 m, which nobody is"),
        ({"PatientWeight": 71500}, "BSA", "is 71500 kg; correct it if it is in g"),
        ({"PatientWeight": None}, "LBM", r"has no PatientWeight \(0010,1030\)"),
        ({"PatientSex": None}, "LBM", r"has no PatientSex \(0010,0040\)"),
        (
            {"PatientSex": "O"},
            "LBM",
            r"PatientSex \(0010,0040\) is O, and lean body mass has formulas for M and F only",
        ),
    ],
)
def test_a_body_that_is_unknown_or_impossible_is_refused(pet, attributes, kind, sentence):
    with pytest.raises(Rejected, match=f"PET series 2.25.772.*{sentence}"):
        suv_factors(pet(**{"PatientSize": 1.68, "PatientSex": "F"} | attributes), kind=kind)


@pytest.mark.parametrize(("keyword", "value"), [("PatientSize", 1.71), ("PatientSex", "M")])
def test_a_body_that_differs_between_slices_is_refused_where_it_is_used(pet, keyword, value):
    series = pet(PatientSize=1.68, PatientSex="F")
    series[2][keyword].value = value

    assert _factor_of(series) == pytest.approx(_factor(3600), rel=1e-9)
    with pytest.raises(UnknownUnits, match=f"{keyword} .* differs between slices"):
        suv_factors(series, kind="LBM")


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
        ({"Units": "CNTS"}, r"are CNTS, and neither Philips' SUV Scale Factor \(7053,xx00\) nor"),
        ({"Units": None}, r"Units \(0054,1001\) are absent"),
        ({"Units": "PROPCPS"}, r"Units \(0054,1001\) are PROPCPS, and only BQML, GML, CM2ML and Philips' CNTS"),
        ({"Units": "CPS"}, r"Units \(0054,1001\) are CPS"),
        ({"Units": "GML", "SUVType": "LBM"}, r"SUV Type \(0054,1006\) is LBM, lean body mass by James's formula"),
        ({"Units": "GML", "SUVType": "BSA"}, r"SUV Type \(0054,1006\) BSA contradicts Units \(0054,1001\) GML"),
        ({"Units": "CM2ML", "SUVType": "BW"}, r"SUV Type \(0054,1006\) BW contradicts Units \(0054,1001\) CM2ML"),
        ({"DecayCorrection": "NONE"}, r"with DECY, but Decay Correction \(0054,1102\) is NONE"),
        ({"DecayCorrection": None}, r"Decay Correction \(0054,1102\) is absent"),
        ({"CorrectedImage": ["DECY", "SCAT"]}, r"lacks ATTN"),
        ({"CorrectedImage": ["ATTN"]}, r"lacks DECY"),
        ({"CorrectedImage": None}, r"lacks ATTN and DECY"),
        ({"isotope_RadionuclideTotalDose": 370}, r"\(0018,1074\) is 370, too little for Bq"),
        (
            {
                "isotope_RadiopharmaceuticalStartDateTime": "20250310110000",
                "isotope_RadiopharmaceuticalStartTime": None,
            },
            r"lies -3600 s before the scan start",
        ),
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
        _factor_of(series)
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

    assert _factor_of(series) == pytest.approx(_factor(3600), rel=1e-9)


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
        _factor_of(series)


def test_a_refused_pet_stops_no_other_series(make, pet, tmp_path):
    make.folder(pet(PatientWeight=None), tmp_path / "pet")
    make.folder(make.series("CT", SeriesInstanceUID="2.25.9"), tmp_path / "ct")

    readout = volumes([tmp_path])

    assert [one.modality for one in readout.volumes] == ["CT"]
    assert "PatientWeight" in readout.refused[0][1]


# --- a crop by a mask -------------------------------------------------------------------------------------------------


@pytest.fixture
def lesion(make, pet):
    """(volume of 5 x 7 x 4, mask of the voxels (1, 3, 2) and (2, 4, 2) on it)."""
    volume = stack(make.slices(pet()))
    mask = np.zeros(volume.spatial_shape, np.float32)
    mask[1, 3, 2] = mask[2, 4, 2] = 1
    return volume, volume.with_voxels(mask, units="1")


@pytest.mark.parametrize(
    ("margin_mm", "start", "stop"),
    [
        (0, (1, 3, 2), (3, 5, 3)),
        (0.75, (0, 2, 1), (4, 6, 4)),  # steps of 2.5, 0.75 and 1.3 mm: a part of a voxel is a voxel
        (1.4, (0, 1, 0), (4, 7, 4)),
        (100, (0, 0, 0), (5, 7, 4)),
    ],
)
def test_a_crop_holds_the_mask_and_a_margin_in_each_direction(lesion, margin_mm, start, stop):
    volume, mask = lesion

    cropped = volume.crop_to(mask, margin_mm)

    block = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
    np.testing.assert_array_equal(cropped.voxels, volume.voxels[block])
    np.testing.assert_allclose(cropped.position_mm((0, 0, 0)), volume.position_mm(start), atol=1e-9)
    assert cropped.sources == volume.sources[block[0]] and cropped.units == "g/ml{SUVbw}"
    assert mask.crop_to(mask, margin_mm).same_grid_as(cropped)


def test_a_crop_keeps_all_channels(lesion):
    volume, mask = lesion

    cropped = stack_channels([volume, mask]).crop_to(mask, 0)

    np.testing.assert_array_equal(cropped.voxels, [volume.voxels[1:3, 3:5, 2:3], mask.voxels[1:3, 3:5, 2:3]])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda mask: mask.with_voxels(0 * mask.voxels), "mask of 5 x 7 x 4 voxels is empty"),
        (lambda mask: mask.crop((0, 0, 0), (5, 7, 3)), "5 x 7 x 3 voxels .* not on the grid of the volume, 5 x 7 x 4"),
        (
            lambda mask: replace(mask, frame_of_reference_uid="2.25.5"),
            "in frame of reference 2.25.5 is not on the grid",
        ),
    ],
)
def test_an_empty_mask_or_one_on_another_grid_crops_nothing(lesion, spoil, sentence):
    volume, mask = lesion

    with pytest.raises(Rejected, match=sentence):
        volume.crop_to(spoil(mask), 5)


@pytest.mark.parametrize("margin_mm", [-1, float("nan"), float("inf")])
def test_a_margin_that_is_no_length_is_refused(lesion, margin_mm):
    volume, mask = lesion

    with pytest.raises(Rejected, match=f"margin of {margin_mm} mm"):
        volume.crop_to(mask, margin_mm)


def test_a_real_pet_is_cropped_to_its_tumour(test_data, sarcoma_pets):
    """The tumour's voxels, and all of its uptake, are inside; the crop is no larger than tumour and margin."""
    pet = sarcoma_pets["STS_003"].volume
    (path,) = (test_data / "pet-suv-sarcoma/STS_003").glob("*.nii*")
    mask = nifti.mask_on(path, pet)

    cropped, inside = pet.crop_to(mask, 10), mask.crop_to(mask, 10)

    assert inside.voxels.sum() == mask.voxels.sum() > 0
    assert cropped.voxels[inside.voxels > 0].sum() == pytest.approx(pet.voxels[mask.voxels > 0].sum())
    extent_mm = [n * step for n, step in zip(mask.crop_to(mask, 0).spatial_shape, pet.spacing_mm, strict=True)]
    for n, step, extent in zip(cropped.spatial_shape, pet.spacing_mm, extent_mm, strict=True):
        assert n * step <= extent + 2 * (10 + step)


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
    files = {ds.SOPInstanceUID: ds for ds in map(read, sorted((test_data / "pet-fdg-raw/STS_001/FDG_PET").iterdir()))}
    factor = 71000 / (3.88777472e8 * 2 ** (-2711 / 6588))

    for number in (0, 133, 266):
        ds = files[one.volume.sources[number].sop_instance_uid]
        expected = ds.pixel_array * float(ds.RescaleSlope) * factor
        np.testing.assert_allclose(one.volume.voxels[number], expected, rtol=1e-6)
    assert one.volume.voxels.max() == pytest.approx(66.5215, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "theirs"), [("BW", "body_weight"), ("BSA", "body_surface_area"), ("LBM", "lean_body_mass_bmi")]
)
def test_the_real_series_has_the_suv_of_an_independent_radiomics_package(test_data, monkeypatch, kind, theirs):
    """MIRP (IBSI-compliant). It imports itk (1.5 GB) for NIfTI files only, which are not read here."""
    pytest.importorskip("mirp", reason="mirp is not installed; `pip install --no-deps mirp` and its light dependencies")
    try:
        import itk  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "itk", types.ModuleType("itk"))
    from mirp._data_import.read_data import read_image
    from mirp.data_import.import_image import import_image

    folder = test_data / "pet-fdg-raw/STS_001/FDG_PET"
    their_image = read_image(import_image(str(folder))[0], pet_suv_conversion=theirs)[0]
    (one,) = volumes([folder], suv=kind).volumes

    assert one.volume.units == units_of(kind)
    np.testing.assert_allclose(one.volume.voxels, their_image.get_voxel_grid(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.volume.affine[:3, 3], their_image.image_origin[::-1], atol=1e-6)


@pytest.mark.parametrize("patient", ["STS_009", "STS_010", "STS_014", "STS_016", "STS_021"])
def test_ges_real_frames_lead_back_to_the_series_time(sarcoma_pets, patient):
    """Frames taken 15 and 18 minutes after the start: were the Series Time lost, the same start would be found."""
    datasets = [copy.deepcopy(ds) for ds in sarcoma_pets[patient].datasets]
    start = scan_start(datasets)
    assert (acquisition(datasets[0]) - start).total_seconds() in (915, 1098)

    for ds in datasets:
        ds.SeriesTime = "235900"

    assert scan_start(datasets) == start


def test_the_real_series_with_the_time_of_a_later_processing_is_refused(test_data):
    """Its beds bear one acquisition time and reference times from 0 to 20 minutes: the scan start cannot be told."""
    (one,) = volumes([test_data / "pet-fdg-raw/STS_001/FDG_PET"]).volumes
    for ds in one.datasets:
        ds.SeriesTime = "150000"

    with pytest.raises(UnknownUnits, match="puts the scan start at 10:59:56 in one slice and at 11:20:11 in another"):
        suv_factors(one.datasets)


def test_the_real_series_without_dose_is_refused_by_name(test_data):
    (one,) = volumes([test_data / "pet-fdg-raw/STS_001/FDG_PET"]).volumes
    for ds in one.datasets:
        del ds.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose

    with pytest.raises(Rejected, match="RadionuclideTotalDose"):
        _factor_of(one.datasets)
