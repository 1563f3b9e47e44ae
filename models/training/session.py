"""What surrounds the steps of a generator's training, whatever its family: slices, reports, checkpoints, the end.

A loop draws from the session, takes a step, says how many images it took, and reports when the session is due. At a
report samples of fixed seeds are compared with unseen patients, and the best by that distance is kept: no loss of any
family tells when its samples are good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dicom_io.cohort import COLOURS, Cohort
from dicom_io.errors import Rejected
from models import version
from models.cases import Outline, Squares
from models.draws import Draws
from models.generation_recipe import GenerationBase
from models.networks.maker import Sampler
from models.training import pictures, summary
from models.training.alarms import OF_A_CRITIC, Alarms, WaysOut
from models.training.batches import Batches
from models.training.journal import Journal
from models.training.judge import Judge, Panel
from models.training.randomness import seed_of, start_step
from models.training.ranks import ALONE, Ranks
from models.training.schedule import Clock
from models.training.strip import Strip
from models.training.transfer import Part, Transfer


class Stateful(Protocol):
    """What a checkpoint holds and gives back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


Reader = Callable[[Cohort, str, Any, int], tuple[list[Outline], Squares]]


class Session:
    """One training of a generator. read: a split's cases and slices.

    Only the training split is drawn from (`batches`); validation is for the judge. step, images_seen: so far. best_by:
    the figure of a report that says which is kept; the least of it is best. ranks: the processes that share it; the
    first one reports and writes. compiled: networks go through `torch.compile`. start_from: see `train`.

    Raises:
        Rejected: a split is empty, recipe and cohort do not fit, the run folder holds another training, or processes do
            not see the same.
    """

    def __init__(
        self,
        recipe: GenerationBase,
        cohort: Cohort,
        run: Path,
        *,
        image_px: int,
        resume: bool = False,
        minutes: float | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
        device: str = "auto",
        start_from: Path | None = None,
        read: Reader = pictures.read,
        ranks: Ranks = ALONE,
        compiled: bool = False,
    ) -> None:
        # Patients are split already; read them once.
        summary.require_splits(cohort)
        self.device = summary.device_named(device)
        self.recipe, self.cohort = recipe, cohort
        self.ranks, self._compiled = ranks, compiled
        self._px = image_px
        self.training, self.reals = read(cohort, "training", recipe, image_px)
        _, self.unseen = read(cohort, "validation", recipe, image_px)
        self.names = cohort.labels if recipe.conditional else ()
        self._drawn = cohort.labels[1:] if self.reals.mask_planes else ()
        self.batches = Batches(self.reals, self.names)
        self.judge = Judge(self.reals, self.unseen, self.batches.present, recipe.report_samples)
        self.clock = Clock(recipe.schedule, minutes, ranks.same)
        told = progress if ranks.first else None
        self.journal = Journal(run, recipe, cohort, self.clock, told, resume, writes=ranks.first)
        self._transfer = Transfer(recipe, self.journal, start_from, resume)
        self._parts: Sequence[Part] = ()
        self._strip = Strip(run, recipe.name, recipe.seed, len(self.batches.present), recipe.channels == COLOURS)
        self.alarms = self.watch()
        self._stateful: dict[str, Stateful] = {}
        self.step, self.images_seen = 0, 0
        self.best_by = "validation_kid"
        self._best, self._since_best, self._reported = float("inf"), 0, 0
        self._finished = False
        # First weights are drawn from here on.
        torch.manual_seed(seed_of(recipe.seed, "weights", 0))

    def watch(self, ways_out: WaysOut = OF_A_CRITIC, middle: float | None = None) -> Alarms:
        """The alarms of this training, by what the family can do about them. middle: see `losses.middle`."""
        self.alarms = Alarms(
            self.journal.warn,
            stop=self.recipe.alarms == "stop",
            names=self.names,
            middle=middle,
            contrast=float(torch.cat([block.flatten(1).std(1) for block in self.reals.blocks()]).mean()),
            ways_out=ways_out,
        )
        return self.alarms

    def begin(self, stateful: Mapping[str, Stateful], definition: Mapping[str, Any], parts: Sequence[Part]) -> None:
        """Go on from the newest checkpoint, or start from another model, if there is one; make the networks that learn
        ready for it.

        stateful: all that a step changes, by name. definition: see `leave`. parts: the networks, the released first.

        Raises:
            Rejected: the checkpoint lacks one of them, another process sees another, or the other model does not fit.
        """
        self._parts = parts
        for sentence in self._transfer.begin(definition, parts, self.names):
            self.journal.warn(sentence)
        self._stateful = {**stateful, "alarms": self.alarms}
        found = self.journal.resumed
        if found:
            for name, each in self._stateful.items():
                if name not in found:
                    raise Rejected(
                        f"{self.journal.run}: its checkpoint has no {name!r}, it was begun by another release; "
                        "train anew in another folder"
                    )
                each.load_state_dict(found[name])
            self.step, self.images_seen = found["step"], found["images_seen"]
            self._best, self._since_best = found["best"], found["reports_since_best"]
            self._reported = self.images_seen
        begun = [self.journal.fingerprint, str(self.images_seen), *(e.content_hash for e in self._transfer.ancestors)]
        self.ranks.require_same(hashlib.sha256("\0".join(begun).encode()).hexdigest())
        for each in self._stateful.values():
            if isinstance(each, nn.Module) and each.training:
                self.ranks.spread(each, self.recipe.schedule.batch_size // self.ranks.count)
                if self._compiled:
                    # A list of networks is never called itself.
                    for network in each if isinstance(each, nn.ModuleList) else [each]:
                        # With torch's own random numbers, so that dropout is the same with and without.
                        network.compile(options={"fallback_random": True})
        for sentence in pictures.few_patients(self.reals, self.names):
            self.journal.warn(sentence)

    @property
    def fraction(self) -> float:
        """Of the training: 0 at the start, 1 at the end."""
        return self.clock.fraction(self.images_seen)

    @property
    def going(self) -> bool:
        """Neither images nor minutes nor patience have run out."""
        return not self._finished and not self.recipe.schedule.is_over(self.images_seen, self._since_best)

    def hold(self) -> None:
        """Before every step: layers that the recipe freezes stay as they are."""
        self._transfer.hold(self.fraction)

    def draw(self) -> Draws:
        """The source of random numbers for the next step."""
        return start_step(self.recipe.seed, self.step, self.ranks)

    @property
    def images_of_part(self) -> int:
        """So far, of the part of the training that has begun (`Clock.part`)."""
        return self.clock.of_part(self.images_seen)

    def learning_rate(self, peak: float) -> float:
        return self.clock.learning_rate(self.images_seen, peak)

    def took(self, images: int, loss: float) -> None:
        """After every step."""
        self.step += 1
        self.images_seen += images
        self.journal.progress(self.images_seen, loss)
        # Asked once a step: the clock of a budget goes on, and the last report must not be missed.
        self.clock.tick()
        self._finished = self.fraction >= 1

    @property
    def due(self) -> bool:
        """Each `report_images`, and at the end."""
        return self._finished or self.images_seen - self._reported >= self.recipe.schedule.report_images

    def report(
        self,
        maker: Sampler,
        released: nn.Module,
        figures: Mapping[str, Any],
        *,
        may_be_best: bool = True,
        beside: Mapping[str, str] | None = None,
        after: Mapping[str, Any] | None = None,
        measure: Callable[[Tensor], Mapping[str, float]] | None = None,
    ) -> None:
        """Compare with unseen patients, keep the best, write sheet, line and checkpoint, sound the alarms.

        maker: makes the samples; released: what a version would hold. figures, after: of the line in metrics.csv,
        before and after the distance. beside: see `Alarms.look`. measure: further figures of the samples.

        Raises:
            Rejected: something is wrong, and the recipe says to stop.
        """
        self._reported = self.images_seen
        if not self.ranks.first:
            self._agree()
            return
        panel = self.judge.panel(maker, self.device)
        kid, spread, labels = self.judge.kid(panel), self.judge.spread(panel), self._labels(panel)
        measured = {"validation_kid": kid} | (dict(measure(panel.images)) if measure else {})
        if may_be_best:
            self._keep(measured[self.best_by], released)
        self._strip.add(panel.images, self.images_seen, self.fraction)
        self.journal.report(
            {"images_seen": self.images_seen}
            | dict(figures)
            | {name: round(value, 6) for name, value in measured.items()}
            | {"spread": round(min(spread.values(), default=float("nan")), 4)}
            | {f"with_{name}": round(made, 4) for name, (made, _) in labels.items()}
            | dict(after or {})
        )
        self.alarms.look(self.clock.within(self.images_seen), self.images_seen, panel.images, spread, beside, labels)
        self._save()
        self.alarms.sound()
        self._agree()

    def _labels(self, panel: Panel) -> dict[str, tuple[float, float]]:
        """Of each label of the mask: the share of samples and of reals that show it."""
        return dict(zip(self._drawn, self.judge.labels(panel), strict=True))

    def note(self, figures: Mapping[str, Any]) -> None:
        """A report without samples, of what is trained before there can be any: line and checkpoint.

        Raises:
            Rejected: as for `report`.
        """
        self._reported = self.images_seen
        if not self.ranks.first:
            self._agree()
            return
        of_samples = ["validation_kid", "spread", *(f"with_{name}" for name in self._drawn)]
        self.journal.report({"images_seen": self.images_seen} | dict(figures) | dict.fromkeys(of_samples, ""))
        self.alarms.look(self.fraction, self.images_seen, None, {})
        self._save()
        self.alarms.sound()
        self._agree()

    def _save(self) -> None:
        self.journal.save(
            {name: each.state_dict() for name, each in self._stateful.items()}
            | {"step": self.step, "images_seen": self.images_seen}
            | {"best": self._best, "reports_since_best": self._since_best}
        )

    def _agree(self) -> None:
        """All wait for the first, and know what patience is counted from."""
        self._best, self._since_best = self.ranks.same(self._best), int(self.ranks.same(self._since_best))

    def _keep(self, score: float, released: nn.Module) -> None:
        self._since_best = 0 if score < self._best else self._since_best + 1
        if score < self._best:
            self._best = score
            beside = {part.name: part.networks[-1].state_dict() for part in self._parts[1:]}
            self.journal.keep_best({"state": released.state_dict(), "beside": beside})

    def leave(self, definition: Mapping[str, Any], **more: Any) -> None:
        """What sampling needs, with range, units and spacing of the slices. definition: `network_def` of the best.

        more: what the family says otherwise, by the fields of `models.version.Description`.
        """
        if not self.ranks.first:
            return
        made = pictures.description(
            self.recipe,
            self.cohort,
            self.journal.data_hash,
            self.training,
            self.reals.patients,
            self._px,
            self.images_seen,
            self.batches.counts,
        )
        chain, best = pictures.input_chain(self.recipe), self.journal.best()
        saw = made.saw.model_copy(update={"ancestors": self._transfer.ancestors})
        beside = version.write_beside(self.journal.run, best["beside"])
        made = made.model_copy(update={"saw": saw, "beside": beside, **more})
        version.write(self.journal.run, made, definition, chain, None, 0.0, best["state"])
        reports = {"reports_since_best": self._since_best}
        self.journal.done(images_seen=self.images_seen, **{self.best_by: self._best}, **reports)
