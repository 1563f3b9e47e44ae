"""Lines of generators on made pictures: what is measured, what is kept, what is refused, and what may be claimed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dicom_io.errors import Rejected
from models import generator, training
from samples.experiments import generators
from samples.experiments.documents import changed
from samples.experiments.generator_lines import LINES, PROFILES, Line, Model, recipe_of
from samples.experiments.generator_report import report_of
from samples.importers import brain_tumour

CLASSES = ("glioma_tumor", "no_tumor", "pituitary_tumor")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """120 pictures of 24 x 20 pixels of three classes, a blob in each at a place of its own."""
    folder = tmp_path_factory.mktemp("brain")
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:24, :20]
    for half, count in (("Training", 28), ("Testing", 12)):
        for number, name in enumerate(CLASSES):
            (folder / half / name).mkdir(parents=True)
            for picture in range(count):
                row, column, size = rng.uniform(4, 20), rng.uniform(4, 16), rng.uniform(2, 3 + 2 * number)
                blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
                grey = 40 + 60 * number + 120 * blob * rng.uniform(0.6, 1) + rng.normal(0, 6, blob.shape)
                pixels = np.clip(grey, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / half / name / f"{picture}.png")
    return folder


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("line") / "generators-brain"
    generators.run("generators-brain", source, out, "quick", lambda _: None)
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "figures.json").read_text())


# The whole line, in small.


def test_every_model_and_reference_has_every_figure(finished):
    figures = read(finished)
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == [*generators.REFERENCES, *(model.name for model in LINES["generators-brain"].models)]
    for row in rows.values():
        for space in row["spaces"].values():
            assert {"KID", "FD", "precision", "recall", "density", "coverage", "covariance"} <= set(space)
        assert {"copy_rate", "planted_recall", "held_out_flagged"} <= set(row["privacy"]["small_pixels"])
        assert set(row["spread"]) == set(CLASSES)
    assert [row["images_seen"] for row in figures["rows"]] == [None] * 3 + [320] * 4
    units = figures["cohort"]["units"]
    assert sum(units.values()) == 120 and min(units.values()) >= 4
    report = (finished / "report.md").read_text()
    assert "patients are not known" in report and "16 x 16 pixels" in report
    for name in rows:
        assert f"| {name} |" in report


def test_copies_are_as_near_to_held_out_images_as_real_ones_and_are_caught(finished):
    rows = {row["name"]: row for row in read(finished)["rows"]}
    real, copies, means = (rows[name] for name in generators.REFERENCES)
    assert copies["privacy"]["small_pixels"]["copy_rate"]["median"] == 1.0
    assert real["privacy"]["small_pixels"]["copy_rate"]["median"] < 0.3
    near, far = (row["spaces"]["random network"]["FD"]["value"]["median"] for row in (copies, means))
    assert near < far / 2
    assert max(each["median"] for each in means["spread"].values()) < min(
        each["median"] for each in copies["spread"].values()
    )


def test_pictures_that_are_left_are_synthetic_and_say_so(finished):
    sheets = sorted((finished / "samples").iterdir())
    assert [path.name for path in sheets] == [
        f"{model.slug}-seed0.png" for model in sorted(LINES["generators-brain"].models, key=lambda model: model.slug)
    ]
    for path in sheets:
        with Image.open(path) as picture:
            assert picture.text["Synthetic"] == "YES" and picture.size[0] == 16 * len(CLASSES)


def test_the_same_call_again_keeps_every_run(finished, source):
    outcomes = sorted(finished.glob("*/**/outcome.json"))
    before = [path.stat().st_mtime_ns for path in outcomes]
    report = (finished / "report.md").read_text()
    generators.run("generators-brain", source, finished, "quick", lambda _: None)
    assert len(outcomes) == 4 and [path.stat().st_mtime_ns for path in outcomes] == before
    assert (finished / "report.md").read_text() == report


def test_another_plan_in_the_same_folder_is_refused_by_its_first_difference(finished, source, monkeypatch):
    with pytest.raises(Rejected, match="holds a run of another plan: draws is 100 there and 1000 now; give another"):
        generators.run("generators-brain", source, finished, "full", lambda _: None)
    line = LINES["generators-brain"]
    other = Line(line.title, line.cohort, changed(line.common, {"minimum_signal": 0.5}), line.models)
    monkeypatch.setitem(generators.LINES, "generators-brain", other)
    with pytest.raises(Rejected, match=r"minimum_signal is 0\.02 there and 0\.5 now"):
        generators.run("generators-brain", source, finished, "quick", lambda _: None)


# Interrupted, and in several processes.


@pytest.fixture
def toy(monkeypatch) -> str:
    small = Model("CVAE", "conditional-vae", 1, {}, {"network": {"features": 8, "blocks": 3}})
    line = Line("Toys", brain_tumour.folders, LINES["generators-brain"].common, (small,))
    monkeypatch.setitem(generators.LINES, "toy", line)
    copies = "copies of training images"
    monkeypatch.setattr(generators, "REFERENCES", {copies: generators.REFERENCES[copies]})
    return "toy"


def evaluations(out: Path) -> list[Any]:
    return [each["evaluation"] for each in read(out)["outcomes"]]


def test_a_run_that_was_killed_goes_on_to_the_same_figures_also_in_two_processes(toy, source, tmp_path, monkeypatch):
    generators.run(toy, source, tmp_path / "whole", "quick", lambda _: None)
    cut, key = tmp_path / "cut", (tmp_path / "whole" / "cohort.key").read_bytes()
    cut.mkdir()
    (cut / "cohort.key").write_bytes(key)
    train = training.train

    def killed(*arguments, progress, **named):
        def hear(event):
            progress(event)
            # The second report comes before its checkpoint, so what goes on is the first one.
            if event["kind"] == "report" and event["images_seen"] > 200:
                raise KeyboardInterrupt

        train(*arguments, progress=hear, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            generators.run(toy, source, cut, "quick", lambda _: None)
    assert (cut / "runs" / "cvae-seed0" / "checkpoint.pt").exists()
    assert not (cut / "runs" / "cvae-seed0" / "outcome.json").exists()
    for reference in (cut / "references").iterdir():
        reference.unlink()
    generators.run(toy, source, cut, "quick", lambda _: None, workers=2)
    assert evaluations(cut) == evaluations(tmp_path / "whole")
    weights = [generator.load(out / "runs" / "cvae-seed0").network.state_dict() for out in (cut, tmp_path / "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_data_set_that_was_half_read_is_read_again(toy, source, tmp_path):
    (tmp_path / "cohort.partial" / "images").mkdir(parents=True)
    (tmp_path / "cohort.partial" / "images" / "half.nii.gz").touch()
    cohort = generators._cohort(generators.LINES[toy].cohort, source, tmp_path, lambda _: None)
    assert len([*cohort.training, *cohort.validation, *cohort.test]) == 120
    assert not (tmp_path / "cohort.partial").exists() and not (tmp_path / "cohort" / "images" / "half.nii.gz").exists()


# The table.


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("profile", PROFILES)
def test_models_of_a_line_see_the_same_images_and_differ_by_seed_alone(name, profile):
    line = LINES[name]
    made = [recipe_of(line, model, 0, profile) for model in line.models]
    assert (
        len({(r.network.image_px, r.pixel_range, r.conditional, r.minimum_signal, r.audit_samples) for r in made}) == 1
    )
    for model, recipe in zip(line.models, made, strict=True):
        again = recipe_of(line, model, 2, profile)
        assert again.seed == 2 and again.model_copy(update={"seed": 0}) == recipe
        assert recipe.schedule.patience_reports is None and recipe.schedule.precision == "float32"
        assert recipe.schedule.total_images == (model.total_images if profile == "full" else 320)


def test_changes_reach_every_depth_and_leave_the_rest():
    before = {"a": {"b": 1, "c": {"d": 2}}, "e": None}
    assert changed(before, {"a": {"c": {"d": 3}}, "e": {"f": 4}}) == {"a": {"b": 1, "c": {"d": 3}}, "e": {"f": 4}}
    assert before == {"a": {"b": 1, "c": {"d": 2}}, "e": None}


# What may be claimed.


def figures(a: list[float], b: list[float], usable: bool = True) -> dict[str, Any]:
    """Two models with these FDs and KIDs over seeds in one space."""

    def over(values: list[float]) -> dict[str, float]:
        return {"median": values[len(values) // 2], "low": min(values), "high": max(values)}

    def row(name: str, values: list[float]) -> dict[str, Any]:
        floor = {"value": 1.0, "low": 0.5, "high": 1.5}
        distance = {"value": over(values), "ratio": over(values) if usable else None, "floor": floor}
        distance |= {"controls": {"blurred": 9.0}, "usable": usable}
        space = {"KID": distance, "FD": distance, "covariance": "full", "images_each": 70}
        audit = {"copy_rate": over([0.0]), "planted_recall": over([1.0]), "held_out_flagged": None}
        return {
            "name": name,
            "trained": True,
            "images_seen": 900,
            "parameters": 4000,
            "training_cpu_s": over([30.0]),
            "evaluation_cpu_s": over([4.0]),
            "warnings": [],
            "spread": {"all": None},
            "spaces": {"pixels": space | dict.fromkeys(("precision", "recall", "density", "coverage"))},
            "privacy": {"pixels": audit},
            "masks": {
                "lesion": {
                    "samples": {"share": over([0.1]), "pixels": None},
                    "real": {"share": over([0.46]), "pixels": over([9.0])},
                }
            },
            "passed_audit": 1,
            "seeds": len(values),
        }

    units = {"training": 9, "validation": 2, "test": 3}
    return {
        "experiment": "toy",
        "title": "Toys",
        "profile": "full",
        "seeds": len(a),
        "image_px": 16,
        "samples": 70,
        "budget_cpu_minutes": 24.0,
        "spent_cpu_minutes": 1.5,
        "machine": "a toy",
        "cohort": {"description": "Toys", "split_unit": "patient", "units": units},
        "rows": [row("A", a), row("B", b)],
    }


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (figures([2.0, 2.1, 2.2], [2.3, 2.5, 2.4]), "*A* is nearer to held-out images than *B*, with all seeds"),
        (
            figures([2.0, 2.1, 2.4], [2.3, 2.5, 2.4]),
            "No model is nearer to held-out images than another with all seeds",
        ),
        (figures([2.0], [9.0]), "One seed shows no order of the models."),
        (figures([2.0, 2.1], [9.0, 9.1], usable=False), "so the models have no order"),
    ],
)
def test_an_order_is_claimed_only_where_no_seed_gainsays_it(made, sentence):
    report = report_of(made)
    assert sentence in report
    assert ("is nearer to held-out images than *" in report) == sentence.startswith("*A*")


def test_the_report_says_which_is_median_and_which_is_range_and_what_is_undefined():
    report = report_of(figures([2.0, 2.1, 2.6], [3.0, 3.5, 4.0], usable=False))
    assert "median over seeds, and their range in brackets" in report
    assert "| A | 2.10 (2.00 to 2.60) | undefined | 2.10 (2.00 to 2.60) | undefined | undefined |" in report
    assert "| full, 70 |" in report and "does not tell them from real, so it has no ratio" in report
    assert "| A | 4,000 | 900 | 30 | 30 | 4 |" in report
    assert "| A | lesion | 0.10 | 0.46 | undefined | 9 |" in report
