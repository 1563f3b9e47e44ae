"""Saliency against closed forms, on the pixels that it is of, and whether it shows what was learned."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_classifiers import SETTINGS, built
from torch import Tensor, nn

from dicom_io import cohort as cohorts
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source, Volume
from models import bundle, predictor, preprocessing, saliency
from models.classification_recipe import EfficientNetB0
from models.networks.ensemble import Ensemble
from models.reports import figures
from models.reports.parts import markdown
from models.tensors import on_source_grid, to_metatensor


class Weighted(nn.Module):
    """The log-odds are a weighted sum of pixels."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        odds = (images[:, 0] * self.weights).sum((1, 2))
        return torch.stack([torch.zeros_like(odds), odds], 1)


class Mean(nn.Module):
    """Two maps by a convolution of one pixel each; their means decide."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(2, 2, 1, bias=False)
        self.last = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([[1.0, 0], [0, -1]])[..., None, None])
            self.last.weight.copy_(torch.tensor([[0.0, 0], [3, 2]]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.maps(images).mean((2, 3)))
        return logits


def test_occlusion_is_the_mean_loss_over_the_squares_that_cover_a_pixel():
    torch.manual_seed(0)
    weights, images = torch.randn(24, 33), torch.randn(2, 1, 24, 33)
    found = saliency.occlusion(Weighted(weights), images)
    side = 3  # an eighth of 24
    starts = [sorted({*range(0, size - side, 1), size - side}) for size in (24, 33)]
    for image, lost in zip(images[:, 0].numpy(), found.numpy(), strict=True):
        fallen = weights.numpy() * (image - image.mean())
        for row, column in ((0, 0), (7, 20), (23, 32), (12, 1)):
            squares = [
                fallen[top : top + side, left : left + side].sum()
                for top in starts[0]
                for left in starts[1]
                if top <= row < top + side and left <= column < left + side
            ]
            assert lost[row, column] == pytest.approx(np.mean(squares), abs=1e-4)


def test_grad_cam_weighs_each_map_by_its_mean_slope_and_keeps_what_is_for_the_class():
    images = torch.randn(3, 2, 10, 14, generator=torch.Generator().manual_seed(1))
    found = saliency.grad_cam(Mean(), images)
    # The slope of the log-odds in every pixel of map k is its weight over the number of pixels.
    expected = (3 * images[:, 0] - 2 * images[:, 1]).clamp_min(0) / 140
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_every_network_has_maps_of_the_size_of_its_images(settings):
    network = built(settings).eval()
    images = torch.randn(3, 3, 72, 64, generator=torch.Generator().manual_seed(2))
    drawn = saliency.maps(network, images)
    assert drawn.shape == (3, 72, 64) and drawn.isfinite().all() and (drawn >= 0).all()
    assert all(weight.grad is None for weight in network.parameters())


def test_where_one_module_serves_stem_and_head_the_head_is_drawn():
    network = built(EfficientNetB0(kind="efficientnet-b0"), channels=1).eval()
    images = torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(5))
    # By hand, from the maps that the head hands to the mean.
    seen: list[Tensor] = []
    hook = network._avg_pooling.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    odds = saliency.log_odds(network(images))
    hook.remove()
    (slopes,) = torch.autograd.grad(odds.sum(), seen[0])
    expected = (slopes.mean((2, 3), keepdim=True) * seen[0].detach()).sum(1, keepdim=True).clamp_min(0)
    expected = nn.functional.interpolate(expected, (96, 64), mode="bilinear", align_corners=False)[:, 0]
    # Random weights give tiny maps, whose differences would pass for rounding.
    found = saliency.grad_cam(network, images)
    assert expected.max() > 0 and found.max() > 0
    torch.testing.assert_close(found / expected.max(), expected / expected.max())


def test_an_ensemble_is_occluded():
    network = Ensemble([Weighted(torch.ones(16, 16)), Weighted(torch.zeros(16, 16))], ["columns"])
    assert saliency.method_of(network) == "occlusion"
    spot = torch.zeros(1, 1, 16, 16)
    spot[0, 0, 3:5, 10:12] = 1
    drawn = saliency.maps(network, spot)[0]
    row, column = divmod(int(drawn.argmax()), 16)
    assert row in (3, 4) and column in (10, 11)


CHAINS = {
    "resized": [{"_target_": "Resized", "spatial_size": [-1, 24, 40], "mode": "area"}],
    "padded and cropped": [{"_target_": "ResizeWithPadOrCropd", "spatial_size": [-1, 60, 26]}],
    "cropped, then resized": [
        {"_target_": "CenterSpatialCropd", "roi_size": [-1, 40, 24]},
        {"_target_": "Resized", "spatial_size": [-1, 20, 36], "mode": "area"},
    ],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("kind", ["volume", "projection"])
def test_a_map_lies_on_the_pixels_of_the_source_whatever_the_chain_did(name, kind):
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * np.array([4.0, 0.9, 1.3]), [20, -60, 7]
    rows, columns = np.mgrid[:48, :32]
    # Smooth, lopsided, another in every slice.
    spots = [np.exp(-((rows - 20 - 2 * z) ** 2 / 60 + (columns - 18) ** 2 / 30)) for z in range(5)]
    voxels = np.array(spots, np.float32)
    if kind == "volume":
        source: Volume | Projection = Volume(voxels, affine, "1.2", "1", ())
        steps = CHAINS[name]
    else:
        source = Projection(voxels[1], "1", Source("1.2", "2.25.1", "0"), (0.9, 1.3), "", "", "", "")
        steps = [{key: _flat(value) for key, value in step.items()} for step in CHAINS[name]]
    prepared = preprocessing.prepare(preprocessing.chain(steps), to_metatensor(source))
    back = on_source_grid(np.asarray(prepared[0] if kind == "volume" else prepared), prepared, source)
    expected = voxels if kind == "volume" else voxels[1:2]
    assert back.shape == expected.shape
    seen = back > 0
    np.testing.assert_allclose(back[seen], expected[seen], atol=0.06)
    assert float(seen.mean()) == pytest.approx({"resized": 1, "padded and cropped": 26 / 32}.get(name, 0.625), abs=0.02)


def _flat(value: object) -> object:
    return value[1:] if isinstance(value, list) else value


def test_maps_that_random_weights_draw_as_well_are_found_out():
    torch.manual_seed(0)
    images = [torch.rand(1, 32, 32).cumsum(1) / 100 for _ in range(5)]

    class Edges(Weighted):
        """Whatever its weights, it looks at how bright the picture is."""

        def forward(self, given: Tensor) -> Tensor:
            odds = (given[:, 0] ** 2).mean((1, 2)) * (1 + 0 * self.weights.sum())
            return torch.stack([torch.zeros_like(odds), odds], 1)

    both = (Weighted, Edges)
    told = {}
    for kind in both:
        network = Ensemble([kind(torch.randn(32, 32))])
        told[kind] = saliency.sanity(network, lambda kind=kind: Ensemble([kind(torch.randn(32, 32))]), images)
    assert told[Edges] == {"method": "occlusion", "pictures": 5, "rank_correlation": 1.0, "passed": False}
    assert told[Weighted]["passed"] and told[Weighted]["rank_correlation"] < 0.3


def test_a_map_that_is_the_same_everywhere_says_nothing():
    network = Ensemble([Weighted(torch.zeros(16, 16))])
    told = saliency.sanity(network, lambda: network, [torch.rand(1, 16, 16)] * 3)
    assert told == {"method": "occlusion", "pictures": 0, "rank_correlation": None, "passed": False}


def test_a_release_says_whether_its_maps_show_what_was_learned_and_a_failed_one_makes_none(classifier, tmp_path):
    found = (classifier.evaluation or {})["saliency"]
    assert found["method"] == "grad-cam" and found["pictures"] > 0
    assert "Maps of saliency (grad-cam) and those of random weights on" in "\n".join(
        markdown(figures.parts(classifier.evaluation))
    )
    folder = tmp_path / "copy"
    shutil.copytree(classifier.folder, folder)
    report = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    report["saliency"] |= {"passed": False, "rank_correlation": 0.8}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(report))
    model = predictor.load(folder)
    assert isinstance(model, predictor.Classifier)
    image = Volume(np.zeros((2, 40, 32), np.float32), np.eye(4), "1.2", "1", ())
    with pytest.raises(Rejected, match="its evaluation found maps of saliency that say nothing"):
        model.saliency(image)
    assert bundle.load(folder).evaluation is not None


def test_a_run_without_an_evaluation_makes_maps_on_the_source_grid(classification_run):
    run, cohort, _ = classification_run
    model = predictor.load(run)
    assert isinstance(model, predictor.Classifier)
    image = cohorts.load_image(cohort, cohort.test[0])
    assert isinstance(image, Volume)
    drawn = model.saliency(image)
    assert drawn.shape == image.spatial_shape and drawn.max() > 0
    again = model.saliency(replace(image, frame_of_reference_uid="1.9"))
    np.testing.assert_array_equal(drawn, again)
