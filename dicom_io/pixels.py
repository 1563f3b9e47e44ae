"""Pixel data: decoding, modality units, and pictures for the eye.

Three kinds of numbers, one function each: `stored` (as encoded), `modality` (in the units of the Modality LUT, PS3.3
C.11.1) and `picture` (0..1 or RGB after the VOI LUT, PS3.3 C.11.2). Models see modality units; pictures are for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_io.dataset import value
from dicom_io.errors import Rejected, UndecodablePixels
from dicom_io.volume import Float32

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydicom.dataset import Dataset

VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
UInt8 = npt.NDArray[np.uint8]

_PIXELS_AT_ONCE = 1 << 15

# pydicom takes the first plugin in its own order; these are the faster ones (and the only one for HTJ2K).
_PLUGINS = {
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    RLELossless: "pylibjpeg",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
}
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
_LAYOUT = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    "PhotometricInterpretation",
)
# What decoders raise on frames that they cannot read.
_DAMAGE = (RuntimeError, ValueError, AttributeError, TypeError, IndexError, NotImplementedError, OSError)


def stored(dataset: Dataset, frame: int | None = None) -> npt.NDArray[Any]:
    """Stored values: (rows, columns) integers, or float where Float Pixel Data (7FE0,0008) is used.

    Several samples per pixel are the last axis, several frames the first; `frame` (0-based) decodes one of them.
    Colour comes out as RGB where it was encoded as YBR; palette indices stay indices.

    Raises:
        UndecodablePixels: no pixel data, no decoder for the Transfer Syntax UID (0002,0010), or bytes that are more or
            fewer than Rows, Columns, Samples per Pixel, Bits Allocated and Number of Frames say.
    """
    return decoded(dataset, frame)[0]


def decoded(dataset: Dataset, frame: int | None, **options: bool) -> tuple[npt.NDArray[Any], str]:
    """As `stored`, with the Photometric Interpretation (0028,0004) that the values have after decoding.

    options: of pydicom's decoders, e.g. raw=True for no conversion of colours.
    """
    syntax = _syntax(dataset)
    if not options and syntax in _NATIVE and (found := _native(dataset, frame)) is not None:
        return found, str(value(dataset, "PhotometricInterpretation"))
    check_length(dataset)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise UndecodablePixels(
            f"{_named(dataset)}: its transfer syntax {syntax} ({syntax.name}) has no decoder; send it uncompressed"
        ) from error
    try:
        pixels, meta = decoder.as_array(dataset, index=frame, decoding_plugin=_PLUGINS.get(syntax, ""), **options)
    except BaseException as error:
        # A decoder in Rust panics over damaged frames, and its PanicException is no Exception and cannot be imported.
        if not isinstance(error, _DAMAGE) and type(error).__name__ != "PanicException":
            raise
        raise UndecodablePixels(
            f"{_named(dataset)}: pixel data in transfer syntax {syntax} ({syntax.name}) cannot be decoded "
            f"({_first_line(error)}); send it uncompressed"
        ) from error
    return pixels, str(meta["photometric_interpretation"])


def _native(dataset: Dataset, frame: int | None) -> npt.NDArray[Any] | None:
    """Gray samples or indices as they lie, which pydicom gives as well, after many questions; None where it is asked.

    Bits that are not stored may hold anything, and are shifted out and back in (PS3.5 8.1.1).
    """
    rows, columns, samples, allocated, bits, signed, photometric = (value(dataset, keyword) for keyword in _LAYOUT)
    whole = all(isinstance(number, int) for number in (rows, columns, allocated, bits))
    plain = whole and samples == 1 and allocated in (8, 16, 32) and 0 < bits <= allocated and signed in (0, 1)
    element = dataset.get_item("PixelData")
    raw = None if element is None else element.value
    if not (plain and rows and columns and photometric and isinstance(raw, (bytes, memoryview))):
        return None
    number, size = number_of_frames(dataset), rows * columns * (allocated // 8)
    if len(raw) not in (number * size, number * size + number * size % 2) or not 0 <= (frame or 0) < number:
        return None
    first, count = (0, number) if frame is None else (frame, 1)
    dtype = np.dtype(f"<{'iu'[signed == 0]}{allocated // 8}")
    found = np.frombuffer(raw, dtype, rows * columns * count, size * first)
    found = found.reshape((rows, columns) if count == 1 else (count, rows, columns))
    return found if bits == allocated else (found << (allocated - bits)) >> (allocated - bits)


def check_length(dataset: Dataset) -> None:
    """Compare native Pixel Data (7FE0,0010) with what the header says (PS3.5 8.1.1); one byte of padding is allowed.

    Raises:
        UndecodablePixels: no pixel data, a size attribute is missing, or the lengths differ.
    """
    if not any(dataset.get(keyword) for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UndecodablePixels(f"{_named(dataset)} has no Pixel Data (7FE0,0010); it is no image")
    for keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"):
        if not value(dataset, keyword):
            raise UndecodablePixels(f"{_named(dataset)} has no {keyword}, so its pixels cannot be laid out; add it")
        if keyword != "PhotometricInterpretation" and not isinstance(value(dataset, keyword), int):
            raise UndecodablePixels(
                f"{_named(dataset)}: {keyword} is {value(dataset, keyword)}, and one whole number is needed; correct it"
            )
    if "PixelData" not in dataset or _syntax(dataset).is_encapsulated:
        return
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * number_of_frames(dataset)
    bits = pixels * int(dataset.BitsAllocated)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits // 3 * 2
    expected = (bits + 7) // 8
    found = len(dataset.PixelData)
    if found not in (expected, expected + expected % 2):
        raise UndecodablePixels(
            f"{_named(dataset)}: Pixel Data has {found} bytes, but {dataset.Rows} rows, {dataset.Columns} columns, "
            f"{number_of_frames(dataset)} frames and {dataset.BitsAllocated} bits need {expected}; send it again"
        )


def is_compressed(dataset: Dataset) -> bool:
    """Whether Pixel Data are encapsulated (PS3.5 A.4). Raises UndecodablePixels where the syntax is not known."""
    return _syntax(dataset).is_encapsulated


def number_of_frames(dataset: Dataset) -> int:
    """Number of Frames (0028,0008), 1 where it is absent or empty. Raises UndecodablePixels where it is no number."""
    try:
        return int(value(dataset, "NumberOfFrames") or 1)
    except (ValueError, TypeError, Rejected) as error:
        raise UndecodablePixels(f"{_named(dataset)}: NumberOfFrames cannot be read ({error}); correct it") from error


def modality(dataset: Dataset, frame: int | None = None) -> Float32:
    """Values after the Modality LUT (PS3.3 C.11.1): Rescale Slope (0028,1053), Intercept (0028,1052), or the LUT.

    The shape is that of `stored`. Other scalings are those of `dicom_io.scaling`. Padding values (0028,0120) are kept
    as they are.
    """
    return _modality(dataset, dataset, stored(dataset, frame))


def _modality(dataset: Dataset, rescaled_by: Dataset, values: npt.NDArray[Any]) -> Float32:
    if dataset.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(values, dataset), np.float32)
    out = np.empty(values.shape, np.float32)
    linear(values, *rescale(rescaled_by), out)
    return out


def linear(values: npt.NDArray[Any], slope: float, intercept: float, out: Float32) -> None:
    """out = values * slope + intercept, as if computed in 64 bits and rounded once."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2 and _is_exact(slope, intercept):
        # Whole numbers below 2 ** 24 are the same in 32 bits.
        np.multiply(values, np.float32(slope), out=out, casting="same_kind")
        if intercept:
            np.add(out, np.float32(intercept), out=out)
    else:
        out[...] = values * np.float64(slope) + np.float64(intercept)


def _is_exact(slope: float, intercept: float) -> bool:
    whole = float(slope).is_integer() and float(intercept).is_integer()
    return whole and abs(slope) * 65536 + abs(intercept) < 2**24


def rescale(dataset: Dataset) -> tuple[float, float]:
    """Rescale Slope and Intercept of this data set; 1 and 0 where they are absent. PET has its own per slice."""
    slope, intercept = _one_number(dataset, "RescaleSlope", 1.0), _one_number(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise UndecodablePixels(
            f"{_named(dataset)}: RescaleSlope (0028,1053) is 0, so all pixels would be alike; correct it"
        )
    return slope, intercept


def _one_number(dataset: Dataset, keyword: str, absent: float) -> float:
    found = value(dataset, keyword)
    if found is None or found == "":
        return absent
    if isinstance(found, (MultiValue, str)) or not np.isfinite(float(found)):
        raise UndecodablePixels(f"{_named(dataset)}: {keyword} is {found}, and one number is needed; correct it")
    return float(found)


def window(values: npt.ArrayLike, centre: float, width: float, function: VoiFunction = "LINEAR") -> Float32:
    """Values to 0..1 by Window Center (0028,1050) and Width (0028,1051); PS3.3 C.11.2.1.2 and C.11.2.1.3.

    LINEAR: ((x - (c - 0.5)) / (w - 1) + 0.5); LINEAR_EXACT: (x - c) / w + 0.5; SIGMOID: 1 / (1 + exp(-4 (x - c) / w)).

    Raises:
        UndecodablePixels: width below 1 for LINEAR, or not above 0 for the others, as the Standard requires.
    """
    x = np.asarray(values, np.float64)
    if width < 1 if function == "LINEAR" else width <= 0:
        raise UndecodablePixels(f"a {function} window cannot have a width of {width}; see PS3.3 C.11.2.1.2")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700))), np.float32)
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((x - centre) / width + 0.5, 0, 1), np.float32)
    if width == 1:  # a step: the formula's limits are x <= c - 0.5 and above
        return np.asarray(x > centre - 0.5, np.float32)
    return np.asarray(np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1), np.float32)


@dataclass(frozen=True)
class Window:
    """Which values to show, in modality units: Window Center (0028,1050), Width (0028,1051), VOI LUT Function."""

    centre: float
    width: float
    function: VoiFunction = "LINEAR"


def picture(dataset: Dataset, frame: int = 0, which_window: int = 0) -> Float32 | UInt8:
    """One frame as people see it: (rows, columns) float32 in 0..1, or (rows, columns, 3) uint8 RGB for colour.

    Grey: Modality LUT, then number `which_window` of VOI LUT Sequence (0028,3010) or of the windows, or smallest to
    largest value where there is none; MONOCHROME1 is turned, so that 1 is white. Windows and rescaling of an enhanced
    object are those of the frame's functional groups (PS3.3 C.7.6.16). Padding (0028,0120), (0028,0121) is black and
    does not count as a value. Raises as `stored` does.
    """
    return _shown(dataset, frame, which_window, None, lambda grey: np.asarray(grey, np.float32))


def eight_bits(dataset: Dataset, frame: int = 0, *, window: Window | None = None) -> UInt8:
    """As `picture`, in whole numbers 0..255; `window` is used in place of the data set's own (PS3.18 8.3.5.1.4)."""
    return np.asarray(_shown(dataset, frame, 0, window, lambda grey: np.rint(grey * 255).astype(np.uint8)), np.uint8)


def _shown(
    dataset: Dataset, frame: int, which: int, window: Window | None, final: Callable[[Float32], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    values, photometric = decoded(dataset, frame)
    if photometric == "PALETTE COLOR":
        return _high_bytes(np.asarray(apply_color_lut(values, dataset)))
    if values.ndim == 3:
        return _high_bytes(values)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
    padding = _padding(dataset)
    real = values
    if padding is not None:
        real = values[(values < padding[0]) | (values > padding[1])]
    # Grey levels follow from the value alone: each value that occurs is looked at once, not each pixel.
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    by_table = values.dtype.kind in "iu" and int(high) - int(low) < values.size
    shown = np.arange(int(low), int(high) + 1, dtype=np.int64) if by_table else values
    extremes = (real.min(), real.max()) if real.size else (low, low)
    grey = _voi(dataset, frame, _in_units(dataset, frame, shown), which, window, extremes)
    if photometric == "MONOCHROME1":
        grey = 1 - grey
    if padding is not None:
        grey = np.where((shown >= padding[0]) & (shown <= padding[1]), np.float32(0), grey)
    finished = final(grey)
    return _looked_up(finished, values, int(low)) if by_table else finished


def _looked_up(table: npt.NDArray[Any], values: npt.NDArray[Any], low: int) -> npt.NDArray[Any]:
    """table[values - low], some rows at a time: an index needs eight bytes for each pixel, and mammograms are large."""
    if values.dtype.itemsize == 2 and values.dtype.isnative:
        # By the bits of a value, so that nothing has to be subtracted from each pixel; negative ones come last.
        by_bits = np.zeros(1 << 16, table.dtype)
        by_bits[np.arange(low, low + len(table)) & 0xFFFF] = table
        table, values, low = by_bits, values.view(np.uint16), 0
    found = np.empty(values.shape, table.dtype)
    rows = max(_PIXELS_AT_ONCE // max(values.shape[-1], 1), 1)
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        np.take(table, part if low == 0 else np.subtract(part, low, dtype=np.int64), out=found[start : start + rows])
    return found


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    """First and last of the stored values that mean: no pixel here (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or value == "":
        return None
    return tuple(sorted((value, value if limit is None or limit == "" else limit)))


def _macro(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """The functional group of a frame (PS3.3 C.7.6.16), its own or the shared one; the data set where it has none."""
    of_frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for item in (*of_frames[frame : frame + 1], *shared[:1]):
        if item.get(sequence):
            found: Dataset = item[sequence].value[0]
            return found
    return dataset


def _in_units(dataset: Dataset, frame: int, values: npt.NDArray[Any]) -> Float32:
    """Stored values -> modality units, as pictures show them: with the frame's own transformation."""
    return _modality(dataset, _macro(dataset, frame, "PixelValueTransformationSequence"), values)


def _voi(
    dataset: Dataset,
    frame: int,
    values: Float32,
    which: int,
    window_: Window | None,
    extremes: tuple[Any, Any],
) -> Float32:
    """Modality units -> 0..1. extremes: smallest and largest stored value."""
    if window_ is not None:
        return window(values, window_.centre, window_.width, window_.function)
    if dataset.get("VOILUTSequence"):
        which = min(which, len(dataset.VOILUTSequence) - 1)
        looked_up = np.asarray(apply_voi(np.rint(values).astype(np.int32), dataset, index=which), np.float64)
        bits = int(dataset.VOILUTSequence[which].LUTDescriptor[2])
        return np.asarray(looked_up / (2**bits - 1), np.float32)
    group = _macro(dataset, frame, "FrameVOILUTSequence")
    windows = windows_of(group)
    if not windows:
        ends = _in_units(dataset, frame, np.asarray(extremes))
        low, high = float(ends.min()), float(ends.max())
        return np.asarray(np.clip((values - low) / ((high - low) or 1), 0, 1), np.float32)
    centre, width = windows[min(which, len(windows) - 1)]
    function: VoiFunction = group.get("VOILUTFunction") or "LINEAR"
    if function == "LINEAR" and ("FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset):
        # LINEAR counts whole values, a width of 1 is a step: a window of probabilities would be black and white.
        function = "LINEAR_EXACT"
    return window(values, centre, width, function)


def windows_of(dataset: Dataset) -> list[tuple[float, float]]:
    """All (centre, width) pairs of the data set, in its order."""
    return list(zip(_numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth")), strict=False))


def _numbers(value: Any) -> Sequence[float]:
    if value is None or value == "":
        return []
    return [float(number) for number in value] if isinstance(value, (list, tuple, MultiValue)) else [float(value)]


def _high_bytes(values: npt.NDArray[Any]) -> UInt8:
    return np.asarray(values >> 8 if values.dtype == np.uint16 else values, np.uint8)


def _syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else value(meta, "TransferSyntaxUID")
    if syntax is None:
        raise UndecodablePixels(f"{_named(dataset)} has no TransferSyntaxUID (0002,0010); read it from a DICOM file")
    if not UID(syntax).is_transfer_syntax:
        raise UndecodablePixels(
            f"{_named(dataset)}: {syntax} is no transfer syntax that is known here; send another one"
        )
    return UID(syntax)


def _named(dataset: Dataset) -> str:
    return f"instance {dataset.get('SOPInstanceUID', 'without a UID')}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(":.")
