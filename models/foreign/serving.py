"""A foreign model at work: our tensor in, the bundle's own chain, network and decision, and back onto the source grid.

The way back is MONAI's `Invert`, which undoes the spatial steps one by one: resampling onto the source's own affine and
shape, zeros where a crop had cut. Probabilities go back linearly and are decided on the source's grid; where the bundle
decides first, the mask goes back by nearest neighbours (`Decision.mask_is_resampled`).
"""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Invertd
from torch import Tensor, nn

from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Volume
from models import preprocessing
from models.foreign import chain
from models.foreign.origin import Foreign
from models.tensors import to_metatensor


class Way:
    """What leads from images to what the network says of them, and back."""

    def __init__(self, foreign: Foreign, network: nn.Module, inferer: Inferer) -> None:
        self._foreign = foreign
        self._network = network
        self._inferer = inferer
        self._chain = chain.build(foreign.chain)

    def prepared(self, image: MetaTensor) -> MetaTensor:
        """(C, ...) on the axes of `models.tensors` -> what the network sees."""
        return preprocessing.prepare(self._chain, chain.turned(image) if self._foreign.files_first else image)

    @torch.inference_mode()
    def segmented(self, volume: Volume) -> tuple[MetaTensor, MetaTensor]:
        """Class numbers, and the probability of any class but the background: (1, slices, rows, columns), where
        the volume lies."""
        image = self.prepared(to_metatensor(volume))
        decision = self._foreign.decision
        probabilities = decision.probabilities(self._said(image)[0])
        if decision.mask_is_resampled:
            mask = self._back(decision.mask(probabilities).float(), image, nearest=True)
            return mask, self._back(decision.foreground(probabilities), image)
        there = self._back(probabilities, image).clamp(0, 1)
        return _like(decision.mask(there.as_tensor()).float(), there), _like(
            decision.foreground(there.as_tensor()), there
        )

    @torch.inference_mode()
    def classified(self, image: Volume | Projection) -> Tensor:
        """(slices or 1, outputs) probabilities; each slice of a volume is prepared by itself."""
        tensor = to_metatensor(image)
        pictures = [tensor] if isinstance(image, Projection) else _slices(tensor, image)
        said = [self._said(self.prepared(picture)) for picture in pictures]
        return torch.stack([self._foreign.decision.probabilities(each[0]) for each in said])

    def _said(self, image: MetaTensor) -> Tensor:
        said = self._inferer(image.as_tensor()[None], self._network)
        if not isinstance(said, Tensor) or said.ndim not in (2, image.ndim + 1):
            raise Rejected(f"the network answers an image of {tuple(image.shape)} with no tensor of classes")
        return said

    def _back(self, values: Tensor, image: MetaTensor, nearest: bool = False) -> MetaTensor:
        """(K, ...) on the network's grid -> (K, slices, rows, columns) on the source's."""
        undo = Invertd("pred", self._chain, orig_keys="image", nearest_interp=nearest, to_tensor=False)
        there = undo({"image": image, "pred": MetaTensor(values)})["pred"]
        return chain.turned(there) if self._foreign.files_first else there


def _like(values: Tensor, there: MetaTensor) -> MetaTensor:
    return MetaTensor(values, affine=there.affine)


def _slices(tensor: MetaTensor, volume: Volume) -> list[MetaTensor]:
    """Each as a picture with the spacing of its pixels, as a projection would come."""
    _, down, across = volume.spacing_mm
    lies = torch.diag(torch.tensor([down, across, 1.0, 1.0], dtype=torch.float64))
    return [MetaTensor(each.clone(), affine=lies) for each in tensor.as_tensor().unbind(1)]
