"""How results are written, by name: the default for the archive, and what destinations' profiles ask for beside it.

Each encoding of a result is an object of its own, under a UID of its own (promise 2). A destination is owed those that
its profile names; the archive keeps all. Reports and maps of probability say the same once more, in numbers: they are
written where somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from plugin.settings import Profile

# Name -> arguments of `dicom_io.segmentation.segmentation`.
SEGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "binary": {"form": "binary", "empty_frames": False},
    "binary, empty frames": {"form": "binary", "empty_frames": True},
    "labelmap": {"form": "labelmap", "empty_frames": False},
    "labelmap, empty frames": {"form": "labelmap", "empty_frames": True},
}
DEFAULT_SEGMENTATION = "binary"
DEFAULT = frozenset({DEFAULT_SEGMENTATION, "multi-frame"})
"""What the archive keeps of every job: the encodings of a profile that names nothing."""
CAPTURES = ("multi-frame", "single-frame")
"""Names, and what `dicom_io.secondary_capture` calls its forms."""
REPORT, MAP, SALIENCY = "report", "map", "saliency"
BESIDE = (REPORT, MAP, SALIENCY)
"""What is written beside the others, for those who ask: SR TID 1500; Parametric Maps of what a segmenter holds
probable, and of where the members of an ensemble disagree; of a classifier's saliency, with captures."""
DISAGREEMENT = f"{MAP} of disagreement"


def report_on(segmentation: str) -> str:
    """The report that refers to the SEG of this encoding. One without a SEG is `REPORT`, as is that on the default."""
    return REPORT if segmentation in DEFAULT else f"{REPORT} on {segmentation}"


def heat(captures: str) -> str:
    """The captures of a saliency, in this form."""
    return f"{SALIENCY}, {captures}"


def beside(word: str) -> frozenset[str]:
    """What is written for one word of `BESIDE`, where captures are the archive's own."""
    more = {MAP: [DISAGREEMENT], SALIENCY: [heat(form) for form in CAPTURES if form in DEFAULT]}
    return frozenset({word, *more.get(word, ())})


def of(profile: Profile) -> frozenset[str]:
    """The encodings that a destination of this profile is sent: one of segmentations, one of captures, and what it
    takes beside them."""
    segmentation = _segmentation(profile)
    asked = {report_on(segmentation): profile.reports, MAP: profile.maps, DISAGREEMENT: profile.maps}
    asked |= {SALIENCY: profile.saliency, heat(profile.captures): profile.saliency}
    return frozenset({segmentation, profile.captures, *(name for name, wanted in asked.items() if wanted)})


def _segmentation(profile: Profile) -> str:
    return profile.segmentation + (", empty frames" if profile.empty_frames else "")


def needed(profiles: Iterable[Profile]) -> list[str]:
    """All encodings to write for these destinations, the archive's own among them; sorted."""
    return sorted(DEFAULT.union(*map(of, profiles)))


def fits(encoding: str, profile: Profile, made: Iterable[str]) -> bool:
    """Whether a result of this encoding is the one to send to a destination of this profile.

    made: the encodings that the same job wrote. Where the wanted one is not among them, the default goes. "" is a
    result of before encodings were told apart: it goes everywhere.
    """
    if not encoding or encoding in of(profile):
        return True
    if encoding.startswith((REPORT, MAP, SALIENCY)):
        # A report that refers to no SEG is for everybody who takes reports.
        return profile.reports and encoding == REPORT and report_on(_segmentation(profile)) not in made
    family = SEGMENTATIONS if encoding in SEGMENTATIONS else CAPTURES
    return encoding in DEFAULT and not any(each in family and each in of(profile) for each in made)
