"""A pipeline without a network: what `plugin.pipeline` does, in milliseconds, and misbehaving where a test asks for it.

`behaviour.json` in the model's folder: {"seconds": s} takes its time; {"error": "rejected" | "again" | "failed" |
"memory" | "exit"} fails, and with {"times": n} only the first n times; each call is noted in `calls.log`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dicom_io import dataset as dicom_dataset
from dicom_io import labels, secondary_capture
from dicom_io.errors import GapInSeries, TryAgain
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Source
from plugin.registry import Registry


@dataclass(frozen=True)
class Made:
    path: Path
    record: LabelRecord
    finding: str
    encoding: str


def predict(
    files: Sequence[Path],
    model_folder: Path,
    out: Path,
    *,
    made_at: datetime,
    force: bool,
    encodings: Sequence[str],
    progress: Callable[[Mapping[str, Any]], None],
) -> list[Made]:
    print("a library that prints to stdout")
    os.write(1, b'{"progress": "printed from below Python"}\n')
    _behave(model_folder, progress)
    read = [dicom_dataset.read_with_hash(path) for path in files]
    objects = {
        form: secondary_capture.of_prediction(
            np.full((1, 64, 256, 3), 90, np.uint8),
            model=_identity(model_folder),
            sources=[dataset for dataset, _ in read],
            source_refs=[Source(str(ds.SOPClassUID), str(ds.SOPInstanceUID), digest) for ds, digest in read],
            description="fake",
            purpose="fake",
            parameters={},
            made_at=made_at,
            out_of_domain=force,
            form=form,
        )
        for form in get_args(secondary_capture.Form)
        if form in encodings
    }
    return _write(objects, out, f"{len(read)} instances seen")


def generate(
    model_folder: Path,
    out: Path,
    *,
    n: int,
    seed: int,
    label: str | None,
    made_at: datetime,
    encodings: Sequence[str],
    progress: Callable[[Mapping[str, Any]], None],
) -> list[Made]:
    _behave(model_folder, progress)
    objects = {
        form: secondary_capture.generated(
            np.random.default_rng(seed).random((n, 64, 256), np.float32),
            model=_identity(model_folder),
            seed=seed,
            label=label or "",
            spacing_mm=(1.0, 1.0),
            units="1",
            made_at=made_at,
            audit_id="",
            form=form,
        )
        for form in get_args(secondary_capture.Form)
        if form in encodings
    }
    return _write(objects, out, f"{n} samples")


def _identity(model_folder: Path) -> Any:
    registry = Registry(model_folder.parent.parent)
    return registry.resolve(f"{model_folder.parent.name}:{model_folder.name}").identity


def _write(objects: Mapping[str, Sequence[tuple[Any, LabelRecord]]], out: Path, finding: str) -> list[Made]:
    made = []
    for form, of_form in objects.items():
        for dataset, record in of_form:
            path = out / f"{record.sop_instance_uid}.dcm"
            path.write_bytes(labels.encode(dataset, record))
            made.append(Made(path, record, finding, form))
    return made


def _behave(model_folder: Path, progress: Callable[[Mapping[str, Any]], None]) -> None:
    calls = model_folder / "calls.log"
    with calls.open("a") as log:
        log.write(f"{os.getpid()}\n")
    path = model_folder / "behaviour.json"
    behaviour = json.loads(path.read_text()) if path.exists() else {}
    until = time.monotonic() + behaviour.get("seconds", 0)
    progress({"stage": "predicting", "done": 1, "total": 7})
    while time.monotonic() < until:
        time.sleep(0.02)
    if len(calls.read_text().splitlines()) > behaviour.get("times", 10**6):
        return
    match behaviour.get("error"):
        case "rejected":
            raise GapInSeries("slices at 10.0 and 30.0 mm leave a gap; send the missing slices")
        case "again":
            raise TryAgain("the GPU is taken; it may be free later")
        case "failed":
            raise ZeroDivisionError("a bug")
        case "memory":
            raise MemoryError("no more")
        case "exit":
            os._exit(3)
