"""What a destination would take, asked without sending it anything: the table behind `mirall destinations probe`.

A DICOM node is asked by one association that proposes SOP classes times transfer syntaxes and carries no message but
C-ECHO; a DICOMweb server by a search and by OPTIONS. From the answers a profile is proposed for a person to look at and
to paste; nothing is changed.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import build_context, sop_class

from dicom_io.errors import TryAgain
from dicom_io.labels import (
    LABEL_MAP_STORAGE,
    MULTI_FRAME_GRAYSCALE_WORD,
    MULTI_FRAME_TRUE_COLOUR,
    SECONDARY_CAPTURE,
    SEGMENTATION_STORAGE,
)
from plugin.dimse.client.association import Peer, associate, end
from plugin.dimse.status import SUCCESS
from plugin.security import tls
from plugin.settings import Destination

TIMEOUT_S = 10.0

# Classes of our results, then those of the images that routes pass on most.
_RESULTS = {
    SEGMENTATION_STORAGE: "Segmentation",
    LABEL_MAP_STORAGE: "Label Map Segmentation",
    MULTI_FRAME_TRUE_COLOUR: "Multi-frame True Colour SC",
    MULTI_FRAME_GRAYSCALE_WORD: "Multi-frame Grayscale Word SC",
    SECONDARY_CAPTURE: "Secondary Capture (single frame)",
}
CLASSES: Mapping[str, str] = _RESULTS | {
    str(sop_class.CTImageStorage): "CT",
    str(sop_class.MRImageStorage): "MR",
    str(sop_class.PositronEmissionTomographyImageStorage): "PET",
    str(sop_class.DigitalMammographyXRayImageStorageForPresentation): "Mammography for presentation",
}
SYNTAXES: Mapping[str, str] = {
    str(ExplicitVRLittleEndian): "explicit",
    str(ImplicitVRLittleEndian): "implicit",
    str(DeflatedExplicitVRLittleEndian): "deflated",
    str(JPEGLSLossless): "JPEG-LS",
    str(JPEG2000Lossless): "J2K",
    str(RLELossless): "RLE",
    str(JPEGLosslessSV1): "JPEG lossless",
    str(JPEGBaseline8Bit): "JPEG baseline",
}
SERVICES: Mapping[str, str] = {
    str(sop_class.Verification): "C-ECHO",
    str(sop_class.StudyRootQueryRetrieveInformationModelFind): "C-FIND, Study Root",
    str(sop_class.PatientRootQueryRetrieveInformationModelFind): "C-FIND, Patient Root",
    str(sop_class.StudyRootQueryRetrieveInformationModelMove): "C-MOVE, Study Root",
    str(sop_class.StudyRootQueryRetrieveInformationModelGet): "C-GET, Study Root",
    str(sop_class.StorageCommitmentPushModel): "storage commitment",
}


@dataclass(frozen=True)
class Found:
    """What a probe found.

    services: what was asked -> "yes", "no" or words. storage: name of a SOP class -> names of the transfer syntaxes
    that it is taken in; empty for a DICOMweb server. unknown: what no probe can find out. profile: TOML to paste.
    """

    destination: str
    answers: str
    services: Mapping[str, str]
    storage: Mapping[str, Sequence[str]]
    unknown: Sequence[str]
    profile: str = ""
    notes: Sequence[str] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(name: str, destination: Destination, calling_aet: str) -> Found:
    """Ask the destination of this name.

    Raises:
        TryAgain: it does not answer.
        BadSettings: its certificate files cannot be used.
    """
    if destination.kind == "stow":
        return probe_web(name, destination, tls.https_context(tls.Client.of(destination)))
    return probe_node(name, Peer.of(destination, calling_aet))


def probe_node(name: str, peer: Peer) -> Found:
    """One association with 78 contexts, and C-ECHO on it (PS3.8 9.3.2; at most 128 fit)."""
    proposed = [(each, str(ImplicitVRLittleEndian)) for each in SERVICES]
    proposed += [(each, syntax) for each in CLASSES for syntax in SYNTAXES]
    association = associate(peer, [build_context(each, syntax) for each, syntax in proposed], TIMEOUT_S)
    try:
        taken = {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts}
        services = {
            words: "yes" if (each, str(ImplicitVRLittleEndian)) in taken else "no" for each, words in SERVICES.items()
        }
        answers = f"{peer} takes none of what was proposed"
        if association.is_established:
            answers = f"{peer} takes {len(taken)} of {len(proposed)} proposed contexts"
        if services["C-ECHO"] == "yes":
            said = association.send_c_echo().get("Status")
            services["C-ECHO"] = "yes" if said == SUCCESS else "taken, and not answered"
    finally:
        end(association)
    accepted = {each: [syntax for syntax in SYNTAXES if (each, syntax) in taken] for each in CLASSES}
    proposal, notes = _proposal(name, accepted)
    if services["storage commitment"] == "no":
        notes.append(
            f"no storage commitment is offered: commitment = false in [destinations.{name}] spares the question"
        )
    unknown = [
        "a context that is taken is no promise that each object in it is stored",
        "whether empty SEG frames are wanted, and whether a C-FIND lists what was stored, shows only in use",
    ]
    storage = {CLASSES[each]: [SYNTAXES[syntax] for syntax in found] for each, found in accepted.items()}
    return Found(name, answers, services, storage, unknown, proposal, notes)


def _proposal(name: str, accepted: Mapping[str, Sequence[str]]) -> tuple[str, list[str]]:
    """A profile in TOML that a peer takes which accepts these transfer syntaxes by SOP class, and what it lacks."""
    notes = []
    segmentation = "binary" if accepted[SEGMENTATION_STORAGE] or not accepted[LABEL_MAP_STORAGE] else "labelmap"
    several = accepted[MULTI_FRAME_TRUE_COLOUR] and accepted[MULTI_FRAME_GRAYSCALE_WORD]
    captures = "multi-frame" if several or not accepted[SECONDARY_CAPTURE] else "single-frame"
    if not accepted[SEGMENTATION_STORAGE] and not accepted[LABEL_MAP_STORAGE]:
        notes.append("no kind of SEG is taken: segmentations will be refused")
    if not several and not accepted[SECONDARY_CAPTURE]:
        notes.append("no kind of Secondary Capture that we write is taken: captures will be refused")
    used = [SEGMENTATION_STORAGE if segmentation == "binary" else LABEL_MAP_STORAGE]
    used += [MULTI_FRAME_TRUE_COLOUR, MULTI_FRAME_GRAYSCALE_WORD] if captures == "multi-frame" else [SECONDARY_CAPTURE]
    common = [syntax for syntax in SYNTAXES if all(syntax in accepted[each] for each in used if accepted[each])]
    # Stored results are explicit VR, and each image goes as it is where that is taken: a list would encode it anew.
    listed = [] if str(ExplicitVRLittleEndian) in common or not any(accepted[each] for each in used) else common
    lines = [
        f"[destinations.{name}.profile]",
        f'segmentation = "{segmentation}"',
        "empty_frames = false  # true where the viewer wants a frame for each slice; a probe cannot see it",
        f'captures = "{captures}"',
        "transfer_syntaxes = [" + ", ".join(f'"{syntax}"' for syntax in listed) + "]" + _named(listed),
    ]
    return "\n".join(lines), notes


def _named(syntaxes: Sequence[str]) -> str:
    if not syntaxes:
        return "  # as stored"
    return "  # " + ", ".join(UID(syntax).name for syntax in syntaxes)


def probe_web(
    name: str, destination: Destination, context: ssl.SSLContext, transport: httpx.BaseTransport | None = None
) -> Found:
    """A search (QIDO-RS, PS3.18 10.6) and OPTIONS for /studies (8.9). Nothing is posted."""
    url = str(destination.url).rstrip("/")
    headers = {"Authorization": f"Bearer {destination.token}"} if destination.token else {}
    try:
        with httpx.Client(
            timeout=TIMEOUT_S, headers=headers, verify=context, trust_env=False, transport=transport
        ) as http:
            search = http.get(
                f"{url}/studies", params={"limit": "1"}, headers={"Accept": "application/dicom+json"}
            ).status_code
            options = http.request("OPTIONS", f"{url}/studies")
    except httpx.HTTPError as error:
        raise TryAgain(f"{url} does not answer: {error or type(error).__name__}") from error
    allowed = options.headers.get("allow", "")
    services = {
        "QIDO-RS": "yes" if search in (200, 204) else f"HTTP {search}",
        "OPTIONS": f"HTTP {options.status_code}" + (f", Allow: {allowed}" if allowed else ", without Allow"),
        "STOW-RS": _stow(allowed),
        "storage commitment": "no: DICOMweb destinations are checked by QIDO-RS",
    }
    unknown = ["which SOP classes and transfer syntaxes are stored: STOW-RS has no question before the deed"]
    notes = ["check url and token: a search is refused"] if search not in (200, 204) else []
    return Found(name, f"{url} answers a search with HTTP {search}", services, {}, unknown, "", notes)


def _stow(allowed: str) -> str:
    if not allowed:
        return "unknown until something is sent"
    methods = {each.strip().upper() for each in allowed.split(",")}
    return "POST is allowed" if "POST" in methods else "POST is not among the allowed methods"
