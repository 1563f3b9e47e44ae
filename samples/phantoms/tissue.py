"""Breast tissue in section, as haematoxylin and eosin stain it: stroma, ducts, lobules, fat, vessels, carcinoma.

A section is built on a grid of `PIXEL_UM`; places and lengths are in um, (down, across) from its first pixel. What
takes up stain is a concentration per pixel, 0 for glass: haematoxylin sits in nuclei, eosin in collagen and cytoplasm.
How much light they leave is for `samples.phantoms.stain`. Benign nuclei are small, alike and in order: around lumina,
along fibres. Those of invasive carcinoma are larger, darker, of many shapes, crowded into nests or cords without lumen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from dicom_io.volume import Float64
from samples.phantoms.texture import Field, ellipsoid, inside, smooth_field

PIXEL_UM = 2.0
# Numbers of the truth, and what each is.
CARCINOMA, GLANDS, FAT = 1, 2, 3
NAMES = {CARCINOMA: "invasive carcinoma", GLANDS: "ducts and lobules", FAT: "fat"}

Point = tuple[float, float]
Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Section:
    """haematoxylin, eosin: (rows, columns), concentrations from 0 up. truth: (rows, columns), 0 or one of `NAMES`."""

    haematoxylin: Field
    eosin: Field
    truth: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Loop:
    """A closed, wavy line around a centre: radius (um) as a function of the angle, by its harmonics.

    harmonics: (order, share of the radius, phase).
    """

    centre: Point
    radius_um: float
    harmonics: tuple[tuple[int, float, float], ...]

    def radius_at(self, angle: Field) -> Field:
        wave = sum(share * np.cos(order * angle + phase) for order, share, phase in self.harmonics)
        return np.float32(self.radius_um) * (1 + np.asarray(wave, np.float32))

    def distance(self, down: Field, across: Field) -> Field:
        """Distance outwards from the line in um, along the ray from the centre; negative inside."""
        y, x = down - np.float32(self.centre[0]), across - np.float32(self.centre[1])
        return np.hypot(y, x) - self.radius_at(np.arctan2(y, x))

    def points(self, rng: np.random.Generator, inset_um: float, spacing_um: float) -> tuple[Float64, Float64]:
        """(n, 2) points inside the line and directions along it, about `spacing_um` apart."""
        count = max(4, round(2 * np.pi * max(self.radius_um - inset_um, 1.0) / spacing_um))
        angle = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / count
        radius = np.maximum(self.radius_at(angle) - inset_um + rng.normal(0, 0.5, count), 0.5)
        return np.array(self.centre) + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1), angle + np.pi / 2


def loop(rng: np.random.Generator, centre: Point, radius_um: float, wavy: float = 0.06) -> Loop:
    """wavy: how far from round, as a share of the radius in each harmonic; the second one is twice that."""
    sizes = np.abs(rng.normal(0, wavy, 4)) * (2.0, 1.0, 0.7, 0.5)
    phases = rng.uniform(0, 2 * np.pi, 4)
    return Loop(centre, radius_um, tuple((order + 2, float(sizes[order]), float(phases[order])) for order in range(4)))


@dataclass(frozen=True)
class Gland:
    """One lumen with its epithelium. filled: cells fill the lumen. lobule: it is an acinus of a lobule."""

    edge: Loop
    lumen: float
    filled: bool
    lobule: bool


@dataclass(frozen=True, eq=False)
class Canvas:
    """A section in the making. down, across: um of each pixel's middle. haematoxylin, eosin, truth: as in `Section`.

    nuclei: arrays of rows (down, across, half length, half width, direction, haematoxylin), in um and radians.
    """

    rng: np.random.Generator
    shape: tuple[int, int]
    haematoxylin: Field
    eosin: Field
    truth: npt.NDArray[np.uint8]
    nuclei: list[Float64] = field(default_factory=list)

    @cached_property
    def down(self) -> Field:
        return np.broadcast_to((np.arange(self.shape[0], dtype=np.float32)[:, None] + 0.5) * PIXEL_UM, self.shape)

    @cached_property
    def across(self) -> Field:
        return np.broadcast_to((np.arange(self.shape[1], dtype=np.float32) + 0.5) * PIXEL_UM, self.shape)

    @cached_property
    def grain(self) -> Field:
        """The finest structure, of a few um."""
        return self.smooth(4)

    @property
    def size_um(self) -> Point:
        return self.shape[0] * PIXEL_UM, self.shape[1] * PIXEL_UM

    def smooth(self, scale_um: float) -> Field:
        """A random field of mean 0 and deviation near 1 that changes over `scale_um`."""
        step = max(1, round(scale_um / PIXEL_UM / 2))
        coarse = smooth_field(self.rng, [length // step + 3 for length in self.shape], scale_um / PIXEL_UM / step)
        places = np.meshgrid(*(np.arange(n, dtype=np.float32) / np.float32(step) for n in self.shape), indexing="ij")
        return ndimage.map_coordinates(coarse, np.stack(places), order=1, output=np.float32)

    def at(self, values: Field, points: Float64) -> Field:
        """Values of a field at (n, 2) points in um; beyond the border those of the border."""
        rows, columns = (np.clip((points[:, i] / PIXEL_UM).astype(int), 0, self.shape[i] - 1) for i in (0, 1))
        return values[rows, columns]

    def scattered(self, spacing_um: float, jitter: float) -> Float64:
        """(n, 2) points all over, near a grid of `spacing_um`; jitter: how far off it, as a share of the step."""
        axes = (np.arange(spacing_um / 2, length, spacing_um) for length in self.size_um)
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        grid[1::2, :, 1] += spacing_um / 2
        return (grid + self.rng.uniform(-jitter, jitter, grid.shape) * spacing_um).reshape(-1, 2)

    def window(self, edge: Loop, margin_um: float) -> Window:
        """The pixels that a loop and a margin around it may touch."""
        reach = 1.35 * edge.radius_um + margin_um
        rows, columns = (
            slice(max(0, int((middle - reach) / PIXEL_UM)), max(0, int((middle + reach) / PIXEL_UM) + 1))
            for middle in edge.centre
        )
        return rows, columns

    def add_nuclei(
        self,
        points: Float64,
        long_um: tuple[float, float],
        short_um: tuple[float, float],
        darkness: tuple[float, float],
        direction: npt.ArrayLike | None = None,
    ) -> None:
        """Nuclei at (n, 2) points. long_um, short_um, darkness: (mean, deviation). direction: None for any."""
        count = len(points)
        long, short, dark = (
            np.clip(self.rng.normal(mean, deviation, count), 0.55 * mean, 1.8 * mean)
            for mean, deviation in (long_um, short_um, darkness)
        )
        turned = self.rng.uniform(0, np.pi, count) if direction is None else np.broadcast_to(direction, count)
        self.nuclei.append(np.stack([*points.T, long, short, turned, dark], axis=1))


def section(rng: np.random.Generator, shape: tuple[int, int], *, carcinoma: bool) -> Section:
    """A piece of tissue on glass. shape: (rows, columns). carcinoma: one or two invasive masses in it, or none."""
    canvas = Canvas(rng, shape, np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint8))
    tissue_um = _outline(canvas)
    tumour_um = _masses(canvas, tissue_um) if carcinoma else np.full(shape, 1e4, np.float32)
    fat = _fat(canvas, tissue_um, tumour_um)
    glands = _place_glands(canvas, tissue_um, fat, tumour_um)
    glands_um = _distance_to(canvas, [gland.edge for gland in glands])
    fibres = _stroma(canvas, fat, glands_um, tumour_um)
    _cells_of_stroma(canvas, fibres, fat, glands_um, tumour_um)
    _vessels(canvas, fat, glands_um, tumour_um)
    _draw_glands(canvas, glands)
    if carcinoma:
        _carcinoma(canvas, tumour_um)
    _draw_nuclei(canvas, tissue_um)
    covered = inside(tissue_um, 5.0)
    truth = np.where(tissue_um < 0, canvas.truth, 0).astype(np.uint8)
    return Section(canvas.haematoxylin * covered, canvas.eosin * covered, truth)


# Where things are


def _outline(canvas: Canvas) -> Field:
    """Signed distance to the edge of the tissue: one lopsided piece, a little torn."""
    centre = np.array(canvas.size_um) * canvas.rng.uniform(0.47, 0.53, 2)
    edge = ellipsoid((canvas.down, canvas.across), centre.tolist(), [0.54 * length for length in canvas.size_um])
    return edge + 80 * canvas.smooth(330) + 20 * canvas.smooth(70) + 2 * canvas.smooth(11) + np.float32(25)


def _masses(canvas: Canvas, tissue_um: Field) -> Field:
    """Signed distance to invasive carcinoma, whose border runs out into what is around it."""
    nearest = np.full(canvas.shape, 1e4, np.float32)
    for size in (1.0, 0.55)[: int(canvas.rng.integers(1, 3))]:
        centre = _free_place(canvas, tissue_um + 350 * size)
        axes = canvas.rng.uniform(330, 600, 2) * size
        np.minimum(nearest, ellipsoid((canvas.down, canvas.across), centre, axes.tolist()), out=nearest)
    return nearest + 75 * canvas.smooth(130) + 32 * canvas.smooth(32)


def _free_place(canvas: Canvas, taken_um: Field) -> Point:
    """A random point where `taken_um` is negative; where chance finds none, the one where it is least."""
    for point in canvas.rng.uniform((0.06, 0.06), (0.94, 0.94), (60, 2)) * canvas.size_um:
        if canvas.at(taken_um, point[None])[0] < 0:
            return float(point[0]), float(point[1])
    row, column = np.unravel_index(int(np.argmin(taken_um)), canvas.shape)
    return (float(row) + 0.5) * PIXEL_UM, (float(column) + 0.5) * PIXEL_UM


def _distance_to(canvas: Canvas, edges: Iterable[Loop]) -> Field:
    """Signed distance to the nearest of the loops; 200 um where none is near."""
    nearest = np.full(canvas.shape, 200, np.float32)
    for edge in edges:
        at = canvas.window(edge, 200)
        np.minimum(nearest[at], edge.distance(canvas.down[at], canvas.across[at]), out=nearest[at])
    return nearest


def _place_glands(canvas: Canvas, tissue_um: Field, fat: Field, tumour_um: Field) -> list[Gland]:
    """Ducts, each by itself, and lobules, bunches of acini; none in fat or carcinoma, none upon another."""
    glands: list[Gland] = []
    blocked = np.maximum.reduce([tissue_um + 130, 190 - tumour_um, (fat - 0.4) * 300])
    for lobule in (False, True, False, True, True, False, True, False, True, True)[: int(canvas.rng.integers(7, 11))]:
        radius = float(canvas.rng.uniform(70, 125) if lobule else canvas.rng.uniform(35, 95))
        centre = _free_place(canvas, blocked)
        if canvas.at(blocked, np.array([centre]))[0] >= 0:
            continue
        whole = loop(canvas.rng, centre, radius, 0.09)
        glands += _acini(canvas.rng, whole) if lobule else [_duct(canvas.rng, whole)]
        at = canvas.window(whole, 260)
        np.maximum(blocked[at], 170 - whole.distance(canvas.down[at], canvas.across[at]), out=blocked[at])
    return glands


def _duct(rng: np.random.Generator, edge: Loop) -> Gland:
    thickness_um = rng.uniform(15, 24)
    return Gland(edge, max(0.25, 1 - thickness_um / edge.radius_um), bool(rng.random() < 0.2), lobule=False)


def _acini(rng: np.random.Generator, whole: Loop) -> list[Gland]:
    """Small glands that lie close in a lobule, and do not touch."""
    acini: list[Gland] = []
    for _ in range(140):
        angle, out = rng.uniform(0, 2 * np.pi), whole.radius_um * np.sqrt(rng.random())
        centre = (whole.centre[0] + out * np.sin(angle), whole.centre[1] + out * np.cos(angle))
        radius = float(rng.uniform(13, 21))
        apart = (np.hypot(*np.subtract(centre, other.edge.centre)) - other.edge.radius_um for other in acini)
        if min(apart, default=np.inf) > radius + 4:
            acini.append(Gland(loop(rng, centre, radius), float(rng.uniform(0.2, 0.42)), False, lobule=True))
    return acini


# What they look like


def _fat(canvas: Canvas, tissue_um: Field, tumour_um: Field) -> Field:
    """Share of fat; draws its cells: empty, 60 to 90 um wide, with thin walls where they press each other flat."""
    near_edge = np.clip(1 + tissue_um / 420, -0.5, 1)
    where = 1.25 * canvas.smooth(230) + 1.1 * near_edge - np.float32(canvas.rng.uniform(0.9, 1.4))
    fat = inside(np.maximum(-60 * where, 25 - tumour_um) + 14 * canvas.smooth(22), 8.0)
    drawn = fat > 0
    if not drawn.any():
        return fat
    bent = [axis[drawn] + 6 * canvas.smooth(24)[drawn] for axis in (canvas.down, canvas.across)]
    centres = canvas.scattered(float(canvas.rng.uniform(50, 68)), 0.48)
    nearest, _ = cKDTree(centres).query(np.stack(bent, axis=-1), k=2)
    wall = np.zeros(canvas.shape, np.float32)
    wall[drawn] = np.exp(-(((nearest[:, 1] - nearest[:, 0]) / 4.0) ** 2))
    np.maximum(wall, drawn * np.exp(-(((tissue_um + 4) / 2.5) ** 2)), out=wall)  # the outermost cells are whole
    wall *= np.clip(0.85 + 0.3 * canvas.smooth(40), 0.3, 1.3)
    canvas.eosin[:] += fat * np.float32(0.6) * wall
    canvas.haematoxylin[:] += fat * np.float32(0.1) * wall
    points = canvas.scattered(24, 0.5)
    in_wall = (canvas.at(fat * wall, points) > 0.8) & (canvas.rng.random(len(points)) < 0.5)
    canvas.add_nuclei(points[in_wall], (4.5, 0.8), (1.8, 0.3), (1.3, 0.2))
    canvas.truth[fat > 0.5] = FAT
    return fat


def _stroma(canvas: Canvas, fat: Field, glands_um: Field, tumour_um: Field) -> Field:
    """Wavy bundles of collagen with clefts between, around glands in rings. Returns the fibres' direction, radians."""
    main = canvas.rng.uniform(0, np.pi)
    along = canvas.down * np.float32(np.sin(main)) + canvas.across * np.float32(np.cos(main))
    over = canvas.down * np.float32(np.cos(main)) - canvas.across * np.float32(np.sin(main))
    over = over + 75 * canvas.smooth(230) + 13 * canvas.smooth(48) + 2.5 * canvas.smooth(16)
    over = over + 110 * np.exp(-np.clip(glands_um, 0, None) / np.float32(38))
    collagen, bundle, cleft = (_drawn_out(canvas, along, over, *scales) for scales in ((17, 2.4), (70, 8), (150, 7)))
    loose = inside(glands_um - 12, 10) * np.float32(0.16)
    dense = 0.52 + 0.10 * collagen + 0.09 * bundle + 0.10 * canvas.smooth(150) + 0.05 * canvas.grain - loose
    gap = np.clip((cleft - 1.55) * 2.4, 0, 1) * np.clip(1.2 * canvas.smooth(160) + 0.35, 0, 1) * (glands_um > 8)
    solid = (1 - fat) * (1 - 0.95 * gap)
    canvas.eosin[:] += solid * np.clip(dense, 0.17, 1.1)
    near = np.clip(1 - np.abs(tumour_um) / 150, 0, 1)
    canvas.haematoxylin[:] += solid * np.clip(0.07 + 0.03 * canvas.smooth(70) + 0.02 * bundle + 0.05 * near, 0.01, 1)
    slope_down, slope_across = np.gradient(over)
    return np.arctan2(-slope_across, slope_down)


def _drawn_out(canvas: Canvas, along: Field, over: Field, long_um: float, short_um: float) -> Field:
    """Noise that is long in one of two coordinates and short in the other: mean 0, deviation 1."""
    noise = smooth_field(canvas.rng, (512, 512), 2.0)
    places = np.stack([along * np.float32(2 / long_um), over * np.float32(2 / short_um)])
    drawn = ndimage.map_coordinates(noise, places, order=1, mode="grid-wrap", output=np.float32)
    return (drawn - drawn.mean()) / drawn.std()


def _cells_of_stroma(canvas: Canvas, fibres: Field, fat: Field, glands_um: Field, tumour_um: Field) -> None:
    """Spindle nuclei along the fibres; lymphocytes, small, round and dark, in patches, more of them near carcinoma."""
    points = canvas.scattered(float(canvas.rng.uniform(24, 32)), 0.5)
    points = points[(canvas.at(fat, points) < 0.3) & (canvas.at(glands_um, points) > 4)]
    points = points[canvas.rng.random(len(points)) < 0.8]
    direction = canvas.at(fibres, points) + canvas.rng.normal(0, 0.2, len(points))
    canvas.add_nuclei(points, (6.5, 1.6), (1.7, 0.35), (1.25, 0.25), direction)
    near = np.clip(1 - np.abs(tumour_um) / 220, 0, 1)
    patches = canvas.smooth(70) + 0.8 * near - np.float32(canvas.rng.uniform(2.0, 2.5))
    points = canvas.scattered(8.0, 0.45)
    chance = np.clip(2.5 * canvas.at(patches, points), 0, 0.85)
    chance = chance * (canvas.at(fat, points) < 0.4) * (canvas.at(glands_um, points) > 4)
    canvas.add_nuclei(points[canvas.rng.random(len(points)) < chance], (3.0, 0.3), (2.8, 0.3), (1.8, 0.2))


def _vessels(canvas: Canvas, fat: Field, glands_um: Field, tumour_um: Field) -> None:
    """Small vessels: a thin wall with flat nuclei, and red cells in some of them."""
    taken = np.maximum.reduce([40 - tumour_um, 60 - glands_um, (fat - 0.5) * 100])
    for _ in range(int(canvas.rng.integers(6, 13))):
        edge = loop(canvas.rng, _free_place(canvas, taken), float(canvas.rng.uniform(9, 26)), 0.12)
        at = canvas.window(edge, 20)
        distance = edge.distance(canvas.down[at], canvas.across[at])
        lumen, wall = inside(distance + 3, 3), inside(np.abs(distance) - 3, 3)
        blood = lumen * np.clip(0.95 + 0.3 * canvas.grain[at], 0, 1.5) * (canvas.rng.random() < 0.6)
        canvas.eosin[at] = canvas.eosin[at] * (1 - lumen) + 0.18 * wall + blood
        canvas.haematoxylin[at] *= 1 - lumen
        points, direction = edge.points(canvas.rng, 1.0, 11.0)
        canvas.add_nuclei(points, (4.2, 0.7), (1.5, 0.2), (1.5, 0.2), direction)


def _draw_glands(canvas: Canvas, glands: Sequence[Gland]) -> None:
    """Rings of epithelium: round nuclei at the lumen, flat ones of the myoepithelium outside, cytoplasm between."""
    for gland in glands:
        edge, rng = gland.edge, canvas.rng
        thickness = (1 - gland.lumen) * edge.radius_um
        at = canvas.window(edge, 60)
        distance = edge.distance(canvas.down[at], canvas.across[at])
        body, lumen = inside(distance, 3.0), inside(distance + thickness, 3.0) * (not gland.filled)
        cytoplasm = 0.42 + 0.06 * canvas.grain[at]
        canvas.eosin[at] = canvas.eosin[at] * (1 - body) + body * (1 - lumen) * cytoplasm
        canvas.haematoxylin[at] = canvas.haematoxylin[at] * (1 - body) + body * (1 - lumen) * np.float32(0.34)
        if not gland.lobule and not gland.filled and rng.random() < 0.5:  # secretion
            canvas.eosin[at] += inside(distance + thickness + 7, 6.0) * np.float32(rng.uniform(0.12, 0.3))
        outer, direction = edge.points(rng, 2.0, 9.0)
        canvas.add_nuclei(outer, (4.2, 0.5), (1.6, 0.2), (1.45, 0.15), direction)
        deepest = edge.radius_um if gland.filled else thickness
        for inset in np.arange(7.5, max(deepest - 1.5, 8.0), 7.0):
            points, direction = edge.points(rng, float(inset), 7.2)
            canvas.add_nuclei(points, (3.7, 0.25), (2.9, 0.2), (1.5, 0.12), direction + np.pi / 2)
        canvas.truth[at][(distance < 0) if not gland.lobule else (distance < 14)] = GLANDS


def _carcinoma(canvas: Canvas, tumour_um: Field) -> None:
    """Nests or cords of crowded, large, dark, unequal nuclei in stroma; some shrink away from it and leave a cleft."""
    cords = canvas.rng.random() < 0.35
    scale_um, share = (15.0, -0.05) if cords else (float(canvas.rng.uniform(22, 40)), -0.3)
    nest_um = np.maximum((share - canvas.smooth(scale_um)) * scale_um * 0.8, tumour_um)
    nest = inside(nest_um, 4.0)
    cleft = inside(np.abs(nest_um - 3.5) - 2.5, 3.0) * np.clip(2 * canvas.smooth(110) - 0.8, 0, 1) * (tumour_um < 0)
    for stain, cytoplasm in ((canvas.eosin, 0.40), (canvas.haematoxylin, 0.42)):
        cells = cytoplasm + 0.05 * canvas.smooth(60) + 0.05 * canvas.grain
        stain[:] = (stain * (1 - nest) + nest * cells) * (1 - 0.9 * cleft)
    points = canvas.scattered(float(canvas.rng.uniform(10.8, 12.6)), 0.45)
    points = points[canvas.at(nest_um, points) < -1.5]
    size_um, unequal = float(canvas.rng.uniform(4.4, 5.4)), float(canvas.rng.uniform(0.75, 1.3))
    canvas.add_nuclei(points, (1.15 * size_um, unequal), (0.85 * size_um, 0.8 * unequal), (1.5, 0.34))
    canvas.truth[tumour_um < 0] = CARCINOMA


def _draw_nuclei(canvas: Canvas, tissue_um: Field) -> None:
    """All nuclei into the haematoxylin; where two overlap, the darker one is seen. They push eosin aside."""
    nuclei = np.concatenate(canvas.nuclei)
    nuclei = nuclei[canvas.at(tissue_um, nuclei[:, :2]) < -3]
    down, across, long, short, turned, dark = (nuclei / ([PIXEL_UM] * 4 + [1.0, 1.0])).T.astype(np.float32)
    row, column = np.floor(down).astype(int), np.floor(across).astype(int)
    seen = np.zeros(canvas.shape, np.float32)
    reach = int(np.ceil(long.max())) + 1
    for by_row in range(-reach, reach + 1):
        for by_column in range(-reach, reach + 1):
            near = np.flatnonzero(long + 1.5 > np.hypot(by_row, by_column))
            r, c = row[near] + by_row, column[near] + by_column
            on_it = (r >= 0) & (r < seen.shape[0]) & (c >= 0) & (c < seen.shape[1])
            near, r, c = near[on_it], r[on_it], c[on_it]
            y, x = r + np.float32(0.5) - down[near], c + np.float32(0.5) - across[near]
            sine, cosine = np.sin(turned[near]), np.cos(turned[near])
            away = np.hypot((y * sine + x * cosine) / long[near], (y * cosine - x * sine) / short[near])
            away *= 1 + np.float32(0.1) * canvas.grain[r, c]
            solid = np.clip((1 - away) * short[near] + np.float32(0.5), 0, 1)
            np.maximum.at(seen, (r, c), solid * dark[near] * (np.float32(0.86) + np.float32(0.14) * away))
    seen *= 1 + np.float32(0.08) * canvas.grain
    canvas.eosin[:] *= 1 - np.float32(0.45) * np.clip(seen, 0, 1)
    np.maximum(canvas.haematoxylin, seen, out=canvas.haematoxylin)
