"""Released model versions as the service sees them: what there is, where it lies, who it is. Nothing here loads torch.

    <data>/models/<name>/<version>/configs/metadata.json   MONAI's file; ours stands under "mirall"

What a version is made of, and how it is read for use, is `models.version`'s business, in the child process.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dicom_io.errors import Rejected
from dicom_io.provenance import ModelIdentity, content_hash


class UnknownModel(Rejected):
    """No such model version in the registry, or its metadata cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One model version. task: classification | segmentation | generation; labels: class names.

    data_hashes: of the cohort that it was trained on (`dicom_io.cohort`), and of those of the models that it started
    from; none where the version does not say.
    """

    folder: Path
    identity: ModelIdentity
    task: str
    labels: tuple[str, ...]
    data_hashes: frozenset[str] = frozenset()


class Registry:
    """The versions below one folder. A version never changes once it is released."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self) -> tuple[Entry, ...]:
        """All versions, by name, then in order of release. Folders without readable metadata are left out."""
        found = []
        for folder in self._versions():
            try:
                found.append(_entry(folder))
            except UnknownModel:
                continue
        return tuple(found)

    def resolve(self, address: str) -> Entry:
        """The version that `name:version` names; a bare `name` is the one that was released last.

        Raises:
            UnknownModel: the sentence names what there is.
        """
        return _entry(self._folder_of(address))

    def whole_address(self, address: str) -> str:
        """`name:version` of what an address names now; nothing is read but names and times.

        Raises:
            UnknownModel: as `resolve`.
        """
        folder = self._folder_of(address)
        return f"{folder.parent.name}:{folder.name}"

    def _folder_of(self, address: str) -> Path:
        name, _, version = address.partition(":")
        folders = [each for each in self._versions(name) if each.name == version or not version]
        if not folders or not name:
            known = ", ".join(sorted(f"{each.parent.name}:{each.name}" for each in self._versions())) or "none"
            raise UnknownModel(f"there is no model version {address!r} in {self._folder}; there are: {known}")
        return folders[-1]

    def trained_on(self, data_hashes: Collection[str]) -> tuple[str, ...]:
        """Addresses of the versions that were trained on a cohort with one of these hashes, or started from one."""
        return tuple(each.identity.address for each in self.list() if not each.data_hashes.isdisjoint(data_hashes))

    def known_device_uids(self) -> frozenset[str]:
        """Device UIDs of all versions here; by them we know our own work again when it comes back (promise 2)."""
        return frozenset(entry.identity.device_uid for entry in self.list())

    def _versions(self, name: str | None = None) -> tuple[Path, ...]:
        """Folders of versions, by name, then in order of release; never above the registry, whatever the name."""
        found = [each.parent.parent for each in self._folder.glob("*/*/configs/metadata.json")]
        found = [each for each in found if name in (None, each.parent.name)]
        return tuple(sorted(found, key=lambda each: (each.parent.name, _released_at(each), each.name)))


def folder_of(models: Path, model: str) -> Path:
    """Folder of a model that is given as NAME, NAME:VERSION or as a folder itself (a version or a finished run).

    Raises:
        UnknownModel: neither in the registry `models` nor a folder with configs/metadata.json.
    """
    if (Path(model) / "configs" / "metadata.json").is_file():
        return Path(model)
    return Registry(models).resolve(model).folder


def _released_at(folder: Path) -> float:
    return (folder / "configs" / "metadata.json").stat().st_mtime


def _entry(folder: Path) -> Entry:
    return _read(folder, _released_at(folder))


@lru_cache(maxsize=256)
def _read(folder: Path, released_at: float) -> Entry:
    """Hashing a bundle reads all of it, so it is done once per release."""
    path = folder / "configs" / "metadata.json"
    try:
        ours: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["mirall"]
        identity = ModelIdentity(ours["name"], ours["version"], content_hash(folder), ours["state"])
        saw = ours.get("saw", {})
        hashes = frozenset(each["data_hash"] for each in (saw, *saw.get("ancestors", ())) if "data_hash" in each)
        return Entry(folder, identity, ours["task"], tuple(ours["labels"]), hashes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownModel(f"{path} cannot be read as a model version's metadata: {error}; release it again") from error
