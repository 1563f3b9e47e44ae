"""The input chain of a foreign model: MONAI's dictionary transforms, from a closed list, the spatial ones as well.

The way in is ours (`models.tensors`), so the steps that read files are left out. But they say how the axes lie: MONAI's
readers give (column, row, slice) and (column, row), where we have (slice, row, column) and (row, column). A bundle that
reads files is given its axes in that order; one that is given arrays takes them as ours lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai import transforms
from monai.data import MetaTensor

from models.preprocessing import INTENSITY, check_plain

# Steps that change the grid. MONAI can undo each, and keeps the affine.
SPATIAL = frozenset(
    {
        "BorderPadd",
        "CenterSpatialCropd",
        "CropForegroundd",
        "DivisiblePadd",
        "Flipd",
        "Orientationd",
        "ResizeWithPadOrCropd",
        "Resized",
        "Spacingd",
        "SpatialPadd",
    }
)
ALLOWED = INTENSITY | SPATIAL
READER = "LoadImaged"
# Done before the chain begins: a tensor, channels first, float32, on the CPU.
DONE = frozenset(
    {READER, "CastToTyped", "EnsureChannelFirstd", "EnsureTyped", "ToTensord", "ToDeviced", "FromMetaTensord"}
)
# Of the reader and of a cast: what would give other axes or other numbers than ours has these values alone.
_AS_OURS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    READER: {
        "reader": (None, "itkreader", "nibabelreader", "pilreader", "pydicomreader"),
        "affine_lps_to_ras": (True,),
        "reverse_indexing": (True,),
        "swap_ij": (True,),
    },
    "CastToTyped": {"dtype": ("float32",)},
}
Step = Mapping[str, Any]


def name_of(target: object) -> str:
    """`monai.transforms.Spacingd` and `Spacingd` are one; anything else stays what it is."""
    if not isinstance(target, str):
        return repr(target)
    last = target.rpartition(".")[2]
    return last if target in (last, f"monai.transforms.{last}") else target


def check_done(step: Step, where: str) -> None:
    """Refuse a step that is left out, where it would have done something else than our own way to a tensor.

    Raises:
        ValueError: names the key.
    """
    for key, allowed in _AS_OURS.get(name_of(step["_target_"]), {}).items():
        value = step[key] if key in step else allowed[0]
        if (value.lower() if isinstance(value, str) else value) not in allowed:
            told = ", ".join(str(each) for each in allowed)
            raise ValueError(f"{where}.{key}: {value!r} is not {told}; images reach the model in one way")


def check(steps: Sequence[Step]) -> None:
    """Refuse what is not a harmless, known transform on the image alone.

    Raises:
        ValueError: names the step and the key.
    """
    for number, step in enumerate(steps):
        require_known(step.get("_target_"), f"preprocessing[{number}]")
        check_arguments(step, f"preprocessing[{number}]")


def require_known(target: object, where: str) -> None:
    """Pass where the transform is on the list; else ValueError."""
    if target not in ALLOWED:
        raise ValueError(f"{where}._target_: {target!r} is not one of {', '.join(sorted(ALLOWED))}; it is not loaded")


def check_arguments(step: Step, where: str) -> None:
    """Pass where they are plain values, and of the image; else ValueError."""
    for key in ("keys", "source_key"):
        if step.get(key, "image") not in ("image", ["image"]):
            raise ValueError(f"{where}.{key}: {step[key]!r} must be 'image'")
    for key in ("lazy", "select_fn"):
        if step.get(key) not in (None, False):
            raise ValueError(
                f"{where}.{key}: {step[key]!r} is not read; steps are taken one by one, on what is above 0"
            )
    check_plain({key: value for key, value in step.items() if key != "_target_"}, where)


def build(steps: Sequence[Step]) -> transforms.Compose:
    """The steps as one MONAI Compose on {"image": MetaTensor}, which can be undone.

    Raises:
        ValueError: as `check`, or an argument that the transform does not take.
    """
    check(steps)
    return transforms.Compose([build_step(step, f"preprocessing[{number}]") for number, step in enumerate(steps)])


def build_step(step: Step, where: str) -> transforms.MapTransform:
    """One that was checked; `where` names it in the ValueError of an argument that it does not take."""
    arguments = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
    if step["_target_"] == "Orientationd":
        # As MONAI had it before it asked the image; ours are in RAS, too.
        arguments = {"labels": (("L", "R"), ("P", "A"), ("I", "S"))} | arguments
    try:
        built: transforms.MapTransform = getattr(transforms, step["_target_"])(keys="image", **arguments)
    except Exception as error:  # MONAI's own checks raise what they like.
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    return built


def turned(image: MetaTensor) -> MetaTensor:
    """(C, slice, row, column) -> (C, column, row, slice), (C, row, column) -> (C, column, row), and back; no voxel
    moves in the patient."""
    axes = list(range(image.ndim - 1))
    lies = image.affine.clone()
    lies[:, axes] = image.affine[:, axes[::-1]]
    values = torch.as_tensor(image).as_subclass(torch.Tensor).permute(0, *range(image.ndim - 1, 0, -1))
    return MetaTensor(values.contiguous(), affine=lies)
