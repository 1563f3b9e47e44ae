"""Fetching a study from where it is: compare lists, fetch what is missing, compare again.

    list of the source -> what the index lacks of it -> fetch -> list again ... -> complete, or what is still missing

What a source says of its own success counts for nothing; a study is complete when everything that the source lists is
in the index. Objects come through `Ingest.accept` like those of every other door.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import httpx
from pydicom import Dataset
from sqlalchemy import select

from dicom_io.errors import Rejected, TryAgain
from plugin.archive.arrival import Arrival
from plugin.archive.decision import Outcome
from plugin.archive.index import Index
from plugin.archive.ingest import OUT_OF_RESOURCES, Ingest
from plugin.archive.storage import Reception
from plugin.archive.tables import Instance
from plugin.destinations import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S
from plugin.dicomweb.json_model import values
from plugin.dicomweb.multipart import BadMultipart, Reader
from plugin.dimse.client import find, retrieve
from plugin.dimse.client.association import TIMEOUT_S, Peer
from plugin.dimse.client.find import CannotAsk, Listed
from plugin.dimse.client.retrieve import RETRIEVE_TIMEOUT_S, Answer, CannotRetrieve, Request
from plugin.security import tls
from plugin.settings import Destination

log = logging.getLogger(__name__)

ROUNDS = 3
"""How often a source is asked to send; each time for less, and in another way."""

_UIDS_IN_A_REQUEST = 100
_MOST_SINGLE_REQUESTS = 200
_PAGE = 1000

How = Literal["auto", "get", "move"]
Came = Callable[[str, str], None]
"""Told of each object that came: its SOP Instance UID, and why it was refused ("" where it is stored)."""

Progress = Callable[[Mapping[str, Any]], None]
"""Takes {"stage", "done", "total"}."""


@dataclass(frozen=True)
class Pulled:
    """What became of one study.

    listed: instances at the source. fetched: how many of them were not here before and are now. missing: UIDs of those
    that still are not. refused: of these the ones that came, with the reason. sentences: what went wrong on the way.
    """

    study_instance_uid: str
    listed: int
    fetched: int
    missing: tuple[str, ...]
    refused: Mapping[str, str]
    sentences: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return not self.missing

    @property
    def sentence(self) -> str:
        """The whole in one sentence, and what went wrong in others."""
        if self.is_complete:
            return f"all {self.listed} instances are here, {self.fetched} of them fetched now"
        why = [f"{len(self.missing)} of {self.listed} instances are still missing, {self.fetched} were fetched"]
        if self.refused:
            why.append(f"{len(self.refused)} came and were refused; see `mirall quarantine list`")
        return "; ".join([*why, *self.sentences])


class Source(Protocol):
    """Where a study is fetched from."""

    def listed(self, study: str) -> list[Listed]:
        """All instances of a study; empty where it is not known there.

        Raises:
            TryAgain: no answer.
            CannotAsk: the source lists nothing to us.
        """
        ...

    def fetch(self, study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, came: Came) -> str:
        """Have these instances sent and stored. whole: which series, and whether the study, are wanted whole.

        attempt: 0, 1, 2; the source may ask otherwise each time. Gives "", or in a sentence what went wrong.

        Raises:
            TryAgain: the source does not answer (any more), or there is no space.
            CannotRetrieve: it does not send in this way.
        """
        ...


@dataclass(frozen=True)
class Wholes:
    """What is wanted with all its instances, so that it can be asked for by one UID."""

    study: bool
    series: frozenset[str]


def pull(
    source: Source,
    ingest: Ingest,
    study: str,
    *,
    series: str = "",
    without: Collection[str] = (),
    progress: Progress = lambda state: None,
    stop: threading.Event | None = None,
) -> Pulled:
    """Fetch what the archive lacks of a study, or of one series of it.

    without: UIDs that are not wanted. stop: when set, what has not come is left, and counts as missing.

    Raises:
        TryAgain: the source cannot be asked now, or the disk is full.
        CannotAsk: it cannot be asked at all, or lists nothing of the study.
    """
    find.check_uid(study)

    def wanted_of(everything: Sequence[Listed]) -> list[Listed]:
        return [
            each
            for each in everything
            if series in ("", each.series_instance_uid) and each.sop_instance_uid not in without
        ]

    everything = source.listed(study)
    listed = wanted_of(everything)
    if not listed:
        raise CannotAsk(f"{source} lists nothing of {f'series {series} of ' if series else ''}study {study}")
    before = len(listed) - len(_missing(ingest.index, listed))
    refused: dict[str, str] = {}
    sentences: list[str] = []
    for attempt in range(ROUNDS):
        missing = _missing(ingest.index, listed)
        wanted = [each for each in missing if each.sop_instance_uid not in refused]
        if not wanted:
            break
        if stop is not None and stop.is_set():
            sentences = sentences or ["it was cancelled"]
            break
        ingest.storage.check_space()
        came = _counted(len(listed) - len(missing), len(listed), refused, progress)
        try:
            said = source.fetch(study, wanted, _wholes(everything, wanted), attempt, came)
            everything = source.listed(study) or everything
            listed = wanted_of(everything)
        except (TryAgain, CannotRetrieve) as error:
            sentences.append(str(error))
            break
        if said:
            sentences.append(said)
    left = tuple(each.sop_instance_uid for each in _missing(ingest.index, listed))
    return Pulled(
        study,
        len(listed),
        max(0, len(listed) - len(left) - before),
        left,
        {uid: why for uid, why in refused.items() if uid in left},
        tuple(dict.fromkeys(sentences)),
    )


def _missing(index: Index, listed: Sequence[Listed]) -> list[Listed]:
    held: set[str] = set()
    uids = [each.sop_instance_uid for each in listed]
    with index.read() as connection:
        for start in range(0, len(uids), 500):
            some = Instance.sop_instance_uid.in_(uids[start : start + 500])
            held.update(connection.scalars(select(Instance.sop_instance_uid).where(some)))
    return [each for each in listed if each.sop_instance_uid not in held]


def _wholes(everything: Sequence[Listed], wanted: Sequence[Listed]) -> Wholes:
    partly = {each.series_instance_uid for each in set(everything) - set(wanted)}
    return Wholes(study=not partly, series=frozenset(each.series_instance_uid for each in wanted) - partly)


def _counted(done: int, total: int, refused: dict[str, str], progress: Progress) -> Came:
    counted = done

    def came(uid: str, why: str) -> None:
        nonlocal counted
        counted += 1
        if why:
            refused[uid] = why
        progress({"stage": "fetching", "done": min(counted, total), "total": total})

    progress({"stage": "fetching", "done": done, "total": total})
    return came


# DICOM


class DimseSource:
    """A DICOM peer: C-FIND, then C-GET or C-MOVE. how: "auto" takes C-GET, and C-MOVE where that brings nothing."""

    def __init__(
        self,
        peer: Peer,
        ingest: Ingest,
        how: How = "auto",
        *,
        patient_id: str = "",
        stop: threading.Event | None = None,
        answer_timeout_s: float = TIMEOUT_S,
        retrieve_timeout_s: float = RETRIEVE_TIMEOUT_S,
    ) -> None:
        self._peer, self._ingest, self._patient_id, self._stop = peer, ingest, patient_id, stop
        self._ways: list[Literal["get", "move"]] = ["get", "move"] if how == "auto" else [how]
        self._answer_timeout_s, self._retrieve_timeout_s = answer_timeout_s, retrieve_timeout_s

    def __str__(self) -> str:
        return str(self._peer)

    def listed(self, study: str) -> list[Listed]:
        return find.instances(self._peer, study, self._answer_timeout_s, patient_id=self._patient_id)

    def studies(self, conditions: Mapping[str, str]) -> list[find.FoundStudy]:
        """As `find.studies`."""
        return find.studies(self._peer, conditions, self._answer_timeout_s)

    def fetch(self, study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, came: Came) -> str:
        if self._ways[0] == "move":
            return self._move(requests(study, wanted, whole, attempt, self._patient_id), wanted)
        try:
            return self._get(study, wanted, whole, attempt, came)
        except CannotRetrieve:
            if len(self._ways) == 1:
                raise
            self._ways = ["move"]
            return self.fetch(study, wanted, whole, attempt, came)

    def _get(self, study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, came: Came) -> str:
        stored: list[str] = []

        def received(uid: str, answer: int | Dataset) -> None:
            stored.append(uid)
            # That there is no space now says nothing against the object.
            if isinstance(answer, Dataset) and answer.Status != OUT_OF_RESOURCES:
                came(uid, str(answer.ErrorComment))
            else:
                came(uid, "")

        if not retrieve.fits_one_association([each.sop_class_uid for each in wanted]):
            whole = Wholes(study=False, series=whole.series)
        asked = requests(study, wanted, whole, attempt, self._patient_id)
        answer = retrieve.get(
            self._peer, asked, self._ingest, received=received, stop=self._stop, timeout_s=self._retrieve_timeout_s
        )
        if not stored and len(self._ways) > 1:
            self._ways = ["move"]
        return answer.sentence or _contradiction(str(self), "C-GET", answer, len(set(stored)))

    def _move(self, asked: Sequence[Request], wanted: Sequence[Listed]) -> str:
        answer = retrieve.move(self._peer, asked, stop=self._stop, timeout_s=self._retrieve_timeout_s)
        said = answer.sentence or _contradiction(
            str(self), "C-MOVE", answer, len(wanted) - len(_missing(self._ingest.index, wanted))
        )
        if said and len(_missing(self._ingest.index, wanted)) == len(wanted):
            said += (
                f"; C-MOVE goes to AE title {self._peer.calling_aet}, so `mirall serve` must run on this data folder "
                "and the peer know its host and port"
            )
        return said


def _contradiction(source: str, verb: str, answer: Answer, came: int) -> str:
    said = answer.completed + answer.warnings
    return f"{source} says that it sent {said} objects by {verb}, and {came} came" if said > came else ""


def requests(study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, patient_id: str = "") -> list[Request]:
    """What to ask a peer for: at first study or series as a whole, then lists of instances, in the end one by one.

    Peers differ in which of these they serve well; a list of UIDs at image level is not known to all of them.
    """
    classes = tuple(dict.fromkeys(each.sop_class_uid for each in wanted))
    if attempt == 0 and whole.study:
        return [Request("STUDY", study, classes, patient_id=patient_id)]
    asked: list[Request] = []
    by_series = sorted(wanted, key=lambda each: (each.series_instance_uid, each.sop_class_uid))
    for series, group in groupby(by_series, key=lambda each: each.series_instance_uid):
        members = list(group)
        if attempt == 0 and series in whole.series:
            classes = tuple(dict.fromkeys(each.sop_class_uid for each in members))
            asked.append(Request("SERIES", study, classes, series, patient_id=patient_id))
            continue
        many = attempt < ROUNDS - 1 or len(wanted) > _MOST_SINGLE_REQUESTS
        for sop_class, alike in groupby(members, key=lambda each: each.sop_class_uid):
            uids = [each.sop_instance_uid for each in alike]
            size = _UIDS_IN_A_REQUEST if many else 1
            asked += [
                Request("IMAGE", study, (sop_class,), series, tuple(uids[start : start + size]), patient_id)
                for start in range(0, len(uids), size)
            ]
    return asked


# DICOMweb


class WebSource:
    """A DICOMweb server: QIDO-RS (PS3.18 10.6) for the list, WADO-RS (10.4) for the objects.

    The requests are made here and not by dicomweb-client, which gives parsed data sets and keeps none of the bytes that
    came: what is stored must be what the server has, and goes to disk as it arrives.
    """

    def __init__(
        self,
        url: str,
        ingest: Ingest,
        token: str | None = None,
        client: tls.Client | None = None,
        *,
        stop: threading.Event | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url, self._ingest, self._stop, self._transport = url.rstrip("/"), ingest, stop, transport
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._context = tls.https_context(client or tls.Client("destinations"))
        self._arrival = Arrival("pull", address=str(urlsplit(url).hostname or "")[:64])

    def __str__(self) -> str:
        return self._url

    def listed(self, study: str) -> list[Listed]:
        """Page by page: a server may give fewer than it was asked for, and the end is an empty page."""
        found: dict[str, Listed] = {}
        with self._http() as http:
            while page := [each for each in self._page(http, study, len(found)) if each.sop_instance_uid not in found]:
                found |= {each.sop_instance_uid: each for each in page}
        return list(found.values())

    def fetch(self, study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, came: Came) -> str:
        """Series by series where nothing of it is here, at first; else instance by instance."""
        at_once = whole.series if attempt == 0 else frozenset()
        places = [
            f"studies/{study}/series/{each.series_instance_uid}"
            + ("" if each.series_instance_uid in at_once else f"/instances/{each.sop_instance_uid}")
            for each in wanted
        ]
        said: list[str] = []
        with self._http() as http:
            for place in dict.fromkeys(places):
                if self._stop is not None and self._stop.is_set():
                    return f"the retrieval from {self} was cancelled"
                said.append(self._take(http, place, came))
        return "; ".join(dict.fromkeys(each for each in said if each))

    def studies(self, conditions: Mapping[str, str]) -> list[find.FoundStudy]:
        """Studies that meet the conditions (DICOM keyword -> value).

        Raises:
            TryAgain, CannotAsk: as `listed`.
        """
        with self._http() as http:
            found = self._search(http, "studies", dict(conditions) | {"includefield": "StudyDescription"})
        return [study for study in map(_found_study, found) if study.study_instance_uid]

    @contextmanager
    def _http(self) -> Iterator[httpx.Client]:
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with httpx.Client(
            timeout=timeout, headers=self._headers, transport=self._transport, verify=self._context, trust_env=False
        ) as http:
            try:
                yield http
            except httpx.HTTPError as error:
                raise TryAgain(f"{self} does not answer: {error or type(error).__name__}; try again") from error

    def _page(self, http: httpx.Client, study: str, offset: int) -> list[Listed]:
        query = {"limit": str(_PAGE), "offset": str(offset), "includefield": "SOPClassUID"}
        found = self._search(http, f"studies/{study}/instances", query)
        listed = [
            Listed(_first(each, "0020000E"), _first(each, "00080018"), find.sop_class(_first(each, "00080016")))
            for each in found
        ]
        if not all(each.sop_instance_uid and each.series_instance_uid for each in listed):
            raise CannotAsk(f"{self} lists instances without SOP or Series Instance UID; it cannot be compared with")
        return listed

    def _search(self, http: httpx.Client, path: str, query: Mapping[str, str]) -> list[Any]:
        answer = http.get(f"{self._url}/{path}", params=query, headers={"Accept": "application/dicom+json"})
        if answer.status_code in (204, 404):
            return []
        if answer.status_code >= 500 or answer.status_code == 429:
            raise TryAgain(f"{self} answers a search with HTTP {answer.status_code}; try again later")
        try:
            found = answer.json() if answer.status_code == 200 else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise CannotAsk(f"{self} answers a search with HTTP {answer.status_code} and no list; check url and token")
        return found

    def _take(self, http: httpx.Client, place: str, came: Came) -> str:
        """Store what one URL gives, as it arrives. Gives what went wrong; raises what the disk or the line does."""
        with http.stream("GET", f"{self._url}/{place}", headers={"Accept": _ANY_SYNTAX}) as answer:
            if answer.status_code >= 500 or answer.status_code == 429:
                raise TryAgain(f"{self}/{place}: HTTP {answer.status_code}; try again later")
            if answer.status_code not in (200, 206):
                return f"{self}/{place}: HTTP {answer.status_code}"
            with _Intake(self._ingest, self._arrival, came) as intake:
                return intake.take(answer, f"{self}/{place}")


_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


class _Intake:
    """From the body of an answer to ingest; a part that does not end leaves nothing behind."""

    def __init__(self, ingest: Ingest, arrival: Arrival, came: Came) -> None:
        self._ingest, self._arrival, self._came = ingest, arrival, came
        self._open: Reception | None = None

    def __enter__(self) -> _Intake:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            self._open.abandon()

    def take(self, answer: httpx.Response, place: str) -> str:
        boundary = _BOUNDARY.search(answer.headers.get("Content-Type", ""))
        if boundary is None:
            sink = self._begin({})
            for block in answer.iter_bytes():
                sink.write(block)
            self._end(sink)
            return ""
        reader = Reader(boundary[1], self._begin, self._end)
        try:
            for block in answer.iter_bytes():
                reader.feed(block)
            reader.finish()
        except BadMultipart as error:
            return f"{place}: {error}"
        return ""

    def _begin(self, headers: dict[str, str]) -> Reception:
        self._open = self._ingest.storage.receive()
        return self._open

    def _end(self, sink: object) -> None:
        assert self._open is not None and sink is self._open
        received, self._open = self._open.finish(), None
        outcome: Outcome = self._ingest.accept(received, self._arrival)
        self._came(outcome.sop_instance_uid, "" if outcome.accepted else outcome.reason)


def _first(item: object, tag: str) -> str:
    found = values(item, tag)
    value = found[0] if found else ""
    return str(value.get("Alphabetic", "")) if isinstance(value, Mapping) else str(value)


def _found_study(item: object) -> find.FoundStudy:
    count = _first(item, "00201208")
    return find.FoundStudy(
        _first(item, "0020000D"),
        _first(item, "00100020"),
        _first(item, "00100010"),
        _first(item, "00080020"),
        _first(item, "00080050"),
        _first(item, "00081030"),
        tuple(map(str, values(item, "00080061"))),
        int(count) if count.isdecimal() else None,
    )


def source_of(
    destination: Destination,
    calling_aet: str,
    ingest: Ingest,
    *,
    how: How | None = None,
    stop: threading.Event | None = None,
) -> DimseSource | WebSource:
    """The source that a section [destinations.NAME] describes. how: in place of its `retrieve`.

    Raises:
        Rejected: `how` is asked of a DICOMweb server.
    """
    if destination.kind == "dimse":
        return DimseSource(Peer.of(destination, calling_aet), ingest, how or destination.retrieve, stop=stop)
    if how not in (None, "auto"):
        raise Rejected(f"{destination.url} is a DICOMweb server, which knows no C-{how.upper()}; leave out --how")
    return WebSource(str(destination.url), ingest, destination.token, tls.Client.of(destination), stop=stop)
