"""Our lesion figures beside those of the white-matter challenge's own script, on made masks.

    python tests/benchmarks/wmh_challenge.py evaluation.py

evaluation.py: of https://github.com/hjkuijf/wmhchallenge, the version of 2020. It prints the largest difference of each
figure, and fails where one is above 1e-12 of its size. It is no test of the suite: the script is not ours, and the
KDTree that it takes may crash beside SimpleITK.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import SimpleITK
from scipy import ndimage

from models.evaluation import lesions
from models.evaluation.segmentation import dice

PAIRS = 200


def main() -> None:
    theirs = runpy.run_path(sys.argv[1], run_name="challenge")
    worst: dict[str, float] = {}
    compared = 0
    for seed in range(PAIRS):
        rng = np.random.default_rng(seed)
        shape, spacing = tuple(rng.integers(3, 14, 3)), rng.uniform(0.7, 4, 3)
        smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1)
        other = ndimage.gaussian_filter(smooth + 0.6 * rng.standard_normal(shape), 0.6)
        truth = smooth > np.quantile(smooth, rng.uniform(0.6, 0.97))
        ours = other > np.quantile(smooth, rng.uniform(0.6, 0.95))
        if not truth.any() or not ours.any():
            continue
        compared += 1
        turn = rng.uniform(0, 1)
        for name, (one, two) in _figures(theirs, ours, truth, spacing, turn).items():
            worst[name] = max(worst.get(name, 0.0), abs(one - two) / max(1.0, abs(one)))
    print(f"{compared} pairs of masks, largest difference of each figure:")
    for name, apart in worst.items():
        print(f"  {name}: {apart:.1e}")
    sys.exit(int(max(worst.values()) > 1e-12))


def _figures(
    theirs: Mapping[str, Callable[..., Any]], ours: np.ndarray, truth: np.ndarray, spacing: np.ndarray, turn: float
) -> dict[str, tuple[float, float]]:
    """Theirs and ours; the images are turned about their third axis."""
    images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (truth, ours)]
    across, along = np.cos(turn), np.sin(turn)
    for image in images:
        image.SetSpacing(spacing[::-1].tolist())
        image.SetDirection([across, -along, 0, along, across, 0, 0, 0, 1])
    recall, f1 = theirs["getLesionDetection"](*images)
    found = lesions.figures(ours, truth, spacing.tolist())
    return {
        "Dice": (theirs["getDSC"](*images), dice(ours, truth)),
        "H95": (theirs["getHausdorff"](*images), found["h95_in_plane_mm"]),
        "AVD": (theirs["getAVD"](*images), 100 * found["absolute_volume_difference"]),
        "lesion recall": (recall, found["lesion_recall"]),
        "lesion F1": (f1, found["lesion_f1"]),
    }


if __name__ == "__main__":
    main()
