"""multipart/related, read as it arrives and written as it leaves (RFC 2046 5.1, RFC 2387, PS3.18 8.6.1.2).

Header names are written as `Content-Type:` with CRLF: a viewer exists that looks for just that spelling.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

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
    """

    def __init__(
        self, boundary: str, open_part: Callable[[dict[str, str]], Sink], close_part: Callable[[Sink], None]
    ) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        # The first delimiter may stand at the very start, without a line before it.
        self._buffer = bytearray(b"\r\n")
        self._open_part, self._close_part = open_part, close_part
        self._sink: Sink | None = None
        self._state = "preamble"

    @property
    def is_complete(self) -> bool:
        """The closing delimiter has been seen."""
        return self._state == "epilogue"

    def feed(self, block: bytes) -> None:
        """Raises BadMultipart."""
        self._buffer += block
        while self._step():
            pass

    def finish(self) -> None:
        """The body has ended. Raises BadMultipart where it did so inside a part."""
        if not self.is_complete:
            raise BadMultipart("the multipart body ends before its closing boundary; send the request again")

    def _step(self) -> bool:
        """Do one thing with the buffer; False where more bytes are needed."""
        if self._state in ("preamble", "body"):
            return self._to_delimiter()
        if self._state == "delimiter":
            return self._after_delimiter()
        if self._state == "headers":
            return self._headers()
        self._buffer.clear()
        return False

    def _to_delimiter(self) -> bool:
        at = self._buffer.find(self._delimiter)
        # The end of the buffer may be the beginning of a delimiter.
        safe = max(len(self._buffer) - len(self._delimiter) + 1, 0) if at < 0 else at
        if self._sink is not None and safe:
            self._sink.write(bytes(self._buffer[:safe]))
        del self._buffer[:safe]
        if at < 0:
            return False
        del self._buffer[: len(self._delimiter)]
        if self._sink is not None:
            self._close_part(self._sink)
            self._sink = None
        self._state = "delimiter"
        return True

    def _after_delimiter(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] == b"--":
            self._state = "epilogue"
            return True
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        if self._buffer[:end].strip(b" \t"):
            raise BadMultipart("a boundary is followed by other text on its line; write the multipart body anew")
        # The line's end stays: with no headers the blank line follows at once.
        del self._buffer[:end]
        self._state = "headers"
        return True

    def _headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAXIMUM_HEADER_BYTES:
                raise BadMultipart("the headers of a part do not end; put a blank line before its body")
            return False
        headers = {}
        for line in bytes(self._buffer[:end]).decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        del self._buffer[: end + 4]
        self._sink = self._open_part(headers)
        # A part without a body: its delimiter's line end was the blank line's.
        if self._buffer.startswith(self._delimiter[2:]):
            self._buffer[:0] = b"\r\n"
        self._state = "body"
        return True


@dataclass(frozen=True)
class Part:
    """One part of an answer. size: bytes of the body, None where not known before it is made."""

    content_type: str
    body: Callable[[], Iterator[bytes]]
    size: int | None = None


class Writer:
    """An answer of several parts; all of one type as the standard asks."""

    def __init__(self, media_type: str, parts: Iterable[Part]) -> None:
        self.boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self.boundary}'
        self._parts = parts

    def length(self) -> int | None:
        """Content-Length, where each part's is known; only for a list of parts."""
        if not isinstance(self._parts, list) or any(part.size is None for part in self._parts):
            return None
        return sum(len(self._head(part)) + (part.size or 0) + 2 for part in self._parts) + len(self._end())

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            yield self._head(part)
            yield from part.body()
            yield b"\r\n"
        yield self._end()

    def _head(self, part: Part) -> bytes:
        return f"--{self.boundary}\r\nContent-Type: {part.content_type}\r\n\r\n".encode("latin-1")

    def _end(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode("latin-1")
