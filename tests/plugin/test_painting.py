"""Pictures of pictures as DICOM: other channels and finer pixels of real series, pictures of masks with their SEG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import oblique_studies as toy
import pytest
import typer
from PIL import Image
from pydicom import Dataset, dcmread
from scipy import ndimage
from typer.testing import CliRunner

from dicom_io import drawn_masks, labels, secondary_capture, segmentation, series
from dicom_io.dataset import read_with_hash
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.volume import Volume
from models import coarse, from_pictures, generator, predictor
from models.from_pictures import Painter, Translator
from plugin import painting, pipeline
from plugin.cli import results
from plugin.outputs import Made

AT, LATER = datetime(2026, 3, 4, 5, 6, 7), datetime(2026, 9, 8, 7, 6, 5)
NEW = 60  # a patient of no cohort
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
ROWS, COLUMNS = toy.SHAPE[1:]


@pytest.fixture(scope="module")
def t1(tmp_path_factory) -> list[Path]:
    return toy.write(tmp_path_factory.mktemp("t1"), toy.mr("T1", NEW))


@pytest.fixture(scope="module")
def translated(t1, head_translator, tmp_path_factory) -> list[Made]:
    return pipeline.predict(t1, head_translator.folder, tmp_path_factory.mktemp("translated"), made_at=AT)


def wide(seed: int) -> list[Dataset]:
    """T1 of pixels twice as wide, as the network of finer pixels was shown them."""
    stored = [np.frombuffer(ds.PixelData, "<u2").reshape(ROWS, COLUMNS) for ds in toy.mr("T1", seed)]
    values = np.stack(stored).astype(float)
    values = values[:, :, :24].reshape(6, 17, 2, 12, 2).mean((2, 4))
    made = toy.series("MR", values, seed=seed, name="wide", **toy.TIMES["T1"])
    for ds in made:
        ds.PixelSpacing = [2 * step for step in toy.SPACING_MM[1:]]
    return made


def volume_of(files: Sequence[Path]) -> Volume:
    (found,) = series.volumes(files).volumes
    return found.volume


def captures_of(made: Sequence[Made]) -> Volume:
    read = [read_with_hash(each.path) for each in made if each.record.sop_class_uid != SEG]
    return secondary_capture.read_volume(*zip(*read, strict=True))


def seg_of(made: Sequence[Made]) -> Dataset:
    (found,) = (dcmread(each.path) for each in made if each.record.sop_class_uid == SEG)
    return found


def translator_of(folder: Path) -> Translator:
    model = from_pictures.load(folder)
    assert isinstance(model, Translator)
    return model


def painter_of(folder: Path) -> Painter:
    model = from_pictures.load(folder)
    assert isinstance(model, Painter)
    return model


# Other channels.


def test_a_translation_lies_where_its_source_does_and_holds_what_the_model_made(translated, t1, head_translator):
    source, made = volume_of(t1), captures_of(translated)
    np.testing.assert_allclose(made.affine, source.affine, atol=1e-6)
    assert made.frame_of_reference_uid == source.frame_of_reference_uid
    said = translator_of(head_translator.folder).translate(source)
    assert isinstance(said, Volume)
    np.testing.assert_allclose(made.voxels, said.voxels[0], atol=1200 / 65535)


def test_a_translation_says_that_it_was_generated_from_a_real_series(translated, t1):
    (each,) = translated
    labels.check(each.path.read_bytes(), each.record)
    ds = dcmread(each.path)
    assert (each.record.kind, each.record.is_synthetic, ds.SyntheticData) == ("generated-from-real", True, "YES")
    assert (ds.PatientID, ds.StudyInstanceUID) == (f"PAT-{NEW}", toy.uid(NEW, "", "study"))
    assert set(each.record.source_uids) == {dcmread(path).SOPInstanceUID for path in t1}
    assert each.finding == "FLAIR of T1"


def test_a_translation_made_again_has_the_same_names(translated, t1, head_translator, tmp_path):
    again = pipeline.predict(t1, head_translator.folder, tmp_path, made_at=LATER)
    assert [each.record.sop_instance_uid for each in again] == [each.record.sop_instance_uid for each in translated]


def test_a_translator_takes_its_channel_alone(head_translator, tmp_path):
    flair = toy.write(tmp_path / "flair", toy.mr("FLAIR", NEW))
    with pytest.raises(Rejected, match="needs MR T1, and the study holds MR FLAIR"):
        pipeline.predict(flair, head_translator.folder, tmp_path / "out", made_at=AT)


# Finer pixels.


def test_finer_pixels_cover_what_the_wide_ones_did(head_refiner, tmp_path):
    files = toy.write(tmp_path / "wide", wide(NEW))
    source = volume_of(files)
    made = captures_of(pipeline.predict(files, head_refiner.folder, tmp_path / "out", made_at=AT))
    assert made.voxels.shape == (6, 34, 24)
    np.testing.assert_allclose(made.spacing_mm, toy.SPACING_MM, rtol=1e-6)
    np.testing.assert_allclose(made.affine, coarse.rescaled(source.affine, 0.5), atol=1e-6)
    for corner in ((-0.5, -0.5), (16.5, 11.5)):
        outer = source.affine @ [2, *corner, 1]
        finer = made.affine @ [2, *(2 * np.array(corner) + 0.5), 1]
        np.testing.assert_allclose(finer, outer, atol=1e-6)


def test_what_finer_pixels_show_stays_where_it_is_in_the_patient(head_refiner):
    """The centre of a bright blob, in mm; half a wide pixel would be 2.1 mm."""
    source = volume_of_blob()
    made = translator_of(head_refiner.folder).translate(source)
    assert isinstance(made, Volume)
    there, here = (
        image.affine[:3, :3] @ ndimage.center_of_mass(values[0].clip(100) - 100) + image.affine[:3, 3]
        for image, values in ((source, source.voxels), (made, made.voxels))
    )
    assert np.linalg.norm(here - there) < 0.25


def volume_of_blob() -> Volume:
    s, r, c = np.mgrid[:6, :17, :12]
    values = 900 * np.exp(-((r - 6.3) ** 2 + (c - 7.1) ** 2) / 5) * (s > 1)
    affine = np.eye(4)
    affine[:3, :3] = toy.AXES[:, [2, 1, 0]] * [3.3, 4.2, 3.4]
    affine[:3, 3] = toy.ORIGIN_MM
    return Volume(values.astype(np.float32)[None], affine, "2.25.1", "1")


def test_pixels_that_are_fine_already_are_outside_the_card(head_refiner, t1, tmp_path):
    with pytest.raises(OutOfDomain, match=r"spacing of 2\.10 mm down a slice; the card of toy-finer:1 says 3\.65 to"):
        pipeline.predict(t1, head_refiner.folder, tmp_path / "no", made_at=AT)
    (forced,) = pipeline.predict(t1, head_refiner.folder, tmp_path / "forced", made_at=AT, force=True)
    assert forced.record.out_of_domain


# Pictures of masks.


def drawn() -> np.ndarray:
    """(6, 34, 25): a box in two slices."""
    mask = np.zeros(toy.SHAPE, np.uint8)
    mask[2:4, 12:19, 5:11] = 1
    return mask


def seg_file(folder: Path, name: str = "lesion") -> Path:
    """A SEG of another hand on the images of a new patient."""
    datasets = toy.mr("FLAIR", NEW)
    source = volume_of(toy.write(folder / "images", datasets))
    mask = source.with_voxels(drawn().astype(np.float32), units="1")
    model = generator.ModelIdentity("hand", "1", "0" * 64, "unproven")
    common = {"parameters": {}, "description": "drawn", "made_at": AT, "model": model}
    segment = segmentation.Segment(1, name, (255, 0, 0))
    seg, record = segmentation.segmentation(mask, sources=datasets, segments=[segment], **common)
    path = folder / "drawn.dcm"
    path.write_bytes(labels.encode(seg, record))
    return path


@pytest.fixture(scope="module")
def painted(head_painter, tmp_path_factory) -> list[Made]:
    folder = tmp_path_factory.mktemp("painted")
    mask = seg_file(folder, "WMH by me")
    return painting.paint(head_painter.folder, folder / "out", mask=mask, seed=4, made_at=AT)


def test_a_painted_volume_and_its_seg_lie_on_each_other_and_show_the_drawn_mask(painted):
    mask = segmentation.read(seg_of(painted), captures_of(painted))
    np.testing.assert_array_equal(mask.voxels > 0, drawn()[2:4] > 0)


def test_of_the_place_and_tilt_of_a_drawn_mask_nothing_is_left_but_the_nearest_axes(painted):
    image, turned = captures_of(painted), toy.AXES[:, [2, 1, 0]]
    np.testing.assert_allclose(image.spacing_mm, toy.SPACING_MM, rtol=1e-6)
    nearest = np.where(np.abs(turned) == np.abs(turned).max(0), np.sign(turned), 0)
    np.testing.assert_allclose(image.affine[:3, :3], nearest * toy.SPACING_MM, atol=1e-6)
    np.testing.assert_allclose(image.position_mm((0.5, (ROWS - 1) / 2, (COLUMNS - 1) / 2)), 0, atol=1e-5)


def test_the_mask_lies_on_the_archive_s_own_captures_where_both_forms_are_written(head_painter, tmp_path):
    Image.fromarray(drawn()[2]).save(tmp_path / "mask.png")
    both = ["single-frame", "multi-frame", "binary"]
    made = painting.paint(
        head_painter.folder, tmp_path, mask=tmp_path / "mask.png", n=3, seed=1, made_at=AT, encodings=both
    )
    [under] = [each.record.sop_instance_uid for each in made if each.encoding == "multi-frame"]
    named = {
        ref.ReferencedSOPInstanceUID for ref in seg_of(made).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert named == {under}


def test_a_mask_of_generated_pictures_is_refused_for_the_border_strip_in_its_frames(painted, head_painter, tmp_path):
    (path,) = (each.path for each in painted if each.record.sop_class_uid == SEG)
    with pytest.raises(Rejected, match=r"a mask of generated pictures, .* border strip .*use --masks-of"):
        painting.paint(head_painter.folder, tmp_path, mask=path, seed=0, made_at=AT)


def test_a_painted_volume_holds_what_the_model_made_of_the_mask(painted, head_painter):
    model = painter_of(head_painter.folder)
    said = model.paint(drawn()[2:4], 4, [0, 0])
    np.testing.assert_allclose(captures_of(painted).voxels, said[0], atol=1200 / 65535)


def test_what_is_painted_belongs_to_a_fictitious_patient_and_is_labelled(painted):
    for each in painted:
        labels.check(each.path.read_bytes(), each.record)
        ds = dcmread(each.path)
        assert each.record.is_synthetic and ds.SyntheticData == "YES"
        assert ds.PatientID.startswith("MIRALL-SYN-")
        assert f"PAT-{NEW}" not in str(ds)


def paint_png(head_painter, folder: Path, mask: np.ndarray, **options) -> list[Made]:
    folder.mkdir()
    Image.fromarray(mask).save(folder / "mask.png")
    return painting.paint(head_painter.folder, folder / "out", mask=folder / "mask.png", made_at=AT, **options)


def test_a_flat_mask_gives_as_many_styles_as_are_asked_for_and_the_same_ones_again(head_painter, tmp_path):
    mask = drawn()[2] * 255
    made = paint_png(head_painter, tmp_path / "one", mask, n=5, seed=1)
    again = paint_png(head_painter, tmp_path / "two", mask, n=5, seed=1)
    more = paint_png(head_painter, tmp_path / "three", mask, n=7, seed=1)
    pictures = captures_of(made).voxels
    assert pictures.shape == (5, ROWS, COLUMNS)
    assert len(np.unique(pictures.mean((1, 2)).round(3))) == 5
    assert [each.record.sop_instance_uid for each in made] == [each.record.sop_instance_uid for each in again]
    np.testing.assert_allclose(captures_of(more).voxels[:5], pictures, atol=1e-4)
    np.testing.assert_array_equal(segmentation.read(seg_of(made), captures_of(made)).voxels, [drawn()[2]] * 5)


def test_another_mask_gives_other_names_and_another_patient(head_painter, tmp_path):
    one = paint_png(head_painter, tmp_path / "one", drawn()[2], n=2, seed=1)
    other = paint_png(head_painter, tmp_path / "other", drawn()[2][::-1].copy(), n=2, seed=1)
    for name in ("sop_instance_uid", "study_instance_uid", "patient_id"):
        assert getattr(one[0].record, name) != getattr(other[0].record, name)


def test_masks_of_another_generator_are_painted_one_by_one(head_painter, head_drawer, tmp_path):
    made = painting.paint(head_painter.folder, tmp_path, masks_of=head_drawer.folder, n=6, seed=2, made_at=AT)
    masks = np.stack([sample.mask for sample in generator.load(head_drawer.folder).samples(6, 2)])
    image = captures_of(made)
    np.testing.assert_array_equal(segmentation.read(seg_of(made), image).voxels, masks)
    assert image.voxels.shape == masks.shape
    assert "toy-drawer:1" in made[0].record.parameters


def test_masks_that_cover_more_than_the_card_says_are_refused_or_marked(head_painter, tmp_path):
    wide = np.zeros((4, 30, 30), np.uint8)
    wide[1, 4:9, 4:9] = 1
    path = tmp_path / "wide.nii.gz"
    nibabel.save(nibabel.Nifti1Image(wide.T, np.diag([-5.0, -5.0, 5.0, 1.0])), path)
    with pytest.raises(OutOfDomain, match="covers 150 mm down as a square; the card of toy-painter:1 says 36 to 89 mm"):
        painting.paint(head_painter.folder, tmp_path / "no", mask=path, seed=0, made_at=AT)
    made = painting.paint(head_painter.folder, tmp_path / "yes", mask=path, seed=0, made_at=AT, force=True)
    assert all(each.record.out_of_domain for each in made)


# Masks from files.


def test_a_nifti_of_another_tool_is_turned_to_run_as_dicom_does(tmp_path):
    """RAS with y to the front, as ITK and FSL write: row 0 of a picture is at the front, column 0 on the right."""
    stored = np.zeros((5, 7, 3), np.uint8)  # x to the right, y to the front, z up
    stored[4, 6, 1] = 1  # right, front
    stored[0, 0, 2] = 2  # left, back
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "mask.nii.gz")
    found = drawn_masks.read(tmp_path / "mask.nii.gz", ("one", "two"))
    assert found.numbers.shape == (3, 7, 5)
    assert found.numbers[1, 0, 0] == 1 and found.numbers[2, 6, 4] == 2
    assert found.affine is not None
    np.testing.assert_allclose(found.affine @ [1, 0, 0, 1], [-8, -18, 4, 1])
    np.testing.assert_allclose(found.affine @ [2, 6, 4, 1], [0, 0, 8, 1])


@pytest.mark.parametrize(("levels", "numbers"), [((0, 1, 2), (0, 1, 2)), ((0, 128, 255), (0, 1, 2))])
def test_a_png_holds_numbers_or_grey_levels(levels, numbers, tmp_path):
    Image.fromarray(np.array([levels, levels[::-1]], np.uint8)).save(tmp_path / "mask.png")
    found = drawn_masks.read(tmp_path / "mask.png", ("one", "two"))
    np.testing.assert_array_equal(found.numbers, [[numbers, numbers[::-1]]])
    assert found.affine is None


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("odd.png", np.full((4, 4), 77, np.uint8), "has grey level 77; masks hold numbers from 0 to 1"),
        ("colour.png", np.zeros((4, 4, 3), np.uint8), "is a picture in RGB"),
        ("three.nii.gz", np.full((2, 2, 2), 3, np.uint8), "holds label 3; the model knows 1 to 1"),
        ("half.nii.gz", np.full((2, 2, 2), 0.5, np.float32), "values that are no label numbers"),
        ("broken.nii.gz", None, "no NIfTI image that can be read"),
        ("broken.png", None, "no PNG that can be read"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_name(name, values, sentence, tmp_path):
    path = tmp_path / name
    if values is None:
        path.write_bytes(b"nothing")
    elif name.endswith("png"):
        Image.fromarray(values).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    with pytest.raises(Rejected, match=f"{name} .*{sentence}"):
        drawn_masks.read(path, ("lesion",))


def test_a_segment_of_another_name_is_refused_where_there_are_several_labels(tmp_path):
    with pytest.raises(Rejected, match="has a segment 'WMH'; the model knows lesion, oedema"):
        drawn_masks.read(seg_file(tmp_path, "WMH"), ("lesion", "oedema"))
    found = drawn_masks.read(seg_file(tmp_path / "again", "oedema"), ("lesion", "oedema"))
    assert set(np.unique(found.numbers)) == {0, 2}


def test_the_same_mask_elsewhere_in_the_patient_is_another(tmp_path):
    found = drawn_masks.read(seg_file(tmp_path), ("lesion",))
    assert found.affine is not None
    moved = replace(found, affine=found.affine + np.pad([[1.0]], ((0, 3), (3, 0))))
    assert replace(found).digest == found.digest != moved.digest


# Commands.


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    results.register(made)
    return made


def run(app: typer.Typer, *words: object) -> list[dict]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_generate_takes_masks_and_dicom_files(app, head_painter, head_translator, head_drawer, t1, tmp_path):
    Image.fromarray(drawn()[2]).save(tmp_path / "mask.png")
    shelf = ("--models", head_painter.shelf)
    out = tmp_path / "out"
    rows = run(app, "generate", "toy-painter", "--from", tmp_path / "mask.png", "-n", 2, "--out", out, *shelf)
    assert [row["kind"] for row in rows] == ["generated", "segmentation"]
    rows = run(app, "generate", "toy-painter", "--masks-of", "toy-drawer:1", "-n", 2, "--out", out, *shelf)
    assert [row["synthetic"] for row in rows] == [True, True]
    rows = run(app, "generate", "toy-flair", "--from", t1[0].parent, "--out", out, *shelf)
    assert [row["kind"] for row in rows] == ["generated-from-real"]


@pytest.mark.parametrize("words", [("-n", "2"), ("--seed", "0")])
def test_what_pictures_of_dicom_files_do_not_take_is_refused(app, head_translator, t1, tmp_path, words):
    given = ["--from", str(t1[0].parent), "--out", str(tmp_path / "out"), "--models", str(head_translator.shelf)]
    done = CliRunner().invoke(app, ["generate", "toy-flair", *given, *words])
    assert done.exit_code == 2 and "leave -n and" in done.output


def test_each_command_names_the_other_where_a_model_is_of_its_kind(head_painter, head_translator, tmp_path, t1):
    with pytest.raises(Rejected, match="makes pictures of a mask, not of noise alone; give some with --from"):
        pipeline.generate(head_painter.folder, tmp_path, n=1, seed=0, made_at=AT)
    with pytest.raises(Rejected, match="use `mirall generate --from MASK`"):
        pipeline.predict(t1, head_painter.folder, tmp_path, made_at=AT)
    with pytest.raises(Rejected, match="of DICOM files, not of masks; use `mirall predict`"):
        painting.paint(head_translator.folder, tmp_path, mask=tmp_path / "no.png", seed=0, made_at=AT)


def test_masks_of_other_labels_are_refused(head_painter, slice_generator, tmp_path):
    with pytest.raises(Rejected, match="toy-maker:1 draws no masks, and toy-painter:1 paints lesion"):
        painting.paint(head_painter.folder, tmp_path, masks_of=slice_generator.folder, n=1, seed=0, made_at=AT)


def test_predictors_refuse_a_translator(head_translator):
    with pytest.raises(Rejected, match="is a generator"):
        predictor.load(head_translator.folder)
