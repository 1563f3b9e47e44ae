"""The sheet of fixed seeds at every report, and all as one animation: `samples.png`, `frames/`, `training.gif`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models import sheet

PICTURES = 16


class Strip:
    """One run's sheets. classes: as many columns as there are, so that a column is a class; 0 makes a square. colour:
    the planes are red, green and blue."""

    def __init__(self, run: Path, model: str, seed: int, classes: int, colour: bool = False) -> None:
        self._run, self._model, self._seed, self._colour = run, model, seed, colour
        self._across = classes or None
        self._count = classes * max(2, PICTURES // classes) if classes else PICTURES
        self._frames = run / "frames"

    def add(self, images: Tensor, images_seen: int, progress: float) -> None:
        """images: (n, planes, px, px), or of volumes, in [-1, 1], classes in turn. A run that goes on writes the same
        names again."""
        self._frames.mkdir(exist_ok=True)
        shown = sheet.middle_slices(images[: self._count].numpy())
        for path, fraction in (
            (self._run / "samples.png", None),
            (self._frames / f"{images_seen:012d}.png", progress),
        ):
            sheet.save(
                shown,
                (-1.0, 1.0),
                path,
                model=self._model,
                seed=self._seed,
                colour=self._colour,
                across=self._across,
                progress=fraction,
            )
        sheet.animate(sorted(self._frames.glob("*.png")), self._run / "training.gif")
