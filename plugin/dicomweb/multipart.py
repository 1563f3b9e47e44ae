"""multipart/related, read as it arrives and written as it leaves (RFC 2046 5.1, RFC 2387, PS3.18 8.6.1.2).

Header names are written as `Content-Type:` with CRLF: a viewer exists that looks for just that spelling.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dicom_io.errors import Rejected

_MAXIMUM_HEADER_BYTES = 1 << 16


class BadMultipart(Rejected):
    """The body does not follow its own boundary."""


class Sink(Protocol):
    """Takes the body of one part."""

    def write(self, block: bytes | bytearray | memoryview) -> int: ...


class Reader:
    """Cuts a body that comes in blocks into parts; holds no more than one block and a header.

    open_part: called with a part's headers (names in lower case); gives where its body goes.
    close_part: called with that when the part is whole.
    What the two do may raise; the reader is of no use afterwards.
    """

    def __init__(
        self, boundary: str, open_part: Callable[[dict[str, str]], Sink], close_part: Callable[[Sink], None]
    ) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        # What the next block goes on from: the beginning of a delimiter, a boundary's line or headers. The first
        # delimiter may stand at the very start, without a line before it.
        self._rest = b"\r\n"
        self._open_part, self._close_part = open_part, close_part
        self._sink: Sink | None = None
        self._state = "preamble"

    @property
    def is_complete(self) -> bool:
        """The closing delimiter has been seen."""
        return self._state == "epilogue"

    def feed(self, block: bytes) -> None:
        """Raises BadMultipart."""
        if self._state == "epilogue":
            return
        data = self._rest + block if self._rest else block
        at = 0
        while (step := self._step(data, at)) is not None:
            at = step
        self._rest = data[at:] if at else data

    def finish(self) -> None:
        """The body has ended. Raises BadMultipart where it did so inside a part."""
        if not self.is_complete:
            raise BadMultipart("the multipart body ends before its closing boundary; send the request again")

    def _step(self, data: bytes, at: int) -> int | None:
        """Do one thing with what begins at `at`; gives where the next begins, None where more bytes are needed."""
        if self._state in ("preamble", "body"):
            return self._to_delimiter(data, at)
        if self._state == "delimiter":
            return self._after_delimiter(data, at)
        if self._state == "headers":
            return self._headers(data, at)
        if self._state == "blank line":
            return self._after_blank_line(data, at)
        return None if at == len(data) else len(data)

    def _to_delimiter(self, data: bytes, at: int) -> int | None:
        end = data.find(self._delimiter, at)
        if end < 0:
            safe = self._begin_of_delimiter(data, at)
            self._write(data, at, safe)
            return safe if safe > at else None
        self._write(data, at, end)
        if self._sink is not None:
            self._close_part(self._sink)
            self._sink = None
        self._state = "delimiter"
        return end + len(self._delimiter)

    def _begin_of_delimiter(self, data: bytes, at: int) -> int:
        """Where the last bytes may be the beginning of a delimiter; the end where they cannot."""
        found = data.find(b"\r", max(at, len(data) - len(self._delimiter) + 1))
        while found >= 0 and not self._delimiter.startswith(data[found:]):
            found = data.find(b"\r", found + 1)
        return len(data) if found < 0 else found

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None and end > start:
            with memoryview(data) as view:
                self._sink.write(view[start:end])

    def _after_delimiter(self, data: bytes, at: int) -> int | None:
        if len(data) - at < 2:
            return None
        if data.startswith(b"--", at):
            self._state = "epilogue"
            return len(data)
        end = data.find(b"\r\n", at)
        if end < 0:
            # Blanks may follow the boundary; whatever else it is, it will not become a line's end.
            if len(data) - at > _MAXIMUM_HEADER_BYTES or data[at:].strip(b" \t\r"):
                raise _text_after_boundary()
            return None
        if data[at:end].strip(b" \t"):
            raise _text_after_boundary()
        self._state = "headers"
        # The line's end stays: with no headers the blank line follows at once.
        return end

    def _headers(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\r\n\r\n", at)
        if end < 0 or end - at > _MAXIMUM_HEADER_BYTES:
            if len(data) - at > _MAXIMUM_HEADER_BYTES:
                raise BadMultipart("the headers of a part do not end; put a blank line before its body")
            return None
        headers = {}
        for line in data[at:end].decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        self._sink = self._open_part(headers)
        self._state = "blank line"
        return end + 2

    def _after_blank_line(self, data: bytes, at: int) -> int | None:
        """The body begins behind the blank line's end, unless that is the next delimiter's: a part without a body."""
        behind = data[at : at + len(self._delimiter)]
        if len(behind) < len(self._delimiter) and self._delimiter.startswith(behind):
            return None
        self._state = "body"
        return at if behind == self._delimiter else at + 2


def _text_after_boundary() -> BadMultipart:
    return BadMultipart("a boundary is followed by other text on its line; write the multipart body anew")


P = TypeVar("P")
"""What a body is made of: bytes, or what `plugin.dicomweb.sending` takes."""


@dataclass(frozen=True)
class Part(Generic[P]):
    """One part of an answer. size: bytes of the body, None where not known before it is made.

    location: where the same can be had alone, for its Content-Location (RFC 9110 8.7).
    """

    content_type: str
    body: Callable[[], Iterable[P]]
    size: int | None = None
    location: str = ""


class Writer(Generic[P]):
    """An answer of several parts; all of one type as the standard asks."""

    def __init__(self, media_type: str, parts: Iterable[Part[P]]) -> None:
        self.boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self.boundary}'
        self._parts = parts

    def length(self) -> int | None:
        """Content-Length, where each part's is known; only for a list of parts."""
        if not isinstance(self._parts, list) or any(part.size is None for part in self._parts):
            return None
        return sum(len(self._head(part)) + (part.size or 0) + 2 for part in self._parts) + len(self._end())

    def __iter__(self) -> Iterator[bytes | P]:
        for part in self._parts:
            yield self._head(part)
            yield from part.body()
            yield b"\r\n"
        yield self._end()

    def _head(self, part: Part[P]) -> bytes:
        location = f"Content-Location: {part.location}\r\n" if part.location else ""
        return f"--{self.boundary}\r\nContent-Type: {part.content_type}\r\n{location}\r\n".encode("latin-1")

    def _end(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode("latin-1")
