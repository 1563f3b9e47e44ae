"""The table of labels, literally; and the gate, which lets nothing pass that lacks one of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import made_results as made
import numpy as np
import pytest
from made_results import MODEL
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian

from dicom_io import labels
from dicom_io.errors import Unlabelled
from dicom_io.provenance import LabelRecord, ModelIdentity

KINDS: dict[str, Callable[[], tuple[Dataset, LabelRecord]]] = {
    "generated": lambda: made.generated()[0],
    "look-alike": made.alike,
    "generated-from-real": made.from_real,
    "segmentation": made.seg,
    "segmentation of synthetic": lambda: made.seg(synthetic=True),
    "parametric map": made.probability,
    "parametric map of synthetic": lambda: made.probability(synthetic=True),
    "report": made.reported,
    "report of synthetic": lambda: made.reported(synthetic=True),
    "presentation state": made.state,
    "capture": made.capture,
    "capture of synthetic": lambda: made.capture(synthetic=True),
}
BYTES: dict[str, tuple[bytes, LabelRecord]] = {}


def object_of(kind: str) -> tuple[Dataset, LabelRecord]:
    """A fresh dataset, decoded from bytes as a receiver would, and its record."""
    if kind not in BYTES:
        dataset, record = KINDS[kind]()
        BYTES[kind] = (labels.encode(dataset, record), record)
    raw, record = BYTES[kind]
    return dcmread(BytesIO(raw)), record


# Synthetic Data, Conversion Type, Image Type, purpose of our equipment item: the table e11, by hand.
TABLE = {
    "generated": ("YES", "SYN", ["DERIVED", "SECONDARY"], "109100"),
    "look-alike": ("YES", None, ["DERIVED", "SECONDARY", "OTHER"], "109100"),
    "generated-from-real": ("YES", "SYN", ["DERIVED", "SECONDARY"], "109100"),
    "segmentation": (None, None, ["DERIVED", "PRIMARY"], "109102"),
    "segmentation of synthetic": ("YES", None, ["DERIVED", "PRIMARY"], "109102"),
    "parametric map": (None, None, ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"], "109102"),
    "parametric map of synthetic": ("YES", None, ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"], "109102"),
    "report": (None, None, None, "109102"),
    "report of synthetic": ("YES", None, None, "109102"),
    "presentation state": ("YES", None, None, "109102"),
    "capture": (None, "WSD", ["DERIVED", "SECONDARY"], "109102"),
    "capture of synthetic": ("YES", "WSD", ["DERIVED", "SECONDARY"], "109102"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_carries_its_row_of_the_table(kind: str) -> None:
    ds, _ = object_of(kind)
    synthetic, conversion, image_type, purpose = TABLE[kind]
    own = ds.ContributingEquipmentSequence[-1]
    assert ds.get("SyntheticData") == synthetic
    assert ds.get("ConversionType") == conversion
    assert (list(ds.ImageType) if image_type else "ImageType" not in ds) == (image_type or True)
    assert ds.ContentQualification == "RESEARCH"
    assert [(c.CodeValue, c.CodingSchemeDesignator) for c in own.PurposeOfReferenceCodeSequence] == [(purpose, "DCM")]
    assert (own.Manufacturer, own.ManufacturerModelName, own.SoftwareVersions) == ("Mirall", "lesion-finder", "2.1.0")
    assert own.DeviceUID == MODEL.device_uid
    assert own.ContributionDateTime == "20240506070809.123000"
    words = own.ContributionDescription if kind.split()[0] in ("report", "presentation") else ds.DerivationDescription
    assert "UNPROVEN" in ds.SeriesDescription and "unproven" in words


NOT_ON_IMAGES = ("generated", "look-alike", "report", "presentation")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.split()[0] not in NOT_ON_IMAGES])
def test_results_on_images_stay_with_their_patient_name_their_sources_and_keep_the_scanner(kind: str) -> None:
    ds, _ = object_of(kind)
    assert (ds.PatientID, ds.StudyInstanceUID, ds.FrameOfReferenceUID) == ("P-17", "2.25.9901", "2.25.9903")
    assert str(ds.PatientName) == "Müller^Jörg" and ds.SpecificCharacterSet == "ISO_IR 192"
    assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [f"2.25.9902.{n}" for n in range(1, 7)]
    assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ds.SourceImageSequence} == {"121322"}
    [scanner, _own] = ds.ContributingEquipmentSequence
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert (scanner.Manufacturer, scanner.ManufacturerModelName) == ("Scanners Ltd", "Größe 3")


def test_a_generated_object_belongs_to_nobody_and_comes_from_nothing() -> None:
    ds, _ = object_of("generated")
    assert ds.PatientID.startswith("MIRALL-SYN-") and ds.IssuerOfPatientID == "MIRALL"
    assert "SourceImageSequence" not in ds and "ReferencedSeriesSequence" not in ds
    assert '"label":"T1"' in ds.DerivationDescription and "seed 42" in ds.DerivationDescription
    assert "PatientIdentityRemoved" not in ds  # Nobody's identity was removed.


def test_segments_name_the_algorithm_as_artificial_intelligence() -> None:
    ds, _ = object_of("segmentation")
    for segment in ds.SegmentSequence:
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("lesion-finder", "2.1.0")
        assert algorithm.AlgorithmParameters == '{"threshold":0.41}'
        assert segment.SegmentAlgorithmName == "lesion-finder:2.1.0"


def test_the_equipment_items_of_a_source_are_kept_and_ours_is_added() -> None:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [labels.code_item(("109104", "DCM", "De-identifying Equipment"))]
    item.Manufacturer, item.InstitutionName = "Anonymiser", "Universität"
    datasets = made.sources(ContributingEquipmentSequence=[item])
    kept = labels.equipment_of(datasets)
    assert [labels.equipment_key(one).split("|")[0] for one in kept] == ["109104", "109101"]
    assert kept[0].InstitutionName == "Universität" and kept[0] is not item


def test_a_result_of_a_synthetic_source_names_no_scanner() -> None:
    generated, _ = object_of("generated")
    assert [labels.equipment_key(item).split("|")[0] for item in labels.equipment_of([generated])] == ["109100"]


def test_private_elements_hold_what_the_standard_has_no_place_for() -> None:
    ds, _ = object_of("generated")
    block = ds.private_block(0x4D4D, "MIRALL")
    values = [str(block[number].value) for number in range(1, 11)]
    rows = ds.Rows - 13
    assert values == [
        "generated",
        "lesion-finder:2.1.0",
        "5a" * 32,
        "UNPROVEN",
        "audit-7",
        "42",
        str(rows),
        "INSIDE",
        '{"label":"T1","samples":3}',
        "1",
    ]


def test_private_elements_survive_implicit_vr() -> None:
    ds, record = object_of("segmentation")
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    ds.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=True)
    labels.check(buffer.getvalue(), record)


@pytest.mark.parametrize("make", [made.seg, made.capture])
def test_what_lies_outside_the_models_domain_says_so_in_every_text(
    make: Callable[..., tuple[Dataset, LabelRecord]],
) -> None:
    ds, record = make(out_of_domain=True)
    labels.check(ds, record)
    assert "OUT OF DOMAIN" in ds.SeriesDescription and "OUT OF DOMAIN" in ds.DerivationDescription
    assert "OUT OF DOMAIN" in labels.visible_mark(record)
    with pytest.raises(Unlabelled, match="SeriesDescription"):
        labels.check(make()[0], replace(make()[1], out_of_domain=True))


Harm = Callable[[Dataset], None]


def absent(keyword: str) -> Harm:
    return lambda ds: delattr(ds, keyword)


def other(keyword: str, value: object) -> Harm:
    return lambda ds: setattr(ds, keyword, value)


def private_absent(number: int) -> Harm:
    def harm(ds: Dataset) -> None:
        del ds.private_block(labels.PRIVATE_GROUP, labels.PRIVATE_CREATOR)[number]

    return harm


def in_own_equipment(keyword: str, value: object) -> Harm:
    return lambda ds: setattr(ds.ContributingEquipmentSequence[-1], keyword, value)


def in_each_segment(harm: Harm) -> Harm:
    return lambda ds: harm(ds.SegmentSequence[-1])


def in_algorithm(harm: Harm) -> Harm:
    return lambda ds: harm(ds.SegmentSequence[-1].SegmentationAlgorithmIdentificationSequence[0])


def in_derivation(harm: Harm) -> Harm:
    return lambda ds: harm(ds.PerFrameFunctionalGroupsSequence[-1].DerivationImageSequence[0])


def blank_mark(ds: Dataset) -> None:
    pixels = np.array(ds.pixel_array)
    rows = labels.mark_rows(ds)
    pixels[:, -rows:] = 0
    ds.PixelData = pixels.tobytes()


def drop_source(ds: Dataset) -> None:
    del ds.SourceImageSequence[2]


def purpose_of_source(ds: Dataset) -> None:
    del ds.SourceImageSequence[1].PurposeOfReferenceCodeSequence


def drop_scanner(ds: Dataset) -> None:
    del ds.ContributingEquipmentSequence[0]


def drop_own_equipment(ds: Dataset) -> None:
    del ds.ContributingEquipmentSequence[-1]


def processing_only(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue = "109103"


def cut_pixels(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-2]


def drop_evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[1]


def in_last_group(code: str, text: str | None) -> Harm:
    def harm(ds: Dataset) -> None:
        [measurements] = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
        content = measurements.ContentSequence[-1].ContentSequence
        [place] = [number for number, item in enumerate(content) if item.ConceptNameCodeSequence[0].CodeValue == code]
        if text is None:
            del content[place]
        else:
            content[place].TextValue = text

    return harm


def cut_floats(ds: Dataset) -> None:
    ds.FloatPixelData = ds.FloatPixelData[:-4]


EVERY: list[tuple[str, Harm]] = [
    *[
        (keyword, absent(keyword))
        for keyword in (
            "ContentQualification",
            "Manufacturer",
            "ManufacturerModelName",
            "SoftwareVersions",
            "DeviceSerialNumber",
            "ContributingEquipmentSequence",
            "SeriesDescription",
            "PatientID",
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "SOPClassUID",
        )
    ],
    ("ContentQualification", other("ContentQualification", "PRODUCT")),
    ("PatientID", other("PatientID", "P-18")),
    ("SeriesDescription", other("SeriesDescription", "lesions")),
    ("ContributingEquipmentSequence", drop_own_equipment),
    ("ContributingEquipmentSequence", processing_only),
    ("ContributingEquipmentSequence", in_own_equipment("DeviceUID", "2.25.1")),
    ("Manufacturer", in_own_equipment("Manufacturer", "Somebody")),
    ("ManufacturerModelName", in_own_equipment("ManufacturerModelName", "other")),
    ("SoftwareVersions", in_own_equipment("SoftwareVersions", "2.2.0")),
    *[(f"4D4D,xx{number:02X}", private_absent(number)) for number in range(1, 10)],
    ("4D4D,0010", lambda ds: ds.remove_private_tags()),
]
IMAGE: list[tuple[str, Harm]] = [
    ("ImageType", absent("ImageType")),
    ("ImageType", other("ImageType", ["ORIGINAL", "PRIMARY"])),
    ("DerivationDescription", absent("DerivationDescription")),
    ("DerivationDescription", other("DerivationDescription", "smoothed")),
    ("FrameOfReferenceUID", absent("FrameOfReferenceUID")),
    ("FrameOfReferenceUID", other("FrameOfReferenceUID", "2.25.1")),
]
PIXELS: list[tuple[str, Harm]] = [*IMAGE, ("PixelData", absent("PixelData")), ("PixelData", cut_pixels)]
FLOATS: list[tuple[str, Harm]] = [
    *IMAGE,
    ("FloatPixelData", absent("FloatPixelData")),
    ("FloatPixelData", cut_floats),
    ("BurnedInAnnotation", absent("BurnedInAnnotation")),
]
SYNTHETIC: list[tuple[str, Harm]] = [
    ("SyntheticData", absent("SyntheticData")),
    ("SyntheticData", other("SyntheticData", "NO")),
]
REAL: list[tuple[str, Harm]] = [("SyntheticData", other("SyntheticData", "YES"))]
WITH_SOURCES: list[tuple[str, Harm]] = [
    ("SourceImageSequence", absent("SourceImageSequence")),
    ("SourceImageSequence", drop_source),
    ("PurposeOfReferenceCodeSequence", purpose_of_source),
    ("ReferencedSeriesSequence", absent("ReferencedSeriesSequence")),
    ("ContributingEquipmentSequence", drop_scanner),
]
UNMARKED: list[tuple[str, Harm]] = [
    ("ConversionType", other("ConversionType", "SYN")),
    ("BurnedInAnnotation", absent("BurnedInAnnotation")),
]
MARKED: list[tuple[str, Harm]] = [
    ("ConversionType", absent("ConversionType")),
    ("ConversionType", other("ConversionType", "DI")),
    ("BurnedInAnnotation", absent("BurnedInAnnotation")),
    ("PixelData", blank_mark),
]
FICTITIOUS: list[tuple[str, Harm]] = [
    ("IssuerOfPatientID", absent("IssuerOfPatientID")),
    ("SourceImageSequence", other("SourceImageSequence", [Dataset()])),
]
SEGMENTED: list[tuple[str, Harm]] = [
    ("SegmentSequence", absent("SegmentSequence")),
    ("SegmentAlgorithmType", in_each_segment(other("SegmentAlgorithmType", "MANUAL"))),
    ("SegmentAlgorithmName", in_each_segment(absent("SegmentAlgorithmName"))),
    (
        "SegmentationAlgorithmIdentificationSequence",
        in_each_segment(absent("SegmentationAlgorithmIdentificationSequence")),
    ),
    ("AlgorithmFamilyCodeSequence", in_algorithm(absent("AlgorithmFamilyCodeSequence"))),
    ("AlgorithmName", in_algorithm(absent("AlgorithmName"))),
    ("AlgorithmVersion", in_algorithm(other("AlgorithmVersion", "2.2.0"))),
    ("AlgorithmParameters", in_algorithm(absent("AlgorithmParameters"))),
]
ON_PLANES: list[tuple[str, Harm]] = [
    (
        "DerivationImageSequence",
        lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[-1], "DerivationImageSequence"),
    ),
    ("DerivationCodeSequence", in_derivation(absent("DerivationCodeSequence"))),
    ("SourceImageSequence", in_derivation(absent("SourceImageSequence"))),
    ("ConversionType", other("ConversionType", "WSD")),
]
REPORTED: list[tuple[str, Harm]] = [
    ("ContributionDescription", in_own_equipment("ContributionDescription", "smoothed")),
    ("CurrentRequestedProcedureEvidenceSequence", absent("CurrentRequestedProcedureEvidenceSequence")),
    ("CurrentRequestedProcedureEvidenceSequence", drop_evidence),
    ("ContributingEquipmentSequence", drop_scanner),
    ("ContentSequence", lambda ds: delattr(ds, "ContentSequence")),
    ("visible mark", lambda ds: ds.ContentSequence.pop()),
    ("Algorithm Name", in_last_group("111001", None)),
    ("Algorithm Version", in_last_group("111003", "2.2.0")),
    ("Algorithm Parameters", in_last_group("111002", '{"threshold":0.5}')),
]


def other_words(ds: Dataset) -> None:
    ds.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue = "nice"


def another_image(ds: Dataset) -> None:
    ds.GraphicAnnotationSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID = "2.25.1"


STATED: list[tuple[str, Harm]] = [
    ("ContributionDescription", in_own_equipment("ContributionDescription", "smoothed")),
    ("ReferencedSeriesSequence", absent("ReferencedSeriesSequence")),
    ("visible mark", other_words),
    ("visible mark", another_image),
    ("GraphicAnnotationSequence", absent("GraphicAnnotationSequence")),
]
HARMS = {
    "generated": [*EVERY, *PIXELS, *SYNTHETIC, *MARKED, *FICTITIOUS],
    "look-alike": [*EVERY, *PIXELS, *SYNTHETIC, *UNMARKED, *FICTITIOUS],
    "generated-from-real": [*EVERY, *PIXELS, *SYNTHETIC, *MARKED, *WITH_SOURCES],
    "segmentation": [*EVERY, *PIXELS, *REAL, *WITH_SOURCES, *ON_PLANES, *SEGMENTED],
    "segmentation of synthetic": [*EVERY, *PIXELS, *SYNTHETIC, *WITH_SOURCES, *ON_PLANES, *SEGMENTED],
    "parametric map": [*EVERY, *FLOATS, *REAL, *WITH_SOURCES, *ON_PLANES],
    "parametric map of synthetic": [*EVERY, *FLOATS, *SYNTHETIC, *WITH_SOURCES, *ON_PLANES],
    "report": [*EVERY, *REAL, *REPORTED],
    "report of synthetic": [*EVERY, *SYNTHETIC, *REPORTED],
    "presentation state": [*EVERY, *SYNTHETIC, *STATED],
    "capture": [*EVERY, *PIXELS, *REAL, *MARKED, *WITH_SOURCES],
    "capture of synthetic": [*EVERY, *PIXELS, *SYNTHETIC, *MARKED, *WITH_SOURCES],
}
CASES = [
    pytest.param(kind, name, harm, id=f"{kind}, {number} {name}")
    for kind, harms in HARMS.items()
    for number, (name, harm) in enumerate(harms)
]


@pytest.mark.parametrize(("kind", "name", "harm"), CASES)
def test_an_object_that_lacks_a_label_does_not_pass_and_the_message_names_it(kind: str, name: str, harm: Harm) -> None:
    ds, record = object_of(kind)
    labels.check(ds, record)
    harm(ds)
    with pytest.raises(Unlabelled, match=name) as refusal:
        labels.check(ds, record)
    assert "P-1" not in str(refusal.value)  # No patient's ID in a message.


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_record_matters(kind: str) -> None:
    ds, record = object_of(kind)
    changes = {
        "model": replace(record.model, version="9"),
        "sop_instance_uid": "2.25.4",
        "series_instance_uid": "2.25.4",
        "study_instance_uid": "2.25.4",
        "patient_id": "MIRALL-SYN-4",
        "frame_of_reference_uid": "2.25.4",
        "source_uids": ("2.25.4",),
        "out_of_domain": True,
        "mark_rows": record.mark_rows + 1,
        "audit_id": "audit-8",
        "seed": 43,
        "parameters": '{"threshold":0.5}',
        "source_equipment": (*record.source_equipment, "109101|Another scanner|||"),
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "look_alike": not record.look_alike,
        "kind": "capture" if record.kind != "capture" else "segmentation",
    }
    for field, value in changes.items():
        with pytest.raises(Unlabelled):
            labels.check(ds, replace(record, **{field: value}))
            pytest.fail(f"{field} does not matter")
    if not record.is_synthetic:
        with pytest.raises(Unlabelled, match="SyntheticData"):
            labels.check(ds, replace(record, synthetic_input=True))


@pytest.mark.parametrize("state", ["proven", "teaching"])
def test_the_state_of_the_model_version_stands_in_the_texts(state: str) -> None:
    ds, record = object_of("capture")
    with pytest.raises(Unlabelled):
        labels.check(ds, replace(record, model=ModelIdentity("lesion-finder", "2.1.0", "5a" * 32, state)))  # type: ignore[arg-type]


def test_a_generated_object_never_joins_a_real_patient() -> None:
    ds, record = object_of("generated")
    ds.PatientID = "P-17"
    with pytest.raises(Unlabelled, match="not fictitious"):
        labels.check(ds, replace(record, patient_id="P-17"))


@pytest.mark.parametrize("make", [made.alike, lambda: made.alike("PT")])
def test_an_object_in_a_modalitys_own_class_passes_only_if_its_record_says_so(
    make: Callable[[], tuple[Dataset, LabelRecord]],
) -> None:
    dataset, record = make()
    labels.check(dataset, record)
    with pytest.raises(Unlabelled, match="has SOP class"):
        labels.check(dataset, replace(record, look_alike=False))
    with pytest.raises(Unlabelled, match="has SOP class"):
        labels.check(made.generated()[0][0], replace(made.generated()[0][1], look_alike=True))
    with pytest.raises(Unlabelled, match="cannot be in a modality's own"):
        labels.check(made.seg()[0], replace(made.seg()[1], look_alike=True))
    with pytest.raises(Unlabelled, match="mark rows"):
        labels.check(dataset, replace(record, mark_rows=12))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["generated", "segmentation", "capture"])
def test_bytes_cut_anywhere_do_not_pass(kind: str) -> None:
    object_of(kind)
    raw, record = BYTES[kind]
    for length in np.linspace(0, len(raw) - 1, 60).astype(int):
        with pytest.raises(Unlabelled):
            labels.check(raw[:length], record)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["generated", "segmentation"])
def test_damaged_bytes_raise_nothing_but_a_refusal(kind: str) -> None:
    object_of(kind)
    raw, record = BYTES[kind]
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        damaged = bytearray(raw)
        for place in rng.integers(128, 3000, 4):
            damaged[place] = rng.integers(256)
        try:
            labels.check(bytes(damaged), record)
        except Unlabelled:
            refused += 1
    assert refused > 75


def test_text_is_no_object() -> None:
    _, record = object_of("segmentation")
    with pytest.raises(Unlabelled, match="cannot be decoded"):
        labels.check(b"Dear colleague, ", record)


def test_check_leaves_the_object_as_it_is() -> None:
    ds, record = object_of("segmentation")
    before = deepcopy(ds)
    labels.check(ds, record)
    assert ds == before


def test_an_object_with_our_device_uid_is_ours_whatever_its_uid() -> None:
    ds, _ = object_of("segmentation")
    ds.SOPInstanceUID = "1.2.3"
    assert labels.is_ours(ds, {MODEL.device_uid})
    assert not labels.is_ours(ds, {ModelIdentity("lesion-finder", "2.1.0", "5b" * 32, "unproven").device_uid})
    assert not labels.is_ours(made.sources()[0], {MODEL.device_uid})


def test_apply_refuses_sources_that_are_not_the_records() -> None:
    dataset, record = made.capture()
    with pytest.raises(ValueError, match="5 source datasets"):
        labels.apply(dataset, record, made.sources()[1:], made.MADE_AT, "")


def test_a_record_survives_json() -> None:
    for kind in KINDS:
        record = object_of(kind)[1]
        assert LabelRecord.from_json(record.to_json()) == record


def test_words_that_are_too_long_are_cut_behind_the_demanded_ones() -> None:
    ds, record = made.capture(out_of_domain=True, synthetic=True)
    labels.apply(ds, record, made.sources(synthetic=True), made.MADE_AT, "long words " * 200)
    labels.encode(ds, record)
    assert len(ds.SeriesDescription) <= 64 and len(ds.DerivationDescription) <= 1024
    assert ds.SeriesDescription.startswith("SYNTHETIC AI OUT OF DOMAIN UNPROVEN long")
