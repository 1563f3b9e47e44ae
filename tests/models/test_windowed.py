"""A classifier of slices that sees windows only."""

from __future__ import annotations

import numpy as np
import torch

from dicom_io.cohort import Item
from dicom_io.volume import Volume
from models import networks
from models.cases import Case
from models.classification_recipe import ResNet
from models.networks import classifier
from models.predictor_parts import Windows
from models.training.classification import Windowed
from models.training.windows import Slices

WINDOWS = Windows(window_px=16, foreground_share=0.5, overlap=0.5)
SMALL = ResNet(channels=(8, 8, 16, 16), first_kernel_px=3, first_stride_px=1)


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return networks.build(classifier.definition(SMALL, 1, 2, WINDOWS)).eval()


def lopsided(slices: int = 5, rows: int = 29, columns: int = 41) -> Case:
    """A case with a tumour, off centre, in slices 1 and 2; each pixel holds its own number."""
    image = torch.arange(slices * rows * columns, dtype=torch.float32).reshape(1, slices, rows, columns)
    mask = torch.zeros(slices, rows, columns, dtype=torch.uint8)
    mask[1:3, 13:16, 18:23] = 1
    volume = Volume(image[0].numpy(), np.eye(4), "1.2", "1")
    return Case(Item(images=("a",), patient="P"), volume, image, mask.flatten(1).amax(1).long(), mask, (1.0, 1.0, 1.0))


def test_an_image_has_the_logits_of_its_most_suspicious_window() -> None:
    net = network()
    image = torch.randn(1, 1, 29, 41, generator=torch.Generator().manual_seed(1))
    rows, columns = [0, 8, 13], [0, 8, 16, 24, 25]
    windows = torch.cat([image[..., r : r + 16, c : c + 16] for r in rows for c in columns])
    with torch.inference_mode():
        one_by_one = net(windows)
        whole = net(image)
    worst = (one_by_one[:, 1] - one_by_one[:, 0]).argmax()
    torch.testing.assert_close(whole[0], one_by_one[worst])


def test_where_in_the_image_a_suspicious_window_lies_changes_nothing() -> None:
    net = network()
    pattern = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
    images = torch.zeros(2, 1, 48, 64)
    images[0, 0, :16, :16] = pattern
    images[1, 0, 32:, 40:56] = pattern
    with torch.inference_mode():
        first, second = net(images)
        empty = net(torch.zeros(1, 1, 16, 16))[0]
    alone = net(pattern[None, None])[0].detach()
    for logits in (first, second):
        assert logits[1] - logits[0] >= max(alone[1] - alone[0], empty[1] - empty[0]) - 1e-5


def test_an_image_smaller_than_the_window_is_padded() -> None:
    with torch.inference_mode():
        assert network()(torch.ones(3, 1, 9, 12)).shape == (3, 2)


def test_a_window_has_the_class_of_what_its_mask_holds() -> None:
    case = lopsided()
    draw = torch.Generator().manual_seed(5)
    images, labels = Windowed([case], WINDOWS).draw(64, draw)
    assert case.mask is not None
    inside = case.image[0][case.mask > 0]
    for image, label in zip(images, labels, strict=True):
        assert bool(torch.isin(image, inside).any()) == bool(label)
    assert 0 < labels.sum() < 64


def test_the_tumour_lies_anywhere_in_the_windows_that_hold_it() -> None:
    _, masks = Slices([lopsided()]).windows(
        Windows(window_px=16, foreground_share=1.0), 400, torch.Generator().manual_seed(6)
    )
    share = masks.float().mean(0)
    assert masks.flatten(1).amax(1).all()
    assert (share > 0).float().mean() > 0.9
