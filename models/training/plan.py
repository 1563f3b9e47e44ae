"""What a recipe leaves open, filled in by the training images: depth, kernels, widths and windows of a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dicom_io.errors import Rejected
from dicom_io.volume import Volume
from models import recipe as recipes
from models.cases import Case
from models.networks import topology
from models.segmentation_recipe import DynUNet, SegmentationRecipe, UNet, require_multiples


def planned(recipe: SegmentationRecipe, training: Sequence[Case], planes: int) -> SegmentationRecipe:
    """The recipe with nothing left to plan; training by it comes to the same weights.

    planes: see `topology.feature_values`.

    Raises:
        Rejected: windows do not fit the network that is planned for them, or items are no volumes.
    """
    dims, network = recipe.spatial_dims, recipe.network
    if dims == 3:
        for case in training:
            if not isinstance(case.source, Volume):
                raise Rejected(f"spatial_dims: {case.item.images[0]} is a single picture, no volume; set it to 2")
    spacing_mm, shape = fingerprint(training, dims)
    try:
        if isinstance(network, DynUNet):
            return _of_dynunet(recipe, network, spacing_mm, shape, planes)
        if isinstance(network, UNet) and dims == 3 and network.strides is None:
            assert recipe.window is not None
            strides = topology.slices_halved(spacing_mm, recipe.window[0], len(network.channels) - 1)
            return _filled(recipe, {"strides": strides})
    except ValueError as error:
        raise Rejected(f"recipe {recipe.name!r}: {error}") from error
    return recipe


def fingerprint(training: Sequence[Case], dims: int) -> tuple[list[float], list[int]]:
    """Median spacing in mm and median shape along each axis, (slice,) row, column."""
    spacing = np.median([case.spacing_mm[-dims:] for case in training], axis=0)
    shape = np.median([case.image.shape[-dims:] for case in training], axis=0)
    return [round(step, 4) for step in spacing.tolist()], np.rint(shape).astype(int).tolist()


def text(recipe: SegmentationRecipe, training: Sequence[Case]) -> str:
    """A planned recipe as YAML, below what it was planned from."""
    spacing_mm, shape = fingerprint(training, recipe.spatial_dims)
    axes = "slice, row, column" if recipe.spatial_dims == 3 else "row, column"
    return (
        f"# Planned from {len(training)} training images: median spacing {spacing_mm} mm, median shape {shape} "
        f"({axes}).\n# Training by this recipe comes to the same weights.\n{recipes.dump(recipe)}"
    )


def _of_dynunet(
    recipe: SegmentationRecipe, network: DynUNet, spacing_mm: Sequence[float], shape: Sequence[int], planes: int
) -> SegmentationRecipe:
    dims = recipe.spatial_dims

    def values(size: tuple[int, ...]) -> int:
        strides = topology.levels(spacing_mm, size)[0]
        channels = network.features(len(strides), dims)[: len(strides)]
        return topology.feature_values(size, strides, channels, planes)

    size = recipe.window
    if size is None:
        assert network.feature_values is not None
        size = topology.window(spacing_mm, shape, network.feature_values, values)
    strides, kernels = topology.levels(spacing_mm, size)
    if network.strides is not None and network.kernels is not None:
        strides, kernels = network.strides, network.kernels
    if len(strides) < 3:
        raise ValueError(
            f"windows: {' x '.join(map(str, size))} can be halved {len(strides) - 1} times, a dynunet is halved twice "
            "or more; give larger windows"
        )
    if network.channels is not None and len(network.channels) != len(strides):
        raise ValueError(
            f"network.channels: {len(network.channels)} for the {len(strides)} levels that are planned; give one for "
            "each, or base_features"
        )
    chosen = {"strides": strides, "kernels": kernels, "channels": network.features(len(strides), dims)}
    return _filled(recipe, chosen | {"base_features": None, "feature_values": None}, size)


def _filled(
    recipe: SegmentationRecipe, network: dict[str, Any], size: tuple[int, ...] | None = None
) -> SegmentationRecipe:
    require_multiples(size or recipe.window or (), topology.factors(network["strides"]))
    windows = {} if size is None else {"window_px": size[-1], "window_slices": size[0] if len(size) == 3 else None}
    return recipe.model_copy(
        update={
            "network": recipe.network.model_copy(update=network),
            "windows": recipe.windows.model_copy(update=windows),
        }
    )
