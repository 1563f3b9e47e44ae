"""The folder of a foreign bundle: its documents, read as plain data, and the hash of everything in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from dicom_io.errors import Rejected

# Configurations of the zoo have a few kilobytes; what is much larger is none.
_LARGEST_BYTES = 4_000_000
_ENDINGS = (".json", ".yaml", ".yml")


class Folder:
    """A bundle that was unpacked into a folder.

    Raises:
        Rejected: it is no folder, or holds a symbolic link, which might lead out of it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise Rejected(f"{root} is no folder; unpack the bundle, and give the folder that holds configs/")
        self.root = root
        self._files = sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix())
        for path in self._files:
            if path.is_symlink():
                raise Rejected(
                    f"{path} is a symbolic link, which may lead out of the bundle; put the file itself there"
                )

    def content_hash(self) -> str:
        """SHA-256 (hex) over names and bytes of all files, scripts and licences included."""
        digest = hashlib.sha256()
        for path in self._files:
            if path.is_file():
                with path.open("rb") as file:
                    file_hash = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{path.relative_to(self.root).as_posix()}\0{file_hash}\n".encode())
        return digest.hexdigest()

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of those directly in it."""
        return tuple(path.name for path in self._files if path.is_dir() and path.parent == self.root)

    def text(self, name: str) -> str:
        """A text file, "" where there is none."""
        return self._bytes(name).decode("utf-8", "replace") if self.has(name) else ""

    def named(self, stem: str) -> str:
        """The one document of this name: configs/inference -> configs/inference.yaml.

        Raises:
            Rejected: there is none, or one in JSON and one in YAML.
        """
        found = [f"{stem}{ending}" for ending in _ENDINGS if self.has(f"{stem}{ending}")]
        if len(found) != 1:
            what = f"holds {' and '.join(found)}" if found else f"has no {stem}.json or {stem}.yaml"
            raise Rejected(f"{self.root} {what}; a bundle of the zoo has one of them")
        return found[0]

    def document(self, name: str) -> dict[str, Any]:
        """A JSON or YAML file inside the folder, as maps, lists and plain values.

        Raises:
            Rejected: the name leads out of the folder, or the file is absent, too large, no such document, names a key
                twice, or holds a YAML tag that would make an object.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise Rejected(
                f"{name!r} leads out of the bundle and was not read; a macro names files of the bundle alone"
            )
        if path.suffix not in _ENDINGS or not self.has(name):
            raise Rejected(f"{name!r} is no JSON or YAML file of the bundle {self.root}")
        text = self._bytes(name).decode("utf-8", "strict")
        try:
            read = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else yaml.load(text, _Loader)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise Rejected(f"{name} of the bundle is not read: {' '.join(str(error).split())}") from error
        if not isinstance(read, dict):
            raise Rejected(f"{name} of the bundle holds no map of keys and values")
        return read

    def _bytes(self, name: str) -> bytes:
        path = self.root / name
        if path.stat().st_size > _LARGEST_BYTES:
            raise Rejected(f"{name} of the bundle has {path.stat().st_size} bytes; a configuration has far fewer")
        return path.read_bytes()


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A key that stands there twice would be read in one way here and in another elsewhere."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands there twice")
        found[key] = value
    return found


class _Loader(yaml.SafeLoader):
    """Plain values alone; tags such as !!python/object are errors, and so are keys that stand there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                words = f"key {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, words, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
