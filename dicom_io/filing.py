"""Under which patient and study a result is filed, and when it says it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydicom import Dataset

from dicom_io import labels, references
from dicom_io.errors import Rejected
from dicom_io.labels import ISSUER
from dicom_io.provenance import FictitiousStudy, Kind, LabelRecord, ModelIdentity, canonical_json, result_uid
from dicom_io.volume import Source

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


def record_of_result(
    kind: Kind,
    *,
    model: ModelIdentity,
    sop_class_uid: str,
    naming: Mapping[str, Any],
    sources: Sequence[Dataset],
    refs: Sequence[Source],
    frame_numbers: Sequence[int],
    parameters: Mapping[str, Any],
    frame_of_reference_uid: str = "",
    out_of_domain: bool = False,
    audit_id: str = "",
) -> LabelRecord:
    """The record of the first instance of a result on images: UIDs that follow from `refs` and `naming`, the study and
    patient of the first source, and what it inherits of all.

    sources: all that it was made from, as data sets; frame_numbers: which frame each is (`references.frame_numbers`).

    Raises:
        ValueError: a source is not named by `refs`.
    """
    references.require_named([str(source.SOPInstanceUID) for source in sources], refs)
    return LabelRecord(
        kind=kind,
        model=model,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=result_uid("instance 1", model, refs, naming, sop_class_uid),
        series_instance_uid=result_uid("series", model, refs, naming, sop_class_uid),
        study_instance_uid=str(sources[0].StudyInstanceUID),
        patient_id=str(sources[0].get("PatientID") or ""),
        frame_of_reference_uid=frame_of_reference_uid,
        source_uids=references.instance_uids(sources),
        synthetic_input=any(ref.synthetic for ref in refs) or any(map(labels.is_synthetic, sources)),
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        parameters=canonical_json(parameters),
        source_equipment=tuple(labels.equipment_key(item) for item in labels.equipment_of(sources)),
        source_frames=references.frames_by_instance(sources, frame_numbers),
    )


def lossy(sources: Sequence[Dataset]) -> str:
    """Lossy Image Compression (0028,2110) of a result: "01" if any source ever was, and it stays so (C.7.6.1.1.5)."""
    return "01" if any(str(source.get("LossyImageCompression") or "") == "01" for source in sources) else "00"


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
        # Elements that a library took over from a source are the source's own, and are not changed in place.
        if keyword in dataset:
            delattr(dataset, keyword)
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
