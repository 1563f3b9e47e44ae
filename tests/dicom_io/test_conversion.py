"""Folders to files: what comes out, what is said of the rest, and what a second run does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
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


def structure_set(make, *points_mm: np.ndarray, regions: Sequence[str] = ("lesion: left",)) -> Dataset:
    """Regions, all of the same polygon, on the series of `make.series()`; those named "point" are no polygons."""
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
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, name in enumerate(regions, start=1):
        region, contours, contour = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = number, name, "2.25.773"
        contour.ContourGeometricType = "POINT" if name == "point" else "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points_mm)
        contour.ContourData = [round(float(value), 6) for point in points_mm for value in point]
        contours.ReferencedROINumber, contours.ContourSequence = number, [contour]
        ds.StructureSetROISequence.append(region)
        ds.ROIContourSequence.append(contours)
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
    assert entry["masks"] == [{"label": "lesion: left", "image": mask.image}]


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


def corners(make, slice_index: float = 2) -> list[np.ndarray]:
    places = [(slice_index, 0.5, 0.5), (slice_index, 0.5, 2.5), (slice_index, 4.5, 2.5), (slice_index, 4.5, 0.5)]
    return [(make.affine @ [*place, 1])[:3] for place in places]


def test_a_region_that_cannot_be_drawn_stops_no_other_and_equal_names_are_two_masks(make, tmp_path):
    ds = structure_set(make, *corners(make), regions=("point", "GTV", "GTV", "gtv"))
    report = conversion.convert([make.folder([*make.series(), ds], tmp_path / "in")], tmp_path / "out")

    assert report.count("refused") == 1
    masks = [row for row in report.rows if row.status == "mask"]
    assert sorted(row.description for row in masks) == ["GTV", "GTV", "gtv"]
    assert len({row.image.lower() for row in masks}) == 3


def test_a_structure_set_of_something_else_is_a_row(make, tmp_path):
    ds = structure_set(make, *corners(make))
    folder = make.folder([*make.series(SeriesInstanceUID="2.25.7790"), ds], tmp_path / "in")

    (row,) = (row for row in conversion.convert([folder], tmp_path / "out").rows if row.modality == "RTSTRUCT")

    assert row.status == "left aside"
    assert "refers to series 2.25.772, of which nothing is here" in row.why


def test_a_structure_set_that_names_no_series_lies_on_those_of_its_frame_of_reference(make, tmp_path):
    ds = structure_set(make, *corners(make))
    del ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    folder = make.folder([*make.series(), ds], tmp_path / "in")

    assert conversion.convert([folder], tmp_path / "out").count("mask") == 1


def test_synthetic_stays_synthetic_on_another_grid(make, tmp_path):
    made = make.series("CT", SyntheticData="YES")
    target = make.series("CT", SeriesInstanceUID="2.25.774", PixelSpacing=[1.5, 2.6])
    folder = make.folder([*made, *target], tmp_path / "in")

    report = conversion.convert([folder], tmp_path / "out", Options(onto="2.25.774"))

    rows = {row.series_uid: row for row in report.rows}
    volume = nifti.read(tmp_path / "out" / rows["2.25.772"].image)
    assert volume.is_synthetic and rows["2.25.772"].details["synthetic"]
    assert {source.sop_instance_uid for source in volume.made_from} == {str(ds.SOPInstanceUID) for ds in made}
    assert nifti.source_uids(tmp_path / "out" / rows["2.25.772"].image)
    assert not nifti.read(tmp_path / "out" / rows["2.25.774"].image).is_synthetic


def test_masks_go_where_their_image_goes(make, tmp_path):
    target = make.series("CT", SeriesInstanceUID="2.25.774", PixelSpacing=[1.5, 2.6])
    folder = make.folder([*make.series(), *target, structure_set(make, *corners(make))], tmp_path / "in")

    report = conversion.convert([folder], tmp_path / "out", Options(onto="2.25.774"))

    (mask,) = (row for row in report.rows if row.status == "mask")
    found = nifti.read(tmp_path / "out" / mask.image)
    assert found.same_grid_as(nifti.read(tmp_path / "out" / mask.details["of"]))
    assert found.spacing_mm == pytest.approx((2.5, 1.5, 2.6))
    assert 0 < found.voxels.sum() < 8


def test_ct_has_air_where_it_has_nothing(make, tmp_path):
    wide = make.series("CT", SeriesInstanceUID="2.25.774", PixelSpacing=[3.0, 5.2])
    folder = make.folder([*make.series("CT"), *wide], tmp_path / "in")

    report = conversion.convert([folder], tmp_path / "out", Options(onto="2.25.774"))

    row = next(row for row in report.rows if row.series_uid == "2.25.772")
    assert row.details["outside"] == -1024
    assert nifti.read(tmp_path / "out" / row.image).voxels[0, -1, -1] == -1024


def test_a_tilted_gantry_is_said_and_made_upright_on_request(make, tmp_path):
    tilted = make.series("CT")
    down = make.turn.T[1]
    for number, ds in enumerate(tilted):
        place = np.array(ds.ImagePositionPatient, float) + 0.8 * number * down
        ds.ImagePositionPatient = [round(float(value), 6) for value in place]
    folder = make.folder(tilted, tmp_path / "in")

    (sheared,) = conversion.convert([folder], tmp_path / "out").rows
    (upright,) = conversion.convert([folder], tmp_path / "out2", Options(upright=True)).rows

    assert sheared.details["sheared"] and not upright.details["sheared"]
    assert upright.details["made_upright"]
    SimpleITK.ReadImage(str(tmp_path / "out2" / upright.image))  # which refuses sheared ones


def test_a_dicomdir_and_a_file_without_a_series_stop_nothing(make, tmp_path):
    folder = make.folder(make.series(), tmp_path / "in")
    lonely = make.series(seed=3)[0]
    del lonely.SeriesInstanceUID
    index = make.series()[0]
    del index.SeriesInstanceUID
    index.DirectoryRecordSequence = [Dataset()]
    (folder / "DICOMDIR").write_bytes(make.bytes(index))
    (folder / "lonely").write_bytes(make.bytes(lonely))

    report = conversion.convert([folder], tmp_path / "out")

    assert [report.count(status) for status in ("converted", "refused", "left aside")] == [1, 0, 2]
    assert any("an index of other files" in row.why for row in report.rows)


def test_whatever_is_wrong_with_one_series_the_others_are_converted(make, tmp_path):
    good = make.series(SeriesInstanceUID="2.25.779")
    for number, (keyword, value) in enumerate(
        [("RescaleSlope", [1, 2]), ("RescaleSlope", 0), ("Rows", None), ("PixelSpacing", [0, 0]), ("Columns", [4, 4])]
    ):
        bad = make.series("CT", SeriesInstanceUID=f"2.25.78{number}")
        for ds in bad:
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        make.folder(bad, tmp_path / "in" / str(number))
    make.folder(good, tmp_path / "in/good")

    report = conversion.convert([tmp_path / "in"], tmp_path / "out")

    assert [report.count(status) for status in ("converted", "refused")] == [1, 5]
    for row in report.rows:
        assert row.status != "refused" or ";" in row.why


def test_half_written_files_of_a_killed_run_do_not_stay(make, tmp_path):
    folder, out = make.folder([*make.series(), structure_set(make, *corners(make))], tmp_path / "in"), tmp_path / "out"
    conversion.convert([folder], out)
    undisturbed = sorted(path.relative_to(out) for path in out.rglob("*.nii.gz"))
    mask = next((out / "masks").glob("*.nii.gz"))
    mask.write_bytes(b"half")
    mask.with_name(mask.name.replace("lesion", "other")).write_bytes(b"stale")
    for noted in (out / ".done").iterdir():
        noted.write_text("")

    conversion.convert([folder], out)

    assert sorted(path.relative_to(out) for path in out.rglob("*.nii.gz")) == undisturbed
    assert nifti.read(mask).voxels.any()


def test_a_folder_holds_numbers_of_one_kind(make, tmp_path):
    conversion.convert([make.folder(make.series(), tmp_path / "one")], tmp_path / "out")
    other = make.folder(make.series(SeriesInstanceUID="2.25.779"), tmp_path / "other")

    with pytest.raises(Rejected, match="holds series that were converted with"):
        conversion.convert([other], tmp_path / "out", Options(scaled_by="real-world"))


def test_a_run_tells_of_itself_and_the_list_of_all(make, tmp_path):
    conversion.convert([make.folder(make.series(), tmp_path / "one")], tmp_path / "out")
    report = conversion.convert(
        [make.folder(make.series(SeriesInstanceUID="2.25.779"), tmp_path / "other")], tmp_path / "out"
    )

    assert {row.series_uid for row in report.rows} == {"2.25.779"}
    assert len(json.loads((tmp_path / "out/datalist.json").read_text())["training"]) == 2


def test_linked_folders_are_followed_and_circles_end(make, tmp_path):
    study = make.folder(make.series(), tmp_path / "study")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/study").symlink_to(study)
    (study / "again").symlink_to(tmp_path / "links")

    assert conversion.convert([tmp_path / "links"], tmp_path / "out").count("converted") == 1


def test_two_runs_do_not_write_into_one_folder(make, tmp_path):
    folder = make.folder(make.series(), tmp_path / "in")
    conversion.convert([folder], tmp_path / "out")

    with conversion._alone(tmp_path / "out"), pytest.raises(Rejected, match="being written to by another run"):
        conversion.convert([folder], tmp_path / "out")
