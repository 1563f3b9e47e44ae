"""Model versions as the service sees them, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_io.provenance import ModelIdentity, content_hash
from plugin.registry import Registry, UnknownModel, folder_of


def release(models: Path, name: str, version: str, at: float, weights: bytes = b"w") -> Path:
    folder = models / name / version
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(weights)
    ours = {
        "name": name,
        "version": version,
        "state": "unproven",
        "task": "segmentation",
        "labels": ["background", "x"],
    }
    path = folder / "configs" / "metadata.json"
    path.write_text(json.dumps({"mirall": ours}))
    os.utime(path, (at, at))
    return folder


def test_a_bare_name_is_the_version_released_last(tmp_path: Path) -> None:
    release(tmp_path, "pet", "9", 100)
    release(tmp_path, "pet", "10", 200)
    release(tmp_path, "brain", "1", 300)
    registry = Registry(tmp_path)
    assert registry.resolve("pet").identity.address == "pet:10"
    assert registry.resolve("pet:9").identity.address == "pet:9"
    assert [each.identity.address for each in registry.list()] == ["brain:1", "pet:9", "pet:10"]
    assert registry.resolve("pet").labels == ("background", "x")
    assert (registry.whole_address("pet"), registry.whole_address("pet:9")) == ("pet:10", "pet:9")


@pytest.mark.parametrize("address", ["pet:2", "pe", "", ":1", "../models/pet:1", "*", "pet:*"])
def test_an_unknown_address_is_refused_and_told_what_there_is(tmp_path: Path, address: str) -> None:
    release(tmp_path / "models", "pet", "1", 100)
    with pytest.raises(UnknownModel, match="there are: pet:1"):
        Registry(tmp_path / "models").resolve(address)


def test_the_identity_follows_the_content(tmp_path: Path) -> None:
    one = release(tmp_path / "a", "pet", "1", 100)
    same = release(tmp_path / "b", "pet", "1", 200)
    other = release(tmp_path / "c", "pet", "1", 300, b"x")
    assert content_hash(one) == content_hash(same) != content_hash(other)
    expected = ModelIdentity("pet", "1", content_hash(one), "unproven")
    assert Registry(tmp_path / "a").resolve("pet:1").identity == expected
    assert Registry(tmp_path / "a").known_device_uids() == {expected.device_uid}


def test_a_version_that_cannot_be_read_is_named_and_hides_no_other(tmp_path: Path) -> None:
    release(tmp_path, "good", "1", 100)
    broken = release(tmp_path, "broken", "1", 100)
    (broken / "configs" / "metadata.json").write_text('{"version": "1"}')
    with pytest.raises(UnknownModel, match=r"broken/1/configs/metadata\.json .*'mirall'"):
        Registry(tmp_path).resolve("broken:1")
    assert [each.identity.name for each in Registry(tmp_path).list()] == ["good"]


def test_a_model_may_be_given_as_a_folder(tmp_path: Path) -> None:
    folder = release(tmp_path / "run", "pet", "1", 100)
    assert folder_of(tmp_path / "models", str(folder)) == folder
    assert folder_of(tmp_path / "run", "pet:1") == folder


def test_the_registry_loads_no_torch() -> None:
    code = "import sys, plugin.registry, plugin.api; sys.exit(int('torch' in sys.modules or 'dbos' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
