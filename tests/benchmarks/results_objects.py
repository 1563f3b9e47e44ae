"""How long the objects of a result take: SEG against highdicom alone in the same run, and multi-frame captures.

    python tests/benchmarks/results_objects.py            200 slices of 512 x 512, 5 segments; 64 frames of 512 x 512
    python tests/benchmarks/results_objects.py --quick    a fifth of the slices and frames, three rounds

Rounds alternate, so that whatever else the machine does meets both; medians are printed, and the ratio of medians.
"checked bytes" is the whole way of a result: the object, its file, and the gate (`dicom_io.labels.encode`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset

sys.path.insert(0, str(Path(__file__).parent.parent / "dicom_io"))
import made_results as made

from dicom_io import labels, secondary_capture, segmentation
from dicom_io.segmentation import Segment
from dicom_io.volume import Volume

SEGMENTS = tuple(Segment(number, f"organ {number}", (40 * number, 90, 30)) for number in range(1, 6))


def sources(slices: int) -> list[Dataset]:
    """The tests' oblique series, with as many slices, of 512 x 512."""
    usual, made.SHAPE = made.SHAPE, (slices, 512, 512)
    try:
        return made.sources()
    finally:
        made.SHAPE = usual


def balls(slices: int) -> np.ndarray:
    """Five balls in a row, each in most slices, so that a frame of one segment is neither full nor empty."""
    z, y, x = np.ogrid[:slices, :512, :512]
    voxels = np.zeros((slices, 512, 512), np.float32)
    for number in range(5):
        middle = 110 + 70 * number
        far = ((z - slices / 2) / (0.4 * slices)) ** 2 + ((y - middle) / 60) ** 2 + ((x - middle) / 60) ** 2
        voxels[far < 1] = number + 1
    return voxels


def ours(mask: Volume, datasets: list[Dataset]) -> Any:
    return segmentation.segmentation(
        mask,
        sources=datasets,
        segments=SEGMENTS,
        model=made.MODEL,
        parameters={"threshold": 0.5},
        description="organs",
        made_at=made.MADE_AT,
    )


def highdicom_alone(mask: Volume, datasets: list[Dataset]) -> Any:
    return hd.seg.Segmentation(
        source_images=datasets,
        pixel_array=mask.voxels.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            hd.seg.SegmentDescription(each.number, each.label, each.category, each.property_type, "MANUAL")
            for each in SEGMENTS
        ],
        series_instance_uid="2.25.1",
        series_number=1,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
    )


def capture(frames: np.ndarray) -> Any:
    return secondary_capture.generated(
        frames, model=made.MODEL, seed=1, label="", spacing_mm=(1, 1), units="1", made_at=made.MADE_AT
    )


def seconds(what: Callable[[], Any]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def medians(rounds: int, **calls: Callable[[], Any]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the slices and frames, three rounds")
    quick = parser.parse_args().quick
    slices, frames, rounds = (40, 13, 3) if quick else (200, 64, 7)
    datasets = sources(slices)
    mask = Volume(balls(slices), made.affine(), "2.25.9903", "1", made.references(datasets))
    pictures = np.random.default_rng(0).random((frames, 512, 512), np.float32)
    found = medians(
        rounds,
        ours=lambda: ours(mask, datasets),
        highdicom=lambda: highdicom_alone(mask, datasets),
        seg_bytes=lambda: labels.encode(*ours(mask, datasets)),
        capture=lambda: capture(pictures),
        capture_bytes=lambda: [labels.encode(*each) for each in capture(pictures)],
    )
    print(f"SEG, {slices} x 512 x 512, 5 segments, {ours(mask, datasets)[0].NumberOfFrames} frames, {rounds} rounds")
    print(f"  ours, labelled            {found['ours']:.3f} s")
    print(f"  highdicom alone           {found['highdicom']:.3f} s")
    print(f"  ratio                     {found['ours'] / found['highdicom']:.2f}")
    print(f"  ours, to checked bytes    {found['seg_bytes']:.3f} s")
    print(f"multi-frame capture, {frames} x 512 x 512 of 16 bits")
    print(f"  labelled                  {found['capture']:.3f} s")
    print(f"  to checked bytes          {found['capture_bytes']:.3f} s")


if __name__ == "__main__":
    main()
