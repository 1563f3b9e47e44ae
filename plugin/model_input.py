"""From what a study holds to what a model takes: its channels, found among the series, on one grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from dicom_io.series import Readout, SeriesProjection, SeriesVolume
from dicom_io.volume import Projection, Source, Volume, stack_channels


@dataclass(frozen=True, eq=False)
class Case:
    """One input of a model.

    image: all channels on one grid. datasets: of the last channel, in slice order; results refer to these and lie on
    them. further: datasets of the other channels. sources: of every channel, so that a change in any of them gives
    results with new UIDs.
    """

    image: Volume | Projection
    datasets: tuple[Dataset, ...]
    further: tuple[Dataset, ...]
    sources: tuple[Source, ...]


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
    """Every combination of one series per channel that shares a grid; no series stands in for two channels."""
    candidates = [[entry for entry in readout.volumes if _suits(entry, channel)] for channel in channels]
    for chosen in itertools.product(*candidates):
        reference = chosen[-1]
        if len(set(chosen)) == len(chosen) and all(entry.volume.same_grid_as(reference.volume) for entry in chosen):
            yield Case(
                image=stack_channels([entry.volume for entry in chosen]),
                datasets=reference.datasets,
                further=tuple(dataset for entry in chosen[:-1] for dataset in entry.datasets),
                sources=tuple(source for entry in chosen for source in entry.volume.sources),
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
    return f"{' and '.join(names)} on one grid" if len(names) > 1 else names[0]


def _held(readout: Readout) -> str:
    held = [" ".join(filter(None, (entry.modality, entry.contrast))) for entry in readout.volumes]
    held += [" ".join(filter(None, (entry.modality, entry.projection.view))) for entry in readout.projections]
    unread = [f"series {uid} is not readable: {sentence}" for uid, sentence in readout.refused]
    return "; ".join([", ".join(held) or "no series that gives a volume or a projection", *unread])
