"""Pictures of pictures: known functions are learned, baselines are beaten, a killed training ends in the same bits."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import toy_pairs
from scipy import ndimage
from skimage import metrics
from stopping import Stop, stop_at

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Volume
from models import bundle, coarse, from_pictures, networks, preprocessing, recipe, training, version
from models.evaluate import evaluate, verdict
from models.evaluation import agreement, trivial
from models.generator import source_of
from models.networks.patch_critic import PatchCritic, smallest_px
from models.networks.spade import Spade, Style
from models.networks.translator import Translator, enlarged
from models.tensors import to_metatensor
from models.training import couples, pictures, transfer
from models.training.paired_parts import coded, matching
from models.training.truth import Truth, evenly
from models.version import read_weights

ON = torch.device("cpu")


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cohort]:
    """A cohort for each shipped recipe of the family."""
    return {name: toy_pairs.write(tmp_path_factory.mktemp(name), layers) for name, layers in toy_pairs.KINDS.items()}


def lines_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def trained(folder: Path, name: str, cohort: Cohort, **changes: Any) -> Path:
    training.train(toy_pairs.small(name, **changes), cohort, folder / "run", device="cpu")
    return folder / "run"


@pytest.fixture(scope="session")
def translating(toys: dict[str, Cohort], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(
        tmp_path_factory.mktemp("translating"),
        "translator",
        toys["translator"],
        network={"norm": "none"},
        loss={"adversarial": 0.02},
        optimiser={"learning_rate": 5e-3},
        schedule={"total_images": 1600, "report_images": 800},
    )


@pytest.fixture(scope="session")
def refining(toys: dict[str, Cohort], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(
        tmp_path_factory.mktemp("refining"),
        "super-resolution",
        toys["super-resolution"],
        optimiser={"learning_rate": 3e-3},
        schedule={"total_images": 1600, "report_images": 800},
    )


@pytest.fixture(scope="session")
def painting(toys: dict[str, Cohort], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(
        tmp_path_factory.mktemp("painting"),
        "mask-to-image",
        toys["mask-to-image"],
        optimiser={"learning_rate": 2e-3, "beta_1": 0.5},
        loss={"adversarial": 0.1, "code": 0.002},
        schedule={"total_images": 3200, "report_images": 800},
    )


def network_of(run: Path) -> Any:
    return version.load(run).network()


# What is learned.


def test_a_shift_is_learned_in_its_own_direction(translating, toys):
    """The mean error is a third of the best table's; a flip or another shift would leave it where it was."""
    last = lines_of(translating)[-1]
    assert float(last["validation_absolute_error"]) < 0.35 * float(last["baseline_error"])


def test_finer_pixels_beat_bicubic_where_wide_ones_carry_the_picture(refining):
    last = lines_of(refining)[-1]
    assert float(last["validation_absolute_error"]) < 0.6 * float(last["baseline_error"])


def pictures_of(painting: Path, seed: int, codes: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes, 16, 16) in shares of the range, and the label of each pixel that is of one wholly; of a mask unseen."""
    mask = torch.from_numpy(toy_pairs.painted(seed)["mask"])
    given = torch.stack([(mask == label).float() * 2 - 1 for label in (1, 2)], 1)
    square = torch.nn.functional.pad(given, [3, 3, 0, 0], value=-1.0)
    square = torch.nn.functional.interpolate(square, (16, 16), mode="area")[0]
    made = [network_of(painting).make_from(square, source_of(1, code))[0] for code in range(codes)]
    numbers = torch.where(square[0] == 1, 1, torch.where(square[1] == 1, 2, -1))
    return (np.stack(made) + 1) / 2, torch.where((square == -1).all(0), 0, numbers).numpy()


def test_a_label_gets_its_brightness_where_it_is(painting):
    pictures, numbers = pictures_of(painting, 91, 4)
    for label, brightness in enumerate(toy_pairs.BRIGHTNESS):
        found = pictures[:, numbers == label]
        assert found.mean() == pytest.approx(brightness, abs=0.08)
        assert found.std() < 0.1


def test_one_mask_gives_several_pictures(painting):
    pictures, numbers = pictures_of(painting, 92, 12)
    shades = pictures[:, numbers > 0].mean(1)
    assert 0.2 < shades.std() / (0.2 / np.sqrt(12)) < 1.6


# Training.


@pytest.mark.parametrize("name", toy_pairs.KINDS)
def test_a_stopped_and_resumed_run_ends_bit_equal(name, toys, tmp_path):
    chosen = toy_pairs.small(name, schedule={"total_images": 96}, loss={"adversarial": 1.0})
    training.train(chosen, toys[name], tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, toys[name], tmp_path / "parts", progress=stop_at(64), device="cpu")
    training.train(chosen, toys[name], tmp_path / "parts", resume=True, device="cpu")
    first, second = (read_weights(tmp_path / run / "models" / "model.pt") for run in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()


def test_the_critic_and_the_style_s_encoder_are_not_released(painting):
    assert {name.split(".")[0] for name in read_weights(painting / "models" / "model.pt")} == {
        "project",
        "blocks",
        "picture",
    }


@pytest.mark.parametrize(
    ("run", "figure"), [("translating", "validation_absolute_error"), ("painting", "validation_kid")]
)
def test_what_is_kept_is_the_best_by_what_suits(run, figure, request):
    events: list[dict[str, Any]] = []
    folder = request.getfixturevalue(run)
    chosen = recipe.load(folder / "recipe.yaml")
    cohort = request.getfixturevalue("toys")["translator" if run == "translating" else "mask-to-image"]
    training.train(chosen, cohort, folder, resume=True, progress=events.append, device="cpu")
    assert events[-1][figure] == pytest.approx(min(float(line[figure]) for line in lines_of(folder)), abs=1e-6)


# Pairs.


def test_windows_of_both_are_of_one_place(toys):
    chosen = toy_pairs.small("translator")
    _, pairs = couples.read(toys["translator"], "training", chosen, 16)
    changes = chosen.augmentation.model_copy(update={"flip_rows": True, "gain": 0.1})
    given, wanted = pairs.draw(32, 16, changes, torch.Generator().manual_seed(0), ON)
    still, moved = given[:, 0, 3:-3, 3:-3].flatten(1), wanted[:, 0]
    alike = []
    for down in (1, -1):
        back = torch.roll(moved, (-down * toy_pairs.SHIFT[0], -toy_pairs.SHIFT[1]), (1, 2))[:, 3:-3, 3:-3].flatten(1)
        pairs_of = zip(still, back, strict=True)
        alike.append([float(torch.corrcoef(torch.stack(pair))[0, 1]) > 0.99 for pair in pairs_of])
    assert all(upright != flipped for upright, flipped in zip(*alike, strict=True))
    assert any(alike[0]) and any(alike[1])


def test_windows_show_what_is_no_air(toys):
    chosen = toy_pairs.small("mask-to-image")
    _, pairs = couples.read(toys["mask-to-image"], "training", chosen, 32)
    shown = pairs.images.amax((1, 2, 3))
    assert bool((pairs.boxes[:, 1] > pairs.boxes[:, 0]).all()) and bool((shown > 0.5).all())


def test_what_is_given_knows_nothing_of_the_truth(toys):
    """The chain scales each channel by its own maximum: another truth leaves what is given as it was."""
    steps = [{"_target_": "ScaleIntensityd", "minv": 0.0, "maxv": 1.0}]
    chosen = toy_pairs.small("translator", preprocessing=steps)
    cohort = toys["translator"]
    still = couples.load(cohort, "test", chosen, cohort.channels[:1])
    both = couples.load(cohort, "test", chosen, cohort.channels)
    assert float(still[0].image.max()) == 1
    assert still[0].image.shape[0] == 1 and both[0].image.shape[0] == 2


PERCENTILES = {"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99.5, "b_min": 0, "b_max": 1}


def test_coarse_pixels_are_given_as_serving_gives_them_and_the_truth_is_on_their_scale(tmp_path):
    """Noise: averaged pixels have other percentiles than fine ones."""
    cohort = toy_pairs.write(
        tmp_path, lambda seed: {"waves": np.random.default_rng(seed).gamma(2, 90, (5, 27, 22))}, (2, 1, 1)
    )
    chosen = toy_pairs.small("super-resolution", preprocessing=[PERCENTILES], pixel_range=[-0.5, 6.0])
    _, pairs = couples.read(cohort, "training", chosen, 16)
    chain = preprocessing.chain(pictures.input_chain(chosen))
    wide = coarse.coarser(cohorts.load_image(cohort, cohort.training[0]), 2)
    served = torch.as_tensor(preprocessing.prepare(chain, to_metatensor(wide)))[0]
    torch.testing.assert_close(pairs.given[:5, 0, :13, :11], served, check_stride=False)
    torch.testing.assert_close(agreement.coarsened(pairs.images, 2)[:5, 0, :13, :11], served, atol=1e-4, rtol=0)


def test_a_coarse_pixel_is_the_mean_of_those_it_covers_and_lies_in_their_middle():
    fine = toy_pairs.volume(toy_pairs.waves(4)["waves"], 4)
    wide = coarse.coarser(fine, 4)
    assert wide.voxels.shape == (5, 7, 5)
    assert wide.voxels[3, 2, 1] == pytest.approx(fine.voxels[3, 8:12, 4:8].mean(), rel=1e-5)
    at = fine.affine @ [3, 9.5, 5.5, 1]
    np.testing.assert_allclose(wide.affine @ [3, 2, 1, 1], at, atol=1e-9)
    np.testing.assert_allclose(coarse.rescaled(wide.affine, 1 / 4), fine.affine, atol=1e-9)


def test_enlarging_moves_nothing():
    """A ramp, enlarged, is the ramp at the finer centres: a shift by half a pixel would show everywhere."""
    ramp = torch.arange(24.0)[None, None, None].expand(1, 1, 16, 24)
    finer = enlarged(ramp, 2)[0, 0, 16]
    expected = (torch.arange(48.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(finer[8:-8], expected[8:-8], atol=1e-4, rtol=0)


def test_an_untrained_network_of_finer_pixels_is_bicubic():
    network = Translator(1, 1, (8, 16), 1, "none", factor=2).eval()
    given = torch.rand(1, 12, 8) * 2 - 1
    made = network.make_from(given, source_of(0, 0))
    inside = (slice(None), slice(4, -4), slice(4, -4))  # at the edge bicubic asks what lies beyond
    torch.testing.assert_close(made[inside], enlarged(given[None], 2)[0].clamp(-1, 1)[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(13, 9), (16, 16), (30, 21)])
def test_a_picture_of_any_size_is_made_and_does_not_depend_on_its_batch(size):
    torch.manual_seed(0)
    network = Translator(2, 1, (8, 16, 16), 1, "batch").eval()
    given = torch.rand(3, 2, *size) * 2 - 1
    many = network.make_many_from(given, [source_of(0, index) for index in range(3)], ON)
    assert many.shape == (3, 1, *size)
    torch.testing.assert_close(network.make_from(given[1], source_of(0, 1)), many[1], atol=1e-5, rtol=0)


def test_the_mask_acts_at_full_size():
    """One pixel of another label changes that pixel's neighbourhood, and hardly anything far away."""
    torch.manual_seed(0)
    network = Spade(32, 1, 1, 8, 8, 4).eval()
    given = torch.full((1, 32, 32), -1.0)
    spotted = given.clone()
    spotted[0, 9, 21] = 1.0
    changed = (network.make_from(spotted, source_of(0, 0)) - network.make_from(given, source_of(0, 0))).abs()[0]
    assert divmod(int(changed.argmax()), 32) in {(row, column) for row in range(6, 13) for column in range(18, 25)}


# Losses and figures.


def test_a_code_costs_what_the_divergence_of_two_gaussians_says():
    class Fixed(Style):
        def forward(self, pictures):
            return torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, np.log(4.0)]])

    code, divergence = coded(Fixed(16, 1, 4, 2), torch.zeros(1, 1, 16, 16), torch.Generator().manual_seed(0))
    laws = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([1.0, 2.0]))
    exact = torch.distributions.kl_divergence(laws, torch.distributions.Normal(0.0, 1.0)).sum()
    assert float(divergence) == pytest.approx(float(exact), rel=1e-5)
    assert code is not None and code.shape == (1, 2)


def test_maps_match_themselves_alone():
    torch.manual_seed(0)
    critic = PatchCritic(2, 4, 2, 2).eval()
    one, other = torch.rand(2, 2, 32, 32), torch.rand(2, 2, 32, 32)
    with torch.inference_mode():
        assert float(matching(critic(one), critic(one))) == 0
        assert float(matching(critic(one), critic(other))) > 0.01


@pytest.mark.parametrize(("layers", "scales"), [(1, 1), (2, 2), (3, 1)])
def test_the_smallest_picture_of_a_critic_is_one_that_it_takes(layers, scales):
    px = smallest_px(layers, scales)
    PatchCritic(1, 4, layers, scales).train()(torch.rand(1, 1, px, px))


def test_figures_are_those_of_another_library():
    rng = np.random.default_rng(3)
    true = ndimage.gaussian_filter(rng.random((2, 33, 27)), (0, 2, 2))
    made = np.clip(true + 0.05 * rng.standard_normal(true.shape), 0, 1)
    tensors = [torch.from_numpy(each * 2 - 1).float()[:, None] for each in (made, true)]
    found = agreement.figures(*tensors)
    psnr = metrics.peak_signal_noise_ratio(true, made, data_range=1)
    arguments = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = []
    for a, b in zip(made, true, strict=True):
        _, whole = metrics.structural_similarity(a, b, full=True, **arguments)
        ssim.append(whole[5:-5, 5:-5].mean())
    assert found["psnr_db"] == pytest.approx(psnr, abs=1e-3)
    assert found["ssim"] == pytest.approx(np.mean(ssim), abs=1e-4)
    assert found["absolute_error"] == pytest.approx(np.abs(made - true).mean(), rel=1e-4)


def test_a_table_gives_the_mean_of_what_is_wanted_at_a_grey_level():
    given = torch.tensor([-0.5, 0.25]).repeat(32, 1)[:, None, :, None].expand(-1, 1, -1, 4)
    wanted = torch.where(given < 0, 0.75, -0.25) + torch.linspace(-0.1, 0.1, 32)[:, None, None, None]
    table = trivial.baselines(given, wanted, ["T1"], 1)["T1 by a table"]
    torch.testing.assert_close(table(given[:1])[0, 0, :, 0], torch.tensor([0.75, -0.25]), atol=1e-5, rtol=0)


# Evaluation and release.


@pytest.fixture(scope="session")
def reports(translating, refining, painting, toys) -> dict[str, dict[str, Any]]:
    runs = {"translator": translating, "super-resolution": refining, "mask-to-image": painting}
    return {name: evaluate(run, toys[name], draws=200) for name, run in runs.items()}


@pytest.mark.parametrize(
    ("name", "baselines"),
    [("translator", {"still as it is", "still by a table"}), ("super-resolution", {"bicubic"})],
)
def test_test_patients_are_compared_with_the_truth_and_with_what_needs_no_network(name, baselines, reports):
    report = reports[name]
    assert set(report["baselines"]) == baselines and report["patients"] == 6
    assert report["beats_baselines"]
    error = report["metrics"]["absolute_error"]
    assert 0 < error["low"] <= error["value"] <= error["high"]
    for name_of, apart in report["difference"].items():
        theirs = report["baselines"][name_of]["absolute_error"]["value"]
        assert apart["value"] == pytest.approx(theirs - error["value"], abs=1e-5)


def test_the_error_of_a_release_is_the_error_of_what_is_served(translating, toys, reports):
    cohort = toys["translator"]
    model = from_pictures.load(translating)
    assert isinstance(model, from_pictures.Translator)
    errors = []
    for item in cohort.test:
        whole = cohorts.load_image(cohort, item)
        assert isinstance(whole, Volume)
        made = model.translate(replace(whole, voxels=whole.voxels[:1]))
        assert isinstance(made, Volume)
        errors.append(np.abs(made.voxels[0] - whole.voxels[1]).mean())
    assert reports["translator"]["metrics"]["absolute_error"]["value"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_painter_is_audited_on_masks_that_it_saw_and_keeps_the_mask(reports):
    report = reports["mask-to-image"]
    assert report["mask"]["made"] > 0.8 and report["mask"]["real"] > 0.9
    assert 0 < report["style"] < 3
    for audit in ("privacy", "privacy_of_training_masks"):
        assert set(report[audit]["spaces"]) == {"small_pixels", "autoencoder without brightness and contrast"}


@pytest.mark.parametrize("name", toy_pairs.KINDS)
def test_pictures_of_pictures_stay_unproven(name, reports):
    state, reason = verdict(reports[name])
    assert state == "unproven"
    assert ("nearness to the truth" in reason) == (name != "mask-to-image")


@pytest.mark.parametrize("name", ["translating", "refining", "painting"])
def test_the_description_follows_monai_s_schema_and_comes_back(name, request):
    run = request.getfixturevalue(name)
    schema = json.loads((Path(__file__).parent / "metadata_schema.json").read_text())
    jsonschema.validate(json.loads((run / "configs" / "metadata.json").read_text()), schema)
    given = version.load(run).description.given
    assert given is not None
    assert (given.kind, given.factor) == {
        "translating": ("channels", 1),
        "refining": ("coarse", 2),
        "painting": ("mask", 1),
    }[name]


def test_a_card_says_what_is_given_and_what_it_cannot_know(translating, painting, toys, tmp_path):
    translator, painter = (
        bundle.release(run, toys[name], name, models_dir=tmp_path).folder / "docs" / "README.md"
        for run, name in ((translating, "translator"), (painting, "mask-to-image"))
    )
    assert "moved MR moved in 1, made of still." in translator.read_text()
    assert "| SSIM |" in translator.read_text() and "lesions may be lost, or made up" in translator.read_text()
    assert "Labels of a mask: bright, grey." in painter.read_text()
    assert "Copy rate of pictures of training patients' masks" in painter.read_text()


# Recipes.


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("translator", {"source": "mask"}, "spade does"),
        ("translator", {"source": ["nowhere"]}, "no 'nowhere'"),
        ("translator", {"factor": 2}, "factor"),
        ("translator", {"source": ["still", "still"]}, "named twice"),
        ("translator", {"source": ["moved"]}, "or in channels"),
        ("translator", {"source": ["still"], "channels": None}, "what is made, too"),
        ("translator", {"loss": {"code": 1.0}}, "draws no code"),
        ("super-resolution", {"critic": {"layers": 1}}, "critic: there is no critic"),
        ("super-resolution", {"optimiser": {"critic_learning_rate": 1e-3}}, "there is no critic"),
        ("super-resolution", {"loss": {"kind": "hinge"}}, "loss.kind: there is no critic"),
        ("translator", {"loss": {"adversarial": 0.0, "feature_matching": 1.0}}, "feature_matching"),
        ("translator", {"network": {"window_px": 17}}, "window_px"),
        ("translator", {"critic": {"layers": 4}}, "need 48 pixels"),
        ("super-resolution", {"augmentation": {"gain": 0.1}}, "augmentation.gain"),
        ("mask-to-image", {"network": {"kind": "dcgan"}}, "none of spade, translator"),
        ("mask-to-image", {"mask": True}, "mask"),
        ("mask-to-image", {"network": {"image_px": 24}}, "power of two"),
    ],
)
def test_what_does_not_fit_is_named(name, changes, key, toys, tmp_path):
    with pytest.raises(Rejected, match=key):
        training.train(toy_pairs.small(name, **changes), toys[name], tmp_path / "run", device="cpu")


def test_without_a_critic_none_is_left(refining):
    assert version.load(refining).description.beside == {}


def test_a_baseline_is_measured_on_the_slices_of_the_panel(toys):
    chosen = toy_pairs.small("translator")
    _, seen = couples.read(toys["translator"], "training", chosen, 16)
    _, unseen = couples.read(toys["translator"], "validation", chosen, 16)
    truth, some = Truth(seen, unseen, ["still"]), evenly(len(unseen.images), 3)
    alone = replace(unseen, given=unseen.given[some], stored=unseen.images[some])
    panel = torch.zeros_like(alone.images)
    assert truth.figures(panel) == Truth(seen, alone, ["still"]).figures(panel)


def test_colour_is_refused_with_a_sentence(toys):
    cohort = toys["translator"]
    one = replace(cohort.training[0], images=cohort.training[0].images[:1])
    with pytest.raises(Rejected, match="several channels in one file"):
        couples.view(replace(cohort, splits={"training": (one,)}), cohort.channels[1:])


def test_channels_of_different_units_are_refused_before_training(toys, tmp_path):
    still, moved = toys["translator"].channels
    cohort = replace(toys["translator"], channels=(still, replace(moved, units="[hnsf'U]")))
    with pytest.raises(Rejected, match="no pixel_range in common"):
        couples.read(cohort, "training", toy_pairs.small("translator"), 16)


@pytest.mark.parametrize(
    ("key", "there", "said"),
    [
        ("given", 3, "source"),
        ("labels", 2, "source: mask"),
        ("factor", 4, "set factor to 4"),
        ("latent", {"channels": 4}, "set latent to"),
        ("latent", 16, "set network.latent to 16"),
    ],
)
def test_a_way_out_names_a_key_that_there_is(key, there, said):
    assert said in transfer._way_out(key, there)


def test_masks_are_asked_of_a_cohort_that_has_them(toys, tmp_path):
    chosen = toy_pairs.small("mask-to-image", channels=["still"])
    with pytest.raises(Rejected, match="no labels that a mask could show"):
        training.train(chosen, toys["translator"], tmp_path / "run", device="cpu")


def test_a_network_of_finer_pixels_makes_as_many_planes_as_it_is_given():
    with pytest.raises(Rejected, match="2 planes are 2 planes, not 1"):
        networks.build(
            {
                "_target_": "models.networks.translator.Translator",
                "given": 2,
                "planes": 1,
                "channels": [8, 16],
                "residual_blocks": 1,
                "norm": "none",
                "factor": 2,
            }
        )
