"""The input chain of a model: MONAI dictionary transforms named in data, built without evaluating anything (promise 7).

The same list stands in the recipe, in the run and in the bundle's `configs/inference.json` ("model_input"), and runs in
training and serving alike. MONAI's own parser would evaluate `$...`; here names come from a closed list and arguments
are plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai import transforms
from monai.data import MetaTensor

# Transforms that keep the grid; the only ones a segmenter may use.
INTENSITY = frozenset(
    {
        "ClipIntensityPercentilesd",
        "NormalizeIntensityd",
        "ScaleIntensityd",
        "ScaleIntensityRanged",
        "ScaleIntensityRangePercentilesd",
        "ThresholdIntensityd",
    }
)
GRID = frozenset({"CenterSpatialCropd", "ResizeWithPadOrCropd", "Resized", "SpatialPadd"})
ALLOWED = INTENSITY | GRID
Step = Mapping[str, Any]


def check_steps(steps: Sequence[Step]) -> None:
    """Refuse what is not a harmless, known transform on the image.

    Raises:
        ValueError: names the step and the key (pydantic turns it into an error of the recipe).
    """
    for number, step in enumerate(steps):
        target = step.get("_target_")
        if target not in ALLOWED:
            raise ValueError(f"preprocessing[{number}]._target_: {target!r} is not one of {', '.join(sorted(ALLOWED))}")
        if step.get("keys", "image") != "image":
            raise ValueError(f"preprocessing[{number}].keys: {step['keys']!r} must be 'image'")
        for key, value in step.items():
            check_plain(value, f"preprocessing[{number}].{key}")


def check_plain(value: object, where: str) -> None:
    """Numbers, truth values, null, plain words, and lists and maps of them; nothing that a parser could evaluate.

    Raises:
        ValueError: names the key.
    """
    if isinstance(value, list | tuple):
        for number, element in enumerate(value):
            check_plain(element, f"{where}[{number}]")
    elif isinstance(value, Mapping):
        for key, element in value.items():
            check_plain(key, where)
            check_plain(element, f"{where}.{key}")
    elif isinstance(value, str):
        if value[:1] in "$@%" and value:
            raise ValueError(f"{where}: {value!r} is an expression; only plain values are read")
    elif not isinstance(value, int | float | None):
        raise ValueError(f"{where}: {value!r} is no plain value")


def chain(steps: Sequence[Step]) -> transforms.Compose:
    """The steps as one MONAI Compose on {"image": MetaTensor}.

    Raises:
        ValueError: as `check_steps`, or an argument that the transform does not know.
    """
    check_steps(steps)
    built = []
    for number, step in enumerate(steps):
        arguments = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
        try:
            built.append(getattr(transforms, step["_target_"])(keys="image", **arguments))
        except TypeError as error:
            raise ValueError(f"preprocessing[{number}]: {error}") from error
    return transforms.Compose(built)


def prepare(compose: transforms.Compose, image: MetaTensor) -> MetaTensor:
    """Run the chain on one image."""
    return compose({"image": image})["image"]
