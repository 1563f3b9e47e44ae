"""Contours to masks: closed forms, holes, oblique planes, and refusals (real masks: test_nifti)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from skimage.measure import points_in_poly

from dicom_io.errors import Rejected
from dicom_io.structure_set import mask, polygon, roi_names
from dicom_io.volume import Volume


@pytest.fixture
def grid(make) -> Volume:
    return Volume(np.zeros((5, 30, 24), np.float32), make.affine, "2.25.773", "1")


def _structure_set(grid: Volume, name: str, *contours: np.ndarray, frame: str = "2.25.773") -> Dataset:
    """contours: (n, 3) of (slice, row, column) indices."""
    region, drawn, ds = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = 4, name, frame
    drawn.ReferencedROINumber, drawn.ContourSequence = 4, []
    for contour in contours:
        item = Dataset()
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.ContourData = [round(float(x), 8) for point in contour for x in grid.position_mm(point)]
        drawn.ContourSequence.append(item)
    ds.SOPInstanceUID, ds.StructureSetROISequence, ds.ROIContourSequence = "2.25.4", [region], [drawn]
    return ds


def _box(number: float, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    return np.array(
        [(number, low[0], low[1]), (number, low[0], high[1]), (number, high[0], high[1]), (number, high[0], low[1])]
    )


def test_a_box_on_one_oblique_slice_fills_the_voxels_whose_centres_it_holds(grid):
    drawn = mask(_structure_set(grid, "GTV", _box(3, (4.5, 2.5), (20.5, 9.5))), "GTV", grid)

    expected = np.zeros((5, 30, 24))
    expected[3, 5:21, 3:10] = 1
    np.testing.assert_array_equal(drawn.voxels, expected)
    assert drawn.units == "1"


def test_an_inner_contour_is_a_hole_and_an_island_in_it_is_filled(grid):
    contours = [_box(1, (2.5, 2.5), (22.5, 20.5)), _box(1, (6.5, 5.5), (18.5, 16.5)), _box(1, (9.5, 8.5), (12.5, 11.5))]

    drawn = mask(_structure_set(grid, "GTV", *contours), "GTV", grid).voxels[1]

    assert drawn.sum() == 20 * 18 - 12 * 11 + 3 * 3
    assert (drawn[4, 4], drawn[8, 7], drawn[10, 10]) == (1, 0, 1)


def test_a_keyhole_contour_leaves_its_hole_open(grid):
    outer, inner = _box(2, (2.5, 2.5), (22.5, 20.5)), _box(2, (6.5, 5.5), (18.5, 16.5))
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1], inner[:1], outer[:1]])

    drawn = mask(_structure_set(grid, "GTV", keyhole), "GTV", grid).voxels[2]

    assert drawn.sum() == 20 * 18 - 12 * 11


def test_two_regions_that_share_an_edge_share_no_voxel_and_leave_none_out():
    left = polygon(np.array([(1.3, 2.2), (1.3, 7.0), (12.7, 11.0), (12.7, 2.2)]), 15, 18)
    right = polygon(np.array([(1.3, 7.0), (1.3, 15.6), (12.7, 15.6), (12.7, 11.0)]), 15, 18)
    both = polygon(np.array([(1.3, 2.2), (1.3, 15.6), (12.7, 15.6), (12.7, 2.2)]), 15, 18)

    assert not (left & right).any()
    np.testing.assert_array_equal(left | right, both)


def test_a_large_circle_has_its_area():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.c_[100 + 80.3 * np.sin(angle), 120 + 80.3 * np.cos(angle)]

    assert polygon(circle, 210, 230).sum() == pytest.approx(np.pi * 80.3**2, rel=2e-3)


# Training in the same process lets torch flush denormals, so none are drawn.
COORDINATE = st.floats(-5, 20, allow_subnormal=False)


@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9))
def test_filling_agrees_with_asking_for_each_centre(vertices):
    """Oracle: scikit-image's point in polygon; centres within a thousandth of an edge may go either way."""
    points = np.array(vertices)
    rows, columns = np.mgrid[:15, :11]
    centres = np.c_[rows.ravel(), columns.ravel()]
    away = _distance_to_edges(centres, points) > 1e-3

    ours = polygon(points, 15, 11).ravel()

    np.testing.assert_array_equal(ours[away], points_in_poly(centres, points)[away])


def _distance_to_edges(centres: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    start, edge = vertices, np.roll(vertices, -1, axis=0) - vertices
    length = np.maximum((edge**2).sum(1), 1e-30)
    along = np.clip(((centres[:, None] - start) * edge).sum(2) / length, 0, 1)
    return np.linalg.norm(centres[:, None] - start - along[..., None] * edge, axis=2).min(1)


def test_a_contour_that_reaches_out_of_the_picture_is_cut_there(grid):
    drawn = mask(_structure_set(grid, "GTV", _box(0, (-8, 15.5), (3.5, 60))), "GTV", grid).voxels[0]

    assert drawn.sum() == 4 * 8


@pytest.mark.parametrize("number", [2.5, -1, 5, 1.3])
def test_a_contour_between_or_beyond_the_slices_is_refused(grid, number):
    with pytest.raises(Rejected, match="give the image that it was drawn on"):
        mask(_structure_set(grid, "GTV", _box(number, (2, 2), (9, 9))), "GTV", grid)


def test_points_that_are_no_numbers_are_refused_with_their_text(grid):
    ds = _structure_set(grid, "GTV", _box(1, (2, 2), (9, 9)))
    ds.ROIContourSequence[0].ContourSequence[0]["ContourData"]._value = ["1.0", "2.0", "x"]

    with pytest.raises(Rejected, match=r"points cannot be read .*'x'"):
        mask(ds, "GTV", grid)


def test_another_frame_of_reference_is_refused(grid):
    ds = _structure_set(grid, "GTV", _box(1, (2, 2), (9, 9)), frame="2.25.9")

    with pytest.raises(Rejected, match=r"lies in frame of reference 2\.25\.9, the image in 2\.25\.773"):
        mask(ds, "GTV", grid)


def test_an_unknown_region_is_refused_with_those_that_are_there(grid):
    ds = _structure_set(grid, "GTV", _box(1, (2, 2), (9, 9)))

    with pytest.raises(Rejected, match="has no region 'PTV'; it has GTV"):
        mask(ds, "PTV", grid)
    assert roi_names(ds) == ("GTV",)


def test_a_region_of_points_alone_is_refused(grid):
    ds = _structure_set(grid, "GTV", _box(1, (2, 2), (9, 9)))
    ds.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"

    with pytest.raises(Rejected, match="has no closed contour"):
        mask(ds, "GTV", grid)
