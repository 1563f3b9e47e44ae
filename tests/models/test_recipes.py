"""Recipes: what ships is valid, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dicom_io.errors import Rejected
from models import recipe


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_shipped_recipe_is_read_by_name_and_by_path_and_back_from_its_dump(name, tmp_path):
    by_name = recipe.load(name)
    assert by_name == recipe.load(recipe.SHIPPED / f"{name}.yaml")
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.dump(by_name))
    assert recipe.load(copy) == by_name


def edited(tmp_path: Path, **changes: object) -> Path:
    """The segmenter's recipe with dotted keys replaced."""
    document = yaml.safe_load((recipe.SHIPPED / "segmenter.yaml").read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = document
        for name in outer:
            place = place[name]
        place[last] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"schedule__total_image": 5}, "schedule.total_image"),
        ({"schedule__total_images": -5}, "schedule.total_images"),
        ({"network__channels": [16]}, "network.channels"),
        ({"windows__window_px": 50}, "windows.window_px"),
        ({"colour": "red"}, "colour"),
        ({"optimiser__learning_rate": "fast"}, "optimiser.learning_rate"),
        ({"preprocessing": [{"_target_": "LoadImaged"}]}, r"preprocessing\[0\]._target_"),
        ({"preprocessing": [{"_target_": "NormalizeIntensityd", "subtrahend": "$open('/etc/passwd')"}]}, "subtrahend"),
        ({"preprocessing": [{"_target_": "Resized", "spatial_size": [-1, 8, 8]}]}, "Resized changes the grid"),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path, change, key):
    with pytest.raises(Rejected, match=rf"mine\.yaml.*{key}"):
        recipe.load(edited(tmp_path, **change))


def test_an_unknown_name_lists_what_ships(tmp_path):
    with pytest.raises(Rejected, match=r"classifier, conditional-generator, .*generator, .*segmenter"):
        recipe.load("segmentor")


def generation(**changes: object) -> dict[str, object]:
    """A recipe of a generator as it was written before there was a choice of networks and losses."""
    return {
        "name": "g",
        "task": "generation",
        "network": {"image_px": 32, "features": 16, "latent": 8},
        "loss": {"translation": 0.125, "cutout": 0.5},
        "optimiser": {"learning_rate": 0.001, "beta_1": 0.0, "beta_2": 0.99, "r1_every_steps": 16},
        "schedule": {"total_images": 64},
        "pixel_range": [0, 10],
    } | changes


def test_a_generator_s_recipe_from_before_there_was_a_choice_means_what_it_meant():
    old = recipe.parse(generation(), "old")
    assert (old.family, old.network.kind, old.loss.kind, old.optimiser.kind) == (
        "adversarial",
        "dcgan",
        "non-saturating",
        "adam",
    )
    assert old.optimiser.critic_steps == 1 and not old.conditional and old.adaptive is None
    assert old.network.norm == "group" and old.network.critic_norm == "none" and old.network.minibatch_deviation
    assert old.r1_gamma == pytest.approx(0.0002 * 32**2 / 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": {"feature": 16}}, r"network\.feature"),
        ({"network": {"kind": "vae"}}, r"network\.kind.*none of dcgan, pet-dense-gan"),
        ({"network": {"kind": "pet-dcgan", "image_px": 100}}, "image_px must be a multiple of 32"),
        ({"network": {"kind": "brain-wcgan", "generator": "G3"}}, r"network\.generator.*G3"),
        ({"network": {"kind": "brain-wcgan"}}, "set conditional: true"),
        ({"network": {"kind": "pet-dcgan"}, "conditional": True}, "pet-dcgan has no place for a label"),
        ({"network": {"critic_norm": "layer"}}, r"network\.critic_norm.*layer"),
        ({"loss": {"kind": "wasserstein"}}, "needs gradient_penalty .10. or weight_clip"),
        ({"loss": {"kind": "hinge", "label_flipping": 0.1}}, "label_flipping need labels"),
        ({"loss": {"kind": "least-squares", "fake_target": 1.0}}, "fake_target 1.0 is not below"),
        ({"loss": {"generator_target": 0.5}}, "generator_target are of least-squares, not of non-saturating"),
        ({"loss": {"label_smoothing": 0.9}}, r"loss\.label_smoothing"),
        ({"optimiser": {"decay_rate": 0.9}}, "decay_rate is of rmsprop"),
        ({"optimiser": {"kind": "rmsprop", "beta_1": 0.5}}, "beta_1 and beta_2 are of adam"),
        ({"optimiser": {"critic_steps": 0}}, r"optimiser\.critic_steps"),
        ({"adaptive": {"limit": 1.0}}, r"adaptive\.limit"),
        ({"adaptive": {}, "loss": {"kind": "wasserstein", "weight_clip": 0.01}}, "no zero that r_t"),
        ({"schedule": {"total_images": 9, "patience_reports": 0}}, r"schedule\.patience_reports"),
        ({"alarms": "ignore"}, "key 'alarms'"),
        ({"family": "flow"}, "key 'task': it is none of"),
        ({"pixel_range": [1, 1]}, "pixel_range"),
    ],
)
def test_an_error_of_a_generator_s_recipe_names_the_key(change, said):
    with pytest.raises(Rejected, match=rf"mine: .*{said}"):
        recipe.parse(generation(**change), "mine")


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"kind": "wasserstein", "gradient_penalty": 10}},
        {"loss": {"kind": "wasserstein", "weight_clip": 0.01}},
        {"network": {"spectral_norm": True}},
    ],
)
def test_r1_is_left_out_where_the_critic_is_restrained_already_unless_it_is_asked_for(change):
    assert recipe.parse(generation(**change), "r").r1_gamma == 0
    assert recipe.parse(generation(**change, optimiser={"r1_gamma": 0.5}), "r").r1_gamma == 0.5


def test_yaml_that_would_build_objects_is_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("!!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(Rejected, match=r"evil\.yaml is no YAML"):
        recipe.load(path)
