"""How fast a released predictor answers: its network beside bare engines, and a study from files to stored results.

    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/serving.py [--threads 2] [--compile] [--only study]
        [--quick] [--json FILE]

network     EfficientNet-B0, one channel of 200 x 200, two classes; the version is served as `mirall models release`
            chose. Beside it, on the same threads and images: torch as it is, torch with channels last, torch.compile
            where it is asked for (it needs a C++ compiler), and ONNX Runtime with its own settings. Images a second,
            of the process with one thread, so that a busy machine changes little, of wall clock with more; all take
            turns, medians. Bar: 0.95 of the best of the others.
study       T1 and FLAIR of a phantom brain by the net of the white-matter challenge, in the widths of the shipped
            recipe for phantoms and in the winner's own (which has hardly learnt anything): read, model (chain, windows,
            network, mask), write (SEG, capture, SR TID 1500, checked bytes, files), store (the archive's one function
            for all doors). CPU seconds, medians. Bar: all but the model at most once its time. The model is loaded
            already, as in a worker's child; receiving the study is for `doors.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import generating
import numpy as np
import torch

from dicom_io import cohort as cohorts
from dicom_io import series
from dicom_io.cohort import Channel, Cohort
from dicom_io.volume import Source, Volume
from models import bundle, engine_choice, predictor, recipe, training, version
from models.domain import Domain
from models.engine import FILE
from models.networks import build
from models.onnx_network import export
from models.version import Description, ModelVersion, Saw
from plugin import encodings, pipeline
from plugin.archive.arrival import Arrival
from plugin.archive.ingest import Ingest, open_archive
from plugin.settings import Settings
from samples.importers import IMPORTERS
from samples.phantoms import write_patients

LEAST_OF_BEST, MOST_OVERHEAD = 0.95, 1.0
WANTED = encodings.DEFAULT | {encodings.REPORT}
# Widths, and windows to train with.
SEGMENTERS = {"a quarter of the widths": ([16, 24, 32, 64, 128], 1500), "full width": ([64, 96, 128, 256, 512], 48)}
QUICK = {"a quarter of the widths": ([16, 24, 32, 64, 128], 48)}
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECIPE = Path(__file__).parents[2] / "samples" / "recipes" / "wmh_phantoms.yaml"
EFFICIENTNET = {
    "_target_": "EfficientNetBN",
    "model_name": "efficientnet-b0",
    "pretrained": False,
    "spatial_dims": 2,
    "in_channels": 1,
    "num_classes": 2,
}


# The network.


def slices(folder: Path, px: int) -> Cohort:
    """Volumes of noise, 16 slices each, for a classifier of slices."""
    rng, items = np.random.default_rng(0), []
    for number in range(2):
        sources = tuple(Source("1.2.840.10008.5.1.4.1.1.4", f"2.25.{number}{n}", f"{n:064x}") for n in range(16))
        voxels = rng.standard_normal((16, px, px)).astype(np.float32)
        volume = Volume(voxels, np.diag([1.0, 1.0, 3.0, 1.0])[:, [2, 1, 0, 3]], "2.25.7", "1", sources)
        labels = tuple(n % 2 for n in range(16))
        items.append(cohorts.add_volume(folder, f"p{number}", {"MR": volume}, f"p{number}", slice_labels=labels))
    splits = {"training": (), "validation": (), "test": tuple(items)}
    cohorts.save(Cohort(folder, "noise", "classification", ("no", "yes"), (Channel("MR", "MR", "1"),), splits))
    return cohorts.load(folder)


def untrained(
    folder: Path, definition: Mapping[str, Any], window: Sequence[int] | None = None, **described: Any
) -> None:
    """A model of random weights. described: what `Description` must have beside what can be said of any."""
    torch.manual_seed(0)
    counts = dict.fromkeys(("patients", "validation_patients", "images", "synthetic_images", "images_seen", "seed"), 0)
    saw = Saw(cohort="none", data_hash="", split_unit="none", recipe="none", **counts)
    anywhere = Domain(kind="volume", spacing_mm=(), extent_mm=(), top_value=())
    description = Description(name="untrained", domain=anywhere, saw=saw, threshold=0.5, **described)
    version.write(folder, description, definition, (), window, 0.25, build(definition).state_dict())


def classifier(folder: Path, cohort: Cohort) -> ModelVersion:
    """EfficientNet-B0, served by what `models.engine_choice` takes."""
    described = {"task": "classification", "labels": cohort.labels, "channels": cohort.channels}
    untrained(folder, EFFICIENTNET, **described)
    chosen, file = engine_choice.choose(version.load(folder), cohort, "auto")
    untrained(folder, EFFICIENTNET, **described, engine=chosen)
    if file is not None:
        (folder / FILE).write_bytes(file)
    return version.load(folder)


def competitors(images: torch.Tensor, compiled: bool) -> dict[str, Callable[[], object]]:
    """Bare engines with the network of `classifier`, on images (n, 1, px, px)."""
    import onnxruntime

    torch.manual_seed(0)
    network = build(EFFICIENTNET).eval()
    last = build(EFFICIENTNET).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shown = images.contiguous(memory_format=torch.channels_last)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        export(network, images[:1].repeat(2, 1, 1, 1)), options, providers=["CPUExecutionProvider"]
    )
    found: dict[str, Callable[[], object]] = {
        "torch": lambda: network(images),
        "torch, channels last": lambda: last(shown),
        "ONNX Runtime": lambda: session.run(None, {"image": images.numpy()}),
    }
    if compiled:
        fast = torch.compile(last)
        found["torch.compile, channels last"] = lambda: fast(shown)
    return found


def network(scratch: Path, px: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Images a second of each, by how many are given at once; how ours is served; its share of the best other one."""
    cohort = slices(scratch / "slices", px)
    model = predictor.load(classifier(scratch / "efficientnet", cohort).folder)
    assert isinstance(model, predictor.Classifier) and model.description.engine is not None
    report: dict[str, Any] = {"served": model.description.engine.model_dump(mode="json"), "batches": {}}
    image = model.input_tensor(cohorts.load_image(cohort, cohort.test[0]))
    for count in (1, 16):
        shown = torch.as_tensor(image)[:, :count].as_subclass(torch.Tensor).contiguous()
        calls = {"served": lambda shown=shown: model.probabilities(shown).numpy()}
        calls |= competitors(shown.transpose(0, 1).contiguous(), compiled)
        # One image takes milliseconds: more rounds for it.
        rates = {name: count / spent for name, spent in medians(calls, rounds * 16 // count).items()}
        best = max(rate for name, rate in rates.items() if name != "served")
        report["batches"][count] = {"images_per_s": rates, "of_best": rates["served"] / best}
    return report


@torch.inference_mode()
def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds; one round goes before, in which things are compiled and memory is taken. The order of turns is drawn
    anew for every round: who comes after whom finds another cache."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds + 1):
        for name, call in order.sample([*calls.items()], len(calls)):
            began = now()
            call()
            times[name].append(now() - began)
    return {name: statistics.median(of[1:]) for name, of in times.items()}


# The study.


def brains(scratch: Path, patients: int) -> Cohort:
    """Phantoms, imported as any are."""
    write_patients("brain-mr", patients, scratch / "phantoms", seed=7)
    key = b"a key of this benchmark alone..."
    read = IMPORTERS["brain-mr-phantoms"].read
    return read(scratch / "phantoms", scratch / "brains", key, lambda done, total, what: None)


def segmenter(scratch: Path, cohort: Cohort, widths: list[int], images: int) -> ModelVersion:
    """The shipped recipe for lesions of phantom brains in these widths, so many windows long, released."""
    plain = recipe.load(RECIPE).model_dump(mode="json")
    plain["network"] |= {"channels": widths}
    plain["schedule"] |= {"total_images": images, "report_images": images}
    training.train(recipe.parse(plain, "wmh-phantoms"), cohort, scratch / "run", device="cpu")
    return bundle.release(scratch / "run", cohort, "wmh-phantoms", models_dir=scratch / "models")


def study(files: Sequence[Path], model: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """CPU seconds of each part, medians of rounds, and what all but the model take over it. Every round stores into an
    archive of its own."""
    rows, made = [], []
    for number in range(rounds + 1):
        archive = open_archive(Settings(node={"data": scratch / f"archive-{number}"}))
        clock, out = generating.Clock(), scratch / f"results-{number}"
        with ExitStack() as watched:
            for owner, name, part in (
                (series, "volumes", "read"),
                (pipeline, "cases", "read"),
                (predictor.Segmenter, "predict", "model"),
                (Ingest, "accept", "store"),
            ):
                watched.enter_context(clock.watch(owner, name, part))
            began = time.process_time()
            made = pipeline.predict(files, model, out, made_at=AT, encodings=WANTED)
            for each in made:
                received = archive.storage.receive_file(each.path)
                assert archive.accept(received, Arrival("own"), each.record).accepted
            spent = time.process_time() - began
        rows.append(clock.seconds | {"write": spent - sum(clock.seconds.values())})
    parts = {part: statistics.median(row[part] for row in rows[1:]) for part in ("read", "model", "write", "store")}
    overhead = (sum(parts.values()) - parts["model"]) / parts["model"]
    served = version.load(model).description.engine
    return {
        "files": len(files),
        "objects": [each.encoding for each in made],
        "seconds": parts,
        "overhead": overhead,
        "served": served.words if served else "By torch.",
    }


def shortfalls(report: Mapping[str, Any]) -> list[str]:
    """A sentence for every bar that is missed."""
    missed = [
        f"network, {count} at once: {of['of_best']:.2f} of the best engine is below {LEAST_OF_BEST}"
        for count, of in report.get("network", {"batches": {}})["batches"].items()
        if of["of_best"] < LEAST_OF_BEST
    ]
    return missed + [
        f"study, {name}: all but the model take {of['overhead']:.2f} times its time, above {MOST_OVERHEAD}"
        for name, of in report.get("study", {}).items()
        if of["overhead"] > MOST_OVERHEAD
    ]


def network_told(report: Mapping[str, Any]) -> str:
    served = report["served"]
    lines = [f"EfficientNet-B0, served by {served['name']} ({served['reason']}), {served['batch']} at a time"]
    for count, of in report["batches"].items():
        rates = ", ".join(f"{name} {rate:.1f}" for name, rate in of["images_per_s"].items())
        lines.append(f"  {count} at once, images/s: {rates}; {of['of_best']:.2f} of the best")
    return "\n".join(lines)


def study_told(name: str, of: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in of["seconds"].items())
    return (
        f"study of {of['files']} files to {', '.join(of['objects'])}, {name}. {of['served']}\n"
        f"  CPU seconds: {parts}; all but the model {of['overhead']:.2f} of it"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small images, two rounds, a segmenter of few steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--only", choices=("network", "study"), help="one of the two")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    report: dict[str, Any] = {"threads": given.threads}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if given.only != "study":
            report["network"] = network(
                scratch, 48 if given.quick else 200, 2 if given.quick else 15, compiled=given.compile
            )
            print(network_told(report["network"]), flush=True)
        if given.only != "network":
            report["study"] = {}
            cohort = brains(scratch, 8 if given.quick else 12)
            (new,) = write_patients("brain-mr", 1, scratch / "new", seed=8)
            for name, (widths, images) in (QUICK if given.quick else SEGMENTERS).items():
                room = scratch / name
                model = segmenter(room, cohort, widths, images)
                report["study"][name] = study(new.files, model.folder, room, 2 if given.quick else 5)
                print(study_told(name, report["study"][name]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = shortfalls(report)
    print("\n".join(missed))
    sys.exit(bool(missed) and not given.quick)


if __name__ == "__main__":
    main()
