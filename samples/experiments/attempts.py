"""One training of a line, however often it was stopped: what it cost and what it warned of, over all attempts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dicom_io.cohort import Cohort
from models import training
from models.recipe import Recipe
from samples.experiments import documents


def train(recipe: Recipe, cohort: Cohort, run: Path, start_from: Path | None = None) -> tuple[float, list[str]]:
    """CPU seconds and warnings, those of attempts that were killed included, as far as their last report."""
    beside = run / "so_far.json"
    before: dict[str, Any] = json.loads(beside.read_text()) if beside.exists() else {"cpu_s": 0.0, "warnings": []}
    warnings: list[str] = before["warnings"]
    started_s = time.process_time()

    def spent_s() -> float:
        return float(before["cpu_s"]) + time.process_time() - started_s

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "warning" and event["message"] not in warnings:
            warnings.append(event["message"])
        if event["kind"] == "report":
            documents.write(beside, {"cpu_s": spent_s(), "warnings": warnings})

    training.train(recipe, cohort, run, resume=True, progress=hear, device="cpu", start_from=start_from)
    return spent_s(), warnings
