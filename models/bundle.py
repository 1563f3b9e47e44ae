"""Release: from a finished run to a model version with its evidence and its card (promise 6).

The registry is a folder: MODELS/NAME/VERSION/, a MONAI bundle each (`models.version` has the form).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import card, engine_choice, recipe
from models.engine import FILE, Asked
from models.evaluate import evaluate, verdict
from models.reports import document
from models.version import Description, ModelVersion, load, write

__all__ = ["ModelVersion", "load", "release"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def release(
    run: Path,
    cohort: Cohort,
    name: str,
    version: str | None = None,
    models_dir: Path = Path("mirall-data/models"),
    engine: Asked = "auto",
) -> ModelVersion:
    """Evaluate a finished run on the cohort's test patients and put it on the shelf as NAME:VERSION.

    cohort: the one it was trained on; its hash is compared. version: the next whole number where not given. engine: of
    a predictor (`models.engine_choice`); "auto" measures, so that a second release has other figures and another hash.

    Raises:
        Rejected: the run is not finished, was trained on other data, or repeats its patients, the version exists, or
            the engine that was asked for cannot serve it.
    """
    trained = load(run)
    trained.require_servable()
    version = free_version(models_dir, name, version)
    if cohort.data_hash != trained.description.saw.data_hash:
        raise Rejected(
            f"{run} was trained on cohort {trained.description.saw.cohort!r} with data hash "
            f"{trained.description.saw.data_hash[:12]}, not on {cohort.name!r} as it is now ({cohort.data_hash[:12]}); "
            "its test patients might have been trained on"
        )
    predicts = trained.description.task != "generation"
    if engine == "onnx" and not predicts:
        raise Rejected(f"--engine onnx: {run} is a generator, and ONNX Runtime serves predictors; leave it out")
    settings = recipe.load(run / "recipe.yaml")
    tolerance_mm = getattr(settings.evaluation, "surface_tolerance_mm", None)
    report = evaluate(run, cohort, draws=settings.evaluation.bootstrap_draws, tolerance_mm=tolerance_mm)
    state, report["reason"] = verdict(report)
    report["state"] = state
    audit_id = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()[:16]
    named: dict[str, Any] = {"name": name, "version": version, "state": state, "audit_id": audit_id}
    file = None
    if predicts:
        named["engine"], file = engine_choice.choose(trained, cohort, engine)
    description = Description.model_validate(trained.description.model_dump() | named)
    with born(models_dir, name, version) as folder:
        _fill(folder, trained, description, report)
        if file is not None:
            (folder / FILE).write_bytes(file)
        (folder / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    return load(models_dir / name / version)


def free_version(models_dir: Path, name: str, version: str | None) -> str:
    """The version that is asked for, or the next whole number.

    Raises:
        Rejected: a word is no name, or the version exists.
    """
    version = _next(models_dir / name) if version is None else version
    for word in (name, version):
        if not _NAME.fullmatch(word):
            raise Rejected(f"{word!r} is no name for a model or version; use a to z, 0 to 9, dot, dash, underscore")
    if (models_dir / name / version).exists():
        raise Rejected(f"{name}:{version} exists already; versions do not change, release the next one")
    return version


@contextmanager
def born(models_dir: Path, name: str, version: str) -> Iterator[Path]:
    """A folder to fill, beside its place: a version is there whole or not at all."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".release-") as scratch:
        # A level deeper than where versions are listed.
        folder = Path(scratch) / name / version
        yield folder
        (models_dir / name).mkdir(exist_ok=True)
        folder.rename(models_dir / name / version)


def _fill(folder: Path, trained: ModelVersion, description: Description, report: dict[str, Any]) -> None:
    window = trained.inferer.get("roi_size")
    overlap = trained.inferer.get("overlap", 0.0)
    write(folder, description, trained.network_definition, trained.model_input, window, overlap, None)
    (folder / "models").mkdir(parents=True)
    shutil.copyfile(trained.folder / "models" / "model.pt", folder / "models" / "model.pt")
    for name in description.beside:
        if not (trained.folder / "training" / f"{name}.pt").is_file():
            continue  # It may be taken away (`models.version`).
        (folder / "training").mkdir(exist_ok=True)
        shutil.copyfile(trained.folder / "training" / f"{name}.pt", folder / "training" / f"{name}.pt")
    audited = {"audit_id": description.audit_id} | report
    of = document.of_evaluation(f"{description.name}:{description.version}", audited)
    document.write(folder / "evaluation", "evaluation", audited, of)
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text(card.card(description, report))


def _next(shelf: Path) -> str:
    numbers = [int(folder.name) for folder in shelf.glob("*") if folder.name.isdigit()]
    return str(max(numbers, default=0) + 1)
