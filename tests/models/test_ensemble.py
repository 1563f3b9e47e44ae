"""Several predictors as one: probabilities are means, thresholds are fixed anew, what does not fit is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Volume
from models import bundle, cases, ensemble, networks, predictor, runner, training, version
from models.card import card
from models.classification_recipe import Start
from models.evaluate import evaluate
from models.networks.ensemble import Ensemble
from models.networks.plain_unet import PlainUNet
from models.recipe import Recipe
from plugin.cli import learning

Trained = tuple[Path, Cohort, Recipe]


def another(trained: Trained, folder: Path, seed: int, **changes: Any) -> Path:
    """The same training with another seed."""
    _, cohort, chosen = trained
    schedule = chosen.schedule.model_copy(update={"total_images": 320, "report_images": 320})
    training.train(
        chosen.model_copy(update={"seed": seed, "schedule": schedule, **changes}), cohort, folder, device="cpu"
    )
    return folder


@pytest.fixture(scope="module")
def segmenters(segmentation_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Cohort]:
    run, cohort, _ = segmentation_run
    return [run, another(segmentation_run, tmp_path_factory.mktemp("second") / "run", 5)], cohort


@pytest.fixture(scope="module")
def merged(segmenters: tuple[list[Path], Cohort], tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, cohort = segmenters
    return ensemble.merge(runs, cohort, tmp_path_factory.mktemp("merged") / "run", ["columns"])


def test_members_disagree_where_their_probabilities_differ_and_the_mask_stays_the_same(merged, segmenters):
    runs, cohort = segmenters
    model = predictor.load(merged)
    assert isinstance(model, predictor.Segmenter)
    image = cohorts.load_image(cohort, cohort.test[0])
    assert isinstance(image, Volume)
    plain, found = model.predict(image), model.predict(image, members=True)
    assert plain.disagreement is None and found.disagreement is not None
    np.testing.assert_array_equal(plain.mask.voxels, found.mask.voxels)
    np.testing.assert_array_equal(plain.probability.voxels, found.probability.voxels)
    each = [_held_probable(model, image, member) for member in range(2)]
    np.testing.assert_allclose(found.disagreement.voxels, np.std(each, axis=0), atol=1e-5)
    assert found.disagreement.voxels.max() > 0.01 and found.disagreement.same_grid_as(image)
    alone = predictor.load(runs[0])
    assert isinstance(alone, predictor.Segmenter)
    assert alone.predict(image, members=True).disagreement is None


@torch.inference_mode()
def _held_probable(model: predictor.Segmenter, image: Volume, member: int) -> np.ndarray:
    """What one member alone holds probable, window by window."""
    network = model.network
    assert isinstance(network, Ensemble)
    slide = runner.build_inferer(model.model.inferer)
    tensor = torch.as_tensor(model.input_tensor(image)).as_subclass(torch.Tensor)[None]
    return slide(tensor, lambda windows: 1 - network.each(windows)[member][:, :1])[0, 0].numpy()


# Networks.


def test_the_net_of_the_white_matter_challenge_has_its_weights_layers_and_work():
    """8.28 million, 19 convolutions, 36.4 GFLOP for a slice of 200 x 200 with two channels."""
    network = PlainUNet(2, 1, [64, 96, 128, 256, 512], "none", 5)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(8.28e6, rel=2e-3)
    flop = []

    def count(layer: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        flop.append(2 * output[0].numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        # 208, for 200 is no multiple of 16.
        assert network(torch.zeros(1, 2, 208, 208)).shape == (1, 1, 208, 208)
    assert len(flop) == 19
    assert sum(flop) * (200 / 208) ** 2 == pytest.approx(36.4e9, rel=0.01)


class Fixed(nn.Module):
    """Logits that are a function of the place and the image alone."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.slope * images, torch.linspace(0, 1, images.shape[-1]).expand(images.shape)], 1)


def test_probabilities_are_the_mean_of_members_and_mirror_images():
    images = torch.randn(3, 1, 5, 7, generator=torch.Generator().manual_seed(1))
    members = [Fixed(1.0), Fixed(-2.0)]
    made = torch.softmax(Ensemble(members)(images), 1)
    torch.testing.assert_close(made, torch.stack([torch.softmax(each(images), 1) for each in members]).mean(0))

    both = [torch.softmax(members[0](images), 1), torch.softmax(members[0](images.flip(-1)), 1).flip(-1)]
    torch.testing.assert_close(torch.softmax(Ensemble(members[:1], ["columns"])(images), 1), torch.stack(both).mean(0))
    assert len(Ensemble(members, ["rows", "columns"])._flips) == 4
    assert not torch.allclose(both[0], both[1])


def test_a_temperature_divides_the_logits():
    images = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(Ensemble([Fixed(1.0)], (), 2.0)(images), Ensemble([Fixed(1.0)])(images) / 2)


@pytest.mark.parametrize(
    "change",
    [
        {"mirrored": ["depth"]},
        {"mirrored": ["rows", "rows"]},
        {"members": []},
        {"members": [{"_target_": "os.system"}]},
        {"members": ["$x"]},
        {"members": ["UNet"]},
    ],
)
def test_a_definition_that_is_none_is_refused(change):
    with pytest.raises(Rejected):
        networks.build({"_target_": "models.networks.ensemble.Ensemble", "members": [{"_target_": "UNet"}]} | change)


# Runs put together.


def test_an_ensemble_of_segmenters_serves_the_mean_of_its_members(merged, segmenters):
    runs, cohort = segmenters
    case = cases.load(cohort, cohort.test[:1], version.load(merged).model_input)[0]
    whole = predictor.load(merged)
    assert isinstance(whole, predictor.Segmenter)
    single = [predictor.load(run) for run in runs]
    flipped = case.image.flip(-1)
    expected = [
        torch.stack([each.probabilities(case.image), each.probabilities(flipped).flip(-1)]).mean(0) for each in single
    ]
    # Windows are blended as logits of each, or of their mean: nearly the same.
    found = whole.probabilities(case.image)
    assert float((found - torch.stack(expected).mean(0)).abs().mean()) < 0.02
    assert torch.allclose(found.sum(0), torch.ones(found.shape[1:]), atol=1e-4)


def test_it_is_evaluated_and_released_as_any_run_and_says_what_it_is_made_of(merged, segmenters, tmp_path):
    runs, cohort = segmenters
    made = bundle.release(merged, cohort, "lesions", models_dir=tmp_path)
    hashes = [version.load(run).identity.content_hash for run in runs]
    assert [member.content_hash for member in made.description.members] == hashes
    assert [member.seed for member in made.description.members] == [0, 5]
    text = (made.folder / "docs" / "README.md").read_text()
    assert (
        f"the mean of the probabilities of 2 runs, `{hashes[0][:12]}` (seed 0), `{hashes[1][:12]}` (seed 5), each"
        in text
    )
    assert "looking at mirror images (columns), too." in text
    alone = evaluate(runs[0], cohort, draws=200)["metrics"]["dice"]["value"]
    assert made.evaluation["metrics"]["dice"]["value"] > alone - 0.1
    assert "An ensemble" not in card(version.load(runs[0]).description, made.evaluation)


def test_an_ensemble_of_versions_is_a_run_that_nobody_has_judged(segmenters, tmp_path):
    runs, cohort = segmenters
    versions = []
    for number, run in enumerate(runs, 1):
        versions.append(bundle.release(run, cohort, "one", str(number), models_dir=tmp_path).folder)
    made = version.load(ensemble.merge(versions, cohort, tmp_path / "both")).description
    assert (made.name, made.version, made.state, made.audit_id) == ("segmenter", "0", "unproven", "")


def test_classifiers_are_put_together_and_calibrated_anew(classification_run, tmp_path):
    run, cohort, _ = classification_run
    runs = [run, another(classification_run, tmp_path / "second", 7)]
    made = ensemble.merge(runs, cohort, tmp_path / "merged")
    model = version.load(made)
    assert model.description.temperature == model.network_definition["temperature"] > 0
    image = cases.load(cohort, cohort.test[:1], ())[0].source
    members = [predictor.load(each) for each in runs]
    mean = np.mean([each.predict(image).probabilities for each in members], axis=0)
    whole = predictor.load(made).predict(image).probabilities
    powered = mean ** (1 / model.description.temperature)
    np.testing.assert_allclose(whole, powered / powered.sum(1, keepdims=True), atol=1e-4)


def test_runs_that_do_not_fit_are_refused(segmenters, segmentation_run, classification_run, tmp_path, make_cohort):
    runs, cohort = segmenters
    with pytest.raises(Rejected, match="two runs or more"):
        ensemble.merge(runs[:1], cohort, tmp_path / "out")
    with pytest.raises(Rejected, match="one and the same run"):
        ensemble.merge([runs[0], runs[0]], cohort, tmp_path / "out")
    with pytest.raises(Rejected, match=r"was trained on cohort .* as it is now"):
        ensemble.merge([runs[0], classification_run[0]], cohort, tmp_path / "out")
    with pytest.raises(Rejected, match="as it is now"):
        ensemble.merge(runs, make_cohort("segmentation", (2, 1, 1)), tmp_path / "out")
    chain = ({"_target_": "NormalizeIntensityd"},)
    other = another(segmentation_run, tmp_path / "other", 6, preprocessing=chain)
    with pytest.raises(Rejected, match="has another input chain than"):
        ensemble.merge([runs[0], other], cohort, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Rejected, match="is not empty"):
        ensemble.merge(runs, cohort, runs[0])


def test_what_any_member_had_started_from_is_known_of_the_ensemble(classification_run, tmp_path):
    run, cohort, _ = classification_run
    weights = run / "models" / "model.pt"
    start = Start(weights=str(weights), sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    runs = [
        another(classification_run, tmp_path / "plain", 7),
        another(classification_run, tmp_path / "s", 8, start=start),
    ]
    saw = version.load(ensemble.merge(runs, cohort, tmp_path / "both")).description.saw
    known = version.load(run).identity.content_hash
    assert [each.content_hash for each in saw.ancestors] == [known]


def test_no_training_begins_where_an_ensemble_lies(merged, segmentation_run):
    before = (merged / "models" / "model.pt").read_bytes()
    for resume in (False, True):
        with pytest.raises(Rejected, match="holds a model that was not trained there"):
            training.train(segmentation_run[2], segmentation_run[1], merged, resume=resume, device="cpu")
    assert (merged / "models" / "model.pt").read_bytes() == before


def test_the_command_puts_runs_together(segmenters, tmp_path):
    runs, cohort = segmenters
    app = typer.Typer()
    learning.register(app)
    words = ["ensemble", *map(str, runs), "--cohort", str(cohort.folder), "--run", str(tmp_path / "both")]
    done = CliRunner().invoke(app, [*words, "--mirror", "columns", "--mirror", "columns"])
    assert done.exit_code == 0 and f"mirall evaluate {tmp_path / 'both'}" in done.stdout
    assert version.load(tmp_path / "both").network_definition["mirrored"] == ["columns"]
