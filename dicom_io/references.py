"""Which instance, and which of its frames, a result was made from (PS3.3 Table 10-3, Image SOP Instance Reference).

A source is one header data set per slice, as `dicom_io.series` gives them. One whose Number of Frames (0028,0008) is
above 1 stands for a frame of a multi-frame instance and is referenced with Referenced Frame Number (0008,1160), also
where all frames are named, so that nobody has to guess. One without is referenced as a whole, however many slices it
gives (the tiles of a mosaic).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydicom import DataElement, Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_io.volume import Source

_SOP_CLASS, _SOP_INSTANCE = Tag("ReferencedSOPClassUID"), Tag("ReferencedSOPInstanceUID")


def instances(sources: Iterable[Dataset]) -> list[Dataset]:
    """One data set for each SOP Instance UID, in order of first appearance."""
    first: dict[str, Dataset] = {}
    for source in sources:
        first.setdefault(str(source.SOPInstanceUID), source)
    return list(first.values())


def instance_uids(sources: Iterable[Dataset]) -> tuple[str, ...]:
    """SOP Instance UIDs, each once, in order of first appearance: what a record names as its sources."""
    return tuple(str(source.SOPInstanceUID) for source in instances(sources))


def item(source: Dataset) -> Dataset:
    """What each item that names an instance begins with: its SOP class and SOP instance (PS3.3 Table 10-11)."""
    # A result of a long series has thousands of these: UIDs that were decoded once are not looked at again.
    return Dataset(
        {
            _SOP_CLASS: DataElement(_SOP_CLASS, "UI", UID(source.SOPClassUID), already_converted=True),
            _SOP_INSTANCE: DataElement(_SOP_INSTANCE, "UI", UID(source.SOPInstanceUID), already_converted=True),
        }
    )


def frames_named(reference: Dataset) -> tuple[int, ...]:
    """The values of Referenced Frame Number (0008,1160) of an item; none where it names the whole instance."""
    named = reference.get("ReferencedFrameNumber")
    return tuple(int(number) for number in ([named] if isinstance(named, int) else named or ()))


def require_named(source_uids: Sequence[str], refs: Iterable[Source]) -> None:
    """Each source data set among the references that the UIDs of a result are made from, as often as it is given.

    Raises:
        ValueError: one is not, so that a change in it would not change the result's UIDs.
    """
    unnamed = Counter(source_uids) - Counter(ref.sop_instance_uid for ref in refs)
    if unnamed or not source_uids:
        raise ValueError(
            f"{len(source_uids)} source datasets are not each named once by the source references; "
            f"not named: {sorted(unnamed)[:3] or 'none'}"
        )


def frame_numbers(
    sources: Sequence[Dataset], further_sources: Sequence[Dataset], refs: Sequence[Source], own: Sequence[Source] = ()
) -> tuple[int, ...]:
    """The 1-based frame that each of (*sources, *further_sources) is of its instance; 0 for whole instances.

    refs: one for each data set. own: those of `sources`, in their order, where they are known. Where they are not, and
    several channels are frames of one instance, those of `further_sources` come first in `refs`, as channels do, and
    those of `sources` last.

    Raises:
        ValueError: an instance with several frames has another number of data sets than of references.
    """
    names = {(ref.sop_instance_uid, ref.frame) for ref in own}
    others = [ref for ref in refs if (ref.sop_instance_uid, ref.frame) not in names]
    frames: dict[str, list[int]] = {}
    for ref in (*others, *own):
        frames.setdefault(ref.sop_instance_uid, []).append(ref.frame)
    wanted = {uid: list(reversed(numbers)) for uid, numbers in frames.items()}
    in_order = [*further_sources, *sources]
    _require_each_frame_named(in_order, frames)
    found = [wanted[str(ds.SOPInstanceUID)].pop() if _has_frames(ds) else 0 for ds in in_order]
    return tuple(found[len(further_sources) :] + found[: len(further_sources)])


def _has_frames(source: Dataset) -> bool:
    return int(source.get("NumberOfFrames") or 1) > 1


def _require_each_frame_named(sources: Sequence[Dataset], frames: dict[str, list[int]]) -> None:
    counts = Counter(str(source.SOPInstanceUID) for source in sources if _has_frames(source))
    for uid, count in counts.items():
        named = frames.get(uid, [])
        if count != len(named) or min(named) < 1:
            raise ValueError(f"{count} source datasets are frames of {uid}, and the references name {named[:5]}")


def frames_by_instance(sources: Sequence[Dataset], frames: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Frames of each of `instance_uids(sources)`, ascending; () for a whole instance, and () alone if all are whole.

    frames: of each source, as from `frame_numbers`.
    """
    if not any(frames):
        return ()
    used: dict[str, set[int]] = {}
    for source, frame in zip(sources, frames, strict=True):
        used.setdefault(str(source.SOPInstanceUID), set()).update({frame} - {0})
    return tuple(tuple(sorted(numbers)) for numbers in used.values())
