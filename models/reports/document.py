"""A report on paper: a title and parts, written as JSON, Markdown and a page (HTML)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.reports import figures
from models.reports.page import page
from models.reports.parts import Part, Text, markdown, plain


@dataclass(frozen=True)
class Document:
    title: str
    parts: tuple[Part, ...]

    def markdown(self) -> str:
        return "\n".join([f"# {plain(self.title)}", "", *markdown(self.parts), ""])

    def html(self) -> str:
        return page(self.title, self.parts)


def of_evaluation(who: str, report: Mapping[str, Any]) -> Document:
    """who: the model's address, or what a person called it. report: of `models.evaluate`; of a release with its
    "audit_id", "state" and "reason", too."""
    audit = f"Audit {report['audit_id']}. " if "audit_id" in report else ""
    told: list[Part] = [
        Text(
            f"{audit}Cohort {report['cohort']}, split {report['split']}, split by {report['split_unit']}, "
            f"{report['bootstrap_draws']} bootstrap draws of whole patients. Data hash {report['data_hash']}."
        )
    ]
    if "state" in report:
        told.append(Text(sentence(report["reason"]), f"State {report['state']}"))
    last = "Every figure with its controls and every patient is in evaluation.json."
    research = "Research use only. Not for diagnosis or treatment."
    return Document(f"Evaluation of {who}", (*told, *figures.parts(report), Text(f"{last} {research}")))


def sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."


def write(folder: Path, name: str, report: Mapping[str, Any], document: Document) -> None:
    """NAME.json, report.md and report.html in the folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(document.markdown(), encoding="utf-8")
    (folder / "report.html").write_text(document.html(), encoding="utf-8")
