"""b-values and directions where each maker keeps them, parsed or as bytes."""

from __future__ import annotations

import struct

import pytest
from pydicom.dataset import Dataset

from dicom_io import diffusion, magnetic_resonance


def private(group: int, creator: str, **elements: tuple[str, object]) -> Dataset:
    ds = Dataset()
    block = ds.private_block(group, creator, create=True)
    for element, (vr, value) in elements.items():
        block.add_new(int(element.removeprefix("x"), 16), vr, value)
    return ds


@pytest.mark.parametrize(
    ("ds", "b_value"),
    [
        (private(0x0019, "SIEMENS MR HEADER", x0C=("IS", 1000)), 1000),
        (private(0x0019, "SIEMENS MR HEADER", x0C=("UN", b"750 ")), 750),
        (private(0x0043, "GEMS_PARM_01", x39=("IS", [1000000800, 8, 0, 0])), 800),
        (private(0x0043, "GEMS_PARM_01", x39=("UN", b"600\\8\\0\\0 ")), 600),
        (private(0x2001, "Philips Imaging DD 001", x03=("FL", 500.0)), 500),
        (private(0x2001, "Philips Imaging DD 001", x03=("UN", struct.pack("<f", 400.0))), 400),
        (private(0x0065, "Image Private Header", x09=("FD", 1200.0)), 1200),
        (private(0x0019, "GEMS_ACQU_01", xBB=("DS", 0.5)), None),
        (private(0x2001, "Philips Imaging DD 001", x03=("UN", b"\0")), None),
    ],
)
def test_each_makers_b_value_is_found(ds, b_value):
    assert diffusion.b_value(ds) == b_value


def test_the_standards_b_value_comes_before_the_makers():
    ds = private(0x0019, "SIEMENS MR HEADER", x0C=("IS", 1000))
    ds.DiffusionBValue = 50.0

    assert diffusion.b_value(ds) == 50


@pytest.mark.parametrize(
    "ds",
    [
        private(0x0019, "SIEMENS MR HEADER", x0E=("FD", [0.6, 0.0, -0.8])),
        private(0x0019, "SIEMENS MR HEADER", x0E=("UN", struct.pack("<3d", 0.6, 0, -0.8))),
        private(0x0065, "Image Private Header", x37=("FD", [0.6, 0.0, -0.8])),
        private(0x0019, "GEMS_ACQU_01", xBB=("DS", 0.6), xBC=("DS", 0), xBD=("DS", -0.8)),
    ],
)
def test_each_makers_direction_is_found(ds):
    assert diffusion.direction(ds) == (0.6, 0, -0.8)


@pytest.mark.parametrize(
    ("image_type", "component"),
    [
        (["ORIGINAL", "PRIMARY", "P", "ND"], "PHASE"),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "MAGNITUDE"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "PHASE"),
        (["ORIGINAL", "PRIMARY", "OTHER"], None),
        (["M", "P"], None),
    ],
)
def test_the_component_is_read_off_image_type(image_type, component):
    ds = Dataset()
    ds.ImageType = image_type

    assert magnetic_resonance.component(ds) == component


def test_ges_component_is_a_number():
    assert magnetic_resonance.component(private(0x0043, "GEMS_PARM_01", x2F=("SS", 3))) == "IMAGINARY"
    assert magnetic_resonance.component(private(0x0043, "GEMS_PARM_01", x2F=("UN", b"\1\0"))) == "PHASE"
