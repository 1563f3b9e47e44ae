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
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from dicom_io.volume import Source

Kind = Literal[
    "generated", "generated-from-real", "segmentation", "capture", "parametric-map", "report", "presentation-state"
]
State = Literal["unproven", "proven", "teaching"]

MANUFACTURER = "Mirall"
# Names of results live in a name space of our own, so that no other tool's name-based UUID can meet ours.
_NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "https://mirall.invalid/results")


# The parts of a model bundle that its identity covers.
_HASHED = ("configs", "models", "docs", "evaluation")


def content_hash(bundle: Path) -> str:
    """SHA-256 (hex) over names and bytes of a model bundle's files; the same wherever the folder lies."""
    digest = hashlib.sha256()
    files = [path for part in _HASHED for path in (bundle / part).rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.relative_to(bundle).as_posix()):
        file_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(bundle).as_posix()}\0{file_hash}\n".encode())
    return digest.hexdigest()


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


def series_number(series_instance_uid: str) -> int:
    """Series Number (0020,0011) of a result: 9000 and above, far from the scanner's own, the same on every repeat."""
    return 9000 + int(series_instance_uid.rpartition(".")[2]) % 1000


# What every fictitious patient's ID begins with; no generated object is filed under another (promise 5).
FICTITIOUS_PATIENT_PREFIX = "MIRALL-SYN-"


@dataclass(frozen=True)
class FictitiousStudy:
    """The study and the patient, both invented, that generated series are filed under; never a real patient's.

    patient_id: begins with `FICTITIOUS_PATIENT_PREFIX`. started_at: Study Date and Time, as wall clock time.
    """

    patient_id: str
    study_instance_uid: str
    study_id: str
    started_at: datetime
    patient_name: str = "Synthetic^Mirall"
    description: str = "Synthetic images, not for diagnosis"

    def __post_init__(self) -> None:
        if not self.patient_id.startswith(FICTITIOUS_PATIENT_PREFIX):
            raise ValueError(f"a fictitious patient's ID begins with {FICTITIOUS_PATIENT_PREFIX}")

    @classmethod
    def named(cls, model: ModelIdentity, seed: int, label: str, started_at: datetime) -> FictitiousStudy:
        """The study of what `model` draws for this seed and label: the same names on every repeat."""
        digest = hashlib.sha256(json.dumps([model.content_hash, seed, label]).encode()).hexdigest()[:12].upper()
        return cls(
            patient_id=f"{FICTITIOUS_PATIENT_PREFIX}{digest}",
            study_instance_uid=name_based_uid("study", model.content_hash, str(seed), label),
            study_id=f"SYN-{digest}",
            started_at=started_at,
        )


def canonical_json(parameters: Mapping[str, Any]) -> str:
    """Parameters as one text, the same for equal parameters; "" for none."""
    return json.dumps(parameters, sort_keys=True, separators=(",", ":")) if parameters else ""


@dataclass(frozen=True)
class LabelRecord:
    """What a job says of one object it made; the gate derives the labels that the object must carry from this alone.

    source_uids: SOP Instance UIDs it was made from, each once; empty for unconditional generation.
    source_frames: for each of them the frames that were used, () for the whole instance; () alone where all are whole.
    synthetic_input: any source was synthetic, so the object is, too.
    frame_of_reference_uid: "" where the object has none.
    mark_rows: height in rows of the border strip with the visible mark, 0 where there is none.
    audit_id: identifier of the stored evaluation of the model version.
    seed: of a generated object; None where nothing was drawn.
    parameters: what changes the pixels (threshold, label, ...), as canonical JSON; "" where there is nothing to say.
    source_equipment: what the sources say of the equipment that made them (`dicom_io.labels.equipment_key`, one per
        Contributing Equipment item that must be kept).
    look_alike: a generated object in a modality's own SOP class; without it, such an object does not pass.
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
    seed: int | None = None
    parameters: str = ""
    source_equipment: tuple[str, ...] = ()
    source_frames: tuple[tuple[int, ...], ...] = ()
    look_alike: bool = False

    def frames_of(self, source_uid: str) -> tuple[int, ...]:
        """The frames of a source instance that were used; () for the whole of it."""
        return dict(zip(self.source_uids, self.source_frames, strict=True))[source_uid] if self.source_frames else ()

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
        fields["source_equipment"] = tuple(fields.get("source_equipment", ()))
        # Records from before this field named whole instances only.
        fields["source_frames"] = tuple(tuple(frames) for frames in fields.get("source_frames", ()))
        return cls(**fields)
