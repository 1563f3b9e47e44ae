"""The processes of one training: each keeps its share of every batch, and all take the same step.

What is random is a function of (seed, step), so every process draws the whole batch and keeps its own images of it;
gradients are averaged right after each backward pass. Layers that look at the whole batch (batch norm) or draw for it
(dropout) do so over all processes: a sum over processes has as its slope the sum of their slopes. Weights are then
those of one process, but for rounding. DDP follows one backward pass of one forward pass; penalties on slopes take
more, and its buckets have nothing to hide behind in networks of this size.

Processes find each other by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which `torchrun` sets, or in a
file (`models.training.launcher`). They speak gloo on a CPU, NCCL on GPUs.
"""

# torch leaves Tensor.backward and autograd functions without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dicom_io.errors import ImagingError, Rejected

# Others wait while the first process draws samples and writes them.
WAIT = timedelta(hours=2)
MEETING = "MIRALL_MEETING"
_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_met = itertools.count()


class Parted(ImagingError):
    """Another process of this training has ended; it, or who started it, says why."""


@dataclass(frozen=True)
class Ranks:
    """number: of this process, from 0; the first one alone writes and prints. on: where tensors must lie to travel."""

    number: int = 0
    count: int = 1
    on: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.number == 0

    def share(self, batch: Tensor) -> Tensor:
        """(B, ...) -> (B / count, ...): the images of this process."""
        return batch.chunk(self.count)[self.number]

    def gather(self, share: Tensor) -> Tensor:
        """(B / count, ...) -> (B, ...), the same in all processes; gradients pass."""
        if self.count == 1:
            return share
        parts = [share if number == self.number else torch.zeros_like(share) for number in range(self.count)]
        return self._sum(torch.cat(parts))

    def mean(self, values: Tensor) -> Tensor:
        """Over processes, element by element; gradients pass."""
        return values if self.count == 1 else self._sum(values) / self.count

    def told(self, *losses: Tensor) -> list[Tensor]:
        """The same numbers for the whole batch, without gradients."""
        return list(self.mean(torch.stack([loss.detach() for loss in losses])))

    def backward(self, loss: Tensor, network: nn.Module) -> None:
        """Gradients of the mean of all processes' losses. loss: of the share, a mean over its images."""
        loss.backward()
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        if self.count > 1 and gradients:
            # In one message; torch's own parameters_to_vector cannot take kernels with channels last.
            whole = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            parts = whole.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.reshape(gradient.shape))

    def same(self, value: float) -> float:
        """As the first process has it."""
        if self.count == 1:
            return value
        told = torch.tensor(value if self.first else 0.0, dtype=torch.float64, device=self.on)
        return float(self._sum(told))

    def require_same(self, digest: str) -> None:
        """digest: hexadecimal, of what must be the same everywhere.

        Raises:
            Rejected: in all processes, where one has another.
        """
        number = float(int(digest[:12], 16))
        differs = torch.tensor(float(self.same(number) != number), device=self.on)
        if self.count > 1 and self._sum(differs) > 0:
            raise Rejected(
                "the processes of this training see other recipes, cohorts or checkpoints; give all of them the same "
                "recipe and cohort, and a run folder that every host sees"
            )

    def spread(self, network: nn.Module, images: int) -> None:
        """Its batch norms and dropouts see the whole batch. Names and weights of the layers stay as they are.

        images: of this process in a batch. A layer may see several batches, one after the other (reals, then fakes).
        """
        if self.count == 1:
            return
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.forward = partial(self._normed, layer)  # type: ignore[method-assign]
            elif isinstance(layer, _DropoutNd):
                layer.forward = partial(self._dropped, layer, images)

    @torch.compiler.disable
    def _normed(self, layer: _BatchNorm, maps: Tensor) -> Tensor:
        """Own code: torch's SyncBatchNorm is for GPUs, and has no second derivative."""
        if not layer.training:
            return type(layer).forward(layer, maps)
        axes = [axis for axis in range(maps.ndim) if axis != 1]
        shape = [1, -1] + [1] * (maps.ndim - 2)
        wide = maps.float()
        mean = self.mean(wide.mean(axes))
        apart = wide - mean.view(shape)
        variance = self.mean(apart.square().mean(axes))
        made = apart * (variance + layer.eps).rsqrt().view(shape)
        if layer.affine:
            made = made * layer.weight.view(shape) + layer.bias.view(shape)
        if layer.running_mean is not None and layer.running_var is not None:
            assert layer.num_batches_tracked is not None and layer.momentum is not None
            seen = self.count * maps.numel() / maps.shape[1]
            layer.num_batches_tracked.add_(1)
            layer.running_mean.lerp_(mean.detach(), layer.momentum)
            layer.running_var.lerp_(variance.detach() * seen / (seen - 1), layer.momentum)
        return made.to(maps.dtype)

    @torch.compiler.disable
    def _dropped(self, layer: _DropoutNd, images: int, maps: Tensor) -> Tensor:
        if not layer.training or not layer.p:
            return maps
        kept: Tensor = type(layer).forward(layer, maps.new_ones(self.count * len(maps), *maps.shape[1:]))
        return maps * kept.unflatten(0, (-1, self.count, images))[:, self.number].flatten(0, 1)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(values)
        return total


ALONE = Ranks()


class _Sum(torch.autograd.Function):
    """Over all processes, there and back: torch's own collectives for autograd are deprecated or private."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.contiguous().clone()
        try:
            dist.all_reduce(total)
        except RuntimeError as error:  # what gloo and NCCL raise when a peer is gone
            raise Parted("another process of this training has ended") from error
        return total

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Any:
        return _Sum.apply(slopes)


def told_to_meet() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process writes and prints: true where it is the only one."""
    return not told_to_meet() or os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that were started together, or this one alone. Where one fails, all end, and one says why.

    Raises:
        Rejected: the environment tells half of how to meet, or there are fewer GPUs than processes on this host.
        SystemExit: another process has failed, and has said why.
    """
    if not told_to_meet():
        yield ALONE
        return
    store, number, count = _meet(device)
    try:
        yield Ranks(number, count, device)
        dist.barrier()
    except Parted as error:
        raise SystemExit(1) from error
    except (ImagingError, OSError) as error:
        if not _speaks(store):
            raise SystemExit(1) from error
        raise
    finally:
        dist.destroy_process_group()


def _meet(device: torch.device) -> tuple[Store, int, int]:
    missing = [name for name in _NEEDED if name not in os.environ and MEETING not in os.environ]
    if missing:
        raise Rejected(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} is not set; start with torchrun or "
            "--nproc, or unset it"
        )
    if device.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise Rejected(f"process {local} of this host finds {there} GPUs; ask for as many, or for --device cpu")
        torch.cuda.set_device(local)
    place, number = os.environ.get(MEETING, "env://"), int(os.environ["RANK"])
    store, number, count = next(rendezvous(place, number, int(os.environ["WORLD_SIZE"])))
    # One after the other, a process may join several trainings.
    store = PrefixStore(f"training {next(_met)}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=WAIT)
    return store, number, count


def _speaks(store: Store) -> bool:
    """Whether this process is the first that failed."""
    try:
        return int(store.add("failed", 1)) == 1
    except RuntimeError:  # who kept the store has ended, and has said why
        return False
