"""Reports as Markdown and as a page: the same tables in both, nothing from elsewhere, and plots at the right places."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from models.evaluation import classification, segmentation
from models.evaluation.segmentation import Pair
from models.reports import document, figures, plots, svg
from models.reports.parts import Heading, Plot, Table, Text, markdown
from plugin.cli import application

EVIL = "<script>alert('&')</script> | x"
_EMPTY = {"meta", "br", "line", "rect", "polyline", "path", "circle"}


class Page(HTMLParser):
    """Tags that are open, and the cells of the tables; an end that fits no beginning fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _EMPTY or tag in ("rect", "path", "circle"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data


def of_classes(count: int = 3, **changes: Any) -> dict[str, Any]:
    """Of a classifier of so many classes, one of them named by somebody who means no good, on two scanners."""
    rng = np.random.default_rng(7)
    patients = [f"p{n // 9:02d}" for n in range(180)]
    labels = rng.integers(0, count, 180)
    logits = rng.normal(0, 1, (180, count)) + 1.5 * np.eye(count)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    stated = [{"scanner": f"{EVIL} {int(name[1:]) % 2}"} for name in patients]
    found = classification.evaluate(
        probabilities, labels, patients, threshold=0.6, prevalence=0.5, draws=100, stated=stated
    )
    return told("classification") | {"labels": ["none", EVIL, "other"][:count]} | found | changes


def of_masks() -> dict[str, Any]:
    rng = np.random.default_rng(8)
    truths = [rng.random((4, 12, 9)) < 0.1 * n for n in range(1, 7)]
    pairs = [
        Pair(f"p{n}", truth & (rng.random(truth.shape) < 0.8), truth, (3.0, 1, 2)) for n, truth in enumerate(truths)
    ]
    others = {
        "everything": [Pair(pair.patient, np.ones_like(pair.truth), pair.truth, pair.spacing_mm) for pair in pairs]
    }
    return told("segmentation") | segmentation.evaluate(pairs, others, threshold=0.4, draws=100)


def of_samples() -> dict[str, Any]:
    interval = {"value": 0.06, "low": -0.01, "high": 0.09}
    space = {"kid_to_held_out": interval, "floor": interval, "ratio": 4.2, "usable": True}
    space["controls"] = {"blurred": 0.8, "noisy": 0.3}
    copies = {"copy_rate": interval, "planted_recall": 1.0, "held_out_flagged": None, "passed": False}
    found = {"seed": 1, "samples": 9, "fidelity": {"held_out_patients": 3, "spaces": {"a": space}}}
    return told("generation") | found | {"privacy": {"spaces": {"small_pixels": copies}}}


def told(task: str) -> dict[str, Any]:
    return {
        "task": task, "cohort": "c", "data_hash": "ab" * 32, "split": "test", "split_unit": "patient",
        "bootstrap_draws": 100, "caution": "",
    }  # fmt: skip


REPORTS = {"classes": of_classes(), "two classes": of_classes(2), "masks": of_masks(), "samples": of_samples()}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_page_stands_alone_and_its_tags_are_closed(report: dict[str, Any]) -> None:
    text = document.of_evaluation(EVIL, report).html()
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_page_and_the_markdown_have_the_same_tables(report: dict[str, Any]) -> None:
    made = document.of_evaluation("m:1", report)
    tables = [part for part in made.parts if isinstance(part, Table)]
    assert Page(made.html()).tables == [[[*part.head], *map(list, part.rows)] for part in tables]
    rows = [row for row in made.markdown().splitlines() if row.startswith("|") and not row.startswith("| ---")]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    wanted = [row for part in tables for row in (part.head, *part.rows)]
    assert [[cell.strip().replace(r"\|", "|").replace("&lt;", "<") for cell in row] for row in cells] == [
        [*row] for row in wanted
    ]


def test_a_name_that_is_code_is_shown_and_not_run() -> None:
    made = document.of_evaluation(EVIL, of_classes(caution=EVIL, state="unproven", reason=EVIL))
    for text in (made.html(), made.markdown()):
        assert "<script" not in text and "&lt;script" in text
    assert EVIL in {cell for table in Page(made.html()).tables for row in table for cell in row}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_every_plot_is_xml_with_words_for_those_who_do_not_see_it_and_lies_in_its_frame(report: dict[str, Any]) -> None:
    drawn = [part for part in figures.parts(report) if isinstance(part, Plot)]
    assert len(drawn) == {"classification": 5, "segmentation": 3, "generation": 1}[report["task"]] + (
        len(report.get("groups", {})) + ("confusion_by_class" in report)
    )
    for part in drawn:
        root = ElementTree.fromstring(part.svg)
        assert root.get("role") == "img" and root.get("aria-label") == f"{part.title}. {part.says}"
        _, _, width, height = map(float, (root.get("viewBox") or "").split())
        for circle in root.iter("circle"):
            assert 0 <= float(circle.get("cx") or 0) <= width and 0 <= float(circle.get("cy") or 0) <= height
        assert "nan" not in part.svg


def test_the_operating_point_is_drawn_where_the_figures_say() -> None:
    report = of_classes()
    told = report["metrics"]
    root = ElementTree.fromstring(plots.roc(report).svg)
    [mark] = [circle for circle in root.iter("circle") if circle.findtext("title") == "operating point"]
    frame = svg.Frame(svg.shares(""), svg.shares(""))
    assert float(mark.get("cx") or 0) == pytest.approx(frame.across(1 - told["specificity"]["value"]), abs=0.06)
    assert float(mark.get("cy") or 0) == pytest.approx(frame.down(told["sensitivity"]["value"]), abs=0.06)
    assert frame.down(1) < frame.down(0) and frame.across(0) < frame.across(1)


def test_a_confusion_counts_every_image_once() -> None:
    report = of_classes()
    texts = [
        text.text
        for text in ElementTree.fromstring(plots.confusion("", ["a", "b", "c"], report["confusion_by_class"]).svg).iter(
            "text"
        )
    ]
    assert sum(int(text) for text in texts if text and text.isdigit()) == report["images"]
    kinds, table = plots.at_threshold(report)
    assert kinds == ["none", "any other"] and sum(map(sum, table)) == report["images"]
    assert plots.at_threshold(of_classes(2))[0] == ["none", EVIL]
    assert plots.at_threshold(of_classes(2, labels=[]))[0] == ["negative", "positive"]


@pytest.mark.parametrize("values", [(0.0, 3.9), (-0.02, 0.09), (0.0, 0.0), (120.0, 7300.0), (0.00012, 0.0007)])
def test_an_axis_holds_what_it_shows_with_few_round_ticks(values: tuple[float, float]) -> None:
    axis = svg.numbers("", values)
    assert axis.low <= min(values) and axis.high >= max(values) and axis.low <= 0
    assert 2 <= len(axis.ticks) <= 8 and (axis.low == 0 or min(values) < 0)
    assert [float(words) for _, words in axis.ticks] == pytest.approx([value for value, _ in axis.ticks])


def test_groups_of_too_few_are_told_and_not_drawn() -> None:
    report = of_masks() | {
        "groups": {
            "sex": {
                "F": {"patients": 5, "observations": 6, "metrics": {"dice": {"value": 0.7, "low": 0.6, "high": 0.8}}},
                "M": {"patients": 1, "observations": 1, "metrics": None},
            }
        }
    }
    found = figures.parts(report)
    at = found.index(Heading("By group"))
    assert found[at + 2] == Table(
        ("Sex", "patients", "cases", "dice"), (("F", "5", "6", "0.700 (0.600 to 0.800)"), ("M", "1", "1", "too few"))
    )
    assert not [part for part in found[at:] if isinstance(part, Plot)]


def test_an_evaluation_from_before_curves_and_groups_were_kept_is_told_without_them() -> None:
    old, masks = of_classes(2), of_masks()
    del old["curves"], old["groups"]
    del masks["groups"], masks["baseline_dice"], masks["surface_tolerance_mm"], masks["lesions_by_size"]
    for line in old["per_patient"]:
        del line["highest_probability"]
    assert [part.title for part in figures.parts(old) if isinstance(part, Plot)] == ["Confusion at the threshold"]
    assert [part.title for part in figures.parts(masks) if isinstance(part, Plot)] == ["Volume"]


def test_markdown_has_an_empty_line_between_parts_and_no_plots() -> None:
    parts = [Text("one", "Caution"), Plot("t", "s", "<svg/>"), Table(("", "a"), (("x", "1"),)), Heading("more")]
    assert markdown(parts) == ["**Caution**: one", "", "| | a |", "| --- | --- |", "| x | 1 |", "", "### more"]


def test_evaluate_writes_json_markdown_and_a_page(classification_run, segmentation_run, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        done = CliRunner().invoke(application(), [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    for name, (folder, cohort, _) in {"classes": classification_run, "masks": segmentation_run}.items():
        said = run("evaluate", folder, "--cohort", cohort.folder, "--draws", 100, "--out", tmp_path / name, "--json")
        assert {path.name for path in (tmp_path / name).iterdir()} == {"evaluation.json", "report.md", "report.html"}
        assert json.loads(said) == json.loads((tmp_path / name / "evaluation.json").read_text())
        assert (tmp_path / name / "report.md").read_text().startswith(f"# Evaluation of {folder}\n")
        assert Page((tmp_path / name / "report.html").read_text()).tags.count("svg") >= 3


def test_a_comparison_is_written_with_its_differences(tmp_path: Path) -> None:
    from models import compare

    interval = {"value": -0.05, "low": -0.09, "high": 0.002}
    pair = {"models": ["a", EVIL], "difference": {"dice": interval}, "test": "Wilcoxon", "p": 0.04, "p_holm": 0.08}
    report = {
        "cohort": "c", "split_unit": "patient", "patients": 12, "cautions": {"a": "nobody knows"}, "pairs": [pair],
        "metrics": {"a": {"dice": interval}, EVIL: {"dice": interval}},
    }  # fmt: skip
    document.write(tmp_path / "out", "comparison", report, compare.document(report))
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == report
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.tables[1][1] == [f"a - {EVIL}", "-0.050 (-0.090 to 0.002)", "0.04", "0.08"]
    assert page.tags.count("svg") == 2 and ("class", "caution") in page.attributes
