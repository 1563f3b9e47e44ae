"""Several processes train a generator as one would, but for rounding; they begin, stop and fail together."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import test_adversarial
import test_diffusion_models
import test_variational
import torch
import toy_pairs
from stopping import Stop, stop_at
from test_variational import cohort_of, picture
from torch import nn

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import draws, losses, recipe, training
from models.recipe import Recipe
from models.training import launcher, ranks, sharing
from models.training.randomness import start_step
from models.training.ranks import Ranks
from models.training.schedule import Clock
from models.version import read_weights

ROOT = Path(__file__).parent.parent.parent
# Each process imports everything anew, which takes its time where cores are busy.
pytestmark = pytest.mark.timeout(900)
Jobs = list[tuple[Recipe, Path, dict[str, Any]]]

adversarial, variational, diffusion = test_adversarial.small, test_variational.small, test_diffusion_models.small
DCGAN = {"image_px": 16, "features": 16, "latent": 8}
BATCH_NORM = DCGAN | {"norm": "batch", "critic_norm": "batch", "dropout": 0.2, "critic_dropout": 0.2}
BRAIN = {"kind": "brain-wcgan", "image_px": 16, "features": 16, "latent": 8, "critic": "D2"}
VAE = {"image_px": 16, "features": 16, "latent": 8, "blocks": 3}
RECIPES: dict[str, Recipe] = {
    "R1, DiffAugment, compared images": adversarial(),
    "growing": adversarial(
        network=DCGAN | {"image_px": 32}, growing={"first_px": 8}, schedule={"total_images": 64, "report_images": 32}
    ),
    "classes, ADA, spectral norm": adversarial(
        conditional=True, adaptive={"speed_images": 100, "target": 0.3}, network=DCGAN | {"spectral_norm": True}
    ),
    "batch norm and dropout, reals and fakes in one batch, flipped names": adversarial(
        network=BATCH_NORM,
        loss={"separate_batches": False, "label_flipping": 0.2},
        optimiser={"epsilon": 1e-4},
    ),
    "WGAN-GP of classes, batch norm, two critic steps": adversarial(
        conditional=True,
        network=BRAIN,
        loss={"kind": "wasserstein", "gradient_penalty": 10},
        optimiser={"critic_steps": 2, "epsilon": 1e-4},
    ),
    "variational, stages": variational(network=VAE, stages={"pretraining": 0.4, "frozen": 0.3}),
    "variational, free bits, noise, moved images": variational(
        network=VAE | {"links": "skip"},
        conditional=False,
        loss={"free_bits": 0.5, "image_noise": 0.2},
        augmentation={"translation": 0.1, "noise": 0.1},
    ),
    "diffusion of classes, dropout": diffusion(),
    "latent diffusion": diffusion(conditional=False, latent={"channels": 2, "widths": [8, 16], "share": 0.5}),
}
# By the kind of pairs that they train on.
OF_PAIRS: dict[str, tuple[str, Recipe]] = {
    "translator": ("translator", toy_pairs.small("translator")),
    "SPADE": ("mask-to-image", toy_pairs.small("mask-to-image", loss={"feature_matching": 1.0})),
    "unpaired, full pools": ("translator", toy_pairs.small("unpaired-translator", pool_images=6)),
}
ALL = [*RECIPES, *OF_PAIRS]
RESUMED = "diffusion of classes, dropout"


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """One right for three lefts, 20 x 16 pixels."""
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


def train_all(jobs: Jobs, cohort: Path) -> None:
    """What every process of a test does; no training depends on another."""
    torch.set_num_threads(1)
    for chosen, run, options in jobs:
        training.train(chosen, cohorts.load(cohort), run, device="cpu", **options)


def train_all_and_differ(jobs: Jobs, differ: Path, cohort: Path, further: list[tuple[Jobs, Path]]) -> None:
    """At first with a seed of each process's own; further: jobs, with cohorts of their own."""
    try:
        train_all([(adversarial(seed=int(os.environ["RANK"])), differ, {})], cohort)
    except Rejected as error:
        differ.with_suffix(".said").write_text(str(error))
    except SystemExit:
        differ.with_suffix(".left").touch()
    for each, of in [(jobs, cohort), *further]:
        train_all(each, of)


@pytest.fixture(scope="module")
def runs(spots: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every recipe trained by one process in `one`, by two in `two`; one of them in `parts`, by one and then by two."""
    folder = tmp_path_factory.mktemp("runs")
    endless = adversarial(schedule={"total_images": 10**8, "report_images": 10**8})
    train_all([(each, folder / "one" / name, {}) for name, each in RECIPES.items()], spots.folder)
    with pytest.raises(Stop):
        stop = stop_at(64)
        train_all([(RECIPES[RESUMED], folder / "parts", {"progress": stop})], spots.folder)
    jobs: Jobs = [(each, folder / "two" / name, {}) for name, each in RECIPES.items()]
    jobs += [(endless, folder / "budget", {"minutes": 0.02}), (RECIPES[RESUMED], folder / "parts", {"resume": True})]
    further: list[tuple[Jobs, Path]] = []
    for name, (kind, each) in OF_PAIRS.items():
        pairs = toy_pairs.write(folder / "pairs" / name, toy_pairs.KINDS[kind]).folder
        train_all([(each, folder / "one" / name, {})], pairs)
        further.append(([(each, folder / "two" / name, {})], pairs))
    launcher.start(2, train_all_and_differ, jobs, folder / "differ", spots.folder, further)
    return folder


def lines(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        told = [{key: value for key, value in line.items() if key != "stage"} for line in csv.DictReader(file)]
        return [{key: float(value or "nan") for key, value in line.items()} for line in told]


def farthest(one: Path, other: Path) -> float:
    """The largest difference of any released weight, but for biases: a norm takes away those before it, their slopes
    are rounding, and Adam makes steps of that."""
    first, second = (read_weights(run / "models" / "model.pt") for run in (one, other))
    assert first.keys() == second.keys()
    counted = [name for name in first if not name.endswith(("bias", "running_mean"))]
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in counted)


@pytest.mark.parametrize("name", ALL)
def test_two_processes_end_in_the_weights_of_one(name, runs):
    assert farthest(runs / "one" / name, runs / "two" / name) < 2e-5


@pytest.mark.parametrize("name", ALL)
def test_two_processes_tell_the_losses_of_one(name, runs):
    one, two = (lines(runs / count / name) for count in ("one", "two"))
    assert [line["images_seen"] for line in two] == [32, 64]
    for first, second in zip(one, two, strict=True):
        # Samples see averaged biases beside the means of the last batch.
        for of_samples in ("validation_kid", "spread"):
            assert second.pop(of_samples) == pytest.approx(first.pop(of_samples), rel=2e-3, abs=2e-4, nan_ok=True)
        assert second == pytest.approx(first, rel=2e-4, abs=2e-4, nan_ok=True)


def test_weights_of_two_processes_have_moved_from_where_they_began(runs):
    """The comparison above is of trained weights."""
    for name in ALL:
        first, last = lines(runs / "two" / name)
        assert first["loss"] != last["loss"]


def test_a_budget_of_minutes_ends_all_processes_together(runs):
    assert (runs / "budget" / "models" / "model.pt").is_file()
    assert len(lines(runs / "budget")) == 1


def test_what_one_process_began_two_go_on_with(runs):
    assert farthest(runs / "one" / RESUMED, runs / "parts") < 2e-5
    assert [line["images_seen"] for line in lines(runs / "parts")] == [32, 64]


def test_processes_that_see_other_recipes_end_and_one_says_so(runs):
    assert (
        (runs / "differ.said")
        .read_text()
        .startswith("the processes of this training see other recipes, cohorts or checkpoints; ")
    )
    assert (runs / "differ.left").exists()
    assert not (runs / "differ" / "metrics.csv").exists()


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def workers(process: int) -> list[int]:
    """The processes that a launcher has started, from the first."""
    below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(each) for each in below if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_when_one_process_is_killed_all_end_with_a_sentence_and_one_process_can_go_on(spots, tmp_path):
    dense = {"kind": "dense", "image_px": 16, "latent": 4, "widths": [32, 16]}
    chosen = variational(network=dense, schedule={"total_images": 3200, "report_images": 160})
    (tmp_path / "recipe.yaml").write_text(recipe.dump(chosen))
    train_all([(chosen, tmp_path / "whole", {})], spots.folder)

    words = ("train", tmp_path / "recipe.yaml", "--cohort", spots.folder, "--run", tmp_path / "run", "--device", "cpu")
    started = subprocess.Popen(
        command("plugin.cli", *words, "--nproc", 2), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    both = workers(started.pid)
    os.kill(both[1], signal.SIGKILL)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    assert said.splitlines()[-1].startswith("mirall: process 1 of 2 was killed (SIGKILL); go on with --resume")
    assert not any(Path(f"/proc/{each}").exists() for each in both)
    assert not (tmp_path / "run" / "models").exists()

    train_all([(chosen, tmp_path / "run", {"resume": True})], spots.folder)
    assert farthest(tmp_path / "whole", tmp_path / "run") < 1e-3
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "run"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_an_error_of_all_processes_of_torchrun_is_said_once(spots, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe.dump(adversarial(optimiser={"learning_rate": 1e30})))
    # Two hyphens, or torchrun takes --run for an option of its own.
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "--", "plugin.cli")
    words = ("train", tmp_path / "recipe.yaml", "--cohort", spots.folder, "--run", tmp_path / "run", "--device", "cpu")
    done = subprocess.run(command(*torchrun, *words), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert len(re.findall(r"^mirall: after 8 images the loss is not finite", done.stderr, re.MULTILINE)) == 1
    assert done.stderr.count("mirall: ") == 1


def full_disk(event: dict[str, Any]) -> None:
    if event["kind"] == "report":
        raise OSError(28, "No space left on device", "metrics.csv")


def test_the_error_of_one_process_ends_all_and_comes_back(spots, tmp_path):
    """The others wait for the first, which alone tells progress."""
    jobs: Jobs = [(adversarial(), tmp_path / "run", {"progress": full_disk})]
    with pytest.raises(OSError, match="No space left on device") as caught:
        launcher.start(2, train_all, jobs, spots.folder)
    assert caught.value.filename == "metrics.csv"


# One process.


def test_what_processes_draw_for_their_images_is_what_one_draws_for_all():
    for law in (draws.uniform, draws.normal, lambda images, source, *shape: draws.below(9, images, source, *shape)):
        whole = law(12, start_step(3, 7), 2)
        shares = [law(4, start_step(3, 7, Ranks(number, 3)), 2) for number in range(3)]
        assert torch.equal(torch.cat(shares), whole)
        assert torch.equal(whole, law(12, torch.Generator().manual_seed(start_step(3, 7).initial_seed()), 2))


def test_a_gradient_penalty_of_shares_is_that_of_the_batch():
    """Of a critic that looks at each image alone: the mean of the shares' penalties."""
    source = torch.Generator().manual_seed(5)
    real, fake = (torch.randn(6, 1, 5, 3, generator=source) for _ in "ab")
    critic = nn.Sequential(nn.Flatten(), nn.Linear(15, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    whole = losses.gradient_penalty(critic, real, fake, start_step(1, 2))
    shares = [
        losses.gradient_penalty(critic, each.share(real), each.share(fake), start_step(1, 2, each))
        for each in (Ranks(number, 3) for number in range(3))
    ]
    assert torch.stack(shares).mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_the_budget_is_that_of_the_first_process():
    """A process whose own clock has only begun ends when it is told to."""
    clock = Clock(adversarial().schedule, minutes=1000, agreed=lambda own: 1.0 if own < 0.5 else own)
    assert clock.fraction(8) == 8 / 64
    clock.tick()
    assert clock.fraction(8) == 1


@pytest.mark.parametrize(
    ("chosen", "processes", "reason"),
    [
        (recipe.load("segmenter"), 2, "'segmenter' is for segmentation, which trains in one process"),
        (recipe.load("classifier"), 2, "'classifier' is for classification"),
        (adversarial(), 3, r"schedule\.batch_size: 8 images cannot be shared evenly by 3 processes; take 9"),
        (adversarial(), 4, r"network\.minibatch_deviation compares 4 images .* set schedule\.batch_size to 16"),
        (
            adversarial(loss={"separate_batches": False}, schedule={"batch_size": 6}),
            2,
            r"network\.minibatch_deviation compares 4 images of a batch, and 2 processes have 3 of 6 each",
        ),
    ],
)
def test_what_several_processes_cannot_train_alike_is_refused(chosen, processes, reason):
    with pytest.raises(Rejected, match=reason):
        sharing.require(chosen, processes)


@pytest.mark.parametrize(("chosen", "processes"), [(adversarial(), 2), (diffusion(), 8), (variational(), 4)])
def test_what_can_be_shared_passes(chosen, processes):
    sharing.require(chosen, processes)


def test_half_an_environment_is_refused(spots, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(Rejected, match="WORLD_SIZE is 2, and LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"):
        train_all([(adversarial(), tmp_path / "run", {})], spots.folder)


def test_an_environment_of_one_process_is_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with ranks.joined(torch.device("cpu")) as alone:
        assert alone == Ranks(0, 1)
    assert ranks.is_first()
