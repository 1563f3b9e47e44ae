"""Who made an object, from what, and the UIDs that follow from it.

`LabelRecord` is what a job says about an object it made; `dicom_io.labels` derives from it the labels that the object
must carry (Synthetic Data (0008,001C), Conversion Type, Contributing Equipment, ...) and checks the bytes against them.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dicom_io.volume import Source

Kind = Literal["generated", "generated-from-real", "segmentation", "capture"]
State = Literal["unproven", "proven", "teaching"]

MANUFACTURER = "Mirall"
# Names of results live in a name space of our own, so that no other tool's name-based UUID can meet ours.
_NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "https://mirall.invalid/results")


@dataclass(frozen=True)
class ModelIdentity:
    """A released model version, as it stands in the objects it makes.

    content_hash: SHA-256 (hex) over the bundle's files. state: what its evaluation has shown so far.
    """

    name: str
    version: str
    content_hash: str
    state: State

    @property
    def address(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def device_uid(self) -> str:
        """Device UID (0018,1002): one per model version, a function of its content."""
        return name_based_uid("device", self.content_hash)


def name_based_uid(*parts: str) -> str:
    """A UID below 2.25 (PS3.5 B.2) that is a function of its parts: the same parts give the same UID anywhere."""
    return f"2.25.{uuid.uuid5(_NAMES, json.dumps(parts, ensure_ascii=False)).int}"


def result_uid(
    purpose: str, model: ModelIdentity, sources: Iterable[Source], parameters: Mapping[str, Any], sop_class_uid: str
) -> str:
    """UID of a result: a function of what it was made from and how, not of when (promise 2).

    purpose: "series", "instance 3", "frame of reference", ...; parameters: what changes pixels (threshold, seed, sample
    index, encoding profile), JSON-serialisable.
    """
    from_sources = sorted((source.sop_instance_uid, source.frame, source.dataset_hash) for source in sources)
    digest = hashlib.sha256(json.dumps(from_sources).encode()).hexdigest()
    return name_based_uid(purpose, model.content_hash, digest, json.dumps(parameters, sort_keys=True), sop_class_uid)


@dataclass(frozen=True)
class LabelRecord:
    """What a job says of one object it made; the gate derives the labels that the object must carry from this alone.

    source_uids: SOP Instance UIDs it was made from; empty for unconditional generation.
    synthetic_input: any source was synthetic, so the object is, too.
    frame_of_reference_uid: "" where the object has none.
    mark_rows: height in rows of the border strip with the visible mark, 0 where there is none.
    audit_id: identifier of the stored evaluation of the model version.
    """

    kind: Kind
    model: ModelIdentity
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    frame_of_reference_uid: str = ""
    source_uids: tuple[str, ...] = ()
    synthetic_input: bool = False
    out_of_domain: bool = False
    mark_rows: int = 0
    audit_id: str = ""

    @property
    def is_synthetic(self) -> bool:
        """Synthetic Data (0008,001C) must be YES."""
        return self.synthetic_input or self.kind in ("generated", "generated-from-real")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LabelRecord:
        fields = json.loads(text)
        fields["model"] = ModelIdentity(**fields["model"])
        fields["source_uids"] = tuple(fields["source_uids"])
        return cls(**fields)
