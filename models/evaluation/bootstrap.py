"""Percentile intervals from a patient-cluster bootstrap (Efron 1979; clusters: Field and Welsh 2007).

Slices of a patient are not independent, so whole patients are drawn. A draw is a row of counts, one per patient; every
metric takes weights, so a draw copies no data, and two models evaluated with the same draws can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Below this many test patients a bootstrap interval cannot carry a claim: with n patients the chance that all draws are
# the best n - 1 or fewer is no longer negligible, and with one patient every interval has width 0.
FEWEST_PATIENTS = 5


@dataclass(frozen=True)
class Interval:
    """value: on the data; low, high: 2.5th and 97.5th percentile of the draws; nan where no draw had a value."""

    value: float
    low: float
    high: float

    def as_json(self) -> Mapping[str, float | None]:
        """nan is no JSON: null."""
        return {key: None if np.isnan(number) else round(number, 6) for key, number in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def counts(patients: int, draws: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """(draws, patients): how often each patient is in each draw."""
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws)


def intervals(
    metrics: Callable[[Array], Mapping[str, Array]], patient_of: Sequence[str], draws: int, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of several metrics of one data set.

    metrics: takes weights (draws, n) per observation, gives values (draws,) by name. patient_of: (n,).
    """
    names, number = np.unique(np.asarray(patient_of), return_inverse=True)
    drawn = counts(len(names), draws, seed)
    value = metrics(np.ones((1, len(number))))
    # In portions: 100 draws of 20,000 slices are 16 MB.
    parts = [metrics(portion[:, number].astype(np.float64)) for portion in np.array_split(drawn, max(1, draws // 100))]
    return {name: interval(float(value[name][0]), np.concatenate([part[name] for part in parts])) for name in value}


def mean_interval(values: Sequence[float] | Array, draws: int, seed: int = 0) -> Interval:
    """Interval of the mean of one value per patient; nan values (undefined for a patient) are left out of each mean."""
    per_patient = np.asarray(values, np.float64)
    known = ~np.isnan(per_patient)
    if not known.any():
        return Interval(np.nan, np.nan, np.nan)
    weights = counts(len(per_patient), draws, seed)[:, known].astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = weights @ per_patient[known] / weights.sum(1)
    return interval(float(per_patient[known].mean()), means)


def difference(ours: Sequence[float], theirs: Sequence[float], draws: int, seed: int = 0) -> Interval:
    """Interval of the mean paired difference, one pair per patient."""
    return mean_interval(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64), draws, seed)


def interval(value: float, drawn: Array) -> Interval:
    """The percentile interval of drawn values, without the draws that had none."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.percentile(known, [2.5, 97.5]).tolist()
    return Interval(value, low, high)
