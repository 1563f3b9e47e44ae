"""Windows of slices, or boxes of volumes, drawn at random: the network sees one size, and neither slice number nor
place in the slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.cases import Case
from models.predictor_parts import Shares, Windows


@dataclass(frozen=True)
class _Place:
    case: Case
    slice: int


class Slices:
    """The training slices, and how windows are drawn from them: patient first, so that a long scan weighs no more."""

    def __init__(self, training: Sequence[Case]) -> None:
        self._all: dict[str, list[_Place]] = {}
        self._with_foreground: dict[str, list[_Place]] = {}
        for case in training:
            assert case.mask is not None
            for number, full in enumerate((case.mask > 0).flatten(1).any(1).tolist()):
                self._all.setdefault(case.patient, []).append(_Place(case, number))
                if full:
                    self._with_foreground.setdefault(case.patient, []).append(_Place(case, number))

    def windows(self, settings: Windows, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, C, window, window) images and (count, window, window) masks, as int64.

        A window lies anywhere inside its slice, or the slice anywhere inside the window where it is the smaller;
        outside is 0. Neither slice number nor place in the slice reaches the network.
        """
        images, masks = [], []
        for _ in range(count):
            wanted = bool(self._with_foreground) and _uniform(draw) < settings.foreground_share
            patients = self._with_foreground if wanted else self._all
            places = list(patients.values())[_below(len(patients), draw)]
            place = places[_below(len(places), draw)]
            assert place.case.mask is not None
            image, mask = place.case.image[:, place.slice], place.case.mask[place.slice]
            target = _pick(torch.nonzero(mask), draw).tolist() if wanted else (None, None)
            corner = [
                _corner(size, settings.window_px, held, draw) for size, held in zip(mask.shape, target, strict=True)
            ]
            size = (settings.window_px, settings.window_px)
            image, mask = window(image, corner, size), window(mask[None], corner, size)[0]
            if settings.border_share and _uniform(draw) < settings.border_share:
                shown = _strip(settings.window_px, draw)
                image, mask = image * shown, mask * shown
            images.append(image)
            masks.append(mask.long())
        return torch.stack(images), torch.stack(masks)


@dataclass(frozen=True)
class _Whole:
    """A case, and the places of its foreground, (n, 3)."""

    case: Case
    foreground: Tensor


class Boxes:
    """The training volumes, and how boxes are drawn from them: patient first, as of slices.

    size: (slices, rows, columns) of a box.
    """

    def __init__(self, training: Sequence[Case], size: Sequence[int], settings: Shares) -> None:
        self._size, self._settings = tuple(size), settings
        self._all: dict[str, list[_Whole]] = {}
        self._with_foreground: dict[str, list[_Whole]] = {}
        for case in training:
            assert case.mask is not None
            whole = _Whole(case, torch.nonzero(case.mask).to(torch.int32))
            self._all.setdefault(case.patient, []).append(whole)
            if len(whole.foreground):
                self._with_foreground.setdefault(case.patient, []).append(whole)

    def draw(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, C, *size) images and (count, *size) masks, as int64.

        A box lies anywhere inside its volume, or the volume anywhere inside the box along an axis where it is the
        smaller; outside is 0.
        """
        images, masks = [], []
        for _ in range(count):
            wanted = bool(self._with_foreground) and _uniform(draw) < self._settings.foreground_share
            patients = self._with_foreground if wanted else self._all
            wholes = list(patients.values())[_below(len(patients), draw)]
            whole = wholes[_below(len(wholes), draw)]
            assert whole.case.mask is not None
            target = _pick(whole.foreground, draw).tolist() if wanted else (None,) * 3
            corner = [
                _corner(length, size, held, draw)
                for length, size, held in zip(whole.case.mask.shape, self._size, target, strict=True)
            ]
            image = window(whole.case.image, corner, self._size)
            mask = window(whole.case.mask[None], corner, self._size)[0]
            if self._settings.border_share and _uniform(draw) < self._settings.border_share:
                shown = _slab(self._size, draw)
                image, mask = image * shown, mask * shown
            images.append(image)
            masks.append(mask.long())
        return torch.stack(images), torch.stack(masks)


def _uniform(draw: torch.Generator) -> float:
    return float(torch.rand((), generator=draw))


def _below(count: int, draw: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draw))


def _pick(rows: Tensor, draw: torch.Generator) -> Tensor:
    return rows[_below(len(rows), draw)]


def _corner(size: int, window_px: int, target: int | None, draw: torch.Generator) -> int:
    """First index of the window along one axis (negative: the slice is smaller than the window); holds `target`."""
    low, high = min(0, size - window_px), max(0, size - window_px)
    if target is not None:
        low, high = max(low, target - window_px + 1), min(high, target)
    return low + _below(high - low + 1, draw)


def window(image: Tensor, corner: Sequence[int], size: Sequence[int]) -> Tensor:
    """(C, ...) -> (C, *size) from `corner`, along the last axes; 0 outside."""
    cut = image
    pads: list[int] = []
    for axis, (first, length) in enumerate(zip(corner, size, strict=True), 1):
        low, high = max(first, 0), min(first + length, image.shape[axis])
        pads = [low - first, first + length - high, *pads]
        cut = cut.narrow(axis, low, high - low)
    return nn.functional.pad(cut, pads)


def _strip(window_px: int, draw: torch.Generator) -> Tensor:
    """(window, window) of 1 with a strip of 0 at one side, up to half the window deep: an edge that means nothing."""
    shown = torch.ones(window_px, window_px, dtype=torch.uint8)
    shown[: _below(window_px // 2, draw) + 1] = 0
    return torch.rot90(shown, _below(4, draw))


def _slab(size: Sequence[int], draw: torch.Generator) -> Tensor:
    """(slices, rows, columns) of 1 with a slab of 0 at one of six sides, up to half the box deep."""
    shown = torch.ones(tuple(size), dtype=torch.uint8)
    axis = _below(3, draw)
    shown.narrow(axis, 0, _below(size[axis] // 2, draw) + 1).zero_()
    return shown.flip(axis) if _below(2, draw) else shown
