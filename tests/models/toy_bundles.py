"""Bundles in the layout of the MONAI Model Zoo, with its habits: expressions, references, macros, handlers, scripts.

Their weights are made here: a segmenter that finds what is brighter than a cut, and a classifier of random weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.networks import nets

# What the network sees of intensities from LOW to HIGH is 0 to 1; it finds what lies above CUT.
LOW, HIGH, CUT = -100.0, 1100.0, 500.0
UNET: Mapping[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [2, 2],
    "strides": [1],
    "kernel_size": 1,
    "up_kernel_size": 1,
    "norm": "batch",
    "act": "relu",
}
DENSENET: Mapping[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "init_features": 4,
    "growth_rate": 2,
    "block_config": [1, 1, 1, 1],
}
SCRIPT = "from pathlib import Path\n\nPath(__file__).with_name('ran').touch()\n"


def segmentation(cut: float = CUT) -> dict[str, Any]:
    """configs/inference.json of a segmenter of CT, as the zoo's spleen bundle has it."""
    return {
        "imports": ["$import glob", "$import numpy", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "output_dtype": "$numpy.float32",
        "load_pretrain": True,
        "dataset_dir": "/workspace/data/Task09_Spleen",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "displayable_configs": {"highres": True, "sw_overlap": 0.25},
        "pixdim": "$[1.5, 1.25, 2.0] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        "network_def": {"_target_": "UNet", **UNET, "spatial_dims": "$len(@pixdim)", "out_channels": "$1 + 1"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key", "reader": "ITKReader"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": ["@image_key"], "pixdim": "@pixdim", "mode": ["bilinear"]},
                {
                    "_target_": "monai.transforms.ScaleIntensityRanged",
                    "keys": "@image_key",
                    "a_min": LOW,
                    "a_max": HIGH,
                    "b_min": 0,
                    "b_max": 1,
                    "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "@image_key", "device": "@device"},
                {"_target_": "CastToTyped", "keys": "@image_key", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [24, 16, 12],
            "sw_batch_size": 4,
            "overlap": "@displayable_configs::sw_overlap",
            "device": "@device",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "@image_key",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_dtype": "@output_dtype",
                },
            ],
        },
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "network": "@network"},
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$@checkpointloader(@evaluator) if @load_pretrain else None"],
        "run": ["$@evaluator.run()"],
    }


def metadata(name: str, labels: list[str], modality: str = "CT", form: str = "hounsfield") -> dict[str, Any]:
    image = {"type": "image", "format": form, "modality": modality, "num_channels": 1, "channel_def": {"0": "image"}}
    classes = {str(number): label for number, label in enumerate(labels)}
    return {
        "version": "0.5.9",
        "name": name,
        "task": "Toy *task*",
        "description": "A toy <script>",
        "authors": "Those of the toy",
        "copyright": "Copyright (c) toys",
        "data_source": "Toys",
        "intended_use": "An example",
        "eval_metrics": {"mean_dice": 0.961},
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": {"channel_def": classes}}},
    }


def classification() -> dict[str, Any]:
    """configs/inference.yaml of a classifier of slices, with macros and a list of transforms by expression."""
    return {
        "imports": ["$import json"],
        "image": "$monai.utils.CommonKeys.IMAGE",
        "pred": "$monai.utils.CommonKeys.PRED",
        "num_classes": "%configs/shared.yaml::classes::number",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "bundle_root": ".",
        "ckpt_path": "$@bundle_root + '/models/classifier.pt'",
        "test_fp": "$open(@bundle_root + '/data/test.json')",
        "size": "%configs/shared.yaml::size",
        "network_def": {"_target_": "DenseNet121", **DENSENET, "out_channels": "@num_classes"},
        "loading": [
            {"_target_": "LoadImaged", "keys": "@image"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image"},
        ],
        "scaling": [
            {"_target_": "ScaleIntensityd", "keys": "@image"},
            {"_target_": "Resized", "keys": "@image", "spatial_size": "@size", "_disabled_": False},
            {"_target_": "Lambdad", "keys": "@image", "func": "$print", "_disabled_": "@load_pretrain"},
        ],
        "load_pretrain": True,
        "preprocessing": {"_target_": "Compose", "transforms": "$@loading + @scaling"},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "@pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": ["@pred", "label"], "argmax": [True, False]},
                {"_target_": "ToTensord", "keys": ["@pred"], "device": "@device"},
            ],
        },
        "val_handlers": [
            {"_target_": "StatsHandler", "output_transform": "$lambda x: None"},
            {"_target_": "CheckpointLoader", "load_path": "@ckpt_path", "load_dict": {"model": "@network_def"}},
        ],
    }


def threshold_state(cut: float) -> dict[str, torch.Tensor]:
    """Weights of `UNET` with which class 1 is what lies above the cut (0 to 1)."""
    network = nets.UNet(**{**UNET, "channels": (2, 2), "strides": (1,)})
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for name in state:
        if name.endswith(("running_var", "adn.N.weight")):
            state[name] += 1
    # The image in channel 0, unchanged but for the batch norm; then -k and +k times what it has above the cut.
    state["model.0.conv.weight"][0, 0] = 1
    steep, last = 40.0, "model.2.conv"
    state[f"{last}.weight"][0, 0], state[f"{last}.weight"][0, 1] = -steep, steep
    state[f"{last}.bias"][:] = torch.tensor([steep * cut, -steep * cut])
    return state


def write_segmenter(folder: Path, cut: float = CUT, **changed: Any) -> Path:
    """JSON; the checkpoint as a trainer leaves it, with the network under "model". changed: keys of the configuration,
    None to leave one out."""
    document = {key: value for key, value in (segmentation(cut) | changed).items() if value is not None}
    state = threshold_state((cut - LOW) / (HIGH - LOW))
    write(folder, document, metadata("Toy CT segmentation", ["background", "spleen"]), {"model": state, "epoch": 7})
    return folder


def write_classifier(folder: Path, **changed: Any) -> Path:
    """YAML with macros; MR, so that its channel must be told."""
    torch.manual_seed(5)
    network = nets.DenseNet121(**DENSENET)
    with torch.no_grad():
        # Norms that have seen nothing squash all images to one.
        ramps = torch.linspace(0, 1, 40).view(1, 1, 40, 1) ** torch.rand(16, 1, 1, 36).mul(3)
        for _ in range(30):
            network.train()(ramps)
        network.class_layers.out.weight *= 10
    write(
        folder,
        classification() | changed,
        metadata("Toy classes", ["round", "square", "oblong"], "MR", "magnitude"),
        network.state_dict(),
        form="yaml",
        weights="classifier.pt",
    )
    shared = {"classes": {"number": 3}, "size": [40, 36]}
    (folder / "configs" / "shared.yaml").write_text(yaml.safe_dump(shared))
    return folder


def write(
    folder: Path,
    document: Mapping[str, Any],
    meta: Mapping[str, Any],
    state: Any,
    *,
    form: str = "json",
    weights: str = "model.pt",
) -> None:
    for name in ("configs", "models", "docs", "scripts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) if form == "json" else yaml.safe_dump(dict(document), sort_keys=False)
    (folder / "configs" / f"inference.{form}").write_text(text)
    (folder / "configs" / "metadata.json").write_text(json.dumps(meta))
    (folder / "configs" / "train.json").write_text("{}")
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n\nMuch text\n")
    (folder / "docs" / "README.md").write_text("# Toy\n")
    (folder / "scripts" / "__init__.py").write_text(SCRIPT)
    torch.save(state, folder / "models" / weights)
