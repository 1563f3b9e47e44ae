"""The last layer on embeddings that SMOTE balances: convexity and geometry as oracles, folds that it may not cross."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_variational import LABELS, cohort_of, picture
from torch import nn

from dicom_io.errors import Rejected
from models import bundle, cases, networks, recipe, training, version
from models.classification_recipe import Retraining, SmallCNN
from models.networks import classifier
from models.training.retraining import balanced, embeddings, fitted, retrain


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    made = cohort_of(tmp_path_factory.mktemp("rare"), picture, (48, 24, 16))
    return replace(made, labels=LABELS[:2])  # the third has no picture


def rare(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of three classes, of 60, 25 and 8, each around a place of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [60, 25, 8])
    places = np.array([[0.0, 0, 0, 5], [3, 0, 1, 5], [0, 4, 0, 5]])
    return places[labels] + rng.normal(0, [1.0, 0.5, 2.0, 0.1], (93, 4)), labels


def test_every_class_comes_as_often_and_what_is_made_lies_between_two_of_its_class():
    values, labels = rare()
    more, their = balanced(values, labels, ("a", "b", "c"), 5, 3)
    assert np.bincount(their).tolist() == [60, 60, 60]
    np.testing.assert_array_equal(more[:93], values)
    for made, label in zip(more[93:], their[93:], strict=True):
        own = values[labels == label]
        # On a line between two, the ways from one to it and from it to the other add up to the whole.
        ways = np.linalg.norm(own - made, axis=1)
        between = np.linalg.norm(own[:, None] - own[None], axis=2)
        assert np.abs(ways[:, None] + ways[None] - between).min() < 1e-6


def test_a_class_with_too_few_images_is_named_with_their_number():
    values, labels = rare()
    with pytest.raises(Rejected, match="'c' has 8 training images, and each needs 9 others"):
        balanced(values, labels, ("a", "b", "c"), 9, 0)
    with pytest.raises(Rejected, match="'d' has 0 training images"):
        balanced(values, labels, ("a", "b", "c", "d"), 2, 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fitted_layer_is_the_one_minimum_of_cross_entropy_and_penalty(classes):
    values, labels = rare()
    kept = labels < classes
    values, labels = values[kept], labels[kept]
    weight, bias = fitted(values, labels, 0.05)
    deviation = values.std(0)
    at = torch.tensor(weight * deviation, requires_grad=True)
    free = torch.tensor(bias + weight @ values.mean(0), requires_grad=True)
    standard = torch.tensor((values - values.mean(0)) / deviation)
    # Of two classes one row is fitted, whose square is twice that of the two halves together.
    squares = (at**2).sum() * (2 if classes == 2 else 1)
    loss = F.cross_entropy(standard @ at.T + free, torch.tensor(labels)) + 0.05 / 2 * squares
    loss.backward()
    assert at.grad is not None and free.grad is not None
    assert at.grad.abs().max() < 1e-4 and free.grad.abs().max() < 1e-4


def test_the_network_says_of_an_image_what_the_layer_says_of_its_embedding(spots):
    network = _network()
    training_cases = cases.load(spots, spots.training, ())
    values = embeddings(network, training_cases)
    assert values.shape == (48, 16)
    made = retrain(network, training_cases, spots, Retraining(neighbours=3), 0)
    assert made == 36 - 12
    logits = torch.cat([network(case.image.transpose(0, 1)) for case in training_cases])
    layer = network.get_submodule(classifier.last_layer(network))
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(logits, layer(torch.from_numpy(values).float()))


def test_an_image_of_validation_is_refused(spots):
    both = cases.load(spots, [*spots.training, spots.validation[0]], ())
    with pytest.raises(Rejected, match=r"iv?\d+.* is not of the training split; SMOTE makes"):
        retrain(_network(), both, spots, Retraining(neighbours=3), 0)


def test_a_training_is_the_same_up_to_its_last_layer_and_says_what_was_made(spots, tmp_path):
    document = {"name": "x", "task": "classification", "seed": 1}
    document |= {"network": {"kind": "small-cnn", "channels": [8, 8], "hidden": 8}}
    document |= {"schedule": {"total_images": 160, "report_images": 80, "batch_size": 8, "warm_up_images": 0}}
    plain, fitted_anew = tmp_path / "plain", tmp_path / "anew"
    training.train(recipe.parse(document, "x"), spots, plain, device="cpu")
    anew = recipe.parse(document | {"retraining": {"neighbours": 3}}, "x")
    training.train(anew, spots, fitted_anew, device="cpu")
    before, after = (version.load(run).weights() for run in (plain, fitted_anew))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"last.weight", "last.bias"}
    described = version.load(fitted_anew).description
    assert described.made_embeddings == 24 and described.labels == LABELS[:2]
    released = bundle.release(fitted_anew, spots, "anew", models_dir=tmp_path / "models")
    told = (released.folder / "docs" / "README.md").read_text()
    assert "fitted anew, to the embeddings of the training images and 24 that SMOTE made between them." in told


def test_windows_have_no_one_embedding_and_are_refused():
    document = {"name": "x", "task": "classification", "schedule": {"total_images": 10}}
    with pytest.raises(Rejected, match="retraining: a slice has an embedding for each of its windows"):
        recipe.parse(document | {"windows": {"window_px": 16}, "retraining": {}}, "x")


def _network() -> nn.Module:
    torch.manual_seed(0)
    settings = SmallCNN(kind="small-cnn", channels=(8, 8), hidden=16, norm="group", dropout=0.3)
    return networks.build(classifier.definition(settings, 1, 2))
