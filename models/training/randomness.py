"""Random numbers that are a function of (seed, purpose, step): nothing to store, nothing to lose when killed."""

from __future__ import annotations

import hashlib

import torch

from models.draws import Draws
from models.training.ranks import ALONE, Ranks


def seed_of(seed: int, purpose: str, step: int) -> int:
    """A 63-bit seed; other steps and purposes give unrelated ones."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{purpose}\0{step}".encode()).digest()[:8], "big") >> 1


def start_step(seed: int, step: int, ranks: Ranks = ALONE) -> Draws:
    """The source for the draws of one step; torch's global one (dropout) starts anew with it, too."""
    torch.manual_seed(seed_of(seed, "global", step))
    source = Draws()
    source.manual_seed(seed_of(seed, "step", step))
    source.number, source.count = ranks.number, ranks.count
    return source
