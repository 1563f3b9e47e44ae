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
    with pytest.raises(Rejected, match="classifier, generator, segmenter"):
        recipe.load("segmentor")


def test_yaml_that_would_build_objects_is_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("!!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(Rejected, match=r"evil\.yaml is no YAML"):
        recipe.load(path)
