"""What tells classes apart without the disease is found, and what does not is not accused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from dicom_io import nifti, shortcuts
from dicom_io.cohort import Channel, Cohort, Item, add_projection, add_volume
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source, Volume

RNG_SHAPE = (23, 31)


def picture_item(folder, number: int, label: int, *, patient="", synthetic=False, change=lambda p: p, **provenance):
    pixels = np.random.default_rng(number).normal(100, 20, RNG_SHAPE).astype(np.float32)
    source = Source("1.2", f"2.25.{number}", "", synthetic=synthetic)
    projection = Projection(np.asarray(change(pixels), np.float32), "1", source)
    return add_projection(folder, f"n{number}", projection, patient or f"p{number}", label=label, provenance=provenance)


def cohort_of(folder, items, labels=("normal", "lesion")) -> Cohort:
    half = len(items) // 2
    splits = {"training": tuple(items[:half]), "test": tuple(items[half:])}
    return Cohort(folder, "made", "classification", labels, (Channel("image", "MG", "1"),), splits, "none")


def named(found: shortcuts.Shortcuts) -> dict[str, shortcuts.Shortcut]:
    return {each.family: each for each in found.measured}


def test_a_size_that_gives_the_class_away_is_found_and_noise_is_not_accused(tmp_path):
    items = [picture_item(tmp_path, n, n % 2, change=lambda pixels, n=n: pixels[: 23 - 4 * (n % 2)]) for n in range(60)]

    found = shortcuts.report(cohort_of(tmp_path, items))

    size = named(found)["size"]
    assert (size.auroc.value, size.balanced_accuracy.value, size.suspicious) == (1, 1, True)
    assert [each.family for each in found.suspicious] == ["size"]
    assert 0.25 < named(found)["intensity"].auroc.value < 0.75
    assert (found.unit, found.examples, found.patients, found.chance, found.majority) == ("item", 60, 60, 0.5, 0.5)


def test_a_border_and_an_offset_are_found_in_the_pictures_themselves(tmp_path):
    def framed(pixels):
        return np.pad(pixels[2:-3], ((4, 1), (0, 0)), constant_values=0)

    items = [picture_item(tmp_path, n, n % 2, change=framed if n % 2 else lambda pixels: pixels) for n in range(40)]

    assert named(shortcuts.report(cohort_of(tmp_path, items)))["border"].auroc.value > 0.95


def test_what_is_stated_of_one_class_only_is_a_shortcut_and_words_are_taken_apart(tmp_path):
    scanner = {"manufacturer": "Maker", "model": "One"}
    items = [
        picture_item(
            tmp_path,
            n,
            n % 3,
            file={"format": "JPEG" if n % 3 == 2 else "PNG", "width": 31, "height": 23, "mode": "L"},
            **({"scanner": scanner} if n % 3 == 0 else {}),
        )
        for n in range(90)
    ]

    found = named(shortcuts.report(cohort_of(tmp_path, items, ("a", "b", "c"))))

    assert found["file"].auroc_of["c"].value == found["scanner"].auroc_of["a"].value == 1
    assert found["file"].auroc_of["a"].value < 0.85
    assert found["file"].suspicious and found["scanner"].suspicious
    assert (found["scanner"].examples, found["file"].examples) == (30, 90)


def test_one_class_given_away_is_enough_for_suspicion(tmp_path):
    items = [picture_item(tmp_path, n, n % 6, file={"format": "PNG" if n % 6 == 5 else "JPEG"}) for n in range(180)]

    file = named(shortcuts.report(cohort_of(tmp_path, items, tuple("abcdef"))))["file"]

    assert file.auroc.low < 0.7
    assert file.auroc_of["f"].value == 1 and file.suspicious


def test_a_patients_own_mark_says_nothing_of_other_patients(tmp_path):
    # Each patient has a number of its own: the classes of its other pictures follow from it, those of others do not.
    labels = np.random.default_rng(1).permutation([0, 1] * 4)
    items = [
        picture_item(tmp_path, n, int(labels[n // 20]), patient=f"p{n // 20}", file={"width": n // 20})
        for n in range(160)
    ]
    forgotten = [replace(item, patient=item.images[0]) for item in items]

    by_patient, by_picture = (named(shortcuts.report(cohort_of(tmp_path, each)))["file"] for each in (items, forgotten))

    assert (by_patient.patients, by_patient.suspicious, by_picture.suspicious) == (8, False, True)
    assert by_picture.auroc.value - by_patient.auroc.value > 0.25


def test_the_interval_is_of_patients_and_not_of_their_many_pictures(tmp_path):
    def width(each: int) -> float:
        labels = [n % 2 if n % 5 else 1 - n % 2 for n in range(20)]  # one in five does not follow the rule
        items = [
            picture_item(
                tmp_path / str(each), n, labels[n // each], patient=f"p{n // each}", file={"mode": "LR"[n // each % 2]}
            )
            for n in range(20 * each)
        ]
        found = named(shortcuts.report(cohort_of(tmp_path / str(each), items)))["file"].balanced_accuracy
        return found.high - found.low

    assert width(5) == pytest.approx(width(1), rel=0.35)


def test_where_slices_are_labelled_their_place_in_the_volume_is_measured(tmp_path):
    items = []
    for number in range(12):
        rng = np.random.default_rng(number)
        slices = int(rng.integers(9, 20))
        volume = Volume(rng.normal(size=(slices, 5, 7)).astype(np.float32), np.diag([3.0, 1, 2, 1]), "2.25.1", "1")
        labels = [int(min(n, slices - 1 - n) >= 3) for n in range(slices)]
        items.append(add_volume(tmp_path, f"v{number}", {"image": volume}, f"p{number}", slice_labels=labels))

    found = shortcuts.report(cohort_of(tmp_path, items))

    assert (found.unit, found.patients) == ("slice", 12)
    assert found.examples == sum(len(item.slice_labels) for item in items)
    assert named(found)["position"].auroc.value > 0.99
    assert not named(found)["intensity"].suspicious
    assert found.not_measured["spacing"] == "the same in all items"
    assert found.not_measured["scanner"] == "nothing states it"


def test_synthetic_items_say_nothing_of_the_real_ones(tmp_path):
    real = [picture_item(tmp_path, n, n % 2) for n in range(30)]
    made = [picture_item(tmp_path, n, 1, synthetic=True, change=lambda p: p + 900) for n in range(30, 60)]

    found = shortcuts.report(cohort_of(tmp_path, [*real, *made]))

    assert found.examples == 30
    assert not named(found)["intensity"].suspicious


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 0, 0, 0], "has 1 class in its real items"),
        ([0, 0, 0, 1], "class 'lesion' has a single patient"),
        ([0, 1, 0, None], "has real items without a label"),
    ],
)
def test_what_cannot_be_tested_is_refused(tmp_path, labels, said):
    with pytest.raises(Rejected, match=said):
        shortcuts.report(cohort_of(tmp_path, [picture_item(tmp_path, n, label) for n, label in enumerate(labels)]))


def test_the_area_and_the_balanced_accuracy_are_those_of_scikit_learn_for_any_weights():
    rng = np.random.default_rng(3)
    labels, weights = rng.integers(0, 2, 300), rng.integers(0, 4, 300)
    scores = np.round(rng.random(300) + 0.3 * labels, 1)  # many equal scores

    area = shortcuts._Ranks.of(scores, labels == 1).area(weights)
    balanced = shortcuts._balanced((scores > 0.6) == labels, labels, weights)

    assert area == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert balanced == pytest.approx(balanced_accuracy_score(labels, scores > 0.6, sample_weight=weights), abs=1e-12)


def test_the_size_of_published_brain_slices_tells_healthy_from_tumour(test_data, tmp_path):
    items: list[Item] = []
    for label, name in enumerate(("no_tumor", "glioma_tumor", "pituitary_tumor")):
        for file in sorted((test_data / "brain-tumour-mri" / "Training" / name).glob("*.jpg"))[:50]:
            pixels = np.asarray(Image.open(file).convert("L"), np.float32)
            named_item = add_projection(
                tmp_path, f"{label}{file.stem}", Projection(pixels, "1"), file.stem, label=label
            )
            items.append(replace(named_item, patient=f"{label}{file.stem}"))

    found = named(shortcuts.report(cohort_of(tmp_path, items, ("none", "glioma", "pituitary"))))

    assert found["size"].suspicious
    assert found["size"].auroc_of["none"].low > 0.9


def test_the_place_of_a_slice_tells_tumour_on_crops_around_sarcomas(sarcoma_pets, test_data, tmp_path):
    items = []
    for name, pet in sarcoma_pets.items():
        mask = nifti.mask_on(test_data / "pet-suv-sarcoma" / name / "PET_mask.nii.gz", pet.volume)
        labels = mask.voxels.any(axis=(1, 2)).astype(int).tolist()
        items.append(add_volume(tmp_path, name, {"PET": pet.volume}, name, slice_labels=labels))

    found = shortcuts.report(cohort_of(tmp_path, items))

    assert (found.examples, found.patients) == (1381, 20)
    assert named(found)["position"].auroc.value > 0.93
    assert named(found)["position"].suspicious
