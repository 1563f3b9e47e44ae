"""Bundles of elsewhere: what is read of them, what is refused and how, and that nothing of them is ever run."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_bundles as toy
import yaml
from monai.bundle import ConfigParser

from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from models import version
from models.foreign import importing
from models.foreign.configuration import Configuration, plain
from models.foreign.folder import Folder
from models.foreign.zoo import Bundle, Told, read

T1 = Told(channels=(Channel("T1", "MR", "1", "T1"),))
PWN = "__import__('os').system('touch pwned')"


@pytest.fixture
def segmenter(tmp_path) -> Path:
    return toy.write_segmenter(tmp_path / "segmenter")


@pytest.fixture
def classifier(tmp_path) -> Path:
    return toy.write_classifier(tmp_path / "classifier")


@pytest.fixture
def nothing_ran(tmp_path, monkeypatch) -> Callable[[], bool]:
    """Whether nothing of a bundle was run: each of its ways out leaves a file or a module."""
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)

    def looked() -> bool:
        left = [path for word in ("pwned", "ran") for path in tmp_path.rglob(word)]
        strangers = [name for name in set(sys.modules) - known if name.split(".")[0] == "scripts"]
        return not left and not strangers

    return looked


def changed(bundle: Path, **keys: Any) -> Path:
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return bundle


def with_step(section: str, place: int, step: Any) -> dict[str, Any]:
    """The toy's configuration with another step in a chain."""
    document = toy.segmentation()
    document[section]["transforms"][place] = step
    return {section: document[section]}


# What is read


def test_a_bundle_in_json_is_read_with_its_references_macros_and_expressions(segmenter):
    bundle = read(segmenter, Told())
    assert bundle.task == "segmentation" and bundle.labels == ("background", "spleen")
    assert bundle.channels == (Channel("image", "CT", "[hnsf'U]"),)
    assert bundle.network_definition == {"_target_": "monai.networks.nets.UNet", **toy.UNET}
    assert [step["_target_"] for step in bundle.foreign.chain] == ["Orientationd", "Spacingd", "ScaleIntensityRanged"]
    assert bundle.foreign.chain[1]["pixdim"] == [1.5, 1.25, 2.0]
    assert bundle.inferer["overlap"] == 0.25 and "device" not in bundle.inferer
    assert bundle.foreign.files_first
    assert bundle.foreign.decision.threshold is None and not bundle.foreign.decision.mask_is_resampled


def test_a_bundle_in_yaml_is_read_with_its_macros_of_another_file(classifier):
    bundle = read(classifier, T1)
    assert bundle.task == "classification" and bundle.labels == ("round", "square", "oblong")
    assert bundle.network_definition["out_channels"] == 3
    assert bundle.foreign.chain[-1] == {"_target_": "Resized", "keys": "image", "spatial_size": [40, 36]}
    assert bundle.foreign.origin.weights == "classifier.pt"


def test_monais_own_parser_gives_the_harmless_bundle_the_same_values(segmenter, classifier, monkeypatch):
    for folder, name, keys in (
        (segmenter, "inference.json", ("network_def", "preprocessing", "pixdim")),
        (classifier, "inference.yaml", ("network_def", "num_classes", "size")),
    ):
        monkeypatch.chdir(folder)
        theirs = ConfigParser()
        theirs.read_config(f"configs/{name}")
        document = Folder(folder).document(f"configs/{name}")
        ours = Configuration(Folder(folder), document, {})
        for key in keys:
            assert plain(ours.get(key), key) == in_plain(theirs.get_parsed_content(key, instantiate=False))
    assert plain(ours.get("preprocessing::transforms::2::keys"), "keys") == "image"


def in_plain(value: Any) -> Any:
    """Of MONAI's parser: configurations of components with references resolved, devices and types as their names."""
    if hasattr(value, "get_config"):
        # Its own resolver leaves those inside a component to its instantiation.
        value = value.resolve_args() | {"_target_": value.get_config()["_target_"]}
    if isinstance(value, dict):
        return {key: in_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [in_plain(each) for each in value]
    if isinstance(value, torch.device | torch.dtype):
        return str(value).removeprefix("torch.")
    return value


def test_a_reference_to_the_metadata_is_read_as_monai_reads_it(segmenter):
    classes = "$len(@_meta_::network_data_format#outputs#pred#channel_def)"
    changed(segmenter, network_def={"_target_": "UNet", **toy.UNET, "out_channels": classes})
    assert read(segmenter, Told()).network_definition["out_channels"] == 2


def test_what_is_left_out_is_said(segmenter):
    left_out = read(segmenter, Told()).left_out
    for words in ("key handlers", "key evaluator", "step SaveImaged of postprocessing", "folder scripts"):
        assert words in left_out
    for words in ("key network_def", "key pixdim", "key image_key", "key checkpointloader", "key bundle_root"):
        assert words not in left_out


def test_what_nobody_asks_for_may_hold_what_it_likes(segmenter, nothing_ran):
    evil = changed(segmenter, datalist=f"${PWN}", evaluator={"_target_": "os.system", "command": "touch pwned"})
    assert read(evil, Told()).task == "segmentation"
    assert nothing_ran()


def test_overlapping_channels_are_painted_by_the_one_function_that_is_read(segmenter):
    paint = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    postprocessing = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            {"_target_": "Lambdad", "keys": "pred", "func": paint},
        ],
    }
    changed(segmenter, postprocessing=postprocessing, network_def={"_target_": "UNet", **toy.UNET, "out_channels": 3})
    network = {**toy.UNET, "out_channels": 3}
    torch.save(fresh(network), segmenter / "models" / "model.pt")
    bundle = read(segmenter, Told(labels=("background", "core", "oedema", "enhancing")))
    assert bundle.foreign.decision.painted == ((2, 3), (0, 1), (1, 2))
    probabilities = torch.tensor([[0.9, 0.1, 0.9, 0.1], [0.9, 0.9, 0.9, 0.1], [0.9, 0.1, 0.1, 0.1]]).view(3, 1, 1, 4)
    assert bundle.foreign.decision.mask(probabilities).flatten().tolist() == [3, 2, 1, 0]


def fresh(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    from monai.networks import nets

    return nets.UNet(**arguments).state_dict()


# What is refused, and how


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"network_def": {"_target_": "os.system", "command": "touch pwned"}}, r"network_def\._target_: 'os\.system'"),
        ({"network_def": {"_target_": "subprocess.run"}}, r"network_def\._target_: 'subprocess\.run' is not one of"),
        ({"network_def": {"_target_": "scripts.net.Net"}}, r"network_def\._target_: 'scripts\.net\.Net'"),
        ({"network_def": {"_target_": "monai.networks.nets.evil.deep.UNet"}}, r"network_def\._target_"),
        ({"network_def": {"_target_": f"${PWN}"}}, r"network_def\._target_: '\$__import__.* is not evaluated"),
        ({"network_def": f"${PWN}"}, r"network_def: '\$__import__.* is not evaluated"),
        ({"network_def": {"_target_": "UNet", **toy.UNET, "act": f"${PWN}"}}, r"network_def\.act: '\$__import__"),
        (
            {"network_def": {"_target_": "UNet", **toy.UNET, "act": {"_target_": "os.system"}}},
            r"network_def\.act\._target_: 'os\.system' inside an argument",
        ),
        ({"network_def": {"_target_": "UNet", **toy.UNET, "_requires_": f"${PWN}"}}, r"network_def\._requires_"),
        ({"network_def": {"_target_": "UNet", **toy.UNET, "_mode_": "callable"}}, r"network_def\._mode_"),
        ({"network_def": {"_target_": "UNet", **toy.UNET, "strides": "@nobody"}}, r"has no key 'nobody'"),
        ({"network_def": {"_target_": "UNet", **toy.UNET, "colour": 3}}, r"network_def of .*colour"),
        ({"image_key": f"${PWN}"}, r"image_key: '\$__import__"),
        ({"image_key": "@image_key"}, r"image_key -> image_key is a circle"),
        ({"image_key": "label"}, r"preprocessing\.transforms\[2\]\.keys: 'label' must be 'image'"),
        ({"image_key": "@::up"}, r"'@::up' is no reference"),
        ({"image_key": "%../../etc/passwd.json::x"}, r"leads out of the bundle"),
        ({"image_key": "%/etc/secret.json::x"}, r"leads out of the bundle"),
        ({"image_key": "%configs/none.json::x"}, r"is no JSON or YAML file of the bundle"),
        ({"image_key": "%nobody"}, r"there is no key 'nobody'"),
        ({"image_key": "%scripts/__init__.py"}, r"is no macro that is read here"),
        (
            with_step("preprocessing", 3, {"_target_": "os.system", "command": "touch pwned"}),
            r"preprocessing\.transforms\[3\]\._target_: 'os\.system' is not one of",
        ),
        (
            with_step("preprocessing", 3, {"_target_": "Lambdad", "keys": "image", "func": f"$lambda x: {PWN}"}),
            r"preprocessing\.transforms\[3\]\._target_: 'Lambdad'",
        ),
        (
            with_step("preprocessing", 3, {"_target_": "Spacingd", "keys": "image", "pixdim": f"${PWN}"}),
            r"preprocessing\.transforms\[3\]\.pixdim: '\$__import__",
        ),
        (
            with_step("preprocessing", 3, {"_target_": "Spacingd", "keys": "image", "pixdim": 2, "colour": 1}),
            r"preprocessing\.transforms\[3\]: .*unexpected keyword argument 'colour'",
        ),
        (
            with_step("preprocessing", 0, {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"}),
            r"preprocessing\.transforms\[0\]\.reader: 'NumpyReader' is not",
        ),
        (with_step("preprocessing", 3, f"${PWN}"), r"preprocessing\.transforms\[3\]: '\$__import__"),
        ({"preprocessing": {"_target_": "scripts.Compose", "transforms": []}}, r"preprocessing\._target_"),
        ({"preprocessing": f"${PWN}"}, r"preprocessing: '\$__import__"),
        (
            {"preprocessing": {"_target_": "Compose", "transforms": [], "lazy": True}},
            r"preprocessing\.lazy: True is not read",
        ),
        (
            with_step("preprocessing", 3, {"_target_": "Spacingd", "keys": "image", "pixdim": 2, "lazy": True}),
            r"preprocessing\.transforms\[3\]\.lazy: True is not read",
        ),
        ({"pixdim": "@preprocessing"}, r"lie more than 30 deep"),
        ({"inferer": {"_target_": "builtins.eval"}}, r"inferer\._target_: 'builtins\.eval'"),
        ({"inferer": {"_target_": "scripts.Inferer"}}, r"inferer\._target_: 'scripts\.Inferer'"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": f"${PWN}"}}, r"inferer\.roi_size: '\$__import__"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "with_coord": True}}, r"inferer\.with_coord"),
        ({"inferer": {"_target_": "SliceInferer", "roi_size": [9, 9]}}, r"of 3 axes, or of 2 by a SliceInferer"),
        (
            with_step("postprocessing", 0, {"_target_": "scripts.Evild", "keys": "pred"}),
            r"postprocessing\.transforms\[0\]\._target_: 'scripts\.Evild'",
        ),
        (
            with_step("postprocessing", 3, {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: {PWN}"}),
            r"postprocessing\.transforms\[3\]\.func: .* is not called",
        ),
        (
            with_step("postprocessing", 0, {"_target_": "Activationsd", "keys": "pred", "other": f"${PWN}"}),
            r"postprocessing\.transforms\[0\]",
        ),
        ({"postprocessing": None}, r"postprocessing names no|postprocessing is missing"),
        ({"checkpointloader": {"_target_": "CheckpointLoader", "load_path": f"${PWN}"}}, r"load_path: .* by --weights"),
        ({"checkpointloader": {"_target_": "CheckpointLoader", "load_path": "/etc/passwd"}}, r"not in models/"),
    ],
)  # fmt: skip
def test_a_malicious_twin_is_refused_by_key_and_nothing_of_it_runs(keys, sentence, segmenter, nothing_ran):
    with pytest.raises(Rejected, match=sentence):
        read(changed(segmenter, **keys), Told())
    assert nothing_ran()


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("how", ["pickle", "torch", "inside"])
def test_weights_that_would_run_code_are_refused(how, segmenter, nothing_ran):
    weights = segmenter / "models" / "model.pt"
    if how == "pickle":
        weights.write_bytes(pickle.dumps({"weight": Evil()}))
    else:
        torch.save({"weight": Evil()} if how == "torch" else {"model": {}, "epoch": Evil()}, weights)
    with pytest.raises(Rejected, match="was not loaded"):
        read(segmenter, Told())
    assert nothing_ran()


def test_torchscript_is_refused_as_code(segmenter):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), segmenter / "models" / "model.pt")
    with pytest.raises(Rejected, match=r"model\.pt is TorchScript, which holds code"):
        read(segmenter, Told())


def test_the_first_tensor_that_does_not_fit_is_named(segmenter):
    weights, state = segmenter / "models" / "model.pt", toy.threshold_state(0.5)
    torch.save({name: tensor for name, tensor in state.items() if name != "model.2.conv.bias"}, weights)
    with pytest.raises(Rejected, match=r"the network has 'model\.2\.conv\.bias', the file has not"):
        read(segmenter, Told())
    torch.save(state | {"model.2.conv.bias": torch.zeros(5)}, weights)
    with pytest.raises(Rejected, match=r"'model\.2\.conv\.bias' has the shape \(5,\) in the file and \(2,\)"):
        read(segmenter, Told())
    torch.save(state | {"stranger": torch.zeros(5)}, weights)
    with pytest.raises(Rejected, match=r"the file has 'stranger', the network has not"):
        read(segmenter, Told())
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, weights)
    assert read(segmenter, Told()).state.keys() == state.keys()
    torch.save({"model": state | {"lr": 0.1}}, weights)
    with pytest.raises(Rejected, match="no file of tensors by name"):
        read(segmenter, Told())


def test_absent_weights_are_said_to_be_fetched_by_hand(segmenter):
    (segmenter / "models" / "model.pt").unlink()
    (segmenter / "large_files.yml").write_text("large_files: []")
    with pytest.raises(Rejected, match=r"models/model\.pt, its weights, is not there; large_files\.yml names"):
        read(segmenter, Told())
    with pytest.raises(Rejected, match=r"models/\.\./evil\.pt"):
        read(segmenter, Told(weights="../evil.pt"))


@pytest.mark.parametrize(
    "text",
    [
        "network_def: !!python/object/apply:os.system ['touch pwned']",
        "network_def: !!python/name:os.system",
        "network_def: 1\nnetwork_def: 2",
        "- a list",
        "when: [",
        f"a: {'[' * 3000}",
    ],
)
def test_yaml_that_would_make_objects_or_reads_in_two_ways_is_refused(text, classifier, nothing_ran):
    (classifier / "configs" / "inference.yaml").write_text(text)
    with pytest.raises(Rejected, match=r"inference\.yaml of the bundle"):
        read(classifier, T1)
    assert nothing_ran()


def test_a_key_that_stands_twice_in_json_is_refused(segmenter):
    path = segmenter / "configs" / "inference.json"
    path.write_text(path.read_text().replace('"bundle_root": "."', '"inferer": 1, "bundle_root": "."'))
    with pytest.raises(Rejected, match="'inferer' stands there twice"):
        read(segmenter, Told())


def test_lists_that_double_with_every_line_do_not_fill_the_memory(segmenter):
    bomb = {f"x{n}": f"$[@x{n - 1}, @x{n - 1}]" for n in range(1, 29)} | {"x0": [1, 2]}
    network = {"_target_": "UNet", **toy.UNET, "channels": "@x28"}
    with pytest.raises(Rejected, match="has more than"):
        read(changed(segmenter, network_def=network, **bomb), Told())


def test_a_link_out_of_the_bundle_is_refused(segmenter, tmp_path):
    (tmp_path / "secret.json").write_text('{"x": 1}')
    (segmenter / "configs" / "near.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(Rejected, match=r"near\.json is a symbolic link"):
        read(segmenter, Told())


def test_a_folder_that_is_no_bundle_says_so(tmp_path, segmenter):
    with pytest.raises(Rejected, match="is no folder; unpack"):
        read(tmp_path / "bundle.zip", Told())
    (tmp_path / "empty").mkdir()
    with pytest.raises(Rejected, match=r"has no configs/metadata\.json or"):
        read(tmp_path / "empty", Told())
    (segmenter / "configs" / "inference.yaml").write_text("a: 1")
    with pytest.raises(Rejected, match=r"holds configs/inference\.json and configs/inference\.yaml"):
        read(segmenter, Told())


def test_what_the_metadata_do_not_say_must_be_told(classifier, segmenter):
    with pytest.raises(Rejected, match=r"say too little of the 1 input channel .*give --channel"):
        read(classifier, Told())
    with pytest.raises(Rejected, match="takes 1 channels, and 2 are given"):
        read(segmenter, Told(channels=T1.channels * 2))
    meta = segmenter / "configs" / "metadata.json"
    meta.write_text(json.dumps({"name": "silent", "network_data_format": {"inputs": {}, "outputs": 3}}))
    with pytest.raises(Rejected, match=r"2 classes need a name each, .* the names are none; give --label 2 times"):
        read(segmenter, T1)
    assert read(segmenter, Told(("background", "tumour"), T1.channels)).labels == ("background", "tumour")


JUNK: tuple[Any, ...] = (
    *(None, True, -1, 3, 1e300, "", "x", "image", "$", "$1", "@nobody", "@image_key", "%image_key", "%"),
    *(
        [],
        [1],
        ["pred", "label"],
        {},
        {"_target_": "UNet"},
        {"_target_": "os.system"},
        [[]],
        {"a": 1},
        "@preprocessing",
    ),
    *("Activationsd", "AsDiscreted", "Lambdad", "Spacingd", "CropForegroundd", "$lambda x: x[1:]"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, element in below:
        yield (*path, key)
        yield from places(element, (*path, key))


@pytest.mark.parametrize("part", range(3))
def test_whatever_a_configuration_holds_is_read_or_refused_with_a_sentence(part, segmenter, nothing_ran):
    draw, seen = random.Random(part), set()
    for _ in range(80):
        document = copy.deepcopy(toy.segmentation())
        *way, last = draw.choice([path for path in places(document) if path[0] not in ("imports", "dataset", "run")])
        holder: Any = document
        for key in way:
            holder = holder[key]
        holder[last] = draw.choice(JUNK)
        changed(segmenter, **document)
        try:
            seen.add(read(segmenter, Told()).task)
        except Rejected as error:
            seen.add(str(error).partition(":")[0])
    assert len(seen) > 5 and "segmentation" in seen
    assert nothing_ran()


# The version on the shelf


def imported(folder: Path, shelf: Path, told: Told = Told(), **how: Any) -> version.ModelVersion:  # noqa: B008
    return importing.import_bundle(importing.check(folder, told, **how), "toy", None, shelf)


def test_an_imported_version_is_unproven_and_says_where_it_is_from(segmenter, tmp_path):
    made = imported(segmenter, tmp_path / "models")
    assert (made.identity.address, made.identity.state) == ("toy:1", "unproven")
    assert made.evaluation is None
    origin = made.description.foreign.origin
    assert origin.bundle_hash == Folder(segmenter).content_hash()
    assert (origin.authors, origin.version) == ("Those of the toy", "0.5.9")
    assert origin.license == "Apache License Version 2.0, January 2004"
    assert made.metadata["copyright"] == "Copyright (c) toys"
    card = (made.folder / "docs" / "README.md").read_text()
    for words in (origin.bundle_hash, "made elsewhere", "What it was trained on", "mean\\_dice 0.961", "\\<script\\>"):
        assert words in card
    assert (made.folder / "docs" / "LICENSE").read_text() == (segmenter / "LICENSE").read_text()


def test_nothing_but_plain_values_and_tensors_is_taken_over(segmenter, tmp_path):
    made = imported(segmenter, tmp_path / "models")
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert files == {
        "configs/inference.json",
        "configs/metadata.json",
        "docs/LICENSE",
        "docs/README.md",
        "models/model.pt",
    }
    text = (made.folder / "configs" / "inference.json").read_text()
    assert not [sign for sign in ('"$', '"@', '"%') if sign in text]
    assert set(made.weights()) == set(toy.threshold_state(0.5))


def test_the_same_bundle_gives_the_same_version_and_any_change_another_hash(segmenter, tmp_path):
    again = shutil.copytree(segmenter, tmp_path / "again")
    assert imported(segmenter, tmp_path / "one").identity == imported(again, tmp_path / "two").identity
    before = Folder(again).content_hash()
    (again / "scripts" / "__init__.py").write_text("pass")
    assert Folder(again).content_hash() != before


def test_a_bundle_with_another_hash_than_the_pinned_one_is_refused(segmenter, tmp_path):
    pinned = Folder(segmenter).content_hash()
    assert imported(segmenter, tmp_path / "models", sha256=pinned.upper()).identity.version == "1"
    with (segmenter / "configs" / "train.json").open("a") as file:
        file.write(" ")
    with pytest.raises(Rejected, match=f"and {pinned} was expected"):
        imported(segmenter, tmp_path / "models", sha256=pinned)
    assert [path.name for path in (tmp_path / "models" / "toy").iterdir()] == ["1"]


def test_a_stored_version_is_checked_against_the_lists_again(segmenter, tmp_path):
    made = imported(segmenter, tmp_path / "models")
    path = made.folder / "configs" / "metadata.json"
    document = json.loads(path.read_text())
    for steps, sentence in (
        ([{"_target_": "Lambdad", "keys": "image", "func": f"${PWN}"}], r"preprocessing\[0\]\._target_: 'Lambdad'"),
        ([{"_target_": "Spacingd", "keys": "image", "pixdim": f"${PWN}"}], r"preprocessing\[0\]\.pixdim"),
    ):
        document["mirall"]["foreign"]["chain"] = steps
        path.write_text(json.dumps(document))
        with pytest.raises(Rejected, match=sentence):
            version.load(made.folder)


def test_the_plan_can_be_printed(segmenter):
    bundle: Bundle = importing.check(segmenter, Told())
    planned = importing.plan(bundle)
    assert json.loads(json.dumps(planned))["left_out"] == list(bundle.left_out)
    assert f"hash       {planned['bundle_hash']}" in importing.lines_of(planned)
    assert yaml.safe_dump(planned)
