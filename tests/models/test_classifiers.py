"""Classifiers: the networks of the studies, weights to start from, two phases, losses and batches of rare classes."""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from stopping import Stop, same, stop_at
from test_variational import cohort_of, picture
from torch import nn

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import networks, predictor, recipe, training, version
from models.classification_recipe import (
    ClassificationLoss,
    ClassificationRecipe,
    DenseNet169,
    EfficientNetB0,
    HistologyStudy,
    Phases,
    ResNet,
    SmallCNN,
    Start,
)
from models.networks import classifier
from models.training import start
from models.training.classification import Plateau
from models.training.classification_parts import class_weights, loss_of, mixed

COUNTS = {
    "histology-cnn-151k": 150_850,
    "histology-resnet-300k": 299_618,
    "histology-resnet-4.8m": 4_797_346,
    "histology-resnet-6.3m": 6_310_402,
    "histology-resnet-11.3m": 11_296_770,
}
SETTINGS = [
    *(HistologyStudy(kind=kind) for kind in ("histology-cnn-151k", "histology-resnet-300k")),
    ResNet(channels=(8, 8, 8, 8), dropout=0.2),
    SmallCNN(kind="small-cnn", channels=(16, 16), hidden=16, norm="group", dropout=0.1),
    DenseNet169(kind="densenet169", dropout=0.1),
    EfficientNetB0(kind="efficientnet-b0"),
]


def built(settings: Any, channels: int = 3, classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return networks.build(classifier.definition(settings, channels, classes))


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Networks.


@pytest.mark.parametrize("kind", COUNTS)
def test_the_networks_of_the_histology_study_have_its_numbers_of_weights_within_three_percent(kind):
    count = sum(weight.numel() for weight in built(HistologyStudy(kind=kind)).parameters())
    assert count == pytest.approx(COUNTS[kind], rel=0.03)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_every_network_learns_one_batch_by_heart(settings):
    network = built(settings, classes=3)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    stripes = torch.sin((labels[:, None] + 1) * torch.arange(40.0))[:, None, :, None]
    images = stripes + 0.3 * torch.randn(6, 3, 40, 36, generator=draw())
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(80):
        loss = F.cross_entropy(network(images), labels)
        if loss.item() < 0.4:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"after 80 steps the loss is {loss.item():.2f}")


@torch.no_grad()
def test_an_efficientnet_from_random_weights_tells_pictures_apart_after_a_hundred_steps():
    """With running statistics that move by 1 % a step what is served says the same of every picture."""
    images = torch.randn(8, 1, 32, 32, generator=draw()).cumsum(3)
    spread = {}
    for momentum in (0.1, 0.01):
        network = built(EfficientNetB0(kind="efficientnet-b0"), channels=1)
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert {layer.momentum for layer in norms} == {0.1}
        for layer in norms:
            layer.momentum = momentum
        for _ in range(120):
            network.train()(images)
        spread[momentum] = float(network.eval()(images).std(0).mean())
    assert spread[0.1] > 0.01 > 100 * spread[0.01]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_a_temperature_goes_into_the_last_layer_of_every_network(settings):
    plain, scaled = built(settings).eval(), built(settings).eval()
    scaled.load_state_dict(classifier.calibrated(plain, 2.5))
    images = torch.randn(2, 3, 40, 36, generator=draw())
    torch.testing.assert_close(scaled(images), plain(images) / 2.5)


def test_dropout_before_the_last_layer_acts_in_training_alone_and_changes_no_name():
    plain, dropped = built(ResNet(channels=(8, 8, 8, 8))), built(ResNet(channels=(8, 8, 8, 8), dropout=0.5))
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    images = torch.randn(4, 3, 40, 36, generator=draw())
    dropped.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain.eval()(images), dropped.eval()(images))
    dropped.train()
    assert not torch.equal(dropped(images), dropped(images))


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (EfficientNetB0(kind="efficientnet-b0"), {"pretrained": True}),
        (EfficientNetB0(kind="efficientnet-b0"), {"model_name": "efficientnet-b7"}),
        (DenseNet169(kind="densenet169"), {"pretrained": True}),
    ],
)
def test_a_version_cannot_ask_for_a_download(settings, change):
    with pytest.raises(Rejected, match="without a download is built"):
        networks.build(classifier.definition(settings, 3, 2) | change)


# Weights to start from.


def in_public_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As EfficientNet-PyTorch names them: blocks are counted through, without their stack."""
    return {re.sub(r"(_blocks)\.\d+\.", r"\1.", name): value for name, value in state.items()}


def saved(folder: Path, state: dict[str, torch.Tensor]) -> Start:
    path = folder / "weights.pth"
    torch.save(state, path)
    return Start(weights=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def of(network: Any, **changes: Any) -> ClassificationRecipe:
    plain = {"name": "c", "task": "classification", "network": network.model_dump(), "schedule": {"total_images": 64}}
    chosen = recipe.parse(plain | changes, "c")
    assert isinstance(chosen, ClassificationRecipe)
    return chosen


def test_public_weights_of_imagenet_are_taken_and_the_last_layer_begins_anew(tmp_path):
    """1000 classes, three colours -> two classes, grey: kernels of the first layer add up."""
    theirs = built(EfficientNetB0(kind="efficientnet-b0"), 3, 1000)
    ours = built(EfficientNetB0(kind="efficientnet-b0"), 1, 2)
    chosen = of(EfficientNetB0(kind="efficientnet-b0"), start=saved(tmp_path, in_public_layout(theirs.state_dict())))
    told: list[str] = []
    fresh = ours.state_dict()["_fc.weight"].clone()
    (ancestor,) = start.begin(ours, chosen, told.append)
    assert (ancestor.address, ancestor.content_hash, ancestor.cohort) == ("weights.pth", chosen.start.sha256, "")
    here, there = ours.state_dict(), theirs.state_dict()
    torch.testing.assert_close(here["_conv_stem.weight"], there["_conv_stem.weight"].sum(1, keepdim=True))
    assert torch.equal(here["_fc.weight"], fresh)
    same_names = [name for name in here if not name.startswith(("_fc", "_conv_stem"))]
    assert len(same_names) > 300 and all(torch.equal(here[name], there[name]) for name in same_names)
    assert told == [
        f"start.weights: _fc, the last layer, is of other classes in {chosen.start.weights}, and begins anew"
    ]


def test_public_weights_of_densenet_are_taken_under_their_names(tmp_path):
    ours = built(DenseNet169(kind="densenet169"))
    theirs = {name: value + 1 for name, value in ours.state_dict().items()}
    theirs |= {"class_layers.out.weight": torch.zeros(1000, 1664), "class_layers.out.bias": torch.zeros(1000)}
    public = {
        re.sub(r"\.layers\.", ".", name).replace("class_layers.out", "classifier"): value
        for name, value in theirs.items()
    }
    told: list[str] = []
    start.begin(ours, of(DenseNet169(kind="densenet169"), start=saved(tmp_path, public)), told.append)
    kept = [name for name in ours.state_dict() if not name.startswith("class_layers.out")]
    assert all(torch.equal(ours.state_dict()[name], theirs[name]) for name in kept)
    assert len(told) == 1 and "class_layers.out, the last layer, is of other classes" in told[0]


def test_weights_of_the_same_classes_are_taken_whole(tmp_path):
    theirs, ours = built(SETTINGS[2]), built(SETTINGS[2])
    with torch.no_grad():
        theirs.fc.weight.add_(1)
    start.begin(ours, of(SETTINGS[2], start=saved(tmp_path, theirs.state_dict())), pytest.fail)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (ResNet(channels=(8, 8, 8, 16)), r"layer4\.0\.conv1\.weight has \[16, 8, 3, 3\] .* the network has \[8, 8, 3"),
        (SETTINGS[3], r"conv1\.weight is not there .* another network"),
        (ResNet(blocks=(2, 1, 1, 1), channels=(8, 8, 8, 8)), r"the network has no layer1\.1\.conv1\.weight"),
    ],
)
def test_weights_of_another_network_are_refused_naming_the_first_key(theirs, reason, tmp_path):
    chosen = of(ResNet(channels=(8, 8, 8, 8)), start=saved(tmp_path, built(theirs).state_dict()))
    with pytest.raises(Rejected, match=reason):
        start.begin(built(chosen.network), chosen, pytest.fail)


def test_another_file_than_the_recipe_means_and_none_are_refused(tmp_path):
    named = saved(tmp_path, built(SETTINGS[2]).state_dict())
    other = of(SETTINGS[2], start=Start(weights=named.weights, sha256="0" * 64))
    with pytest.raises(Rejected, match=rf"start\.sha256: .* has {named.sha256}, the recipe names 0000"):
        start.begin(built(SETTINGS[2]), other, pytest.fail)
    gone = of(SETTINGS[2], start=Start(weights=str(tmp_path / "gone.pth"), sha256="0" * 64))
    with pytest.raises(Rejected, match=r"start\.weights: there is no file .*gone\.pth"):
        start.begin(built(SETTINGS[2]), gone, pytest.fail)
    with pytest.raises(Rejected, match="sha256sum FILE"):
        of(SETTINGS[2], start={"weights": "x", "sha256": "355c"})


def test_weights_that_are_code_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(built(SETTINGS[2]), path)
    chosen = of(SETTINGS[2], start=Start(weights=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(Rejected, match=r"weights\.pth"):
        start.begin(built(SETTINGS[2]), chosen, pytest.fail)


def test_a_network_that_is_made_for_transfer_says_that_it_starts_at_random():
    told: list[str] = []
    start.begin(built(SETTINGS[5]), of(SETTINGS[5]), told.append)
    assert told[0].startswith("network.kind: efficientnet-b0 starts from random weights")
    start.begin(built(SETTINGS[2]), of(SETTINGS[2]), pytest.fail)


# Two phases.


def test_at_first_the_last_layer_learns_alone_and_then_the_last_layers_with_it():
    network = built(EfficientNetB0(kind="efficientnet-b0"))
    holding = start.Holding(network, Phases(head_share=0.4, thawed_layers=2))
    assert {id(weight) for weight in (*holding.head, *holding.base)} == {id(weight) for weight in network.parameters()}

    def learning() -> set[str]:
        return {name for name, weight in network.named_parameters() if weight.requires_grad}

    norms = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}

    def steady() -> set[str]:
        return {name for name, layer in norms.items() if not layer.training}

    holding.hold(0.39)
    assert learning() == {"_fc.weight", "_fc.bias"} and steady() == norms.keys()
    holding.hold(0.4)
    last = {"_blocks.6.15._project_conv.weight", "_blocks.6.15._bn2.weight", "_blocks.6.15._bn2.bias"}
    last |= {"_conv_head.weight", "_bn1.weight", "_bn1.bias"}
    assert learning() == {"_fc.weight", "_fc.bias"} | last
    assert steady() == norms.keys() - {"_blocks.6.15._bn2", "_bn1"}


def test_what_has_thawed_stays_so_where_a_new_budget_begins():
    network = built(SETTINGS[2])
    holding = start.Holding(network, Phases(head_share=0.4, thawed_layers=2))
    holding.hold(0.8)
    again = start.Holding(network, Phases(head_share=0.4, thawed_layers=2))
    again.load_state_dict(holding.state_dict())
    again.hold(0.1)
    assert sum(weight.requires_grad for weight in again.base) > 0


def test_without_phases_everything_learns():
    network = built(SETTINGS[2])
    start.Holding(network, None).hold(0.0)
    assert network.training and all(weight.requires_grad for weight in network.parameters())


def test_more_layers_than_there_are_cannot_thaw():
    with pytest.raises(Rejected, match=r"phases\.thawed_layers: 40 is more than the \d+ layers before the last"):
        start.Holding(built(SETTINGS[2]), Phases(thawed_layers=40))


# Losses and batches.


def test_losses_are_those_of_their_papers():
    logits = torch.randn(7, 3, generator=draw())
    numbers = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    wanted = F.one_hot(numbers, 3).float()
    plain = loss_of(ClassificationLoss(label_smoothing=0.1), logits, wanted, None)
    torch.testing.assert_close(plain, F.cross_entropy(logits, numbers, label_smoothing=0.1))

    right = torch.softmax(logits, 1)[torch.arange(7), numbers]
    focal = loss_of(ClassificationLoss(label_smoothing=0, focal_gamma=2.0), logits, wanted, None)
    torch.testing.assert_close(focal, (-((1 - right) ** 2) * right.log()).mean())

    weights = torch.tensor([0.5, 1.0, 3.0])
    weighted = loss_of(ClassificationLoss(label_smoothing=0), logits, wanted, weights)
    torch.testing.assert_close(weighted, (-weights[numbers] * right.log()).mean())


def test_a_root_of_what_is_left_to_learn_has_a_finite_slope_where_nothing_is_left():
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    loss_of(ClassificationLoss(label_smoothing=0, focal_gamma=0.5), logits, torch.tensor([[1.0, 0.0]]), None).backward()
    assert torch.isfinite(logits.grad).all()


def test_a_loss_that_is_no_number_ends_the_training(spots, tmp_path):
    chosen = small(optimiser={"learning_rate": 1e30})
    with pytest.raises(Rejected, match=r"after \d+ images the loss is not finite .*; lower learning_rate"):
        training.train(chosen, spots, tmp_path / "run", device="cpu")


def test_rare_classes_weigh_more_and_missing_ones_nothing():
    weights = class_weights(torch.tensor([0] * 6 + [2] * 2), 4)
    torch.testing.assert_close(weights, torch.tensor([8 / 12, 0.0, 8 / 4, 0.0]))


def test_images_and_what_is_wanted_of_them_are_mixed_alike_by_the_law_of_beta():
    count = 4000
    images = torch.arange(count, dtype=torch.float64)[:, None, None, None].expand(count, 1, 2, 2)
    wanted = torch.stack([torch.arange(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)], 1)
    made, asked = mixed(images, wanted, 0.4, draw(3))
    torch.testing.assert_close(made[:, 0, 0, 0], asked[:, 0])
    assert torch.equal(asked[:, 1], wanted[:, 1])
    order = torch.Generator().manual_seed(3)
    torch.rand(count, generator=order, dtype=torch.float64)
    other = torch.randperm(count, generator=order)
    apart = other != torch.arange(count)
    share = (asked[:, 0] - wanted[other, 0])[apart] / (wanted[:, 0] - wanted[other, 0])[apart]
    assert stats.kstest(share.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    assert mixed(images, wanted, 0.0, draw())[0] is images


def test_the_rate_is_halved_where_the_loss_stays_and_goes_on_from_a_checkpoint():
    plateau = Plateau(2)
    for loss, factor in ((1.0, 1), (0.9, 1), (0.95, 1), (0.9, 0.5), (0.8, 0.5), (0.85, 0.5)):
        plateau.look(loss)
        assert plateau.factor == factor
    later = Plateau(2)
    later.load_state_dict(plateau.state_dict())
    later.look(0.9)
    assert later.factor == 0.25
    never = Plateau(None)
    for _ in range(9):
        never.look(1.0)
    assert never.factor == 1


# Whole trainings.


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Three lefts for one right, on 20 x 16 pixels."""
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


SMALL = {"kind": "small-cnn", "channels": [8, 8], "hidden": 8, "norm": "group", "dropout": 0.1}
SCALED = [{"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 255, "b_min": 0.0, "b_max": 1.0, "clip": True}]


def small(**changes: Any) -> ClassificationRecipe:
    plain: dict[str, Any] = {"name": "small", "task": "classification", "preprocessing": SCALED, "network": SMALL}
    plain["schedule"] = {"total_images": 96, "report_images": 32, "batch_size": 8, "warm_up_images": 0}
    plain["schedule"] |= changes.pop("schedule", {})
    chosen = recipe.parse(plain | changes, "small")
    assert isinstance(chosen, ClassificationRecipe)
    return chosen


CHOICES: dict[str, dict[str, Any]] = {
    "balanced batches, focal": {"batches": "balanced", "loss": {"focal_gamma": 2.0}},
    "class weights, mixed": {"loss": {"class_weights": "balanced", "mix": 0.2}},
    "plateau, patience": {"schedule": {"decay": "none", "plateau_reports": 1, "patience_reports": 2}},
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_stopped_and_resumed_training_ends_bit_equal(name, spots, tmp_path):
    chosen = small(**CHOICES[name])
    training.train(chosen, spots, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, spots, tmp_path / "parts", progress=stop_at(64), device="cpu")
    training.train(chosen, spots, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_two_phases_from_another_run_learn_and_serve(spots, tmp_path):
    first = small(schedule={"total_images": 1600, "report_images": 800}, batches="balanced")
    training.train(first, spots, tmp_path / "first", device="cpu")
    weights = tmp_path / "first" / "models" / "model.pt"
    named = {"weights": str(weights), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    second = small(start=named, phases={"head_share": 0.5, "thawed_layers": 1, "slower": 0.1}, seed=1)
    training.train(second, spots, tmp_path / "second", device="cpu")

    before, after = (version.read_weights(tmp_path / run / "models" / "model.pt") for run in ("first", "second"))
    assert torch.equal(before["features.0.weight"], after["features.0.weight"])
    assert not torch.equal(before["hidden.weight"], after["hidden.weight"])
    with (tmp_path / "second" / "metrics.csv").open() as file:
        assert float(next(csv.DictReader(file))["validation_auroc"]) > 0.9
    model = predictor.load(tmp_path / "second")
    assert isinstance(model, predictor.Classifier) and np.isfinite(model.threshold)
    # It is known what the first one had seen.
    (ancestor,) = model.description.saw.ancestors
    assert ancestor.content_hash == version.load(tmp_path / "first").identity.content_hash
    assert ancestor.data_hash == spots.data_hash


def test_a_validation_of_one_kind_is_told(tmp_path):
    """Of eight pictures to a patient two are rights; the first three are lefts."""
    cohort = cohort_of(tmp_path / "cohort", picture, (96, 3, 32))
    told: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "warning":
            told.append(event["message"])

    training.train(small(), cohort, tmp_path / "run", progress=listen, device="cpu")
    (sentence,) = told
    assert sentence.startswith("validation has 'left' alone: its AUROC says nothing, and the threshold stays at 0.5; ")


def test_steps_for_volumes_are_refused_for_pictures(spots, tmp_path):
    """A size of -1 for slices would make a stack of each picture."""
    step = {"_target_": "Resized", "spatial_size": [-1, 16, 16]}
    with pytest.raises(
        Rejected, match=r"makes an image of 3 axes of .*, which has 2; give its steps 2 sizes \(without"
    ):
        training.train(small(preprocessing=[*SCALED, step]), spots, tmp_path / "run", device="cpu")


def test_patience_ends_a_training_that_gets_no_better(spots, tmp_path):
    chosen = small(optimiser={"learning_rate": 1e-12}, schedule={"total_images": 3200, "patience_reports": 2})
    training.train(chosen, spots, tmp_path / "run", device="cpu")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert int([*csv.DictReader(file)][-1]["images_seen"]) < 1600


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"windows": {}}, r"windows: small-cnn is shown whole images"),
        ({"network": {"kind": "resnet", "dropout": 0.2}, "windows": {}}, r"network\.dropout: a network of windows"),
        ({"network": {}, "windows": {}, "batches": "balanced"}, r"loss\.class_weights: windows are balanced"),
        (
            {"batches": "balanced", "loss": {"class_weights": "balanced"}},
            "balanced batches weigh classes alike",
        ),
        ({"phases": {}}, "phases: without start the frozen layers would stay random"),
        ({"schedule": {"plateau_reports": 2}}, r"schedule\.plateau_reports: the learning rate has a cosine already"),
        ({"network": {"kind": "vgg"}}, "none of resnet, small-cnn, densenet169, efficientnet-b0, histology-cnn-151k"),
    ],
)
def test_what_excludes_each_other_is_refused_by_key(changes, reason):
    with pytest.raises(Rejected, match=reason):
        small(**changes)
