"""A version that ONNX Runtime serves, from DICOM to DICOM: what it finds is what torch finds."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import oblique_studies as toy
import pytest
from pydicom import dcmread

from models import bundle, predictor, version
from models.onnx_network import OnnxNetwork
from plugin import pipeline
from plugin.outputs import Made
from plugin.registry import Registry

AT = datetime(2026, 3, 4, 5, 6, 7)
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
NEW = 51  # a patient of no cohort


def predicted(files: list[Path], model: Path, out: Path) -> dict[str, Made]:
    return {each.encoding: each for each in pipeline.predict(files, model, out, made_at=AT)}


@pytest.fixture(scope="module")
def by_onnx(head_segmenter: Any, tmp_path_factory: pytest.TempPathFactory) -> version.ModelVersion:
    """toy-lesions:1 once more, of the same run."""
    cohort = head_segmenter.cohort
    folder = tmp_path_factory.mktemp("models")
    return bundle.release(cohort.folder / "run-toy-lesions", cohort, "toy-lesions", models_dir=folder, engine="onnx")


def test_its_seg_has_the_pixels_of_torch_and_names_of_its_own(by_onnx, head_segmenter, tmp_path):
    assert isinstance(predictor.load(by_onnx.folder).served, OnnxNetwork)
    files = toy.write(tmp_path / "in", toy.mr("T1", NEW), toy.mr("FLAIR", NEW))
    theirs, ours = (
        predicted(files, folder, tmp_path / name)
        for folder, name in ((head_segmenter.folder, "torch"), (by_onnx.folder, "onnx"))
    )
    one, other = dcmread(ours["binary"].path), dcmread(theirs["binary"].path)
    assert one.SOPClassUID == SEG and one.pixel_array.any()
    np.testing.assert_array_equal(one.pixel_array, other.pixel_array)
    assert ours["binary"].finding == theirs["binary"].finding
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert ours["binary"].record.model.content_hash == by_onnx.identity.content_hash


def test_the_registry_knows_it_by_the_hash_that_covers_its_file(by_onnx):
    shelf = by_onnx.folder.parents[1]
    assert Registry(shelf).resolve("toy-lesions").identity == by_onnx.identity
