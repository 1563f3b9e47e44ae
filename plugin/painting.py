"""Pictures of masks as DICOM: a series for each channel, and the mask as SEG on it, of a fictitious patient.

A mask of one slice gives pictures laid one behind the other, each in its own style; a mask of a volume gives a volume
in one style, and another one for each further picture. They bear no reference to the patient of a SEG that was drawn on
real images: what is kept are its pixels, their spacing, which of the patient's axes they run along, and a hash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from scipy.optimize import linear_sum_assignment

from dicom_io import drawn_masks, secondary_capture, segmentation
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Float64, Volume
from models import from_pictures, version
from models.from_pictures import Painter
from plugin import encodings
from plugin.model_cache import LOADED
from plugin.outputs import Made, Object, Progress, form_under_masks, forms, grid, segments_of, silent, write
from plugin.pipeline import generator_of, require_few


@dataclass(frozen=True, eq=False)
class Canvas:
    """What is painted at once. masks: (slices, rows, columns) numbers; affine: where they lie; codes: number of the
    style of each slice; made_of: what names them."""

    masks: npt.NDArray[np.uint8]
    affine: Float64
    codes: list[int]
    made_of: str


def paint(
    model_folder: Path,
    out: Path,
    *,
    mask: Path | None = None,
    masks_of: Path | None = None,
    n: int | None = None,
    seed: int,
    made_at: datetime,
    force: bool = False,
    encodings: Collection[str] = encodings.DEFAULT,
    progress: Progress = silent,
) -> list[Made]:
    """`n` pictures of a mask from a file, or of `n` masks that another generator draws, into `out`.

    n: None makes 16, of the mask of a volume 1.

    Raises:
        Rejected: the model paints no masks, these labels are not its own, or `n` is too many for the memory.
        OutOfDomain: pixels of another size than the model's card says, and `force` is not set.
    """
    model = _painter(model_folder)
    canvases = _of_file(model, mask, n) if mask else _of_generator(model, masks_of, n or 16, seed)
    made: list[Made] = []
    for number, canvas in enumerate(canvases):
        progress({"stage": "generating", "done": number, "total": len(canvases)})
        outside = _is_outside(model, canvas, force)
        made += write(_painted(model, canvas, seed, made_at, outside, encodings), out)
    progress({"stage": "done", "done": len(canvases), "total": len(canvases)})
    return made


def _of_file(model: Painter, path: Path, n: int | None) -> list[Canvas]:
    drawn = drawn_masks.read(path, model.labels)
    slices, rows, columns = drawn.numbers.shape
    if drawn.affine is None:
        affine = _behind(*model.spacing_mm(rows, columns))
    else:
        affine = _of_nobody(drawn.affine, drawn.numbers.shape)
    if slices == 1:
        require_few(n or 16)
        return [Canvas(np.repeat(drawn.numbers, n or 16, 0), affine, [*range(n or 16)], drawn.digest)]
    return [Canvas(drawn.numbers, affine, [code] * slices, f"{drawn.digest}, style {code}") for code in range(n or 1)]


def _of_generator(model: Painter, folder: Path | None, n: int, seed: int) -> list[Canvas]:
    assert folder is not None
    drawing = generator_of(folder)
    if drawing.mask_labels != model.labels:
        raise Rejected(
            f"{drawing.identity.address} draws {', '.join(drawing.mask_labels) or 'no masks'}, and "
            f"{model.identity.address} paints {', '.join(model.labels)}; the labels must be the same"
        )
    require_few(n)
    masks = [sample.mask for sample in drawing.samples(n, seed) if sample.mask is not None]
    made_of = f"masks of {drawing.identity.address} {drawing.identity.content_hash[:12]}"
    if drawing.dims == 3:
        lies = grid(drawing.spacing_mm or (1.0, 1.0, 1.0))
        return [
            Canvas(mask, lies, [number] * len(mask), f"{made_of}, sample {number}") for number, mask in enumerate(masks)
        ]
    down, across = drawing.spacing_mm or model.spacing_mm(*masks[0].shape)
    return [Canvas(np.stack(masks), _behind(down, across), [*range(n)], made_of)]


def _behind(down: float, across: float) -> Float64:
    """Where pictures without a place lie when they are laid one behind the other."""
    return grid((max(across, down), down, across))


def _of_nobody(affine: Float64, shape: tuple[int, ...]) -> Float64:
    """The same steps along the nearest of the patient's axes, with the middle at 0 mm: place and tilt of a real mask
    would tell whose it is to anyone who has the images that it was drawn on."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / steps
    axes, indices = linear_sum_assignment(-np.abs(cosines))
    moved = np.eye(4)
    moved[:3, :3] = 0
    moved[axes, indices] = np.copysign(steps[indices], cosines[axes, indices])
    moved[:3, 3] = -moved[:3, :3] @ ((np.array(shape) - 1) / 2)
    return moved


def _is_outside(model: Painter, canvas: Canvas, force: bool) -> bool:
    down, across = np.linalg.norm(canvas.affine[:3, 1:3], axis=0).tolist()
    _, rows, columns = canvas.masks.shape
    try:
        model.check_domain(rows, columns, (down, across))
    except OutOfDomain:
        if not force:
            raise
        return True
    return False


def _painted(
    model: Painter, canvas: Canvas, seed: int, made_at: datetime, outside: bool, wanted: Collection[str]
) -> Iterator[Object]:
    pictures = model.paint(canvas.masks, seed, canvas.codes)
    names = " and ".join(model.labels)
    common: dict[str, Any] = {
        "model": model.identity,
        "made_at": made_at,
        "out_of_domain": outside,
        "audit_id": model.description.audit_id,
    }
    captures: dict[str, list[tuple[Dataset, LabelRecord]]] = {}
    for number, frames in enumerate(pictures):
        channel = model.made[number] if len(model.made) > 1 else ""
        for form in forms(wanted):
            captures[form] = secondary_capture.generated_volume(
                Volume(frames, canvas.affine, "", model.description.units),
                seed=seed,
                label="",
                channel=channel,
                made_of=canvas.made_of,
                value_range=model.pixel_range,
                form=form,
                **common,
            )
            finding = f"{len(frames)} slices of {channel or model.made[0]} with {names}, seed {seed}"
            yield from ((dataset, record, finding, form) for dataset, record in captures[form])
    share = float((canvas.masks > 0).any((1, 2)).mean())
    for encoding, arguments in encodings.SEGMENTATIONS.items():
        if encoding in wanted:
            seg, record = segmentation.of_generated(
                Volume(canvas.masks.astype(np.float32), canvas.affine, "", "1"),
                captures=captures[form_under_masks(wanted)],
                segments=segments_of(("background", *model.labels)),
                parameters={"seed": seed, "made_of": canvas.made_of},
                description=f"{names}, painted by {model.identity.address}",
                **common,
                **arguments,
            )
            yield seg, record, f"{names} on {share:.0%} of {len(canvas.masks)} slices", encoding


def takes_masks(model_folder: Path) -> bool:
    """Whether the model makes pictures of masks."""
    given = version.load(model_folder).description.given
    return given is not None and given.kind == "mask"


def _painter(folder: Path) -> Painter:
    return LOADED.get(folder, lambda: _loaded(folder), "painter")


def _loaded(folder: Path) -> Painter:
    model = from_pictures.load(folder)
    if not isinstance(model, Painter):
        raise Rejected(f"{model.identity.address} makes pictures of DICOM files, not of masks; use `mirall predict`")
    return model
