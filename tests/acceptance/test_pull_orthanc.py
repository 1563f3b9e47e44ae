"""Pull from Debian's Orthanc: C-FIND and C-GET, QIDO-RS and WADO-RS; the bytes that it stores."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from peers import Orthanc
from pydicom import dcmread

from plugin.archive.ingest import open_archive
from plugin.pull import pull, source_of
from plugin.settings import Destination, load


@pytest.mark.parametrize("kind", ["dimse", "stow"])
def test_a_study_in_many_encodings_comes_as_orthanc_stores_it(
    orthanc: Orthanc, test_data: Path, tmp_path: Path, kind: str
) -> None:
    for path in sorted((test_data / "transfer-syntaxes").glob("*.dcm")):
        orthanc.upload(path)
    (study,) = orthanc.get("/studies?expand")
    uid = study["MainDicomTags"]["StudyInstanceUID"]
    archive = open_archive(load(data=tmp_path / "data"))
    here = {
        "dimse": Destination(kind="dimse", aet="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port, retrieve="get"),
        "stow": Destination(kind="stow", url=f"{orthanc.url}/dicom-web"),
    }[kind]
    pulled = pull(source_of(here, "MIRALL", archive), archive, uid)
    assert (pulled.is_complete, pulled.listed, pulled.sentences) == (True, len(orthanc.get("/instances")), ())
    rows = archive.index.instances(uid)
    assert len({row.transfer_syntax_uid for row in rows}) > 4, "nothing was transcoded on the way"
    for row in rows:
        (identifier,) = orthanc.instances(SOPInstanceUID=row.sop_instance_uid)
        stored, theirs = row.path.read_bytes(), orthanc.file(identifier)
        if kind == "stow":
            assert stored == theirs
            continue
        # On the line Orthanc writes sequences anew, with other lengths; encoding and pixels are those that it stores.
        ours, original = dcmread(BytesIO(stored)), dcmread(BytesIO(theirs))
        assert ours.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert ours.PixelData == original.PixelData
