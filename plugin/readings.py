"""What a classifier says of whole studies and of their most suspicious pictures, in the words of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dicom_io import report
from models.predictor import Classified, Classifier


def looked_for(model: Classifier) -> str:
    """Every class but the first, in words."""
    return " or ".join(model.labels[1:])


def whole(model: Classifier, inputs: Sequence[Classified]) -> tuple[report.ClassProbability, str] | None:
    """What the pictures of a study say together; None where there is one, or the version does not read studies."""
    reading = model.description.study
    suspicions = np.concatenate([each.suspicions for each in inputs])
    if reading is None or len(suspicions) < 2:
        return None
    name, chance = looked_for(model), reading.probability(suspicions)
    said = report.ClassProbability(f"{name} in the study", chance, threshold=reading.threshold, calibrated=True)
    return said, f"study: {name} {chance:.2f} (threshold {reading.threshold:.2f}), {reading.words}"


def rule(model: Classifier) -> dict[str, Any]:
    """What parameters of results say of it; nothing where the version does not read studies."""
    reading = model.description.study
    if reading is None:
        return {}
    share = {"study_share": reading.share} if reading.rule == "upper mean" else {}
    return {"study_rule": reading.rule, "study_threshold": reading.threshold, **share}


def classes(model: Classifier, found: Classified) -> list[report.ClassProbability]:
    """Every class but the first, which is that of nothing found (where there is such a one), on the image where it is
    most probable: of a volume, its most suspicious slice. The threshold is of all of them together, so that it stands
    with a class where it is the only one."""
    several = len(found.probabilities) > 1
    return [
        report.ClassProbability(
            label,
            float(found.probabilities[:, number].max()),
            threshold=found.threshold if len(found.labels) == 2 else None,
            calibrated=model.description.temperature is not None,
            images=(int(found.probabilities[:, number].argmax()),) if several else (),
            highest=several,
        )
        for number, label in enumerate(found.labels)
        if number > 0 or found.threshold is None
    ]
