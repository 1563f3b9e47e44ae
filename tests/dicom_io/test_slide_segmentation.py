"""Tiled SEG of slides: pixel for pixel back, tiles where they were, labelled as any other result."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL, SEGMENTS
from pydicom import Dataset, dcmread

from dicom_io import labels, slide_segmentation
from dicom_io.errors import MissingAttribute, Rejected, Unlabelled
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Source

Needs = Callable[[str], str]
ROWS, COLUMNS, TILE = 90, 131, (24, 32)  # Neither is a multiple of the tile.


def level() -> Dataset:
    """The header of one level of a slide that lies turned on the glass."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.6", "2.25.9910.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.9901", "2.25.9910", "2.25.9911"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P-17", "Müller^Jörg", "", "O"
    ds.SpecificCharacterSet, ds.Modality = "ISO_IR 100", "SM"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101112", "S1", "A-3"
    ds.Manufacturer, ds.ManufacturerModelName = "Scanners Ltd", "Slide 2"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.Rows, ds.Columns = TILE
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns, ds.NumberOfFrames = ROWS, COLUMNS, 20
    ds.TotalPixelMatrixFocalPlanes = 1
    ds.ImageOrientationSlide, ds.DimensionOrganizationType = [0, -1, 0, -1, 0, 0], "TILED_FULL"
    origin, measures, shared = Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 24.25, 48.5
    ds.TotalPixelMatrixOriginSequence = [origin]
    measures.PixelSpacing, measures.SliceThickness = [0.002, 0.004], 0.005
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.ContainerIdentifier, ds.IssuerOfTheContainerIdentifierSequence = "C-1", []
    container = labels.code_item(("433466003", "SCT", "Microscope slide"))
    ds.ContainerTypeCodeSequence = [container]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "SP-1", "2.25.9912"
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    ds.SpecimenDescriptionSequence = [specimen]
    ds.LossyImageCompression = "01"
    return ds


def mask() -> np.ndarray:
    """Lopsided, over several tiles, in one corner, with empty tiles between."""
    labels_of = np.zeros((ROWS, COLUMNS), np.uint8)
    labels_of[5:40, 20:70], labels_of[30:35, 60:100], labels_of[ROWS - 1, COLUMNS - 1] = 1, 2, 1
    return labels_of


def written(source: Dataset, labels_of: np.ndarray | None = None, **changes: Any) -> tuple[Dataset, LabelRecord]:
    arguments: dict[str, Any] = {
        "source": source,
        "source_refs": [Source(str(source.SOPClassUID), str(source.SOPInstanceUID), "c" * 64, 3)],
        "segments": SEGMENTS,
        "model": MODEL,
        "parameters": {"threshold": 0.41},
        "description": "tumour",
        "made_at": MADE_AT,
    }
    chosen = mask() if labels_of is None else labels_of
    return slide_segmentation.slide_segmentation(chosen, **{**arguments, **changes})


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


@pytest.mark.parametrize("labels_of", [mask(), np.zeros((ROWS, COLUMNS)), np.ones((ROWS, COLUMNS))])
def test_a_mask_comes_back_pixel_for_pixel_and_highdicom_reads_the_same(labels_of: np.ndarray) -> None:
    ds = decoded(written(level(), labels_of))
    np.testing.assert_array_equal(slide_segmentation.read(ds), labels_of)
    theirs = highdicom.seg.Segmentation.from_dataset(ds)
    np.testing.assert_array_equal(theirs.get_total_pixel_matrix(combine_segments=True), labels_of)


def test_empty_tiles_are_left_out_and_the_others_lie_on_the_glass_where_the_level_does() -> None:
    ds = decoded(written(level()))
    assert ds.DimensionOrganizationType == "TILED_SPARSE" and ds.NumberOfFrames == 10
    for frame in ds.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSlideSequence[0]
        row = place.RowPositionInTotalImagePixelMatrix - 1
        column = place.ColumnPositionInTotalImagePixelMatrix - 1
        # Columns run down the glass (-y), rows run to the left (-x).
        assert float(place.XOffsetInSlideCoordinateSystem) == pytest.approx(24.25 - row * 0.002)
        assert float(place.YOffsetInSlideCoordinateSystem) == pytest.approx(48.5 - column * 0.004)


def test_tiles_of_another_maker_that_leave_out_none_are_read() -> None:
    theirs = highdicom.seg.Segmentation(
        source_images=[level()],
        pixel_array=mask()[np.newaxis],
        segmentation_type="BINARY",
        segment_descriptions=[
            highdicom.seg.SegmentDescription(s.number, s.label, s.category, s.property_type, "MANUAL") for s in SEGMENTS
        ],
        series_instance_uid="2.25.1",
        series_number=99,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer="Viewer",
        manufacturer_model_name="Viewer",
        software_versions="1",
        device_serial_number="1",
        tile_pixel_array=True,
        omit_empty_frames=False,
        dimension_organization_type="TILED_FULL",
    )
    assert "PerFrameFunctionalGroupsSequence" not in theirs
    np.testing.assert_array_equal(slide_segmentation.read(theirs), mask())


def test_it_is_labelled_and_filed_as_any_result() -> None:
    made_object = written(level())
    ds, record = decoded(made_object), made_object[1]
    assert (ds.PatientID, str(ds.PatientName), ds.StudyInstanceUID) == ("P-17", "Müller^Jörg", "2.25.9901")
    assert (ds.FrameOfReferenceUID, ds.LossyImageCompression, ds.Modality) == ("2.25.9911", "01", "SEG")
    assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == ["2.25.9910.1"]
    assert record.kind == "segmentation" and "SyntheticData" not in ds
    assert labels.encode(*written(level())) == labels.encode(*made_object)
    del ds.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    with pytest.raises(Unlabelled, match="DerivationImageSequence"):
        labels.check(ds, record)


def test_what_is_no_whole_level_is_refused() -> None:
    with pytest.raises(Rejected, match="90 x 131 pixels"):
        written(level(), mask()[:, :-1])
    with pytest.raises(Rejected, match="not that of whole slides"):
        other = level()
        other.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        written(other)
    with pytest.raises(Rejected, match="concatenation"):
        part = level()
        part.InConcatenationTotalNumber = 2
        written(part)
    with pytest.raises(MissingAttribute, match="FrameOfReferenceUID"):
        placeless = level()
        del placeless.FrameOfReferenceUID
        written(placeless)
    with pytest.raises(Rejected, match="no segment describes"):
        written(level(), mask() + 2)
    with pytest.raises(Rejected, match="is not tiled"):
        slide_segmentation.read(made.seg()[0])


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_mask_of_a_real_slide_comes_back(test_data: Path, tmp_path: Path, needs: Needs) -> None:
    source = dcmread(test_data / "wsi-breast" / "CPTAC-BRCA_15BR001_level.dcm")
    labels_of = np.zeros((1547, 1680), np.uint8)
    labels_of[100:400, 500:900], labels_of[390:700, 880:1300], labels_of[1546, 1679] = 1, 2, 1
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*written(source, labels_of)))
    # The scanner wrote a thickness of 0; the SEG says no other than its source.
    assert [line for line in made.errors_of_dciodvfy(needs("dciodvfy"), path) if "SliceThickness" not in line] == []
    np.testing.assert_array_equal(slide_segmentation.read(dcmread(path)), labels_of)


def test_the_validator_finds_no_error(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*written(level())))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
