"""Segmentation: windows of slices, or boxes of volumes -> mask.

Kept is the best on validation, by the mean Dice of patients at the best threshold. What the recipe leaves open is
planned from the training patients, and left as `plan.yaml`.
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import nn

from dicom_io.cohort import Cohort
from models import cases, domain, networks, runner, version
from models.cases import Case
from models.evaluation.segmentation import dice
from models.networks import unet
from models.segmentation_recipe import SegmentationRecipe
from models.training import average, plan, summary
from models.training.journal import Journal
from models.training.placement import ordered
from models.training.precision import autocast
from models.training.randomness import seed_of, start_step
from models.training.schedule import Clock
from models.training.segmentation_parts import changed, drawn_from, optimiser_of, told
from models.training.session import Stateful

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)


def train(
    recipe: SegmentationRecipe,
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
    training = cases.load(cohort, cohort.training, recipe.preprocessing)
    validation = cases.load(cohort, cohort.validation, recipe.preprocessing)
    chosen = plan.planned(recipe, training, len(cohort.channels) + len(cohort.labels))
    draw_windows, schedule, rates = drawn_from(chosen, training), recipe.schedule, recipe.optimiser

    # Network, loss, optimiser and running average.
    torch.manual_seed(seed_of(recipe.seed, "weights", 0))
    definition = unet.definition(chosen.network, len(cohort.channels), len(cohort.labels), chosen.spatial_dims)
    network = ordered(networks.build(unet.supervised(definition, chosen.network)), on)
    kept = average.start(network)
    optimiser = optimiser_of(rates, [*network.parameters()])
    loss_of = loss_in(recipe)
    clock = Clock(schedule, minutes)
    journal = Journal(run, recipe, cohort, clock, progress, resume)
    if chosen != recipe:
        (run / "plan.yaml").write_text(plan.text(chosen, training))

    # Resume from the newest checkpoint, if there is one.
    step, images_seen, best, reported = 0, 0, -1.0, 0
    stateful: dict[str, Stateful] = {"network": network, "average": kept, "optimiser": optimiser}
    if journal.resumed:
        for name, each in stateful.items():
            each.load_state_dict(journal.resumed[name])
        step, images_seen, best = (journal.resumed[key] for key in ("step", "images_seen", "best"))
        reported = images_seen

    network.train()
    finished = images_seen >= schedule.total_images
    while not finished:
        # Draw a batch of windows and take a step.
        draw = start_step(recipe.seed, step)
        images, masks = draw_windows(schedule.batch_size, draw)
        images, truth = changed(images.to(on), masks.to(on), recipe.augmentation, draw)
        for group in optimiser.param_groups:
            group["lr"] = clock.learning_rate(images_seen, rates.learning_rate)
        with autocast(on, schedule.precision):
            logits = network(images)
        loss = told(loss_of, logits.float(), truth)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

        # Follow with the running average.
        step, images_seen = step + 1, images_seen + len(images)
        average.follow(kept, network, images_seen, len(images), schedule.ema_half_life_images)
        journal.progress(images_seen, loss.item())
        clock.tick()
        finished = clock.fraction(images_seen) >= 1

        # Each `report_images`, and at the end: validate, keep the best, save a checkpoint.
        if finished or images_seen - reported >= schedule.report_images:
            reported = images_seen
            scores = validation_dice(kept, inferer_in(chosen), validation, on)
            score = float(scores.max())
            if score > best:
                best = score
                journal.keep_best({"state": kept.state_dict(), "threshold": float(THRESHOLDS[scores.argmax()])})
            journal.report(
                {"images_seen": images_seen, "loss": round(loss.item(), 5), "validation_dice": round(score, 5)}
            )
            journal.save(
                {name: each.state_dict() for name, each in stateful.items()}
                | {"step": step, "images_seen": images_seen, "best": best}
            )

    # Leave what serving needs, with the threshold that validation chose.
    found = journal.best()
    owners = [case.patient for case in training for _ in range(case.slices)]
    description = version.Description(
        name=recipe.name,
        task="segmentation",
        labels=cohort.labels,
        channels=cohort.channels,
        domain=domain.observed(
            [domain.observe(case.source) for case in training],
            cohort.channels,
            chosen.spatial_dims,
            summary.body_parts(cohort),
        ),
        saw=summary.saw(recipe, cohort, journal.data_hash, owners, images_seen),
        threshold=found["threshold"],
    )
    state = unet.served(found["state"])
    version.write(run, description, definition, recipe.preprocessing, chosen.window, recipe.windows.overlap, state)
    journal.done(images_seen=images_seen, validation_dice=best, threshold=found["threshold"])


def loss_in(recipe: SegmentationRecipe) -> DiceCELoss:
    """Of logits (B, classes, ...) and masks (B, 1, ...); Dice is pooled over the batch, and leaves out background."""
    return DiceCELoss(
        to_onehot_y=True,
        softmax=True,
        include_background=False,
        batch=True,
        lambda_dice=recipe.loss.dice,
        lambda_ce=recipe.loss.cross_entropy,
    )


def inferer_in(recipe: SegmentationRecipe) -> dict[str, Any]:
    """As a version has it. recipe: as planned."""
    assert recipe.window is not None
    return runner.sliding(recipe.window, recipe.windows.overlap)


@torch.inference_mode()
def validation_dice(network: nn.Module, inferer: Any, validation: Sequence[Case], on: torch.device) -> np.ndarray:
    """Mean Dice over patients, (thresholds,): windows and blending as in serving."""
    slide = runner.build_inferer(inferer)
    network.eval()
    scores: dict[str, list[list[float]]] = {}
    for case in validation:
        assert case.mask is not None
        probabilities = torch.softmax(slide(case.image[None].to(on), network)[0], 0).cpu()
        foreground, truth = (1 - probabilities[0]).numpy(), (case.mask > 0).numpy()
        scores.setdefault(case.patient, []).append([dice(foreground >= cut, truth) for cut in THRESHOLDS])
    return np.mean([np.mean(values, axis=0) for values in scores.values()], axis=0)
