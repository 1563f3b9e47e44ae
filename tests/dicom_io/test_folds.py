"""Folds: every patient tests once, nobody lies on both sides, and files are the very files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dicom_io import cohort as cohorts
from dicom_io import folds
from dicom_io.cohort import Channel, Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source


def cohort_in(folder: Path, patients: int = 11, **changes: object) -> Cohort:
    """Two pictures of each patient, of whom every third has a positive one."""
    items = []
    for number in range(patients * 2):
        patient = number // 2
        pixels = np.full((6, 4), number, np.float32)
        shown = Projection(
            pixels, "1", Source("1.2", f"2.25.{number + 1}", f"{number:064x}"), (1.0, 1.0), "", "", "", ""
        )
        label = int(patient % 3 == 0 and number % 2 == 0)
        items.append(cohorts.add_projection(folder, f"i{number}", shown, f"p{patient:02d}", label=label))
    plain = {"name": "toy", "task": "classification", "labels": ("no", "yes"), "channels": (Channel("x", "OT", "1"),)}
    splits = {"training": tuple(items[:10]), "validation": tuple(items[10:14]), "test": tuple(items[14:])}
    cohorts.save(Cohort(folder, **{**plain, "splits": splits, **changes}))  # type: ignore[arg-type]
    return cohorts.load(folder)


def patients_of(cohort: Cohort, split: str) -> set[str]:
    return {item.patient for item in cohort.splits[split]}


@pytest.mark.parametrize("count", [3, 5, None])
def test_every_patient_tests_once_and_all_others_validate_or_train(tmp_path: Path, count: int | None) -> None:
    whole = cohort_in(tmp_path / "toy")
    everyone = set().union(*(patients_of(whole, split) for split in cohorts.SPLITS))
    made = folds.fold(whole, count, tmp_path / "folds")
    assert len(made) == (count or 11)
    tested = Counter(patient for each in made for patient in patients_of(each, "test"))
    assert set(tested) == everyone and set(tested.values()) == {1}
    for each in made:
        parts = [patients_of(each, split) for split in cohorts.SPLITS]
        assert set().union(*parts) == everyone and sum(map(len, parts)) == 11
        assert len(parts[1]) >= 2 and len(parts[0]) >= 3
        assert sum(len(each.splits[split]) for split in cohorts.SPLITS) == 22


def test_positive_patients_are_spread_over_the_folds(tmp_path: Path) -> None:
    made = folds.fold(cohort_in(tmp_path / "toy", 12), 4, tmp_path / "folds")
    positive = [{item.patient for item in each.test if item.label} for each in made]
    assert [len(each) for each in positive] == [1, 1, 1, 1]


def test_the_deal_does_not_depend_on_the_order_of_files_or_on_earlier_splits(tmp_path: Path) -> None:
    whole = cohort_in(tmp_path / "toy")
    turned = Cohort(
        **{**vars(whole), "splits": {"training": tuple(reversed([*whole.test, *whole.validation, *whole.training]))}}
    )
    for one, other in zip(folds.fold(whole, 4, tmp_path / "a"), folds.fold(turned, 4, tmp_path / "b"), strict=True):
        assert all(patients_of(one, split) == patients_of(other, split) for split in cohorts.SPLITS)


def test_files_are_linked_with_what_stands_beside_them(tmp_path: Path) -> None:
    whole = cohort_in(tmp_path / "toy")
    first = folds.fold(whole, 3, tmp_path / "folds")[0]
    item = first.test[0]
    assert first.path(item.images[0]).samefile(whole.path(item.images[0]))
    np.testing.assert_array_equal(
        cohorts.load_image(first, item).pixels,
        cohorts.load_image(whole, item).pixels,  # type: ignore[union-attr]
    )
    assert first.data_hash != whole.data_hash


def test_what_cannot_be_dealt_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="has 3 patients, which are too few for 3 folds"):
        folds.fold(cohort_in(tmp_path / "few", 3), 3, tmp_path / "a")
    with pytest.raises(Rejected, match="has 5 patients, which are too few for 6 folds"):
        folds.fold(cohort_in(tmp_path / "five", 5), 6, tmp_path / "b")
    with pytest.raises(Rejected, match="keeps nothing together"):
        folds.fold(cohort_in(tmp_path / "none", 6, split_unit="none"), 3, tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("")
    with pytest.raises(Rejected, match="is not empty; give a new folder"):
        folds.fold(cohort_in(tmp_path / "six", 6), 3, tmp_path / "d")
