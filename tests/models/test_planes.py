"""Pictures of several planes: channels by name, a mask beside the image, colours; trained, measured, and written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from toy_images import write_cohort

from dicom_io import cohort as cohorts
from dicom_io import nifti, secondary_capture, segmentation
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.volume import Projection
from models import bundle, card, cases, generator, networks, recipe, sheet, training
from models.augmentation_recipe import Augmentation
from models.generator import Generator, Sample
from models.networks.diffusion import Diffusion
from models.training import pictures
from models.training.augmentation import augment_pictures
from plugin import pipeline

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PX = 16
SEG, GRAY, COLOUR = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
)
NETWORKS = {
    "adversarial": {"image_px": PX, "features": 16, "latent": 16},
    "variational": {"image_px": PX, "features": 8, "latent": 8, "blocks": 3},
    "diffusion": {"image_px": PX, "channels": [16, 16], "residual_blocks": 1, "attention_levels": 0, "dropout": 0.0},
}
SHIPPED = {"adversarial": "generator", "variational": "conditional-vae", "diffusion": "diffusion"}


def small(family: str, **changes: object) -> recipe.Recipe:
    plain = recipe.load(SHIPPED[family]).model_dump(mode="json")
    plain |= {"preprocessing": [], "conditional": False, "pixel_range": [0, 8], "minimum_signal": 0.0, "alarms": "warn"}
    plain |= {"network": NETWORKS[family], "audit_samples": 32}
    plain["schedule"] |= {"total_images": 320, "report_images": 160, "batch_size": 8, "warm_up_images": 16}
    plain["schedule"] |= {"ema_half_life_images": 100}
    plain["optimiser"]["learning_rate"] = 2e-3
    plain["loss"]["structure" if family == "variational" else "label_smoothing"] = 0.0
    if family == "variational":
        plain["loss"] |= {"pixel_scale": 0.1}
    if family == "diffusion":
        plain["loss"].pop("label_smoothing")
        plain["sampler"] |= {"steps": 4, "guidance": 1.0}
        plain["report_samples"] = 16
    plain["evaluation"] = {"bootstrap_draws": 100}
    return recipe.parse(plain | changes, family)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Two channels and the outline of a blob that is bright in the first and dark in the second."""
    return write_cohort(tmp_path_factory.mktemp("drawn"), "segmentation", (6, 2, 3))


@pytest.fixture(scope="module")
def joint(drawn: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("joint")
    chosen = small("adversarial", channels=["two", "one"], mask=True)
    # In bfloat16 it is luck whether so small a generator has learnt masks by then.
    told = {"total_images": 4000, "report_images": 1000, "precision": "float32"}
    longer = chosen.schedule.model_copy(update=told)
    training.train(chosen.model_copy(update={"schedule": longer}), drawn, folder / "run", device="cpu")
    return generator.load(bundle.release(folder / "run", drawn, "joint", models_dir=folder / "models").folder)


# What training sees.


def test_planes_are_the_channels_in_the_recipe_s_order_and_then_the_mask(drawn):
    chosen = small("adversarial", channels=["two", "one"], mask=True)
    case = cases.load(drawn, drawn.training, pictures.input_chain(chosen), masks=True)[0]
    _, reals = pictures.read(drawn, "training", chosen, 40)
    assert reals.images.shape[1:] == (3, 40, 40) and (reals.planes, reals.mask_planes) == (3, 1)
    # 40 x 29 pixels lie in the middle of 40 x 40.
    torch.testing.assert_close(reals.images[2, :2, :, 5:34], case.image[[1, 0], 2])
    assert torch.equal(reals.images[2, 2, :, 5:34] > 0, case.mask[2] > 0)
    assert set(reals.images[:, 2].unique().tolist()) == {-1.0, 1.0} and (reals.images[:, :, :, 0] == -1).all()


def test_a_mask_that_is_made_smaller_says_how_much_of_a_pixel_it_covers(drawn):
    chosen = small("adversarial", mask=True)
    case = cases.load(drawn, drawn.training, pictures.input_chain(chosen), masks=True)[0]
    [plane] = cases.squares([case], PX, 0.0, mask_planes=1).images[2, 1:]
    covered = (plane + 1) / 2
    assert float(covered.min()) >= 0 and float(((covered > 0) & (covered < 1)).float().mean()) > 0.02
    assert float(covered.sum()) * (40 / PX) ** 2 == pytest.approx(float((case.mask[2] > 0).sum()), rel=0.02)


def test_without_names_it_is_the_first_channel_alone(drawn):
    _, reals = pictures.read(drawn, "training", small("adversarial"), PX)
    named = pictures.read(drawn, "training", small("adversarial", channels=["one"]), PX)[1]
    assert reals.planes == 1 and torch.equal(reals.images, named.images)


def test_grey_levels_of_a_mask_are_not_changed_but_it_moves_with_its_image():
    image = torch.zeros(6, 2, 12, 10)
    image[:, 0, 3:6, 2:5], image[:, 1] = 0.5, -1
    image[:, 1, 3:6, 2:5] = 1
    changes = Augmentation(flip_rows=True, flip_columns=True, gain=0.3, offset=0.1, noise=0.05)
    moved = augment_pictures(image, changes, torch.Generator().manual_seed(3), 1)
    assert set(moved[:, 1].unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(map(int, (each > 0).nonzero()[0])) for each in moved[:, 1]}) > 1
    inside = moved[:, 1] > 0
    assert float(moved[:, 0][inside].mean()) > float(moved[:, 0][~inside].mean()) + 0.3
    assert not torch.equal(moved[:, 0], image[:, 0])


def test_what_turns_into_the_picture_from_outside_is_air():
    turned = augment_pictures(
        torch.full((4, 2, 16, 16), 0.5), Augmentation(rotation_degrees=180), torch.Generator().manual_seed(5), 1
    )
    assert float(turned.min()) == pytest.approx(-1, abs=1e-6) and float(turned.max()) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": ["three"]}, "channels: cohort 'toy-segmentation' has no 'three', only one, two"),
        ({"network": {"kind": "pet-dcgan", "image_px": 32}, "mask": True}, "pet-dcgan makes one grey plane"),
    ],
)
def test_what_cohort_or_network_have_not_is_refused_by_name(drawn, tmp_path, changes, said):
    with pytest.raises(Rejected, match=said):
        training.train(small("adversarial", **changes), drawn, tmp_path / "run")


def test_a_cohort_without_masks_makes_none(make_cohort, tmp_path):
    with pytest.raises(Rejected, match="mask: cohort 'toy-generation' has no labels that a mask could show"):
        training.train(small("adversarial", mask=True), make_cohort("generation", (2, 1, 1)), tmp_path / "run")


def test_channels_of_different_units_need_a_common_scale(tmp_path):
    channels = (Channel("one", "PT", "g/ml{SUVbw}"), Channel("two", "CT", "[hnsf'U]"))
    cohort = write_cohort(tmp_path / "c", "generation", (2, 1, 1), channels=channels)
    with pytest.raises(Rejected, match=r"one in g/ml{SUVbw}, two in \[hnsf'U\] have no pixel_range in common"):
        training.train(small("adversarial", channels=["one", "two"]), cohort, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": ["one", "one"]}, "channels: one, one names one twice"),
        ({"channels": ["red", "green", "blue"], "mask": True}, "mask: masks of colour pictures are not written"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(Rejected, match=said):
        small("adversarial", **changes)


def test_a_denoiser_knows_mean_and_deviation_of_every_plane():
    """With F = 0 it is the best denoiser of white Gaussian planes, each of its own law (in closed form)."""
    plain = {"_target_": "models.networks.diffusion.Diffusion", **NETWORKS["diffusion"], "classes": 0}
    plain |= {"sampler": "heun", "steps": 4, "guidance": 1.0, "sigma_least": 0.002, "sigma_most": 80.0, "rho": 7.0}
    network = networks.build(plain | {"data_mean": [0.2, -0.9], "sigma_data": [0.5, 0.1]})
    assert isinstance(network, Diffusion) and networks.noise_shape(plain | {"data_mean": [0.2, -0.9]}) == (2, [PX, PX])
    noisy, level = torch.tensor([[0.7, -0.6]]), 0.3
    with torch.no_grad():
        clean = network(noisy[:, :, None, None].expand(1, 2, PX, PX), torch.tensor([level]))[0, :, 3, 5]
    for plane, (mean, deviation) in enumerate([(0.2, 0.5), (-0.9, 0.1)]):
        share = deviation**2 / (deviation**2 + level**2)
        assert float(clean[plane]) == pytest.approx(mean + share * (float(noisy[0, plane]) - mean), abs=1e-5)
    assert not {"data_mean", "sigma_data"} & set(network.state_dict())


# What is made.


@pytest.mark.parametrize("family", NETWORKS)
def test_every_family_makes_image_and_mask(drawn, tmp_path, family):
    training.train(small(family, channels=["one", "two"], mask=True), drawn, tmp_path / "run", device="cpu")
    model = generator.load(tmp_path / "run")
    [sample, *_] = model.samples(2, seed=4)
    assert sample.image.shape == (2, PX, PX) and sample.image.min() >= 0 and sample.image.max() <= 8
    assert sample.mask.shape == (PX, PX) and set(np.unique(sample.mask)) <= {0, 1}
    assert model.channels == ("one", "two") and model.mask_labels == ("lesion",)
    with Image.open(tmp_path / "run" / "samples.png") as shown:
        assert shown.width % (3 * PX) == 0 and shown.text["Synthetic"] == "YES"


def test_image_and_mask_belong_together(joint):
    """The blob is bright in channel "one" and dark in "two", and so it is in what is made."""
    found = [sample for sample in joint.samples(60, seed=1) if (sample.mask > 0).sum() >= 4]
    assert len(found) > 5
    two, one = np.mean([contrast(sample) for sample in found], axis=0)
    assert one > 0.6 and two < -0.4


def contrast(sample: Sample) -> tuple[float, ...]:
    """Of every channel: in the mask less in the body around it."""
    body = (sample.mask == 0) & (sample.image[0] > 2)
    return tuple(float(plane[sample.mask > 0].mean() - plane[body].mean()) for plane in sample.image)


def test_the_evaluation_looks_at_all_planes(joint, drawn):
    report = joint.model.evaluation
    assert report["fidelity"]["synthetic_images"] == 32 and set(report["spread"]) == {"all"}
    outputs = joint.model.metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == {"0": "two", "1": "one", "2": "mask of lesion"} and outputs["num_channels"] == 3


def test_dicom_holds_a_series_for_each_channel_and_the_masks_lie_on_the_last(joint, tmp_path):
    made = pipeline.generate(joint.model.folder, tmp_path, n=7, seed=3, made_at=AT)
    objects = [dcmread(each.path) for each in made]
    assert [each.SOPClassUID for each in objects] == [GRAY, GRAY, SEG]
    assert len({each.StudyInstanceUID for each in objects}) == 1 and len({e.SeriesInstanceUID for e in objects}) == 3
    assert ["two" in objects[0].SeriesDescription, "one" in objects[1].SeriesDescription] == [True, True]
    assert all(each.SyntheticData == "YES" and each.PatientID.startswith("MIRALL-SYN-") for each in objects)
    samples = [*joint.samples(7, seed=3)]
    for number in (0, 1):
        frames = secondary_capture.read_back(objects[number])
        np.testing.assert_allclose(frames, [sample.image[number] for sample in samples], atol=8 / 65535)
    grid = secondary_capture.read_volume([objects[1]], [""])
    mask = segmentation.read(objects[2], grid)
    np.testing.assert_array_equal(mask.voxels, [sample.mask for sample in samples])
    assert "lesion on" in made[2].finding
    again = pipeline.generate(joint.model.folder, tmp_path / "again", n=7, seed=3, made_at=AT)
    assert [each.path.read_bytes() for each in again] == [each.path.read_bytes() for each in made]


def test_a_channel_called_mask_and_channels_spelled_alike_have_files_of_their_own():
    images = [("mask", 0), ("T1 a", 0), ("T1-a", 0), ("mask", 0)]
    assert pipeline._endings(images) == ["-mask", "-T1_a", "-T1_a-3", "-mask-4"]


def test_settings_that_differ_in_the_seventh_digit_have_files_of_their_own(joint, tmp_path):
    asked = {"n": 1, "seed": 3, "label": None, "form": "nifti"}
    for truncation in (0.7, 0.7000001):
        pipeline.generate_files(joint.model.folder, tmp_path, truncation=truncation, **asked)
    assert len({*tmp_path.glob("*-mask.nii.gz")}) == 2


def test_more_pictures_with_masks_than_memory_holds_are_refused(joint, tmp_path):
    with pytest.raises(Rejected, match="4001 pictures with masks are held in memory at once; ask for 4000 at most"):
        pipeline.generate(joint.model.folder, tmp_path, n=4001, seed=3, made_at=AT)


def test_masks_lie_on_the_archive_s_own_captures_where_both_forms_are_written(joint, tmp_path):
    both = ["single-frame", "multi-frame", "binary"]
    made = pipeline.generate(joint.model.folder, tmp_path, n=3, seed=3, made_at=AT, encodings=both)
    series = dcmread(made[-1].path).ReferencedSeriesSequence[0].SeriesInstanceUID
    assert [each.record.series_instance_uid for each in made if each.encoding == "multi-frame"][-1] == series


@pytest.mark.parametrize("form", ["png", "nifti"])
def test_files_are_one_for_each_channel_and_one_for_the_mask(joint, tmp_path, form):
    written = pipeline.generate_files(joint.model.folder, tmp_path, n=2, seed=3, label=None, form=form)
    assert [path.name.split("-")[-1].split(".")[0] for path in written] == ["two", "one", "mask"] * 2
    first = next(joint.samples(1, seed=3))
    if form == "nifti":
        back = nifti.read_projection(written[2])
        np.testing.assert_array_equal(back.pixels, first.mask)
        assert back.is_synthetic
    else:
        with Image.open(written[2]) as image:
            assert image.text["Synthetic"] == "YES"
            np.testing.assert_array_equal(np.asarray(image)[:PX], first.mask * 255)


def test_the_mask_of_a_pixel_is_the_label_that_covers_most_of_it_if_it_is_half():
    planes = np.full((2, 2, 2), -1.0, np.float32)
    planes[:, 0, 0], planes[:, 0, 1], planes[:, 1, 0] = (0.2, 0.6), (0.4, -0.9), (-0.1, -0.2)
    np.testing.assert_array_equal(generator._labels_of(planes), [[2, 1], [0, 0]])


# Colour.


def tile(seed: int) -> Projection:
    """24 x 20 pixels: more red above, more blue below."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(60, 90, (3, 24, 20)).astype(np.float32)
    pixels[0, :12] += 120
    pixels[2, 12:] += 120
    return Projection(pixels, "1", None, (0.01, 0.01))


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("coloured")
    channels = cohorts.colour_channels("SM")
    splits: dict[str, tuple[Item, ...]] = {}
    for split, owners in {"training": range(4), "validation": range(4, 6), "test": range(6, 9)}.items():
        splits[split] = tuple(
            cohorts.add_projection(folder, f"t{owner}-{n}", tile(10 * owner + n), f"p{owner}")
            for owner in owners
            for n in range(8)
        )
    cohorts.save(Cohort(folder, "tiles", "generation", (), channels, splits))
    cohort = cohorts.load(folder)
    chosen = small("adversarial", channels=list(cohorts.COLOURS), pixel_range=[0, 255])
    longer = chosen.schedule.model_copy(update={"total_images": 2000, "report_images": 1000})
    training.train(chosen.model_copy(update={"schedule": longer}), cohort, folder / "run", device="cpu")
    return generator.load(bundle.release(folder / "run", cohort, "tiles", models_dir=folder / "models").folder)


def test_colours_are_learned_and_come_out_as_one_true_colour_series(coloured, tmp_path):
    assert coloured.colour
    image = coloured.sample(8, seed=2).mean(0)
    assert image[0, :7].mean() > image[2, :7].mean() + 60 and image[2, 9:].mean() > image[0, 9:].mean() + 60
    [made] = pipeline.generate(coloured.model.folder, tmp_path, n=5, seed=2, made_at=AT)
    dataset = dcmread(made.path)
    assert (dataset.SOPClassUID, dataset.PhotometricInterpretation, dataset.NumberOfFrames) == (COLOUR, "RGB", 5)
    frames = secondary_capture.read_back(dataset)
    np.testing.assert_array_equal(frames, np.rint(np.moveaxis(coloured.sample(5, seed=2), 1, -1)))
    [path] = pipeline.generate_files(coloured.model.folder, tmp_path, n=1, seed=2, label=None, form="png")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture)[:PX], frames[0])
    [path] = pipeline.generate_files(coloured.model.folder, tmp_path, n=1, seed=2, label=None, form="nifti")
    np.testing.assert_array_equal(nifti.read_projection(path).pixels, coloured.sample(1, seed=2)[0])


def test_the_sheet_of_a_colour_generator_is_in_colour(tmp_path):
    samples = np.stack([np.stack([np.full((4, 5), level, np.float32) for level in (1, 0, -1)])])
    sheet.save(samples, (-1, 1), tmp_path / "sheet.png", model="m", seed=0, colour=True)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.getpixel((2, 16)) == (255, 128, 0)


# Any number of samples.


def test_a_long_series_written_in_parts_has_the_bytes_of_one_written_whole(coloured, joint, tmp_path):
    model, frames = joint.identity, np.random.default_rng(3).uniform(0, 8, (130, 6, 5)).astype(np.float32)
    common = {"model": model, "seed": 1, "label": "", "spacing_mm": None, "units": "1", "made_at": AT}
    whole = secondary_capture.generated(frames, value_range=(0.0, 8.0), **common)
    parts = [
        made
        for first in (0, 64, 128)
        for made in secondary_capture.generated(
            frames[first : first + 64], value_range=(0.0, 8.0), first=first, total=130, **common
        )
    ]
    assert [ds.to_json() for ds, _ in parts] == [ds.to_json() for ds, _ in whole]
    assert [record for _, record in parts] == [record for _, record in whole]
    with pytest.raises(ValueError, match="no part of a series"):
        secondary_capture.generated(frames[:64], first=0, total=130, **common)
    with pytest.raises(ValueError, match="no part of a series"):
        secondary_capture.generated(frames[:60], first=32, total=130, value_range=(0.0, 8.0), **common)


# One class alone, and another size.


def test_a_generator_of_one_label_sees_its_slices_alone(make_cohort):
    cohort = make_cohort("classification", (3, 1, 1))
    every, lesions = (
        pictures.read(cohort, "training", small("adversarial", **chosen), PX)[1]
        for chosen in ({"conditional": True}, {"only": "lesion"})
    )
    assert lesions.labels is None and 0 < len(lesions.images) < len(every.images)
    assert torch.equal(lesions.images, every.images[every.labels == 1])
    with pytest.raises(
        Rejected, match="only: cohort 'toy-classification' has no label 'cyst', only background, lesion"
    ):
        pictures.read(cohort, "training", small("adversarial", only="cyst"), PX)
    with pytest.raises(Rejected, match="only: 'lesion' alone leaves nothing to be conditional on"):
        small("adversarial", only="lesion", conditional=True)


def test_samples_are_served_as_the_mean_over_the_area_of_each_pixel(make_cohort, tmp_path):
    cohort = make_cohort("classification", (3, 1, 1))
    training.train(small("adversarial", only="lesion", served_px=8), cohort, tmp_path / "run", device="cpu")
    model = generator.load(tmp_path / "run")
    [made], [served] = model.pictures(1, seed=3), model.samples(1, seed=3)
    assert made.shape == (1, 16, 16) and served.image.shape == (1, 8, 8)
    by_hand = made.reshape(1, 8, 2, 8, 2).mean((2, 4))
    np.testing.assert_allclose(served.image, (by_hand + 1) / 2 * 8, atol=1e-5)
    down, _ = model.spacing_mm
    assert down == pytest.approx(2.1 * 40 / 8, rel=1e-3)
    assert model.model.description.only_label == "lesion"


def test_the_card_s_domain_and_counts_are_of_what_was_drawn_from(drawn):
    chosen = small("adversarial", channels=["two"], only="lesion")
    labelled = {
        split: tuple(replace(item, slice_labels=(0, 0, 1, 0, 0)) for item in items)
        for split, items in drawn.splits.items()
    }
    cohort = replace(drawn, splits=labelled)
    outlines, reals = pictures.read(cohort, "training", chosen, PX)
    made = pictures.description(chosen, cohort, "0" * 64, outlines, reals.patients, PX, 8, ())
    tops = [np.percentile(cohorts.load_image(cohort, item).voxels[1], 99.5) for item in cohort.training]
    [(low, high)] = made.domain.top_value
    assert (low, high) == (pytest.approx(min(tops) / 3, abs=1e-3), pytest.approx(max(tops) * 3, abs=1e-3))
    assert (made.saw.images, made.saw.patients) == (6, 6)
    assert "Only of lesion." in card._purpose(made, "two")
