"""A mammogram as a `Projection`: bright is dense, and breast, view and chest wall are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from dicom_io import pixels
from dicom_io.errors import Rejected
from dicom_io.magnetic_resonance import otsu
from dicom_io.volume import Float32, Projection, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Side = Literal["left", "right", ""]

# PS3.16 CID 4014 "View for Mammography" in SNOMED CT, and the SNOMED-RT codes of older objects (also called SNM3).
_VIEWS = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
    "399260004": "ML",
    "R-10224": "ML",
    "399352003": "LM",
    "R-10228": "LM",
    "399099002": "LMO",
    "R-10230": "LMO",
    "399196006": "FB",
    "R-10244": "FB",
    "399188001": "SIO",
    "R-102D0": "SIO",
    "441555000": "ISO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
}
# PS3.16 CID 244 "Laterality".
_LATERALITIES = {"7771000": "L", "G-A101": "L", "24028007": "R", "G-A100": "R"}
# Less than this share more breast on one side than on the other, and the picture does not say where the chest wall is.
_CLEAR_SHARE = 0.2


def projection(ds: Dataset, dataset_hash: str) -> Projection:
    """One mammogram: (rows, columns) float32 in modality units, MONOCHROME1 turned so that bright is dense.

    dataset_hash: as `dataset.dataset_hash` gives it, for the source.

    Raises:
        Rejected: several frames (tomosynthesis), a colour picture, or Patient Orientation (0020,0020) puts the
            chest wall on the other side than the breast lies on.
        UndecodablePixels: see `pixels.stored`.
    """
    named = f"mammogram {ds.SOPInstanceUID}"
    if pixels.number_of_frames(ds) > 1:
        raise Rejected(f"{named} has {pixels.number_of_frames(ds)} frames (tomosynthesis); send two-dimensional views")
    if ds.get("SamplesPerPixel", 1) != 1:
        raise Rejected(f"{named} is a colour picture ({ds.get('PhotometricInterpretation')}); send the grey original")
    values = _bright_is_dense(ds)
    spacing_mm, spacing_of = spacing(ds)
    return Projection(
        pixels=values,
        units="1",
        source=Source(
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            dataset_hash=dataset_hash,
            synthetic=ds.get("SyntheticData") == "YES",
        ),
        spacing_mm=spacing_mm,
        spacing_of=spacing_of,
        laterality=laterality(ds),
        view=view(ds),
        breast_side=_agreed_side(named, breast_side(values), side_by_orientation(ds)),
    )


def _bright_is_dense(ds: Dataset) -> Float32:
    """MONOCHROME1 shows its smallest value white (PS3.3 C.7.6.3.1.2): mirrored in the range that Bits Stored allows."""
    values = pixels.modality(ds)
    if ds.PhotometricInterpretation != "MONOCHROME1":
        return values
    bits, slope_intercept = int(ds.BitsStored), pixels.rescale(ds)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2**bits - 1)
    return np.asarray(slope_intercept[0] * (low + high) + 2 * slope_intercept[1] - values, np.float32)


def laterality(ds: Dataset) -> str:
    """Image Laterality (0020,0062), Laterality (0020,0060) or the region's code: "L", "R", or "" for both, unknown."""
    for keyword in ("ImageLaterality", "Laterality"):
        if ds.get(keyword) in ("L", "R"):
            return str(ds.get(keyword))
    for region in ds.get("AnatomicRegionSequence") or ():
        for modifier in region.get("AnatomicRegionModifierSequence") or ():
            return _LATERALITIES.get(str(modifier.get("CodeValue")), "")
    return ""


def view(ds: Dataset) -> str:
    """ "CC", "MLO", ... or "": View Code Sequence (0054,0220), else View Position (0018,5101)."""
    for item in ds.get("ViewCodeSequence") or ():
        if str(item.get("CodeValue")) in _VIEWS:
            return _VIEWS[str(item.CodeValue)]
    return str(ds.get("ViewPosition") or "")


def spacing(ds: Dataset) -> tuple[tuple[float, float] | None, str]:
    """((down, across) in mm, "imager" | "patient"), or (None, "").

    Imager Pixel Spacing (0018,1164) is at the detector. Pixel Spacing (0028,0030) that differs from it has been
    calibrated to the patient (PS3.3 10.7.1.3) and is preferred; one that equals it says nothing new.
    """
    at_imager, in_patient = (
        (float(value[0]), float(value[1])) if value else None
        for value in (ds.get("ImagerPixelSpacing"), ds.get("PixelSpacing"))
    )
    if in_patient and in_patient != at_imager:
        return in_patient, "patient"
    return (at_imager, "imager") if at_imager else (None, "")


def breast_side(values: Float32) -> Side:
    """Side of the picture that the chest wall is on, from the picture: there the breast reaches the border.

    Breast is what lies above Otsu's threshold between air and tissue (halved, as the skin line is dark); "" where both
    outer tenths hold much the same share of it.
    """
    coarse = values[:: max(values.shape[0] // 256, 1), :: max(values.shape[1] // 256, 1)]
    if float(coarse.min()) == float(coarse.max()):
        return ""
    low = float(np.median(np.sort(coarse, axis=None)[: max(coarse.size // 20, 1)]))
    breast = coarse > low + (otsu(coarse) - low) / 2
    outer = max(coarse.shape[1] // 10, 1)
    left, right = float(breast[:, :outer].mean()), float(breast[:, -outer:].mean())
    if abs(left - right) < _CLEAR_SHARE * max(left + right, 1e-9):
        return ""
    return "left" if left > right else "right"


def side_by_orientation(ds: Dataset) -> Side:
    """Chest wall by Patient Orientation (0020,0020): rows that run to the front (A) start there, others end."""
    along_row = str((ds.get("PatientOrientation") or [""])[0])
    return "left" if along_row.startswith("A") else "right" if along_row.startswith("P") else ""


def _agreed_side(named: str, seen: Side, stated: Side) -> Side:
    if seen and stated and seen != stated:
        raise Rejected(
            f"{named}: Patient Orientation (0020,0020) puts the chest wall on the {stated} of the picture, but the "
            f"breast lies on the {seen}; the picture or the attribute is flipped, correct it"
        )
    return seen or stated
