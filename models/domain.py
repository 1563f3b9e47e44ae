"""What a model was made for: ranges over its training images, and a sentence for what lies outside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dicom_io.cohort import Channel
from dicom_io.errors import OutOfDomain
from dicom_io.volume import Projection, Volume
from models.recipe_parts import Settings

Range = tuple[float, float]
# How far beyond the training images an image may lie. Steps between slices matter less to a network of one slice.
_IN_PLANE_SPACING = 1.15
_BETWEEN_SLICES = 1.5
EXTENT = (0.5, 1.25)
_TOP_VALUE = (1 / 3, 3.0)
_AXES = {"volume": ("between slices", "down a slice", "across a slice"), "projection": ("down", "across")}


class Domain(Settings):
    """Allowed ranges, tolerance included.

    spacing_mm, extent_mm: per axis, (slice, row, column) or (row, column); empty where training images named none.
    top_value: per channel, of the 99.5th percentile in the channel's units; empty where units are arbitrary (MR).
    body_parts: Body Part Examined (0018,0015) of the training images, empty where not all of them said one.
    """

    kind: Literal["volume", "projection"]
    spacing_mm: tuple[Range, ...]
    extent_mm: tuple[Range, ...]
    top_value: tuple[Range, ...]
    body_parts: tuple[str, ...] = ()

    def check(self, image: Volume | Projection, channels: Sequence[Channel], address: str, body_part: str = "") -> None:
        """Pass, or say what is outside. body_part: what the image says; one that says none passes.

        Raises:
            OutOfDomain: one sentence with the image's value, the card's range and the way out.
        """
        way_out = "choose another model, or force the run and have its results marked out-of-domain"
        kind = "projection" if isinstance(image, Projection) else "volume"
        if kind != self.kind:
            raise OutOfDomain(f"the image is a {kind}; the card of {address} says {self.kind}; {way_out}")
        if body_part and self.body_parts and body_part not in self.body_parts:
            raise OutOfDomain(
                f"the {kind} is of body part {body_part}; the card of {address} says {', '.join(self.body_parts)}; "
                f"{way_out}"
            )
        values = channels_of(image)
        if len(values) != len(channels):
            names = ", ".join(channel.name for channel in channels)
            raise OutOfDomain(
                f"the {kind} has {len(values)} channel{'' if len(values) == 1 else 's'}; {address} needs "
                f"{len(channels)} ({names}); {way_out}"
            )
        units = {channel.units for channel in channels}
        if len(units) == 1 and image.units not in units:
            raise OutOfDomain(
                f"the {kind} is in {image.units!r}; the card of {address} says {units.pop()!r}; {way_out}"
            )
        spacing = spacing_of(image)
        for axis, (name, step, count) in enumerate(zip(_AXES[kind], spacing, values.shape[1:], strict=False)):
            extent, (least, most) = step * count, self.extent_mm[axis] if self.extent_mm else (0.0, np.inf)
            if not least <= extent <= most:
                what = ("slice" if kind == "volume" and axis == 0 else "pixel") + ("" if count == 1 else "s")
                bound = f"at most {_whole_mm(most)} mm" if extent > most else f"at least {_whole_mm(least)} mm"
                raise OutOfDomain(
                    f"the {kind} has {count} {what} of {_mm(step)} mm {name} covering {_whole_mm(extent)} mm; "
                    f"the card of {address} says {bound}; {way_out}"
                )
            finest, coarsest = self.spacing_mm[axis] if self.spacing_mm else (0.0, np.inf)
            if not finest <= step <= coarsest:
                raise OutOfDomain(
                    f"the {kind} has a spacing of {_mm(step)} mm {name}; the card of {address} says {_mm(finest)} to "
                    f"{_mm(coarsest)} mm; {way_out}"
                )
        for channel, top, (low, high) in zip(channels, top_values(values), self.top_value, strict=False):
            if not low <= top <= high:
                raise OutOfDomain(
                    f"the 99.5th percentile of {channel.name} is {top:.3g} {channel.units}; the card of {address} says "
                    f"{low:.3g} to {high:.3g}; {way_out}"
                )


@dataclass(frozen=True)
class Observation:
    """What the domain asks of one image, so that the image itself may be let go.

    spacing_mm, shape: per axis, (slice, row, column) or (row, column); top_values: per channel.
    """

    kind: Literal["volume", "projection"]
    spacing_mm: tuple[float, ...]
    shape: tuple[int, ...]
    top_values: tuple[float, ...]


def observe(image: Volume | Projection) -> Observation:
    """Look at one image."""
    values = channels_of(image)
    kind: Literal["volume", "projection"] = "projection" if isinstance(image, Projection) else "volume"
    return Observation(kind, spacing_of(image), values.shape[1:], tuple(top_values(values)))


def picture_px(images: Sequence[Observation]) -> tuple[int, int] | None:
    """(rows, columns) of projections, where all have one size."""
    sizes = {image.shape for image in images}
    if len(sizes) > 1 or images[0].kind != "projection":
        return None
    rows, columns = sizes.pop()
    return rows, columns


def observed(
    images: Sequence[Observation], channels: Sequence[Channel], dims: int = 2, body_parts: tuple[str, ...] = ()
) -> Domain:
    """The domain that the training images span, with tolerance. dims: of what the network sees; one of volumes asks as
    much of the step between slices as of that between pixels."""
    kind = images[0].kind
    spacing_mm: tuple[Range, ...] = ()
    extent_mm: tuple[Range, ...] = ()
    if all(image.spacing_mm for image in images):
        steps = np.array([image.spacing_mm for image in images])
        extents = steps * np.array([image.shape for image in images])
        tolerance = np.array([_IN_PLANE_SPACING] * steps.shape[1])
        if kind == "volume" and dims == 2:
            tolerance[0] = _BETWEEN_SLICES
        spacing_mm = _ranges(steps.min(0) / tolerance, steps.max(0) * tolerance)
        extent_mm = _ranges(extents.min(0) * EXTENT[0], extents.max(0) * EXTENT[1])
    top_value: tuple[Range, ...] = ()
    if all(channel.units not in ("", "1") for channel in channels):
        tops = np.array([image.top_values for image in images])
        top_value = _ranges(tops.min(0) * _TOP_VALUE[0], tops.max(0) * _TOP_VALUE[1])
    return Domain(kind=kind, spacing_mm=spacing_mm, extent_mm=extent_mm, top_value=top_value, body_parts=body_parts)


def _ranges(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> tuple[Range, ...]:
    # Pixels of slides are thousandths of a millimetre: digits count, not decimals.
    return tuple((float(f"{a:.5g}"), float(f"{b:.5g}")) for a, b in zip(low, high, strict=True))


def _mm(value: float) -> str:
    """As a sentence says it: pixels of slides are thousandths of it."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _whole_mm(value: float) -> str:
    return f"{value:.0f}" if value >= 1 else _mm(value)


def channels_of(image: Volume | Projection) -> npt.NDArray[np.float32]:
    """(channels, [slices,] rows, columns)."""
    values = image.pixels if isinstance(image, Projection) else image.voxels
    return values if values.ndim == (3 if isinstance(image, Projection) else 4) else values[None]


def spacing_of(image: Volume | Projection) -> tuple[float, ...]:
    """Step per spatial axis in mm, empty where the image does not say."""
    return image.spacing_mm or ()


def top_values(values: npt.NDArray[np.float32]) -> list[float]:
    """99.5th percentile per channel."""
    return np.percentile(values.reshape(len(values), -1), 99.5, axis=1).tolist()
