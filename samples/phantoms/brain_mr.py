"""Brain MR: T1 and FLAIR of one head on one oblique grid, with white-matter lesions.

The head is built in its own coordinates (mm; x to the left, y to the back, z to the head, origin near the foramina of
Monro) from signed distances: scalp, skull with diploe, subarachnoid space, folded cortex, white matter, deep nuclei,
ventricles, cerebellum, brain stem, orbits. Cortex is what lies within 3 mm of the brain's surface or of a sulcus; sulci
are zero sheets of a smooth random field that run inwards from the surface.

truth.json: "lesions": [{"where": "periventricular" | "deep", "centre_mm": patient LPS, "volume_ml"}],
"slices_with_lesion": indices along the normal of the slices, ascending, and "mask".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import MRImageStorage
from scipy import ndimage

from dicom_io.volume import Float64, Source, Volume
from samples.phantoms.grid import Grid, rotation, through_slices
from samples.phantoms.instance import Acquisition, begin, encode, number, set_pixels, stamp
from samples.phantoms.patient import fictitious, stream
from samples.phantoms.study import PhantomStudy, write
from samples.phantoms.texture import Field, Lattice, ellipsoid, inside, joined, tube

Position = tuple[Field, Field, Field]

# Points evaluated through the thickness of a slice: 5 mm slices see three layers of tissue each.
_THROUGH = 3
_CORTEX_MM = 2.8


@dataclass(frozen=True)
class Contrast:
    """A pulse sequence and the signal it gives (arbitrary units; white matter of the T1 is 600)."""

    series: str
    description: str
    sequence_name: str
    scanning_sequence: tuple[str, ...]
    sequence_variant: tuple[str, ...]
    echo_time_ms: float
    repetition_time_ms: float
    inversion_time_ms: float | None
    echo_train_length: int
    signal: dict[str, float]


T1 = Contrast(
    "t1", "T1 SE ax oblique", "*se2d1", ("SE",), ("SK", "SP"), 12.0, 560.0, None, 1,
    {"white": 600, "grey": 430, "nucleus": 465, "csf": 150, "fat": 880, "marrow": 560, "bone": 60, "muscle": 330,
     "skin": 420, "lesion": 480, "pallidum": 550, "stem": 560, "air": 0},
)  # fmt: skip
FLAIR = Contrast(
    "flair", "FLAIR TSE ax oblique", "*tir2d1_16", ("SE", "IR"), ("SK", "SP", "MP"), 118.0, 9000.0, 2500.0, 16,
    {"white": 340, "grey": 445, "nucleus": 410, "csf": 55, "fat": 560, "marrow": 260, "bone": 35, "muscle": 230,
     "skin": 330, "lesion": 640, "pallidum": 350, "stem": 365, "air": 0},
)  # fmt: skip
CONTRASTS = (T1, FLAIR)


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a head lies in the scanner, and how large it is against the reference head (width 136 mm of brain)."""

    turn: Float64
    origin_mm: Float64
    size: Float64

    def into_the_head(self, position: Position) -> Position:
        """Patient LPS in mm -> head coordinates in mm of the reference head."""
        matrix = (self.turn.T / self.size[:, None]).astype(np.float32)
        x, y, z = (p - np.float32(o) for p, o in zip(position, self.origin_mm, strict=True))
        a, b, c = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
        return a, b, c


@dataclass(frozen=True, eq=False)
class Head:
    """Tissue at points in a head: float32 arrays of one shape.

    layers: (tissue, fraction) from the outside in; each covers what was there before.
    white: fraction of cerebral white matter. ventricle_mm, grey_mm: distance from the ventricles' wall and the cortex.
    """

    layers: list[tuple[str, Field]]
    white: Field
    ventricle_mm: Field
    grey_mm: Field


def study(seed: int, folder: Path, *, synthetic: bool = True) -> PhantomStudy:
    """Write the T1 and the FLAIR series of one patient, and the lesion mask.

    Number of slices (19 to 24), rows and columns, steps and tilt depend on the seed. T1 instances are numbered from the
    feet up, FLAIR from the head down. synthetic=False leaves out Synthetic Data and the synthesising equipment, to
    stand for an acquired study; the patient stays a PHANTOM.

    Raises:
        ValueError: the seed is negative.
    """
    acquisition = Acquisition("brain-mr", seed, fictitious("brain-mr", seed), synthetic)
    grid, pose = _place(stream("brain-mr", seed, 1))
    position = grid.positions(_THROUGH)
    head = _head(stream("brain-mr", seed, 2), pose.into_the_head(position))
    lesion, lesions = _lesions(stream("brain-mr", seed, 3), head, position)
    mask = (through_slices(lesion, _THROUGH) >= 0.5).astype(np.float32)

    files: dict[str, bytes] = {}
    sources: dict[str, list[Source]] = {}
    for order, contrast in enumerate(CONTRASTS):
        signal = _acquire(stream("brain-mr", seed, 10 + order), contrast, head, lesion, grid)
        for index, picture in enumerate(signal):
            ds = _instance(acquisition, contrast, order, grid, index, picture)
            raw, source = encode(ds)
            files[f"{contrast.series}-{ds.InstanceNumber:03d}.dcm"] = raw
            sources.setdefault(contrast.series, []).append(source)
    volume = Volume(mask, grid.affine, acquisition.uid("frame of reference"), "1", tuple(sources["flair"]))
    truth = {
        "lesions": _seen(lesions, mask, grid),
        "slices_with_lesion": np.flatnonzero(mask.any(axis=(1, 2))).tolist(),
    }
    return write(acquisition, folder, files, truth, {"mask": volume})


def _place(rng: np.random.Generator) -> tuple[Grid, Pose]:
    """Slices along a tilted line of the commissures, through a head that does not lie quite straight."""
    origin = np.round(rng.uniform(-25, 25, 3), 2)
    size = rng.normal(1.0, 0.035) * np.array([rng.normal(1, 0.025), rng.normal(1, 0.025), rng.normal(1, 0.02)])
    pose = Pose(rotation(rng.uniform(-5, 5), rng.uniform(-3, 3), rng.uniform(-5, 5)), origin, size)
    turn = rotation(rng.uniform(4, 14), rng.uniform(1.5, 5) * rng.choice([-1, 1]), rng.uniform(-5, 5))
    slices = int(rng.integers(19, 25))
    down = float(np.round(rng.uniform(1.85, 2.0), 3))
    grid = Grid(
        shape=(slices, 2 * int(rng.integers(58, 63)), 2 * int(rng.integers(46, 52))),
        spacing_mm=(float(np.round(108 / slices, 2)), down, float(np.round(down * rng.uniform(0.9, 0.97), 3))),
        row_direction=turn[:, 0],
        column_direction=turn[:, 1],
        centre_mm=origin + np.array([0, -4, 13]) + rng.uniform(-2.5, 2.5, 3),
    )
    return grid, pose


def _head(rng: np.random.Generator, position: Position) -> Head:
    """Build the head from the outside in. position: head coordinates (x, y, z) in mm."""
    x, y, z = position
    side = np.abs(x)
    fine, wide, broad = Lattice(rng, 7.0), Lattice(rng, 28.0), Lattice(rng, 80.0)
    wave, swell = wide(x, y, z), broad(x, y, z)
    ventricle_size, atrophy = rng.uniform(0.75, 1.45), rng.uniform(0.6, 1.5)

    # Brain case: an egg, narrower in front, flatter below; the posterior fossa joins it from below.
    egg = side / (1 - 0.11 * np.clip(-y / 84, -0.4, 1))
    below = np.where(z > 0, np.float32(68.0), np.float32(47.0))
    egg_shell = ellipsoid((egg, y, z), (0, 0, 0), (68, 85, below))
    fossa = ellipsoid((x, y, z), (0, 36, -36), (59, 44, 36))
    # The orbits' roof is the floor of the anterior fossa; below it the temporal lobes reach forward on both sides.
    orbits = np.maximum(y + 40 - 0.25 * side, z + 21 + 0.1 * (y + 60))
    sella = ellipsoid((x, y, z), (0, -25, -45), (21, 22, 20))
    under = np.maximum(z - _tentorium(side, y), _petrous(side) - y)
    # Each floor 2.5 mm lower than what lies below it: room for the fluid on both sides, not twice.
    cerebrum = np.maximum(egg_shell, -2.5 - np.minimum.reduce([orbits, sella, under]))
    case = np.minimum(cerebrum, fossa) + np.float32(1.2) * swell
    skull = joined(egg_shell, fossa, 20.0) + np.float32(1.2) * swell
    face = ellipsoid((side, y, z), (0, -38, -54), (71, 59, 66))
    neck = ellipsoid((x, y, z), (0, 30, -84), (64, 58, 58))
    scalp_mm = 12.0 + 1.2 * broad(y, z, x)
    outer = joined(skull - scalp_mm, np.minimum(face, neck) + 1.5 * swell, 14.0)

    layers: list[tuple[str, Field]] = [
        ("skin", inside(outer)),
        ("fat", inside(outer + 2.0)),
        ("muscle", inside(np.maximum(outer + 6.5, 2.0 * fine(x, y, z) - 2.5))),
    ]
    bone_mm = 6.8 + 0.5 * wave + broad(z, x, y)
    layers += [
        ("bone", inside(skull - bone_mm)),
        ("marrow", inside(np.abs(skull - bone_mm / 2) - (bone_mm - 4.2) / 2) * np.float32(0.85)),
    ]
    layers += _skull_base(side, y, z, fine)
    layers.append(("csf", inside(case)))

    # Folded cortex: depth below the brain's surface, and distance to the nearest sulcus or fissure.
    depth = -(np.minimum(cerebrum, fossa) + 1.6 + 1.1 * atrophy + 0.8 * wave)
    spread = np.sqrt((egg / 68) ** 2 + (y / 85) ** 2 + (z / below) ** 2)
    outwards = (np.float32(0.72) / np.clip(spread, 0.25, None) + np.float32(0.28)).astype(np.float32)
    surface = (x * outwards, y * outwards, z * outwards)
    folds = Lattice(rng, 13.0, cells=112)
    reach = 16 + 4 * wide(*surface)
    # Below the shell, not below floors and fissures: else sulci would run through the brain's base.
    furrow = -egg_shell
    width = np.clip(atrophy * (1.5 - 1.2 * furrow / reach), 0.2, 2.6)
    across = np.abs(folds(*surface)) * np.float32(folds.sigma_mm)
    sulcus = np.hypot(np.maximum(across - width, 0), np.maximum(furrow - reach, 0))

    # The fissure between the hemispheres ends at the corpus callosum; the Sylvian fissure ends at the insula.
    midline = np.abs(x + 1.2 * wide(y, z, x))
    callosum = ellipsoid((y, z), (2, 2), (43, 27))
    fissure = np.hypot(np.maximum(midline - 0.9 * atrophy, 0), np.maximum(-callosum, 0))
    slope = z - 3 - 0.42 * (y + 5) + 2.0 * wave + fine(x, y, z)
    sylvian = np.hypot(np.maximum(np.abs(slope) * 0.92 - 1.3 * atrophy, 0), np.maximum(37 - side, 0))
    sylvian = np.hypot(sylvian, np.maximum(np.abs(y + 4) - 30, 0))
    island = side - 40 - 1.5 * wave - 0.8 * fine(x, y, z) + 0.008 * (y + 3) ** 2
    insula = np.hypot(np.maximum(np.abs(island) - 0.9 * atrophy, 0), np.maximum(np.abs(slope) - 13, 0))
    insula = np.hypot(insula, np.maximum(np.abs(y + 3) - 24, 0))
    folded = np.minimum.reduce([sulcus, fissure, sylvian, insula])

    brain = inside(-depth) * np.clip(folded + 0.5, 0, 1)
    grey_mm = np.minimum(depth, folded) - np.float32(_CORTEX_MM) - np.float32(0.5) * fine(x, y, z)
    layers += [("grey", brain), ("white", brain * inside(-grey_mm, 1.4))]
    white = brain * inside(-grey_mm, 1.4)

    # Deep nuclei, symmetric but for a little noise.
    bent = (side + 0.8 * wave, y, z)
    nuclei = np.minimum.reduce(
        [
            ellipsoid(bent, (15, -21, 9), (5.5, 10, 10)),
            ellipsoid(bent, (26, -4, 1), (5.5, 15, 13)),
            ellipsoid(bent, (11, 10, 6), (8.5, 14.5, 9)),
        ]
    )
    pallidum = ellipsoid(bent, (19.5, -3, 1), (4.2, 8.5, 6.5))
    layers += [("nucleus", inside(nuclei, 1.6)), ("pallidum", inside(pallidum, 2.0))]
    white = white * (1 - inside(np.minimum(nuclei, pallidum) - 2.0))

    layers += _below_the_tentorium(rng, x, y, z, fossa, fine)
    # Lesions grow in cerebral white matter, away from the corpus callosum.
    white = (
        white * (1 - inside(z - _tentorium(side, y)) * inside(_petrous(side) - y)) * inside(12 - side) * inside(-8 - z)
    )

    ventricles = _ventricles(x, side, y, z, wave, ventricle_size)
    layers.append(("csf", inside(ventricles) * inside(cerebrum + 4)))
    layers.append(("csf", inside(ellipsoid((x, y, z), (0, 33, -34), (6.5, 5, 9)))))
    return Head(layers, white, ventricles, grey_mm)


def _skull_base(side: Field, y: Field, z: Field, fine: Lattice) -> list[tuple[str, Field]]:
    """Orbits, ethmoid and sphenoid cells, petrous bone: what the lowest slices see in front of the brain."""
    globe = ellipsoid((side, y, z), (31, -68, -40), (12, 12.5, 12))
    orbit = ellipsoid((side, y, z), (29, -59, -40), (17, 24, 16))
    muscle = np.abs(ellipsoid((side, y, z), (28, -52, -40), (9, 18, 9))) - 1.4
    lens = ellipsoid((side, y, z), (31, -77, -40), (4, 2.2, 4))
    cells = ellipsoid((side, y, z), (0, -62, -42), (10, 26, 18)) + 3.0 * np.abs(fine(side, y, z)) - 1.5
    sphenoid = ellipsoid((side, y, z), (0, -24, -46), (24, 23, 20))
    return [
        ("bone", inside(orbit - 2.0)),
        ("fat", inside(orbit)),
        ("muscle", inside(np.maximum(muscle, -58 - y)) * inside(orbit)),
        ("bone", inside(np.minimum(sphenoid, cells - 2.0))),
        ("marrow", inside(sphenoid + 4.0) * np.float32(0.6)),
        ("air", inside(np.minimum(cells, ellipsoid((side, y, z), (3, -34, -44), (9, 8, 9))))),
        ("muscle", inside(globe - 1.2)),
        ("csf", inside(globe)),
        ("muscle", inside(lens)),
    ]


def _tentorium(side: Field, y: Field) -> Field:
    """Height of the tentorium: highest in the middle and in front, falling to both sides and to the back."""
    return 4 - 0.45 * side - 0.28 * np.clip(y - 20, 0, None)


def _petrous(side: Field) -> Field:
    """How far forward (y) the posterior fossa reaches: the ridges of the petrous bones run backwards to both sides."""
    return 7 + 0.3 * side


def _below_the_tentorium(
    rng: np.random.Generator, x: Field, y: Field, z: Field, fossa: Field, fine: Lattice
) -> list[tuple[str, Field]]:
    """Cerebellum with folia, brain stem, and the basal cisterns around them."""
    side = np.abs(x)
    room = np.maximum(z - _tentorium(side, y), fossa)
    notch = 6 - 5 * np.exp(-((side / 9) ** 2))
    cerebellum = np.maximum(room + 2.2, np.maximum(_petrous(side) + 4 - y, y - 66 - notch))
    folia = Lattice(rng, 5.0, cells=96)(x * 0.4, y * 1.3, z * 1.5)
    core = np.maximum(
        cerebellum + 5.0,
        ellipsoid((side, y, z), (16, 40, -33), (25, 14, 14)) + 2.5 * fine(x, y, z) + 3.0 * np.abs(folia),
    )
    furrow = np.clip(np.abs(folia) * 2.2 + 0.3, 0.5, 1)
    # The pons is broader than the midbrain above and the medulla below.
    breadth = 1 + 0.3 * np.exp(-(((z + 34) / 12) ** 2)) + 0.06 * fine(x, y, z)
    stem = tube((x / breadth, y, z), [(0, 8, -6, 13), (0, 6, -22, 13), (0, 8, -38, 14), (0, 18, -70, 8.5)])
    stem = np.maximum(stem, z + 7)
    cistern = np.minimum(ellipsoid((x, y, z), (0, -9, -22), (12, 8, 7)), np.maximum(stem - 2.6 - fine(x, y, z), z + 12))
    return [
        ("csf", inside(np.minimum(cistern, np.maximum(room, _petrous(side) + 2 - y)))),
        ("grey", inside(cerebellum) * furrow.astype(np.float32)),
        ("white", inside(core, 1.5)),
        ("stem", inside(stem)),
    ]


def _ventricles(x: Field, side: Field, y: Field, z: Field, wave: Field, size: float) -> Field:
    """Signed distance to the lateral and third ventricles. size: 1 for middle age."""
    wide = float(np.sqrt(size))
    lateral = tube(
        (side + 0.7 * wave + 0.4 * x / 10, y, z),
        [
            (10.5 * wide, -36, 4, 3.4 * size),
            (8.5 * wide, -22, 11, 4.6 * size),
            (9.5 * wide, -4, 18, 4.4 * size),
            (13.5 * wide, 16, 20, 4.6 * size),
            (22 * wide, 33, 11, 5.8 * size),
            (24 * wide, 48, 5, 2.6 * size),
        ],
    )
    temporal = tube(
        (side, y, z), [(22 * wide, 33, 11, 5.0 * size), (33, 18, -10, 2.0 * size), (32, -4, -18, 2.0 * size)]
    )
    third = ellipsoid((x, y, z), (0, 6, -1), (1.5 * size + 0.6, 14, 12))
    septum = 0.9 - np.abs(x)
    return np.minimum(np.maximum(np.minimum(lateral, temporal), septum), third)


def _lesions(rng: np.random.Generator, head: Head, position: Position) -> tuple[Field, list[tuple[str, Field]]]:
    """Fraction of each point that is lesion, and per lesion where it was put and its own fraction.

    Periventricular ones stand on the ventricle's wall and grow together; deep ones lie between wall and cortex.
    """
    ragged = Lattice(rng, 6.0)(*position)
    counts = {"periventricular": int(rng.integers(3, 9)), "deep": int(rng.integers(2, 10))}
    room = {
        "periventricular": (head.white > 0.9)
        & (head.ventricle_mm > 1.5)
        & (head.ventricle_mm < 5)
        & (head.grey_mm > 3),
        "deep": (head.white > 0.9) & (head.ventricle_mm > 9) & (head.grey_mm > 3.5),
    }
    whole = np.zeros_like(head.white)
    lesions: list[tuple[str, Field]] = []
    for where, count in counts.items():
        candidates = np.flatnonzero(room[where])
        for chosen in rng.choice(candidates, min(count, len(candidates)), replace=False):
            centre = [float(axis.flat[chosen]) for axis in position]
            radius = rng.uniform(4.0, 8.5) if where == "periventricular" else 3.0 + 1.4 * rng.exponential()
            semi_axes = np.clip(radius * rng.uniform(0.75, 1.25, 3), 2.8, 11)
            distance = ellipsoid(position, centre, tuple(semi_axes)) + np.float32(0.22 * radius) * ragged
            fraction = inside(distance, 1.2) * head.white
            whole = np.maximum(whole, fraction)
            lesions.append((where, fraction))
    return whole, lesions


def _seen(lesions: list[tuple[str, Field]], mask: Field, grid: Grid) -> list[dict[str, Any]]:
    """What of each lesion the grid can show; one too thin for any voxel's half is not in the mask and not listed."""
    millilitres = float(np.prod(grid.spacing_mm)) / 1000
    seen = []
    for where, fine in lesions:
        own = through_slices(fine, _THROUGH) * mask
        voxels = own >= 0.5
        if voxels.any():
            centre = grid.affine @ [*np.argwhere(voxels).mean(axis=0), 1.0]
            seen.append(
                {
                    "where": where,
                    "centre_mm": np.round(centre[:3], 2).tolist(),
                    "volume_ml": round(float(voxels.sum()) * millilitres, 3),
                }
            )
    return seen


def _acquire(
    rng: np.random.Generator, contrast: Contrast, head: Head, lesion: Field, grid: Grid
) -> npt.NDArray[np.uint16]:
    """Signal of each voxel as stored: partial volume through the slice, coil sensitivity, blur, Rician noise."""
    scale = rng.normal(1.0, 0.06)
    fine = np.zeros_like(head.white)
    for tissue, fraction in head.layers:
        fine += fraction * (np.float32(contrast.signal[tissue] * rng.normal(1, 0.015)) - fine)
    # A thin bright rim along the ventricles on FLAIR is normal at any age and no lesion.
    rim = np.exp(-np.clip(head.ventricle_mm, 0, None) / 1.5) * head.white
    fine *= 1 + np.float32(0.12 if contrast is FLAIR else 0.0) * rim
    fine += lesion * (np.float32(contrast.signal["lesion"]) - fine)
    signal = through_slices(fine, _THROUGH) * np.float32(scale)
    signal = ndimage.gaussian_filter(signal, (0, 0.45, 0.45))
    # Two independent normal errors in the complex signal make the magnitude Rician (Gudbjartsson & Patz, 1995).
    sigma = 0.022 * contrast.signal["white"] * rng.uniform(0.8, 1.4)
    real = signal * _sensitivity(rng, grid.shape) + rng.normal(0, sigma, signal.shape)
    magnitude = np.hypot(real, rng.normal(0, sigma, signal.shape))
    return np.clip(np.round(magnitude), 0, 4095).astype(np.uint16)


def _sensitivity(rng: np.random.Generator, shape: tuple[int, int, int]) -> Field:
    """Receiver sensitivity: a smooth factor around 1, some 15 % up and down across the head."""
    s, r, c = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    s, r, c = s[:, None, None], r[None, :, None], c[None, None, :]
    terms = [s, r, c, s * s, r * r, c * c, r * c, s * r, s * c]
    return np.exp(sum(np.float32(rng.normal(0, 0.07)) * term for term in terms)).astype(np.float32)


def _instance(
    acquisition: Acquisition,
    contrast: Contrast,
    order: int,
    grid: Grid,
    index: int,
    stored: npt.NDArray[np.uint16],
) -> Dataset:
    """One MR Image (PS3.3 A.4): slice `index` along the normal. order: of the series in the study, from 0."""
    slices = grid.shape[0]
    number_in_series = index + 1 if contrast is T1 else slices - index
    start = acquisition.patient.study_start + timedelta(minutes=4 + 7 * order)
    ds = begin(
        acquisition,
        sop_class_uid=MRImageStorage,
        modality="MR",
        series=contrast.series,
        series_number=2 + order,
        instance_number=number_in_series,
        description=contrast.description,
        study_description="MR brain",
        body_part="BRAIN",
        series_start=start,
    )
    stamp(ds, "Acquisition", start)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.AcquisitionNumber = 1
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = acquisition.uid("frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.ScanningSequence = list(contrast.scanning_sequence)
    ds.SequenceVariant = list(contrast.sequence_variant)
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "2D"
    ds.SequenceName = contrast.sequence_name
    ds.EchoTime, ds.RepetitionTime = number(contrast.echo_time_ms), number(contrast.repetition_time_ms)
    if contrast.inversion_time_ms is not None:
        ds.InversionTime = number(contrast.inversion_time_ms)
    ds.EchoTrainLength = contrast.echo_train_length
    ds.FlipAngle, ds.MagneticFieldStrength = "90", "1.5"
    ds.ProtocolName = contrast.description
    ds.SpacingBetweenSlices = number(grid.spacing_mm[0])
    grid.place(ds, index, thickness_mm=round(grid.spacing_mm[0] * 0.9, 2))
    set_pixels(ds, stored, bits_stored=12, photometric="MONOCHROME2")
    ds.WindowCenter, ds.WindowWidth = number(contrast.signal["white"]), number(2 * contrast.signal["white"])
    return ds
