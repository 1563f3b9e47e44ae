"""Bundles of elsewhere by the same route as our own: imported by command, predicting DICOM from DICOM."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import oblique_studies as oblique
import pytest
import torch
import toy_bundles as toy
import typer
from highdicom.sr import srread
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_io import labels, segmentation, series
from dicom_io.errors import Rejected
from plugin import encodings, outputs, pipeline
from plugin.cli import learning
from plugin.outputs import Made
from plugin.registry import Registry
from samples.phantoms import write_patients

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
AT = datetime(2026, 3, 4, 5, 6, 7)
SUV_CUT, SUV_TOP = 4.0, 10.0
PET = "pet=PT:g/ml{SUVbw}"


@pytest.fixture(scope="module")
def mirall() -> Callable[..., str]:
    """Runs a command line and gives what it printed; errors come through as they are."""
    app = typer.Typer()
    learning.register(app)

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Path:
    """suv: finds what is above an SUV, on the source's voxels; kinds: three classes of slices."""
    folder = tmp_path_factory.mktemp("bundles")
    document: dict[str, Any] = toy.segmentation()["preprocessing"]
    del document["transforms"][3]
    document["transforms"][3] |= {"a_min": 0.0, "a_max": SUV_TOP}
    bundle = toy.write_segmenter(folder / "suv", preprocessing=document)
    torch.save(toy.threshold_state(SUV_CUT / SUV_TOP), bundle / "models" / "model.pt")
    toy.write_classifier(folder / "kinds")
    return folder


@pytest.fixture(scope="module")
def shelf(mirall, bundles, tmp_path_factory) -> Path:
    shelf = tmp_path_factory.mktemp("shelf")
    told = ("--channel", PET, "--label", "background", "--label", "uptake")
    mirall("models", "import", bundles / "suv", "--name", "suv", *told, "--models", shelf)
    mirall("models", "import", bundles / "kinds", "--name", "kinds", "--channel", "t1=MR/T1", "--models", shelf)
    return shelf


def predicted(files: Sequence[Path], shelf: Path, address: str, out: Path) -> list[Made]:
    folder = Registry(shelf).resolve(address).folder
    return pipeline.predict(files, folder, out, made_at=AT, encodings=encodings.DEFAULT | {"report", "map"})


@pytest.mark.parametrize("study", ["oblique", "phantom"])
def test_the_seg_of_a_foreign_segmenter_lies_where_the_uptake_is(study, shelf, tmp_path):
    if study == "oblique":
        files = oblique.write(tmp_path / "in", oblique.pet(3))
    else:
        write_patients("breast-pet", 1, tmp_path / "in", seed=3)
        files = sorted((tmp_path / "in").rglob("*.dcm"))
    made = predicted(files, shelf, "suv:1", tmp_path / "out")
    for each in made:
        labels.check(each.path.read_bytes(), each.record)
        assert each.record.model.state == "unproven" and not each.record.out_of_domain
        assert json.loads(each.record.parameters) == {"decision": "most probable class"}
    [seg] = [dcmread(each.path) for each in made if each.record.sop_class_uid == SEG]
    [volume] = [entry.volume for entry in series.volumes(files).volumes if entry.modality == "PT"]
    truth = volume.voxels > SUV_CUT
    assert truth.any()
    np.testing.assert_array_equal(segmentation.read(seg, volume).voxels > 0, truth)
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Anatomical Structure"


def test_a_foreign_classifier_tells_the_most_probable_class_and_reports_each(shelf, tmp_path):
    files = oblique.write(tmp_path / "in", oblique.mr("T1", 3))
    made = predicted(files, shelf, "kinds", tmp_path / "out")
    for each in made:
        labels.check(each.path.read_bytes(), each.record)
    [report] = [each.path for each in made if each.encoding == "report"]
    groups = srread(report).content.get_image_measurement_groups()
    assert len(groups) == 3
    for group in groups:
        assert "Threshold Value" not in {each.name.meaning for each in group.get_measurements()}
        [calibrated] = group.get_qualitative_evaluations()
        assert calibrated.value.meaning == "No"
    assert made[0].finding.split()[0] in ("round", "square", "oblong")


def test_organs_are_coded_as_anatomy_and_lesions_among_them_as_such():
    segments = outputs.segments_of(("background", "liver", "Pancreatic Tumor", "spleen"), organs=True)
    types = [segment.property_type for segment in segments]
    assert types == [segmentation.ANATOMY, segmentation.LESION, segmentation.ANATOMY]
    assert segments[1].category == segmentation.ABNORMALITY


def test_check_says_what_an_import_would_do_and_writes_nothing(mirall, bundles, tmp_path):
    told = ("--channel", PET, "--check", "--models", tmp_path / "shelf")
    planned = json.loads(mirall("models", "import", bundles / "suv", *told, "--json"))
    assert planned["labels"] == ["background", "spleen"] and planned["task"] == "segmentation"
    assert "key handlers" in planned["left_out"]
    said = mirall("models", "import", bundles / "suv", *told)
    assert said.startswith(f"hash       {planned['bundle_hash']}\n") and "left out" in said
    assert not (tmp_path / "shelf").exists()
    pinned = ("--sha256", planned["bundle_hash"], "--name", "suv", "--models", tmp_path / "shelf")
    row = json.loads(mirall("models", "import", bundles / "suv", "--channel", PET, *pinned, "--json"))
    assert (row["model"], row["state"], row["bundle_hash"]) == ("suv:1", "unproven", planned["bundle_hash"])
    with pytest.raises(Rejected, match="suv:1 exists already"):
        mirall("models", "import", bundles / "suv", "--channel", PET, *pinned, "--version", "1")


def test_a_version_without_an_evaluation_is_listed_and_shown(mirall, shelf):
    rows = json.loads(mirall("models", "list", "--models", shelf, "--json"))
    assert [(row["model"], row["state"]) for row in rows] == [("kinds:1", "unproven"), ("suv:1", "unproven")]
    shown = json.loads(mirall("models", "show", "suv", "--models", shelf, "--json"))
    assert shown["evaluation"] is None
    assert shown["metadata"]["mirall"]["foreign"]["origin"]["authors"] == "Those of the toy"
    assert "What its makers say" in mirall("models", "show", "suv", "--models", shelf)


def test_an_import_needs_a_name_and_well_written_channels(mirall, bundles, tmp_path):
    with pytest.raises(Rejected, match="give --name, or --check"):
        mirall("models", "import", bundles / "suv", "--models", tmp_path)
    for text in ("pet=PT", "pet", "pet=positron", "=CT", "a/b=CT"):
        with pytest.raises(Rejected, match="is not NAME=MODALITY"):
            mirall("models", "import", bundles / "suv", "--name", "suv", "--channel", text, "--models", tmp_path)
    channel = learning.channel_of("flair=MR/FLAIR")
    assert (channel.name, channel.modality, channel.contrast, channel.units) == ("flair", "MR", "FLAIR", "1")
    assert learning.channel_of(PET).units == "g/ml{SUVbw}"
