"""The same figure for groups of patients: scanner, site, sex, age. A mean may hide a group on which a model fails.

Each group's interval is of its own patients. Groups are not compared by tests: intervals that overlap show no
difference, and those that do not may still be chance, since there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation.bootstrap import FEWEST_PATIENTS, Interval

NOT_STATED = "not stated"
Chosen = npt.NDArray[np.bool_]


def evaluate(
    stated: Sequence[Mapping[str, str]], patients: Sequence[str], measure: Callable[[Chosen], Mapping[str, Interval]]
) -> dict[str, Any]:
    """By kind and group: patients, observations, and metrics; None where there are too few patients.

    stated: of each observation the groups that it states, by kind. measure: figures of the observations chosen. A kind
    of which there is one group alone, stated or not, is left out.
    """
    report: dict[str, Any] = {}
    whose = np.asarray(patients)
    for kind in dict.fromkeys(kind for each in stated for kind in each):
        named = np.array([each.get(kind, NOT_STATED) for each in stated])
        names = sorted(set(named.tolist()), key=lambda name: (name == NOT_STATED, name))
        if len(names) > 1:
            report[kind] = {name: _group(named == name, whose, measure) for name in names}
    return report


def _group(
    chosen: Chosen, whose: npt.NDArray[np.str_], measure: Callable[[Chosen], Mapping[str, Interval]]
) -> dict[str, Any]:
    patients = len(np.unique(whose[chosen]))
    enough = patients >= FEWEST_PATIENTS
    metrics = {name: value.as_json() for name, value in measure(chosen).items()} if enough else None
    return {"patients": patients, "observations": int(chosen.sum()), "metrics": metrics}
