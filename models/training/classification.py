"""Classification: a slice or a projection -> calibrated class probabilities.

Kept is the best on validation, by AUROC of "any class but the first", between equals by the loss. From weights that the
recipe names training may go in two phases (`models.training.start`).
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import calibration, cases, domain, networks, study, version
from models.cases import Case
from models.classification_recipe import ClassificationRecipe
from models.evaluation.classification import auroc
from models.networks import classifier
from models.training import average, start, summary
from models.training.augmentation import augment
from models.training.classification_parts import Whole, Windowed, class_weights, loss_of, mixed
from models.training.journal import Journal
from models.training.placement import ordered
from models.training.precision import autocast
from models.training.randomness import seed_of, start_step
from models.training.retraining import retrain
from models.training.schedule import Clock
from models.training.session import Stateful
from models.version import Ancestor


def train(
    recipe: ClassificationRecipe,
    cohort: Cohort,
    run: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    device: str = "auto",
) -> None:
    """One training, from cohort to a run that serves. See `models.training.train`."""
    # Patients are split already; read them once, through the chain that serving will use.
    summary.require_splits(cohort)
    on = summary.device_named(device)
    training = cases.load(cohort, cohort.training, recipe.preprocessing, masks=recipe.windows is not None)
    validation = cases.load(cohort, cohort.validation, recipe.preprocessing)
    examples = examples_of(recipe, training, validation)
    labels, judged = labels_of(training), labels_of(validation)
    if len(labels.unique()) < 2:
        raise Rejected(
            f"cohort {cohort.name!r}: all training images have label {int(labels[0])}; two classes are needed"
        )

    # Network, loss, optimiser and running average.
    torch.manual_seed(seed_of(recipe.seed, "weights", 0))
    definition = classifier.definition(recipe.network, len(cohort.channels), len(cohort.labels), recipe.windows)
    network = ordered(networks.build(definition), on)
    classes, schedule = len(cohort.labels), recipe.schedule
    weights = class_weights(labels, classes).to(on) if recipe.loss.class_weights == "balanced" else None
    clock = Clock(schedule, minutes)
    journal = Journal(run, recipe, cohort, clock, progress, resume)
    for sentence in of_one_kind(judged, cohort):
        journal.warn(sentence)
    found = journal.resumed
    ancestors = () if found else start.begin(network, recipe, journal.warn)
    holding = start.Holding(network, recipe.phases)
    kept = average.start(network)
    rates = recipe.optimiser
    groups = [{"params": holding.head}, {"params": holding.base}]
    optimiser = torch.optim.AdamW(groups, lr=rates.learning_rate, weight_decay=rates.weight_decay)

    # Resume from the newest checkpoint, if there is one.
    step, images_seen, best, reported = 0, 0, [-1.0, -float("inf")], 0
    waited, plateau = 0, Plateau(schedule.plateau_reports)
    stateful: dict[str, Stateful] = {"network": network, "average": kept, "optimiser": optimiser}
    stateful |= {"plateau": plateau, "holding": holding}
    if found:
        for name, each in stateful.items():
            each.load_state_dict(found[name])
        step, images_seen, best = (found[key] for key in ("step", "images_seen", "best"))
        reported, waited = images_seen, found["reports_since_best"]
        ancestors = tuple(Ancestor.model_validate(each) for each in found["ancestors"])

    finished = schedule.is_over(images_seen, waited)
    while not finished:
        # Draw a batch and take a step.
        draw = start_step(recipe.seed, step)
        images, numbers = examples.draw(schedule.batch_size, draw)
        batch, _ = augment(images.to(on), None, recipe.augmentation, draw)
        batch, wanted = mixed(batch, F.one_hot(numbers, classes).float().to(on), recipe.loss.mix, draw)
        holding.hold(clock.fraction(images_seen))
        for group, slower in zip(optimiser.param_groups, (1.0, holding.slower), strict=True):
            group["lr"] = clock.learning_rate(images_seen, rates.learning_rate) * plateau.factor * slower
        with autocast(on, schedule.precision):
            logits = network(batch)
        loss = loss_of(recipe.loss, logits.float(), wanted, weights)
        if not torch.isfinite(loss):
            raise Rejected(
                f"after {images_seen} images the loss is not finite ({loss.item():g}); lower learning_rate, or train "
                "in float32, in a new run"
            )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

        # Follow with the running average.
        step, images_seen = step + 1, images_seen + len(batch)
        average.follow(kept, network, images_seen, len(batch), schedule.ema_half_life_images)
        journal.progress(images_seen, loss.item())
        clock.tick()
        finished = clock.fraction(images_seen) >= 1

        # Each `report_images`, and at the end: validate, keep the best, save a checkpoint.
        if finished or images_seen - reported >= schedule.report_images:
            reported = images_seen
            logits = predict(kept, validation, on)
            # Ranking first; between equal rankings (tiny validation sets) the likelier one.
            score = [ranking(logits, judged), -float(F.cross_entropy(logits, judged))]
            waited = 0 if score > best else waited + 1
            if score > best:
                best = score
                journal.keep_best({"state": kept.state_dict()})
            plateau.look(-score[1])
            finished = finished or schedule.is_over(images_seen, waited)
            line = {"images_seen": images_seen, "loss": round(loss.item(), 5)}
            journal.report(line | {"validation_auroc": round(score[0], 5), "validation_loss": round(-score[1], 5)})
            journal.save(
                {name: each.state_dict() for name, each in stateful.items()}
                | {"step": step, "images_seen": images_seen, "best": best, "reports_since_best": waited}
                | {"ancestors": [each.model_dump(mode="json") for each in ancestors]}
            )

    # Temperature and threshold are fixed on validation; the temperature goes into the last layer's weights.
    kept.load_state_dict(journal.best()["state"])
    made = 0
    if recipe.retraining:
        made = retrain(kept, training, cohort, recipe.retraining, seed_of(recipe.seed, "smote", 0))
    logits = predict(kept, validation, on)
    temperature, threshold = calibration.fixed_on(logits, judged, recipe.least_sensitivity)
    reading = study.read(recipe.study, logits / temperature, validation, recipe.least_sensitivity)
    owners = [case.patient for case in training for _ in range(case.slices)]
    seen = [domain.observe(case.source) for case in training]
    saw = summary.saw(recipe, cohort, journal.data_hash, owners, images_seen)
    description = version.Description(
        name=recipe.name,
        task="classification",
        labels=cohort.labels,
        channels=cohort.channels,
        domain=domain.observed(seen, cohort.channels, body_parts=summary.body_parts(cohort)),
        saw=saw.model_copy(update={"ancestors": ancestors}),
        threshold=threshold,
        least_sensitivity=recipe.least_sensitivity,
        temperature=temperature,
        study=reading,
        made_embeddings=made,
        picture_px=domain.picture_px(seen),
    )
    state = classifier.calibrated(kept, temperature)
    version.write(run, description, definition, recipe.preprocessing, None, 0.0, state)
    auroc_of_all = ranking(logits, judged)
    journal.done(images_seen=images_seen, validation_auroc=auroc_of_all, threshold=threshold, temperature=temperature)


def examples_of(recipe: ClassificationRecipe, training: Sequence[Case], validation: Sequence[Case]) -> Whole | Windowed:
    """What batches are drawn from; whole images must have the size of those that validate.

    Raises:
        Rejected: the chain left images of different sizes.
    """
    if recipe.windows:
        return Windowed(training, recipe.windows)
    return Whole([*training, *validation], len(training), balanced=recipe.batches == "balanced")


def labels_of(found: Sequence[Case]) -> Tensor:
    """Class numbers of all slices, (n,)."""
    return torch.cat([case.labels for case in found if case.labels is not None])


def of_one_kind(judged: Tensor, cohort: Cohort) -> list[str]:
    """A sentence where validation cannot tell a ranking."""
    if len((judged > 0).unique()) > 1:
        return []
    kind = "positives" if int(judged[0]) else f"{cohort.labels[0]!r}"
    return [
        (
            f"validation has {kind} alone: its AUROC says nothing, and the threshold stays at 0.5; import the cohort "
            "with more patients, or with other shares"
        )
    ]


class Plateau:
    """Half the learning rate where the validation loss has not fallen for so many reports; None never."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._least, self._waited, self.factor = float("inf"), 0, 1.0

    def look(self, loss: float) -> None:
        """At every report."""
        self._waited = 0 if loss < self._least else self._waited + 1
        self._least = min(self._least, loss)
        if self._patience and self._waited >= self._patience:
            self.factor, self._waited = self.factor / 2, 0

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"least": self._least, "waited": self._waited, "factor": self.factor}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._least, self._waited, self.factor = state["least"], int(state["waited"]), state["factor"]


@torch.inference_mode()
def predict(network: nn.Module, validation: Sequence[Case], on: torch.device) -> Tensor:
    """Logits (N, classes) on the CPU, slice after slice."""
    network.eval()
    batches = [batch for case in validation for batch in case.image.transpose(0, 1).split(64)]
    return torch.cat([network(batch.to(on)).cpu() for batch in batches])


def ranking(logits: Tensor, labels: Tensor) -> float:
    """AUROC of "any class but the first"; 0.5 where validation holds one kind only."""
    value = auroc((1 - torch.softmax(logits, 1)[:, 0]).double().numpy(), (labels > 0).numpy())
    return 0.5 if np.isnan(value) else value
