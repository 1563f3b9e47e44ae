"""Generation: noise -> slice, by a denoiser (EDM: Karras 2022; `models.networks.diffusion`).

One step draws reals, adds noise of a random level sigma to each, and asks for the clean images:

    ln sigma ~ N(-1.2, 1.2)    loss = mean of (sigma^2 + s^2) / (sigma s)^2 (D(y + sigma n, sigma) - y)^2

with s the deviation of the data. The weight makes every level count alike at the start. Mean and deviation of the
pixels are measured on the training reals and stored with the network. Running average always; the best by KID to unseen
patients is kept, for no loss says when a denoiser begins to copy. MONAI's trainers know neither these levels nor a
running average.

Where the recipe has a latent, y are latents of an autoencoder that trains first (`models.training.compression`), scaled
plane by plane; their mean and deviation are stored instead, and no factor can be forgotten.
"""

# torch leaves Tensor.backward without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models import networks
from models.cases import Squares
from models.diffusion_recipe import DiffusionLoss, DiffusionRecipe
from models.draws import normal
from models.networks.diffusion import Diffusion
from models.networks.spatial import to_maps
from models.training import average, compression, optimisers
from models.training.alarms import WaysOut
from models.training.augmentation import augment_pictures
from models.training.batches import withheld
from models.training.compression import Compression
from models.training.couples import Couples, described
from models.training.precision import autocast
from models.training.session import Session, Stateful
from models.training.transfer import Part
from models.training.truth import Shown

# Images of one grey have no deviation, and a denoiser needs one: about a grey level of 256.
FLATTEST = 0.01
WAYS_OUT = WaysOut(
    not_finite="lower learning_rate, clip gradients (clip_gradient_norm), or train in float32, in a new run",
    exploding="lower learning_rate, or clip gradients (clip_gradient_norm: 1)",
    collapse="lower sampler.guidance, raise sampler.steps, show it changed images (augmentation), or train it longer",
    dead="check pixel_range, raise sampler.steps, or train it longer",
)


def train(recipe: DiffusionRecipe, session: Session) -> None:
    """One training, from a session's slices to a run that samples. See `models.training.train`."""
    # Network, optimiser and running average.
    on, ranks, classes = session.device, session.ranks, len(session.names)
    definition = definition_of(recipe, classes, session.reals)
    first = Compression(recipe.latent, session.reals, on, recipe.schedule.precision) if recipe.latent else None
    denoiser = networks.build(definition).to(on)
    assert isinstance(denoiser, Diffusion)
    kept: Diffusion = average.start(denoiser)
    rates, schedule = recipe.optimiser, recipe.schedule
    optimiser = torch.optim.Adam(denoiser.parameters(), rates.learning_rate, (rates.beta_1, rates.beta_2))
    alarms = session.watch(WAYS_OUT)

    # Resume from the newest checkpoint, or start from another model, if there is one.
    stateful: dict[str, Stateful] = {"denoiser": denoiser, "average": kept, "optimiser": optimiser}
    parts = [Part("denoiser", (denoiser, kept), lambda n: networks.build(definition_of(recipe, n, session.reals)))]
    if first is not None:
        stateful, parts = stateful | first.stateful, [*parts, first.part]
    session.begin(stateful, definition, parts)
    since_report: list[float] = []

    # What makes latents trains first, and then stays as it is.
    stage: dict[str, Any] = {}
    if first is not None:
        compression.train(first, recipe, session)
        definition |= first.hand_over(denoiser, kept)
        stage = {"stage": "denoising"} | first.figures

    while session.going:
        draw = session.draw()
        optimisers.set_rate(optimiser, session.learning_rate(rates.learning_rate))
        session.hold()

        # Draw reals, hide some of their classes or masks, add noise of a random level to each.
        clean, labels, given = drawn(recipe, session, draw)
        clean = ranks.share(clean)
        labels, given = (None if each is None else ranks.share(each).to(on) for each in (labels, given))
        clean = clean if first is None else first.latents(clean, draw)
        sigma = noise_levels(len(clean), recipe.loss, draw).to(on)
        noisy = clean + to_maps(sigma[:, None], clean) * normal(len(clean), draw, *clean.shape[1:]).to(on)

        # Take it off again.
        with autocast(on, schedule.precision):
            denoised = denoiser(noisy, sigma, labels, given)
        loss = weighted_error(denoised, clean, sigma, denoiser.sigma_data)
        optimiser.zero_grad()
        ranks.backward(loss, denoiser)
        if rates.clip_gradient_norm is not None:
            nn.utils.clip_grad_norm_(denoiser.parameters(), rates.clip_gradient_norm)
        optimiser.step()

        # Follow with the running average.
        (loss,) = ranks.told(loss)
        session.took(schedule.batch_size, loss.item())
        average.follow(kept, denoiser, session.images_of_part, schedule.batch_size, schedule.ema_half_life_images)
        since_report.append(loss.item())
        alarms.losses(session.images_seen, denoiser=loss.item())

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if session.due:
            # Levels differ from step to step, and the loss with them: only a mean can be compared.
            maker = Shown(kept, session.unseen.given) if isinstance(session.unseen, Couples) else kept
            session.report(maker, kept, stage | {"loss": round(sum(since_report) / len(since_report), 5)})
            since_report = []

    # Leave what sampling needs.
    more = described(session.cohort, recipe, session.training) if recipe.source else {}
    session.leave(definition, label_dropout=recipe.loss.label_dropout, **more)


def drawn(
    recipe: DiffusionRecipe, session: Session, draw: torch.Generator
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A batch: pictures, and what is said of them, where something is: class numbers, or planes of masks."""
    count, reals, share = recipe.schedule.batch_size, session.reals, recipe.loss.label_dropout
    if isinstance(reals, Couples):
        given, clean = reals.draw(count, None, recipe.augmentation, draw, session.device)
        said = torch.rand((count, 1, 1, 1), generator=draw) >= share
        return clean, None, given * said.to(given)
    clean, labels = session.batches.draw(count, draw)
    clean = augment_pictures(clean.to(session.device), recipe.augmentation, draw, reals.mask_planes)
    labels = withheld(labels, share, len(session.names), draw)
    return clean, None if labels is None else labels.to(session.device), None


def definition_of(recipe: DiffusionRecipe, classes: int, reals: Squares) -> dict[str, Any]:
    """`network_def` of the bundle: denoiser, sampler, and the mean and deviation of the training reals' planes.

    Where it works on latents, those of the latents' planes come in when there are any (`Compression.hand_over`).
    """
    common = {
        **recipe.network.model_dump(mode="json"),
        "classes": classes,
        **({"dims": reals.dims} if reals.dims > 2 else {}),
        "sampler": recipe.sampler.kind,
        **recipe.sampler.model_dump(exclude={"kind"}),
        **({"given": reals.given.shape[1]} if isinstance(reals, Couples) else {}),
    }
    if recipe.latent:
        name = "models.networks.latent_diffusion.LatentDiffusion"
        return {"_target_": name, **common, **compression.part_of_definition(recipe.latent, reals.planes)}
    means, deviations = ([round(value, 4) for value in moment.tolist()] for moment in moments(reals))
    deviations = [max(deviation, FLATTEST) for deviation in deviations]
    return {
        "_target_": "models.networks.diffusion.Diffusion",
        **common,
        "data_mean": means[0] if len(means) == 1 else means,
        "sigma_data": deviations[0] if len(means) == 1 else deviations,
    }


def moments(reals: Squares) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each plane, (planes,) as float64."""
    sums = [
        torch.stack([plane.sum(1), plane.square().sum(1)])
        for plane in (block.double().transpose(0, 1).flatten(1) for block in reals.blocks())
    ]
    mean, square = torch.stack(sums).sum(0) * reals.planes / reals.stored.numel()
    return mean, (square - mean.square()).clamp_min(0).sqrt()


def noise_levels(count: int, loss: DiffusionLoss, source: torch.Generator) -> Tensor:
    """(count,) sigma, by the recipe's law."""
    return (loss.mean_log_sigma + loss.deviation_log_sigma * normal(count, source)).exp()


def weighted_error(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: Tensor | float) -> Tensor:
    """The mean over images (B, planes, *size), each plane weighted by its deviation (planes, 1, ...) and by the
    level (B,): Karras 2022, table 1."""
    level = to_maps(sigma[:, None], clean)
    weight = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    return (weight * (denoised - clean).square()).mean()
