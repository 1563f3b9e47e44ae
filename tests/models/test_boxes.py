"""Segmenters of volumes: boxes, what moves them, plans, training, and masks that lie where they should."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.losses import DiceCELoss
from stopping import Stop, same, stop_at
from test_bundle import monai
from toy_images import CHANNELS, SLICES, blob_volume, oblique_affine, projection

from dicom_io import nifti
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.volume import Volume
from models import bundle, ensemble, networks, predictor, recipe, runner, training, version
from models.augmentation_recipe import require_fits
from models.cases import Case
from models.networks.ensemble import Ensemble
from models.predictor_parts import Shares
from models.segmentation_recipe import SegmentationAugmentation, SegmentationOptimiser, SegmentationRecipe
from models.training import plan
from models.training.segmentation_parts import changed, optimiser_of, told
from models.training.windows import Boxes
from models.version import ModelVersion

SHAPE = (9, 14, 11)  # slices, rows, columns of a volume in which every voxel tells its place
SIZE = (6, 8, 4)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told_case(shape: tuple[int, int, int] = SHAPE, patient: str = "p", full: bool = True) -> Case:
    place = torch.arange(1, np.prod(shape) + 1, dtype=torch.float32).reshape(1, *shape)
    mask = torch.zeros(shape, dtype=torch.uint8)
    mask[shape[0] // 2, shape[1] // 3, shape[2] // 4] = full
    return Case(Item(("x",), patient), blob_volume(1)[0], place, None, mask, (1.0, 1.0, 1.0))


# Boxes.


def test_a_foreground_box_holds_foreground_anywhere_in_it():
    _, masks = Boxes([told_case()], SIZE, Shares(foreground_share=1.0)).draw(300, draw())
    assert (masks.flatten(1).sum(1) == 1).all()
    # The voxel lies at (4, 4, 2): wherever a box can hold it without an edge, it does.
    places = [set(torch.nonzero(masks)[:, axis].tolist()) for axis in (1, 2, 3)]
    assert places == [{1, 2, 3, 4}, {0, 1, 2, 3, 4}, {0, 1, 2}]


def test_boxes_inside_a_larger_volume_show_no_edge_and_cover_all_of_it():
    images, masks = Boxes([told_case()], SIZE, Shares(foreground_share=0.0)).draw(1500, draw())
    assert images.shape == (1500, 1, *SIZE) and masks.shape == (1500, *SIZE)
    assert (images > 0).all()
    assert {1.0, float(np.prod(SHAPE))} <= set(images.flatten().tolist())
    # Neighbours in the volume are neighbours in the box.
    assert torch.equal(images[:, :, 1:] - images[:, :, :-1], torch.full((1500, 1, 5, 8, 4), float(SHAPE[1] * SHAPE[2])))


def test_a_volume_of_few_slices_lies_anywhere_in_its_box_with_zeros_around():
    images, masks = Boxes([told_case((4, 14, 11))], SIZE, Shares(foreground_share=1.0)).draw(100, draw())
    assert ((images > 0).flatten(1).sum(1) == 4 * 8 * 4).all()
    assert (masks.flatten(1).sum(1) == 1).all()
    filled = (images[:, 0] > 0).flatten(2).any(2)
    assert len({tuple(each.tolist()) for each in filled}) == 3


def test_patients_are_drawn_first_so_that_a_large_volume_weighs_no_more():
    large, small = told_case((30, 14, 11), "large"), told_case((6, 8, 4), "small")
    for share in (0.0, 1.0):
        images, _ = Boxes([large, large, small], SIZE, Shares(foreground_share=share)).draw(400, draw())
        # The small one is always the same box.
        alike = (images == small.image).flatten(1).all(1).float().mean()
        assert 0.42 < alike < 0.58
    images, _ = Boxes([large, told_case((6, 8, 4), "empty", False)], SIZE, Shares(foreground_share=1.0)).draw(
        50, draw()
    )
    assert not (images == small.image).flatten(1).all(1).any()


def test_a_blanked_side_of_a_box_blanks_the_mask_with_it():
    boxes = Boxes([told_case()], SIZE, Shares(foreground_share=1.0, border_share=1.0))
    images, masks = boxes.draw(200, draw())
    assert (masks[images[:, 0] == 0] == 0).all()
    assert 0 < masks.sum() < 200
    blank = (images[:, 0] == 0).float()
    assert (blank.flatten(1).sum(1) > 0).all()
    assert (blank.flatten(1).mean(1) <= 0.5).all()
    # All six sides come, and each is blank from its edge on.
    corners = {tuple(each[[0, -1]][:, [0, -1]][:, :, [0, -1]].flatten().tolist()) for each in blank}
    assert len(corners) == 6 and all(sum(corner) == 4 for corner in corners)


# Augmentation.


def test_the_slices_of_a_box_turn_and_grow_alike_and_the_mask_with_them():
    mask = torch.zeros(6, 5, 40, 28, dtype=torch.long)
    mask[:, :, 12:22, 6:17] = 1
    images = torch.stack([mask.float(), 2 * mask.float()], 1)
    settings = SegmentationAugmentation(rotation_degrees=40, scale=0.2, translation=0.1, flip_rows=True)
    moved, moved_mask = changed(images, mask, settings, draw(5))
    assert moved.shape == images.shape and moved_mask.shape == mask.shape
    assert all(torch.equal(moved[:, :, 0], moved[:, :, number]) for number in range(5))
    assert all(torch.equal(moved_mask[:, 0], moved_mask[:, number]) for number in range(5))
    assert ((moved[:, 0] > 0.5) == (moved_mask > 0)).float().mean() > 0.99
    # The boxes of a batch move differently.
    assert not torch.equal(moved_mask[0], moved_mask[1])


def test_slices_are_flipped_with_their_mask_half_of_the_time():
    images = torch.randn(200, 2, 3, 5, 4)
    masks = (images[:, 0] > 0).long()
    flipped, flipped_masks = changed(images, masks, SegmentationAugmentation(flip_slices=True), draw())
    assert torch.equal((flipped[:, 0] > 0).long(), flipped_masks)
    turned = torch.tensor([torch.equal(one, other.flip(1)) for one, other in zip(flipped, images, strict=True)])
    kept = torch.tensor([torch.equal(one, other) for one, other in zip(flipped, images, strict=True)])
    assert (turned ^ kept).all() and 70 < int(turned.sum()) < 130


def test_slices_are_not_flipped_where_a_label_says_of_a_side():
    for label, fits in (("left kidney", False), ("upper lobe", False), ("kidney", True)):
        with nullcontext() if fits else pytest.raises(Rejected, match=r"flip_slices would make .* is not true"):
            require_fits(SegmentationAugmentation(flip_slices=True), ("background", label), ("CT",))


def test_grey_levels_of_a_box_change_as_a_whole():
    images = torch.rand(4, 1, 3, 6, 5) + 1
    graded, _ = changed(images, images[:, 0].long(), SegmentationAugmentation(gain=0.5), draw())
    ratio = (graded / images).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand(ratio.shape))
    assert len(ratio[:, 0].unique()) == 4


# Loss and optimiser.


def test_several_answers_are_told_with_halved_weights():
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    answers, masks = torch.randn(2, 3, 2, 4, 6, 5), torch.randint(0, 2, (2, 4, 6, 5))
    each = [loss_of(answers[:, number], masks[:, None]) for number in range(3)]
    torch.testing.assert_close(told(loss_of, answers, masks), (each[0] + each[1] / 2 + each[2] / 4) / 1.75)
    assert told(loss_of, answers[:, 0], masks) == each[0]


def test_the_optimiser_is_the_one_of_the_recipe():
    weights = [torch.nn.Parameter(torch.zeros(2))]
    sgd = optimiser_of(SegmentationOptimiser(kind="sgd", learning_rate=0.01, weight_decay=3e-5), weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert {key: sgd.defaults[key] for key in ("momentum", "nesterov", "weight_decay")} == {
        "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5,
    }  # fmt: skip
    assert isinstance(optimiser_of(SegmentationOptimiser(), weights), torch.optim.AdamW)


# Training, from recipe to a version that serves.


def small(name: str, **schedule: object) -> SegmentationRecipe:
    """A shipped recipe, made small enough for a test."""
    plain = recipe.load(name).model_dump(mode="json")
    plain["schedule"] |= {"total_images": 64, "report_images": 32, "batch_size": 4, "warm_up_images": 8, **schedule}
    plain["evaluation"] = {"bootstrap_draws": 200}
    if name == "segmenter-3d":
        plain["windows"] |= {"window_px": 16, "window_slices": 4}
        plain["network"]["channels"] = [8, 16, 16]
    else:
        plain["network"] |= {"base_features": 4, "feature_values": 100_000}
    made = recipe.parse(plain, name)
    assert isinstance(made, SegmentationRecipe)
    return made


@pytest.fixture(scope="module")
def cohort(make_cohort: Any) -> Cohort:
    made = make_cohort("segmentation", (5, 2, 5))
    assert isinstance(made, Cohort)
    return made


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of volumes."""
    folder = tmp_path_factory.mktemp("volumes") / "run"
    training.train(small("segmenter-3d", total_images=320, report_images=160), cohort, folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def planned_run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dynunet of volumes."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    training.train(small("dynunet-segmenter-3d", total_images=400, report_images=200), cohort, folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def released(planned_run: Path, cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return bundle.release(planned_run, cohort, "boxes", models_dir=tmp_path_factory.mktemp("models"))


def box_volume(seed: int = 5) -> tuple[Volume, np.ndarray]:
    """As `blob_volume`, but the lesion is a box off the middle, so that every turn and flip is seen."""
    volume, _ = blob_volume(seed, units="g/ml{SUVbw}", with_blob=False)
    box = np.zeros(volume.spatial_shape, bool)
    box[2:5, 8:21, 15:22] = True
    return volume.with_voxels(volume.voxels + np.array([3, -2], np.float32)[:, None, None, None] * box), box


def overlap(ours: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (ours & truth).sum() / (ours.sum() + truth.sum()))


@pytest.mark.parametrize("kind", ["run", "planned_run"])
def test_a_box_shaped_lesion_is_found_where_it_lies_and_nowhere_else(kind, request):
    volume, box = box_volume()
    found = predictor.load(request.getfixturevalue(kind)).predict(volume).mask
    assert found.same_grid_as(volume) and found.sources == volume.sources
    ours = found.voxels > 0
    # Blobs were learned, so that corners are missed.
    assert overlap(ours, box) > 0.65
    for axis in range(3):
        assert overlap(np.flip(ours, axis), box) < overlap(ours, box) - 0.1


@pytest.mark.parametrize("shape", [(5, 40, 29), (3, 9, 50), (13, 21, 8)])
def test_boxes_put_together_give_the_answer_of_a_network_of_one_voxel_exactly(shape, tmp_path, run, monkeypatch):
    """A network that looks at each voxel alone must give the same mask in boxes as without them."""
    model = predictor.load(run)

    class Bright(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[2:] == (4, 16, 16)
            return torch.cat([1 - images[:, :1], images[:, :1]], 1)

    monkeypatch.setattr(model, "served", Bright())
    monkeypatch.setattr(model, "threshold", 0.5)
    voxels = np.random.default_rng(3).normal(0.5, 2.0, (2, *shape)).astype(np.float32)
    volume = Volume(voxels, oblique_affine(), "2.25.7", "g/ml{SUVbw}")
    seen = model.input_tensor(volume).as_tensor()[0].numpy()
    clear = np.abs(seen - 0.5) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(model.predict(volume).mask.voxels[clear] > 0, (seen > 0.5)[clear])


def test_the_plan_stands_in_the_run_and_training_by_it_comes_to_the_same_weights(cohort, tmp_path):
    chosen = small("dynunet-segmenter-3d")
    training.train(chosen, cohort, tmp_path / "planned", device="cpu")
    text = (tmp_path / "planned" / "plan.yaml").read_text()
    assert "median spacing [3.3, 2.1, 1.7] mm, median shape [5, 40, 29] (slice, row, column)" in text
    again = recipe.parse(yaml.safe_load(text), "plan")
    assert again.window is not None and again.network.feature_values is None
    model = version.load(tmp_path / "planned")
    assert list(again.window) == model.inferer["roi_size"]
    assert [list(step) for step in again.network.strides] == model.network_definition["strides"]
    training.train(again, cohort, tmp_path / "again", device="cpu")
    assert same(tmp_path / "planned", tmp_path / "again")
    assert not (tmp_path / "again" / "plan.yaml").exists()


def test_a_recipe_of_slices_plans_nothing(cohort, small_recipe, tmp_path):
    training.train(small_recipe("segmenter", total_images=16, report_images=16), cohort, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "plan.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window_px": 8, "window_slices": 4}, "4 x 8 x 8 can be halved 1 times"),
        ({"window_px": 22, "window_slices": 4}, "window_px: 22 is no multiple of 4"),
    ],
)
def test_windows_that_do_not_fit_what_is_planned_for_them_are_refused(changes, said, cohort, tmp_path):
    plain = small("dynunet-segmenter-3d").model_dump(mode="json")
    plain["windows"] |= changes
    plain["network"]["feature_values"] = None
    with pytest.raises(Rejected, match=said):
        training.train(recipe.parse(plain, "mine"), cohort, tmp_path / "run", device="cpu")


def test_pictures_are_no_volumes():
    picture = projection(1, positive=True)
    case = Case(Item(("film.png",), "p"), picture, torch.zeros(1, 1, 48, 36), None, None, (0.5, 0.4))
    with pytest.raises(Rejected, match=r"film\.png is a single picture, no volume; set it to 2"):
        plan.planned(small("segmenter-3d"), [case], 3)


@pytest.mark.parametrize("name", ["segmenter-3d", "dynunet-segmenter-3d", "dynunet-segmenter"])
def test_a_stopped_and_resumed_training_ends_bit_equal(name, cohort, tmp_path):
    chosen = small(name)
    training.train(chosen, cohort, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, cohort, tmp_path / "parts", progress=stop_at(64), device="cpu")
    training.train(chosen, cohort, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()


def test_another_spacing_between_slices_is_outside_the_card_of_a_volume_s_segmenter(run, segmentation_run):
    wide = blob_volume(3, units="g/ml{SUVbw}")[0]
    wide = replace(wide, affine=oblique_affine(slice_mm=4.0))
    with pytest.raises(OutOfDomain, match=r"spacing of 4\.00 mm between slices; .* 2\.87 to 3\.79 mm"):
        predictor.load(run).check_domain(wide)
    # To slices one by one it matters less.
    domain = predictor.load(segmentation_run[0]).description.domain
    assert domain.spacing_mm[0] == pytest.approx((3.3 / 1.5, 3.3 * 1.5))


# The version.


def test_monai_verifies_and_runs_a_released_segmenter_of_volumes_to_the_same_mask(released, tmp_path):
    from monai.bundle import verify_metadata

    configs = released.folder / "configs"
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=Path(__file__).parent / "metadata_schema.json")
    volume, _ = box_volume()
    for index, channel in enumerate(CHANNELS):
        nifti.write(volume.with_voxels(volume.voxels[index]), tmp_path / "in" / "case" / f"{channel.name}.nii.gz")
    monai(
        "run", "--config_file", configs / "inference.json", "--bundle_root", released.folder,
        "--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    theirs, ours = nibabel.load(written), predictor.load(released.folder).predict(volume).mask
    assert ours.voxels.any()
    np.testing.assert_array_equal(np.asarray(theirs.dataobj).T, ours.voxels)
    np.testing.assert_allclose(theirs.affine, nibabel.load(tmp_path / "in" / "case" / "one.nii.gz").affine, atol=1e-4)


def test_a_version_is_evaluated_and_holds_no_weights_of_training_alone(released):
    assert released.evaluation["metrics"]["dice"]["value"] > 0.6
    assert released.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == released.inferer["roi_size"]
    assert set(released.metadata["required_packages_version"]) == {"nibabel"}
    weights = released.weights()
    assert weights.keys() == networks.build(released.network_definition).state_dict().keys()
    # What the network has under two names is stored once.
    stored = sum(len(each.untyped_storage()) for each in {t.data_ptr(): t for t in weights.values()}.values())
    assert (released.folder / "models" / "model.pt").stat().st_size < 1.5 * stored


def test_an_inferer_that_names_more_than_it_may_is_refused(released):
    with pytest.raises(ValueError, match=r"inferer\.roi_size"):
        runner.check_inferer(dict(released.inferer) | {"roi_size": "$[4, 16, 16]"})


# Ensembles.


def test_an_ensemble_of_volumes_looks_along_slices_too(run, cohort, tmp_path):
    second = tmp_path / "second"
    training.train(small("segmenter-3d").model_copy(update={"seed": 4}), cohort, second, device="cpu")
    made = ensemble.merge([run, second], cohort, tmp_path / "both", ["slices", "columns"])
    model = predictor.load(made)
    assert isinstance(model.network, Ensemble) and len(model.network._flips) == 4
    volume, box = box_volume()
    assert overlap(model.predict(volume).mask.voxels > 0, box) > 0.6
    # Where members disagree is told in boxes, too.
    apart = model.predict(volume, members=True).disagreement
    assert apart is not None and apart.same_grid_as(volume) and 0 < apart.voxels.max() <= 0.5
    # Mirrored along slices, it gives its mirrored answer.
    turned = replace(volume, voxels=np.ascontiguousarray(volume.voxels[:, ::-1]), sources=volume.sources[::-1])
    forward, backward = model.predict(volume).probability, model.predict(turned).probability
    assert forward.voxels.shape[0] == SLICES
    np.testing.assert_allclose(forward.voxels, backward.voxels[::-1], atol=1e-4)


def test_slices_that_are_looked_at_one_by_one_are_not_mirrored_along_slices(segmentation_run, tmp_path, small_recipe):
    run, cohort, _ = segmentation_run
    other = small_recipe("segmenter", total_images=16, report_images=16)
    training.train(other, cohort, tmp_path / "other", device="cpu")
    with pytest.raises(Rejected, match="looks at slices one by one; mirror along rows or columns"):
        ensemble.merge([run, tmp_path / "other"], cohort, tmp_path / "both", ["slices"])
    with pytest.raises(ValueError, match="cannot be mirrored along slices"):
        Ensemble([torch.nn.Identity()], ["slices"])(torch.zeros(1, 2, 4, 4))
