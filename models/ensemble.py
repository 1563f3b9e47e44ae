"""Finished runs with one input chain put together: a run whose network is all of theirs, fixed on validation once more.

Its probabilities are the mean of its members' (`models.networks.ensemble`), so that threshold and temperature of one of
them do not fit it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import calibration, cases, networks, recipe, study, version
from models.cases import Case
from models.classification_recipe import ClassificationRecipe
from models.networks.ensemble import Ensemble
from models.training import classification, segmentation
from models.version import Member, ModelVersion

_CPU = torch.device("cpu")


def merge(runs: Sequence[Path], cohort: Cohort, out: Path, mirrored: Sequence[str] = ()) -> Path:
    """A finished run in `out`, to be evaluated and released like any other.

    runs: finished ones of predictors, trained on this cohort, with one input chain and one window. mirrored: see
    `models.networks.ensemble`.

    Raises:
        Rejected: fewer than two runs, one twice, runs that do not fit each other or the cohort, or `out` is not empty.
    """
    members = [version.load(run) for run in runs]
    first = members[0] if members else None
    if first is None or len(members) < 2:
        raise Rejected("an ensemble needs two runs or more; give more of them")
    _require_alike(runs, members, cohort)
    if "slices" in mirrored and len(first.inferer.get("roi_size", ())) < 3:
        raise Rejected(f"{runs[0]} looks at slices one by one; mirror along rows or columns, not along slices")
    if out.exists() and any(out.iterdir()):
        raise Rejected(f"{out} is not empty; choose another folder for the ensemble")
    definition = {
        "_target_": "models.networks.ensemble.Ensemble",
        "members": [dict(member.network_definition) for member in members],
        "mirrored": list(mirrored),
        "temperature": 1.0,
    }
    network = networks.build(definition)
    assert isinstance(network, Ensemble)
    for number, member in enumerate(members):
        network.members[number].load_state_dict(member.weights())
    network.eval()
    task = first.description.task
    validation = cases.load(cohort, cohort.validation, first.model_input, masks=task == "segmentation")
    if task == "segmentation":
        fixed = _segmenter(network, first, validation)
    else:
        asked = _asked(runs[0])
        assert asked is not None
        fixed = _classifier(network, validation, asked)
    definition["temperature"] = fixed.get("temperature") or 1.0
    of = tuple(
        Member(content_hash=member.identity.content_hash, seed=member.description.saw.seed) for member in members
    )
    # A run like any other, whatever its members were released as.
    anew: dict[str, Any] = {"name": first.description.saw.recipe, "version": "0", "state": "unproven", "audit_id": ""}
    anew["engine"] = None
    # What any of them had started from was seen.
    ancestors = {each.content_hash: each for member in members for each in member.description.saw.ancestors}
    anew["saw"] = first.description.saw.model_copy(update={"ancestors": tuple(ancestors.values())})
    description = first.description.model_copy(update={**anew, **fixed, "members": of, "mirrored": tuple(mirrored)})
    window = first.inferer.get("roi_size")
    overlap = first.inferer.get("overlap", 0.0)
    out.mkdir(parents=True, exist_ok=True)
    version.write(out, description, definition, first.model_input, window, overlap, network.state_dict())
    # What a release asks of a run, beside its model.
    shutil.copyfile(runs[0] / "recipe.yaml", out / "recipe.yaml")
    return out


def _require_alike(runs: Sequence[Path], members: Sequence[ModelVersion], cohort: Cohort) -> None:
    first = members[0]
    if first.description.task not in ("segmentation", "classification"):
        raise Rejected(f"{runs[0]} is for {first.description.task}; an ensemble is made of predictors")
    seen: dict[str, Path] = {}
    asked = _asked(runs[0])
    for run, member in zip(runs, members, strict=True):
        twin = seen.setdefault(member.identity.content_hash, run)
        if twin != run or runs.count(run) > 1:
            raise Rejected(f"{run} and {twin} are one and the same run; give runs of other seeds")
        if member.description.saw.data_hash != cohort.data_hash:
            raise Rejected(
                f"{run} was trained on cohort {member.description.saw.cohort!r} with data hash "
                f"{member.description.saw.data_hash[:12]}, not on {cohort.name!r} as it is now "
                f"({cohort.data_hash[:12]}); validation patients might have been trained on"
            )
        ours = _asked(run)
        for name, has, wanted in (
            ("task", member.description.task, first.description.task),
            ("input chain", member.model_input, first.model_input),
            ("windows", member.inferer, first.inferer),
            ("least_sensitivity", ours and ours.least_sensitivity, asked and asked.least_sensitivity),
            ("rule from pictures to studies", ours and ours.study, asked and asked.study),
        ):
            if has != wanted:
                raise Rejected(f"{run} has another {name} than {runs[0]}; an ensemble has one: train both alike")


def _asked(run: Path) -> ClassificationRecipe | None:
    asked = recipe.load(run / "recipe.yaml")
    return asked if isinstance(asked, ClassificationRecipe) else None


def _segmenter(network: Ensemble, like: ModelVersion, validation: Sequence[Case]) -> dict[str, float]:
    scores = segmentation.validation_dice(network, like.inferer, validation, _CPU)
    return {"threshold": float(segmentation.THRESHOLDS[np.argmax(scores)])}


def _classifier(network: Ensemble, validation: Sequence[Case], asked: ClassificationRecipe) -> dict[str, Any]:
    logits = classification.predict(network, validation, _CPU)
    judged = classification.labels_of(validation)
    temperature, threshold = calibration.fixed_on(logits, judged, asked.least_sensitivity)
    reading = study.read(asked.study, logits / temperature, validation, asked.least_sensitivity)
    return {"threshold": threshold, "temperature": temperature, "study": reading}
