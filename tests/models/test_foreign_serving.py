"""Foreign models at work: where the mask lies, what the network sees, and what MONAI makes of the same bundle."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import toy_bundles as toy
from monai import transforms
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks import nets
from toy_images import oblique_affine, projection, write_cohort

from dicom_io import nifti
from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from dicom_io.volume import Source, Volume
from models import compare, evaluate, predictor
from models.foreign import chain, importing
from models.foreign.zoo import Told

SHAPE = (13, 40, 29)
CT = Told()
T1 = Told(channels=(Channel("T1", "MR", "1", "T1"),))


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A bright ellipsoid off the middle, smooth, on an oblique grid with three different steps."""
    s, r, c = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    values = 1000 * np.exp(-(((s - 8) / 3.2) ** 2 + ((r - 12) / 7) ** 2 + ((c - 19) / 4.5) ** 2) / 2)
    sources = tuple(Source("1.2.840.10008.5.1.4.1.1.2", f"2.25.{n + 1}", f"{n:064x}") for n in range(SHAPE[0]))
    return Volume(values.astype(np.float32), oblique_affine(), "2.25.7", "[hnsf'U]", sources)


def served(bundle: Path, tmp_path: Path, told: Told = CT) -> Any:
    return predictor.load(
        importing.import_bundle(importing.check(bundle, told), "toy", None, tmp_path / "shelf").folder
    )


def chained(*steps: dict[str, Any]) -> dict[str, Any]:
    """The toy's preprocessing with these steps between the reader and the scaling."""
    document = toy.segmentation()["preprocessing"]
    first, last = document["transforms"][:2], document["transforms"][4:]
    return {"_target_": "Compose", "transforms": [*first, *({"keys": "image", **step} for step in steps), *last]}


TURN = {"_target_": "Orientationd", "axcodes": "RAS"}


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (TURN,),
        ({"_target_": "Orientationd", "axcodes": "LPI"},),
        (TURN, {"_target_": "CropForegroundd", "source_key": "image", "margin": 2}),
        (TURN, {"_target_": "SpatialPadd", "spatial_size": [50, 48, 31]}, {"_target_": "Flipd", "spatial_axis": 1}),
        ({"_target_": "DivisiblePadd", "k": 8},),
    ],
    ids=["as it lies", "RAS", "LPI", "cropped", "padded and flipped", "divisible"],
)
def test_without_resampling_the_mask_is_the_threshold_voxel_by_voxel(steps, volume, tmp_path):
    found = served(toy.write_segmenter(tmp_path / "b", preprocessing=chained(*steps)), tmp_path).predict(volume)
    truth = volume.voxels > toy.CUT
    assert 100 < truth.sum() < truth.size / 4
    np.testing.assert_array_equal(found.mask.voxels > 0, truth)
    np.testing.assert_array_equal(found.mask.affine, volume.affine)
    assert found.mask.sources == volume.sources and found.threshold is None
    np.testing.assert_array_equal(found.probability.voxels > 0.5, truth)


def test_outside_of_what_a_chain_had_cropped_there_is_background(volume, tmp_path):
    steps = (TURN, {"_target_": "CenterSpatialCropd", "roi_size": [9, 9, 5]})
    # Everything is above this cut: what is seen is all foreground.
    bundle = toy.write_segmenter(tmp_path / "b", cut=-50.0, preprocessing=chained(*steps))
    found = served(bundle, tmp_path).predict(volume)
    assert (found.mask.voxels > 0).sum() == 9 * 9 * 5
    assert not found.probability.voxels[found.mask.voxels == 0].any()


def test_after_resampling_the_mask_lies_where_the_threshold_does(volume, tmp_path):
    found = served(toy.write_segmenter(tmp_path / "b"), tmp_path).predict(volume)
    mask, truth = found.mask.voxels > 0, volume.voxels > toy.CUT

    def dice(moved: np.ndarray) -> float:
        return float(2 * (moved & truth).sum() / (moved.sum() + truth.sum()))

    assert dice(mask) > 0.97
    # A mask that lay one voxel beside, or the other way round, would be found out.
    for axis in range(3):
        assert max(dice(np.roll(mask, way, axis)) for way in (-1, 1)) < dice(mask) - 0.03
        assert dice(np.flip(mask, axis)) < 0.9
    inside, outside = volume.voxels > toy.CUT + 80, volume.voxels < toy.CUT - 80
    assert mask[inside].all() and not mask[outside].any()


@pytest.mark.parametrize("order", ["probabilities return", "the mask returns"])
def test_monai_makes_the_same_mask_of_the_same_bundle(order, volume, tmp_path):
    document = toy.segmentation()
    activate, invert, decide, _ = document["postprocessing"]["transforms"]
    if order == "the mask returns":
        changed = {"transforms": [activate, decide, invert | {"nearest_interp": True}]}
        document["postprocessing"] = document["postprocessing"] | changed
    else:
        changed = {"transforms": [activate, invert, decide]}
    steps = document["postprocessing"] | changed
    bundle = toy.write_segmenter(tmp_path / "b", postprocessing=document["postprocessing"])
    model = served(bundle, tmp_path)

    # MONAI's own parser and readers, on a file: the bundle is harmless.
    nifti.write(volume, tmp_path / "image.nii.gz")
    parser = ConfigParser(json.loads((bundle / "configs" / "inference.json").read_text()) | {"postprocessing": steps})
    parser["preprocessing::transforms::0"].pop("reader")
    before, after = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")
    item = before({"image": str(tmp_path / "image.nii.gz")})
    infer = SlidingWindowInferer([24, 16, 12], 4, 0.25)
    with torch.inference_mode():
        item["pred"] = MetaTensor(infer(item["image"].as_tensor()[None], model.network)[0])
    theirs = after(item)["pred"]

    # A NIfTI header holds places in 32 bits, and where MONAI lays the first resampled voxel hangs on the last of them.
    lies = np.diag([-1, -1, 1, 1]) @ nibabel.load(tmp_path / "image.nii.gz").affine[:, [2, 1, 0, 3]]
    ours = model.predict(replace(volume, affine=lies)).mask
    assert ours.voxels.any()
    np.testing.assert_array_equal(np.asarray(theirs[0]).T, ours.voxels)


def test_a_bundle_that_reads_no_files_takes_the_axes_as_ours_lie(volume, tmp_path):
    document = toy.segmentation()["preprocessing"]
    document["transforms"] = document["transforms"][4:]
    bundle = toy.write_segmenter(tmp_path / "b", preprocessing=document)
    model = served(bundle, tmp_path)
    seen = model._way.prepared(MetaTensor(torch.zeros(1, *SHAPE), affine=torch.eye(4)))
    assert tuple(seen.shape) == (1, *SHAPE)
    np.testing.assert_array_equal(model.predict(volume).mask.voxels > 0, volume.voxels > toy.CUT)
    assert "slices, rows, columns" in (model.model.folder / "docs" / "README.md").read_text()


def test_turning_the_axes_moves_no_voxel_in_the_patient():
    affine = torch.from_numpy(oblique_affine())
    image = MetaTensor(torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5), affine=affine)
    turned = chain.turned(image)
    assert tuple(turned.shape) == (2, 5, 4, 3) and turned[1, 4, 2, 1] == image[1, 1, 2, 4]
    torch.testing.assert_close(
        turned.affine @ torch.tensor([4.0, 2, 1, 1]).double(), affine @ torch.tensor([1.0, 2, 4, 1]).double()
    )
    back = chain.turned(turned)
    assert torch.equal(back.as_tensor(), image.as_tensor()) and torch.equal(back.affine, image.affine)


def test_the_largest_part_alone_stays_where_the_bundle_says_so(volume, tmp_path):
    tidy = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    document = toy.segmentation()["postprocessing"]
    document["transforms"].insert(3, tidy)
    voxels = volume.voxels.copy()
    voxels[1:3, 30:33, 2:5] = 900
    spotted = replace(volume, voxels=voxels)
    plain = served(toy.write_segmenter(tmp_path / "a", preprocessing=chained(TURN)), tmp_path / "a")
    tidied = served(
        toy.write_segmenter(tmp_path / "b", preprocessing=chained(TURN), postprocessing=document), tmp_path / "b"
    )
    assert plain.predict(spotted).mask.voxels[1:3, 30:33, 2:5].all()
    np.testing.assert_array_equal(tidied.predict(spotted).mask.voxels > 0, volume.voxels > toy.CUT)


def test_a_network_of_two_axes_looks_at_slices_by_a_slice_inferer(volume, tmp_path):
    network = {**toy.UNET, "spatial_dims": 2}
    bundle = toy.write_segmenter(
        tmp_path / "b",
        network_def={"_target_": "UNet", **network},
        preprocessing=chained(),
        inferer={"_target_": "SliceInferer", "roi_size": [16, 16], "spatial_dim": 2},
    )
    state = {
        name: tensor[..., 0] if tensor.ndim == 5 else tensor
        for name, tensor in toy.threshold_state((toy.CUT - toy.LOW) / (toy.HIGH - toy.LOW)).items()
    }
    torch.save(state, bundle / "models" / "model.pt")
    np.testing.assert_array_equal(served(bundle, tmp_path).predict(volume).mask.voxels > 0, volume.voxels > toy.CUT)


# Classifiers


def expected(picture: np.ndarray, bundle: Path) -> np.ndarray:
    """Of a (rows, columns) picture, by MONAI alone; its readers put columns first."""
    network = nets.DenseNet121(**toy.DENSENET).eval()
    network.load_state_dict(torch.load(bundle / "models" / "classifier.pt", weights_only=True))
    steps = transforms.Compose([transforms.ScaleIntensity(), transforms.Resize([40, 36])])
    with torch.inference_mode():
        return torch.softmax(network(steps(picture.T[None].copy()).as_tensor()[None]), 1)[0].numpy()


def test_each_slice_is_classified_as_monai_would_its_picture(volume, tmp_path):
    bundle = toy.write_classifier(tmp_path / "b")
    # Each slice shows something else.
    voxels = np.stack([np.roll(each, 3 * number, 0) ** (1 + number / 5) for number, each in enumerate(volume.voxels)])
    found = served(bundle, tmp_path, T1).predict(replace(volume, voxels=voxels, units="1"))
    assert found.probabilities.shape == (SHAPE[0], 3) and found.threshold is None
    for number in (0, 5, 8):
        np.testing.assert_allclose(found.probabilities[number], expected(voxels[number], bundle), atol=1e-5)
    # The toy tells slices apart, and a picture from its mirror image along the diagonal.
    assert np.ptp(found.probabilities[:, 0]) > 0.02
    square = voxels[8, :29]
    assert np.abs(expected(square, bundle) - expected(square.T, bundle)).max() > 1e-3


def test_the_most_probable_class_is_told_without_a_threshold(tmp_path):
    found = predictor.Classified(("a", "b", "c"), np.array([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]], np.float32), None)
    assert [found.words(number) for number in (0, 1)] == ["b 0.50", "a 0.70"]
    assert found.positive.tolist() == [True, False]


def test_one_output_of_a_sigmoid_is_a_class_beside_that_of_nothing_found(tmp_path):
    bundle = toy.write_classifier(
        tmp_path / "b",
        num_classes=1,
        postprocessing={
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.4},
            ],
        },
    )
    network = nets.DenseNet121(**{**toy.DENSENET, "out_channels": 1})
    torch.save(network.state_dict(), bundle / "models" / "classifier.pt")
    told = Told(labels=("nothing", "mass"), channels=(Channel("view", "MG", "1"),))
    found = served(bundle, tmp_path, told).predict(projection(3, positive=True))
    assert found.probabilities.shape == (1, 2) and found.threshold == 0.4
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-6)


# Evaluation


def test_a_foreign_segmenter_is_evaluated_with_a_caution(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", "segmentation", (2, 1, 5))
    network = {"_target_": "UNet", **toy.UNET, "in_channels": 2}
    bundle = toy.write_segmenter(tmp_path / "b", preprocessing=scaled(chained(TURN)), network_def=network)
    state = toy.threshold_state(3.7 / 8)
    # Of two channels it looks at the first.
    first = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)
    state["model.0.conv.weight"] = state["model.0.conv.weight"] * first
    torch.save(state, bundle / "models" / "model.pt")
    told = Told(channels=cohort.channels)
    folder = importing.import_bundle(importing.check(bundle, told), "toy", None, tmp_path / "shelf").folder
    report = evaluate.evaluate(folder, cohort, draws=100)
    assert report["metrics"]["dice"]["value"] > 0.8
    assert not report["trained_on_this_cohort"] and "made elsewhere" in report["caution"]
    again = compare.compare([folder, folder], ["a", "b"], cohort, draws=100)
    assert "made elsewhere" in json.dumps(again)


def test_a_foreign_classifier_is_evaluated_without_maps_of_saliency(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", "classification", (2, 1, 3))
    network = {**toy.DENSENET, "in_channels": 2}
    bundle = toy.write_classifier(tmp_path / "b", network_def={"_target_": "DenseNet121", **network})
    torch.save(nets.DenseNet121(**network).state_dict(), bundle / "models" / "classifier.pt")
    model = served(bundle, tmp_path, Told(channels=cohort.channels))
    report = evaluate.evaluate(model.model.folder, cohort, draws=100)
    assert "made elsewhere" in report["caution"] and report["threshold"] == 0.5
    assert "saliency" not in report and not model.saliency_is_shown
    with pytest.raises(Rejected, match="was made elsewhere; maps of saliency"):
        model.saliency(projection(1, positive=True))


def scaled(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The toy's scaling takes SUV of 0 to 8 to where its network looks."""
    changed = copy.deepcopy(preprocessing)
    step = next(step for step in changed["transforms"] if step["_target_"].endswith("ScaleIntensityRanged"))
    step |= {"a_min": 0.0, "a_max": 8.0}
    return changed
