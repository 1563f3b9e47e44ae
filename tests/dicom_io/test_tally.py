"""Counts and histograms of a cohort are those of its voxels."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_io import tally
from dicom_io.cohort import Channel, Cohort, add_projection, add_volume
from dicom_io.volume import Projection, Source, Volume


def volume(voxels, *, synthetic=False) -> Volume:
    voxels = np.asarray(voxels, np.float32)
    sources = tuple(Source("1.2", f"2.25.{n}", "", synthetic=synthetic) for n in range(len(voxels)))
    return Volume(voxels, np.diag([3.0, 1, 2, 1]), "2.25.1", "1", sources)


def cohort_of(folder, **splits) -> Cohort:
    channels = (Channel("a", "MR", "1"), Channel("b", "MR", "1"))
    return Cohort(folder, "made", "classification", ("normal", "lesion"), channels, splits)


@pytest.fixture
def slices(tmp_path) -> Cohort:
    """Two real volumes and a synthetic one; the lesion slices are brighter by 10, channel b is a hundred times a."""
    rng = np.random.default_rng(0)

    def item(name, labels, *, synthetic=False):
        voxels = rng.uniform(0, 1, (len(labels), 4, 6)) + 10 * np.array(labels)[:, None, None]
        channels = {"a": volume(voxels, synthetic=synthetic), "b": volume(voxels * 100, synthetic=synthetic)}
        return add_volume(tmp_path, name, channels, name, slice_labels=labels)

    training = (item("p1", [0, 1, 1, 0]), item("p2", [0, 0]), item("p3", [1, 1, 1], synthetic=True))
    return cohort_of(tmp_path, training=training, test=(item("p4", [0, 1]),))


def test_slices_items_and_patients_are_counted_by_class_and_synthetic_ones_apart(slices):
    assert tally.counts(slices) == {
        "training": {
            "real": {
                "lesion": {"items": 1, "patients": 1, "slices": 2},
                "normal": {"items": 2, "patients": 2, "slices": 4},
            },
            "synthetic": {"lesion": {"items": 1, "patients": 1, "slices": 3}},
        },
        "validation": {},
        "test": {
            "real": {
                "lesion": {"items": 1, "patients": 1, "slices": 1},
                "normal": {"items": 1, "patients": 1, "slices": 1},
            }
        },
    }


def test_items_are_counted_by_label_and_patient(tmp_path):
    def item(name, patient, label):
        return add_projection(tmp_path, name, Projection(np.ones((3, 5), np.float32), "1"), patient, label=label)

    views = (item("l", "p1", 1), item("r", "p1", 0), item("l2", "p2", 0), item("x", "p3", None))

    assert tally.counts(cohort_of(tmp_path, test=views))["test"]["real"] == {
        "lesion": {"items": 1, "patients": 1},
        "normal": {"items": 2, "patients": 2},
        "unlabelled": {"items": 1, "patients": 1},
    }


def test_histograms_hold_each_class_in_its_place_and_each_channel_in_its_units(slices):
    first, second = tally.histograms(slices, bins=22)

    shares = {name: np.array(share) for name, share in first["shares"].items()}
    middles = np.mean([first["edges"][1:], first["edges"][:-1]], axis=0)
    assert set(shares) == {"normal", "lesion", "lesion (synthetic)"}
    assert all(share.sum() == pytest.approx(1, abs=1e-5) for share in shares.values())
    assert middles @ shares["normal"] == pytest.approx(0.5, abs=0.1)
    assert middles @ shares["lesion"] == pytest.approx(10.5, abs=0.1)
    np.testing.assert_allclose(second["edges"], np.array(first["edges"]) * 100, rtol=1e-5)
    assert second["shares"] == first["shares"]


def test_a_single_bright_pixel_does_not_press_the_others_into_one_bin(tmp_path):
    pixels = np.random.default_rng(0).uniform(0, 1, (60, 50)).astype(np.float32)
    pixels[3, 4] = 1e6
    item = add_projection(tmp_path, "p", Projection(pixels, "1"), "p", label=0)
    cohort = Cohort(tmp_path, "made", "classification", ("one",), (Channel("image", "MG", "1"),), {"test": (item,)})

    (found,) = tally.histograms(cohort, bins=10)

    assert found["edges"][-1] < 1.01
    np.testing.assert_allclose(found["shares"]["one"], 0.1, atol=0.03)
