"""`mirall demo` in small: a few patients, seconds of training, and the loop closes all the same."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from dicom_io import cohort as cohorts
from dicom_io import picture
from dicom_io.errors import Rejected
from plugin.cli import demo

SMALL = """
from dataclasses import replace
from pathlib import Path
import sys
from plugin import cli
from plugin.cli import demo

demo.PATIENTS = {"brain-mr": 3, "breast-pet": 4}
demo.LESSONS = tuple(replace(lesson, minutes=0.03) for lesson in demo.LESSONS)
sys.argv = ["mirall", "demo", "--exit", "--folder", sys.argv[1]]
cli.main()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a demo that has ended by itself, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "mirall-demo"
    answer = subprocess.run(
        [sys.executable, "-c", SMALL, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder, answer.stdout


def test_the_story_counts_patients_and_instances(told):
    folder, story = told
    assert "No person was imaged: every patient here is computed." in story
    for kind, patients in (("brain-mr", 3), ("breast-pet", 4)):
        instances = len(list((folder / "samples" / kind).glob("*/dicom/*.dcm")))
        assert f"  {kind}: {patients} patients, {instances} instances\n" in story
    for lesson in demo.LESSONS:
        cohort = cohorts.load(folder / "cohorts" / lesson.layout)
        shares = [len({item.patient for item in cohort.splits[split]}) for split in cohorts.SPLITS]
        training, validation, test = shares
        assert f"  {lesson.layout}: patients {training} training, {validation} validation, {test} test\n" in story
    sent = len(list((folder / "new-patients").glob("*/dicom/*.dcm")))
    assert f"Sent by C-STORE: 3 studies of new patients, {sent} instances, all acknowledged\n" in story


def test_the_new_patients_are_there_as_files_too(told):
    folder, story = told
    entries = json.loads((folder / "converted/datalist.json").read_text())["training"]
    assert {entry["modality"] for entry in entries} == {"MR", "MG", "PT"}
    assert f"  mirall convert: {len(entries)} volumes and pictures in {folder / 'converted'}\n" in story
    shared = [pydicom.dcmread(path) for path in (folder / "deidentified").glob("*.dcm")]
    assert len(shared) == 3 and {ds.PatientIdentityRemoved for ds in shared} == {"YES"}
    assert {ds.SyntheticData for ds in shared} == {"YES"}


def test_the_story_gives_each_model_its_figure_beside_its_baseline(told):
    _, story = told
    number = r"\d\.\d\d"
    interval = rf"{number} \({number} to {number}\)"
    assert re.search(
        rf"  white-matter-lesions:1, .*: dice {interval}, baseline {number}, 1 test patients; state unproven", story
    )
    assert re.search(rf"  pet-lesion:1, .*: auroc {interval}, baseline 0\.50, 1 test patients; state unproven", story)
    assert re.search(
        r"  breast-pet:1, .*: KID \S+, real against real up to \S+, FD \S+, real against real \S+ \(.*\); "
        r"\d+ % copies, planted copies found",
        story,
    )


def test_the_story_says_what_each_route_made_and_that_no_route_took_the_mammograms(told):
    _, story = told
    assert re.search(
        r"brain-mr: route 'white-matter lesions' ran white-matter-lesions:1, 3 objects: \d+\.\d ml of white-", story
    )
    assert re.search(r"breast-pet: route 'lesions on PET' ran pet-lesion:1, 2 objects: lesion 0\.\d\d \(", story)
    assert re.search(r"study: lesion 0\.\d\d \(threshold 0\.\d\d\), the highest of its pictures", story)
    assert "mammography: no route matches; stored, and nothing else" in story
    assert "Generated: 16 slices of breast PET of a fictitious patient, Synthetic Data = YES" in story


def test_every_result_is_delivered_and_is_in_the_other_archive(told):
    folder, story = told
    listed = re.findall(r"^  (\w+): (SYNTHETIC.*) \(\.\.\.(\d{12})\)$", story, re.MULTILINE)
    assert [state for state, _, _ in listed] == ["delivered"] * 6
    assert {what.split(" by ")[0] for _, what, _ in listed} == {
        "SYNTHETIC UNPROVEN",
        "SYNTHETIC AI UNPROVEN lesion probability",
        "SYNTHETIC AI UNPROVEN white-matter lesion",
        "SYNTHETIC AI UNPROVEN white-matter lesion, outlined,",
        "SYNTHETIC AI UNPROVEN numbers of white-matter lesion",
    }
    # Not by what the demo says: the other archive's own index.
    with sqlite3.connect(folder / "research" / "index.sqlite") as index:
        held = [uid for (uid,) in index.execute("SELECT sop_instance_uid FROM instance")]
    assert sorted(uid[-12:] for uid in held) == sorted(tail for _, _, tail in listed)


def test_the_picture_sheet_says_that_it_is_synthetic_and_shows_something_in_every_row(told):
    folder, story = told
    assert f"Pictures: {folder / 'sheet.png'}\n" in story
    with Image.open(folder / "sheet.png") as image:
        assert image.text["Synthetic"] == "YES"
        assert (image.text["Model"], image.text["Seed"]) == ("breast-pet:1", "7")
        pixels = np.asarray(image.convert("RGB")).astype(int)
    width = demo.TILES * 228 + 8
    row = len(picture.text_strip("A heading", width)) + 220 + len(picture.text_strip("slice 1", 220)) + 8
    strip = len(picture.text_strip("SYNTHETIC - breast-pet:1 - not for diagnosis", width))
    assert pixels.shape == (5 * row + strip, width, 3)
    for top in range(0, 5 * row, row):
        for left in range(8, width, 228):
            middle = pixels[top + row // 2 - 40 : top + row // 2 + 40, left + 70 : left + 150, 0]
            assert len(np.unique(middle)) > 8, "a tile shows nothing"


def test_with_exit_nothing_is_left_running(told):
    folder, story = told
    addresses = set(re.findall(r"127\.0\.0\.1:(\d+)", story.partition("Services:")[2]))
    assert len(addresses) == 3
    for port in addresses:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, f"port {port} still answers"
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue  # It ended while we looked.
        assert str(folder).encode() not in command


def test_a_folder_that_is_not_a_demos_is_not_emptied(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(Rejected, match="is not empty and was not made by a demo; give another --folder"):
        demo.demo(leave=True, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_folder_of_an_earlier_demo_is_begun_anew(tmp_path):
    demo._clear(tmp_path / "demo")
    (tmp_path / "demo" / "old").touch()
    demo._clear(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [demo.MARKER]


def test_a_port_that_is_taken_is_replaced_by_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = demo._free(port)
        assert other not in (0, port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", other))
    assert demo._free(other) == other


def test_waiting_ends_with_a_sentence(monkeypatch):
    monkeypatch.setattr(demo, "WAIT_S", -1.0)
    with demo._patience("the outbox") as tick, pytest.raises(demo.DemoFailed, match=r"s for the outbox; service\.log"):
        tick()


STAYING = """
import signal
import subprocess
from types import SimpleNamespace
from plugin.cli import demo

# Started in the background, a shell's children ignore what Ctrl-C sends; on a terminal they do not.
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait():  # inside demo._stay, so that Ctrl-C cannot come before it
    print("up", flush=True)
    process.wait()

process = subprocess.Popen(["sleep", "60"], start_new_session=True)
demo._stay(SimpleNamespace(process=SimpleNamespace(wait=wait)))
print("the service is still there:", process.poll() is None)
process.kill()
"""


def test_ctrl_c_ends_a_demo_that_stays_up_and_leaves_the_services_to_be_ended_in_order():
    with subprocess.Popen([sys.executable, "-c", STAYING], stdout=subprocess.PIPE, text=True) as staying:
        assert staying.stdout is not None and staying.stdout.readline() == "up\n"
        staying.send_signal(signal.SIGINT)
        story, _ = staying.communicate(timeout=20)
    assert staying.returncode == 0
    assert "Ending the services." in story and "the service is still there: True" in story
