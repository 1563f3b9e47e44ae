"""Serving: the tensor of training, the grid of the source, and a sentence for what is outside the card."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_images import CHANNELS, blob_volume, oblique_affine, projection

from dicom_io import cohort as cohorts
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.volume import Volume
from models import cases, predictor
from models.domain import Domain
from models.training import summary
from plugin import classified


@pytest.fixture(scope="module")
def volume() -> Volume:
    return blob_volume(77, units="g/ml{SUVbw}")[0]


@pytest.mark.parametrize("kind", ["segmenter", "classifier"])
def test_training_and_serving_see_the_same_tensor(kind, request, segmentation_run, classification_run):
    run, cohort, _ = segmentation_run if kind == "segmenter" else classification_run
    model = predictor.load(run)
    item = cohort.training[0]
    trained_on = cases.load(cohort, [item], model.model.model_input)[0].image
    served = model.input_tensor(cohorts.load_image(cohort, item))
    assert torch.equal(trained_on, served.as_tensor())


def test_a_mask_lies_on_the_grid_of_its_volume(segmenter, volume):
    found = predictor.load(segmenter.folder).predict(volume)
    assert found.mask.same_grid_as(volume) and found.probability.same_grid_as(volume)
    assert found.mask.sources == volume.sources
    assert found.mask.voxels.shape == volume.spatial_shape
    assert set(np.unique(found.mask.voxels)) <= {0.0, 1.0}
    np.testing.assert_array_equal(found.mask.voxels > 0, found.probability.voxels >= found.threshold)


def test_a_segmenter_finds_the_blob_of_a_patient_it_never_saw(segmenter):
    model = predictor.load(segmenter.folder)
    dices = []
    for seed in (91, 92, 93):
        volume, truth = blob_volume(seed, units="g/ml{SUVbw}")
        ours = model.predict(volume).mask.voxels > 0
        dices.append(2 * (ours & (truth.voxels > 0)).sum() / (ours.sum() + truth.voxels.sum()))
    assert min(dices) > 0.7


def test_a_smaller_and_a_larger_image_than_the_window_come_back_whole(segmenter):
    model = predictor.load(segmenter.folder)
    for shape in ((3, 20, 9), (2, 70, 45)):
        voxels = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
        made = model.predict(Volume(voxels, oblique_affine(), "2.25.7", "g/ml{SUVbw}"))
        assert made.mask.spatial_shape == shape


def test_a_slice_is_segmented_alike_wherever_it_stands_in_the_series(segmenter, volume):
    model = predictor.load(segmenter.folder)
    turned = replace(volume, voxels=np.ascontiguousarray(volume.voxels[:, ::-1]), sources=volume.sources[::-1])
    forward, backward = model.predict(volume), model.predict(turned)
    np.testing.assert_allclose(forward.probability.voxels, backward.probability.voxels[::-1], atol=1e-5)


def test_a_classifier_gives_one_row_of_probabilities_per_slice(classifier, volume):
    found = predictor.load(classifier.folder).predict(volume)
    assert found.labels == ("background", "lesion")
    assert found.probabilities.shape == (5, 2)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(found.positive, found.probabilities[:, 1] >= found.threshold)


def test_a_classifier_of_pictures_gives_one_row(projection_classifier):
    model = predictor.load(projection_classifier.folder)
    with_spot, without = (model.predict(projection(5, positive=positive)) for positive in (True, False))
    assert with_spot.probabilities.shape == (1, 2)
    assert with_spot.probabilities[0, 1] > without.probabilities[0, 1]


def test_a_predictor_says_which_channels_it_needs(segmenter):
    assert predictor.load(segmenter.folder).channels == CHANNELS


# The card's domain.


def wide(model: predictor.Segmenter | predictor.Classifier, **changes: object) -> Domain:
    return model.description.domain.model_copy(update=changes)


def test_an_image_like_those_of_training_is_inside_the_domain(segmenter, classifier, projection_classifier, volume):
    predictor.load(segmenter.folder).check_domain(volume)
    predictor.load(classifier.folder).check_domain(volume)
    predictor.load(projection_classifier.folder).check_domain(projection(3, positive=True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda v: replace(v, voxels=np.zeros((2, 267, 40, 29), np.float32), sources=()),
            r"267 slices of 3\.30 mm between slices covering 881 mm; the card of toy-lesions:1 says at most 21 mm",
        ),
        (
            lambda v: replace(v, voxels=v.voxels[:, :1], sources=()),
            r"the volume has 1 slice of 3\.30 mm between slices covering 3 mm; .* at least \d+ mm",
        ),
        (
            lambda v: replace(v, affine=oblique_affine(down_mm=2.5)),
            r"spacing of 2\.50 mm down a slice.*1\.83 to 2\.42 mm",
        ),
        (lambda v: replace(v, affine=oblique_affine(across_mm=0.4)), r"29 pixels of 0\.40 mm across.*at least 25 mm"),
        (lambda v: replace(v, units="BQML"), r"in 'BQML'; the card of toy-lesions:1 says 'g/ml\{SUVbw\}'"),
        (lambda v: replace(v, voxels=v.voxels[0]), r"has 1 channel; toy-lesions:1 needs 2 \(one, two\)"),
        (lambda v: replace(v, voxels=v.voxels * 1000), r"99\.5th percentile of one is .* g/ml\{SUVbw\}; the card"),
        (lambda v: projection(1, positive=True), r"is a projection; the card of toy-lesions:1 says volume"),
    ],
)
def test_what_is_outside_the_card_gets_a_sentence_with_the_way_out(segmenter, volume, change, sentence):
    with pytest.raises(OutOfDomain, match=sentence) as caught:
        predictor.load(segmenter.folder).check_domain(change(volume))
    assert str(caught.value).endswith("marked out-of-domain")


def test_arbitrary_units_are_not_judged_by_their_values(projection_classifier):
    model = predictor.load(projection_classifier.folder)
    assert model.description.domain.top_value == ()
    picture = projection(3, positive=True)
    model.check_domain(replace(picture, pixels=picture.pixels * 50))


def test_a_generator_is_no_predictor(generator):
    with pytest.raises(Rejected, match="toy-maker:1 is a generator"):
        predictor.load(generator.folder)


def test_a_card_names_body_parts_where_all_training_images_say_one(segmentation_run):
    _, cohort, _ = segmentation_run

    def told(*stated: str) -> tuple[str, ...]:
        items = [
            replace(item, provenance={"body_part": part} if part else {})
            for item, part in zip(cohort.training, stated, strict=False)
        ]
        return summary.body_parts(replace(cohort, splits={"training": tuple(items)}))

    assert told("HEAD", "BRAIN", "HEAD") == ("BRAIN", "HEAD")
    assert told("HEAD", "", "HEAD") == ()


def test_of_several_classes_the_words_say_what_the_threshold_is_on_and_which_class_it_is():
    labels = ("none", "glioma", "meningioma", "pituitary")
    chances = np.array([[0.01, 0.97, 0.01, 0.01], [0.9, 0.02, 0.02, 0.06]], np.float32)
    found = predictor.Classified(labels, chances, 0.5)
    assert found.positive.tolist() == [True, False]
    assert found.words(0) == "not none 0.99 (threshold 0.50); glioma 0.97"
    assert found.words(1) == "not none 0.10 (threshold 0.50); none 0.90"
    two = predictor.Classified(("none", "lesion"), chances[:, [0, 1]], 0.5)
    assert two.words(0) == "lesion 0.97 (threshold 0.50)"


def test_the_finding_is_of_the_most_suspicious_picture_whichever_class_it_is():
    chances = np.array([[0.6, 0.1, 0.3], [0.1, 0.85, 0.05]], np.float32)
    found = predictor.Classified(("none", "mass", "cyst"), chances, 0.5)
    assert classified._highest(found) == "not none 0.90 (threshold 0.50); mass 0.85"
