"""mini-MIAS: digitised film mammograms, mdbNNN.pgm beside Info.txt as published, or beside labels.csv.

J. Suckling et al., "The Mammographic Image Analysis Society Digital Mammogram Database", Excerpta Medica 1069, 1994;
Info.txt and README of the mini-MIAS release: films 2n - 1 and 2n are the two breasts of one woman, all oblique (MLO),
reduced to 200 um and 1024 x 1024 pixels; x runs to the right, y upwards from the lowest row. The README says that even
numbers are left breasts, but the lead markers in the films, where they can be read (in mirror writing, as the pictures
are mirrored), say L in odd ones and R in even ones; markers win.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_io import cohort as cohorts
from dicom_io.breast import chest_wall_side, mask
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Float32, Projection, Volume
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split

NAME = "mini-mias"
LABELS = ("normal", "benign", "malignant")
SIDE_PX = 1024
# Of the film, as for Imager Pixel Spacing (0018,1164); the films are contact images, slightly larger than the breast.
SPACING_MM = (0.2, 0.2)
PATCH_PX, PATCHES = 64, 40
_SEVERITIES = {"B": 1, "M": 2}
_FILM = re.compile(r"mdb(\d{3})")
_NORMAL = "NORM"


@dataclass(frozen=True)
class Finding:
    """One line of the list. kind: CALC, CIRC, SPIC, MISC, ARCH, ASYM or NORM. severity: index into `LABELS`.

    circle: (row, column, radius) in pixels, rows counted from the top; None where calcifications are spread widely.
    """

    film: str
    tissue: str
    kind: str
    severity: int
    circle: tuple[int, int, int] | None


def films(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Single views, for classifiers: normal, benign or malignant, by the gravest finding of the film."""
    findings = by_film(source)
    women = defaultdict[str, list[str]](list)
    for film in findings:
        women[woman(film)].append(film)
    plan = Plan(
        name=NAME,
        description="Digitised film mammograms, oblique views, 200 um",
        task="classification",
        labels=LABELS,
        channels=(Channel("view", "MG", "1"),),
    )

    def items(name: str) -> list[Item]:
        return [_item(source, out, key, film, findings[film]) for film in sorted(women[name])]

    return gather(plan, out, split(women, plan.name), items, progress)


def patches(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Squares of breast of 64 x 64 pixels of 0.4 mm, one stack per film, for generators; no labels.

    Squares lie wholly in the breast, every half of their side, and at most 40 of a film, evenly chosen. Neighbours
    overlap; those of one woman stay in one split.
    """
    women = defaultdict[str, list[str]](list)
    for film in by_film(source):
        women[woman(film)].append(film)
    plan = Plan(
        name=f"{NAME}-patches",
        description="Digitised film mammograms, oblique views, squares of 25.6 mm in the breast, 400 um",
        task="generation",
        labels=(),
        channels=(Channel("patch", "MG", "1"),),
    )
    left_out: list[str] = []

    def items(name: str) -> list[Item]:
        return [item for film in sorted(women[name]) for item in _stack(source, out, key, film, left_out)]

    return gather(plan, out, split(women, NAME), items, progress, left_out)


def squares_of(pixels: Float32, inside: npt.NDArray[np.bool_]) -> Float32:
    """(rows, columns) -> (n, 64, 64), by rows: squares that lie wholly `inside`, at most 40, evenly chosen."""
    step = PATCH_PX // 2
    corners = [
        (row, column)
        for row in range(0, pixels.shape[0] - PATCH_PX + 1, step)
        for column in range(0, pixels.shape[1] - PATCH_PX + 1, step)
        if inside[row : row + PATCH_PX, column : column + PATCH_PX].all()
    ]
    chosen = np.unique(np.linspace(0, len(corners) - 1, min(PATCHES, len(corners))).round().astype(int))
    found = [pixels[row : row + PATCH_PX, column : column + PATCH_PX] for row, column in (corners[i] for i in chosen)]
    return np.array(found, np.float32).reshape(-1, PATCH_PX, PATCH_PX)


def by_film(source: Path) -> dict[str, list[Finding]]:
    """Findings by film, for the films whose picture is there.

    Raises:
        Rejected: no list, no picture of a film in the list, or a line of another form.
    """
    listed = list(_findings(source))
    found = defaultdict[str, list[Finding]](list)
    for finding in listed:
        if (source / f"{finding.film}.pgm").is_file():
            found[finding.film].append(finding)
    if not found:
        raise Rejected(
            f"{source} holds no mdbNNN.pgm of the {len(listed)} findings in its list; give the films' folder"
        )
    return dict(found)


def woman(film: str) -> str:
    """Two films in a row are of one woman: mdb003 and mdb004 of "002"."""
    return f"{(_number(film) + 1) // 2:03d}"


def laterality(film: str) -> str:
    return "L" if _number(film) % 2 else "R"


def _number(film: str) -> int:
    named = _FILM.fullmatch(film)
    if named is None:
        raise Rejected(f"film {film!r} is not named mdbNNN; correct the list")
    return int(named[1])


def _findings(source: Path) -> Iterator[Finding]:
    if (source / "labels.csv").is_file():
        with (source / "labels.csv").open(newline="") as table:
            for row in csv.DictReader(table):
                yield _of_table(row)
    elif (source / "Info.txt").is_file():
        for line in (source / "Info.txt").read_text(encoding="latin-1").splitlines():
            words = line.split()
            # Around the list stand its own explanations.
            if len(words) >= 3 and _FILM.fullmatch(words[0]):
                yield _of_words(words)
    else:
        raise Rejected(f"{source} holds neither Info.txt nor labels.csv, so the films have no class; add one")


def _of_table(row: Mapping[str, str]) -> Finding:
    try:
        film, kind = row["file"].removesuffix(".pgm"), row["abnormality"]
        centre = [row["x"], row["y_from_bottom"], row["radius"]]
        return _finding(film, row["tissue(F/G/D)"], kind, row["severity(B/M)"], centre if all(centre) else [])
    except KeyError as error:
        raise Rejected(f"labels.csv has no column {error}; give the list of the mini-MIAS layout") from error


def _of_words(words: Sequence[str]) -> Finding:
    """mdb001 G CIRC B 535 425 197; fewer words for normal films, and "*NOTE 3*" where there is no circle."""
    film, tissue, kind, *rest = words
    return _finding(film, tissue, kind, rest[0] if rest else "", rest[1:] if len(rest) == 4 else [])


def _finding(film: str, tissue: str, kind: str, severity: str, circle: Sequence[str]) -> Finding:
    if kind != _NORMAL and severity not in _SEVERITIES:
        raise Rejected(f"film {film} has the finding {kind} of severity {severity!r}, not B or M; correct the list")
    try:
        x, y, radius = (int(number) for number in circle) if circle else (0, 0, 0)
    except ValueError as error:
        raise Rejected(f"film {film} has a circle {' '.join(circle)} that is not three numbers; correct it") from error
    grade = 0 if kind == _NORMAL else _SEVERITIES[severity]
    return Finding(film, tissue, kind, grade, (SIDE_PX - y, x, radius) if circle else None)


def _item(source: Path, out: Path, key: bytes, film: str, findings: Sequence[Finding]) -> Item:
    pixels, file = pictures.grey(source / f"{film}.pgm")
    patient = pseudonym(key, woman(film), prefix="P")
    view = Projection(
        pixels=pixels,
        units="1",
        spacing_mm=SPACING_MM,
        spacing_of="imager",
        laterality=laterality(film),
        view="MLO",
        breast_side=chest_wall_side(pixels),
    )
    return cohorts.add_projection(
        out,
        f"{patient}_{view.laterality}",
        view,
        patient,
        channel="view",
        label=max(finding.severity for finding in findings),
        provenance=pictures.provenance(NAME, file=file, findings=[_told(finding) for finding in findings]),
    )


def _stack(source: Path, out: Path, key: bytes, film: str, left_out: list[str]) -> list[Item]:
    """The squares of a film as one volume, whose steps between slices mean nothing; none where there is no breast."""
    pixels, file = pictures.grey(source / f"{film}.pgm")
    patient = pseudonym(key, woman(film), prefix="P")
    side = laterality(film)
    try:
        inside = mask(pixels, side=chest_wall_side(pixels))
    except Rejected as error:
        left_out.append(f"{patient}_{side}: {error}")
        return []
    half = pixels.reshape(SIDE_PX // 2, 2, SIDE_PX // 2, 2).mean(axis=(1, 3))
    within = inside.reshape(SIDE_PX // 2, 2, SIDE_PX // 2, 2).min(axis=(1, 3))
    found = squares_of(half, within)
    if not len(found):
        left_out.append(f"{patient}_{side}: no square of {PATCH_PX} pixels lies in the breast")
        return []
    affine = np.diag([1.0, 2 * SPACING_MM[0], 2 * SPACING_MM[1], 1.0])
    stack = Volume(found, affine, "", "1")
    return [
        cohorts.add_volume(
            out,
            f"{patient}_{side}",
            {"patch": stack},
            patient,
            provenance=pictures.provenance(f"{NAME}-patches", file=file),
        )
    ]


def _told(finding: Finding) -> dict[str, Any]:
    row, column, radius = finding.circle or (None, None, None)
    return {
        "tissue": finding.tissue,
        "kind": finding.kind,
        "severity": LABELS[finding.severity],
        "row": row,
        "column": column,
        "radius_px": radius,
    }
