"""Where real data and peers are, and what a test says when they are absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def _folder(variable: str) -> Path:
    value = os.environ.get(variable, "")
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} names no folder; set it to run this test on real data")
    return Path(value)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images (MIRALL_TEST_DATA)."""
    return _folder("MIRALL_TEST_DATA")


@pytest.fixture(scope="session")
def test_kit() -> Path:
    """The folder of load generators and viewer acceptance (MIRALL_TEST_KIT)."""
    return _folder("MIRALL_TEST_KIT")


@pytest.fixture(scope="session")
def needs() -> Callable[[str], str]:
    """`needs("dciodvfy")` gives the program's path, or skips where it is not installed."""

    def program(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return program
