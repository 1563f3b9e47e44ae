"""A segmenter of volumes, from DICOM to SEG: the mask lies where the lesion does, in the patient."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import oblique_studies as toy
from pydicom import Dataset, dcmread

from plugin import pipeline

AT = datetime(2026, 3, 4, 5, 6, 7)
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
NEW = 60  # a patient of no cohort
BOX = (slice(1, 4), slice(6, 18), slice(12, 20))  # slices, rows, columns; off the middle of each


def ill(contrast: str) -> list[Dataset]:
    """`toy.mr` of a head whose lesion is a box."""
    tissue, noise = toy.body(NEW)
    box = np.zeros(toy.SHAPE)
    box[BOX] = 1
    signal = tissue * 1000 + (noise * 6).clip(0) + box * (400 if contrast == "FLAIR" else -150)
    return toy.series("MR", signal.clip(0), seed=NEW, name=contrast, **toy.TIMES[contrast])  # type: ignore[arg-type]


def overlap(ours: set[tuple[int, ...]], truth: set[tuple[int, ...]]) -> float:
    return 2 * len(ours & truth) / (len(ours) + len(truth))


def test_a_box_is_found_at_its_place_in_the_patient(head_boxes, tmp_path: Path) -> None:
    files = toy.write(tmp_path / "head", ill("T1"), ill("FLAIR"))
    out = pipeline.predict(files, head_boxes.folder, tmp_path / "out", made_at=AT)
    (seg,) = (dcmread(each.path) for each in out if each.record.sop_class_uid == SEG)
    # By hand, without our reader: places in mm of all voxels of all frames, as whole steps of the toy's axes.
    turn = np.array(toy.AXES)
    ours = set()
    assert (np.array(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing) == [2.1, 1.7]).all()
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True):
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            place = corner + turn[:, 1] * row * 2.1 + turn[:, 0] * column * 1.7
            steps = turn.T @ (place - toy.ORIGIN_MM) / [1.7, 2.1, 3.3]
            assert np.abs(steps - np.rint(steps)).max() < 1e-3
            ours.add(tuple(np.rint(steps[::-1]).astype(int).tolist()))
    box = np.zeros(toy.SHAPE)
    box[BOX] = 1
    truth = {tuple(each) for each in np.argwhere(box).tolist()}
    assert overlap(ours, truth) > 0.7
    for axis, length in enumerate(toy.SHAPE):
        turned = {(*each[:axis], length - 1 - each[axis], *each[axis + 1 :]) for each in ours}
        assert overlap(turned, truth) < overlap(ours, truth) - 0.1
