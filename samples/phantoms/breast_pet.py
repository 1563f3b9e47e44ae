"""Breast PET with [18F]FDG: a prone thorax with pendant breasts, two bed positions, hot lesions of known SUV.

Activity is built as SUVbw, blurred by the scanner's resolution, turned into counts (Poisson), smoothed as
reconstruction does, and stored as Bq/ml with a slope per slice that fills 16 bits.

    Bq/ml = SUVbw * dose at the start of the scan in Bq / weight in g        (inverse of the SUV formula, PS3.3 C.8.9.1)

truth.json: "lesions": [{"side": "L" | "R", "where": "breast" | "axilla", "centre_mm": patient LPS, "diameter_mm",
"suv", "suv_max_seen", "voxels"}] where "suv" is what was put in and "suv_max_seen" the largest noise-free voxel after
blurring (partial volume); "slices_with_lesion": indices along the normal, ascending; "mask"; "suv", the noise-free
SUVbw as a scanner without counting noise would see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage
from scipy import ndimage

from dicom_io.volume import Volume
from samples.phantoms.grid import Grid
from samples.phantoms.instance import Acquisition, begin, code, encode, number, set_pixels, stamp
from samples.phantoms.patient import Patient, fictitious, stream
from samples.phantoms.study import PhantomStudy, write
from samples.phantoms.texture import Field, Lattice, ellipsoid, inside, joined, tube

Position = tuple[Field, Field, Field]
Paint = Callable[..., None]

HALF_LIFE_S = 6586.2  # fluorine-18
_POSITRON_FRACTION = 0.967
_RESOLUTION_MM = 4.5  # full width at half maximum of the scanner, and again of the reconstruction's filter
_FILTER_MM = 4.5
_FRAME_S = 180
_MOVE_S = 6

SUV = {
    "fat": 0.28, "muscle": 0.75, "skin": 0.6, "gland": 1.05, "lung": 0.42, "mediastinum": 1.5, "blood": 1.75,
    "marrow": 1.35, "liver": 2.3, "spleen": 1.9, "nipple": 1.4,
}  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """When and how much. Times are local; each bed position takes a frame. dose_bq: at injection."""

    injection: datetime
    start: datetime
    dose_bq: float
    decay_correction: Literal["START", "ADMIN"]

    def factor(self, into_scan_s: float) -> float:
        """Decay Factor (0054,1321): counts were multiplied by it to undo the decay up to `into_scan_s` of the scan."""
        waited_s = (self.start - self.injection).total_seconds() if self.decay_correction == "ADMIN" else 0.0
        return float(2.0 ** ((waited_s + into_scan_s) / HALF_LIFE_S))

    def bq_ml_per_suv(self, patient: Patient) -> float:
        """Of the dose as it is at the moment that pixel values are corrected to."""
        waited_s = (self.start - self.injection).total_seconds() if self.decay_correction == "START" else 0.0
        return float(self.dose_bq * 2.0 ** (-waited_s / HALF_LIFE_S) / (patient.weight_kg * 1000))

    @property
    def mean_activity_time_s(self) -> float:
        """Time from a frame's start at which activity has its mean over the frame (PS3.3 C.8.9.4.1.5)."""
        rate = np.log(2) / HALF_LIFE_S
        return float(np.log(rate * _FRAME_S / (1 - np.exp(-rate * _FRAME_S))) / rate)


@dataclass(frozen=True)
class Body:
    """A prone woman. Lengths in mm; body coordinates start at centre_mm (patient LPS), the axes are the patient's.

    half_width, half_depth: of the chest. hang: how far the right and the left breast reach forward from the chest wall.
    density: share of glandular tissue, 0 to 1. myocardium_suv: depends on diet and differs tenfold between patients.
    """

    centre_mm: tuple[float, float, float]
    half_width: float
    half_depth: float
    hang: tuple[float, float]
    density: float
    myocardium_suv: float

    def breast(self, side: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Centre and semi-axes of a breast in body coordinates. side: +1 left, -1 right."""
        hang = self.hang[(side + 1) // 2]
        return (side * self.half_width * 0.51, -self.half_depth + 12, 0.0), (
            self.half_width * 0.36,
            hang + 12,
            self.half_width * 0.38,
        )


@dataclass(frozen=True)
class Lesion:
    """A ball-like lesion. centre_mm: patient LPS. side: "L" or "R" of the patient."""

    side: str
    where: Literal["breast", "axilla"]
    centre_mm: tuple[float, ...]
    semi_axes_mm: tuple[float, ...]
    suv: float


def study(
    seed: int,
    folder: Path,
    *,
    lesions: bool | None = None,
    noise: bool = True,
    decay_correction: Literal["START", "ADMIN"] = "START",
    synthetic: bool = True,
) -> PhantomStudy:
    """Write one PET series of one patient, the lesion mask and the noise-free SUV.

    lesions: None lets the seed decide; two patients in three have some. noise=False stores the noise-free activity, so
    that SUVbw comes back within half a rescale slope. decay_correction: as (0054,1102). synthetic=False leaves out
    Synthetic Data and the synthesising equipment. Each variant has UIDs of its own.

    Raises:
        ValueError: the seed is negative.
    """
    rng = stream("breast-pet", seed, 1)
    drawn = bool(rng.random() < 2 / 3)  # drawn in any case, so that the choice changes nothing else
    ill = drawn if lesions is None else lesions
    variant = f"{'with' if ill else 'without'} lesions, {'with' if noise else 'without'} noise, {decay_correction}"
    acquisition = Acquisition("breast-pet", seed, fictitious("breast-pet", seed), synthetic, variant)
    grid, body = _place(rng, acquisition.patient)
    scan = _scan(rng, acquisition.patient, decay_correction)
    position = grid.positions(1)
    activity, room = _thorax(stream("breast-pet", seed, 2), body, position)
    hot = _lesions(stream("breast-pet", seed, 3), body, room, position) if ill else []
    fractions = [_fraction(lesion, position) for lesion in hot]
    for lesion, fraction in zip(hot, fractions, strict=True):
        activity += fraction * (np.float32(lesion.suv) - activity)
    mask = np.any([fraction >= 0.5 for fraction in fractions], axis=0) if fractions else np.zeros(grid.shape, bool)

    noise_free, counted = _measure(stream("breast-pet", seed, 4), activity, grid, scan)
    bq_ml = (counted if noise else noise_free).astype(np.float64) * scan.bq_ml_per_suv(acquisition.patient)
    encoded = [encode(_instance(acquisition, scan, grid, index, bq_ml[index])) for index in range(grid.shape[0])]
    sources = tuple(source for _, source in encoded)
    place = (grid.affine, acquisition.uid("frame of reference"))
    truth: dict[str, Any] = {
        "lesions": [_seen(*pair, noise_free) for pair in zip(hot, fractions, strict=True)],
        "slices_with_lesion": np.flatnonzero(mask.any(axis=(1, 2))).tolist(),
    }
    volumes = {
        "mask": Volume(mask.astype(np.float32), *place, "1", sources),
        "suv": Volume(noise_free, *place, "g/ml{SUVbw}", sources),
    }
    files = {f"pt-{index + 1:03d}.dcm": raw for index, (raw, _) in enumerate(encoded)}
    return write(acquisition, folder, files, truth, volumes)


def _place(rng: np.random.Generator, patient: Patient) -> tuple[Grid, Body]:
    """A heavier patient is wider. Rows and columns differ; the voxels are not cubes."""
    girth = float(np.clip(np.sqrt(patient.weight_kg / patient.height_m / 40), 0.85, 1.25))
    hang = rng.uniform(62, 96) * girth
    body = Body(
        centre_mm=(float(rng.uniform(-12, 12)), float(rng.uniform(-20, 20)), float(rng.uniform(-900, -300))),
        half_width=rng.uniform(150, 162) * girth,
        half_depth=rng.uniform(92, 102) * girth,
        hang=(hang * rng.uniform(0.93, 1.07), hang * rng.uniform(0.93, 1.07)),
        density=float(rng.uniform(0.1, 0.9)),
        myocardium_suv=float(np.clip(np.exp(rng.normal(1.1, 0.7)), 1.2, 11)),
    )
    pixel = float(np.round(rng.uniform(3.9, 4.3), 2))
    step = float(np.round(rng.uniform(3.4, 4.1), 2))
    extent = np.array([rng.uniform(150, 165), 2 * body.half_depth + hang + 45, 2 * body.half_width + 45])
    slices, rows, columns = (2 * int(np.ceil(n / 2)) for n in extent / [step, pixel, pixel])
    centre = np.array(body.centre_mm) + np.array([0, -hang / 2, -4])
    grid = Grid(
        (slices, rows, columns), (step, pixel, pixel), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.round(centre, 2)
    )
    return grid, body


def _scan(rng: np.random.Generator, patient: Patient, decay_correction: Literal["START", "ADMIN"]) -> Scan:
    start = patient.study_start + timedelta(minutes=4)
    injection = start - timedelta(seconds=int(rng.integers(55 * 60, 80 * 60)))
    return Scan(injection, start, float(np.round(patient.weight_kg * rng.uniform(3.0, 4.6), 1) * 1e6), decay_correction)


def _in_the_body(body: Body, position: Position) -> Position:
    x, y, z = (p - np.float32(c) for p, c in zip(position, body.centre_mm, strict=True))
    return x, y, z


def _thorax(rng: np.random.Generator, body: Body, position: Position) -> tuple[Field, Field]:
    """SUV of a body without disease, and in a breast the distance in mm from skin and chest wall (elsewhere < 0)."""
    x, y, z = _in_the_body(body, position)
    side = np.abs(x)
    a, b = body.half_width, body.half_depth
    small, large = Lattice(rng, 14.0), Lattice(rng, 45.0)
    fine, wave = small(x, y, z), large(x, y, z)

    # Chest: between an ellipse and a box, a little narrower towards the shoulders.
    breadth = a * (1 - 0.0006 * z)
    chest = (((side / breadth) ** 2.6 + np.abs(y / b) ** 2.6) ** (1 / 2.6) - 1) * np.float32(0.75 * b)
    breasts = np.minimum(*(ellipsoid((x, y, z), *body.breast(one)) for one in (-1, 1)))
    skin = joined(chest, breasts, 30.0) + 0.7 * wave
    wall = chest + 13 + 2.0 * wave + 10 * np.clip(-y / b, 0, 1) * np.exp(-((side / 45 - 1.7) ** 2))
    cavity = ellipsoid((x, y, z), (0, 4, -35), (a - 38, b - 28, 190)) + wave

    suv = np.full(x.shape, 0.012, np.float32)  # randoms and scatter that no correction removes

    def paint(distance: Field, value: float | Field, edge_mm: float = 3.0) -> None:
        nonlocal suv
        suv = suv + inside(distance, edge_mm) * (value - suv)

    paint(skin, SUV["skin"])
    paint(skin + 2.5, SUV["fat"])
    for one in (-1, 1):
        _gland(paint, body, one, (x, y, z), skin, 6 * wave + (9 - 5 * body.density) * fine)
    ribs = 0.25 * np.clip(np.cos((z + 0.5 * y) * (2 * np.pi / 31)), 0, 1) * np.exp(-(((cavity - 6) / 5) ** 2))
    paint(wall, SUV["muscle"] + 0.1 * fine + ribs)
    paint(cavity, SUV["lung"] * (1 + 0.25 * y / b) + 0.04 * fine)

    # What lies between the lungs; the left is x > 0.
    mediastinum = ellipsoid((x, y, z), (4, -8, 0), (32, b - 24, 400)) + 6 * wave
    paint(np.maximum(mediastinum, cavity), SUV["mediastinum"] * 0.8 + 0.12 * fine)
    arch = [(-22, -34, 20, 12), (-6, -40, 62, 13), (6, 10, 78, 12), (20, 48, 60, 11.5), (18, 52, -160, 11)]
    paint(tube((x, y, z), arch), SUV["blood"])
    paint(ellipsoid((x, y, z), (16, -28, -22), (50, 38, 44)), SUV["blood"])
    _left_ventricle(paint, body, (x, y, z))
    paint(ellipsoid((x, y), (0, b - 34), (21, 18)), SUV["marrow"] + 0.15 * np.cos(z * (2 * np.pi / 27)))
    paint(ellipsoid((x, y), (0, b - 16), (6, 14)), SUV["marrow"] * 0.6)
    paint(ellipsoid((x, y), (0, -b + 19), (17, 6)), SUV["marrow"] * 0.85)
    dome = 12 * np.exp(-(((y + 10) / 60) ** 2))
    liver = np.maximum(ellipsoid((x, y, z - dome), (-48, -5, -135), (88, b - 26, 78)), cavity + 3)
    paint(liver, SUV["liver"] + 0.1 * fine)
    paint(np.maximum(ellipsoid((x, y, z), (82, 32, -128), (38, 36, 58)), cavity + 3), SUV["spleen"])

    suv = suv * (1 + np.float32(0.07) * small(y, z, x))
    room = np.minimum(-skin, np.minimum(wall, -breasts))
    return np.clip(suv, 0, None).astype(np.float32), room.astype(np.float32)


def _gland(paint: Paint, body: Body, side: int, position: Position, skin: Field, ragged_mm: Field) -> None:
    """Glandular tissue behind the nipple, in lobes, with fat between; more of it in dense breasts."""
    (cx, cy, cz), (rx, ry, rz) = body.breast(side)
    spread = 0.45 + 0.3 * body.density
    cone = ellipsoid(position, (cx, cy - 0.42 * ry, cz - 4), (rx * spread, ry * 0.5, rz * spread))
    paint(np.maximum(cone + ragged_mm, skin + 6), SUV["gland"] * (0.75 + 0.5 * body.density), 6.0)
    paint(ellipsoid(position, (cx, cy - ry + 4, cz - 4), (7, 6, 7)), SUV["nipple"])


def _left_ventricle(paint: Paint, body: Body, position: Position) -> None:
    """A thick cup that opens to the back, the right and upwards: uptake in its wall, blood inside."""
    x, y, z = (p - np.float32(c) for p, c in zip(position, (46, -26, -36), strict=True))
    axis = np.array([0.62, -0.62, -0.48]) / np.linalg.norm([0.62, -0.62, -0.48])
    along = axis[0] * x + axis[1] * y + axis[2] * z
    away = np.sqrt(np.clip(x * x + y * y + z * z - along * along, 0, None))
    along, away = along.astype(np.float32), away.astype(np.float32)
    outer = ellipsoid((along, away), (0, 0), (45, 31))
    cavity = ellipsoid((along, away), (-6, 0), (38, 19))
    paint(np.maximum(outer, -26 - along), body.myocardium_suv)
    paint(cavity, SUV["blood"])


def _lesions(rng: np.random.Generator, body: Body, room: Field, position: Position) -> list[Lesion]:
    """One to three lesions of one breast, sometimes one of the other, sometimes a node in the same axilla."""
    first = int(rng.choice([-1, 1]))
    sides = [first] * int(rng.integers(1, 4)) + [-first] * int(rng.random() < 0.15)
    x = position[0] - np.float32(body.centre_mm[0])
    lesions: list[Lesion] = []
    for side in sides:
        radius = float(np.clip(np.exp(rng.normal(2.05, 0.35)), 4.5, 16))
        # Lesions never touch: each keeps its own SUV.
        apart = [ellipsoid(position, other.centre_mm, other.semi_axes_mm) > 1.3 * radius + 12 for other in lesions]
        own_room = np.where(np.logical_and.reduce([x * side > 0, *apart]), room, 0)
        candidates = np.flatnonzero(own_room > min(radius + 3, 0.8 * float(own_room.max())))
        chosen = int(rng.choice(candidates))
        centre = tuple(round(float(axis.flat[chosen]), 2) for axis in position)
        lesions.append(_lesion(rng, "breast", side, centre, radius))
    if rng.random() < 0.3:
        offset = (first * body.half_width * 0.78, -body.half_depth * 0.42, rng.uniform(48, 62))
        centre = tuple(round(float(c + o), 2) for c, o in zip(body.centre_mm, offset, strict=True))
        lesions.append(_lesion(rng, "axilla", first, centre, float(rng.uniform(5, 9))))
    return lesions


def _lesion(
    rng: np.random.Generator, where: Literal["breast", "axilla"], side: int, centre: tuple[float, ...], radius: float
) -> Lesion:
    semi_axes = tuple(float(np.round(radius * factor, 2)) for factor in rng.uniform(0.85, 1.2, 3))
    suv = round(float(np.clip(np.exp(rng.normal(1.75, 0.4)), 2.8, 14)), 2)
    return Lesion("L" if side > 0 else "R", where, centre, semi_axes, suv)


def _fraction(lesion: Lesion, position: Position) -> Field:
    """Share of each voxel that the lesion fills, to first order: a ramp of one voxel across its surface."""
    return inside(ellipsoid(position, lesion.centre_mm, lesion.semi_axes_mm), 4.0)


def _seen(lesion: Lesion, fraction: Field, noise_free: Field) -> dict[str, Any]:
    return {
        "side": lesion.side,
        "where": lesion.where,
        "centre_mm": list(lesion.centre_mm),
        "diameter_mm": round(2 * float(np.prod(lesion.semi_axes_mm)) ** (1 / 3), 2),
        "suv": lesion.suv,
        "suv_max_seen": round(float(noise_free[fraction >= 0.5].max()), 4),
        "voxels": int((fraction >= 0.5).sum()),
    }


def _measure(rng: np.random.Generator, activity: Field, grid: Grid, scan: Scan) -> tuple[Field, Field]:
    """SUV as the scanner's resolution leaves it, and the same from a finite number of counts."""
    steps = np.array(grid.spacing_mm)
    to_sigma = 1 / np.sqrt(8 * np.log(2))
    blurred = ndimage.gaussian_filter(activity, _RESOLUTION_MM * to_sigma / steps)
    # Counts per voxel and SUV: some 20 % noise in muscle before the filter at 250 MBq.
    sensitivity = 14.0 * scan.dose_bq / 2.5e8 * float(steps.prod()) / 64
    counts = rng.poisson(np.clip(blurred, 0, None).astype(np.float64) * sensitivity) / sensitivity
    smooth = _FILTER_MM * to_sigma / steps
    return ndimage.gaussian_filter(blurred, smooth), ndimage.gaussian_filter(counts.astype(np.float32), smooth)


def _instance(acquisition: Acquisition, scan: Scan, grid: Grid, index: int, bq_ml: npt.NDArray[np.float64]) -> Dataset:
    """One PET Image (PS3.3 A.21): slice `index`; the lower half of the slices is the first bed position."""
    slices = grid.shape[0]
    into_scan_s = (index >= slices // 2) * (_FRAME_S + _MOVE_S)
    ds = begin(
        acquisition,
        sop_class_uid=PositronEmissionTomographyImageStorage,
        modality="PT",
        series="pet",
        series_number=4,
        instance_number=index + 1,
        description="PET breast prone AC",
        study_description="PET breast FDG",
        body_part="CHEST",
        series_start=scan.start,
    )
    stamp(ds, "Acquisition", scan.start + timedelta(seconds=into_scan_s))
    ds.FrameOfReferenceUID = acquisition.uid("frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.RadiopharmaceuticalInformationSequence = [_radiopharmaceutical(scan)]
    lying = code("102538003", "SCT", "recumbent")
    lying.PatientOrientationModifierCodeSequence = [code("1240000", "SCT", "prone")]
    ds.PatientOrientationCodeSequence = [lying]
    ds.PatientGantryRelationshipCodeSequence = [code("102540008", "SCT", "headfirst")]
    ds.SeriesType = ["WHOLE BODY", "IMAGE"]
    ds.Units = "BQML"
    ds.CountsSource = "EMISSION"
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"]
    ds.DecayCorrection = scan.decay_correction
    ds.DecayFactor = number(round(scan.factor(into_scan_s + scan.mean_activity_time_s), 6))
    ds.RandomsCorrectionMethod = "DLYD"
    ds.AttenuationCorrectionMethod = "measured, 0.096 cm-1"
    ds.ScatterCorrectionMethod = "model based"
    ds.ReconstructionMethod = "computed phantom"
    ds.CollimatorType = "NONE"
    ds.AcquisitionStartCondition = ds.AcquisitionTerminationCondition = "TIME"
    ds.NumberOfSlices, ds.ImageIndex = slices, index + 1
    ds.ActualFrameDuration = _FRAME_S * 1000
    ds.FrameReferenceTime = number(round((into_scan_s + scan.mean_activity_time_s) * 1000, 1))
    grid.place(ds, index, thickness_mm=grid.spacing_mm[0])
    slope = number(bq_ml.max() / 32767)
    stored = np.clip(np.round(bq_ml / float(slope)), 0, 32767).astype(np.int16)
    set_pixels(ds, stored, bits_stored=16, photometric="MONOCHROME2")
    ds.RescaleIntercept, ds.RescaleSlope = "0", slope
    shown = 6 * scan.bq_ml_per_suv(acquisition.patient)
    ds.WindowCenter, ds.WindowWidth = number(round(shown / 2, 1)), number(round(shown, 1))
    return ds


def _radiopharmaceutical(scan: Scan) -> Dataset:
    item = Dataset()
    item.Radiopharmaceutical = "FDG"
    item.RadiopharmaceuticalCodeSequence = [code("35321007", "SCT", "Fluorodeoxyglucose F^18^")]
    item.RadionuclideCodeSequence = [code("77004003", "SCT", "^18^Fluorine")]
    item.RadiopharmaceuticalStartTime = scan.injection.strftime("%H%M%S")
    item.RadiopharmaceuticalStartDateTime = scan.injection.strftime("%Y%m%d%H%M%S")
    item.RadionuclideTotalDose = number(scan.dose_bq)
    item.RadionuclideHalfLife = number(HALF_LIFE_S)
    item.RadionuclidePositronFraction = number(_POSITRON_FRACTION)
    item.RadiopharmaceuticalRoute = "Intravenous route"
    return item
