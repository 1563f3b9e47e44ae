"""ONNX Runtime beside torch: the same answers, chosen at a release by measurement, and nothing loaded but data."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from toy_images import SLICES, blob_volume

from dicom_io import cohort as cohorts
from dicom_io.errors import Rejected
from models import bundle, engine, engine_choice, networks, predictor, version
from models.onnx_network import OnnxNetwork, export

RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 8, 16, 16], "spatial_dims": 2}
RESNET |= {"n_input_channels": 2, "num_classes": 3}
WINDOWED = {"_target_": "models.networks.windowed.WindowedResNet", "window_px": 24, "overlap": 0.5, **RESNET}
UNET = {"_target_": "UNet", "in_channels": 2, "out_channels": 3, "channels": [8, 16, 24], "strides": [2, 2]}
UNET_2D = UNET | {"spatial_dims": 2, "num_res_units": 2, "norm": "batch", "dropout": 0.1}
PLAIN = {"_target_": "models.networks.plain_unet.PlainUNet", "in_channels": 2, "classes": 3, "norm": "none"}
PLAIN |= {"channels": [8, 16, 24], "first_kernel_px": 5}
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "small CNN": (
        {
            "_target_": "models.networks.classifier.ConvolutionalClassifier",
            "in_channels": 2,
            "classes": 3,
            "channels": [8, 16],
            "hidden": 8,
            "norm": "instance",
            "dropout": 0.2,
        },
        (2, 40, 28),
    ),
    "ResNet": ({"_target_": "ResNet", **RESNET}, (2, 40, 28)),
    "ResNet of windows": (WINDOWED, (2, 40, 28)),
    "EfficientNet-B0": (
        {
            "_target_": "EfficientNetBN",
            "model_name": "efficientnet-b0",
            "pretrained": False,
            "spatial_dims": 2,
            "in_channels": 2,
            "num_classes": 3,
        },
        (2, 72, 40),
    ),
    "U-Net": (UNET_2D, (2, 32, 32)),
    "U-Net of volumes": (UNET | {"spatial_dims": 3, "num_res_units": 1, "norm": "instance"}, (2, 8, 16, 24)),
    "plain U-Net": (PLAIN, (2, 32, 24)),
    "ensemble of segmenters": (
        {
            "_target_": "models.networks.ensemble.Ensemble",
            "members": [UNET_2D, PLAIN],
            "mirrored": ["columns"],
            "temperature": 1.0,
        },
        (2, 32, 24),
    ),
    "ensemble of classifiers": (
        {
            "_target_": "models.networks.ensemble.Ensemble",
            "members": [{"_target_": "ResNet", **RESNET}, WINDOWED],
            "mirrored": ["rows", "columns"],
            "temperature": 1.3,
        },
        (2, 40, 28),
    ),
}


def built(name: str) -> torch.nn.Module:
    """Weights and running means that are not those of a fresh network."""
    torch.manual_seed(3)
    network = networks.build(NETWORKS[name][0])
    with torch.no_grad():
        for _ in range(3):
            network.train()(2 + torch.randn(4, *NETWORKS[name][1]))
        for weights in network.parameters():
            weights += 0.05 * torch.randn_like(weights)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_probabilities_of_torch_for_any_number_of_images(name):
    network, size = built(name), NETWORKS[name][1]
    runs = OnnxNetwork(export(network, torch.randn(2, *size)), "model.onnx", pytest.fail)
    for count in (1, 2, 5):
        images = 2 + torch.randn(count, *size)
        with torch.inference_mode():
            theirs = torch.softmax(network(images), 1)
        assert theirs.std() > 1e-3
        torch.testing.assert_close(torch.softmax(runs(images), 1), theirs, atol=1e-5, rtol=0)


def test_the_same_weights_give_the_same_file_and_it_names_no_folder_of_this_machine():
    network, example = built("U-Net"), torch.randn(2, 2, 32, 32)
    file = export(network, example)
    assert file == export(network, example)
    assert str(Path(torch.__file__).parent).encode() not in file and str(Path.cwd()).encode() not in file


def test_an_image_of_another_size_goes_through_the_network_itself():
    network = built("ResNet of windows")
    runs = OnnxNetwork(export(network, torch.randn(2, 2, 40, 28)), "model.onnx", network)
    larger = torch.randn(1, 2, 51, 33)
    with torch.inference_mode():
        assert torch.equal(runs(larger), network(larger))


def test_it_takes_as_many_threads_as_torch():
    file = export(built("small CNN"), torch.randn(2, 2, 40, 28))
    usual = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            session = OnnxNetwork(file, "model.onnx", pytest.fail)._session
            assert session.get_session_options().intra_op_num_threads == threads
    finally:
        torch.set_num_threads(usual)


# Chosen at a release.


def stopwatch(torch_s: float, onnx_s: float, alone: float = 1.0) -> Callable[..., float]:
    """In place of `engine_choice.seconds`; alone: how much longer it takes where images go one by one."""

    def seconds(network: object, batches: tuple[torch.Tensor, ...]) -> float:
        assert len(batches[0]) in engine_choice.BATCHES
        return (onnx_s if isinstance(network, OnnxNetwork) else torch_s) * (alone if len(batches[0]) == 1 else 1)

    return seconds


@pytest.fixture(scope="module", params=["segmenter", "classifier", "projection_classifier"])
def released(request, tmp_path_factory) -> tuple[version.ModelVersion, version.ModelVersion, Any]:
    """A version by torch, the same run by ONNX Runtime, which is three times as fast, and the cohort."""
    by_torch = request.getfixturevalue(request.param)
    runs = {"segmenter": "segmentation_run", "classifier": "classification_run"}
    run, cohort, _ = request.getfixturevalue(runs.get(request.param, "projection_run"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine_choice, "seconds", stopwatch(0.03, 0.01, alone=2.0))
        folder = tmp_path_factory.mktemp("models")
        by_onnx = bundle.release(run, cohort, by_torch.description.name, models_dir=folder)
    return by_torch, by_onnx, cohort


def test_the_faster_engine_is_chosen_and_the_record_and_the_card_say_what_was_measured(released):
    by_torch, by_onnx, cohort = released
    record = by_onnx.description.engine
    assert record.name == "onnx" and record.reason == "3.0 times as fast as torch"
    assert record.images_per_s["onnx"] == pytest.approx(3 * record.images_per_s["torch"], rel=0.01)
    assert 0 < record.largest_difference < 1e-5 and record.changed == 0
    projections = by_torch.description.domain.kind == "projection"
    assert record.images == (len(cohort.test) if projections else len(cohort.test) * SLICES)
    assert record.batch == (1 if projections else 4)
    assert record.sha256 == hashlib.sha256((by_onnx.folder / "models" / "model.onnx").read_bytes()).hexdigest()
    card = (by_onnx.folder / "docs" / "README.md").read_text()
    assert "By ONNX Runtime" in card and "3.0 times as fast as torch" in card and "0 of " in card
    assert not (by_torch.folder / "models" / "model.onnx").exists()
    assert "asked for" in (by_torch.folder / "docs" / "README.md").read_text()


def test_both_engines_serve_the_same_answers_under_other_names(released):
    by_torch, by_onnx, cohort = released
    theirs, ours = predictor.load(by_torch.folder), predictor.load(by_onnx.folder)
    assert isinstance(ours.served, OnnxNetwork) and not isinstance(theirs.served, OnnxNetwork)
    assert by_onnx.identity.content_hash != by_torch.identity.content_hash
    for item in cohort.test[:2]:
        image = cohorts.load_image(cohort, item)
        one, other = ours.predict(image), theirs.predict(image)
        if isinstance(one, predictor.Segmented):
            assert one.mask.voxels.any()
            np.testing.assert_array_equal(one.mask.voxels, other.mask.voxels)
            np.testing.assert_allclose(one.probability.voxels, other.probability.voxels, atol=1e-5)
        else:
            np.testing.assert_array_equal(one.positive, other.positive)
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_monai_finds_nothing_wrong_with_the_metadata(released):
    from monai.bundle import verify_metadata

    meta = released[1].folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta), filepath=Path(__file__).parent / "metadata_schema.json")


def release(run: Any, folder: Path, **how: Any) -> engine.Engine:
    made = bundle.release(run[0], run[1], "slices", models_dir=folder, **how)
    assert made.description.engine is not None
    assert (made.folder / engine.FILE).is_file() == (made.description.engine.name == "onnx")
    assert made.description.engine.words in (made.folder / "docs" / "README.md").read_text()
    return made.description.engine


def test_a_slower_engine_is_left_out_unless_it_is_asked_for(classification_run, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_choice, "seconds", stopwatch(0.01, 0.0095))
    record = release(classification_run, tmp_path)
    assert record.name == "torch" and record.reason == "ONNX Runtime is 1.05 times as fast, and 1.1 is asked of it"
    assert release(classification_run, tmp_path, engine="onnx").reason == "asked for"


@pytest.mark.parametrize(
    ("name", "limit", "sentence"),
    [
        ("TOLERANCE", 1e-12, "probabilities by ONNX Runtime differ from torch's by up to"),
        ("CHANGED", -1.0, "0 of 30 decisions by ONNX Runtime are not torch's"),
    ],
)
def test_an_engine_that_disagrees_never_serves(name, limit, sentence, classification_run, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_choice, name, limit)
    record = release(classification_run, tmp_path)
    assert record.name == "torch" and sentence in record.reason and record.images_per_s == {}
    with pytest.raises(Rejected, match=f"--engine onnx: .*{sentence}"):
        release(classification_run, tmp_path, engine="onnx")


def test_what_cannot_be_written_or_is_not_installed_is_served_by_torch(classification_run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **named: 1 / 0)
    assert "torch cannot write the network as ONNX: division by zero" in release(classification_run, tmp_path).reason
    monkeypatch.setattr(engine_choice, "is_installed", lambda: False)
    assert release(classification_run, tmp_path).reason == "ONNX Runtime is not installed"


def test_images_of_several_sizes_are_served_by_torch(classification_run, tmp_path, monkeypatch):
    usual = engine_choice._test_images

    def cropped(*given: Any) -> Any:
        first, *others = usual(*given)
        return [first[..., :-8], *others]

    monkeypatch.setattr(engine_choice, "_test_images", cropped)
    assert release(classification_run, tmp_path).reason == "test images come in 2 sizes, and ONNX would be for one"


def test_generators_stay_with_torch_and_say_so_where_something_else_is_asked_for(generation_run, generator, tmp_path):
    assert generator.description.engine is None
    assert "How it is served" not in (generator.folder / "docs" / "README.md").read_text()
    with pytest.raises(Rejected, match="is a generator, and ONNX Runtime serves predictors"):
        bundle.release(*generation_run[:2], "maker", models_dir=tmp_path, engine="onnx")


# What is never loaded.


@pytest.fixture
def served(segmentation_run, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(engine_choice, "seconds", stopwatch(0.03, 0.01))
    return bundle.release(*segmentation_run[:2], "toy-lesions", models_dir=tmp_path).folder


def tampered(served: Path, change: Callable[[Any], None]) -> None:
    """The file changed, and its hash in the metadata with it: what whoever gives away a bundle can do."""
    model = onnx.load_model(served / engine.FILE)
    change(model)
    file = model.SerializeToString()
    (served / engine.FILE).write_bytes(file)
    path = served / "configs" / "metadata.json"
    meta = json.loads(path.read_text())
    meta["mirall"]["engine"]["sha256"] = hashlib.sha256(file).hexdigest()
    path.write_text(json.dumps(meta))


def elsewhere(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../secret.bin")


def foreign(model: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)


def defined(model: Any) -> None:
    made = helper.make_function("evil", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    model.functions.append(made)


def nested(model: Any) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "body", [], [value])
    model.graph.node.insert(0, helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))


def other_ends(model: Any) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "answer"


def broken(model: Any) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (elsewhere, "keeps tensor '.*' in another file and was not loaded"),
        (foreign, "uses operators of 'com.microsoft'"),
        (defined, "uses operators of 'evil'|defines operators"),
        (nested, "has '.*_branch', a graph within its graph"),
        (other_ends, r"makes \['answer'\] of \['image'\]"),
        (broken, "is no valid ONNX"),
    ],
)
def test_a_file_that_is_more_than_standard_operators_and_its_own_tensors_is_refused(served, change, sentence):
    tampered(served, change)
    with pytest.raises(Rejected, match=sentence):
        predictor.load(served)


def test_a_changed_or_missing_file_is_refused_and_gives_the_version_another_identity(served, tmp_path):
    before = version.load(served).identity
    path = served / engine.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert version.load(served).identity != before
    with pytest.raises(Rejected, match="is not what was released and was not loaded"):
        predictor.load(served)
    path.unlink()
    with pytest.raises(Rejected, match=r"model\.onnx is missing, by which the version is served"):
        predictor.load(served)


def test_bytes_that_are_no_onnx_are_refused():
    for file in (b"PK\x03\x04 half a zip", b""):
        with pytest.raises(Rejected, match="and was not loaded"):
            OnnxNetwork(file, "model.onnx", pytest.fail)


def test_torch_serves_with_a_warning_where_onnx_runtime_is_not_installed(served, monkeypatch, caplog):
    volume, _ = blob_volume(78, units="g/ml{SUVbw}")
    expected = predictor.load(served).predict(volume)
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    model = predictor.load(served)
    assert isinstance(model.served, torch.nn.Module)
    assert "ONNX Runtime is not installed; torch serves in its place" in caplog.text
    np.testing.assert_array_equal(model.predict(volume).mask.voxels, expected.mask.voxels)


def test_a_version_of_an_earlier_release_is_served_by_torch(segmenter, tmp_path):
    copy = shutil.copytree(segmenter.folder, tmp_path / "old")
    path = copy / "configs" / "metadata.json"
    meta = json.loads(path.read_text())
    del meta["mirall"]["engine"]
    path.write_text(json.dumps(meta))
    model = predictor.load(copy)
    assert model.description.engine is None and isinstance(model.served, torch.nn.Module)
