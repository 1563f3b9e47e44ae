"""Faces in images of heads: where they are, and how they are made unrecognisable (PS3.15 E.3.2, option 113102).

An average head is laid over the one in the image, as mri_deface (Bischoff-Grethe et al. 2007) and pydeface do, only
that its shape is compared and no intensities, so that MR, CT and PET go one way. Then a wedge in front of it is
emptied, air included, whose noise and folded-in signal show the outline too. What is left ends in planes that know
nothing of the face; a skin taken off in one depth would leave the same face a little smaller.

Head coordinates q, in mm of the average head: x to its left, y to its back, z to its crown, origin at the middle of the
brain case. A place p of the patient (LPS) is q = axes.T (p - centre_mm) / size. The average head is a union of
ellipsoids with the means of adults (Gordon et al. 1989: length 192, breadth 148, chin to crown 225 mm); its glabella is
at (0, -97, -20). The wedge holds every q with

    z <= -12 - (y + 97)     a roof that begins 8 mm above the glabella and falls by 45 degrees to the back, through the
                            orbit and 11 mm below the frontal lobe, whose lowest point in front is near (-77, -17)
    y <= -52                45 mm deep; the temporal lobe's pole is near y = -30
    z >= -165, |x| <= 80    down to the throat, and not to the chest or a raised arm

The pose is the minimum of sum (t(q) - m(p))^2 + (deviation from an upright adult / its spread)^2 over points p in the
field of view: t the soft shape of the average head, m that of the head in the image; Levenberg-Marquardt from several
starts. A head that is not fitted well, or is far from an adult's size, is refused, and so is what may be a head. Ears,
the back of the jaw and the forehead stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from dicom_io import dataset, magnetic_resonance, pixels, series
from dicom_io.confidentiality import burned_in
from dicom_io.errors import Rejected
from dicom_io.slices import Slice
from dicom_io.volume import Float32, Float64, Volume

Bool = npt.NDArray[np.bool_]

HOUNSFIELD = "[hnsf'U]"
AIR_HU = -1024
_SKIN_HU, _SKIN_SUV = -300, 0.2

# The average head: centre and half axes in mm. The neck has no end below.
_ELLIPSOIDS = (
    ((0, 0, 0), (74, 96, 80)),  # brain case
    ((0, 38, -38), (62, 55, 46)),  # nape
    ((0, -42, -72), (64, 55, 78)),  # face
    ((0, -98, -60), (16, 24, 24)),  # nose
)
_NECK, _NECK_TOP_MM = ((0, 20), (60, 58)), -40
# Rows (n, d): what n q <= d holds for all of them is the wedge.
_WEDGE = np.array([(0, 1, 1, -12 - 97), (0, 1, 0, -52), (0, 0, -1, 165), (1, 0, 0, 80), (-1, 0, 0, 80)])

# The fit. Spreads: of pitch, yaw, roll (degrees) and of the logarithm of the size, common and for each axis.
_STEP_MM, _SOFT_MM = 8.0, 12.0
_TURN_DEG, _SIZE, _SHAPE = (14.0, 10.0, 8.0), 0.05, 0.03
_PITCHES_DEG = (-18, 0, 18)
_BELOW_TOP_MM = (80, 45, 10)
_LOWEST_MM, _HALF_MM = -135, (105, 135)
_WEIGHT = 8000  # of the mean square misfit: as many points as that, each as uncertain as half and half
_COARSE_POINTS, _FINE_POINTS = 1500, 8000
_SCALE, _DIFFERENCE = [5.0] * 3 + [1.0] * 7, [1e-2] * 3 + [1e-2] * 7
_GOOD, _SIZES, _ALONG_AN_AXIS = 0.9, (0.86, 1.18), (0.8, 1.25)
_FEWEST_POINTS = 1500


@dataclass(frozen=True, eq=False)
class Face:
    """An average head laid over the one in an image, with the wedge that holds its face.

    centre_mm: (3,) LPS of the origin of head coordinates. axes: (3, 3), its columns their directions in LPS.
    size: (3,) of this head against the average one, along its axes. overlap: Dice coefficient of the two shapes, soft,
    within the field of view. frame_of_reference_uid: (0020,0052).
    """

    centre_mm: Float64
    axes: Float64
    size: Float64
    overlap: float
    frame_of_reference_uid: str

    def shell(self, volume: Volume) -> Volume:
        """1 where a voxel of this volume, or a part of one, lies in the wedge; on its grid, in units "1"."""
        return volume.with_voxels(self.within(volume.spatial_shape, volume.affine).astype(np.float32), units="1")

    def within(self, shape: Sequence[int], affine: Float64) -> Bool:
        """The same for a grid of this shape (slices, rows, columns)."""
        to_head = (self.axes / self.size).T
        steps = to_head @ affine[:3, :3]
        start = to_head @ (affine[:3, 3] - self.centre_mm)
        inside = np.ones(tuple(shape), bool)
        for *normal, limit in _WEDGE:
            along = np.array(normal) @ steps
            s, r, c = (step * np.arange(n) for step, n in zip(along, shape, strict=True))
            reach = np.abs(along).sum() / 2  # from a voxel's centre to its farthest corner
            inside &= s[:, None, None] + r[:, None] + c <= limit + reach - np.array(normal) @ start
        return inside


def shell(volume: Volume) -> Volume:
    """1 where a voxel of an image of a head must be emptied, so that the face is gone; see the module's text.

    Raises:
        Rejected: no head can be laid over what is in the volume, or too little of it is there.
    """
    return found(volume).shell(volume)


def found(volume: Volume) -> Face:
    """The face in a volume of CT (HU), PET (SUV) or MR. Raises Rejected as `shell` does."""
    points, target = _points(volume)
    near = min((_fitted(*_around(points, target, start), start) for start in _starts(points, target)), key=_cost)
    places, there = _around(points, target, near.x)
    best = _fitted(places, there, near.x, at_most=_FINE_POINTS)
    face = _face(best.x, volume.frame_of_reference_uid, _overlap(best.x, places, there))
    _require_likeness(face)
    return face


# --- the head in the image ----------------------------------------------------------------------------------------


def _points(volume: Volume) -> tuple[Float64, Float64]:
    """Places (n, 3) in LPS mm on an even grid within the field of view, and how much of the head is there, 0 to 1."""
    mask, affine = _body(volume)
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in mask.shape])).reshape(3, -1)
    outline = affine[:3, :3] @ corners + affine[:3, 3:]
    low, high = outline.min(axis=1), outline.max(axis=1)
    axes = [np.arange(a + _STEP_MM / 2, b, _STEP_MM) for a, b in zip(low, high, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    index = np.linalg.solve(affine[:3, :3], (places - affine[:3, 3]).T)
    seen = ((index > -0.5) & (index < np.array(mask.shape)[:, None] - 0.5)).all(axis=0)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), _SOFT_MM / 4 / spacing, mode="nearest")
    return places[seen], ndimage.map_coordinates(soft, index[:, seen], order=1, mode="nearest").astype(np.float64)


def _body(volume: Volume) -> tuple[Bool, Float64]:
    """What is no air, on a grid of about 3 mm, and that grid's affine."""
    voxels = volume.voxels if volume.voxels.ndim == 3 else volume.voxels[0]
    blocks = [max(int(3 / step), 1) for step in volume.spacing_mm]
    shape = [n // block for n, block in zip(voxels.shape, blocks, strict=True)]
    whole = voxels[tuple(slice(0, n * block) for n, block in zip(shape, blocks, strict=True))]
    coarse = whole.reshape([k for pair in zip(shape, blocks, strict=True) for k in pair]).mean(axis=(1, 3, 5))
    affine = volume.affine.copy()
    affine[:3, 3] = volume.position_mm([(block - 1) / 2 for block in blocks])
    affine[:3, :3] *= blocks
    return _tissue(coarse, volume.units), affine


def _tissue(voxels: Float32, units: str) -> Bool:
    if units == "1":
        return magnetic_resonance.head_mask(voxels)
    above = ndimage.gaussian_filter(voxels, 0.7) > (_SKIN_HU if units == HOUNSFIELD else _SKIN_SUV)
    opened = ndimage.binary_opening(above)  # head rests and sheets touch the skin
    labelled, count = ndimage.label(opened)
    if not count:
        raise Rejected("the volume holds nothing but air, so there is no head in it; send another series")
    largest = labelled == 1 + np.bincount(labelled.ravel())[1:].argmax()
    return np.stack([ndimage.binary_fill_holes(one) for one in largest])


# --- the average head, and its pose -------------------------------------------------------------------------------


def _occupancy(q: Float64) -> Float64:
    """How much of the average head is around places q (n, 3) in head coordinates: 1 inside, 0 outside, soft between."""
    nearest = np.full(len(q), np.inf)
    for centre, half in _ELLIPSOIDS:
        np.minimum(nearest, _to_ellipsoid(q, centre, half), out=nearest)
    neck = np.maximum(_to_ellipsoid(q[:, :2], *_NECK), q[:, 2] - _NECK_TOP_MM)
    return np.clip(0.5 - np.minimum(nearest, neck) / _SOFT_MM, 0, 1)


def _to_ellipsoid(q: Float64, centre: Sequence[float], half: Sequence[float]) -> Float64:
    """Signed distance in mm to first order, negative inside."""
    squares = ((q - centre) / half) ** 2
    k = np.sqrt(squares @ np.ones(len(half)))
    steep = np.sqrt(squares @ (1 / np.array(half) ** 2))
    return np.asarray(k * (k - 1) / (steep + 1e-9), np.float64)


# A pose is (centre x, y, z in mm; pitch, yaw, roll; logarithm of the size; of its shape along x, y, z), the latter
# seven in units of their spreads.


def _face(pose: Float64, frame_of_reference_uid: str = "", overlap: float = 0.0) -> Face:
    turn = Rotation.from_euler("xzy", pose[3:6] * _TURN_DEG, degrees=True).as_matrix()
    size = np.exp(_SIZE * pose[6] + _SHAPE * pose[7:10])
    return Face(pose[:3], turn, size, overlap, frame_of_reference_uid)


def _modelled(pose: Float64, points: Float64) -> Float64:
    face = _face(pose)
    return _occupancy((points - face.centre_mm) @ face.axes / face.size)


def _starts(points: Float64, target: Float64) -> Iterator[Float64]:
    """Upright and nodding heads below the top of the body, whole or cut off by the end of the field of view."""
    body = points[target > 0.5]
    if len(body) < _FEWEST_POINTS / 3:
        raise Rejected("too little of a body is in the volume for a head to be told; send the whole series")
    top = float(np.percentile(body[:, 2], 99.8)) + _STEP_MM / 2
    is_cut = top > points[:, 2].max() - 1.5 * _STEP_MM
    upper = body[body[:, 2] > top - 130]
    x, y = np.median(upper[:, 0]), np.median(upper[:, 1])
    for below in _BELOW_TOP_MM if is_cut else _BELOW_TOP_MM[:1]:
        for pitch in _PITCHES_DEG:
            yield np.array([x, y, top - below, pitch / _TURN_DEG[0], 0, 0, 0, 0, 0, 0], np.float64)


def _around(points: Float64, target: Float64, pose: Float64) -> tuple[Float64, Float64]:
    """The points around a head, without the trunk and raised arms."""
    away = points - pose[:3]
    near = (np.abs(away[:, :2]) < _HALF_MM).all(axis=1) & (away[:, 2] > _LOWEST_MM)
    if near.sum() < _FEWEST_POINTS:
        raise Rejected("too little of a head is in the volume for its face to be found; send the whole series")
    return points[near], target[near]


def _fitted(points: Float64, target: Float64, start: Float64, at_most: int = _COARSE_POINTS) -> Any:
    """The pose of least misfit from one start, with every n-th point so that there are so many."""
    stride = -(-len(points) // at_most)
    places, there = points[::stride], target[::stride]
    weight = np.sqrt(_WEIGHT / len(places))

    def misfit(pose: Float64) -> Float64:
        return np.concatenate([weight * (_modelled(pose, places) - there), pose[3:]])

    return optimize.least_squares(
        misfit, start, diff_step=_DIFFERENCE, x_scale=_SCALE, ftol=1e-4, method="lm", max_nfev=300
    )


def _cost(fit: Any) -> float:
    return float(fit.cost)


def _overlap(pose: Float64, points: Float64, target: Float64) -> float:
    model = _modelled(pose, points)
    return float(2 * np.minimum(model, target).sum() / (model.sum() + target.sum()))


def _require_likeness(face: Face) -> None:
    mean = float(np.prod(face.size) ** (1 / 3))
    like = _ALONG_AN_AXIS[0] <= face.size.min() and face.size.max() <= _ALONG_AN_AXIS[1]
    if not like or face.overlap < _GOOD or not _SIZES[0] <= mean <= _SIZES[1]:
        raise Rejected(
            f"an average head laid over what is there has an overlap of {face.overlap:.2f} and, across, along and up, "
            f"{', '.join(f'{size:.2f}' for size in face.size)} times the size of an adult's; {_GOOD}, and "
            f"{_SIZES[0]} to {_SIZES[1]} on average, are needed; remove the face with another tool, or leave it out"
        )


# --- which images show a head -------------------------------------------------------------------------------------

# Words of Body Part Examined (0018,0015), of anatomic regions and of descriptions; the first wins over the second.
_HEADS = re.compile(
    r"(?<![a-z])(?:brain|cerebral|cerebrum|circleofwillis|cranial|cranium|csp|c-?spine|cervical|carotids?|ears?|eyes?|"
    r"face|facial|head|headneck|iac|jaw|larynx|mandible|mastoid|maxilla|mouth|nasal|neck|neuro|nose|optic|orbits?|"
    r"parotid|petrous|pharynx|pituitary|sella|sinus|sinuses|skull|teeth|tmj|tongue|whole.?body|zygoma)(?![a-z])"
)
_OTHERS = re.compile(
    r"(?<![a-z])(?:abdomen|abdomenpelvis|ankle|arm|bladder|breasts?|calf|chest|chestabdomen|chestabdpelvis|clavicle|"
    r"coccyx|colon|elbow|extremity|femur|finger|foot|forearm|hand|heart|hips?|humerus|ileum|kidney|knee|leg|liver|"
    r"l-?spine|lungs?|pancreas|pelvis|penis|prostate|rectum|ribs?|sacrum|scrotum|spleen|sternum|stomach|testis|thigh|"
    r"thorax|thumb|toe|t-?spine|uterus|wrist)(?![a-z])"
)
_NO_HEADS = re.compile(r"(?:femoral|humeral|radial|pancreatic) (?:head|neck)")
_DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")
_VOLUMES = ("CT", "MR", "PT")
_LONG_MM = 400  # a CT or PET that goes on for this may hold the head, whatever its label says
_CAPTURES, _PHOTOGRAPHS = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.77.1."
_SLIDES = (f"{_PHOTOGRAPHS}2", f"{_PHOTOGRAPHS}3", f"{_PHOTOGRAPHS}6")


def says_head(header: Dataset) -> bool | None:
    """Whether the attributes say that a head is shown; None where they say nothing.

    Body Part Examined (0018,0015), Anatomic Region Sequence (0008,2218), Study and Series Description (0008,1030),
    (0008,103E), Protocol Name (0018,1030).
    """
    regions = [str(item.get("CodeMeaning") or "") for item in header.get("AnatomicRegionSequence") or ()]
    texts = [str(header.get("BodyPartExamined") or ""), *regions]
    texts += [str(dataset.value(header, keyword) or "") for keyword in _DESCRIPTIONS]
    words = _NO_HEADS.sub(" ", " / ".join(texts).lower())
    return True if _HEADS.search(words) else False if _OTHERS.search(words) else None


@dataclass(frozen=True, eq=False)
class Search:
    """What is known of the faces in some files, by Series Instance UID: the face, None for no head, or why not known.

    studies: Study Instance UIDs with a head in them.
    """

    series: Mapping[str, Face | str | None]
    studies: frozenset[str]

    def of(self, image: Dataset) -> Face | None:
        """The face that an object shows a part of, or None where it shows no head.

        Raises:
            Rejected: it may show a face, and where is not known; or it was not among the files.
        """
        if "Rows" not in image or str(image.get("Modality")) in ("SEG", "RTDOSE"):
            return None
        uid = str(image.get("SeriesInstanceUID") or "")
        if str(image.get("Modality")) not in _VOLUMES or _is_picture(image):
            self._require_no_picture_of_a_face(image)
            return None
        known = self.series.get(uid, f"series {uid} was not searched for faces; give its files, too")
        if isinstance(known, str):
            raise Rejected(known)
        return known

    def _require_no_picture_of_a_face(self, image: Dataset) -> None:
        sop_class = str(image.get("SOPClassUID") or "")
        if image.get("Modality") == "US" or sop_class.startswith(_SLIDES):  # beneath the skin, whatever the part
            return
        is_photograph = sop_class.startswith(_PHOTOGRAPHS)
        in_a_study = _is_picture(image) and str(image.get("StudyInstanceUID")) in self.studies
        if says_head(image) or is_photograph or in_a_study:
            raise Rejected(
                f"instance {image.get('SOPInstanceUID')} is a picture and no volume, and may show a face; look at it, "
                "and leave it out or de-identify it by itself, without faces being removed"
            )


def _is_picture(image: Dataset) -> bool:
    return f"{image.get('SOPClassUID')}.".startswith(f"{_CAPTURES}.")


@dataclass
class _Files:
    """The files of one series, with the header of the first."""

    header: Dataset
    paths: list[Path] = field(default_factory=list)


def search(paths: Iterable[Path]) -> Search:
    """Look for the faces in all series of CT, MR and PET below these paths; files that are no DICOM are passed over.

    A series that is too thin for a head to be told (a localiser) has the face of another one in its frame of reference.
    """
    known: dict[str, Face | str | None] = {}
    frames: dict[str, str] = {}
    studies: set[str] = set()
    for uid, files in _by_series(paths).items():
        known[uid] = _searched(uid, files)
        frames[uid] = str(files.header.get("FrameOfReferenceUID") or "")
        if known[uid] is not None:
            studies.add(str(files.header.get("StudyInstanceUID")))
    faces = sorted((one for one in known.values() if isinstance(one, Face)), key=lambda face: face.overlap)
    best = {face.frame_of_reference_uid: face for face in faces if face.frame_of_reference_uid}
    shared = {uid: best.get(frames[uid], one) if isinstance(one, str) else one for uid, one in known.items()}
    return Search(shared, frozenset(studies))


def _by_series(paths: Iterable[Path]) -> dict[str, _Files]:
    found: dict[str, _Files] = {}
    for path in series.files_below(paths):
        try:
            header = dataset.read(path, stop_before_pixels=True)
        except Rejected:
            continue
        if str(header.get("Modality")) in _VOLUMES and "Rows" in header and not _is_picture(header):
            found.setdefault(str(header.get("SeriesInstanceUID") or ""), _Files(header)).paths.append(path)
    return found


def _searched(uid: str, files: _Files) -> Face | str | None:
    said = says_head(files.header)
    if said is False and files.header.Modality == "MR":
        return None
    readout = series.volumes(files.paths)
    volumes = [one.volume for one in readout.volumes]
    if said is False and not any(_height_mm(volume) > _LONG_MM for volume in volumes):
        return None
    faces: list[Face] = []
    fitted: list[Volume] = []
    reasons = [sentence for _, sentence in readout.refused] or list(readout.left_aside[:1])
    for volume in volumes:
        if any(volume.same_grid_as(other) for other in fitted):  # another moment or echo
            continue
        try:
            faces.append(found(volume))
            fitted.append(volume)
        except Rejected as error:
            reasons.append(str(error))
    if faces:
        return max(faces, key=lambda face: face.overlap)
    return f"series {uid} {'shows' if said else 'may show'} a head, and its face is not found: {'; '.join(reasons)}"


def _height_mm(volume: Volume) -> float:
    return float(np.abs(volume.affine[2, :3]) @ (np.array(volume.spatial_shape) - 1))


# --- what is emptied ----------------------------------------------------------------------------------------------


def emptied(image: Dataset, face: Face) -> tuple[Dataset, int]:
    """The image with air where the face is, and how many pixels that are; `image` stays as it is.

    Air is the stored value of 0, in CT of -1024 HU, as far as it can be stored. Pixels that change are written
    uncompressed (Explicit VR Little Endian), the others are the same; where none changes, the encoding stays, too.

    Raises:
        Rejected: the image lies in another frame of reference, or does not say where it lies, or `burned_in.blanked`.
        UndecodablePixels: see `pixels.stored`.
    """
    slices = series.taken_apart([Slice(image, "")])
    masks = np.zeros((pixels.number_of_frames(image), int(image.Rows), int(image.Columns)), bool)
    for item in slices:
        _require_frame_of_reference(item, face)
        view = masks[item.frame - 1][item.tile or ...]
        view[...] = face.within((1, *view.shape), _affine(item))[0]
    if not masks.any():
        return image, 0
    return _filled(image, slices, masks), int(masks.sum())


def _require_frame_of_reference(item: Slice, face: Face) -> None:
    if item.text("FrameOfReferenceUID") != face.frame_of_reference_uid:
        raise Rejected(
            f"instance {item.text('SOPInstanceUID')} lies in frame of reference "
            f"{item.text('FrameOfReferenceUID') or 'none'}, and the face was found in "
            f"{face.frame_of_reference_uid or 'none'}; leave it out"
        )


def _affine(item: Slice) -> Float64:
    """Index (0, row, column) of one slice -> LPS mm; the first step is its thickness."""
    across, down = item.orientation
    thickness = max(float(item.get(keyword) or 0) for keyword in ("SliceThickness", "SpacingBetweenSlices"))
    affine = np.eye(4)
    affine[:3] = np.c_[item.normal * thickness, down * item.spacing[0], across * item.spacing[1], item.position]
    return affine


def _filled(image: Dataset, slices: Sequence[Slice], masks: Bool) -> Dataset:
    new = burned_in.blanked(image, np.zeros(masks.shape[1:], bool))  # uncompressed, and nothing black yet
    values = pixels.stored(new).reshape(masks.shape).copy()
    for item in slices:
        here = (item.frame - 1, *(item.tile or ()))
        values[here][masks[here]] = _air(item, values[here])
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    new.add_new("PixelData", new["PixelData"].VR, little + b"\0" * (len(little) % 2))
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):  # may no longer be true, and are Type 3
        if keyword in new:
            delattr(new, keyword)
    return new


def _air(item: Slice, values: npt.NDArray[Any]) -> int:
    """The stored value of air, within what Bits Stored (0028,0101) can hold."""
    if item.get("ModalityLUTSequence"):
        return int(values.min())
    slope, intercept = pixels.rescale(item.dataset)
    bits, is_signed = int(item.get("BitsStored")), item.get("PixelRepresentation") == 1
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    air = (AIR_HU if item.get("Modality") == "CT" else 0) - intercept
    return int(np.clip(np.rint(air / slope), low, high))
