"""Inputs as pictures under what was found in them: windows of grey, enlarged by whole pixels, or thinned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_io import picture
from dicom_io.volume import Projection, Volume
from models.predictor import Classifier, Segmenter

Picture = npt.NDArray[np.uint8]

SHOWN_PX = 192  # small slices are enlarged by whole pixels to about this width, so that captions can be read
LARGEST_PX = 512  # mammograms are thinned to at most this many rows in a capture
# Windows of the captures: SUV as PET is usually read; others by the image's own percentiles.
SUV_WINDOW = (0.0, 7.0)
PERCENTILES = (1.0, 99.5)


def zoom_of(columns: int) -> int:
    return max(1, SHOWN_PX // columns)


def last_units(model: Classifier | Segmenter, image: Volume | Projection) -> str:
    """Of the last channel: an image of several has the units of its first."""
    return model.channels[-1].units if len(model.channels) > 1 else image.units


def last_channel(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return voxels if voxels.ndim == 3 else voxels[-1]


def windowed(values: npt.NDArray[np.float32], units: str) -> Picture:
    low, high = SUV_WINDOW if "SUV" in units else np.percentile(values, PERCENTILES).tolist()
    return picture.window(values, low, max(high, low + 1e-6))
