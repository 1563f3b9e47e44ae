"""What a predictor says of a cohort's test split, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_io.cohort import Cohort, Item
from dicom_io.volume import Float32, Volume
from models import cases, study
from models.evaluation.segmentation import Pair
from models.predictor import Classifier, Segmenter


@dataclass(frozen=True, eq=False)
class Classed:
    """All test images: probabilities (n, classes), true classes (n,), and the item of each."""

    probabilities: Float32
    labels: npt.NDArray[np.int64]
    items: tuple[Item, ...]

    @property
    def suspicions(self) -> npt.NDArray[np.float64]:
        """(n,): of any class but the first."""
        return 1 - self.probabilities[:, 0].astype(np.float64)

    @property
    def patients(self) -> list[str]:
        return [item.patient for item in self.items]

    @property
    def studies(self) -> list[str]:
        return [study.study_of(item) for item in self.items]


def on_images(model: Classifier, cohort: Cohort) -> Classed:
    """What the model says of every test image, beside the truth."""
    rows: list[Float32] = []
    labels: list[int] = []
    items: list[Item] = []
    for case in cases.load(cohort, cohort.test, ()):
        rows.append(model.predict(case.source).probabilities)
        assert case.labels is not None
        labels += case.labels.tolist()
        items += [case.item] * len(rows[-1])
    return Classed(np.concatenate(rows), np.array(labels), tuple(items))


def on_volumes(model: Segmenter, cohort: Cohort) -> list[Pair]:
    """The mask of every test volume, beside the true one."""
    pairs = []
    for case in cases.load(cohort, cohort.test, model.model.model_input):
        assert isinstance(case.source, Volume) and case.mask is not None
        found = model.predict(case.source).mask.voxels > 0
        pairs.append(Pair(case.patient, found, case.mask.numpy() > 0, case.source.spacing_mm))
    return pairs
