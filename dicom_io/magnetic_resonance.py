"""MR images: which contrast they show, and intensities that can be compared between scanners."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io import private
from dicom_io.dataset import value
from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Contrast = Literal["T1", "T2", "FLAIR", ""]

# Later values of Image Type (0008,0008) of what is computed from images and shows no contrast of its own.
_MAPS = frozenset(
    (
        "ADC",
        "FA",
        "TRACEW",
        "DIFFUSION",
        "PERFUSION",
        "DCE",
        "PE1",
        "SER",
        "CBF",
        "CBV",
        "MTT",
        "TTP",
        "T1_MAP",
        "T2_MAP",
    )
)


class Evidence(NamedTuple):
    """A contrast, and the attributes and values that speak for it."""

    contrast: Contrast
    reason: str


def contrast(ds: Dataset) -> Contrast:
    """ "T1", "T2", "FLAIR", or "" where the attributes do not say or contradict each other."""
    return evidence(ds).contrast


def evidence(ds: Dataset) -> Evidence:
    """Contrast from the sequence's times, and from Series Description (0008,103E) and Protocol Name (0018,1030).

    Times are physics but are often stripped; words are habits but survive. Where both speak they must agree, with one
    exception: a FLAIR whose Inversion Time (0018,0082) is missing looks like a T2 by its other times.
    """
    kinds = image_kinds(ds)
    if kinds[:1] == ["DERIVED"] and _MAPS.intersection(kinds):
        return Evidence("", f"Image Type (0008,0008) {'/'.join(kinds)}: a map computed from images")
    by_times, by_words = _from_times(ds), _from_words(ds)
    if not by_times.contrast or not by_words.contrast or by_times.contrast == by_words.contrast:
        return by_times if by_times.contrast else by_words
    if (by_times.contrast, by_words.contrast) == ("T2", "FLAIR") and not _time(ds, "InversionTime"):
        return by_words
    return Evidence("", f"{by_times.reason} say {by_times.contrast}, but {by_words.reason} says {by_words.contrast}")


def _from_times(ds: Dataset) -> Evidence:
    """Repetition (0018,0080), Echo (0018,0081), Inversion Time (0018,0082) in ms; Scanning Sequence (0018,0020)."""
    tr, te, ti = (_time(ds, keyword) for keyword in ("RepetitionTime", "EchoTime", "InversionTime"))
    kinds = ds.get("ScanningSequence") or ()
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    reason = f"Scanning Sequence {'/'.join(sorted(kinds)) or 'unknown'}, TR {tr:g}, TE {te:g}, TI {ti:g} ms"
    if not tr or not te or "EP" in kinds:  # echo-planar: diffusion and function, none of the three
        return Evidence("", reason)
    if ti >= 1500 and te >= 60:
        return Evidence("FLAIR", reason)
    if te < 10 and (400 <= ti < 1500 or ("GR" in kinds and not ti and tr < 50)):  # MPRAGE; spoiled gradient echo
        return Evidence("T1", reason)
    if ti or "GR" in kinds:
        return Evidence("", reason)
    if tr < 1200 and te <= 30:
        return Evidence("T1", reason)
    return Evidence("T2" if tr > 2000 and te >= 60 else "", reason)


def _time(ds: Dataset, keyword: str) -> float:
    found: Any = ds.get(keyword)
    return float(found) if found not in (None, "") else 0.0


def _from_words(ds: Dataset) -> Evidence:
    text = f"{ds.get('SeriesDescription') or ''} {ds.get('ProtocolName') or ''}"
    reason = f"description {text.strip()!r}"
    if re.search(r"FLAIR|DARK.?FLUID", text, re.IGNORECASE):
        return Evidence("FLAIR", reason)
    found = set(re.findall(r"(?<![A-Z0-9])T([12])(?![0-9*]| ?STAR)", text.upper()))
    if re.search(r"MP-?RAGE|FSPGR|BRAVO", text, re.IGNORECASE):
        found.add("1")
    if len(found) != 1:
        return Evidence("", reason)
    return Evidence("T1" if found == {"1"} else "T2", reason)


# (0043,xx2F) of GE: which part of the complex image.
_GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
_COMPONENTS = {
    "M": "MAGNITUDE",
    "P": "PHASE",
    "R": "REAL",
    "I": "IMAGINARY",  # Siemens, Philips
    "PHASE MAP": "PHASE",
}


def image_kinds(ds: Dataset) -> list[str]:
    """The values of Image Type (0008,0008); one alone comes as a text, not as a list."""
    found = value(ds, "ImageType") or ()
    return [found] if isinstance(found, str) else [str(kind) for kind in found]


def component(ds: Dataset) -> str | None:
    """MAGNITUDE, PHASE, REAL, IMAGINARY or MIXED, or None where nothing says.

    Complex Image Component (0008,9208); else GE's Raw Data Type (0043,xx2F); else the third and further values of
    Image Type (0008,0008), where Siemens and Philips have a letter for it.
    """
    stated = value(ds, "ComplexImageComponent")
    if stated:
        return str(stated)
    of_ge = private.numbers(ds, 0x0043, "GEMS_PARM_01", 0x2F, "SS")
    if of_ge and 0 <= of_ge[0] < len(_GE_COMPONENTS):
        return _GE_COMPONENTS[int(of_ge[0])]
    return next((_COMPONENTS[kind] for kind in image_kinds(ds)[2:] if kind in _COMPONENTS), None)


def head_mask(voxels: Float32) -> npt.NDArray[np.bool_]:
    """(slices, rows, columns) -> what is head and not air: the largest object above Otsu's threshold, holes filled.

    Otsu (1979) on all voxels, then halved: his threshold lies between air and bright tissue, and dark tissue is tissue.
    Holes (air in sinuses, dark fluid) are filled slice by slice.

    Raises:
        Rejected: all voxels have one value.
    """
    if float(voxels.min()) == float(voxels.max()):
        raise Rejected("all voxels of the MR volume have one value, so there is no head in it; send another series")
    low = float(voxels.min())
    above = voxels > low + (otsu(voxels) - low) / 2
    labelled, count = ndimage.label(above)
    if count > 1:
        sizes = np.bincount(labelled.ravel())
        sizes[0] = 0
        above = labelled == sizes.argmax()
    return np.stack([ndimage.binary_fill_holes(one) for one in above])


def otsu(values: Float32, bins: int = 256) -> float:
    """Otsu's threshold: the cut of the histogram with the largest variance between its two sides.

    Where no value lies between the sides every cut of the gap is as good, and its middle is taken.
    """
    counts, edges = np.histogram(values, bins=bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    means_below = sums[:-1] / np.maximum(below, 1)
    means_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    variance = below * above * (means_below - means_above) ** 2
    best = np.flatnonzero(variance >= variance.max() * (1 - 1e-9))
    return float(edges[1:-1][best].mean())


def normalise(volume: Volume) -> Volume:
    """Mean 0 and standard deviation 1 inside the head, 0 outside; each channel by itself. Units become "1".

    MR intensities have no scale of their own (receiver gain, coil); inside the head they are comparable after this.

    Raises:
        Rejected: a channel is constant.
    """
    channels = volume.voxels if volume.voxels.ndim == 4 else volume.voxels[None]
    scaled = np.stack([_standardised(channel) for channel in channels])
    return volume.with_voxels(scaled.reshape(volume.voxels.shape), units="1")


def _standardised(channel: Float32) -> Float32:
    mask = head_mask(channel)
    inside = channel[mask].astype(np.float64)
    return np.asarray(np.where(mask, (channel - inside.mean()) / (inside.std() or 1.0), 0), np.float32)
