"""The last layer of a classifier, fitted anew to what the layers before it make of the training images (Kang 2020).

Of rare classes SMOTE makes as many embeddings as the most frequent class has, between neighbours of one class (Chawla
2002): between pictures it would make pictures of no patient. Validation and test images are never among them.
"""

# torch leaves Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from imblearn.over_sampling import SMOTE
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models.cases import Case
from models.classification_recipe import Retraining
from models.networks.classifier import last_layer

Float64 = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


def retrain(network: nn.Module, training: Sequence[Case], cohort: Cohort, settings: Retraining, seed: int) -> int:
    """Give the network its new last layer; how many embeddings SMOTE made.

    Raises:
        Rejected: an image is not of the training split, or a class has too few images.
    """
    require_of_training(training, cohort)
    values = embeddings(network, training)
    labels = np.concatenate([case.labels.numpy() for case in training if case.labels is not None])
    more, their = balanced(values, labels, cohort.labels, settings.neighbours, seed)
    weight, bias = fitted(more, their, settings.penalty)
    layer = network.get_submodule(last_layer(network))
    with torch.no_grad():
        for parameter, value in ((layer.weight, weight), (layer.bias, bias)):
            assert isinstance(parameter, Tensor)
            parameter.copy_(torch.from_numpy(value))
    return len(more) - len(values)


def require_of_training(training: Sequence[Case], cohort: Cohort) -> None:
    """Raises Rejected where an image is not of the training split: embeddings made of it would carry it there."""
    own = {item.images for item in cohort.training}
    for case in training:
        if case.item.images not in own:
            raise Rejected(
                f"cohort {cohort.name!r}: {case.item.images[0]} is not of the training split; SMOTE makes embeddings "
                "of training images alone"
            )


@torch.inference_mode()
def embeddings(network: nn.Module, found: Sequence[Case]) -> Float64:
    """(n, features): what the last layer is given, picture after picture."""
    given: list[Tensor] = []
    layer = network.get_submodule(last_layer(network))
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].float().cpu()))
    where = next(network.parameters()).device
    network.eval()
    try:
        for case in found:
            for batch in case.image.transpose(0, 1).split(64):
                network(batch.to(where))
    finally:
        hook.remove()
    return torch.cat(given).double().numpy()


def balanced(
    values: Float64, labels: Numbers, names: Sequence[str], neighbours: int, seed: int
) -> tuple[Float64, Numbers]:
    """The embeddings and their labels, with those of SMOTE behind them: every class as often.

    Raises:
        Rejected: a class has no more images than `neighbours`.
    """
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() <= neighbours:
        rare = int(counts.argmin())
        raise Rejected(
            f"retraining.neighbours: {names[rare]!r} has {counts[rare]} training images, and each needs {neighbours} "
            "others; take fewer neighbours, or leave retraining out"
        )
    more, their = SMOTE(k_neighbors=neighbours, random_state=seed % 2**32).fit_resample(values, labels)
    return np.asarray(more, np.float64), np.asarray(their, np.int64)


def fitted(values: Float64, labels: Numbers, penalty: float) -> tuple[Float64, Float64]:
    """Weight (classes, features) and bias (classes,) of the logistic regression of least cross-entropy, as a mean over
    embeddings, plus half `penalty` times the squared weights of standardised features."""
    scale = StandardScaler().fit(values)
    model = LogisticRegression(C=1 / (penalty * len(values)), max_iter=2000).fit(scale.transform(values), labels)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # One row tells two classes apart; half of it each way says the same.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale.scale_
    return weight, bias - weight @ scale.mean_
