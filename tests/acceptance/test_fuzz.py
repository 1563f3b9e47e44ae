"""Damaged objects at the DICOM door: each is answered, none stops the service, none is lost or half there.

MIRALL_TEST_MUTATIONS objects (300 in the suite).
"""

from __future__ import annotations

import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from corpus_item import Item
from dicom_sender import Association, data_set
from peers import free_port

from plugin import service

MUTATIONS = int(os.environ.get("MIRALL_TEST_MUTATIONS", "300"))
SEED = 20261120
# As they are answered by PS3.4 B.2.3: success, out of resources, another object than announced, not understood.
STATUSES = (0x0000, 0xA700, 0xA900)


def originals(folder: Path) -> list[Path]:
    """A few small Explicit VR Little Endian files of many vendors and kinds."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.stat().st_size > 600_000:
            continue
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
        except (pydicom.errors.InvalidDicomError, EOFError, OSError):
            continue
        if meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1" and "MediaStorageSOPClassUID" in meta:
            found.append(path)
    return random.Random(SEED).sample(found, min(24, len(found)))


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """The bytes of a data set with one to four wounds, most of them in its header."""
    body = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(body), chance.choice((200, 4000, len(body)))) or 1)
        match chance.randrange(7):
            case 0:
                body[at] ^= 1 << chance.randrange(8)
            case 1:
                body[at : at + 4] = chance.randbytes(4)
            case 2:
                del body[at : at + chance.choice((1, 2, 8, 100, 5000))]
            case 3:
                body[at:at] = chance.randbytes(chance.choice((1, 2, 8, 300)))
            case 4:
                body[at : at + 4] = struct.pack("<I", chance.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 20)))
            case 5:
                body = body[: at or 1]
            case 6:
                body[at : at + 8] = bytes(body[at // 2 : at // 2 + 8])
    return bytes(body)


def memory_mb(pid: int) -> float:
    """Resident memory of a process and what it has started, in MB."""
    total = int(
        next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line).split()[1]
    )
    children = [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    return total * 1024 / 1e6 + sum(memory_mb(int(child)) for child in children)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[dict[str, Any]]:
    yield {
        "data": tmp_path / "data",
        "http": f"127.0.0.1:{free_port()}",
        "dimse": f"127.0.0.1:{free_port()}",
        "open": True,
    }


def test_damaged_objects_are_each_answered_and_harm_nothing(
    tmp_path: Path, test_data: Path, told: dict[str, Any]
) -> None:
    chance = random.Random(SEED)
    sources = originals(test_data)
    assert len(sources) >= 8, "too few real files to mutate"
    answers: Counter[int] = Counter()
    with service.running(**told) as running:
        address = running.settings.node.dimse_address
        before_mb = memory_mb(running.process.pid)
        for number in range(MUTATIONS):
            meta = pydicom.filereader.read_file_meta_info(source := chance.choice(sources))
            path = tmp_path / "mutant.dcm"
            head = source.read_bytes()[: 144 + int.from_bytes(source.read_bytes()[140:144], "little")]
            path.write_bytes(head + mutated(data_set(source), chance))
            uid = str(meta.MediaStorageSOPInstanceUID)
            item = Item(path, "", str(meta.MediaStorageSOPClassUID), "", "", uid, 0)
            with Association((address.host, address.port), "MIRALL", [item.sop_class_uid]) as association:
                status = association.store(item, number + 1)
                answers[status] += 1
            assert status in STATUSES or status >> 12 == 0xC, f"0x{status:04X}"
        grown_mb = memory_mb(running.process.pid) - before_mb
        with httpx.Client(trust_env=False, timeout=60) as web:
            counts = web.get(f"{running.url}/health/ready").json()
            # Whatever got in can be found, described and given out.
            rows = web.get(f"{running.dicomweb_url}/instances?includefield=all").json()
            for row in rows:
                url = row["00081190"]["Value"][0]
                assert web.get(f"{url}/metadata").status_code == 200, url
                whole = web.get(url, headers={"Accept": "application/dicom"})
                assert whole.status_code == 200 and whole.content[128:132] == b"DICM"
                assert web.get(f"{url}/rendered", headers={"Accept": "image/jpeg"}).status_code in (
                    200,
                    400,
                    404,
                    406,
                    415,
                )
            assert web.get(f"{running.url}/").status_code == 200
        assert list((told["data"] / "archive" / "incoming").iterdir()) == []
        assert "Traceback" not in running.log.read_text(errors="replace")
    assert len(rows) == counts["instances"]
    # What was not taken is kept with its reason, but for those that are the same bytes again.
    refused = sum(count for status, count in answers.items() if status)
    assert 0 < counts["quarantined"] <= refused
    assert answers[0] and refused, f"the mutations are too mild or too wild: {answers}"
    assert grown_mb < 150, f"{grown_mb:.0f} MB more after {MUTATIONS} objects"
