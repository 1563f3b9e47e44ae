"""Faces: gone from any orientation of MR, CT and PET, while the brain and all else stay as they were."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from made_frames import enhanced
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    VLPhotographicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)
from scipy.spatial.transform import Rotation

from dicom_io import pixels, series
from dicom_io.confidentiality import faces
from dicom_io.deidentify import Policy, Report, deidentify
from dicom_io.errors import Rejected
from dicom_io.volume import Float64, Volume

POLICY = Policy(bytes(range(32)))
ORIGIN_MM = np.array([8.0, -15.0, 31.0])
AXIAL, SAGITTAL, CORONAL = (
    np.eye(3),
    np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
)
OBLIQUE = Rotation.from_euler("zyx", (20, -25, 15), degrees=True).as_matrix()


# A head of ellipsoids, not those of the average head: it is longer and narrower, with brows, lips, a nose and a chin.


def distance(q: Float64, centre: Sequence[float], half: Sequence[float]) -> Float64:
    """Below 0 inside, near the distance in mm."""
    return (np.linalg.norm((q - centre) / half, axis=-1) - 1) * min(half)


def tissue(q: Float64) -> tuple[Float64, Float64, Float64]:
    """(skin, bone, brain) at head coordinates, each True or False."""
    mirrored = np.abs(q[..., :1]) * [1, 0, 0] + q * [0, 1, 1]
    skull = distance(q, (0, 0, 0), (69, 93, 76))
    below = [
        *(distance(q, (0, 40, -40), (58, 50, 44)), distance(q, (0, -38, -70), (60, 56, 74))),
        *(
            np.maximum(distance(q[..., :2], (0, 26), (56, 56)), q[..., 2] + 60),
            distance(q, (0, -98, -62), (13, 22, 21)),
        ),
        *(distance(q, (0, -74, -128), (24, 24, 17)), distance(mirrored, (24, -88, -21), (19, 9, 6))),
        distance(q, (0, -93, -92), (22, 9, 8)),
    ]
    skin = np.minimum.reduce([skull - 6, *below]) < 0
    roof = np.maximum(-q[..., 1] - 40, 0) * 0.1 - 21  # the orbits' roof; the temporal lobes go deeper farther back
    floor = np.where(q[..., 1] < -38, roof, -48)
    brain = ((skull < -8) & (q[..., 2] > floor)) | (distance(q, (0, 38, -36), (48, 40, 34)) < 0)
    return skin, (skull < 0) & (skull > -7), brain


SIGNAL = {"MR": (0, 420, 40, 700), "CT": (-1000, 40, 900, 35), "PT": (0, 0.6, 0.5, 7.0)}


def grid(turn: Float64, spacing_mm: Sequence[float], shape: Sequence[int]) -> Float64:
    """Affine of (slice, row, column); turn's columns: row direction, column direction, normal."""
    affine = np.eye(4)
    affine[:3, :3] = turn[:, ::-1] * spacing_mm
    middle = ORIGIN_MM - (0, 10, 32)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def places(affine: Float64, shape: Sequence[int]) -> Float64:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def in_head(places_mm: Float64, nod_deg: Sequence[float] = (0, 0, 0), size: float = 1.0) -> Float64:
    return (places_mm - ORIGIN_MM) @ Rotation.from_euler("xyz", nod_deg, degrees=True).as_matrix() / size


def head(affine: Float64, shape: Sequence[int], modality: str = "MR", nod_deg=(0, 0, 0), size: float = 1.0):
    """(values in modality units, brain) on a grid, with noise in air, too."""
    skin, bone, brain = tissue(in_head(places(affine, shape), nod_deg, size))
    air, soft, hard, grey = SIGNAL[modality]
    values = np.where(brain, grey, np.where(bone, hard, np.where(skin, soft, air)))
    noise = np.random.default_rng(7).normal(0, {"MR": 12, "CT": 15, "PT": 0.02}[modality], (2, *shape))
    return (values + noise[0] if modality == "CT" else np.hypot(values + noise[0], noise[1])), brain


UNITS = {"CT": (1.0, -1024.0), "MR": (1.0, 0.0), "PT": (0.001, 0.0)}


def images(make, affine: Float64, values: Float64, modality: str = "MR", **attributes) -> list[Dataset]:
    """One single-frame image for each slice."""
    slope, intercept = UNITS[modality]
    stored = np.clip(np.rint((values - intercept) / slope), 0, 32767).astype(np.uint16)
    step, down, across = affine[:3, :3].T
    steps = [float(np.linalg.norm(one)) for one in (step, down, across)]
    common = {
        "FrameOfReferenceUID": "2.25.774",
        "ImageOrientationPatient": [round(float(x), 9) for x in (*across / steps[2], *down / steps[1])],
        "PixelSpacing": [round(x, 6) for x in steps[1:]],
        "SliceThickness": round(steps[0], 6),
        "BodyPartExamined": "HEAD",
        "SeriesDescription": "made",
    }
    if modality != "MR":
        common |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    if modality == "PT":
        common |= {"Units": "GML", "SUVType": "BW", "SeriesType": ["WHOLE BODY", "IMAGE"]}
        common |= {"CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START"}
    return [
        make.image(
            picture,
            modality,
            **common
            | {"InstanceNumber": n + 1, "ImagePositionPatient": [round(float(x), 6) for x in affine[:3, 3] + n * step]}
            | attributes,
        )
        for n, picture in enumerate(stored)
    ]


@pytest.fixture(scope="module")
def usual() -> Float64:
    """Values of an axial MR of USUAL's grid; tests that only need some head use it."""
    return head(*USUAL)[0]


USUAL = grid(AXIAL, (4, 3.5, 3.5), (60, 76, 58)), (60, 76, 58)


def search(make, folder: Path, *several: Sequence[Dataset]) -> faces.Search:
    """What is found in the files of some series."""
    return faces.search([make.folder([ds for one in several for ds in one], folder)])


def cleaned(found: faces.Search, datasets: Sequence[Dataset]) -> tuple[list[Dataset], list[Report]]:
    new, reports = zip(*[deidentify(ds, POLICY, found) for ds in datasets], strict=True)
    return list(new), list(reports)


def stored(datasets: Sequence[Dataset]) -> np.ndarray:
    return np.stack([pixels.stored(ds) for ds in datasets])


def depth(values: Float64, affine: Float64, threshold: float, nod_deg=(0, 0, 0)) -> Float64:
    """How far behind a plane in front of the face the first tissue is, mm; over x of -40 to 40, z of -115 to 40 mm."""
    z, x, y = np.meshgrid(np.arange(-115, 41, 2.0), np.arange(-40, 41, 2.0), np.arange(-150, 0, 1.0), indexing="ij")
    turn = Rotation.from_euler("xyz", nod_deg, degrees=True).as_matrix()
    rays = np.stack([x, y, z], axis=-1) @ turn.T + ORIGIN_MM
    index = np.rint((rays - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    inside = ((index >= 0) & (index < values.shape)).all(axis=-1)
    seen = values[tuple(np.moveaxis(np.where(inside[..., None], index, 0), -1, 0))]
    return ((seen > threshold) & inside).argmax(axis=-1).astype(np.float64)


def likeness(one: Float64, other: Float64) -> float:
    """Correlation of two depth maps without their smooth form: what is left is nose, lips, chin and brows."""
    z, x = np.meshgrid(np.linspace(-1, 1, one.shape[0]), np.linspace(-1, 1, one.shape[1]), indexing="ij")
    smooth = np.stack([np.ones_like(x), x, z, x * x, z * z, x * z], axis=-1).reshape(-1, 6)
    left = [part.ravel() - smooth @ np.linalg.lstsq(smooth, part.ravel(), rcond=None)[0] for part in (one, other)]
    return float(np.corrcoef(*left)[0, 1])


FACE, FOREHEAD = slice(0, 46), slice(60, None)  # rows of a depth map: z below -25 mm, above 5 mm

ORIENTATIONS = {
    "axial": (AXIAL, (3, 2.5, 2.5), (78, 104, 80), (0, 0, 0)),
    "axial with thick slices": (AXIAL, (5, 1.5, 1.7), (46, 172, 118), (-5, 2, 3)),
    "sagittal": (SAGITTAL, (2.5, 2.4, 2.7), (78, 98, 96), (10, 0, 4)),
    "coronal": (CORONAL, (3, 2.7, 2.5), (86, 90, 80), (-14, 3, 0)),
    "oblique": (OBLIQUE, (3, 2.5, 2.8), (90, 116, 96), (6, -3, 5)),
    "feet first": (AXIAL * [1, -1, -1], (3, 2.5, 2.5), (78, 104, 80), (14, 0, -5)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_face_is_gone_and_the_brain_stays_in_any_orientation(make, tmp_path, name):
    turn, spacing_mm, shape, nod_deg = ORIENTATIONS[name]
    affine = grid(turn, spacing_mm, shape)
    values, brain = head(affine, shape, nod_deg=nod_deg)
    originals = images(make, affine, values)
    new, reports = cleaned(search(make, tmp_path, originals), originals)
    before, after = stored(originals), stored(new)
    changed = before != after
    assert not changed[brain].any() and not after[changed].any()
    assert sum(report.face_pixels for report in reports) >= changed.sum() > 0
    maps = [depth(one, affine, 150, nod_deg) for one in (before, after)]
    assert abs(likeness(maps[0][FACE], maps[1][FACE])) < 0.2
    assert likeness(maps[0][FOREHEAD], maps[1][FOREHEAD]) > 0.99
    assert (maps[1] - maps[0])[10:38, 4:-4].min() > 6  # mm, from the chin to the eyes


def test_the_given_object_stays_and_the_new_one_says_what_was_done(make, tmp_path, usual):
    originals = images(make, USUAL[0], usual)
    kept = deepcopy(originals)
    new, reports = cleaned(search(make, tmp_path, originals), originals)
    for ds, as_it_was in zip(originals, kept, strict=True):
        assert make.bytes(ds) == make.bytes(as_it_was)
    for ds, report in zip(new, reports, strict=True):
        assert ds.RecognizableVisualFeatures == "NO" and report.face == "removed" and "113102" in report.options
        assert [item.CodeValue for item in ds.DeidentificationMethodCodeSequence] == ["113100", "113102"]
    assert reports[-1].face_pixels == 0 < reports[25].face_pixels
    kept_faces, report = deidentify(originals[25], POLICY)
    assert "RecognizableVisualFeatures" not in kept_faces and report.face == "kept"
    np.testing.assert_array_equal(pixels.stored(kept_faces), pixels.stored(originals[25]))


def test_a_multi_frame_object_loses_the_same_pixels_as_single_frames(make, tmp_path):
    affine = grid(OBLIQUE, (4, 3, 3.2), (64, 96, 84))
    single = images(make, affine, head(affine, (64, 96, 84))[0])
    (new,), (report,) = cleaned(search(make, tmp_path / "s", single), [single[30]])
    whole = enhanced(single[::-1], make.uid())
    whole.BodyPartExamined = "HEAD"
    (new_whole,), (report_whole,) = cleaned(search(make, tmp_path / "w", [whole]), [whole])
    assert report_whole.face_pixels > 20 * report.face_pixels > 0
    np.testing.assert_array_equal(pixels.stored(new_whole)[-31], pixels.stored(new))


@pytest.mark.parametrize(
    ("modality", "spacing_mm", "threshold"), [("CT", (2.5, 2.5, 2.5), 724), ("PT", (3.3, 4, 4), 250)]
)
def test_ct_and_pet_lose_the_face_to_air(make, tmp_path, modality, spacing_mm, threshold):
    shape = tuple(int(length / step) for length, step in zip((230, 260, 200), spacing_mm, strict=True))
    affine = grid(AXIAL, spacing_mm, shape)
    values, brain = head(affine, shape, modality)
    originals = images(make, affine, values, modality)
    new, _ = cleaned(search(make, tmp_path, originals), originals)
    before, after = stored(originals), stored(new)
    changed = before != after
    assert not changed[brain].any() and not after[changed].any()  # -1024 HU is stored as 0
    maps = [depth(one, affine, threshold) for one in (before, after)]
    assert abs(likeness(maps[0][FACE], maps[1][FACE])) < 0.2


def test_air_is_what_it_is_in_stored_values(make, tmp_path):
    originals = images(make, USUAL[0], head(*USUAL, "CT")[0], "CT")
    for ds in originals:  # 2 HU for each step, signed, 12 bits: -1024 HU is -412
        values = (pixels.stored(ds).astype(np.int16) - 1024 + 200) // 2 - 400 + 300
        ds.PixelData, ds.PixelRepresentation, ds.BitsStored, ds.HighBit = values.tobytes(), 1, 12, 11
        ds.RescaleSlope, ds.RescaleIntercept = 2, -200
    new, _ = cleaned(search(make, tmp_path, originals), [originals[25]])
    changed = pixels.stored(new[0]) != pixels.stored(originals[25])
    assert set(pixels.stored(new[0])[changed]) == {-412}


def test_compressed_images_are_the_same_outside_the_face(make, tmp_path, usual):
    originals = images(make, USUAL[0], usual)
    native = stored(originals)
    for ds in originals:
        ds.compress(RLELossless, generate_instance_uid=False)
    new, reports = cleaned(search(make, tmp_path, originals), [originals[25], originals[-1]])
    assert [ds.file_meta.TransferSyntaxUID for ds in new] == [ExplicitVRLittleEndian, RLELossless]
    changed = pixels.stored(new[0]) != native[25]
    assert 0 < changed.sum() <= reports[0].face_pixels and not pixels.stored(new[0])[changed].any()
    np.testing.assert_array_equal(pixels.stored(new[1]), native[-1])


def test_the_shell_of_a_volume_is_what_is_emptied(make, tmp_path):
    affine, shape = grid(SAGITTAL, (3, 3, 3), (66, 80, 86)), (66, 80, 86)
    originals = images(make, affine, head(affine, shape)[0])
    volume = series.volumes([make.folder(originals, tmp_path)]).volumes[0].volume
    mask = faces.shell(volume)
    assert mask.units == "1" and mask.same_grid_as(volume) and set(np.unique(mask.voxels)) == {0, 1}
    _, reports = cleaned(faces.search([tmp_path]), originals)
    counts = {ds.SOPInstanceUID: report.face_pixels for ds, report in zip(originals, reports, strict=True)}
    assert mask.voxels.sum(axis=(1, 2)).tolist() == [counts[source.sop_instance_uid] for source in volume.sources]


# A phantom of another hand, with the truth of its brain


def test_no_voxel_of_a_phantoms_brain_is_touched_and_its_eyes_are():
    from samples.phantoms import brain_mr
    from samples.phantoms.grid import through_slices
    from samples.phantoms.patient import stream

    seed = 4
    place, pose = brain_mr._place(stream("brain-mr", seed, 1))
    q = pose.into_the_head(place.positions(3))
    tissues = brain_mr._head(stream("brain-mr", seed, 2), q)
    layers = [fraction for name, fraction in tissues.layers if name in ("grey", "white", "stem")]
    brain = through_slices(np.maximum.reduce(layers), 3) > 0.2
    signal = brain_mr._acquire(stream("brain-mr", seed, 10), brain_mr.T1, tissues, 0 * tissues.white, place)
    mask = faces.shell(Volume(signal.astype(np.float32), place.affine, "2.25.774", "1")).voxels > 0
    assert not (mask & brain).any()
    x, y, z = (axis[1::3] for axis in q)
    eyes = np.hypot(np.hypot(np.abs(x) - 31, y + 78), z + 40) < 4
    assert mask[eyes].mean() > 0.9


# Which images show a head


def test_words_tell_a_head_from_other_parts():
    def said(**attributes: str) -> bool | None:
        header = Dataset()
        for keyword, value in attributes.items():
            setattr(header, keyword, value)
        return faces.says_head(header)

    assert said(BodyPartExamined="BRAIN") and said(SeriesDescription="MR_HEAD_T1") and said(StudyDescription="C-Spine")
    assert said(BodyPartExamined="CHEST", StudyDescription="PET whole body") is True
    assert said(BodyPartExamined="BREAST") is False and said(StudyDescription="MR femoral head, left hip") is False
    assert said() is None and said(SeriesDescription="T1 tra", ProtocolName="thread") is None


def test_a_localiser_loses_the_face_that_another_series_shows(make, tmp_path, usual):
    originals = images(make, USUAL[0], usual)
    scout_affine = grid(SAGITTAL, (10, 2, 2), (1, 110, 120))
    scout = images(make, scout_affine, head(scout_affine, (1, 110, 120))[0], SeriesInstanceUID="2.25.779")
    alone = search(make, tmp_path / "alone", scout)
    with pytest.raises(Rejected, match=r"series 2\.25\.779 shows a head, and its face is not found: too little"):
        deidentify(scout[0], POLICY, alone)
    _, (report,) = cleaned(search(make, tmp_path / "both", originals, scout), scout)
    assert report.face_pixels > 1000
    elsewhere = search(make, tmp_path / "other", originals)
    with pytest.raises(Rejected, match="was not searched"):
        deidentify(scout[0], POLICY, elsewhere)
    with pytest.raises(Rejected, match="lies in frame of reference none"):
        faces.emptied(make.image(pixels.stored(scout[0]), ImagePositionPatient=[0, 0, 0]), elsewhere.series["2.25.772"])


def test_a_head_whose_slices_make_no_volume_is_refused(make, tmp_path, usual):
    originals = images(make, USUAL[0], usual)
    del originals[20:23]
    with pytest.raises(Rejected, match=r"face is not found: series .* leave a gap"):
        deidentify(originals[0], POLICY, search(make, tmp_path, originals))


@pytest.mark.parametrize("size", [0.78, 1.3])
def test_a_head_far_from_an_adults_size_is_refused(size):
    affine, shape = grid(AXIAL, (5, 4, 4), (60, 86, 66)), (60, 86, 66)
    values, _ = head(affine, shape, size=size)
    with pytest.raises(Rejected, match="times the size of an adult's"):
        faces.shell(Volume(values.astype(np.float32), affine, "2.25.774", "1"))


def test_what_may_be_a_head_is_refused_and_what_is_none_stays(make, tmp_path):
    datasets = make.series("CT")
    with pytest.raises(Rejected, match="may show a head, and its face is not found"):
        deidentify(datasets[0], POLICY, search(make, tmp_path / "silent", datasets))
    for ds in datasets:
        ds.BodyPartExamined = "KNEE"
    new, reports = cleaned(search(make, tmp_path / "knee", datasets), datasets)
    assert {report.face for report in reports} == {"none"} and "RecognizableVisualFeatures" not in new[0]
    np.testing.assert_array_equal(stored(new), stored(datasets))


def test_pictures_in_a_study_of_a_head_are_refused(make, tmp_path, usual):
    originals = images(make, USUAL[0], usual)
    found = search(make, tmp_path, originals)
    capture = make.image(np.zeros((8, 8), np.uint16), SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    photograph = make.image(np.zeros((8, 8), np.uint16), SOPClassUID=VLPhotographicImageStorage, Modality="XC")
    for wrong in (capture, photograph):
        with pytest.raises(Rejected, match="may show a face"):
            deidentify(wrong, POLICY, found)
    slide = make.image(np.zeros((8, 8), np.uint16), SOPClassUID=VLWholeSlideMicroscopyImageStorage, Modality="SM")
    slide.BodyPartExamined = "BRAIN"
    assert deidentify(slide, POLICY, found)[1].face == "none"
    capture.StudyInstanceUID = "2.25.9999"
    assert deidentify(capture, POLICY, found)[1].face == "none"


def test_the_turn_is_found_within_five_degrees_and_the_place_within_a_centimetre():
    affine, shape = grid(AXIAL, (4, 4, 4), (58, 66, 52)), (58, 66, 52)
    for nod_deg in ((-15, 0, 0), (15, 0, 0)):
        values, _ = head(affine, shape, nod_deg=nod_deg)
        face = faces.found(Volume(values.astype(np.float32), affine, "2.25.774", "1"))
        assert abs(Rotation.from_matrix(face.axes).as_euler("xyz", degrees=True)[0] - nod_deg[0]) < 5
        assert np.linalg.norm(face.centre_mm - ORIGIN_MM) < 10


# Real images


def test_thigh_and_breast_are_no_heads(test_data):
    for folder in ("mr-t1-t2-pair/STS_001/MR_T1", "mr-breast-dce/UCSF-BR-06/image_dce_pe1"):
        found = faces.search([test_data / folder])
        assert set(found.series.values()) == {None} and not found.studies


def test_a_whole_body_pet_loses_its_face_whatever_body_part_it_names(test_data, monkeypatch):
    """From the eyes to the thighs, Body Part Examined EXTREMITY: the nose's tip is 22 mm, the chin 107 mm below."""
    folder = test_data / "pet-fdg-raw" / "STS_001" / "FDG_PET"
    readout = series.volumes([folder])
    monkeypatch.setattr(series, "volumes", lambda _: readout)  # read once
    (face,) = faces.search([folder]).series.values()
    volume = readout.volumes[0].volume
    assert isinstance(face, faces.Face) and face.overlap > 0.92
    mask = face.shell(volume).voxels > 0
    body = (volume.voxels > 0.3) & ~mask
    front = [
        np.flatnonzero(part.any(axis=(0, 2)))[0]
        for part in (volume.voxels[250:258, :, 58:70] > 0.3, body[250:258, :, 58:70])
    ]
    assert (front[1] - front[0]) * 4.6875 > 25
    assert not (mask & (volume.voxels > 0.3))[:207].any()  # nothing of the chest
