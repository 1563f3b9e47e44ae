"""From a recipe's network to its two halves: the generator as data (it is released), the critic as a module."""

from __future__ import annotations

from typing import Any

from torch import nn

from dicom_io.errors import Rejected
from models.adversarial_recipe import DCGAN, BrainStudy, PetStudy
from models.networks import faithful, labelled
from models.networks.generator import Discriminator

Settings = DCGAN | PetStudy | BrainStudy


def generator(settings: Settings, classes: int, planes: int = 1, dims: int = 2) -> dict[str, Any]:
    """`network_def` of the bundle: noise (B, latent), with classes also labels (B,) -> (B, planes, *size).

    classes: 0 is an unlabelled generator. dims: 3 makes volumes. What is as ever is not written, so that old and new
    definitions are alike.

    Raises:
        Rejected: the network makes slices of one plane, and there are more, or volumes.
    """
    several = ({"planes": planes} if planes > 1 else {}) | ({"dims": dims} if dims > 2 else {})
    if isinstance(settings, PetStudy):
        if several:
            raise Rejected(
                f"network.kind: {settings.kind} makes one grey plane, as the study did, and the recipe asks for "
                f"{planes} in {dims} dimensions (channels, mask, spatial_dims); take dcgan"
            )
        return _pet(settings)
    if isinstance(settings, BrainStudy):
        chosen = settings.model_dump(include={"image_px", "features", "latent", "law"})
        target = "models.networks.labelled.LabelledGenerator"
        return {"_target_": target, "kind": settings.generator, **chosen, "classes": classes, **several}
    always = settings.model_dump(include={"image_px", "features", "latent"})
    chosen = settings.model_dump(include={"law", "norm", "dropout"}, exclude_defaults=True)
    labels = {"classes": classes} if classes else {}
    return {"_target_": "models.networks.generator.Generator", **always, **chosen, **labels, **several}


def _pet(settings: PetStudy) -> dict[str, Any]:
    wasserstein = settings.kind == "pet-wgan-gp"
    name = {"pet-dense-gan": "DenseGenerator", "pet-dcgan": "DCGANGenerator", "pet-wgan-gp": "WGANGenerator"}
    return {
        "_target_": f"models.networks.faithful.{name[settings.kind]}",
        "image_px": settings.image_px,
        "latent": settings.latent or (128 if wasserstein else 32),
        "law": settings.law or ("normal" if wasserstein else "uniform"),
        **({} if wasserstein else {"dropout": settings.dropout}),
        "profile": settings.profile,
    }


def critic(settings: Settings, classes: int, planes: int = 1, dims: int = 2) -> nn.Module:
    """Pictures (B, planes, *size), with classes also labels (B,) -> scores (B,), with fresh weights."""
    px = settings.image_px
    if isinstance(settings, PetStudy):
        if settings.kind == "pet-wgan-gp":
            return faithful.WGANCritic(px, settings.dropout)
        dense = settings.kind == "pet-dense-gan"
        made = faithful.DenseDiscriminator if dense else faithful.DCGANDiscriminator
        return made(px, settings.dropout, settings.profile)
    if isinstance(settings, BrainStudy):
        return labelled.LabelledCritic(
            settings.critic, px, settings.features, settings.critic_dropout, classes, planes, dims
        )
    return Discriminator(
        px,
        settings.features,
        norm=settings.critic_norm,
        dropout=settings.critic_dropout,
        spectral_norm=settings.spectral_norm,
        minibatch=settings.minibatch_deviation,
        classes=classes,
        planes=planes,
        dims=dims,
    )
