"""Multi-frame objects and mosaics come out as the volumes that single-frame images of the same slices give."""

from __future__ import annotations

import numpy as np
import pytest
from made_frames import enhanced, item
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from dicom_io import frames
from dicom_io.errors import DuplicatePositions, MissingAttribute, Rejected
from dicom_io.series import Slice, group, stack, volumes

SHUFFLED = (3, 0, 4, 1, 2)


def test_an_enhanced_object_gives_the_volume_of_its_single_frames(make):
    images = make.series("CT", RescaleSlope=0.5, RescaleIntercept=-37.5)
    alone = stack(make.slices(images))

    (one,) = group(make.slices([enhanced([images[n] for n in SHUFFLED], "2.25.9")]))
    volume = stack(one.slices)

    np.testing.assert_array_equal(volume.voxels, alone.voxels)
    np.testing.assert_allclose(volume.affine, make.affine, atol=1e-8)
    assert volume.units == "[hnsf'U]"
    assert [source.frame for source in volume.sources] == [SHUFFLED.index(n) + 1 for n in range(5)]
    assert {source.sop_instance_uid for source in volume.sources} == {"2.25.9"}


def test_each_frame_has_its_own_rescale(make):
    images = make.series("CT")
    for number, image in enumerate(images):
        image.RescaleSlope = 1 + number
    voxels = stack(make.slices([enhanced(images, "2.25.9")])).voxels

    expected = make.voxels() * np.arange(1, 6)[:, None, None] - 1024.0
    np.testing.assert_array_equal(voxels, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("macro", "keyword", "values", "split_by"),
    [
        ("MREchoSequence", "EffectiveEchoTime", (4.6, 9.2), ("EchoTime", "9.2")),
        ("FrameContentSequence", "TemporalPositionIndex", (1, 2), ("TemporalPositionIdentifier", "2")),
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 1000.0), ("DiffusionBValue", "1000")),
        (
            "MRImageFrameTypeSequence",
            "ComplexImageComponent",
            ("MAGNITUDE", "PHASE"),
            ("ComplexImageComponent", "PHASE"),
        ),
        (
            "CardiacSynchronizationSequence",
            "NominalCardiacTriggerDelayTime",
            (0.0, 85.5),
            ("TriggerTime", "85.5"),
        ),
    ],
)
def test_frames_at_one_place_are_told_apart_and_what_did_it_is_named(make, macro, keyword, values, split_by):
    first, second = make.series(seed=1), make.series(seed=2)
    several = [image for pair in zip(first, second, strict=True) for image in pair]
    ds = enhanced(several, "2.25.9", **{f"{macro}__{keyword}": [*values] * 5})

    one, other = group(make.slices([ds]))

    assert other.split_by == (split_by,)
    np.testing.assert_array_equal(stack(one.slices).voxels, make.voxels(1))
    np.testing.assert_array_equal(stack(other.slices).voxels, make.voxels(2))


def test_directions_of_diffusion_at_several_b_values_are_told_apart_together(make):
    weights = [(0.0, None), (700.0, [1.0, 0.0, 0.0]), (700.0, [0.0, 0.6, 0.8])]
    images = [image for seed in range(3) for image in make.series(seed=seed)]
    ds = enhanced(images, "2.25.9")
    for number, group_item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        b_value, direction = weights[number // 5]
        diffusion = item(DiffusionBValue=b_value)
        if direction:
            diffusion.DiffusionGradientDirectionSequence = [item(DiffusionGradientOrientation=direction)]
        group_item.MRDiffusionSequence = [diffusion]

    groups = group(make.slices([ds]))

    assert [one.part for one in groups] == [f"b-value and direction {n} of 3" for n in (1, 2, 3)]
    assert dict(groups[0].split_by)["DiffusionGradientOrientation"] == "absent"
    assert dict(groups[1].split_by) == {"DiffusionBValue": "700", "DiffusionGradientOrientation": "0\\0.6\\0.8"}
    np.testing.assert_array_equal(stack(groups[2].slices).voxels, make.voxels(1))


def test_tomosynthesis_becomes_a_volume_of_slices(make, tmp_path):
    images = make.series("MG")
    folder = make.folder([enhanced(images, "2.25.9")], tmp_path)

    readout = volumes([folder])

    assert (readout.projections, readout.refused) == ((), ())
    (one,) = readout.volumes
    assert (one.modality, one.volume.units) == ("MG", "1")
    np.testing.assert_array_equal(one.volume.voxels, make.voxels())


def test_frames_of_a_compressed_object_are_decoded_one_by_one(make):
    images = make.series("MR")
    ds = enhanced(images, "2.25.9")
    ds.compress(RLELossless)

    np.testing.assert_array_equal(stack(make.slices([ds])).voxels, make.voxels())


def test_headers_of_frames_are_apart_from_each_other_and_hold_no_pixels(make, tmp_path):
    folder = make.folder([enhanced(make.series("MR"), "2.25.9")], tmp_path)
    (one,) = volumes([folder]).volumes

    positions = {tuple(header.ImagePositionPatient) for header in one.datasets}
    assert len(positions) == 5
    for header in one.datasets:
        assert header.SOPInstanceUID == "2.25.9" and header.NumberOfFrames == 5
        assert "PixelData" not in header and "PerFrameFunctionalGroupsSequence" not in header


def test_fewer_functional_groups_than_frames_are_refused(make):
    ds = enhanced(make.series("MR"), "2.25.9")
    del ds.PerFrameFunctionalGroupsSequence[4]

    with pytest.raises(Rejected, match=r"has 4 items of Per-Frame Functional Groups \(5200,9230\) for 5 frames"):
        stack(make.slices([ds]))


def test_a_frame_without_a_position_is_refused(make):
    ds = enhanced(make.series("MR"), "2.25.9")
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence

    with pytest.raises(MissingAttribute, match="no usable ImagePositionPatient"):
        stack(make.slices([ds]))


def test_equal_frames_at_one_place_are_refused(make):
    image = make.series("MR")[0]

    with pytest.raises(DuplicatePositions, match="2 slices lie at"):
        group(make.slices([enhanced([image, image], "2.25.9")]))


# Mosaics


def mosaic(make, tiles: int = 5, *, normal: int = 1, number: int | None = None) -> Dataset:
    """`make.series()` as tiles of a 3 x 3 picture, the first one at the end that `normal` comes from."""
    voxels = make.voxels()[:tiles]
    _, rows, columns = voxels.shape
    across, down, along = make.turn.T
    pixels = np.zeros((3 * rows, 3 * columns), np.int16)
    order = range(tiles) if normal == 1 else range(tiles - 1, -1, -1)
    for place, index in enumerate(order):
        row, column = divmod(place, 3)
        pixels[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = voxels[index]
    first = make.origin_mm + order[0] * make.step_mm * along
    corner = first - down * make.down_mm * rows - across * make.across_mm * columns  # (3 n - n) / 2 tiles further out
    ds = make.image(
        pixels,
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        FrameOfReferenceUID="2.25.773",
        ImageOrientationPatient=[round(float(x), 10) for x in (*across, *down)],
        ImagePositionPatient=[round(float(x), 9) for x in corner],
        PixelSpacing=[make.down_mm, make.across_mm],
        SpacingBetweenSlices=make.step_mm,
    )
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", number or tiles)
    csa = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    csa.add_new(0x10, "OB", csa_header({"SliceNormalVector": [f"{normal * x:.8f}" for x in along]}))
    return ds


def csa_header(tags: dict[str, list[str]]) -> bytes:
    """A CSA2 header ("SV10") as Siemens writes it, for nibabel to read."""
    raw = b"SV10\4\3\2\1" + np.array([len(tags), 77], "<u4").tobytes()
    for name, values in tags.items():
        raw += name.encode().ljust(64, b"\0") + np.array([len(values)], "<i4").tobytes() + b"FD\0\0"
        raw += np.array([3, len(values), 77], "<i4").tobytes()
        for value in values:
            text = value.encode() + b"\0"
            raw += np.array([len(text), len(text), 77, len(text)], "<i4").tobytes()
            raw += text + b"\0" * (-len(text) % 4)
    return raw


@pytest.mark.parametrize("normal", [1, -1])
def test_tiles_of_an_oblique_mosaic_lie_where_single_slices_would(make, normal):
    volume = stack(make.slices([mosaic(make, normal=normal)]))

    np.testing.assert_array_equal(volume.voxels, make.voxels())
    np.testing.assert_allclose(volume.affine, make.affine, atol=1e-5)
    assert [source.frame for source in volume.sources] == ([1, 2, 3, 4, 5] if normal == 1 else [5, 4, 3, 2, 1])


def test_a_mosaic_that_does_not_say_how_it_is_laid_out_is_refused(make):
    without_csa, without_number = mosaic(make), mosaic(make)
    without_csa.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value = b""
    del without_number[0x0019, 0x100A]

    with pytest.raises(MissingAttribute, match=r"without its CSA header \(0029,xx10\)"):
        stack(make.slices([without_csa]))
    with pytest.raises(MissingAttribute, match="does not say of how many tiles"):
        stack(make.slices([without_number]))
    with pytest.raises(Rejected, match="17 tiles do not fit a picture of 21 x 12"):
        stack(make.slices([mosaic(make, number=17)]))


def test_two_mosaics_are_two_time_points(make):
    first, second = mosaic(make), mosaic(make)
    first.AcquisitionTime, second.AcquisitionTime = "101500", "101502"

    groups = group(make.slices([second, first]))

    assert [one.part for one in groups] == ["time 1 of 2", "time 2 of 2"]
    assert groups[0].slices[0].source.sop_instance_uid == first.SOPInstanceUID


def test_taking_apart_twice_changes_nothing(make):
    once = frames.taken_apart(make.slices([enhanced(make.series("MR"), "2.25.9")]))

    assert frames.taken_apart(once) == once
    assert all(isinstance(one, Slice) for one in once)


# Odd objects


def test_stacks_beside_each_other_are_volumes_of_their_own(make):
    near, far = make.series(seed=1), make.series(seed=2)
    for image in far:
        image.ImagePositionPatient = [
            float(x) + 60 * float(n) for x, n in zip(image.ImagePositionPatient, make.turn.T[2], strict=True)
        ]
    ds = enhanced([*near, *far], "2.25.9", FrameContentSequence__StackID=["1"] * 5 + ["2"] * 5)

    one, other = group(make.slices([ds]))

    np.testing.assert_array_equal(stack(one.slices).voxels, make.voxels(1))
    np.testing.assert_array_equal(stack(other.slices).voxels, make.voxels(2))


def test_part_of_a_concatenation_is_not_taken_for_the_whole(make):
    images = make.series("MR")
    parts = [enhanced(images[:3], "2.25.9"), enhanced(images[3:], "2.25.10")]
    for part in parts:
        part.ConcatenationUID, part.InConcatenationTotalNumber = "2.25.11", 2

    np.testing.assert_array_equal(stack(make.slices(parts)).voxels, make.voxels())
    with pytest.raises(Rejected, match=r"1 of 2 instances of concatenation 2\.25\.11 are there; send the others"):
        stack(make.slices(parts[:1]))


def test_a_group_cannot_change_which_instance_a_frame_is_of(make):
    ds = enhanced(make.series("MR"), "2.25.9")
    ds.PerFrameFunctionalGroupsSequence[1].UnassignedPerFrameConvertedAttributesSequence = [
        item(SOPInstanceUID="1.2.3", Rows=1, EchoTime=4.6)
    ]

    slices = frames.taken_apart(make.slices([ds]))

    assert {one.source.sop_instance_uid for one in slices} == {"2.25.9"}
    assert (slices[1].get("Rows"), slices[1].get("EchoTime")) == (7, 4.6)


def test_real_world_values_of_frames_are_found(make):
    mapping = item(RealWorldValueSlope=0.5, RealWorldValueIntercept=1.0)
    mapping.MeasurementUnitsCodeSequence = [item(CodeValue="ms", CodingSchemeDesignator="UCUM", CodeMeaning="ms")]
    ds = enhanced(make.series("MR"), "2.25.9")
    for group_item in ds.PerFrameFunctionalGroupsSequence:
        group_item.RealWorldValueMappingSequence = [mapping]

    volume = stack(make.slices([ds]), scaled_by="real-world")

    assert volume.units == "ms"
    np.testing.assert_array_equal(volume.voxels, make.voxels() * np.float32(0.5) + 1)


def test_a_view_beside_a_tomosynthesis_is_read_whichever_comes_first(make, tmp_path):
    view = make.image(make.voxels()[0], "MG", SeriesInstanceUID="2.25.772")
    tomosynthesis = enhanced(make.series("MG"), "2.25.9")
    for number, order in enumerate(((view, tomosynthesis), (tomosynthesis, view))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, ds in zip("ab", order, strict=True):
            (folder / name).write_bytes(make.bytes(ds))
        readout = volumes([folder])
        assert (len(readout.volumes), len(readout.projections), readout.refused) == (1, 1, ())
