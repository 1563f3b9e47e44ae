"""From a foreign bundle that was read and found harmless to a version on the shelf: unproven, pinned by its hash.

The version is a bundle of the form of our own (`models.version`). Its configuration is written anew, from what was
read: plain values, no reference, no expression. Of the foreign files only tensors and licences are taken over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dicom_io.errors import Rejected
from models import version
from models.bundle import born, free_version
from models.domain import Domain
from models.foreign import card
from models.foreign.folder import Folder
from models.foreign.zoo import Bundle, Told, read
from models.version import Description, ModelVersion, Saw

# Of what it was trained on nothing is known here.
_NOTHING_KNOWN = Saw(
    cohort="",
    data_hash="",
    split_unit="none",
    patients=0,
    validation_patients=0,
    images=0,
    synthetic_images=0,
    images_seen=0,
    seed=0,
    recipe="",
)
# On the probability of any class but the first, for figures of an evaluation; no validation has fixed another.
_HALF = 0.5
_LICENCES = ("LICENSE", "LICENSE.txt", "docs/LICENSE", "docs/data_license.txt")


def check(root: Path, told: Told, sha256: str | None = None) -> Bundle:
    """Read a bundle and compare it with the hash that it is to have.

    Raises:
        Rejected: as `models.foreign.zoo.read`, or the hash is another.
    """
    found = Folder(root).content_hash() if sha256 is not None else ""
    if sha256 is not None and sha256.lower() != found:
        raise Rejected(f"{root} has the hash {found}, and {sha256} was expected; it is not the bundle that was checked")
    return read(root, told)


def import_bundle(bundle: Bundle, name: str, wanted: str | None, models_dir: Path) -> ModelVersion:
    """Put it on the shelf as NAME:VERSION; `wanted` None is the next whole number.

    Raises:
        Rejected: a word is no name, or the version exists.
    """
    chosen = free_version(models_dir, name, wanted)
    description = Description(
        name=name,
        version=chosen,
        state="unproven",
        task=bundle.task,
        labels=bundle.labels,
        channels=bundle.channels,
        domain=Domain(kind=bundle.kind, spacing_mm=(), extent_mm=(), top_value=()),
        saw=_NOTHING_KNOWN,
        threshold=_HALF if bundle.foreign.decision.threshold is None else bundle.foreign.decision.threshold,
        foreign=bundle.foreign,
    )
    with born(models_dir, name, chosen) as folder:
        _write(folder, description, bundle)
        (folder / "docs").mkdir()
        (folder / "docs" / "README.md").write_text(card.card(description, bundle.foreign))
        for path in filter(bundle.folder.has, _LICENCES):
            (folder / "docs" / Path(path).name).write_text(bundle.folder.text(path))
    return version.load(models_dir / name / chosen)


def _write(folder: Path, description: Description, bundle: Bundle) -> None:
    """Configs and weights. The input chain stands in the description; what its makers say of themselves takes the place
    of what we say of ourselves."""
    origin = bundle.foreign.origin
    theirs = {
        "changelog": {description.version: f"imported from a bundle with the hash {origin.bundle_hash}"},
        "authors": origin.authors or "Not said",
        "copyright": origin.copyright or "Not said",
        "license": origin.license or "Not said",
        "data_source": origin.data_source or "Not said",
    }
    configs = {
        "inference": {"network_def": bundle.network_definition, "model_input": [], "inferer": bundle.inferer},
        "metadata": version.metadata(description, bundle.network_definition, None) | theirs,
    }
    (folder / "configs").mkdir(parents=True)
    for name, document in configs.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    version.write_weights(folder / "models" / "model.pt", bundle.state)


def plan(bundle: Bundle) -> dict[str, Any]:
    """What an import would put on the shelf, ready for JSON."""
    foreign = bundle.foreign
    return {
        "bundle_hash": foreign.origin.bundle_hash,
        "task": bundle.task,
        "kind": bundle.kind,
        "labels": list(bundle.labels),
        "channels": [vars(channel) for channel in bundle.channels],
        "network": dict(bundle.network_definition),
        "preprocessing": [dict(step) for step in foreign.chain],
        "inferer": dict(bundle.inferer),
        "decision": foreign.decision.model_dump(mode="json"),
        "origin": foreign.origin.model_dump(mode="json"),
        "left_out": list(bundle.left_out),
    }


def lines_of(planned: dict[str, Any]) -> list[str]:
    """The same for a person."""
    channels = [" ".join(filter(None, map(str, channel.values()))) for channel in planned["channels"]]
    return [
        f"hash       {planned['bundle_hash']}",
        f"made by    {planned['origin']['authors'] or 'not said'}; {planned['origin']['license'] or 'no licence said'}",
        f"task       {planned['task']} of a {planned['kind']}",
        f"labels     {', '.join(planned['labels'])}",
        f"channels   {'; '.join(channels)}",
        f"network    {json.dumps(planned['network'])}",
        *(f"step       {json.dumps(step)}" for step in planned["preprocessing"]),
        f"inferer    {json.dumps(planned['inferer'])}",
        f"decision   {json.dumps(planned['decision'])}",
        f"weights    models/{planned['origin']['weights']}, tensors alone, all fit",
        f"left out   {', '.join(dict.fromkeys(planned['left_out'])) or 'nothing'}",
    ]
