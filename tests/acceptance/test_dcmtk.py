"""DCMTK as the peer: storescu with every syntax that it can propose, findscu, movescu and getscu in both roots."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from peers import free_port, wait_for
from pydicom.uid import UID, generate_uid

from plugin import service
from plugin.service import Running

# storescu's option for each syntax that the real files have; the combined proposals of a class need none.
PROPOSALS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")
# 12 bits of JPEG Extended: no decoder here; it is kept and sent on as it is, and who cannot take it does not get it.
NOT_DECODED = "1.2.840.10008.1.2.4.51"
PATIENT, STUDY = "DCMTK-1", "2.25.20261120"


@pytest.fixture
def sources(tmp_path: Path, test_data: Path) -> dict[str, Path]:
    """The CT slice of the test data once per syntax, each an instance of its own in one study: syntax -> file."""
    files = {}
    for number, path in enumerate(sorted((test_data / "transfer-syntaxes").glob("*.dcm")), 1):
        dataset = pydicom.dcmread(path)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        if syntax not in PROPOSALS or syntax in files:
            continue
        uid = generate_uid(entropy_srcs=["dcmtk", syntax])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.StudyInstanceUID, dataset.PatientID = STUDY, PATIENT
        dataset.SeriesInstanceUID = f"{STUDY}.{number % 2 + 1}"
        dataset.SeriesNumber, dataset.InstanceNumber = number % 2 + 1, number
        files[syntax] = tmp_path / "sent" / f"{number:02d}.dcm"
        files[syntax].parent.mkdir(exist_ok=True)
        dataset.save_as(files[syntax])
    return files


@contextmanager
def receiver(program: str, folder: Path, *options: str) -> Iterator[int]:
    """DCMTK's storescp on a free port; gives the port."""
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen([program, "-od", str(folder), *options, str(port)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def mirall(folder: Path, receiver_port: int) -> Iterator[Running]:
    config = folder / "mirall.toml"
    config.write_text(
        f"""
        [node]
        open = true
        [destinations.dcmtk]
        kind = "dimse"
        aet = "STORESCP"
        host = "127.0.0.1"
        port = {receiver_port}
        """,
        encoding="utf-8",
    )
    told = {"http": f"127.0.0.1:{free_port()}", "dimse": f"127.0.0.1:{free_port()}"}
    with service.running(config, data=folder / "data", **told) as running:
        yield running


def call(running: Running, program: str, *options: str) -> str:
    """Run a DCMTK client against the node; gives what it printed. Fails where it does."""
    address = running.settings.node.dimse_address
    command = [program, "-aet", "DCMTK", "-aec", "MIRALL", address.host, str(address.port), *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def by_uid(folder: Path) -> dict[str, pydicom.Dataset]:
    return {str(each.SOPInstanceUID): each for path in folder.iterdir() if (each := pydicom.dcmread(path))}


def test_dcmtk_stores_in_every_syntax_finds_moves_and_gets(
    tmp_path: Path, needs: Callable[[str], str], sources: dict[str, Path]
) -> None:
    storescu, findscu, movescu, getscu = (needs(name) for name in ("storescu", "findscu", "movescu", "getscu"))
    assert len(sources) >= 11, sorted(sources)
    sent = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in sources.values()}
    with receiver(needs("storescp"), tmp_path / "moved", "+xa") as port, mirall(tmp_path, port) as running:
        for syntax, path in sources.items():
            call(running, storescu, PROPOSALS[syntax], "-R", str(path))
        stored = {
            pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: path
            for path in (running.settings.data / "archive" / "objects").glob("*/*.dcm")
        }
        assert stored.keys() == sent.keys()
        # Explicit VR files whose syntax DCMTK sends as it lies there come in byte for byte.
        for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"):
            uid = pydicom.dcmread(sources[syntax]).SOPInstanceUID
            assert pydicom.dcmread(stored[uid]).PixelData == pydicom.dcmread(sources[syntax]).PixelData
            assert pydicom.dcmread(stored[uid]).file_meta.TransferSyntaxUID == UID(syntax)

        found = _found(running, findscu, tmp_path, len(sent))
        assert found == set(sent)
        _moved(running, movescu, tmp_path, set(sent))
        _got(running, getscu, tmp_path, sent)


def _found(running: Running, findscu: str, tmp_path: Path, count: int) -> set[str]:
    """C-FIND at every level of both roots; gives the SOP Instance UIDs of the last."""
    for root, level, keys, answers in (
        ("-P", "PATIENT", ["PatientID=DCMTK*", "NumberOfPatientRelatedInstances"], 1),
        ("-P", "STUDY", [f"PatientID={PATIENT}", "StudyInstanceUID"], 1),
        ("-S", "STUDY", ["ModalitiesInStudy=CT", "StudyInstanceUID", "NumberOfStudyRelatedSeries"], 1),
        ("-S", "STUDY", ["PatientName=Nobody*", "StudyInstanceUID"], 0),
        ("-S", "SERIES", [f"StudyInstanceUID={STUDY}", "SeriesInstanceUID", "NumberOfSeriesRelatedInstances"], 2),
        ("-P", "SERIES", [f"PatientID={PATIENT}", f"StudyInstanceUID={STUDY}", "SeriesInstanceUID"], 2),
    ):
        options = [part for key in (f"QueryRetrieveLevel={level}", *keys) for part in ("-k", key)]
        into = tmp_path / f"found-{root}{level}{answers}"
        into.mkdir()
        call(running, findscu, root, "-X", "-od", str(into), *options)
        assert len(list(into.iterdir())) == answers, (root, level, keys)
    uids = set()
    for series in (1, 2):
        into = tmp_path / f"found-image-{series}"
        into.mkdir()
        keys = ["QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={STUDY}.{series}"]
        keys.append("SOPInstanceUID")
        call(running, findscu, "-S", "-X", "-od", str(into), *[part for key in keys for part in ("-k", key)])
        uids |= {str(pydicom.dcmread(path, force=True).SOPInstanceUID) for path in into.iterdir()}
    assert len(uids) == count
    return uids


def _moved(running: Running, movescu: str, tmp_path: Path, expected: set[str]) -> None:
    """C-MOVE of the study by the patient root, and of one series by the study root, to DCMTK's receiver."""
    moved = tmp_path / "moved"
    keys = ["QueryRetrieveLevel=STUDY", f"PatientID={PATIENT}", f"StudyInstanceUID={STUDY}"]
    call(running, movescu, "-P", "-aem", "STORESCP", *[part for key in keys for part in ("-k", key)])
    wait_for(lambda: len(list(moved.iterdir())) >= len(expected), "the moved objects", timeout_s=30)
    assert set(by_uid(moved)) == expected
    keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={STUDY}.1"]
    call(running, movescu, "-S", "-aem", "STORESCP", *[part for key in keys for part in ("-k", key)])


def _got(running: Running, getscu: str, tmp_path: Path, sent: dict[str, Path]) -> None:
    """C-GET of the study: a client that takes uncompressed syntaxes only gets every object all the same."""
    for root, keys in (
        ("-S", ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}"]),
        ("-P", ["QueryRetrieveLevel=PATIENT", f"PatientID={PATIENT}"]),
    ):
        into = tmp_path / f"got{root}"
        into.mkdir()
        call(running, getscu, root, "+xe", "-od", str(into), *[part for key in keys for part in ("-k", key)])
        got = by_uid(into)
        assert got.keys() == {uid for uid, path in sent.items() if syntax_of(path) != NOT_DECODED}
        lossless = [uid for uid, path in sent.items() if _is_lossless(path)]
        reference = pydicom.dcmread(sent[lossless[0]]).pixel_array
        for uid in lossless:
            assert (got[uid].pixel_array == reference).all(), pydicom.dcmread(
                sent[uid]
            ).file_meta.TransferSyntaxUID.name


def _is_lossless(path: Path) -> bool:
    return syntax_of(path) not in LOSSY


def syntax_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)


def test_what_dcmtk_sends_unchanged_is_kept_unchanged(
    tmp_path: Path, needs: Callable[[str], str], sources: dict[str, Path]
) -> None:
    """The data set of a JPEG 2000 file, byte for byte, through storescu and getscu."""
    syntax = "1.2.840.10008.1.2.4.90"
    with receiver(needs("storescp"), tmp_path / "moved", "+xa") as port, mirall(tmp_path, port) as running:
        call(running, needs("storescu"), PROPOSALS[syntax], "-R", str(sources[syntax]))
        (_,) = (running.settings.data / "archive" / "objects").glob("*/*.dcm")
        keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}"]
        call(running, needs("movescu"), "-S", "-aem", "STORESCP", *[part for key in keys for part in ("-k", key)])
        wait_for(lambda: list((tmp_path / "moved").iterdir()), "the moved object", timeout_s=30)
        (moved,) = (tmp_path / "moved").iterdir()
        given = pydicom.dcmread(moved)
    assert given.file_meta.TransferSyntaxUID == syntax
    assert given.PixelData == pydicom.dcmread(sources[syntax]).PixelData
