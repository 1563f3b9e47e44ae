"""The constant border of a picture is measured on each side."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_io import border


def test_the_margins_are_those_that_were_put_on_and_noise_in_the_border_does_not_matter():
    rng = np.random.default_rng(0)
    inner = rng.uniform(120, 250, (30, 50))
    picture = np.pad(inner, ((6, 4), (10, 40)), constant_values=20).astype(np.float32)
    picture += rng.uniform(-3, 3, picture.shape).astype(np.float32)

    assert border.value(picture) == pytest.approx(20, abs=0.5)
    assert border.content(picture) == (slice(6, 36), slice(10, 60))
    np.testing.assert_allclose(border.margins(picture), [6 / 40, 4 / 40, 10 / 100, 40 / 100], atol=1e-12)


def test_a_letter_in_the_corner_does_not_hold_the_border():
    picture = np.zeros((100, 200), np.float32)
    picture[20:90, 30:150] = 100
    picture[2:4, 2:4] = 100

    assert border.content(picture) == (slice(20, 90), slice(30, 150))


def test_a_picture_of_one_value_is_all_border():
    assert border.content(np.full((7, 5), 3, np.float32)) == (slice(0, 0), slice(0, 0))
