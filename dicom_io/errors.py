"""What this project raises on purpose, and whether trying again can help.

Messages may hold UIDs, attribute names and their values; never names, birth dates or patient IDs.
"""


class ImagingError(Exception):
    """Anything this project raises on purpose. The message is one sentence: what, its value, the way out."""


class Rejected(ImagingError):
    """The input cannot be used; sending it again will not help."""


class TryAgain(ImagingError):
    """A peer or a resource did not answer; the same request may succeed later."""


class NotDicom(Rejected):
    """The bytes are no DICOM object, or end before it does."""


class MissingAttribute(Rejected):
    """An attribute that is needed is absent, empty or zero."""


class GapInSeries(Rejected):
    """A step between neighbouring slices is more than 1.5 times the median step."""


class UnevenSlices(Rejected):
    """Steps between slices differ too much for one regular grid."""


class DuplicatePositions(Rejected):
    """Several slices lie at one position and no attribute tells them apart."""


class UnknownUnits(Rejected):
    """Stored values cannot be turned into the units that were asked for."""


class UndecodablePixels(Rejected):
    """No decoder for this transfer syntax, or the pixel data contradict the header."""


class OutOfDomain(Rejected):
    """The input is outside what the model's card says it was made for."""


class Unlabelled(Rejected):
    """An object of ours lacks a label that its kind must carry (the gate, promise 5)."""
