"""The benchmark of reading series, small: every reader gives the same volume, and conversion runs both ways."""

from __future__ import annotations

from pathlib import Path

import conversion
import numpy as np
import pytest


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_all_readers_read_the_same_series(tmp_path: Path, modality: str) -> None:
    folder = tmp_path / modality
    conversion.make(folder, modality, 6, 24)
    ours = conversion.ours(folder)
    factor = ours.max() / conversion.plain_pydicom(folder).max() if modality == "PT" else 1.0
    for read in (conversion.plain_pydicom, conversion.simple_itk):
        np.testing.assert_allclose(read(folder) * factor, ours, rtol=1e-5, atol=1e-3)
    # highdicom counts slices the other way round.
    np.testing.assert_allclose(conversion.highdicom(folder)[::-1] * factor, ours, rtol=1e-5, atol=1e-3)


def test_memory_is_that_of_the_volume_and_of_one_series(tmp_path: Path) -> None:
    conversion.make(tmp_path / "small", "CT", 3, 32)
    conversion.make(tmp_path / "CT", "CT", 60, 256)
    volume_mb = 60 * 256 * 256 * 4 / 2**20
    assert volume_mb < conversion.peak_memory_mb(tmp_path / "CT") < volume_mb * 1.5 + 150


def test_conversion_is_timed_with_one_process_and_with_two(tmp_path: Path) -> None:
    for number in range(2):
        conversion.make(tmp_path / "in" / str(number), "CT", 4, 32, number=number)
    for processes in (1, 2):
        assert conversion.convert_seconds(tmp_path / "in", tmp_path / str(processes), processes) > 0
        assert len(list((tmp_path / str(processes) / "volumes").glob("*.nii.gz"))) == 2
