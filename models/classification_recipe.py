"""The recipe of a classifier: network, where it starts from, loss, optimiser, batches, schedule.

Which choices exclude each other is checked here, before anything is read: every message begins with the key.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from models.augmentation_recipe import Augmentation, Augmentations
from models.predictor_parts import Norm, Optimiser, Windows
from models.recipe_parts import NotNegative, PatientSchedule, Positive, Rate, RecipeBase, Settings, Share, require_grid
from models.study import StudyRule


class ResNet(Norm):
    """MONAI ResNet, two-dimensional, basic blocks. blocks, channels: per stage, four stages. dropout: before the last
    layer, in training alone."""

    kind: Literal["resnet"] = "resnet"
    blocks: tuple[Positive, Positive, Positive, Positive] = (1, 1, 1, 1)
    channels: tuple[Positive, Positive, Positive, Positive] = (16, 32, 64, 128)
    first_kernel_px: Positive = 7
    first_stride_px: Positive = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SmallCNN(Norm):
    """Convolutions of 3 px with norm, ReLU and a halving each, a mean over what is left, a hidden layer.

    channels: of the convolutions; hidden: of the layer before the last; dropout: before it, in training alone.
    """

    kind: Literal["small-cnn"]
    channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 64, 96)
    hidden: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3


class HistologyStudy(Settings):
    """The five networks of the histology study, of which it gives the number of weights and no table of layers.

    It counts 150,850, 299,618, 4,797,346, 6,310,402 and 11,296,770. Those here (`sizes`) have as many within 3 %, for
    three colours and two classes. Its pictures are small (50 px), so that the first layer does not halve them.
    """

    kind: Literal[
        "histology-cnn-151k",
        "histology-resnet-300k",
        "histology-resnet-4.8m",
        "histology-resnet-6.3m",
        "histology-resnet-11.3m",
    ]
    norm: Literal["batch", "instance", "group"] = "group"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3

    @property
    def sizes(self) -> SmallCNN | ResNet:
        """The network with its layers."""
        common = {"norm": self.norm, "dropout": self.dropout}
        if self.kind == "histology-cnn-151k":
            return SmallCNN(kind="small-cnn", channels=(48, 96, 108), hidden=128, **common)  # type: ignore[arg-type]
        blocks, channels = {
            "histology-resnet-300k": ((1, 1, 1, 1), (16, 32, 64, 124)),
            "histology-resnet-4.8m": ((1, 1, 1, 1), (64, 128, 256, 504)),
            "histology-resnet-6.3m": ((2, 2, 2, 2), (48, 96, 192, 384)),
            "histology-resnet-11.3m": ((2, 2, 2, 2), (64, 128, 256, 512)),
        }[self.kind]
        first = {"first_kernel_px": 3, "first_stride_px": 1}
        return ResNet(blocks=blocks, channels=channels, **first, **common)  # type: ignore[arg-type]


class DenseNet169(Settings):
    """MONAI DenseNet169 with batch norm. dropout: after every layer, in training alone."""

    kind: Literal["densenet169"]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class EfficientNetB0(Settings):
    """MONAI EfficientNetBN, B0, with batch norm; its own dropout of 0.2 comes before the last layer."""

    kind: Literal["efficientnet-b0"]


def _network_kind(value: Any) -> Any:
    """The kind that is named; recipes from before there was a choice name none."""
    kind = value.get("kind", "resnet") if isinstance(value, dict) else getattr(value, "kind", None)
    return "histology" if isinstance(kind, str) and kind.startswith("histology-") else kind


Networks = Annotated[
    Annotated[ResNet, Tag("resnet")]
    | Annotated[SmallCNN, Tag("small-cnn")]
    | Annotated[HistologyStudy, Tag("histology")]
    | Annotated[DenseNet169, Tag("densenet169")]
    | Annotated[EfficientNetB0, Tag("efficientnet-b0")],
    Discriminator(
        _network_kind,
        custom_error_type="kind",
        custom_error_message=(
            "it is none of resnet, small-cnn, densenet169, efficientnet-b0, histology-cnn-151k, "
            "histology-resnet-300k, -4.8m, -6.3m, -11.3m"
        ),
    ),
]


class Start(Settings):
    """Weights that a training begins with: a file of tensors, such as EfficientNet-PyTorch's of ImageNet, or model.pt
    of a version of the same network. Where the number of classes differs, the last layer begins anew.

    sha256: of the file, so that a recipe means the same weights everywhere.
    """

    weights: Annotated[str, Field(min_length=1)]
    sha256: str

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError("give the 64 hexadecimal digits that `sha256sum FILE` prints")
        return value


class Phases(Settings):
    """At first only the last layer learns, and all before it stays as it started, the statistics of its norms included;
    then the last `thawed_layers` learn with it, at `slower` times its learning rate; those before them never do.

    thawed_layers: convolutions and dense layers, each by itself, its norm with it. head_share: of the training that is
    the first phase.
    """

    head_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    thawed_layers: Positive = 6
    slower: Annotated[float, Field(gt=0, le=1)] = 0.1


class Retraining(Settings):
    """When all has learned, the last layer is fitted anew to embeddings of the training images, of which SMOTE has made
    as many of every class (`models.training.retraining`).

    neighbours: of one class, between which new embeddings lie. penalty: of the squares of the layer's weights.
    """

    neighbours: Positive = 5
    penalty: Rate = 0.01


class ClassificationLoss(Settings):
    """Cross-entropy, as a mean over the images of a batch.

    focal_gamma: images that are right already count (1 - p)^gamma of the rest (Lin 2017, equation 4); 0 is none.
    class_weights: "balanced" weighs an image by how rare its class is among the training slices, "none" does not.
    mix: alpha of the law Beta(alpha, alpha) by which pairs of images, and what is wanted of them, are mixed
    (Zhang 2018); 0 is none.
    """

    label_smoothing: Share = 0.05
    focal_gamma: NotNegative = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    mix: NotNegative = 0.0


class ClassificationSchedule(PatientSchedule):
    """plateau_reports: half the learning rate after so many reports in a row without a better validation loss; None
    leaves it to `decay`."""

    plateau_reports: Positive | None = None


class ClassificationRecipe(RecipeBase):
    """Slice or projection -> class probabilities.

    windows: None shows whole images; else the network is shown windows, a window has the largest class of its mask, and
    a slice the probabilities of its most suspicious window (needs a cohort of volumes with masks).
    batches: "balanced" draws every class as often, "all" every slice. start: None begins with random weights.
    retraining: None leaves the last layer as it learned. least_sensitivity: the threshold is the highest that calls
    this share of the positives of validation; None takes that of the best sensitivity plus specificity. study: how the
    pictures of a study speak for it.
    """

    task: Literal["classification"]
    network: Networks = ResNet()
    start: Start | None = None
    phases: Phases | None = None
    loss: ClassificationLoss = ClassificationLoss()
    optimiser: Optimiser = Optimiser()
    batches: Literal["all", "balanced"] = "all"
    augmentation: Augmentations = Augmentation()
    windows: Windows | None = None
    retraining: Retraining | None = None
    least_sensitivity: Annotated[float, Field(gt=0, le=1)] | None = None
    study: StudyRule = StudyRule()
    schedule: ClassificationSchedule

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.windows:
            require_grid(self.preprocessing, "windows are cut from the cohort's own grid")
            if not isinstance(self.network, ResNet):
                raise ValueError(f"windows: {self.network.kind} is shown whole images; take resnet, or leave it out")
            if self.retraining:
                raise ValueError("retraining: a slice has an embedding for each of its windows; leave it out")
            if self.network.dropout:
                raise ValueError("network.dropout: a network of windows has none; set it to 0")
            if self.batches == "balanced" or self.loss.class_weights == "balanced":
                raise ValueError(
                    "batches, loss.class_weights: windows are balanced by windows.foreground_share; set them to all "
                    "and none"
                )
        if self.batches == "balanced" and self.loss.class_weights == "balanced":
            raise ValueError("loss.class_weights: balanced batches weigh classes alike already; set one of the two")
        if self.phases and self.start is None:
            raise ValueError("phases: without start the frozen layers would stay random; name weights, or leave it out")
        if self.schedule.plateau_reports and self.schedule.decay != "none":
            raise ValueError("schedule.plateau_reports: the learning rate has a cosine already; set decay to none")
        return self
