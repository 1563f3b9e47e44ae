"""A classifier of tiles on whole slides: what is marked lies where the tiles lie, and every tile was looked at as in
training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread

from dicom_io import cohort as cohorts
from dicom_io import labels, secondary_capture, slide_segmentation
from dicom_io.errors import Rejected
from dicom_io.slide import LEAST_TISSUE, Level, Slide
from models import bundle, predictor, recipe, training
from models.predictor import Classifier
from plugin import encodings, pipeline
from samples.importers import IMPORTERS
from samples.phantoms import PhantomStudy, write_patients

AT = datetime(2026, 3, 4, 5, 6, 7)
KEY = b"a key that only these tests know"


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[PhantomStudy]:
    return write_patients("histology", 6, tmp_path_factory.mktemp("slides"), seed=9)


@pytest.fixture(scope="module")
def model(studies, tmp_path_factory) -> Classifier:
    folder = tmp_path_factory.mktemp("histology")
    IMPORTERS["histology-phantoms"].read(studies[0].files[0].parents[2], folder / "cohort", KEY, lambda *_: None)
    cohort = cohorts.load(folder / "cohort")
    plain = recipe.load("histology-classifier").model_dump(mode="json")
    plain["network"] = {"kind": "small-cnn", "channels": [8, 16], "hidden": 16, "norm": "group", "dropout": 0.0}
    plain["schedule"] |= {"total_images": 1600, "report_images": 800, "batch_size": 16, "precision": "float32"}
    plain["schedule"] |= {"warm_up_images": 0, "ema_half_life_images": 100}
    plain["evaluation"] = {"bootstrap_draws": 100}
    training.train(recipe.parse(plain, "x"), cohort, folder / "run", device="cpu")
    released = bundle.release(folder / "run", cohort, "tiles", models_dir=folder / "models")
    loaded = predictor.load(released.folder)
    assert isinstance(loaded, Classifier)
    return loaded


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> list[Path]:
    """Of a new patient, with carcinoma."""
    [study] = write_patients("histology", 1, tmp_path_factory.mktemp("new"), seed=70)
    return list(study.files)


@pytest.fixture(scope="module")
def made(slide, model, tmp_path_factory):
    asked = encodings.DEFAULT | {"report"}
    out = tmp_path_factory.mktemp("found")
    return pipeline.predict(slide, model.model.folder, out, made_at=AT, encodings=asked)


def test_a_slide_gives_a_seg_a_capture_and_a_report_with_their_labels(made):
    assert [each.encoding for each in made] == ["binary", "multi-frame", "report"]
    for each in made:
        labels.check(each.path.read_bytes(), each.record)


def test_the_seg_marks_the_tiles_that_the_model_calls_and_no_other_pixel(made, slide, model):
    marked = slide_segmentation.read(dcmread(made[0].path))
    with Slide(slide) as opened:
        [level] = opened.levels
        tiles = list(opened.tiles(level, (64, 64), least_tissue=LEAST_TISSUE, edges="drop"))
    expected = np.zeros(level.shape, np.uint16)
    found = 0
    for tile in tiles:
        if model.predict(tile.projection).positive[0]:
            expected[tile.row : tile.row + 64, tile.column : tile.column + 64] = 1
            found += 1
    np.testing.assert_array_equal(marked, expected)
    assert 0 < found < len(tiles)
    assert made[0].finding.startswith(f"{found} of {len(tiles)} tiles with tissue are invasive carcinoma (threshold ")


def test_the_capture_is_the_whole_slide_with_its_suspicious_tiles_in_heat(made, slide):
    (frame,) = secondary_capture.read_back(dcmread(made[1].path))
    marked = slide_segmentation.read(dcmread(made[0].path))
    with Slide(slide) as opened:
        thumbnail = opened.thumbnail(1024)
    rows, columns = thumbnail.shape[:2]
    frame = frame[:rows, :columns].astype(int)
    scale = np.array(marked.shape) / (rows, columns)
    places = (np.indices((rows, columns)).reshape(2, -1).T * scale).astype(int)
    called = marked[places[:, 0], places[:, 1]].reshape(rows, columns) > 0
    changed = np.abs(frame - thumbnail).sum(2) > 0
    assert changed[called].mean() > 0.95
    # Glass has no tile, and stays as it is.
    assert not changed[thumbnail.min(2) > 240].any() or changed[thumbnail.min(2) > 240].mean() < 0.4


def test_the_report_reads_the_slide_by_the_rule_of_the_version(made, slide, model):
    whole, highest = srread(made[2].path).content.get_image_measurement_groups()
    with Slide(slide) as opened:
        [level] = opened.levels
        tiles = opened.tiles(level, (64, 64), least_tissue=LEAST_TISSUE, edges="drop")
        suspicions = np.concatenate([model.predict(tile.projection).suspicions for tile in tiles])
    reading = model.description.study
    assert reading is not None
    assert whole.get_measurements()[0].value == pytest.approx(reading.probability(suspicions), abs=1e-5)
    assert highest.get_measurements()[0].value == pytest.approx(suspicions.max(), abs=1e-5)
    [image] = whole.source_images
    header = dcmread(slide[0], stop_before_pixels=True)
    assert image.referenced_sop_instance_uid == header.SOPInstanceUID
    assert image.referenced_frame_numbers is None
    assert made[2].finding.startswith("study: invasive carcinoma ")


def test_the_same_slide_gives_the_same_objects(made, slide, model, tmp_path):
    again = pipeline.predict(slide, model.model.folder, tmp_path, made_at=AT)
    assert [each.path.read_bytes() for each in again] == [each.path.read_bytes() for each in made[:2]]


def test_a_level_that_the_results_are_shown_on_gives_them_other_names(made, slide, model, tmp_path, monkeypatch):
    """The thumbnail and what counts as tissue may come from another level than the one that is looked at."""
    whole = Slide.instances

    def with_another(self: Slide, level: Level) -> list:
        found = whole(self, level)
        if level is not overview:
            return found
        return [(header, replace(source, sop_instance_uid="2.25.77")) for header, source in found]

    with Slide(slide) as opened:
        overview = replace(opened.overview)
    monkeypatch.setattr(Slide, "overview", property(lambda self: overview))
    monkeypatch.setattr(Slide, "instances", with_another)
    again = pipeline.predict(slide, model.model.folder, tmp_path, made_at=AT, encodings=encodings.DEFAULT | {"report"})
    pairs = zip(made, again, strict=True)
    assert all(one.record.sop_instance_uid != other.record.sop_instance_uid for one, other in pairs)
    assert [each.record.source_uids for each in again] == [each.record.source_uids for each in made]


def test_files_without_a_slide_are_a_sentence(model, tmp_path):
    (tmp_path / "note.txt").write_text("no slide")
    with pytest.raises(Rejected, match="the model needs SM in colour, and no whole slide"):
        pipeline.predict([tmp_path], model.model.folder, tmp_path / "out", made_at=AT)


def test_a_slide_of_other_pixels_is_refused_with_those_that_it_has(slide, model, tmp_path):
    folder = tmp_path / "coarse"
    shutil.copytree(model.model.folder, folder)
    text = (folder / "configs" / "metadata.json").read_text()
    low, high = model.description.domain.spacing_mm[0]
    assert text.count(f"{low}") >= 2
    text = text.replace(f"{low},", f"{low * 8},").replace(f"{high}\n", f"{high * 8}\n")
    (folder / "configs" / "metadata.json").write_text(text)
    with pytest.raises(Rejected, match="the slide has no level within 15% of 16 um per pixel"):
        pipeline.predict(slide, folder, tmp_path / "out", made_at=AT)
