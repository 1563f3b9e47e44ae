"""Folders to files: what comes out, what is said of the rest, and what a second run does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from dicom_io import conversion, nifti
from dicom_io.conversion import Options
from dicom_io.errors import Rejected


@pytest.fixture
def study(make, tmp_path) -> Path:
    """An MR, a CT of two echoes that no attribute tells apart, and a text file."""
    folder = tmp_path / "study"
    make.folder(make.series("MR", SeriesDescription="T1 | axial"), folder / "mr")
    doubtful = [make.series("CT", SeriesInstanceUID="2.25.774", InstanceNumber=1)[0] for _ in range(2)]
    make.folder(doubtful, folder / "ct")
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def structure_set(make, *points_mm: np.ndarray) -> Dataset:
    """Region `lesion: left` of one polygon, on the series of `make.series()`."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, make.uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.Modality, ds.SeriesInstanceUID, ds.StudyInstanceUID = "RTSTRUCT", "2.25.7799", "2.25.771"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = "2.25.772"
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = "2.25.773", [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    region, contours, contour = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = 1, "lesion: left", "2.25.773"
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points_mm)
    contour.ContourData = [round(float(value), 6) for point in points_mm for value in point]
    contours.ReferencedROINumber, contours.ContourSequence = 1, [contour]
    ds.StructureSetROISequence, ds.ROIContourSequence = [region], [contours]
    return ds


def test_what_is_converted_refused_and_left_aside_is_in_the_report(make, study, tmp_path):
    report = conversion.convert([study], tmp_path / "out")

    by_status = {row.status: row for row in report.rows}
    assert [report.count(status) for status in ("converted", "split", "refused", "left aside")] == [1, 0, 1, 1]
    assert "2 slices lie at" in by_status["refused"].why and by_status["refused"].series_uid == "2.25.774"
    assert by_status["left aside"].file.endswith("notes.txt") and "no DICOM file" in by_status["left aside"].why
    converted = by_status["converted"]
    assert (converted.modality, converted.description) == ("MR", "T1 | axial")
    volume = nifti.read(tmp_path / "out" / converted.image)
    np.testing.assert_array_equal(volume.voxels, make.voxels())
    np.testing.assert_allclose(volume.affine, make.affine, atol=1e-8)
    assert json.loads((tmp_path / "out/report.json").read_text())[0]["series_uid"] == "2.25.772"


def test_the_data_list_is_monais(study, tmp_path):
    conversion.convert([study], tmp_path / "out")

    (entry,) = load_decathlon_datalist(tmp_path / "out/datalist.json", True, "training", tmp_path / "out")
    assert Path(entry["image"]).is_file()
    assert (entry["modality"], entry["shape"], entry["units"]) == ("MR", [5, 7, 4], "1")


def test_the_parts_of_a_series_say_what_they_were_split_by(make, tmp_path):
    images = [image for time in (2.3, 4.6) for image in make.series(EchoTime=time, seed=int(time))]
    report = conversion.convert([make.folder(images, tmp_path / "in")], tmp_path / "out")

    assert [(row.status, row.split_by) for row in report.rows] == [
        ("split", (("EchoTime", "2.3"),)),
        ("split", (("EchoTime", "4.6"),)),
    ]
    assert len({row.image for row in report.rows}) == 2


def test_slices_come_as_an_array_to_be_mapped(make, tmp_path):
    folder = make.folder(make.series(), tmp_path / "in")
    (row,) = conversion.convert([folder], tmp_path / "out", Options(slices=True)).rows

    mapped = np.load(tmp_path / "out" / row.details["slices"], mmap_mode="r")
    assert isinstance(mapped, np.memmap) and mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, make.voxels())


def test_a_region_that_refers_to_the_series_comes_on_its_grid(make, tmp_path):
    corners = [(2, 0.5, 0.5), (2, 0.5, 2.5), (2, 4.5, 2.5), (2, 4.5, 0.5)]  # (slice, row, column)
    points = [(make.affine @ [*corner, 1])[:3] for corner in corners]
    folder = make.folder([*make.series(), structure_set(make, *points)], tmp_path / "in")

    report = conversion.convert([folder], tmp_path / "out")

    image, mask = (next(row for row in report.rows if row.status == status) for status in ("converted", "mask"))
    assert (mask.description, mask.details["of"]) == ("lesion: left", image.image)
    volume, found = (nifti.read(tmp_path / "out" / row.image) for row in (image, mask))
    assert found.same_grid_as(volume)
    expected = np.zeros(make.shape)
    expected[2, 1:5, 1:3] = 1
    np.testing.assert_array_equal(found.voxels, expected)
    (entry,) = json.loads((tmp_path / "out/datalist.json").read_text())["training"]
    assert entry["masks"] == {"lesion: left": mask.image}


def test_a_region_off_the_slices_is_a_refusal_and_the_image_is_there(make, tmp_path):
    points = [(make.affine @ [2.5, row, column, 1])[:3] for row, column in ((1, 1), (1, 3), (4, 3))]
    folder = make.folder([*make.series(), structure_set(make, *points)], tmp_path / "in")

    report = conversion.convert([folder], tmp_path / "out")

    assert [row.status for row in report.rows] == ["refused", "converted"]
    assert "off slice" in report.rows[0].why


def test_a_second_run_converts_only_what_has_changed(make, study, tmp_path):
    out = tmp_path / "out"
    conversion.convert([study], out)
    image = next((out / "volumes").glob("*.nii.gz"))
    before = image.stat().st_mtime_ns

    assert conversion.convert([study], out).resumed == 2
    assert image.stat().st_mtime_ns == before

    make.folder(make.series("CT", SeriesInstanceUID="2.25.779"), study / "more")
    again = conversion.convert([study], out)
    assert (again.resumed, again.count("converted")) == (2, 2)

    assert conversion.convert([study], out, Options(slices=True)).resumed == 0

    image.unlink()
    assert conversion.convert([study], out, Options(slices=True)).resumed == 2
    assert image.is_file()


def test_what_an_earlier_run_made_of_the_same_series_does_not_stay(make, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for time in (2.3, 4.6):
        make.folder(make.series(EchoTime=time), folder / f"{time}")
    conversion.convert([folder], out)
    for path in (folder / "4.6").iterdir():
        path.unlink()

    (row,) = conversion.convert([folder], out).rows

    assert row.status == "converted"
    assert [path.name for path in (out / "volumes").iterdir() if path.name.endswith(".gz")] == [Path(row.image).name]


def test_series_side_by_side_give_what_they_give_alone(make, tmp_path):
    folder = tmp_path / "in"
    for number in range(3):
        make.folder(make.series("CT", SeriesInstanceUID=f"2.25.78{number}", seed=number), folder / str(number))

    alone = conversion.convert([folder], tmp_path / "alone")
    several = conversion.convert([folder], tmp_path / "several", processes=2)

    assert several.rows == alone.rows
    for row in alone.rows:
        assert (tmp_path / "several" / row.image).read_bytes() == (tmp_path / "alone" / row.image).read_bytes()


def test_one_series_comes_onto_the_grid_of_another(make, tmp_path):
    first = make.series("CT", RescaleIntercept=0)
    coarse = make.series("CT", seed=1, SeriesInstanceUID="2.25.774", PixelSpacing=[1.5, 2.6], RescaleIntercept=0)
    elsewhere = make.series("MR", SeriesInstanceUID="2.25.775", FrameOfReferenceUID="2.25.7")
    folder = make.folder([*first, *coarse, *elsewhere], tmp_path / "in")

    report = conversion.convert([folder], tmp_path / "out", Options(onto="2.25.774"))

    rows = {row.series_uid: row for row in report.rows}
    assert rows["2.25.772"].details["resampled_onto"] == "2.25.774"
    volumes = [nifti.read(tmp_path / "out" / rows[uid].image) for uid in ("2.25.772", "2.25.774")]
    assert volumes[0].same_grid_as(volumes[1])
    # Each second voxel's centre is that of a coarse one.
    np.testing.assert_allclose(volumes[0].voxels[:, :4, :2], make.voxels()[:, ::2, ::2] * 2.0, rtol=1e-4, atol=1e-2)
    assert rows["2.25.775"].status == "refused"
    assert "frame of reference 2.25.7, the grid in 2.25.773; register them first" in rows["2.25.775"].why


def test_a_grid_of_no_series_is_refused(study, tmp_path):
    with pytest.raises(Rejected, match=r"series 2\.25\.1 is not among the 2 series"):
        conversion.convert([study], tmp_path / "out", Options(onto="2.25.1"))


def test_real_segmentations_and_regions_come_with_their_images(test_data, tmp_path):
    report = conversion.convert([test_data / "mr-breast-dce", test_data / "pet-suv-sarcoma/STS_003"], tmp_path)

    masks = {row.description: row for row in report.rows if row.status == "mask"}
    published = nifti.mask_on(
        test_data / "pet-suv-sarcoma/STS_003/PET_mask.nii.gz",
        nifti.read(tmp_path / next(row.image for row in report.rows if row.modality == "PT")),
    )
    of_pet = [row for row in masks.values() if row.details["of"].startswith("volumes/PT")]
    assert of_pet
    found = nifti.read(tmp_path / of_pet[0].image).voxels > 0
    dice = 2 * (found & (published.voxels > 0)).sum() / (found.sum() + published.voxels.sum())
    assert dice >= 0.98
    assert report.count("split") == 3
