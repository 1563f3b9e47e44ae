"""Files of the archive that a query finds, for what reads files: whole series, and the masks of their studies.

The query is QIDO-RS's: Modality=PT&PatientSex=F&StudyDate=20260101-
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

from dicom_io.errors import Rejected
from plugin.archive import query
from plugin.archive.index import Index, InstanceRow

_MODALITY = "00080060"


def files(index: Index, text: str, *, beside: tuple[str, ...] = (), with_synthetic: bool = False) -> list[Path]:
    """Files of the series that match, and those of these modalities in the same studies.

    Results of our own stay out: a model must not learn from its own predictions. with_synthetic: but for pictures that
    were generated.

    Raises:
        BadQuery: an unknown attribute, one that series are not searched by, or a malformed value.
        Rejected: no key at all, or nothing is found.
    """
    parameters = parse_qsl(text, keep_blank_values=True)
    if not parameters:
        raise Rejected(f"{text!r} asks for nothing; give at least one key, such as Modality=PT")
    with index.read() as connection:
        found = query.find(connection, query.parse("series", parameters))
        if not found:
            raise Rejected(f"no series of the archive matches {text!r}; ask for less")
        chosen = [
            row
            for study, series in found
            for row in index.instances(study, series_instance_uid=series, connection=connection)
            if not row.made_by_us or (with_synthetic and row.synthetic)
        ]
        masks = [
            row
            for study in dict.fromkeys(study for study, _ in found)
            for row in index.instances(study, include_ours=False, connection=connection)
            if _modality(row) in beside
        ]
    return list(dict.fromkeys(row.path for row in (*chosen, *masks)))


def _modality(row: InstanceRow) -> str:
    return str((row.attributes.get(_MODALITY, {}).get("Value") or [""])[0])
