"""A mammogram as a `Projection`: bright is dense, and breast, view and chest wall are known.

Attributes: PS3.3 C.8.11 (DX and mammography modules), C.7.5.1.1.2 (pixel padding), 10.7.1.3 (spacing in projections);
codes: PS3.16 CID 244, 4014, 4015, in SNOMED CT, and in the SNOMED-RT codes of older objects (also called SNM3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dicom_io import dataset, pixels
from dicom_io.breast import Mask, Side, chest_wall_side
from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Projection, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# CID 4014 "View for Mammography".
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
    "R-40AAA": "ISO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
}
# CID 4015 "View Modifier for Mammography".
_MODIFIERS = {
    "399161006": "cleavage",
    "R-102D2": "cleavage",
    "399011000": "axillary tail",
    "R-102D1": "axillary tail",
    "399197002": "rolled lateral",
    "R-102D3": "rolled lateral",
    "399226006": "rolled medial",
    "R-102D4": "rolled medial",
    "414493004": "rolled inferior",
    "R-102CA": "rolled inferior",
    "415670009": "rolled superior",
    "R-102C9": "rolled superior",
    "399209000": "implant displaced",
    "R-102D5": "implant displaced",
    "399163009": "magnification",
    "R-102D6": "magnification",
    "399055006": "spot compression",
    "R-102D7": "spot compression",
    "399110001": "tangential",
    "R-102C2": "tangential",
    "442581004": "nipple in profile",
    "R-40AB3": "nipple in profile",
    "441752004": "anterior compression",
    "P2-00161": "anterior compression",
    "442593008": "infra-mammary fold",
    "R-40ABE": "infra-mammary fold",
    "442580003": "axillary tissue",
    "R-40AB2": "axillary tissue",
}
# CID 244 "Laterality".
_LATERALITIES = {"7771000": "L", "G-A101": "L", "24028007": "R", "G-A100": "R"}
# Values that are read here; one that cannot be parsed refuses its mammogram with a sentence.
_NEEDED = (
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "BreastImplantPresent", "PresentationIntentType"),
    *("EstimatedRadiographicMagnificationFactor",),
)


def projection(ds: Dataset, dataset_hash: str) -> Projection:
    """One mammogram: (rows, columns) float32 in modality units, MONOCHROME1 turned so that bright is dense.

    dataset_hash: as `dataset.dataset_hash` gives it, for the source.

    Raises:
        Rejected: several frames (tomosynthesis), a colour picture, Patient Orientation (0020,0020) puts the chest wall
            on the other side than the breast lies on, or an attribute has no value that it can have.
        UndecodablePixels: see `pixels.stored`.
    """
    named = f"mammogram {ds.SOPInstanceUID}"
    if pixels.number_of_frames(ds) > 1:
        raise Rejected(f"{named} has {pixels.number_of_frames(ds)} frames (tomosynthesis); send two-dimensional views")
    if ds.get("SamplesPerPixel", 1) != 1:
        raise Rejected(f"{named} is a colour picture ({ds.get('PhotometricInterpretation')}); send the grey original")
    dataset.check_values(ds, _NEEDED)
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
        breast_side=_agreed_side(named, chest_wall_side(values), side_by_orientation(ds)),
        view_modifiers=view_modifiers(ds),
        implant=implant(ds),
        presentation=str(ds.get("PresentationIntentType") or ""),
        magnification=magnification(ds),
    )


def valid(ds: Dataset) -> Mask:
    """(rows, columns), True where a pixel was measured: stored values outside Pixel Padding Value to Range Limit.

    (0028,0120) and (0028,0121), PS3.3 C.7.5.1.1.2; both ends are padding, either may be the larger. All is True where
    there is no padding value. The pixels of `projection` stay as they are stored.
    """
    dataset.check_values(ds, _NEEDED)
    stored = pixels.stored(ds)
    value, limit = ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")
    if value is None or value == "":
        return np.ones(stored.shape, np.bool_)
    ends = sorted((int(value), int(value if limit is None or limit == "" else limit)))
    return np.asarray((stored < ends[0]) | (stored > ends[1]), np.bool_)


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


def view_modifiers(ds: Dataset) -> tuple[str, ...]:
    """View Modifier Code Sequence (0054,0222) of the view's code; a modifier of no known code by its Code Meaning."""
    items = [item for code in ds.get("ViewCodeSequence") or () for item in code.get("ViewModifierCodeSequence") or ()]
    return tuple(_modifier(item) for item in items)


def _modifier(item: Dataset) -> str:
    code = str(item.get("CodeValue") or "")
    return _MODIFIERS.get(code) or str(item.get("CodeMeaning") or code).lower()


def implant(ds: Dataset) -> bool | None:
    """Breast Implant Present (0028,1300): YES, NO, or None where it is absent or empty. Raises Rejected for others."""
    stated = str(ds.get("BreastImplantPresent") or "")
    if stated not in ("YES", "NO", ""):
        raise Rejected(
            f"mammogram {ds.SOPInstanceUID}: Breast Implant Present (0028,1300) is {stated}; correct it to YES or NO"
        )
    return stated == "YES" if stated else None


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


def magnification(ds: Dataset) -> float | None:
    """Estimated Radiographic Magnification Factor (0018,1114): at the detector over in the breast. None where absent.

    Raises:
        Rejected: it is below 1, so that the detector would lie before the breast.
    """
    stated = ds.get("EstimatedRadiographicMagnificationFactor")
    if stated is None or stated == "":
        return None
    if not 1 <= float(stated) < float("inf"):
        raise Rejected(
            f"mammogram {ds.SOPInstanceUID}: Estimated Radiographic Magnification Factor (0018,1114) is {stated}, and "
            "none is below 1; correct it"
        )
    return float(stated)


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
