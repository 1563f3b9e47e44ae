"""Pictures on a shelf: mapped from a file without a name, exact where it matters, drawn as those in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_adversarial import small
from test_variational import cohort_of, picture

from dicom_io.cohort import Cohort
from models.shelf import STEPS, Shelf, as_float
from models.training import pictures


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


def test_pictures_come_back_within_half_a_step_and_air_masks_and_zero_exactly(tmp_path):
    drawn = torch.rand(7, 2, 5, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    drawn[2, 1] = torch.tensor([-1.0, 0.0, 1.0])
    shelf = Shelf(tmp_path)
    for part in drawn.split(3):
        shelf.add(part)
    mapped = shelf.mapped()
    assert mapped.shape == drawn.shape and mapped.dtype == torch.int16
    again = as_float(mapped[torch.tensor([6, 2, 2])])
    assert float((again - drawn[[6, 2, 2]]).abs().max()) <= 0.5 / STEPS + 1e-7
    assert torch.equal(again[1, 1], drawn[2, 1])


def test_the_file_has_no_name_and_is_mapped_rather_than_held(tmp_path):
    shelf = Shelf(tmp_path / "not" / "there yet")
    shelf.add(torch.zeros(4, 1, 64, 64))
    mapped = shelf.mapped()
    assert [*tmp_path.iterdir()] == []
    regions = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len(regions) == 1 and regions[0].endswith("(deleted)")
    del mapped
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_training_draws_from_the_shelf_what_it_would_draw_from_memory(spots: Cohort, tmp_path):
    chosen = small(conditional=True)
    held, mapped = (pictures.read(spots, "training", chosen, 16, folder)[1] for folder in (None, tmp_path))
    assert (held.stored.dtype, mapped.stored.dtype) == (torch.float32, torch.int16)
    assert torch.allclose(held.images, mapped.images, atol=1 / STEPS) and torch.equal(held.labels, mapped.labels)
    numbers = torch.tensor([3, 90, 3])
    assert torch.equal(mapped.take(numbers), mapped.images[numbers])
    assert torch.equal(torch.cat([*mapped.blocks()]), mapped.images)
