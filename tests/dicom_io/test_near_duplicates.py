"""Pictures that show the same thing share a group; pictures that only look alike do not."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort, load_image
from dicom_io.errors import Rejected
from dicom_io.near_duplicates import Pair, find, grouped, groups, leaks, refuse_leaks, regroup
from dicom_io.volume import Projection, Volume


def scene(seed: int, shape: tuple[int, int] = (190, 144)) -> np.ndarray:
    """A lopsided picture of 8 bits with texture of several sizes on black, different for each seed."""
    rng = np.random.default_rng(seed)
    texture = sum(ndimage.gaussian_filter(rng.normal(size=shape), size) * size for size in (2, 4, 9, 20))
    rows, columns = np.indices(shape)
    inside = ((rows - 90) / 80) ** 2 + ((columns - 70) / 62) ** 2 < 1
    values = np.where(inside, 120 + 40 * texture / texture.std(), 0)
    return np.clip(values, 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC))


COPIES = {
    "itself": lambda picture: picture,
    "JPEG of quality 30": lambda picture: encoded(picture, 30),
    "half the size": lambda picture: resized(picture, 95, 72),
    "another shape": lambda picture: resized(picture, 160, 160),
    "gamma": lambda picture: 255 * (picture / 255) ** 0.7,
    "other units": lambda picture: picture * np.float32(-1.7e-3) * -1 + 4,
    "padded": lambda picture: np.pad(picture, ((30, 5), (0, 60))),
    "cropped": lambda picture: picture[4:-7, 6:-2],
    "cut into": lambda picture: picture[15:-24, 12:-16],
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_a_changed_copy_shares_the_group_of_its_original(copy):
    originals = [scene(seed) for seed in range(6)]

    found = groups([*originals, copy(originals[4])])

    assert found == [0, 1, 2, 3, 4, 5, 4]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_each_of_the_eight_positions_is_found(turns, mirrored):
    original = scene(1)
    copy = np.rot90(original[:, ::-1] if mirrored else original, turns)
    others = [scene(2), scene(3)]

    (pair,) = find([*others, original, encoded(copy, 60)])

    assert (pair.first, pair.second, pair.turned) == (2, 3, bool(turns or mirrored))
    assert pair.correlation > 0.98


def test_where_left_and_right_are_two_pictures_a_mirrored_one_is_not_a_copy():
    original = scene(5)

    assert groups([original, original[:, ::-1]], flips=False) == [0, 1]
    assert groups([original, encoded(original, 50)], flips=False) == [0, 0]


def test_pictures_of_one_outline_with_other_content_are_not_alike():
    # One outline, one brightness: the low frequencies agree, as they do for two heads.
    assert groups(scene(seed) for seed in range(40)) == list(range(40))


def test_a_picture_that_changed_where_it_matters_is_another():
    before, after = scene(7), scene(7)
    rng = np.random.default_rng(0)
    after[40:140, 40:100] = 120 + 60 * ndimage.gaussian_filter(rng.normal(size=(100, 60)), 2)

    assert groups([before, after]) == [0, 1]


def test_pictures_without_content_match_nothing():
    empty = np.zeros((40, 60), np.int16)

    assert groups([empty, empty, np.full((9, 9), np.nan)]) == [0, 1, 2]
    assert groups([]) == []


def test_a_chain_of_pairs_is_one_group_and_numbers_follow_first_appearance():
    pairs = [Pair(first, second, 0, 1.0, False) for first, second in ((1, 4), (4, 2), (3, 5))]

    assert grouped(7, pairs) == [0, 1, 1, 2, 1, 2, 3]


def test_a_stack_is_not_taken_for_a_picture():
    with pytest.raises(ValueError, match=r"axes \(row, column\), not the shape \(4, 5, 6\)"):
        find([np.zeros((4, 5, 6))])


def _brain(test_data, every: int) -> list[np.ndarray]:
    files = sorted((test_data / "brain-tumour-mri").rglob("*.jpg"))[1::every]
    return [np.asarray(Image.open(file).convert("L")) for file in files]


def test_brain_slices_of_different_people_stay_apart_and_their_copies_come_together(test_data):
    slices = _brain(test_data, 8)
    copies = [encoded(resized(picture[3:-6, 2:-5], 200, 170)[:, ::-1], 50) for picture in slices]

    found = find([*slices, *copies])

    pairs = {(pair.first, pair.second) for pair in found}
    assert pairs <= {(number, number + len(slices)) for number in range(len(slices))}
    assert len(pairs) >= 0.9 * len(slices)


def test_copies_that_another_hash_had_missed_are_found(test_data):
    folder = test_data / "brain-tumour-mri"
    names = ["Training/no_tumor/image(117).jpg", "Training/no_tumor/image(132).jpg"]  # the second is narrower
    names += ["Testing/meningioma_tumor/image(32).jpg", "Testing/meningioma_tumor/image.jpg"]  # cut on one side
    # Beside each other in one patient, and not the same picture:
    names += ["Training/glioma_tumor/gg (22).jpg", "Training/glioma_tumor/gg (23).jpg"]

    assert groups(np.asarray(Image.open(folder / name).convert("L")) for name in names) == [0, 0, 1, 1, 2, 3]


def test_no_two_films_of_mini_mias_are_alike_not_even_the_two_breasts_of_a_woman(test_data):
    films = sorted((test_data / "mammo-mias").rglob("*.pgm"))

    assert len(films) == 26
    assert groups(np.asarray(Image.open(film)) for film in films) == list(range(26))


def test_slices_of_two_patients_on_pet_are_never_alike(sarcoma_pets):
    slices = [(name, plane) for name, pet in list(sarcoma_pets.items())[:4] for plane in pet.volume.voxels]

    for pair in find(plane for _, plane in slices):
        assert slices[pair.first][0] == slices[pair.second][0]


# --- cohorts ------------------------------------------------------------------------------------------------------


def picture_cohort(folder, pictures: dict[str, list[np.ndarray]], unit="near-duplicate group") -> Cohort:
    """A cohort of pictures by split; each picture has a patient of its own."""
    splits = {}
    for split, members in pictures.items():
        splits[split] = tuple(
            cohorts.add_projection(
                folder, f"{split}{number}", Projection(picture.astype(np.float32), "1"), f"{split}-{number}", label=0
            )
            for number, picture in enumerate(members)
        )
    return Cohort(folder, "made", "classification", ("one", "two"), (Channel("image", "MR", "1"),), splits, unit)


def test_a_copy_in_another_split_is_a_leak_and_one_in_the_same_split_is_none(tmp_path):
    leaking = {
        "training": [scene(1), scene(2), encoded(scene(2), 40)],
        "validation": [scene(3)],
        "test": [scene(4), resized(scene(1)[:, ::-1], 100, 90)],
    }
    cohort = picture_cohort(tmp_path, leaking)

    (leak,) = leaks(cohort)

    assert (leak.first, leak.first_split) == ("images/training0_image.nii.gz", "training")
    assert (leak.second, leak.second_split, leak.turned) == ("images/test1_image.nii.gz", "test", True)
    with pytest.raises(Rejected, match=r"1 pairs of .* images/training0_image.nii.gz in training and images/test1_"):
        refuse_leaks(cohort)


def test_a_cohort_without_leaks_is_let_through(tmp_path):
    refuse_leaks(picture_cohort(tmp_path, {"training": [scene(1), scene(1)], "test": [scene(2)]}))


def test_regrouping_puts_copies_together_whatever_their_order_and_their_names(tmp_path):
    pictures = [scene(seed) for seed in range(20)]
    copies = [encoded(scene(seed), 40) for seed in (3, 8, 15)]
    shares = {"training": 0.5, "test": 0.5}

    one = regroup(picture_cohort(tmp_path / "a", {"training": pictures, "test": copies}), "key", shares)
    other = regroup(picture_cohort(tmp_path / "b", {"test": [*copies, *pictures][::-1]}, "none"), "key", shares)

    def where(cohort: Cohort) -> set[tuple[str, str, float]]:
        listed = [(split, item) for split, items in cohort.splits.items() for item in items]
        return {(split, item.patient, load_image(cohort, item).pixels.sum()) for split, item in listed}

    assert leaks(one) == ()
    assert len({item.patient for items in one.splits.values() for item in items}) == 20
    assert where(one) == where(other)
    assert one.split_unit == other.split_unit == "near-duplicate group"
    assert 3 < len(one.test) < 20


def test_regrouping_keeps_known_patients_and_joins_those_whose_pictures_are_copies(tmp_path):
    cohort = picture_cohort(tmp_path, {"training": [scene(seed) for seed in range(12)], "test": [scene(0)]}, "patient")

    split = regroup(cohort, "key", {"training": 0.5, "test": 0.5})

    of_patient = {item.patient: name for name, items in split.splits.items() for item in items}
    assert of_patient["training-0"] == of_patient["test-0"]
    assert (len(of_patient), split.split_unit) == (13, "patient")


def test_a_volume_that_is_there_twice_is_a_leak(tmp_path):
    voxels = np.stack([scene(seed, (90, 70)) for seed in range(8)]).astype(np.float32)
    volume = Volume(voxels, np.diag([3.0, 1, 1, 1]), "2.25.1", "1")
    items = [
        cohorts.add_volume(tmp_path, name, {"image": each}, name)
        for name, each in (("a", volume), ("b", volume.with_voxels(voxels[:, :, ::-1] * 3)))
    ]
    splits = {"training": (items[0],), "test": (items[1],)}
    cohort = Cohort(tmp_path, "made", "generation", (), (Channel("image", "MR", "1"),), splits)

    (leak,) = leaks(cohort)

    assert (leak.first_split, leak.second_split, leak.turned) == ("training", "test", True)
