"""Volumes and projections as NIfTI files with a sidecar, and back.

Axes turn here: our (slice, row, column) index and patient LPS become NIfTI's (column, row, slice) and RAS. NIfTI keeps
its affine in 32 bits and has no place for units, frame of reference or sources; `NAME.json` beside `NAME.nii.gz` holds
them, and the affine in full precision, so that `read(write(volume))` gives the same volume again.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Float64, Projection, Source, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Columns of an affine for index (slice, row, column) <-> (column, row, slice): the same swap both ways.
_SWAP = np.eye(4)[[2, 1, 0, 3]]
# 32-bit floats hold a position of 1 m to 0.06 um; more than this is another grid.
_HEADER_TOLERANCE_MM = 1e-2


def write(volume: Volume, path: Path, *, note: Mapping[str, Any] | None = None) -> None:
    """Write NAME.nii.gz and NAME.json. Channels become the fourth axis. The same volume gives the same bytes.

    Values are float32, or 8 or 16 bit integers where all of them are such; `read` gives float32 again. note: as for
    `write_projection`.
    """
    sidecar = {
        "kind": "volume",
        "units": volume.units,
        "frame_of_reference_uid": volume.frame_of_reference_uid,
        "affine_lps": volume.affine.tolist(),
        "channel_axis": volume.voxels.ndim == 4,
        "sources": [asdict(source) for source in volume.sources],
        **({"made_from": [asdict(source) for source in volume.made_from]} if volume.made_from else {}),
        "synthetic": volume.is_synthetic,
        **({"note": dict(note)} if note else {}),
    }
    _write(volume.voxels, volume.affine, sidecar, path)


def read(path: Path) -> Volume:
    """The volume that `write` wrote.

    Raises:
        Rejected: no sidecar, the sidecar is of a projection, or header and sidecar name different places.
    """
    voxels, affine, sidecar = _read(path, "volume")
    return Volume(
        voxels=voxels,
        affine=affine,
        frame_of_reference_uid=sidecar["frame_of_reference_uid"],
        units=sidecar["units"],
        sources=tuple(Source(**source) for source in sidecar["sources"]),
        made_from=tuple(Source(**source) for source in sidecar.get("made_from", ())),
    )


def write_projection(projection: Projection, path: Path, *, note: Mapping[str, Any] | None = None) -> None:
    """Write a picture as a NIfTI of one slice; its affine holds the spacing (1 where unknown) and no place.

    note: goes into the sidecar as it is, e.g. model version, seed and audit of a generated picture.
    """
    down, across = projection.spacing_mm or (1.0, 1.0)
    affine = np.diag([across, down, 1.0, 1.0])[:, [2, 1, 0, 3]]
    sidecar = {
        "kind": "projection",
        "units": projection.units,
        "affine_lps": affine.tolist(),
        "channel_axis": projection.pixels.ndim == 3,
        "source": asdict(projection.source) if projection.source else None,
        "spacing_mm": projection.spacing_mm,
        "spacing_of": projection.spacing_of,
        "laterality": projection.laterality,
        "view": projection.view,
        "breast_side": projection.breast_side,
        "view_modifiers": projection.view_modifiers,
        "implant": projection.implant,
        "presentation": projection.presentation,
        "magnification": projection.magnification,
        "synthetic": projection.is_synthetic,
        "note": dict(note or {}),
    }
    _write(projection.pixels[..., None, :, :], affine, sidecar, path)


def read_projection(path: Path) -> Projection:
    """The projection that `write_projection` wrote. Raises Rejected as `read` does."""
    voxels, _, sidecar = _read(path, "projection")
    return Projection(
        pixels=np.ascontiguousarray(voxels[..., 0, :, :]),
        units=sidecar["units"],
        source=Source(**sidecar["source"]) if sidecar["source"] else None,
        spacing_mm=tuple(sidecar["spacing_mm"]) if sidecar["spacing_mm"] else None,
        spacing_of=sidecar["spacing_of"],
        laterality=sidecar["laterality"],
        view=sidecar["view"],
        breast_side=sidecar["breast_side"],
        # Sidecars of earlier versions do not have these.
        view_modifiers=tuple(sidecar.get("view_modifiers", ())),
        implant=sidecar.get("implant"),
        presentation=sidecar.get("presentation", ""),
        magnification=sidecar.get("magnification"),
    )


def kind(path: Path) -> str:
    """ "volume" or "projection", from the sidecar."""
    return str(_sidecar(path)["kind"])


def source_uids(path: Path) -> frozenset[str]:
    """SOP Instance UIDs of what a volume or projection was made from, as the sidecar has them."""
    sidecar = _sidecar(path)
    volume = sidecar["kind"] == "volume"
    sources = [*sidecar["sources"], *sidecar.get("made_from", ())] if volume else [sidecar["source"]]
    return frozenset(source["sop_instance_uid"] for source in sources if source)


def mask_on(path: Path, grid: Volume, *, tolerance_mm: float = 0.1) -> Volume:
    """A NIfTI mask of any maker, with voxels where `grid` has its own; axes are turned and flipped, never resampled.

    tolerance_mm: how far a corner of the mask may lie from the corner of the grid that it stands for.

    Raises:
        Rejected: the mask's grid is another one: size, step, direction or origin differ.
    """
    voxels, affine = foreign(path)
    turned = np.linalg.solve(grid.affine, affine)  # mask index -> grid index
    axes = np.argmax(np.abs(turned[:3, :3]), axis=1)  # grid axis -> mask axis
    if sorted(axes) != [0, 1, 2]:
        raise Rejected(f"{path.name} is oblique to the image's grid; resample it onto the image first")
    flips = np.array([turned[axis, axes[axis]] < 0 for axis in range(3)])
    onto = np.zeros((4, 4))
    onto[3, 3] = 1
    for axis in range(3):
        onto[axes[axis], axis] = -1 if flips[axis] else 1
        onto[axes[axis], 3] = voxels.shape[axes[axis]] - 1 if flips[axis] else 0
    moved = np.transpose(voxels, axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    mask = Volume(np.ascontiguousarray(moved), affine @ onto, grid.frame_of_reference_uid, units="1", sources=())
    if not mask.same_grid_as(grid, tolerance_mm):
        here, there = (np.round(volume.affine[:3, 3], 2).tolist() for volume in (mask, grid))
        raise Rejected(
            f"{path.name} has {mask.spatial_shape} voxels from {here} mm, the image {grid.spatial_shape} from {there}; "
            "resample it onto the image first"
        )
    return grid.with_voxels(mask.voxels, units="1")


def foreign(path: Path) -> tuple[Float32, Float64]:
    """Voxels (slice, row, column) and LPS affine of any 3-D NIfTI file of another maker; Rejected for other axes."""
    image = nibabel.load(path)
    if len(image.shape) != 3:
        raise Rejected(f"{path.name} has {len(image.shape)} axes, not 3; give one mask per file")
    voxels = np.asarray(image.get_fdata(dtype=np.float32)).transpose(2, 1, 0)
    return voxels, _LPS_TO_RAS @ image.affine @ _SWAP


def sidecar_of(path: Path) -> Path:
    """The file beside an image that says what its header cannot."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(sidecar_of(path).read_text())
    except FileNotFoundError:
        raise Rejected(
            f"{path.name} has no {sidecar_of(path).name} beside it, so its units and sources are unknown; "
            "import it with `mirall cohort import`"
        ) from None
    return document


def _write(voxels: Float32, affine: Float64, sidecar: dict[str, Any], path: Path) -> None:
    image = nibabel.Nifti1Image(_smallest(np.asarray(voxels, np.float32)).T, _LPS_TO_RAS @ affine @ _SWAP)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"Synthetic=YES" if sidecar["synthetic"] else b"Synthetic=NO"
    path.parent.mkdir(parents=True, exist_ok=True)
    # No file name and no time in the gzip header: a cohort's hash is of its content.
    _replace(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
    _replace(sidecar_of(path), (json.dumps(sidecar, indent=1, sort_keys=True) + "\n").encode())


def _smallest(voxels: Float32) -> npt.NDArray[Any]:
    """The same numbers in the smallest type that holds them: whole ones in 8 or 16 bits, which compress much faster."""
    if not voxels.size or not np.isfinite(voxels).all():
        return voxels
    low, high = float(voxels.min()), float(voxels.max())
    for kind in (np.uint8, np.int16):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            whole = voxels.astype(kind)
            # Zero has a sign in floating point, and that is no number of its own.
            return whole if np.array_equal(whole, voxels) else voxels
    return voxels


def _replace(path: Path, content: bytes) -> None:
    """The file is whole or not there."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _read(path: Path, expected: str) -> tuple[Float32, Float64, dict[str, Any]]:
    sidecar = _sidecar(path)
    if sidecar["kind"] != expected:
        raise Rejected(f"{path.name} is a {sidecar['kind']}, not a {expected}; read it as what it is")
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    affine = np.array(sidecar["affine_lps"], np.float64)
    voxels = np.ascontiguousarray(np.asarray(image.dataobj, np.float32).T)
    if np.abs(image.affine - _LPS_TO_RAS @ affine @ _SWAP).max() > _HEADER_TOLERANCE_MM:
        raise Rejected(
            f"{path.name} and its sidecar name different places; another tool changed one of them, import it"
        )
    if not sidecar["channel_axis"] and voxels.ndim == 4:
        voxels = voxels[0]
    return voxels, affine, sidecar
