"""What a recipe says of augmentation: each change by itself, or a preset by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dicom_io.cohort import COLOURS
from dicom_io.errors import Rejected
from models.recipe_parts import NotNegative, Settings, Share

# What is done to grey levels and colours; all else moves pixels.
APPEARANCE = ("gain", "offset", "noise", "stain", "bias_field", "gibbs")
_IN_PLANE = ("quarter_turns", "rotation_degrees", "shear", "translation", "scale", "stain", "bias_field", "gibbs")
_ACROSS = r"left|right|[lr][ -]?(cc|mlo)"
_DOWN = r"upper|lower|superior|inferior"
# What a label says that is not true any more after each of them.
_UNTRUE = {"flip_columns": _ACROSS, "flip_rows": _DOWN, "quarter_turns": f"{_ACROSS}|{_DOWN}"}
_UNTRUE["rotation_degrees"] = f"{_ACROSS}|{_DOWN}"
# A picture that turns by more has another side on its left.
_UPRIGHT = 45.0
# Slices may follow each other in any direction.
_UNTRUE |= {"flip_slices": f"{_ACROSS}|{_DOWN}"}


class Augmentation(Settings):
    """Drawn anew for every image. Flips and turns only where left and right, up and down mean nothing.

    quarter_turns: of squares. translation, scale: shares of the image size; shear: the largest tangent of its angle.
    gain: share by which values are multiplied, about 0, or of a generator's pictures about black; offset, noise: in the
    units of the network's input (after the input chain). bias_field: the largest coefficient of a smooth field that
    values are multiplied by, as gain does; gibbs: the largest share of the frequencies of each axis that is cut off.
    stain: of H&E in colour, share by which the amounts of its dyes change; stain_range: black and white in the
    network's input (`models.training.appearance`). outside: what moves in from beyond the image: no signal, its edge
    drawn out, or the image mirrored.
    """

    flip_rows: bool = False
    flip_columns: bool = False
    quarter_turns: bool = False
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    shear: Share = 0.0
    translation: Share = 0.0
    scale: Share = 0.0
    outside: Literal["none", "edge", "mirror"] = "none"
    gain: Share = 0.0
    offset: NotNegative = 0.0
    noise: NotNegative = 0.0
    bias_field: NotNegative = 0.0
    gibbs: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stain: Share = 0.0
    stain_range: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _black_is_below_white(self) -> Self:
        if self.stain_range[0] >= self.stain_range[1]:
            raise ValueError(f"stain_range: {self.stain_range[0]} is not below {self.stain_range[1]}")
        return self

    def changes(self, names: Sequence[str]) -> list[str]:
        """Those of these changes that are asked for."""
        return [name for name in names if getattr(self, name, False)]

    @property
    def in_plane(self) -> list[str]:
        """What is asked for and is made for slices alone."""
        return self.changes(_IN_PLANE)


# The studies' own, and stronger ones for what a picture is of.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The histology study's: shifts, rotation and zoom, no flips, no colours.
    "histology-study": {"rotation_degrees": 30, "translation": 0.1, "scale": 0.1, "outside": "edge"},
    # Of the transfer study: both flips, 15 degrees, shifts and zoom, brightness and contrast; amounts chosen here.
    "histology-transfer-study": {
        "flip_rows": True,
        "flip_columns": True,
        "rotation_degrees": 15,
        "translation": 0.1,
        "scale": 0.1,
        "outside": "mirror",
        "gain": 0.1,
        "offset": 0.1,
    },
    # A tile has no up; H&E as in the light variant of Tellez 2019.
    "histology": {
        "flip_rows": True,
        "flip_columns": True,
        "quarter_turns": True,
        "translation": 0.05,
        "scale": 0.1,
        "outside": "mirror",
        "stain": 0.05,
    },
    # The winner of the white-matter challenge of 2017.
    "wmh-challenge": {"flip_columns": True, "rotation_degrees": 15, "shear": 0.1, "scale": 0.1},
    # MR of another scanner: coil, matrix, contrast. No flips.
    "mr": {
        "rotation_degrees": 10,
        "translation": 0.05,
        "scale": 0.1,
        "gain": 0.1,
        "noise": 0.02,
        "bias_field": 0.3,
        "gibbs": 0.3,
    },
}


def of_preset(asked: Any) -> Any:
    """The changes that a preset's name stands for; what is no name stays as it is."""
    if not isinstance(asked, str):
        return asked
    if asked not in PRESETS:
        raise ValueError(f"{asked!r} is none of the presets {', '.join(PRESETS)}; name one, or give the changes")
    return PRESETS[asked]


Augmentations = Annotated[Augmentation, BeforeValidator(of_preset)]


def require_fits(changes: Augmentation, labels: Sequence[str], channels: Sequence[str]) -> None:
    """Pass where flips and turns leave all labels true, and stain is asked for in colour only.

    labels: that the network learns. channels: names of those that it sees.

    Raises:
        Rejected: a label says of a side what a flip would make untrue, or channels are no colours.
    """
    turning = [
        name
        for name in changes.changes(tuple(_UNTRUE))
        if name != "rotation_degrees" or changes.rotation_degrees > _UPRIGHT
    ]
    for name in turning:
        said = re.compile(rf"\b({_UNTRUE[name]})\b", re.IGNORECASE)
        sided = [label for label in labels if said.search(label.replace("_", " "))]
        if sided:
            upright = f"{_UPRIGHT:g} or less" if name == "rotation_degrees" else "false"
            raise Rejected(
                f"augmentation.{name} would make pictures for which the label {sided[0]!r} is not true; set it to "
                f"{upright}"
            )
    if changes.stain and tuple(channels) != COLOURS:
        raise Rejected(
            f"augmentation.stain is for {', '.join(COLOURS)}, and the channels are {', '.join(channels)}; set it to 0"
        )
