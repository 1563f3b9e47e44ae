"""The warm child: a process of its own for predictions, so that a cancel, an out-of-memory kill or a crash of a
native library takes down one job and not the worker.

Reads one JSON object per line on stdin, `{"kind": "predict" | "generate", ...}`, and answers with lines on what was its
stdout: any number of `{"progress": {...}}`, then one `{"result": [{"path", "record", "finding", "encoding"}, ...]}`
or `{"error": {"kind", "sentence"}}`. It stays alive between jobs, because `import monai` and a model's first load cost
seconds. What libraries print goes to stderr, the worker's log.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from dicom_io.errors import ImagingError, Rejected, TryAgain
from dicom_io.provenance import LabelRecord

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
ORPHANED = 75  # EX_TEMPFAIL: the worker died before the child could tie its life to it

Progress = Callable[[Mapping[str, Any]], None]


class Made(Protocol):
    """A file that a pipeline made, what its job says of it, a few words for people on what was found, and the name of
    its encoding."""

    @property
    def path(self) -> Path: ...

    @property
    def record(self) -> LabelRecord: ...

    @property
    def finding(self) -> str: ...

    @property
    def encoding(self) -> str: ...


class Pipeline(Protocol):
    """What the child calls; `plugin.pipeline` has these two functions."""

    def predict(
        self,
        files: list[Path],
        model_folder: Path,
        out: Path,
        *,
        made_at: datetime,
        force: bool,
        encodings: Sequence[str],
        progress: Progress,
    ) -> Iterable[Made]: ...

    def generate(
        self,
        model_folder: Path,
        out: Path,
        *,
        n: int,
        seed: int,
        label: str | None,
        truncation: float | None = None,
        guidance: float | None = None,
        made_at: datetime,
        encodings: Sequence[str],
        progress: Progress,
    ) -> Iterable[Made]: ...


def die_with_parent(parent: int) -> None:
    """Linux: the kernel kills this process when the thread that started it ends. parent: process id of the worker."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(ORPHANED)


def answer(pipeline: Pipeline, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Do one job. The one place where whatever a job raises becomes a sentence."""
    try:
        made = _perform(pipeline, request, progress)
        return {"result": [_told(each) for each in made]}
    except ImagingError as error:
        return {"error": {"kind": _kind(error), "sentence": str(error)}}
    except Exception as error:
        traceback.print_exc()
        kind = "memory" if is_out_of_memory(error) else "failed"
        return {"error": {"kind": kind, "sentence": f"{type(error).__name__}: {error}"}}


def _told(made: Made) -> dict[str, str]:
    return {
        "path": str(made.path),
        "record": made.record.to_json(),
        "finding": made.finding,
        "encoding": made.encoding,
    }


def _perform(pipeline: Pipeline, request: Mapping[str, Any], progress: Progress) -> Iterable[Made]:
    out, model = Path(request["out"]), Path(request["model"])
    made_at = datetime.fromisoformat(request["made_at"])
    if request["kind"] == "generate":
        return pipeline.generate(
            model,
            out,
            n=request["n"],
            seed=request["seed"],
            label=request["label"],
            **request["settings"],
            made_at=made_at,
            encodings=request["encodings"],
            progress=progress,
        )
    files = [Path(name) for name in request["files"]]
    return pipeline.predict(
        files,
        model,
        out,
        made_at=made_at,
        force=request["force"],
        encodings=request["encodings"],
        progress=progress,
    )


def _kind(error: ImagingError) -> str:
    if isinstance(error, Rejected):
        return "rejected"
    return "again" if isinstance(error, TryAgain) else "failed"


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises OutOfMemoryError on a GPU, and a plain RuntimeError from its CPU allocator."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def serve(pipeline_name: str, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until stdin ends."""

    def say(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    for line in requests:
        # Imported with the first job, not before: an idle child costs little memory.
        pipeline: Any = importlib.import_module(pipeline_name)
        say(answer(pipeline, json.loads(line), lambda state: say({"progress": dict(state)})))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="plugin.pipeline", help="module with predict() and generate()")
    parser.add_argument("--parent", type=int, required=True, help="process id of the worker")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    os.nice(5)  # predictions give way to the doors
    # Whatever prints to stdout, in Python or below it, must not come between our lines.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(arguments.pipeline, sys.stdin, answers)


if __name__ == "__main__":
    main()
