"""DDSM (University of South Florida): CASE/A-NNNN-1.ics, X_NNNN_1.VIEW.OVERLAY and pictures X_NNNN_1.VIEW.png.

M. Heath et al., "The Digital Database for Screening Mammography", IWDM 2000. The originals are X_NNNN_1.VIEW.LJPEG in
the form of the Stanford PVRG codec, which no decoder here reads; so the pictures are those that another tool made of
them (PNG, TIFF), beside the originals' own .ics and .OVERLAY files. VIEW is LEFT_CC, LEFT_MLO, RIGHT_CC or RIGHT_MLO.

The .ics file tells for each view LINES, PIXELS_PER_LINE, RESOLUTION in um, and whether there is an OVERLAY, a list of
findings with their PATHOLOGY. A view without one shows a breast without findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_io import cohort as cohorts
from dicom_io.breast import chest_wall_side
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Projection
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split

NAME = "ddsm"
LABELS = ("normal", "benign", "malignant")
VIEWS = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")
_PATHOLOGIES = {"BENIGN": 1, "BENIGN_WITHOUT_CALLBACK": 1, "MALIGNANT": 2}


@dataclass(frozen=True)
class View:
    """One line of the .ics file. resolution_um: of the scanner. has_overlay: OVERLAY, not NON_OVERLAY."""

    name: str
    rows: int
    columns: int
    resolution_um: float
    has_overlay: bool


def views(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Single views, for classifiers: normal, benign or malignant, by the gravest finding of the view."""
    cases = cases_in(source)
    left_out: list[str] = []
    plan = Plan(
        name=NAME,
        description="Digitised film mammograms of DDSM, from pictures that another tool made of the LJPEG originals",
        task="classification",
        labels=LABELS,
        channels=(Channel("view", "MG", "1"),),
    )

    def items(case: str) -> list[Item]:
        return _items(cases[case], out, key, case, left_out)

    return gather(plan, out, split(cases, plan.name), items, progress, left_out)


def cases_in(source: Path) -> dict[str, Path]:
    """Case -> its .ics file, for cases with at least one picture that can be read.

    Raises:
        Rejected: there is none; LJPEG originals alone are none.
    """
    lists = sorted(source.rglob("*.ics"))
    readable = {path.stem: path for path in lists if any(_picture(path.parent, view) for view in VIEWS)}
    if not readable:
        originals = len(list(source.rglob("*.LJPEG")))
        raise Rejected(
            f"{source} holds {len(lists)} cases (.ics), {originals} LJPEG originals, which cannot be decoded, and no "
            "picture X.VIEW.png or .tif beside them; convert the originals first, under their own names"
        )
    return readable


def views_of(ics: Path) -> dict[str, View]:
    """The views that a .ics file lists.

    Raises:
        Rejected: a line of a view lacks a number that it must have.
    """
    lines = [line.split() for line in ics.read_text(encoding="latin-1").splitlines()]
    return {words[0]: _view(ics, words) for words in lines if words and words[0] in VIEWS}


def gravest(overlay: Path) -> int:
    """0 to 2: the gravest PATHOLOGY of an overlay's findings.

    Raises:
        Rejected: there is none, or one that is not proven.
    """
    words = [line.split() for line in overlay.read_text(encoding="latin-1").splitlines()]
    named = [line[1] for line in words if len(line) > 1 and line[0] == "PATHOLOGY"]
    unknown = [name for name in named if name not in _PATHOLOGIES]
    if not named or unknown:
        raise Rejected(f"its overlay tells the pathology {', '.join(unknown) or 'of nothing'}, so it has no class")
    return max(_PATHOLOGIES[name] for name in named)


def _view(ics: Path, words: list[str]) -> View:
    try:
        numbers = {name: words[words.index(name) + 1] for name in ("LINES", "PIXELS_PER_LINE", "RESOLUTION")}
        rows, columns, resolution = int(numbers["LINES"]), int(numbers["PIXELS_PER_LINE"]), float(numbers["RESOLUTION"])
    except (ValueError, IndexError) as error:
        raise Rejected(
            f"{ics.name}: {' '.join(words)} lacks LINES, PIXELS_PER_LINE or RESOLUTION; copy it again"
        ) from error
    return View(words[0], rows, columns, resolution, "OVERLAY" in words)


def _picture(folder: Path, view: str) -> Path | None:
    found = [path for path in sorted(folder.glob(f"*.{view}.*")) if path.suffix.lower() in pictures.SUFFIXES]
    return found[0] if found else None


def _items(ics: Path, out: Path, key: bytes, case: str, left_out: list[str]) -> list[Item]:
    found, patient = [], pseudonym(key, case, prefix="P")
    for view in views_of(ics).values():
        picture = _picture(ics.parent, view.name)
        try:
            if picture is None:
                raise Rejected("it has no picture that can be read")
            found.append(_item(picture, view, _label(picture, view), out, patient))
        except Rejected as error:
            left_out.append(f"{patient} {view.name}: {error}")
    return found


def _label(picture: Path, view: View) -> int:
    if not view.has_overlay:
        return 0
    overlay = picture.with_suffix(".OVERLAY")
    if not overlay.is_file():
        raise Rejected("its overlay is missing, so it has no class")
    return gravest(overlay)


def _item(picture: Path, view: View, label: int, out: Path, patient: str) -> Item:
    pixels, file = pictures.grey(picture)
    side, projection = view.name.split("_")
    whole = pixels.shape == (view.rows, view.columns)  # a picture of another size has another pixel
    spacing_mm = view.resolution_um / 1000
    shown = Projection(
        pixels=pixels,
        units="1",
        spacing_mm=(spacing_mm, spacing_mm) if whole else None,
        spacing_of="imager" if whole else "",
        laterality=side[0],
        view=projection,
        breast_side=chest_wall_side(pixels),
    )
    return cohorts.add_projection(
        out,
        f"{patient}_{side[0]}{projection}",
        shown,
        patient,
        channel="view",
        label=label,
        provenance=pictures.provenance(NAME, file=file),
    )
