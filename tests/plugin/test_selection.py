"""What a query of the archive selects for a cohort: whole series, the masks of their studies, nothing of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import archive, generated, give
from dicom_objects import slice_of

from dicom_io.errors import Rejected
from plugin.archive import selection
from plugin.archive.index import Index
from plugin.archive.query import BadQuery

STUDIES = ("2.25.401", "2.25.402")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """Two studies of a PT, a CT and an RTSTRUCT series each, of a woman and a man, and a picture of our own."""
    ingest = archive(tmp_path_factory.mktemp("archive"))
    for number, study in enumerate(STUDIES):
        for series, modality in enumerate(("PT", "PT", "CT", "RTSTRUCT")):
            attributes = {"Modality": modality, "PatientSex": "FM"[number], "InstanceNumber": series}
            uid = f"2.25.5{number}{series}"
            given = slice_of(uid, study=study, series=f"{study}.{min(series, 2) + (series > 2)}", **attributes)
            if series == 1:
                given.SeriesInstanceUID = f"{study}.0"
            assert give(ingest, given).accepted
    picture, record = generated()
    assert give(ingest, picture, record).accepted
    yield ingest.index
    ingest.index.close()


def uids(index: Index, paths: list[Path]) -> set[str]:
    from pydicom import dcmread

    return {str(dcmread(path).SOPInstanceUID) for path in paths}


def test_a_query_selects_whole_series_of_the_studies_that_match(index):
    assert uids(index, selection.files(index, "Modality=PT&PatientSex=F")) == {"2.25.500", "2.25.501"}
    assert uids(index, selection.files(index, "Modality=CT")) == {"2.25.502", "2.25.512"}


def test_the_masks_of_the_same_studies_come_with_it(index):
    found = selection.files(index, "Modality=PT&PatientSex=M", beside=("RTSTRUCT",))

    assert uids(index, found) == {"2.25.510", "2.25.511", "2.25.513"}


def test_pictures_of_our_own_come_only_where_synthetic_ones_are_asked_for(index):
    assert uids(index, selection.files(index, "StudyInstanceUID=*")) == {f"2.25.5{n}{m}" for n in "01" for m in "0123"}
    assert len(selection.files(index, "StudyInstanceUID=*", with_synthetic=True)) == 9


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", Rejected, "asks for nothing"),
        ("Modality=MG", Rejected, "no series of the archive matches 'Modality=MG'"),
        ("Modalitty=PT", BadQuery, "Modalitty"),
        ("InstanceNumber=1", BadQuery, "InstanceNumber"),
    ],
)
def test_a_query_that_finds_nothing_says_so(index, text, error, said):
    with pytest.raises(error, match=said):
        selection.files(index, text)
