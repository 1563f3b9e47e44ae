"""The run folder and what a training tells about itself.

    run/recipe.yaml      every key written out
    run/plan.yaml        segmenters: the recipe with what it left open filled in, where it did (`models.training.plan`)
    run/metrics.csv      one line per report
    run/checkpoint.pt    the newest state (tensors only)
    run/best.pt          averaged weights of the best validation
    run/ancestors.json   generators: what the training started from, where it did (`models.training.transfer`)
    run/tensorboard      the same figures, where tensorboard is installed (all families)
    run/samples.png      generators: EMA samples of fixed seeds, marked synthetic
    run/frames, training.gif   generators: the same sheet at every report, and all of them as an animation
    run/configs, models  what serving needs, written at the end (`models.version`)
    run/training         generators: what a later training needs beside them (`models.version`)

Events, as plain dicts:
    {"kind": "progress", "images_seen", "total_images", "fraction", "loss", "images_per_s", "left_s"}
    {"kind": "report", ...the line of metrics.csv}
    {"kind": "warning", "message"}
    {"kind": "done", "run", "images_seen", "validation_...", ...what validation fixed}
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import recipe as recipes
from models.recipe_parts import RecipeBase
from models.training import checkpoint
from models.training.board import Board
from models.training.schedule import Clock

Event = dict[str, Any]
# Progress is told at most so often.
TELL_EVERY_S = 0.25


class Journal:
    """One run folder, its checkpoint and its listener. writes: false reads the checkpoint, and leaves all as it is."""

    def __init__(
        self,
        run: Path,
        recipe: RecipeBase,
        cohort: Cohort,
        clock: Clock,
        progress: Callable[[Event], None] | None,
        resume: bool,
        writes: bool = True,
    ) -> None:
        self.run = run
        self._tell = progress or (lambda event: None)
        self._clock = clock
        self._told_s = 0.0
        self._seen_at_start: int | None = None
        text = recipes.dump(recipe)
        self.data_hash = cohort.data_hash
        self.fingerprint = hashlib.sha256(f"{text}\0{self.data_hash}".encode()).hexdigest()
        if (run / "checkpoint.pt").exists() and not resume:
            raise Rejected(f"{run} holds a training already; continue it with --resume, or choose another folder")
        if (run / "models" / "model.pt").exists() and not (run / "checkpoint.pt").exists():
            raise Rejected(
                f"{run} holds a model that was not trained there, such as an ensemble or a version; choose another "
                "folder"
            )
        self.resumed = checkpoint.load(run / "checkpoint.pt", self.fingerprint)
        self.writes = writes
        if not writes:
            return
        run.mkdir(parents=True, exist_ok=True)
        (run / "recipe.yaml").write_text(text)
        images_seen = self.resumed["images_seen"] if self.resumed else 0
        self._drop_lines_after(images_seen)
        self._board = Board(run / "tensorboard", images_seen)

    def save(self, content: Event) -> None:
        """The newest state."""
        checkpoint.save(self.run / "checkpoint.pt", content | {"fingerprint": self.fingerprint})

    def keep_best(self, content: Event) -> None:
        """Averaged weights of the best validation so far, and what validation fixed with them."""
        checkpoint.save(self.run / "best.pt", content | {"fingerprint": self.fingerprint})

    def best(self) -> Event:
        """What `keep_best` kept.

        Raises:
            Rejected: the run was stopped before its first validation.
        """
        content = checkpoint.load(self.run / "best.pt", self.fingerprint)
        if content is None:
            raise Rejected(f"{self.run} has no validated weights; resume it with more minutes or images")
        return content

    def progress(self, images_seen: int, loss: float) -> None:
        """At most four times a second."""
        self._seen_at_start = images_seen if self._seen_at_start is None else self._seen_at_start
        spent_s = self._clock.spent_s
        if spent_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = spent_s
        fraction = self._clock.fraction(images_seen)
        images_per_s = (images_seen - self._seen_at_start) / spent_s
        total = self._clock.schedule.total_images
        self._tell(
            {
                "kind": "progress",
                "images_seen": images_seen,
                "total_images": total,
                "fraction": fraction,
                "loss": loss,
                "images_per_s": images_per_s,
                "left_s": (total - images_seen) / images_per_s if images_per_s else None,
            }
        )

    def report(self, line: Event) -> None:
        """Append to metrics.csv, whose columns are those of the first line, and to TensorBoard."""
        path = self.run / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(line))
            if fresh:
                writer.writeheader()
            writer.writerow(line)
        self._board.write(line)
        self._tell({"kind": "report"} | line)

    def warn(self, message: str) -> None:
        self._tell({"kind": "warning", "message": message})

    def done(self, **what: Any) -> None:
        self._tell({"kind": "done", "run": str(self.run)} | what)

    def _drop_lines_after(self, images_seen: int) -> None:
        """Lines that were written after the checkpoint will be written again."""
        path = self.run / "metrics.csv"
        if not path.exists():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            # A line without its last fields was cut off by the kill.
            whole = [line for line in reader if None not in line.values()]
        lines = [line for line in whole if int(line["images_seen"]) <= images_seen]
        if not lines:
            path.unlink()
            return
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
