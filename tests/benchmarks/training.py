"""How fast our loops train and sample, beside a bare PyTorch loop of the very same networks in the same process.

    python tests/benchmarks/training.py [--quick] [--features N] [--json FILE]

Everything runs on one thread and is counted in CPU seconds, so that a shared machine changes little; rounds take turns,
and a figure is the median over them. The bare loop has one batch, drawn once, no running average, no alarms, no
journal and no augmentation; losses, penalties, optimisers and steps are the same. Ours is timed between the events
that a progress bar gets, so reading the cohort and writing reports are left out. Bar: ours at 0.97 of the bare loop.
The convolution peak is a 3 x 3 convolution of 128 channels at 32 x 32, batch 32: FLOP per CPU second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort
from dicom_io.volume import Projection, Source
from models import generator, networks, recipe, training
from models.adversarial_recipe import AdversarialRecipe
from models.networks import pairs

BAR = 0.97
PX, BATCH = 64, 32


def chosen(kind: str, features: int, iterations: int) -> AdversarialRecipe:
    """DCGAN with R1, or WGAN-GP with five steps of the critic, without augmentation. iterations: of the generator."""
    plain = recipe.load({"DCGAN": "generator", "WGAN-GP": "wgan-gp"}[kind]).model_dump(mode="json")
    plain["network"] |= {"image_px": PX, "features": features}
    plain["loss"] |= {"translation": 0.0, "cutout": 0.0}
    images = iterations * BATCH * plain["optimiser"]["critic_steps"]
    plain["schedule"] |= {"total_images": images, "report_images": images, "batch_size": BATCH, "precision": "float32"}
    made = recipe.parse(plain | {"pixel_range": [0, 255], "alarms": "warn"}, kind)
    assert isinstance(made, AdversarialRecipe)
    return made


def cohort_in(folder: Path) -> Cohort:
    """64 pictures of noise for training, 4 for validation."""
    splits = {}
    for split, count in (("training", 64), ("validation", 4)):
        items = []
        for number in range(count):
            pixels = np.random.default_rng(number).uniform(0, 255, (PX, PX)).astype(np.float32)
            source = Source("1.2.840.10008.5.1.4.1.1.7", f"2.25.{number + 1}", f"{number:064x}")
            shown = Projection(pixels, "1", source, (1.0, 1.0), "", "", "", "")
            items.append(cohorts.add_projection(folder, f"{split}{number}", shown, f"{split}{number}"))
        splits[split] = tuple(items)
    made = Cohort(folder, "noise", "generation", (), (Channel("image", "OT", "1"),), splits)
    cohorts.save(made)
    return cohorts.load(folder)


def ours(settings: AdversarialRecipe, cohort: Cohort, run: Path) -> float:
    """Images per CPU second, from the first to the last event of a training."""
    seen: list[tuple[int, float]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            seen.append((event["images_seen"], time.process_time()))

    training.train(settings, cohort, run, progress=listen, device="cpu")
    (first, began), (last, ended) = seen[0], seen[-1]
    return (last - first) / (ended - began)


def bare(settings: AdversarialRecipe, iterations: int) -> float:
    """Images per CPU second of the same steps, written down and nothing else."""
    torch.manual_seed(0)
    made = networks.build(pairs.generator(settings.network, 0))
    critic = pairs.critic(settings.network, 0)
    rates, loss = settings.optimiser, settings.loss
    betas = (rates.beta_1, rates.beta_2)
    for_generator, for_critic = (
        torch.optim.Adam(net.parameters(), lr=rates.learning_rate, betas=betas) for net in (made, critic)
    )
    real = torch.rand(BATCH, 1, PX, PX) * 2 - 1

    def iteration(step: int) -> None:
        critic.requires_grad_(True)
        for _ in range(rates.critic_steps):
            fake = made(torch.randn(BATCH, settings.network.latent or 128))
            if loss.kind == "wasserstein":
                told = critic(fake.detach()).mean() - critic(real).mean()
                share = torch.rand(BATCH, 1, 1, 1)
                between = (share * real + (1 - share) * fake.detach()).requires_grad_()
                (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
                told = told + loss.gradient_penalty * (slope.flatten(1).norm(dim=1) - 1).square().mean()
            else:
                told = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
                if step % rates.r1_every_steps == 0:
                    at = real.clone().requires_grad_()
                    (slope,) = torch.autograd.grad(critic(at).sum(), at, create_graph=True)
                    told = told + rates.r1_every_steps * settings.r1_gamma / 2 * slope.square().sum((1, 2, 3)).mean()
            for_critic.zero_grad()
            told.backward()
            for_critic.step()
        critic.requires_grad_(False)
        scores = critic(fake)
        raised = -scores.mean() if loss.kind == "wasserstein" else F.softplus(-scores).mean()
        for_generator.zero_grad()
        raised.backward()
        for_generator.step()

    iteration(1)
    began = time.process_time()
    # As many iterations as ours, whose first goes before its first event.
    for step in range(1, iterations):
        iteration(step)
    return (iterations - 1) * BATCH * rates.critic_steps / (time.process_time() - began)


def sampling(run: Path, count: int) -> dict[str, float]:
    """Pictures per CPU second: as we sample (one at a time), the bare network one at a time, and in batches of 32."""
    maker = generator.load(run)
    network = maker.model.network()

    def rate(work: Callable[[], object], made: int) -> float:
        work()
        began = time.process_time()
        work()
        return made / (time.process_time() - began)

    with torch.inference_mode():
        one, many = torch.randn(1, 128), torch.randn(32, 128)
        return {
            "ours": rate(lambda: maker.sample(count, 0), count),
            "bare, one at a time": rate(lambda: [network(one) for _ in range(count)], count),
            "bare, batches of 32": rate(
                lambda: [network(many) for _ in range(count // 32 + 1)], 32 * (count // 32 + 1)
            ),
        }


def peak() -> float:
    """FLOP per CPU second of one convolution, forwards; the best of several."""
    layer, maps = torch.nn.Conv2d(128, 128, 3, padding=1), torch.randn(32, 128, 32, 32)
    flop = 2 * 32 * 32 * 32 * 128 * 128 * 9
    best = 0.0
    with torch.inference_mode():
        for _ in range(6):
            began = time.process_time()
            layer(maps)
            best = max(best, flop / (time.process_time() - began))
    return best


def flop_per_image(settings: AdversarialRecipe) -> float:
    """Of one training iteration over the images that it shows; backward counted as twice forward, R1 and the penalty
    as three more passes of the critic (double backward)."""
    made, critic = networks.build(pairs.generator(settings.network, 0)), pairs.critic(settings.network, 0)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        image = made(torch.randn(1, settings.network.latent or 128))
        of_generator = counter.get_total_flops()
        critic(image)
    of_critic = counter.get_total_flops() - of_generator
    steps = settings.optimiser.critic_steps
    # The critic's step: its images forwards and backwards, reals and fakes; the fakes' forwards; the penalty.
    penalty = 6 if settings.loss.gradient_penalty else 6 / settings.optimiser.r1_every_steps
    critic_step = 2 * 3 * of_critic + of_generator + penalty * of_critic
    # The generator's step: through the critic forwards and to its input (2), then its own backward (2).
    return (steps * critic_step + 2 * of_critic + 2 * of_generator) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="short rounds of narrow networks")
    parser.add_argument("--features", type=int, default=None, help="channels at half resolution; 32, or 16 when quick")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    features = given.features or (16 if given.quick else 32)
    rounds = 3
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    report: dict[str, Any] = {"features": features, "peak_gflop_per_s": peak() / 1e9}
    with tempfile.TemporaryDirectory() as scratch:
        cohort = cohort_in(Path(scratch) / "cohort")
        for kind, iterations in (("DCGAN", 30 if given.quick else 50), ("WGAN-GP", 6 if given.quick else 10)):
            settings = chosen(kind, features, iterations)
            pairs_of_rates = []
            for number in range(rounds):
                run = Path(scratch) / f"{kind}{number}"
                pairs_of_rates.append((ours(settings, cohort, run), bare(settings, iterations)))
            mine, plain = (statistics.median(column) for column in zip(*pairs_of_rates, strict=True))
            ratio = statistics.median(a / b for a, b in pairs_of_rates)
            mfu = mine * flop_per_image(settings) / 1e9 / report["peak_gflop_per_s"]
            report[kind] = {"ours": mine, "bare": plain, "ratio": ratio, "of_peak": mfu, "bar": BAR}
            print(f"{kind} {PX}: {mine:.1f} images/s, bare {plain:.1f}, ratio {ratio:.3f}, {mfu:.2f} of the peak")
        report["sampling"] = sampling(Path(scratch) / "DCGAN0", 64 if given.quick else 256)
    for name, rate in report["sampling"].items():
        print(f"sampling, {name}: {rate:.0f} images/s")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = [kind for kind in ("DCGAN", "WGAN-GP") if report[kind]["ratio"] < BAR]
    if missed:
        print(f"below {BAR} of the bare loop: {', '.join(missed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
