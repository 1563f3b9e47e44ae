"""Data sets as lines of classifiers see them: small pictures of one size, a folder for each view, not split yet.

A view is one way of showing the same pictures; items have the same names in all of them. Names of groups and pseudonyms
are made without a secret, for the pictures are public: so the same data are dealt in the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dicom_io import border, breast
from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort, Item, SplitUnit
from dicom_io.magnetic_resonance import otsu
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Float32, Projection
from samples.importers import brain_tumour, mini_mias, pictures
from samples.importers.by_patient import Progress

BRAIN_PX = 64
# A breast is twice as high as it is wide, about.
BREAST_PX = (128, 64)
# A picture without its border that is smaller than this has lost more than its border.
_SMALLEST = 8
_KEY = b"no secret: the pictures are public"


def squeezed(picture: Float32) -> Float32:
    """All of it, whatever its sides were, in `BRAIN_PX` squared: borders, proportions and grey levels still tell."""
    return _resized(picture, (BRAIN_PX, BRAIN_PX))


def body(picture: Float32) -> Float32:
    """What is not border, in `BRAIN_PX` squared, grey levels from its 1st to its 99th percentile onto 0 to 255.

    Size and proportions of the picture, its margins and its brightness are gone. Not gone: which plane and which
    sequence it is, and how the head is cut off.
    """
    rows, columns = border.content(picture)
    inner = picture[rows, columns]
    small = _resized(inner if min(inner.shape) >= _SMALLEST else picture, (BRAIN_PX, BRAIN_PX))
    return _stretched(small, small)


# --- brain tumours ------------------------------------------------------------------------------------------------

BRAIN_VIEWS: Mapping[str, Callable[[Float32], Float32]] = {"published": squeezed, "hidden": body}


def brain(source: Path, out: Path, progress: Progress) -> None:
    """OUT/published and OUT/hidden. What the file says is kept with the first, its bytes with it.

    Raises:
        Rejected: as `brain_tumour.pictures_in`.
    """
    found = brain_tumour.pictures_in(source)
    groups, labels = brain_tumour.grouped(found, progress), brain_tumour.classes(found)
    items: dict[str, list[Item]] = {view: [] for view in BRAIN_VIEWS}
    for group, members in sorted(groups.items()):
        patient = f"D{group[:16]}"
        for number, picture in enumerate(sorted(members, key=lambda each: (each.content, each.path))):
            pixels, file = pictures.grey(picture.path)
            told = {"file": file | {"bytes": picture.path.stat().st_size}, "published_split": picture.half}
            for view, shown in BRAIN_VIEWS.items():
                items[view].append(
                    cohorts.add_projection(
                        out / view,
                        f"{patient}_{number}",
                        Projection(pixels=shown(pixels), units="1"),
                        patient,
                        channel="picture",
                        label=labels.index(picture.label),
                        provenance=pictures.provenance("brain-tumour", **(told if view == "published" else {})),
                    )
                )
    for view in BRAIN_VIEWS:
        _save(out / view, items[view], labels, brain_tumour.told(groups), "MR", "near-duplicate group")


# --- mammograms ---------------------------------------------------------------------------------------------------


def mammograms(source: Path, out: Path, progress: Progress) -> None:
    """OUT/breast: films of mini-MIAS as normal or abnormal (benign or malignant).

    Raises:
        Rejected: as `mini_mias.by_film`; or a film shows no breast.
    """
    findings = mini_mias.by_film(source)
    items = []
    for done, (film, found) in enumerate(sorted(findings.items())):
        progress(done, len(findings), "films")
        pixels, _ = pictures.grey(source / f"{film}.pgm")
        patient = pseudonym(_KEY, mini_mias.woman(film), prefix="P")
        shown, told = breast_of(pixels)
        items.append(
            cohorts.add_projection(
                out / "breast",
                f"{patient}_{mini_mias.laterality(film)}",
                Projection(pixels=shown, units="1"),
                patient,
                channel="picture",
                label=int(any(finding.severity for finding in found)),
                provenance=pictures.provenance("mini-mias", breast=told),
            )
        )
    women = len({item.patient for item in items})
    told_of_all = f"{len(items)} films of {women} women, {sum(item.label or 0 for item in items)} films abnormal"
    _save(out / "breast", items, ("normal", "abnormal"), told_of_all, "MG", "patient")


def breast_of(film: Float32) -> tuple[Float32, dict[str, float]]:
    """The breast alone in `BREAST_PX`, its chest wall to the left; and what the film says of it without a look at it.

    That is its share of the film, mean and spread of its grey levels, and the share that Otsu's threshold calls dense.
    Grey levels of the picture run from the 1st to the 99th percentile in the breast; air, markers and labels are 0.

    Raises:
        Rejected: there is no breast.
    """
    inside = breast.mask(film)
    grey = film[inside]
    told = {
        "area": float(inside.mean()),
        "mean": float(grey.mean()),
        "spread": float(grey.std()),
        "dense": float((grey > otsu(grey)).mean()),
    }
    stretched = np.where(inside, _stretched(film, grey), np.float32(0))
    cut, placement = breast.crop(Projection(pixels=stretched, units="1"), inside)
    turned = cut.pixels[:, ::-1] if _wall_is_right(placement.cut(inside)) else cut.pixels
    return _resized(np.ascontiguousarray(turned), BREAST_PX), told


def _wall_is_right(breast_: breast.Mask) -> bool:
    """Whether the breast, cut out, is straight on the right: the film's black frame hides it from `chest_wall_side`."""
    reach = max(breast_.shape[1] // 100, 1)
    left, right = breast_[:, :reach].any(axis=1), breast_[:, -reach:].any(axis=1)
    return bool(right.sum() > left.sum())


# --- both ---------------------------------------------------------------------------------------------------------


def _resized(picture: Float32, size: tuple[int, int]) -> Float32:
    """(rows, columns), each pixel a weighted mean of what it covers: Pillow widens the triangle when it shrinks."""
    image = Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def _stretched(picture: Float32, of: Float32) -> Float32:
    low, high = np.percentile(of, (1, 99)).tolist()
    return np.clip((picture - low) / max(high - low, 1e-6), 0, 1).astype(np.float32) * 255


def _save(
    folder: Path, items: Sequence[Item], labels: tuple[str, ...], description: str, modality: str, unit: SplitUnit
) -> None:
    cohorts.save(
        Cohort(
            folder=folder,
            name=folder.name,
            task="classification",
            labels=labels,
            channels=(Channel("picture", modality, "1"),),
            splits={"training": tuple(items)},
            split_unit=unit,
            description=description,
        )
    )
