"""`configs/inference.json`: what we read of a bundle, and what `python -m monai.bundle run` needs around it.

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir IN --output_dir OUT

IN holds one folder per case, with one NIfTI file per channel, sorted in channel order. `$...` expressions in the file
are for MONAI's own runner alone: our loader reads `network_def`, `model_input` and `inferer`, which hold none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.inferers import Inferer, SimpleInferer, SliceInferer, SlidingWindowInferer

from models.preprocessing import check_plain

_INFERERS: Mapping[str, type[Inferer]] = {
    "SliceInferer": SliceInferer,
    "SlidingWindowInferer": SlidingWindowInferer,
    "SimpleInferer": SimpleInferer,
}
# NIfTI stores (column, row, slice); the networks see (slice, row, column), as `models.tensors` makes them.
_TURN = {"_target_": "Transposed", "keys": "image", "indices": [0, 3, 2, 1]}


def inference(
    task: str,
    kind: str,
    network_definition: Mapping[str, Any],
    model_input: tuple[Mapping[str, Any], ...],
    window: Sequence[int] | None,
    overlap: float,
    threshold: float | None,
) -> dict[str, Any]:
    """The document. kind: "volume" or "projection". window: ((slices,) rows, columns) of a segmenter's; overlap: of
    neighbours."""
    read: dict[str, Any] = {
        "network_def": dict(network_definition),
        "model_input": [{"_target_": step["_target_"], "keys": "image", **step} for step in model_input],
        "inferer": {"_target_": "SimpleInferer"},
    }
    if window is not None:
        read["inferer"] = sliding(window, overlap)
    if task == "generation":
        return read
    return read | _around(task, kind, threshold)


def sliding(window: Sequence[int], overlap: float) -> dict[str, Any]:
    """The inferer of a segmenter: windows of slices, slice by slice, or boxes of the volume."""
    how = {"overlap": overlap, "mode": "gaussian"}
    if len(window) == 3:
        return {"_target_": "SlidingWindowInferer", "roi_size": [*window], "sw_batch_size": 4, **how}
    return {"_target_": "SliceInferer", "roi_size": [*window], "spatial_dim": 0, "sw_batch_size": 16, **how}


def _around(task: str, kind: str, threshold: float | None) -> dict[str, Any]:
    """Loading, saving and running, for MONAI's runner."""
    # A projection is a NIfTI of one slice, and its chain has no slice axis; slices of a volume go one by one.
    one_slice = [{"_target_": "SqueezeDimd", "keys": "image", "dim": 1}] if kind == "projection" else []
    one_by_one = [{"_target_": "SplitDimd", "keys": "image", "dim": 1, "keepdim": False, "list_output": True}]
    mask = (
        f"$lambda p: ((1 - p[:1]) >= {threshold!r}) * (1 + p[1:].argmax(0, keepdim=True)).to(p.dtype)"
        if task == "segmentation"
        else "$lambda p: p"
    )
    document: dict[str, Any] = {
        "imports": ["$import pathlib", "$import torch", "$import monai"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "network": "$@network_def",
        "cases": "$sorted(case for case in pathlib.Path(@dataset_dir).iterdir() if case.is_dir())",
        "files": "$[{'image': [str(f) for f in sorted(case.glob('*.nii.gz'))], 'case': case.name} for case in @cases]",
        "loading": [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}, _TURN, *one_slice],
        "splitting": one_by_one if task == "classification" and kind == "volume" else [],
        "preprocessing": {"_target_": "Compose", "transforms": "$@loading + @model_input + @splitting"},
        "dataset": {"_target_": "Dataset", "data": "@files", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location='cpu', weights_only=True)",
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Lambdad", "keys": "pred", "func": mask},
            ],
        },
        "initialize": ["$@network.load_state_dict(@weights)", "$@network.eval()", "$torch.set_grad_enabled(False)"],
    }
    if task == "segmentation":
        document["postprocessing"]["transforms"] += [
            _TURN | {"keys": "pred"},
            {
                "_target_": "SaveImaged",
                "keys": "pred",
                "output_dir": "@output_dir",
                "output_postfix": "mask",
                "separate_folder": True,
                "resample": False,
            },
        ]
        one_batch = "$lambda b: [@postprocessing(c) for c in monai.data.decollate_batch(b)]"
        document["finish"] = one_batch
        document["run"] = ["$[@finish({**b, 'pred': @inferer(b['image'], @network)}) for b in @dataloader]"]
        return document
    document["saver"] = {"_target_": "CSVSaver", "output_dir": "@output_dir", "filename": "probabilities.csv"}
    document["finish"] = "$lambda b: @saver.save_batch(torch.softmax(@inferer(b['image'], @network), 1).as_tensor())"
    document["run"] = ["$[@finish(b) for b in @dataloader]", "$@saver.finalize()"]
    del document["postprocessing"]
    return document


def check_inferer(definition: Mapping[str, Any]) -> None:
    """Refuse an inferer that is not on the list.

    Raises:
        ValueError: names the key.
    """
    if definition.get("_target_") not in _INFERERS:
        raise ValueError(f"inferer._target_: {definition.get('_target_')!r} is not one of {', '.join(_INFERERS)}")
    check_plain(definition, "inferer")


def build_inferer(definition: Mapping[str, Any], batch: int | None = None) -> Inferer:
    """The inferer that `check_inferer` passed. batch: how many windows at once, in place of its own number."""
    arguments = {key: value for key, value in definition.items() if key != "_target_"}
    if batch is not None and "sw_batch_size" in arguments:
        arguments["sw_batch_size"] = batch
    return _INFERERS[definition["_target_"]](**arguments)
