"""From the pictures of a study to the study: one number by a stated rule, calibrated and cut on validation.

Suspicion p_i: the probability that picture i shows any class but the first. The rule makes a score s of the p_i of a
study; its probability is that of a logistic curve over the score's log-odds, 1 / (1 + exp(-(a logit(s) + b))) (Platt
1999), whose order is that of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy.optimize import minimize
from torch import Tensor

from dicom_io.cohort import Item
from models.calibration import operating_point
from models.cases import Case
from models.recipe_parts import Settings

Float64 = npt.NDArray[np.float64]
_LEAST = 1e-6


class StudyRule(Settings):
    """highest: the most suspicious picture speaks for the study; mean: all alike; upper mean: the mean of the most
    suspicious `share` of them, one picture at least."""

    rule: Literal["highest", "mean", "upper mean"] = "highest"
    share: Annotated[float, Field(gt=0, le=1)] = 0.1

    @property
    def words(self) -> str:
        """As a card says it."""
        return {
            "highest": "the highest of its pictures",
            "mean": "the mean of its pictures",
            "upper mean": f"the mean of the highest {self.share:.0%} of its pictures",
        }[self.rule]


class Reading(StudyRule):
    """How a version reads studies. slope, intercept: a and b; threshold: on the study's probability.

    studies: of validation, that fixed them.
    """

    slope: float
    intercept: float
    threshold: float
    studies: int

    def probability(self, suspicions: npt.ArrayLike) -> float:
        """Of one study, of the suspicions of its pictures, (n,)."""
        return float(_curve(np.array([score(self, suspicions)]), self.slope, self.intercept)[0])


def score(rule: StudyRule, suspicions: npt.ArrayLike) -> float:
    """s, of (n,) values."""
    values = np.sort(np.asarray(suspicions, np.float64))[::-1]
    counted = {"highest": 1, "mean": len(values), "upper mean": max(1, round(rule.share * len(values)))}
    return float(values[: counted[rule.rule]].mean())


def study_of(item: Item) -> str:
    """The study that an item is of; where a cohort does not tell studies apart, its patient."""
    return f"{item.patient}/{item.provenance.get('study', '')}"


def in_studies(suspicions: Float64, studies: Sequence[str]) -> dict[str, Float64]:
    """The suspicions of each study, in the order in which studies come. studies: of each picture, (n,)."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(studies))}
    whose = np.array([numbers[name] for name in studies])
    ends = np.cumsum(np.bincount(whose))[:-1]
    return dict(zip(numbers, np.split(suspicions[np.argsort(whose, kind="stable")], ends), strict=True))


def read(
    rule: StudyRule, logits: Tensor, validation: Sequence[Case], least_sensitivity: float | None
) -> Reading | None:
    """`fixed_on`, by the logits (n, classes) of all pictures of validation, case after case."""
    suspicions = (1 - torch.softmax(logits, 1)[:, 0]).double().numpy()
    positive = np.concatenate([(case.labels > 0).numpy() for case in validation if case.labels is not None])
    studies = [study_of(case.item) for case in validation for _ in range(case.slices)]
    return fixed_on(rule, suspicions, positive, studies, least_sensitivity)


def fixed_on(
    rule: StudyRule,
    suspicions: Float64,
    positive: npt.NDArray[np.bool_],
    studies: Sequence[str],
    least_sensitivity: float | None,
) -> Reading | None:
    """The reading by the pictures of validation: (n,) each. A study is positive where one of its pictures is.

    a and b are the most probable ones, with ln a and b of N(0, 1) beforehand, so that a handful of studies that can be
    told apart claim no certainty. None where every study has one picture: there is nothing to put together.
    """
    grouped = in_studies(suspicions, studies)
    if len(grouped) == len(suspicions):
        return None
    truth = np.array([each.any() for each in in_studies(positive.astype(np.float64), studies).values()])
    scores = np.array([score(rule, each) for each in grouped.values()])

    def cost(at: Float64) -> float:
        chance = np.clip(_curve(scores, float(np.exp(at[0])), float(at[1])), _LEAST, 1 - _LEAST)
        return float(-np.log(np.where(truth, chance, 1 - chance)).sum() + (at**2).sum() / 2)

    slope, intercept = minimize(cost, np.zeros(2), method="Nelder-Mead").x
    slope = float(np.exp(slope))
    threshold = operating_point(_curve(scores, slope, float(intercept)), truth, least_sensitivity)
    return Reading(
        **rule.model_dump(), slope=slope, intercept=float(intercept), threshold=threshold, studies=len(grouped)
    )


def _curve(scores: Float64, slope: float, intercept: float) -> Float64:
    kept = np.clip(scores, _LEAST, 1 - _LEAST)
    curve: Float64 = 1 / (1 + np.exp(-(slope * np.log(kept / (1 - kept)) + intercept)))
    return curve
