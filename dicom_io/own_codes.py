"""Codes of concepts that the standard has none for: the scheme 99MIRALL, and how an object says whose it is."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_io.provenance import MANUFACTURER

SCHEME = "99MIRALL"
CALIBRATED = Code("CALIBRATED", SCHEME, "Probability is calibrated")
DISAGREEMENT = Code("DISAGREEMENT", SCHEME, "Standard deviation of members' probabilities")


def identify(dataset: Dataset) -> None:
    """Coding Scheme Identification Sequence (0008,0110) of an object that uses one of them (PS3.3 C.12.1.1)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, f"{MANUFACTURER} codes"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    dataset.CodingSchemeIdentificationSequence = [scheme]
