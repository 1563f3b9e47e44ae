"""multipart/related as it arrives in blocks of any size."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugin.dicomweb.media import entries, parameters
from plugin.dicomweb.multipart import BadMultipart, Part, Reader, Writer


class Kept:
    def __init__(self, headers: dict[str, str]) -> None:
        self.headers, self.body, self.whole = headers, b"", False

    def write(self, block: bytes) -> int:
        self.body += block
        return len(block)


def read(blocks, boundary="b"):
    parts: list[Kept] = []

    def opened(headers):
        parts.append(Kept(headers))
        return parts[-1]

    def closed(part):
        part.whole = True

    reader = Reader(boundary, opened, closed)
    for block in blocks:
        reader.feed(block)
    reader.finish()
    assert all(part.whole for part in parts)
    return parts


BODY = (
    b"preamble to be ignored\r\n--b\r\nContent-Type: application/dicom\r\n\r\none\r\n--a\r\n--b \r\n"
    b"content-type: text/plain\r\nX-Other: 1\r\n\r\n\r\n--b\r\n\r\nno header\r\n--b--\r\nepilogue\r\n--b\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_parts_are_the_same_whatever_the_blocks(size):
    blocks = [BODY[start : start + size] for start in range(0, len(BODY), size)]
    assert [(part.headers, part.body) for part in read(blocks)] == [
        ({"content-type": "application/dicom"}, b"one\r\n--a"),
        ({"content-type": "text/plain", "x-other": "1"}, b""),
        ({}, b"no header"),
    ]


@given(
    bodies=st.lists(st.binary(max_size=80) | st.sampled_from([b"\r\n--", b"\r\n--q", b"--q", b"\r\n"]), min_size=1),
    cuts=st.lists(st.integers(1, 40), min_size=1),
)
def test_what_is_written_is_read_again(bodies, cuts):
    """The boundary is random, so no body can hold it."""
    writer = Writer("application/dicom", [Part("application/dicom", lambda b=b: iter([b]), len(b)) for b in bodies])
    raw = b"".join(writer)
    assert len(raw) == writer.length()
    blocks, start = [], 0
    while start < len(raw):
        size = cuts[len(blocks) % len(cuts)]
        blocks.append(raw[start : start + size])
        start += size
    assert [part.body for part in read(blocks, writer.boundary)] == bodies


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    """Blocks of these sizes, over and over."""
    blocks, start = [], 0
    while start < len(raw):
        size = sizes[len(blocks) % len(sizes)]
        blocks.append(raw[start : start + size])
        start += size
    return blocks


def outcome(blocks: list[bytes]) -> list[tuple[dict[str, str], bytes, bool]] | str:
    """All that a body makes, or the sentence that it is refused with."""
    parts: list[Kept] = []

    def opened(headers):
        parts.append(Kept(headers))
        return parts[-1]

    def closed(part):
        part.whole = True

    reader = Reader("b", opened, closed)
    try:
        for block in blocks:
            reader.feed(block)
        reader.finish()
    except BadMultipart as error:
        return str(error)
    return [(part.headers, part.body, part.whole) for part in parts]


PIECES = [
    *(b"\r\n", b"--b", b"--b--", b"--", b"\r", b"\n", b"b", b" "),
    *(b"A: x", b"\r\n\r\n", b"--b\r\n", b"\r\n--b", b"\0\xff"),
]


@given(
    raw=st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40).map(b"".join),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
@example(raw=b"--b\r\n\r\n--b--", sizes=[1])
@example(raw=b"--b\r\nA: x\r\n\r\n\r\n--b--", sizes=[2, 3])
def test_whatever_comes_any_split_of_it_is_the_same(raw, sizes):
    assert outcome(cut(raw, sizes)) == outcome([raw])


@given(keep=st.integers(0, len(BODY)), change=st.integers(0, len(BODY) - 1), by=st.integers(1, 255))
def test_a_cut_or_changed_body_gives_fewer_parts_or_a_sentence(keep, change, by):
    changed = bytearray(BODY)
    changed[change] ^= by
    for raw in (BODY[:keep], bytes(changed)):
        found = outcome([raw])
        assert isinstance(found, str) or all(whole for _, _, whole in found)


def test_no_more_than_a_block_and_a_header_is_held():
    reader = Reader("b", Kept, lambda part: None)
    reader.feed(b"preamble" * 1000)
    assert len(reader._rest) < 10
    reader.feed(b"\r\n--b\r\n\r\n")
    for _ in range(100):
        reader.feed(b"\r\n--" * 1000)
        assert len(reader._rest) < 10
    with pytest.raises(BadMultipart, match="other text"):
        reader.feed(b"\r\n--b" + b" " * (1 << 17))


def test_an_independent_parser_reads_what_is_written():
    writer = Writer("image/jls", [Part("image/jls; transfer-syntax=1.2", lambda: iter([b"a\0\xff"]), 3)])
    message = message_from_bytes(f"Content-Type: {writer.content_type}\r\n\r\n".encode() + b"".join(writer))
    (part,) = message.get_payload()
    assert (part.get_content_type(), part.get_param("transfer-syntax")) == ("image/jls", "1.2")
    assert part.get_payload(decode=True) == b"a\0\xff"


def test_part_headers_are_spelled_and_ended_as_a_viewer_wants_them():
    raw = b"".join(Writer("image/jls", [Part("image/jls", lambda: iter([b"x"]), 1)]))
    assert b"\r\nContent-Type: image/jls\r\n\r\nx\r\n--" in raw


def test_a_body_that_ends_early_is_a_sentence():
    with pytest.raises(BadMultipart, match="the multipart body ends before its closing boundary"):
        read([b"--b\r\n\r\nhalf"])


def test_text_after_a_boundary_is_a_sentence():
    with pytest.raises(BadMultipart, match="a boundary is followed by other text on its line"):
        read([b"--b\r\n\r\nx\r\n--bogus\r\n\r\ny\r\n--b--"])


def test_headers_without_an_end_are_a_sentence():
    with pytest.raises(BadMultipart, match="the headers of a part do not end"):
        read([b"--b\r\n", b"X: " + b"y" * (1 << 17)])


@pytest.mark.parametrize(
    ("text", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', "a b"),
        ("Multipart/Related; type=application/dicom; boundary=x1", "x1"),
        ("multipart/related;boundary=x1;type=application/dicom", "x1"),
    ],
)
def test_content_types_are_understood_quoted_or_not(text, boundary):
    assert parameters(text) == ("multipart/related", {"type": "application/dicom", "boundary": boundary})


def test_parameters_in_an_encoding_of_their_own_are_read():
    given = "multipart/related; type*=utf-8''application%2Fdicom; boundary*=utf-8''x%20y"
    assert parameters(given) == ("multipart/related", {"type": "application/dicom", "boundary": "x y"})
    assert [entry.quality for entry in entries("application/json; q*=utf-8''0.5")] == [0.5]
    with pytest.raises(BadMultipart):  # a boundary that no body can have
        read([b"--b--"], parameters("multipart/related; boundary*=utf-8''%E2%82%AC")[1]["boundary"])
