"""Screening mammography: right and left, cranio-caudal and medio-lateral oblique, For Presentation.

A picture is built with the chest wall on the left and lengths in mm (down from the top edge, out from the chest wall),
as a left breast is shown; the right one is mirrored, as convention has it: the breasts stand back to back when R hangs
left of L. Brightness is made of compressed thickness, fat, glandular tissue (power-law noise, lobes and strands that
run to the nipple), vessels, skin, nipple, in MLO the pectoral muscle, and then what was found.

truth.json: "finding": "mass" | "calcification" | "normal" (of the patient), "density": share of glandular tissue,
"images": [{"file", "sop_instance_uid", "laterality", "view", "label": as finding, of this picture, "centre_px": [row,
column] or None, "radius_mm", "radius_px", "shape": "spiculated" | "circumscribed" | "cluster" | ""}].
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from samples.phantoms.instance import Acquisition, begin, code, encode, number, set_pixels, stamp
from samples.phantoms.patient import fictitious, stream
from samples.phantoms.study import PhantomStudy, write
from samples.phantoms.texture import Field, inside, power_law_field, smooth_field

Finding = Literal["mass", "calcification", "normal"]
FINDINGS: tuple[Finding, ...] = ("mass", "calcification", "normal")
Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
# Hanging order; (laterality, view).
VIEWS = (("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO"))

# Patient Orientation (0020,0020): where the columns' and the rows' index grows to (PS3.3 C.7.6.1.1.1 and C.8.11.7).
_ORIENTATION = {
    ("R", "CC"): ["P", "L"], ("L", "CC"): ["A", "R"], ("R", "MLO"): ["P", "FL"], ("L", "MLO"): ["A", "FR"],
}  # fmt: skip
_VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
_HIGHEST = 4095  # 12 bits
# Brightness of 1.0 (dense tissue at full thickness) is stored as this; the air around the breast as 0.
_SCALE = 3200.0


@dataclass(frozen=True)
class Breast:
    """One breast and its density; the two of a patient are alike. Lengths in mm of the compressed breast.

    depth: from chest wall to nipple. half_height: from the nipple's line to the upper edge in CC. density: 0 to 1.
    """

    depth: float
    half_height: float
    density: float
    pectoral_width: float
    pectoral_height: float


@dataclass(frozen=True)
class Sought:
    """What was found, in mm: how far out from the chest wall (as a share of the nipple's) and above the nipple's line.

    The distance from the nipple is the same in both views of a breast; the height above its line is not: CC shows what
    is outer and inner, MLO what is upper and lower.
    """

    finding: Finding
    shape: Literal["spiculated", "circumscribed", "cluster"]
    laterality: str
    out: float
    above: dict[str, float]
    radius_mm: float


@dataclass(frozen=True, eq=False)
class View:
    """A picture in the making. down, out: mm of each pixel from the top edge and from the chest wall (rows, columns).

    nipple: (down, out) in mm. skin_mm: signed distance to the skin line, negative inside.
    """

    down: Field
    out: Field
    spacing_mm: float
    nipple: tuple[float, float]
    skin_mm: Field
    pectoral_mm: Field


def study(
    seed: int,
    folder: Path,
    *,
    finding: Finding | None = None,
    photometric: Photometric = "MONOCHROME2",
    synthetic: bool = True,
) -> PhantomStudy:
    """Write the four views of one patient. The finding lies in one breast and is seen in both of its views.

    finding: None lets the seed decide. photometric: how brightness is stored; in MONOCHROME1 low values are bright.
    synthetic=False leaves out Synthetic Data and the synthesising equipment. Each variant has UIDs of its own.

    Raises:
        ValueError: the seed is negative.
    """
    rng = stream("mammography", seed, 1)
    drawn = FINDINGS[int(rng.integers(3))]  # drawn in any case, so that the choice changes nothing else
    wanted = drawn if finding is None else finding
    acquisition = Acquisition(
        "mammography", seed, fictitious("mammography", seed), synthetic, f"{wanted} {photometric}"
    )
    shape, spacing_mm = _detector(rng)
    breasts = _breasts(rng, shape[0] * spacing_mm, shape[1] * spacing_mm)
    sought = _sought(stream("mammography", seed, 2), wanted)
    files: dict[str, bytes] = {}
    images: list[dict[str, Any]] = []
    for order, (laterality, view_name) in enumerate(VIEWS):
        breast = breasts[laterality]
        rng = stream("mammography", seed, 10 + order)
        view = _view(rng, breast, view_name, shape, spacing_mm)
        tissue = _tissue(rng, breast, view, view_name) + rng.normal(0, 0.012, shape)
        here = sought if sought is not None and sought.laterality == laterality else None
        centre = None
        if here is not None:
            # Random numbers of its own: without the finding, the rest of the picture stays the same to the last bit.
            centre = _centre(here, view, breast, view_name)
            tissue = tissue + _found(stream("mammography", seed, 20 + order), here, centre, view)
        stored = _stored(tissue * inside(view.skin_mm, 1.2), laterality, photometric)
        name = f"{laterality.lower()}{view_name.lower()}.dcm"
        files[name], source = encode(_instance(acquisition, order, breast, stored, spacing_mm, photometric))
        told = _told(here, centre, laterality, shape, spacing_mm)
        where = {"file": name, "sop_instance_uid": source.sop_instance_uid, "laterality": laterality, "view": view_name}
        images.append(where | told)
    truth = {"finding": wanted, "density": round(breasts["R"].density, 3), "images": images}
    return write(acquisition, folder, files, truth, {})


def _detector(rng: np.random.Generator) -> tuple[tuple[int, int], float]:
    """Rows, columns and spacing: a detector of 24 x 18 cm or a little more, binned to about 0.46 mm."""
    rows, columns = int(rng.integers(488, 545)), int(rng.integers(368, 417))
    return (rows, columns), float(np.round(max(240 / rows, 180 / columns), 4))


def _breasts(rng: np.random.Generator, height_mm: float, width_mm: float) -> dict[str, Breast]:
    depth = rng.uniform(0.52, 0.8) * width_mm
    half_height = rng.uniform(0.34, 0.43) * height_mm
    density = float(rng.uniform(0.08, 0.85))
    pectoral = rng.uniform(0.36, 0.5) * depth, rng.uniform(0.5, 0.7) * height_mm
    return {
        side: Breast(
            depth * rng.uniform(0.96, 1.04),
            half_height * rng.uniform(0.97, 1.03),
            float(np.clip(density + rng.normal(0, 0.03), 0.05, 0.9)),
            pectoral[0] * rng.uniform(0.92, 1.08),
            pectoral[1] * rng.uniform(0.95, 1.05),
        )
        for side in ("R", "L")
    }


def _sought(rng: np.random.Generator, finding: Finding) -> Sought | None:
    if finding == "normal":
        return None
    laterality = "RL"[int(rng.integers(2))]
    out = float(rng.uniform(0.38, 0.72))
    above = {"CC": float(rng.uniform(-0.36, 0.42)), "MLO": float(rng.uniform(-0.3, 0.36))}
    if finding == "calcification":
        return Sought(finding, "cluster", laterality, out, above, float(rng.uniform(4, 8)))
    shape: Literal["spiculated", "circumscribed"] = "spiculated" if rng.random() < 0.65 else "circumscribed"
    return Sought(finding, shape, laterality, out, above, float(rng.uniform(5, 11)))


def _view(rng: np.random.Generator, breast: Breast, view_name: str, shape: tuple[int, int], spacing_mm: float) -> View:
    rows, columns = shape
    down, out = np.meshgrid(
        (np.arange(rows) + 0.5).astype(np.float32) * np.float32(spacing_mm),
        (np.arange(columns) + 0.5).astype(np.float32) * np.float32(spacing_mm),
        indexing="ij",
    )
    height = rows * spacing_mm
    edges, nipple = _outline(rng, breast, view_name, height)
    reach = edges(down[:, 0]).astype(np.float32)[:, None]
    mask = out < reach
    # A distance map of the pixel mask: exact enough for a skin line 2 mm thick, and it follows any outline.
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    pectoral = np.full(shape, np.inf, np.float32)
    if view_name == "MLO":
        bulge = 6 * np.sin(np.pi * np.clip(down / breast.pectoral_height, 0, 1))
        edge = breast.pectoral_width * (1 - down / breast.pectoral_height) + bulge
        pectoral = ((out - edge) * np.cos(np.arctan2(breast.pectoral_width, breast.pectoral_height))).astype(np.float32)
    return View(down, out, spacing_mm, nipple, (-distance * spacing_mm).astype(np.float32), pectoral)


def _outline(
    rng: np.random.Generator, breast: Breast, view_name: str, height: float
) -> tuple[PchipInterpolator, tuple[float, float]]:
    """How far out the skin lies at each height, and where the nipple is (down, out), in mm."""
    depth = breast.depth
    if view_name == "CC":
        middle = height * (0.5 + rng.uniform(-0.03, 0.03))
        u = np.linspace(-1, 1, 41)
        heights = middle + u * breast.half_height
        reach = depth * (1 - np.abs(u) ** 2.3) ** 0.55
        heights = np.concatenate([[-10.0], heights, [height + 10.0]])
        reach = np.concatenate([[-5.0], np.where(np.abs(u) < 1, reach, -2.0), [-5.0]])
        nipple = middle + breast.half_height * rng.uniform(-0.06, 0.06)
    else:
        nipple = height * rng.uniform(0.55, 0.63)
        fold = height * rng.uniform(0.9, 0.95)
        knots = [
            (-10, breast.pectoral_width * 1.18),
            (0.12 * height, breast.pectoral_width * 1.25),
            (nipple - 0.27 * height, depth * 0.80),
            (nipple - 0.10 * height, depth * 0.97),
            (nipple, depth),
            (nipple + 0.11 * height, depth * 0.93),
            (nipple + 0.22 * height, depth * 0.68),
            (fold - 0.02 * height, depth * 0.32),
            (fold + 0.02 * height, depth * 0.20),
            (height + 10, depth * 0.15),
        ]
        knots = sorted(knots)
        heights, reach = (np.array(axis) for axis in zip(*knots, strict=True))
    nipple_out = float(PchipInterpolator(heights, reach)(nipple))
    fine = np.arange(-10, height + 10, 0.5)
    bump = 4.5 * np.exp(-(((fine - nipple) / 4.0) ** 4))
    return PchipInterpolator(fine, PchipInterpolator(heights, reach)(fine) + bump), (float(nipple), nipple_out)


def _tissue(rng: np.random.Generator, breast: Breast, view: View, view_name: str) -> Field:
    """Brightness of a breast without disease; about 0.35 in fat, 0.6 to 1 in glandular tissue."""
    shape = view.down.shape
    inwards = np.clip(-view.skin_mm, 0, None)
    # The breast is round at its edge, and presentation processing evens most of that out.
    thickness = 1 - np.clip(1 - inwards / 22, 0, 1) ** 2
    fat = 0.12 + 0.22 * np.sqrt(thickness)
    clouds, lumps = power_law_field(rng, shape, 3.0), ndimage.gaussian_filter(power_law_field(rng, shape, 2.6), 0.8)
    brightness = fat * (1 + 0.07 * clouds)

    to_nipple = np.hypot(view.down - view.nipple[0], view.out - view.nipple[1])
    disc = _disc(breast, view, inwards) + 0.30 * clouds + 0.12 * lumps
    strands = _strands(rng, view, to_nipple)
    share = 1 / (1 + np.exp(-(disc + 0.12 * strands - 0.45) / 0.13))
    dense = 0.20 + 0.22 * breast.density + 0.05 * clouds + 0.05 * lumps + 0.045 * strands
    brightness = brightness + share * thickness * np.clip(dense, 0.05, None)
    brightness = brightness + thickness * (0.05 + 0.05 * (1 - share)) * np.clip(strands, 0, None) * inside(
        to_nipple - breast.depth
    )
    for _ in range(int(rng.integers(1, 4))):
        brightness = brightness + 0.08 * thickness * _vessel(rng, view, breast)
    brightness = brightness + 0.10 * inside(np.abs(view.skin_mm + 1.0) - 0.9, 1.0)
    if view_name == "MLO":
        fibres = smooth_field(rng, shape, (16, 2.5))
        muscle = 0.66 + 0.012 * fibres + 0.03 * clouds - 0.10 * np.clip(view.down / breast.pectoral_height, 0, 1)
        share_of_muscle = inside(view.pectoral_mm, 4.0)
        brightness = brightness + share_of_muscle * (np.maximum(muscle, brightness * 0.6 + 0.28) - brightness)
    return np.clip(brightness, 0, None).astype(np.float32)


def _disc(breast: Breast, view: View, inwards: Field) -> Field:
    """Where glandular tissue is likely: 1 in the middle of its disc, 0 at the rim, less outside and under the skin."""
    size = 0.62 + 0.45 * breast.density
    centre_out = view.nipple[1] * 0.56
    leaning = view.down - view.nipple[0] + 0.35 * (centre_out - view.out) + 6
    radius = np.hypot(
        leaning / (0.72 * breast.half_height * size), (view.out - centre_out) / (0.52 * breast.depth * size)
    )
    under_the_skin = np.exp(-((inwards / 9) ** 2))
    return (1 - radius + 0.55 * (breast.density - 0.35) - 1.2 * under_the_skin).astype(np.float32)


def _strands(rng: np.random.Generator, view: View, to_nipple: Field) -> Field:
    """Connective strands that run towards the nipple: thin where a field in polar coordinates changes its sign."""
    angle = np.arctan2(view.down - view.nipple[0], view.nipple[1] - view.out)
    total = np.zeros(view.down.shape, np.float32)
    # Wander off the straight line, or the breast looks like a wheel.
    wander = smooth_field(rng, view.down.shape, 22)
    for around, along_mm, weight in ((70, 16.0, 1.0), (130, 9.0, 0.7)):
        field = smooth_field(rng, (4 * around, 96), (2.0, 3.0))
        indices = np.stack(
            [(angle / (2 * np.pi) + 0.5) * 4 * around + 2.5 * wander, 3 * to_nipple / along_mm + 2 * wander]
        )
        noise = ndimage.map_coordinates(field, indices, order=1, mode="grid-wrap", output=np.float32)
        total += np.float32(weight) * (np.exp(-((noise / 0.28) ** 2)) - np.float32(0.28))
    return total * (1 - np.exp(-((to_nipple / 14) ** 2))).astype(np.float32)


def _vessel(rng: np.random.Generator, view: View, breast: Breast) -> Field:
    """A vein that winds from the chest wall forward: 1 along it, tapering in width."""
    start = view.nipple[0] + rng.uniform(-0.8, 0.6) * breast.half_height
    knots = np.linspace(0, 1, 6)
    downs = start + (view.nipple[0] - start) * 0.6 * knots + np.concatenate([[0], rng.normal(0, 6, 5)])
    outs = view.nipple[1] * (-0.05 + rng.uniform(0.6, 0.85) * knots)
    t = np.linspace(0, 1, 400)
    rows = PchipInterpolator(knots, downs)(t) / view.spacing_mm
    columns = PchipInterpolator(knots, outs)(t) / view.spacing_mm
    height, width_px = view.down.shape
    path = np.ones((height, width_px), bool)
    seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width_px)
    path[rows[seen].astype(int), columns[seen].astype(int)] = False
    away_mm = ndimage.distance_transform_edt(path) * view.spacing_mm
    width = rng.uniform(0.6, 1.1) * (1 - 0.5 * view.out / view.nipple[1])
    return inside((away_mm - width).astype(np.float32), 1.2)


def _centre(sought: Sought, view: View, breast: Breast, view_name: str) -> tuple[float, float]:
    """(down, out) in mm."""
    return view.nipple[0] - sought.above[view_name] * breast.half_height, view.nipple[1] * sought.out


def _found(rng: np.random.Generator, sought: Sought, centre: tuple[float, float], view: View) -> Field:
    """What the finding adds to the brightness; 0 from 2.2 radii on."""
    down, out = view.down - np.float32(centre[0]), view.out - np.float32(centre[1])
    return _cluster(rng, sought, down, out) if sought.finding == "calcification" else _mass(rng, sought, down, out)


def _mass(rng: np.random.Generator, sought: Sought, down: Field, out: Field) -> Field:
    """A round body with a lobed margin; a spiculated one with a soft margin and thin rays around it."""
    spiculated = sought.shape == "spiculated"
    radius, angle = np.hypot(down, out), np.arctan2(down, out)
    waves = range(2, 7)
    lobes = sum(np.cos(k * angle + rng.uniform(0, 2 * np.pi)) * rng.normal(0, 0.4 / k) for k in waves)
    margin = sought.radius_mm * (0.85 + (0.16 if spiculated else 0.07) * lobes)
    ball = np.sqrt(np.clip(1 - (radius / np.clip(margin, 1, None)) ** 2, 0, 1))
    body = inside((radius - margin).astype(np.float32), 3.0 if spiculated else 1.0)
    bright = rng.uniform(0.26, 0.36) * (0.45 * body + 0.55 * ball)
    if spiculated:
        for direction in np.linspace(0, 2 * np.pi, int(rng.integers(14, 24)), endpoint=False):
            turned = np.angle(np.exp(1j * (angle - direction - rng.normal(0, 0.12) - rng.normal(0, 0.01) * radius)))
            length = sought.radius_mm * rng.uniform(1.3, 2.2)
            beside_mm = np.abs(turned) * radius
            fading = np.clip(1 - (radius / length) ** 2, 0, 1)
            bright = np.maximum(bright, 0.17 * fading * np.exp(-((beside_mm / 0.55) ** 2)) * (np.abs(turned) < 1.5))
    return bright.astype(np.float32)


def _cluster(rng: np.random.Generator, sought: Sought, down: Field, out: Field) -> Field:
    """Pleomorphic microcalcifications: 9 to 26 grains of 0.3 to 1 mm within the cluster's radius."""
    bright = np.zeros_like(down)
    for _ in range(int(rng.integers(9, 27))):
        distance, angle = sought.radius_mm * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        d, o = down - np.float32(distance * np.sin(angle)), out - np.float32(distance * np.cos(angle))
        lean, size = rng.uniform(0, np.pi), rng.uniform(0.22, 0.42)
        along, across = d * np.sin(lean) + o * np.cos(lean), d * np.cos(lean) - o * np.sin(lean)
        grain = np.exp(-((along / (size * rng.uniform(1, 1.8))) ** 2 + (across / size) ** 2) / 2)
        bright = np.maximum(bright, np.float32(rng.uniform(0.3, 0.65)) * grain)
    return bright


def _stored(brightness: Field, laterality: str, photometric: Photometric) -> npt.NDArray[np.uint16]:
    """12-bit values; the right breast mirrored so that its chest wall is on the right."""
    values = np.clip(np.round(brightness * _SCALE), 0, _HIGHEST).astype(np.uint16)
    if laterality == "R":
        values = values[:, ::-1]
    return np.ascontiguousarray(_HIGHEST - values if photometric == "MONOCHROME1" else values)


def _told(
    sought: Sought | None,
    centre: tuple[float, float] | None,
    laterality: str,
    shape: tuple[int, int],
    spacing_mm: float,
) -> dict[str, Any]:
    """The truth about one picture; centre_px counts from 0 at the middle of the first pixel."""
    if sought is None or centre is None:
        return {"label": "normal", "shape": "", "centre_px": None, "radius_mm": None, "radius_px": None}
    row, column = (value / spacing_mm - 0.5 for value in centre)
    if laterality == "R":
        column = shape[1] - 1 - column
    return {
        "label": sought.finding,
        "shape": sought.shape,
        "centre_px": [round(row, 1), round(column, 1)],
        "radius_mm": round(sought.radius_mm, 2),
        "radius_px": round(sought.radius_mm / spacing_mm, 1),
    }


def _instance(
    acquisition: Acquisition,
    order: int,
    breast: Breast,
    stored: npt.NDArray[np.uint16],
    spacing_mm: float,
    photometric: Photometric,
) -> Dataset:
    """One Digital Mammography X-Ray Image (PS3.3 A.27) of `VIEWS[order]`; each view is a series of its own."""
    laterality, view_name = VIEWS[order]
    start = acquisition.patient.study_start + timedelta(minutes=3 + 2 * order)
    ds = begin(
        acquisition,
        sop_class_uid=DigitalMammographyXRayImageStorageForPresentation,
        modality="MG",
        series=f"{laterality}{view_name}",
        series_number=1 + order,
        instance_number=1,
        description=f"{laterality} {view_name}",
        study_description="MG screening, both sides",
        body_part="BREAST",
        series_start=start,
    )
    stamp(ds, "Acquisition", start)
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.ImageLaterality, ds.ViewPosition = laterality, view_name
    view = code(_VIEW_CODES[view_name][0], "SCT", _VIEW_CODES[view_name][1])
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.PatientOrientation = _ORIENTATION[laterality, view_name]
    ds.AnatomicRegionSequence = [code("76752008", "SCT", "Breast")]
    ds.AcquisitionContextSequence = []
    ds.PositionerType, ds.OrganExposed = "MAMMOGRAPHIC", "BREAST"
    angle = {"CC": 0, "MLO": 45 if laterality == "R" else -45}[view_name]
    ds.PositionerPrimaryAngle = str(angle)
    ds.BreastImplantPresent = "NO"
    ds.BodyPartThickness = number(round(35 + 30 * (breast.depth / 150), 1))
    ds.KVP = "29"
    ds.DetectorType = "DIRECT"
    ds.DetectorID = "1"
    ds.FieldOfViewShape = "RECTANGLE"
    ds.ImagerPixelSpacing = [number(spacing_mm), number(spacing_mm)]
    ds.EstimatedRadiographicMagnificationFactor = "1"
    set_pixels(ds, stored, bits_stored=12, photometric=photometric)
    # -1: high values mean little X-ray intensity, as in MONOCHROME2 (PS3.3 C.8.11.3.1.2).
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1 if photometric == "MONOCHROME2" else 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY" if photometric == "MONOCHROME2" else "INVERSE"
    centre = 0.5 * _SCALE if photometric == "MONOCHROME2" else _HIGHEST - 0.5 * _SCALE
    ds.WindowCenter, ds.WindowWidth = number(centre), number(0.95 * _SCALE)
    ds.QualityControlImage = "NO"
    return ds
