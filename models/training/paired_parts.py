"""The networks of a paired training, and the terms of its loss that are no adversarial one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.draws import normal
from models.networks.patch_critic import PatchCritic, Verdict
from models.networks.spade import Style
from models.paired_recipe import PairedRecipe, SpadeSettings
from models.training.couples import Couples


def coded(style: nn.Module, pictures: Tensor, draw: torch.Generator) -> tuple[Tensor | None, Tensor]:
    """A code of each picture, drawn from what the encoder finds, and its divergence from N(0, 1) in nats a picture."""
    if not isinstance(style, Style):
        return None, torch.zeros((), device=pictures.device)
    mean, log_variance = (each.float() for each in style(pictures))
    noise = normal(len(mean), draw, *mean.shape[1:]).to(mean.device)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    return mean + (log_variance / 2).exp() * noise, divergence


def matching(true: Sequence[Verdict], made: Sequence[Verdict]) -> Tensor | float:
    """Mean absolute difference of the critic's maps (Wang 2018, equation 4), over layers and sizes."""
    apart = [
        F.l1_loss(ours.float(), theirs.float().detach())
        for of_true, of_made in zip(true, made, strict=False)
        for theirs, ours in zip(of_true.maps, of_made.maps, strict=True)
    ]
    return torch.stack(apart).mean() if apart else 0.0


def definition_of(recipe: PairedRecipe, couples: Couples) -> dict[str, Any]:
    """`network_def` of the bundle."""
    given, planes, chosen = couples.given.shape[1], couples.planes, recipe.network.model_dump(mode="json")
    del chosen["kind"]
    if isinstance(recipe.network, SpadeSettings):
        return {"_target_": "models.networks.spade.Spade", **chosen, "labels": given, "planes": planes}
    del chosen["window_px"]
    target = "models.networks.translator.Translator"
    return {"_target_": target, **chosen, "given": given, "planes": planes, "factor": couples.factor}


def critic_of(recipe: PairedRecipe, couples: Couples) -> nn.Module:
    return PatchCritic(couples.given.shape[1] + couples.planes, **recipe.critic.model_dump())


def style_of(recipe: PairedRecipe, planes: int) -> nn.Module:
    chosen = recipe.network
    if isinstance(chosen, SpadeSettings):
        return Style(chosen.image_px, planes, chosen.features, chosen.latent)
    return nn.Identity()
