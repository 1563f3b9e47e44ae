"""Where OHIF draws a probability map and the mask of a generated volume, and what it says of a report.

The archive is Orthanc: the service gives nobody a result that it did not make itself. The shapes below differ from each
of their neighbours and from the slice at the other end, so that a map on another slice, mirrored or turned is seen.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from peers import WEB, Orthanc
from PIL import Image
from pydicom import Dataset, dcmread

from dicom_io import labels, parametric_map, picture, report, secondary_capture, segmentation, series
from dicom_io.provenance import LabelRecord, ModelIdentity
from dicom_io.report import ClassProbability
from dicom_io.segmentation import Segment
from dicom_io.series import SeriesVolume
from dicom_io.volume import Volume
from samples import phantoms

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

MODEL = ModelIdentity("tissue-finder", "1", "5a" * 32, "unproven")
MADE_AT = datetime(2026, 3, 4, 5, 6, 7)
SLICES = 16
# Left, top, right and bottom of the viewport in the kit's page of 1400 x 900: alone, and beside the list of segments.
Box = tuple[int, int, int, int]
ALONE, BESIDE_LIST = (287, 51, 1362, 893), (287, 51, 1115, 893)
Made = tuple[Dataset, LabelRecord]
Labels = npt.NDArray[np.uint8]


def _mr(folder: Path) -> tuple[SeriesVolume, list[bytes]]:
    """T1 of a thigh, oblique, from the test data; where they are absent, of a phantom. Its files are given, too."""
    real = Path(os.environ.get("MIRALL_TEST_DATA") or folder) / "mr-t1-t2-pair"
    if not real.is_dir():
        phantoms.write_patients("brain-mr", 1, folder)
    paths = list((real if real.is_dir() else folder).rglob("*.dcm"))
    t1 = next(each for each in series.volumes(paths).volumes if each.contrast == "T1")
    wanted = {str(each.SOPInstanceUID) for each in t1.datasets}
    return t1, [path.read_bytes() for path in paths if str(dcmread(path).SOPInstanceUID) in wanted]


def _lopsided(shape: Sequence[int]) -> Labels:
    """An L and a block in every second slice, another L and block in the others; all near the middle."""
    slices, rows, columns = shape
    mask = np.zeros((slices, rows, columns), np.uint8)

    def at(number: int, top: float, bottom: float, left: float, right: float, label: int) -> None:
        mask[number, int(rows * top) : int(rows * bottom), int(columns * left) : int(columns * right)] = label

    for number in range(0, slices, 2):
        at(number, 0.25, 0.65, 0.25, 0.35, 1)
        at(number, 0.55, 0.65, 0.35, 0.6, 1)
        at(number, 0.3, 0.4, 0.6, 0.75, 2)
    for number in range(1, slices, 2):
        at(number, 0.3, 0.7, 0.6, 0.7, 1)
        at(number, 0.3, 0.4, 0.4, 0.6, 1)
        at(number, 0.55, 0.75, 0.3, 0.4, 2)
    return mask


def _shown(orthanc: Orthanc, kit: Path, study: str, kinds: str, folder: Path) -> dict[str, Any]:
    command = [
        *(sys.executable, str(kit / "viewer" / "accept.py"), "--dicomweb", f"{orthanc.url}/dicom-web"),
        *("--study", study, "--require", kinds, "--out", str(folder), "--timeout", "30"),
        # Orthanc gives neither every name as the list wants it, nor some of the routes that thumbnails ask for.
        *("--tolerate", "patient filter|studyList|http:"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if "'npm', 'pack'" in done.stderr:
        pytest.skip("the viewer is not in the cache, and npm cannot fetch it")
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["failures"] == [], json.dumps(result["failures"], indent=1)
    assert {kind: result[kind] for kind in kinds.split(",")} == dict.fromkeys(kinds.split(","), True)
    return result


def _on_screen(folder: Path, entry: dict[str, Any], viewport: Box) -> Labels:
    """The labels in the viewport, by hue: 1 where it is warm, 2 where it is cold."""
    (path,) = folder.glob(f"*-{entry['series'][-12:]}.png")
    rgb = np.asarray(Image.open(path).convert("RGB").crop(viewport)).astype(int)
    coloured, warm = np.ptp(rgb, axis=2) > 40, rgb[..., 0] > rgb[..., 2]
    return np.select([coloured & warm, coloured], [1, 2]).astype(np.uint8)


def _expected(plane: Labels, spacing_mm: tuple[float, float], size: tuple[int, ...]) -> Labels:
    """The labels of a slice as a viewport shows them: the whole slice, as large as it fits, in the middle."""
    height, width = size
    down, across = plane.shape[0] * spacing_mm[0], plane.shape[1] * spacing_mm[1]
    scale = min(height / down, width / across)
    rows, columns = round(down * scale), round(across * scale)
    screen = np.zeros((height, width), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    fitted = Image.fromarray(plane).resize((columns, rows), Image.Resampling.NEAREST)
    screen[top : top + rows, left : left + columns] = np.asarray(fitted)
    return screen


def _overlap(found: Labels, expected: Labels) -> float:
    """Dice of both labels together; what is one in the one and two in the other is no overlap."""
    # The middle of the viewport: words are written along its edges.
    height, width = found.shape
    middle = slice(height // 6, -height // 6), slice(width // 5, -width // 5)
    ours, theirs = found[middle], expected[middle]
    same = ((ours == theirs) & (theirs > 0)).sum()
    return float(2 * same / ((ours > 0).sum() + (theirs > 0).sum()))


def _assert_drawn_where_it_is(found: Labels, mask: Labels, number: int, spacing_mm: tuple[float, float]) -> None:
    planes = {n: _expected(mask[n], spacing_mm, found.shape) for n in (number, len(mask) - 1 - number)}
    expected = planes[number]
    assert _overlap(found, expected) > 0.85
    assert _overlap(found, planes[len(mask) - 1 - number]) < 0.5, "slices are in the reverse order"
    for turned in (expected[::-1], expected[:, ::-1], expected[::-1, ::-1]):
        assert _overlap(found, turned) < 0.5


def _store(orthanc: Orthanc, made: Sequence[Made], images: Sequence[bytes] = ()) -> None:
    for raw in (*images, *(labels.encode(*each) for each in made)):
        WEB.post(f"{orthanc.url}/instances", content=raw).raise_for_status()


def _entry(result: dict[str, Any], kind: str) -> tuple[dict[str, Any], str]:
    """A series of the result, and the image that the viewport showed it on."""
    (entry,) = (each for each in result["series"] if each["kind"] == kind)
    return entry, next((view["imageId"] for view in entry["views"] if view["imageId"]), "")


def test_a_probability_map_lies_on_its_slices_and_a_report_says_its_numbers(
    orthanc: Orthanc, test_kit: Path, needs: Callable[[str], str], tmp_path: Path
) -> None:
    _require_a_browser(needs)
    t1, files = _mr(tmp_path / "phantom")
    mask = _lopsided(t1.volume.spatial_shape)
    assert len(mask) % 2 == 0, "of an odd number the slice in the middle is its own mirror image"
    probability = t1.volume.with_voxels(np.array([0, 0.9, 0.45], np.float32)[mask], units="1")
    common: dict[str, Any] = {"sources": t1.datasets, "model": MODEL, "parameters": {}, "made_at": MADE_AT}
    one = parametric_map.parametric_map(probability, quantity="probability", description="tissue", **common)
    two = report.report(
        source_refs=t1.volume.sources, classes=[ClassProbability("tumour", 0.83, 0.41)], description="class", **common
    )
    _store(orthanc, [one, two], files)

    result = _shown(orthanc, test_kit, t1.study_uid, "pixels,pmap,sr", tmp_path / "out")
    entry, image = _entry(result, "pmap")
    number = [str(each.SOPInstanceUID) for each in t1.datasets].index(re.findall(r"/instances/([\d.]+)", image)[0])
    _, down, across = t1.volume.spacing_mm
    _assert_drawn_where_it_is(_on_screen(tmp_path / "out", entry, ALONE), mask, number, (down, across))
    entry, _ = _entry(result, "sr")
    assert 0.83 in entry["numbers"]["shown"]


def test_the_mask_of_a_generated_volume_lies_on_it(
    orthanc: Orthanc, test_kit: Path, needs: Callable[[str], str], tmp_path: Path
) -> None:
    _require_a_browser(needs)
    s, r, c = np.mgrid[0 : 1 : SLICES * 1j, 0:1:96j, 0:1:80j]
    affine = np.diag([1.4, 1.0, 3.0, 1.0])[:, [2, 1, 0, 3]]
    volume = Volume((0.2 + 0.3 * r + 0.2 * c + 0.1 * s).astype(np.float32), affine, "", "1")
    mask = _lopsided(volume.spatial_shape)
    captures = secondary_capture.generated_volume(volume, model=MODEL, seed=7, label="", made_at=MADE_AT)
    seg = segmentation.of_generated(
        volume.with_voxels(mask.astype(np.float32)),
        captures=captures,
        segments=(Segment(1, "warm", picture.PALETTE[0]), Segment(2, "cold", picture.PALETTE[1])),
        model=MODEL,
        parameters={},
        description="tissues",
        made_at=MADE_AT,
    )
    _store(orthanc, [*captures, seg])

    result = _shown(orthanc, test_kit, str(seg[0].StudyInstanceUID), "sc,seg", tmp_path / "out")
    entry, image = _entry(result, "seg")
    number = int(re.findall(r"/frames/(\d+)", image)[0]) - 1
    strip = np.zeros((SLICES, captures[0][1].mark_rows, mask.shape[2]), np.uint8)
    _, down, across = volume.spacing_mm
    found = _on_screen(tmp_path / "out", entry, BESIDE_LIST)
    _assert_drawn_where_it_is(found, np.concatenate([mask, strip], axis=1), number, (down, across))


def _require_a_browser(needs: Callable[[str], str]) -> None:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the Python package playwright is not installed")
    needs("npm")
    needs("chromium")
