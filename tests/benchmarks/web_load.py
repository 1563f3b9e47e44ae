"""DICOMweb load from processes with one kept-alive connection each; every answer is looked at before it counts.

They are looked at when the clock has stopped: to parse JSON takes a client longer than it takes a server to send it.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any
from urllib.parse import urlsplit

from corpus_item import Item

_TIMEOUT_S = 120.0
_STOW_BATCH = 10
# Longer answers are not kept until then; to measure their length takes no time.
_KEPT_BYTES = 1 << 20
_JSON = {"Accept": "application/dicom+json"}
_WHOLE = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
_OCTETS = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


@dataclass(frozen=True)
class Question:
    """One request and what its answer must hold."""

    path: str
    headers: Mapping[str, str]
    holds: Callable[[Item, bytes], bool]


def _rows(least: int) -> Callable[[Item, bytes], bool]:
    return lambda item, body: len(json.loads(body)) >= least


def _lists(tag: str, value: Callable[[Item], str]) -> Callable[[Item, bytes], bool]:
    return lambda item, body: any(value(item) in row[tag]["Value"] for row in json.loads(body))


def _is_jpeg(item: Item, body: bytes) -> bool:
    return body[:2] == b"\xff\xd8"


_SERIES = "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

QUESTIONS: Mapping[str, Question] = {
    "qido-studies": Question("/studies?limit=25", _JSON, _rows(1)),
    "qido-series": Question("/studies/{study}/series", _JSON, _lists("0020000E", lambda i: i.series_instance_uid)),
    "qido-instances": Question(_SERIES + "/instances", _JSON, _lists("00080018", lambda i: i.sop_instance_uid)),
    "wado-instance": Question(_INSTANCE, _WHOLE, lambda item, body: len(body) > item.size),
    "wado-frame": Question(_INSTANCE + "/frames/1", _OCTETS, lambda item, body: len(body) > item.size - 4096),
    "wado-series-metadata": Question(_SERIES + "/metadata", _JSON, _lists("00080018", lambda i: i.sop_instance_uid)),
    "wado-rendered": Question(_INSTANCE + "/rendered", {"Accept": "image/jpeg"}, _is_jpeg),
}
STOW = "stow"
OPERATIONS = (STOW, *QUESTIONS)


@dataclass(frozen=True)
class Answered:
    """right: answers that held what was asked for; wrong: a sentence for each other. items: instances, for STOW-RS."""

    right: int
    wrong: list[str]
    seconds: list[float]
    wall_s: float
    items: int


def load(url: str, operation: str, items: Sequence[Item], requests: int, clients: int) -> Answered:
    """`requests` of one kind (all of `items` once for STOW-RS), `clients` in flight."""
    work = _batches(items) if operation == STOW else [[items[n * 7919 % len(items)]] for n in range(requests)]
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(clients + 1), context.Queue()
    workers = [
        context.Process(target=_work, args=(url, operation, work[number::clients], ready, answers))
        for number in range(clients)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    parts = [answers.get() for _ in workers]
    # One clock for all processes of the machine.
    wall_s = max(part[3] for part in parts) - start
    for worker in workers:
        worker.join()
    return Answered(
        right=sum(part[0] for part in parts),
        wrong=[sentence for part in parts for sentence in part[1]],
        seconds=[each for part in parts for each in part[2]],
        wall_s=wall_s,
        items=sum(map(len, work)),
    )


def _batches(items: Sequence[Item]) -> list[list[Item]]:
    return [list(items[start : start + _STOW_BATCH]) for start in range(0, len(items), _STOW_BATCH)]


def _work(url: str, operation: str, work: list[list[Item]], ready: Barrier, answers: Any) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_TIMEOUT_S)
    verdicts: list[Callable[[], str]] = []
    seconds = []
    ready.wait()
    for batch in work:
        method, path, headers, body = _request(operation, batch)
        start = time.perf_counter()
        connection.request(method, parts.path + path, body, {"Accept-Encoding": "identity", **headers})
        answer = connection.getresponse()
        content = answer.read()
        seconds.append(time.perf_counter() - start)
        verdict = partial(_wrong, operation, path, batch[0], answer.status, content)
        verdicts.append(verdict if len(content) <= _KEPT_BYTES else partial(str, verdict()))
    end = time.perf_counter()
    connection.close()
    wrong = [sentence for verdict in verdicts if (sentence := verdict())]
    answers.put((len(verdicts) - len(wrong), wrong, seconds, end))


def _wrong(operation: str, path: str, item: Item, status: int, content: bytes) -> str:
    """What is wrong with an answer, "" where it holds what was asked for."""
    if status == 200 and (operation == STOW or QUESTIONS[operation].holds(item, content)):
        return ""
    return f"{operation} {path}: {status} {content[:200]!r}"


def _request(operation: str, batch: list[Item]) -> tuple[str, str, Mapping[str, str], bytes | None]:
    if operation != STOW:
        question, item = QUESTIONS[operation], batch[0]
        path = question.path.format(
            study=item.study_instance_uid, series=item.series_instance_uid, instance=item.sop_instance_uid
        )
        return "GET", path, question.headers, None
    parts = [b"--bench\r\nContent-Type: application/dicom\r\n\r\n" + item.path.read_bytes() + b"\r\n" for item in batch]
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=bench', **_JSON}
    return "POST", "/studies", headers, b"".join(parts) + b"--bench--\r\n"


def listed(url: str, items: Sequence[Item]) -> set[str]:
    """SOP Instance UIDs of the corpus that the server's own search lists."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_TIMEOUT_S)
    found: set[str] = set()
    for study, series in sorted({(item.study_instance_uid, item.series_instance_uid) for item in items}):
        connection.request("GET", f"{parts.path}/studies/{study}/series/{series}/instances", headers=_JSON)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200:
            found |= {row["00080018"]["Value"][0] for row in json.loads(content)}
    connection.close()
    return found
