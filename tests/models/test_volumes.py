"""Generators of volumes: cubes of the cohort's volumes in, volumes with a place and masks out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from toy_images import write_cohort

from dicom_io import nifti, secondary_capture, segmentation
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import bundle, cases, generator, networks, recipe, sheet, training, version
from models.augmentation_recipe import Augmentation
from models.cases import Squares
from models.diffusion_recipe import Latent
from models.evaluation import fidelity, privacy
from models.evaluation.features import EncodedFeatures, RandomFeatures
from models.generator import Generator
from models.networks import pairs
from models.networks.diffusion import Diffusion
from models.networks.generator import Discriminator
from models.training import pictures
from models.training.augmentation import augment_pictures, translate_and_cut
from models.training.compression import Compression
from plugin import pipeline

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PX = 16
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def small(**changes: object) -> recipe.Recipe:
    plain = recipe.load("generator").model_dump(mode="json")
    plain |= {"spatial_dims": 3, "pixel_range": [0, 8], "minimum_signal": 0.0, "alarms": "warn", "audit_samples": 16}
    plain["network"] = {"image_px": PX, "features": 16, "latent": 8}
    plain["schedule"] |= {"total_images": 48, "report_images": 24, "batch_size": 4, "precision": "float32"}
    plain["evaluation"] = {"bootstrap_draws": 100}
    return recipe.parse(plain | changes, "volumes")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("drawn"), "segmentation", (5, 3, 4))


@pytest.fixture(scope="module")
def maker(drawn: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("maker")
    training.train(small(channels=["one", "two"], mask=True), drawn, folder / "run", device="cpu")
    return generator.load(bundle.release(folder / "run", drawn, "maker", models_dir=folder / "models").folder)


# What training sees.


def test_a_volume_becomes_a_cube_whose_axes_are_slices_rows_and_columns(drawn):
    chosen = small(channels=["two"], mask=True)
    case = cases.load(drawn, drawn.training, pictures.input_chain(chosen), masks=True)[0]
    _, reals = pictures.read(drawn, "training", chosen, 40)
    assert reals.images.shape == (5, 2, 40, 40, 40) and reals.dims == 3
    cube, mask = reals.images[0]
    # 5 slices are 8 of the cube each, 29 columns lie in the middle of 40; linear between centres of slices.
    for number in range(5):
        centre = (cube[8 * number + 3] + cube[8 * number + 4]) / 2
        torch.testing.assert_close(centre[:, 5:34], case.image[1, number], atol=0.15, rtol=0)
    assert float(((mask[19:21].mean(0) > 0)[:, 5:34] == (case.mask[2] > 0)).float().mean()) > 0.98
    assert (cube[:, :, :5] == -1).all()


def test_what_a_step_along_each_axis_is_in_mm_is_kept(maker):
    steps = maker.spacing_mm
    assert steps == pytest.approx((3.3 * 5 / PX, 2.1 * 40 / PX, 1.7 * 40 / PX), rel=1e-3)


def test_the_label_of_a_volume_is_the_largest_of_its_slices(make_cohort):
    cohort = make_cohort("classification", (4, 2, 2))
    found = cases.load(cohort, cohort.training, pictures.input_chain(small()))
    _, reals = pictures.read(cohort, "training", small(conditional=True), PX)
    assert reals.labels.tolist() == [int(case.labels.max()) for case in found] and len(reals.labels) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adaptive": {}}, "adaptive: its changes are for slices"),
        ({"augmentation": {"rotation_degrees": 5}}, "augmentation.rotation_degrees is for slices"),
        ({"served_px": 8}, "served_px: volumes are served as they are made"),
        ({"channels": ["red", "green", "blue"]}, "channels: volumes are not made in colour"),
    ],
)
def test_what_is_for_slices_alone_is_refused_by_its_key(changes, said):
    with pytest.raises(Rejected, match=said):
        small(**changes)


def test_families_and_networks_that_make_slices_say_so(drawn, make_cohort, tmp_path):
    plain = recipe.load("conditional-vae").model_dump(mode="json")
    with pytest.raises(Rejected, match="spatial_dims: autoencoders make slices"):
        recipe.parse(plain | {"spatial_dims": 3}, "vae")
    with pytest.raises(Rejected, match=r"pet-dcgan makes one grey plane.*spatial_dims"):
        training.train(small(network={"kind": "pet-dcgan", "image_px": 32}), drawn, tmp_path / "run")
    with pytest.raises(Rejected, match="is a single picture, no volume; set it to 2"):
        training.train(small(), make_cohort("classification", (2, 1, 1), "projection"), tmp_path / "other")


# Networks and changes.


def test_a_critic_of_volumes_sees_all_three_axes():
    torch.manual_seed(0)
    critic = Discriminator(PX, 16, minibatch=False, dims=3).double()
    cube = torch.rand(1, 1, PX, PX, PX, dtype=torch.float64)
    for axes in ((3, 2), (4, 2), (4, 3)):
        assert not torch.allclose(critic(cube), critic(cube.transpose(*axes)))


@pytest.mark.parametrize(("made", "judging"), [("G1", "D1"), ("G2", "D2")])
def test_the_brain_study_s_networks_make_volumes_of_a_class(made, judging):
    settings = small(
        conditional=True,
        network={"kind": "brain-wcgan", "generator": made, "critic": judging, "image_px": PX, "features": 8},
        loss={"kind": "wasserstein", "gradient_penalty": 10, "translation": 0, "cutout": 0},
    ).network
    torch.manual_seed(1)
    network, critic = networks.build(pairs.generator(settings, 3, 1, 3)).eval(), pairs.critic(settings, 3, 1, 3)
    one, other = (network.make(torch.Generator().manual_seed(2), label) for label in (0, 1))
    assert one.shape == (1, PX, PX, PX) and not torch.equal(one, other)
    assert critic(torch.stack([one, other]), torch.tensor([0, 1])).shape == (2,)


def test_shifts_and_holes_are_whole_pixels_along_every_axis():
    ramp = torch.arange(8.0)
    cube = (ramp[:, None, None] * 64 + ramp[:, None] * 8 + ramp)[None, None].repeat(30, 1, 1, 1, 1)
    moved = translate_and_cut(cube, 0.25, 0.0, torch.Generator().manual_seed(1))
    shifts = set()
    for each in moved[:, 0]:
        kept = (each >= 0).nonzero()
        first = kept[0]
        source = torch.stack([each[tuple(first)] // 64, each[tuple(first)] // 8 % 8, each[tuple(first)] % 8])
        shift = (source - first).long()
        shifts.add(tuple(shift.tolist()))
        for place in kept[::37]:
            assert each[tuple(place)] == cube[(0, 0, *(place + shift).tolist())]
    assert len(shifts) > 10 and all(len({shift[axis] for shift in shifts}) > 2 for axis in range(3))
    cut = translate_and_cut(torch.ones(200, 1, 8, 8, 8), 0.0, 0.5, torch.Generator().manual_seed(2)) == -1
    assert 0.05 < float(cut.float().mean()) < 1 / 8 and int(cut.flatten(1).sum(1).max()) == 64


def test_volumes_are_mirrored_and_regraded_and_their_masks_only_mirrored():
    cube = torch.rand(8, 2, 6, 7, 5) * 0.5
    cube[:, 1] = torch.where(cube[:, 1] > 0.25, 1.0, -1.0)
    changes = Augmentation(flip_columns=True, gain=0.2, offset=0.1)
    moved = augment_pictures(cube, changes, torch.Generator().manual_seed(4), 1)
    flipped = [torch.equal(after[1], before[1].flip(-1)) for before, after in zip(cube, moved, strict=True)]
    assert 0 < sum(flipped) < 8
    assert all(f or torch.equal(a[1], b[1]) for f, b, a in zip(flipped, cube, moved, strict=True))
    for turned, before, after in zip(flipped, cube, moved, strict=True):
        plain = before[0].flip(-1) if turned else before[0]
        gain = (after[0] - after[0].mean()).norm() / (plain - plain.mean()).norm()
        assert 0.8 <= float(gain) <= 1.2
        torch.testing.assert_close(after[0], plain * gain + (after[0] - plain * gain).mean(), atol=1e-5, rtol=0)


def test_a_denoiser_of_volumes_knows_noise_along_all_axes_and_makes_one_per_seed():
    plain = {"_target_": "models.networks.diffusion.Diffusion", "image_px": 8, "channels": [8, 8], "residual_blocks": 1}
    plain |= {"attention_levels": 1, "dropout": 0.0, "classes": 2, "data_mean": [0.1, -0.8], "sigma_data": [0.5, 0.2]}
    plain |= {"sampler": "heun", "steps": 3, "guidance": 1.5, "sigma_least": 0.002, "sigma_most": 80.0, "rho": 7.0}
    torch.manual_seed(0)
    network = networks.build(plain | {"dims": 3}).eval()
    assert isinstance(network, Diffusion) and networks.noise_shape(plain | {"dims": 3}) == (2, [8, 8, 8])
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    one = network.make(torch.Generator().manual_seed(3), 1)
    assert one.shape == (2, 8, 8, 8) and not torch.equal(one, network.make(torch.Generator().manual_seed(3), 0))
    sources = [torch.Generator().manual_seed(seed) for seed in (5, 3)]
    many = network.make_many(sources, torch.tensor([0, 1]), torch.device("cpu"))
    torch.testing.assert_close(many[1], one, atol=2e-3, rtol=0)
    noisy, sigma, label = torch.randn(1, 2, 8, 8, 8), torch.tensor([0.5]), torch.tensor([1])
    with torch.no_grad():
        plain_answer = network(noisy, sigma, label)
        for axes in ((3, 2), (4, 2), (4, 3)):
            turned = network(noisy.transpose(*axes), sigma, label).transpose(*axes)
            assert not torch.allclose(turned, plain_answer, atol=1e-4)


@pytest.mark.parametrize("latent", [None, {"channels": 2, "widths": [4, 8], "share": 0.5}], ids=["pixels", "latents"])
def test_a_diffusion_of_volumes_trains_and_makes_volumes_with_masks(drawn, tmp_path, latent):
    plain = recipe.load("diffusion").model_dump(mode="json")
    plain |= {"spatial_dims": 3, "mask": True, "pixel_range": [0, 8], "minimum_signal": 0.0, "alarms": "warn"}
    plain["network"] = {"image_px": 16, "channels": [8, 8], "residual_blocks": 1, "attention_levels": 0}
    plain["schedule"] |= {"total_images": 64, "report_images": 16, "batch_size": 4, "precision": "float32"}
    plain |= {"report_samples": 16, "sampler": {"steps": 3}, "latent": latent}
    training.train(recipe.parse(plain, "volumes"), drawn, tmp_path / "run", device="cpu")
    [sample] = generator.load(tmp_path / "run").samples(1, seed=2)
    assert sample.image.shape == (1, PX, PX, PX) and sample.mask.shape == (PX, PX, PX)
    definition = version.load(tmp_path / "run").network_definition
    assert networks.noise_shape(definition) == (2, [8 if latent else 16] * 3)


def test_the_scale_of_latents_of_volumes_is_that_of_all_their_voxels():
    """Two planes of latents, a training of two batches, an oracle that holds them all."""
    reals = Squares(torch.rand(40, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1, None, ("p",) * 40)
    first = Compression(Latent(channels=2, widths=(4, 8)), reals, torch.device("cpu"), "float32")
    first.finish(reals, 80)
    with torch.inference_mode():
        mean, deviation = (each.double() for each in first.average.encode(reals.images))
    whole = mean.mean((0, 2, 3, 4))
    spread = ((mean.square() + deviation.square()).mean((0, 2, 3, 4)) - whole.square()).sqrt()
    assert first.moments["latent_mean"] == pytest.approx(whole.tolist(), rel=1e-3)
    assert first.moments["latent_deviation"] == pytest.approx(spread.tolist(), rel=1e-3)
    assert first.noise(reals.images[:3], torch.Generator()).shape == (3, 2, 4, 4, 4)


# Figures.


def test_figures_of_volumes_tell_blurred_from_sharp_and_find_copies():
    source = torch.Generator().manual_seed(5)
    reals = torch.rand(60, 1, PX, PX, PX, generator=source) * 2 - 1
    features = RandomFeatures(1)
    assert features(reals).shape == (60, 672) and EncodedFeatures(reals, steps=3)(reals).shape == (60, 32)
    same, blurred = reals[:30], fidelity.blurred(reals[:30])
    assert float(blurred.std()) < 0.2 * float(same.std())
    far, near = (fidelity.kid(features(each), features(reals[30:])) for each in (blurred, same))
    assert far > 5 * abs(near)
    copies = privacy.planted(reals[:10])
    assert (privacy.nearest(copies, reals, privacy.small_pixels) < 0.2).all()
    assert (privacy.nearest(reals[30:35], reals[:30], privacy.small_pixels) > 0.5).all()


def test_the_sheet_shows_the_middle_slice_along_each_axis():
    cube = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(1, 2, 3, 4, 5)
    cube = np.pad(cube, ((0, 0), (0, 0), (0, 2), (0, 1), (0, 0)))
    shown = sheet.middle_slices(cube)
    assert shown.shape == (1, 6, 5, 5)
    for number, expected in enumerate((cube[0, :, 2], cube[0, :, :, 2], cube[0, :, :, :, 2])):
        np.testing.assert_array_equal(shown[0, 2 * number : 2 * number + 2], expected)


# What is made.


def test_the_version_says_that_it_makes_volumes(maker):
    assert maker.dims == 3
    pred = maker.model.metadata["network_data_format"]["outputs"]["pred"]
    assert pred["spatial_shape"] == [PX] * 3 and pred["num_channels"] == 3
    assert maker.sample(2, seed=1).shape == (2, 2, PX, PX, PX)
    np.testing.assert_array_equal(maker.sample(2, seed=1)[:1], maker.sample(1, seed=1))
    assert maker.model.evaluation["privacy"]["synthetic_images"] == 16


def test_dicom_holds_each_volume_with_its_place_and_its_mask(maker, tmp_path):
    made = pipeline.generate(maker.model.folder, tmp_path, n=2, seed=3, made_at=AT)
    objects = [dcmread(each.path) for each in made]
    assert len(objects) == 6 and [each.SOPClassUID == SEG for each in objects] == [False, False, True] * 2
    assert len({each.SeriesInstanceUID for each in objects}) == 6 and len({e.StudyInstanceUID for e in objects}) == 1
    for number, sample in enumerate(maker.samples(2, seed=3)):
        captures, seg = objects[3 * number : 3 * number + 2], objects[3 * number + 2]
        for capture, image in zip(captures, sample.image, strict=True):
            volume = secondary_capture.read_volume([capture], [""])
            np.testing.assert_allclose(volume.voxels, image, atol=8 / 65535)
            assert volume.spacing_mm == pytest.approx(maker.spacing_mm, abs=1e-3)
            assert f"sample {number}" in capture.SeriesDescription
        mask = segmentation.read(seg, secondary_capture.read_volume([captures[1]], [""]))
        np.testing.assert_array_equal(mask.voxels, sample.mask)


def test_nifti_holds_volume_and_mask_and_png_is_refused(maker, tmp_path):
    written = pipeline.generate_files(maker.model.folder, tmp_path, n=1, seed=3, label=None, form="nifti")
    assert [path.name.split("-")[-1] for path in written] == ["one.nii.gz", "two.nii.gz", "mask.nii.gz"]
    [sample] = maker.samples(1, seed=3)
    one, mask = nifti.read(written[0]), nifti.read(written[2])
    np.testing.assert_array_equal(one.voxels, sample.image[0])
    np.testing.assert_array_equal(mask.voxels, sample.mask)
    assert one.is_synthetic and one.spacing_mm == pytest.approx(maker.spacing_mm, abs=1e-3)
    with pytest.raises(Rejected, match="makes volumes; ask for dicom or nifti"):
        pipeline.generate_files(maker.model.folder, tmp_path, n=1, seed=3, label=None, form="png")


def test_a_training_of_volumes_goes_on_where_it_stopped(drawn, tmp_path):
    chosen = small(channels=["one"])
    training.train(chosen, drawn, tmp_path / "whole", device="cpu")

    def stop(event: dict[str, object]) -> None:
        if event["kind"] == "report":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(chosen, drawn, tmp_path / "parts", progress=stop, device="cpu")
    training.train(chosen, drawn, tmp_path / "parts", resume=True, device="cpu")
    ends = [torch.load(tmp_path / run / "models" / "model.pt", weights_only=True) for run in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert Path(tmp_path / "whole" / "samples.png").is_file()
