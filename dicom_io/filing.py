"""Under which patient and study a result is filed, and when it says it was made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydicom import Dataset

from dicom_io.errors import Rejected
from dicom_io.labels import ISSUER
from dicom_io.provenance import FictitiousStudy

# Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), and what says that the patient was
# de-identified: a result must not claim less than its sources.
_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_OPTIONAL = (
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "TimezoneOffsetFromUTC",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
)


# Longer ones occur, and would make an invalid object of ours; what identifies patient and study is never cut.
_LONGEST = {"StudyID": 16, "StudyDescription": 64}


def under_sources(dataset: Dataset, sources: Sequence[Dataset]) -> None:
    """File a result under the patient and study of its sources; text is written as UTF-8, whatever the sources use.

    Raises:
        Rejected: the sources are of several studies or patients, so that none can own the result.
    """
    first = sources[0]
    studies = {str(source.StudyInstanceUID) for source in sources}
    if len(studies) > 1 or len({str(source.get("PatientID") or "") for source in sources}) > 1:
        raise Rejected(
            f"the sources belong to {len(studies)} studies ({' '.join(sorted(studies))}) or to several patients; "
            "make one result per study"
        )
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _REQUIRED:
        setattr(dataset, keyword, None)
    for keyword in (*_REQUIRED, *_OPTIONAL):
        if keyword in first:
            setattr(dataset, keyword, _copied(first, keyword))


def _copied(source: Dataset, keyword: str) -> object:
    element = source[keyword]
    if keyword in _LONGEST and isinstance(element.value, str):
        return element.value[: _LONGEST[keyword]]
    return element.value


def under_fictitious(dataset: Dataset, study: FictitiousStudy) -> None:
    """File a generated object under a patient and a study that do not exist."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = study.patient_name
    dataset.PatientID = study.patient_id
    dataset.IssuerOfPatientID = ISSUER
    dataset.PatientBirthDate = None
    dataset.PatientSex = None
    dataset.StudyInstanceUID = study.study_instance_uid
    dataset.StudyDate = study.started_at.strftime("%Y%m%d")
    dataset.StudyTime = study.started_at.strftime("%H%M%S")
    dataset.ReferringPhysicianName = None
    # Some archives merge studies whose Study ID is empty.
    dataset.StudyID = study.study_id
    dataset.AccessionNumber = study.study_id
    dataset.StudyDescription = study.description


def stamp(dataset: Dataset, made_at: datetime) -> None:
    """Set dates and times of creation, series and content to `made_at`, as wall clock time (PS3.3 C.12.1, C.7.3.1)."""
    for name in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, f"{name}Date", made_at.strftime("%Y%m%d"))
        setattr(dataset, f"{name}Time", made_at.strftime("%H%M%S.%f"))
