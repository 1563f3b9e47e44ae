"""From what a study holds to what a model takes: its channels, found among the series, on one grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom import Dataset

from dicom_io import resampling
from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from dicom_io.series import Readout, SeriesProjection, SeriesVolume
from dicom_io.volume import Projection, Source, Volume, stack_channels

# Share of the grid that a channel must cover to be resampled onto it; beyond it the network would see zeros.
LEAST_COVERAGE = 0.95


@dataclass(frozen=True, eq=False)
class Case:
    """One input of a model.

    image: all channels on one grid. datasets: of the last channel, in slice order; results refer to these and lie on
    them. further: datasets of the other channels. sources: of every channel, so that a change in any of them gives
    results with new UIDs. resampled: names of the channels that were brought onto the grid of the last one.
    """

    image: Volume | Projection
    datasets: tuple[Dataset, ...]
    further: tuple[Dataset, ...]
    sources: tuple[Source, ...]
    resampled: tuple[str, ...] = ()

    @property
    def resampling(self) -> dict[str, Any]:
        """What parameters of results say of it; nothing where no channel was."""
        return {"resampled": list(self.resampled)} if self.resampled else {}

    @property
    def note(self) -> str:
        """What findings say of it, behind them."""
        return f"; {' and '.join(self.resampled)} resampled onto the last channel's grid" if self.resampled else ""


def cases(readout: Readout, channels: Sequence[Channel]) -> list[Case]:
    """Every input for these channels that the series give.

    Raises:
        Rejected: no series suits; the sentence says what was needed, what was found, and what could not be read.
    """
    found = list(_projections(readout, channels)) + list(_volumes(readout, channels))
    if not found:
        raise Rejected(f"the model needs {_wanted(channels)}, and the study holds {_held(readout)}")
    return found


def _volumes(readout: Readout, channels: Sequence[Channel]) -> Iterator[Case]:
    """Every combination of one series per channel that shares a grid; no series stands in for two channels.

    Where a study has none, those are taken whose series lie in one frame of reference and cover the last one's grid;
    the others are resampled onto it.
    """
    candidates = [[entry for entry in readout.volumes if _suits(entry, channel)] for channel in channels]
    chosen = [one for one in itertools.product(*candidates) if len(set(one)) == len(one)]
    on_one_grid = [one for one in chosen if all(entry.volume.same_grid_as(one[-1].volume) for entry in one)]
    for entries in on_one_grid or [one for one in chosen if _covers(one)]:
        yield _case(entries, channels)


def _covers(entries: Sequence[SeriesVolume]) -> bool:
    grid = entries[-1].volume
    return all(
        entry.volume.frame_of_reference_uid == grid.frame_of_reference_uid
        and resampling.coverage(entry.volume, grid) >= LEAST_COVERAGE
        for entry in entries[:-1]
    )


def _case(entries: Sequence[SeriesVolume], channels: Sequence[Channel]) -> Case:
    reference = entries[-1]
    moved = [not entry.volume.same_grid_as(reference.volume) for entry in entries]
    volumes = [
        resampling.onto(entry.volume, reference.volume) if is_moved else entry.volume
        for entry, is_moved in zip(entries, moved, strict=True)
    ]
    return Case(
        image=replace(stack_channels(volumes), sources=reference.volume.sources),
        datasets=reference.datasets,
        further=tuple(dataset for entry in entries[:-1] for dataset in entry.datasets),
        sources=tuple(source for entry in entries for source in entry.volume.sources),
        resampled=tuple(channel.name for channel, is_moved in zip(channels, moved, strict=True) if is_moved),
    )


def _projections(readout: Readout, channels: Sequence[Channel]) -> Iterator[Case]:
    if len(channels) != 1:
        return
    for entry in readout.projections:
        if _suits(entry, channels[0]):
            source = entry.projection.source
            yield Case(entry.projection, (entry.dataset,), (), (source,) if source else ())


def _suits(entry: SeriesVolume | SeriesProjection, channel: Channel) -> bool:
    if isinstance(entry, SeriesProjection):
        return entry.modality == channel.modality and channel.contrast in ("", entry.projection.view)
    return (
        entry.modality == channel.modality
        and entry.volume.units == channel.units
        and channel.contrast in ("", entry.contrast)
    )


def _wanted(channels: Sequence[Channel]) -> str:
    names = [" ".join(filter(None, (channel.modality, channel.contrast))) for channel in channels]
    return f"{' and '.join(names)} on one grid or in one frame of reference" if len(names) > 1 else names[0]


def _held(readout: Readout) -> str:
    held = [" ".join(filter(None, (entry.modality, entry.contrast))) for entry in readout.volumes]
    held += [" ".join(filter(None, (entry.modality, entry.projection.view))) for entry in readout.projections]
    unread = [f"series {uid} is not readable: {sentence}" for uid, sentence in readout.refused]
    return "; ".join([", ".join(held) or "no series that gives a volume or a projection", *unread])
