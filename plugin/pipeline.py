"""The one place where dicom_io and models meet: DICOM files in, labelled DICOM files out.

Runs in the warm child of a worker and in `mirall predict` and `mirall generate`; knows no index and no network.
Everything made here goes through the writers of dicom_io, which end in `dicom_io.labels.apply`, and is checked as it is
encoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_io import nifti, picture, secondary_capture, segmentation, series
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.provenance import LabelRecord, name_based_uid
from dicom_io.volume import Float32, Projection, Source, Volume
from models import from_pictures, generator, predictor, version
from models.from_pictures import Translator
from models.generator import Generator, Sample
from models.predictor import Classifier, Segmenter
from plugin import encodings, slides
from plugin.model_cache import LOADED
from plugin.model_input import Case, cases
from plugin.outputs import Made, Object, Progress, form_under_masks, forms, grid, segments_of, silent, write
from plugin.predictions import objects_of

Picture = npt.NDArray[np.uint8]

# Pictures with masks are held until the last is made: 1 GB of 256 x 256 pixels, and a copy.
MOST_WITH_MASKS = 4000


def predict(
    files: Sequence[Path],
    model_folder: Path,
    out: Path,
    *,
    made_at: datetime,
    force: bool = False,
    encodings: Collection[str] = encodings.DEFAULT,
    progress: Progress = silent,
) -> list[Made]:
    """Run a model version on every input that the files hold; SEG and SC (segmenters), SC (classifiers), or the series
    that a generator of pictures makes of them, into `out`.

    Inputs outside the model's card are left out, and the finding of everything that is made says which and why.
    made_at: the date and time that the objects bear. force: run outside the model's domain, and mark it.
    encodings: names of those to write; the same finding in each.

    Raises:
        Rejected: no series suits the model, or none can be read.
        OutOfDomain: every input is outside the model's card, and `force` is not set; a sentence for each.
    """
    model = _predictor(model_folder)
    progress({"stage": "reading", "done": 0, "total": len(files)})
    if isinstance(model, Classifier) and slides.takes(model):
        made = write(slides.objects_of(model, files, made_at, encodings, force, progress), out)
        progress({"stage": "done", "done": len(files), "total": len(files)})
        return made
    inputs = cases(series.volumes(files), model.channels)
    # All are judged before any is predicted: where none is inside, nothing is left behind.
    judged = [(case, _complaint(model, case)) for case in inputs]
    taken = [(case, bool(complaint)) for case, complaint in judged if force or not complaint]
    refused = [(case, complaint) for case, complaint in judged if complaint and not force]
    if not taken:
        raise OutOfDomain(refused[0][1] if len(refused) == 1 else _sentences(refused))
    made = write(objects_of(model, taken, made_at, encodings, progress), out)
    progress({"stage": "done", "done": len(taken), "total": len(taken)})
    if refused:
        others = "1 other input is" if len(refused) == 1 else f"{len(refused)} other inputs are"
        note = f"; {others} outside the card and left out: {_sentences(refused)}"
        made = [replace(each, finding=each.finding + note) for each in made]
    return made


def generate(
    model_folder: Path,
    out: Path,
    *,
    n: int,
    seed: int,
    label: str | None = None,
    truncation: float | None = None,
    guidance: float | None = None,
    made_at: datetime,
    encodings: Collection[str] = encodings.DEFAULT,
    progress: Progress = silent,
) -> list[Made]:
    """`n` pictures of a generator, as a labelled synthetic series of a fictitious patient, into `out`.

    label: the class to make; a generator of classes needs one, so that the series says of which they are. truncation,
    guidance: see `models.generator.Generator`.

    Raises:
        Rejected: the model is no generator, knows no such label or setting, or makes several classes and none is given.
    """
    model = generator_of(model_folder, truncation, guidance)
    asked = _Request(model, n, seed, label, made_at, encodings)
    drawn = _volumes if model.dims == 3 else _with_masks if model.mask_labels else _in_parts
    made = write(drawn(asked, progress), out)
    progress({"stage": "done", "done": n, "total": n})
    return made


@dataclass(frozen=True)
class _Request:
    """What is asked of a generator: `n` pictures of a label, of the noise of this seed, in these encodings.

    Raises:
        Rejected: the model knows no such label, or makes several classes and none is given.
    """

    model: Generator
    n: int
    seed: int
    label: str | None
    made_at: datetime
    wanted: Collection[str]

    def __post_init__(self) -> None:
        self.model.require(self.label)

    def samples(self) -> Iterator[Sample]:
        return self.model.samples(self.n, self.seed, self.label)

    def of_series(self) -> dict[str, Any]:
        """What all series of the request say of their making."""
        return {
            "model": self.model.identity,
            "seed": self.seed,
            "label": self.label or "",
            "settings": self.model.settings,
            "value_range": self.model.pixel_range,
            "made_at": self.made_at,
            "audit_id": self.model.audit_id,
        }

    def of_masks(self) -> dict[str, Any]:
        """What their SEG says of it."""
        of_label = {"label": self.label} if self.label else {}
        return {"seed": self.seed, "samples": self.n} | of_label | self.model.settings

    def finding(self, channel: str, number: int | None = None) -> str:
        words = " ".join(word for word in (self.label, channel) if word)
        what = f"{self.n} pictures" if number is None else f"volume {number + 1} of {self.n}"
        return f"{what}{f' of {words}' if words else ''}, seed {self.seed}"


def _in_parts(asked: _Request, progress: Progress) -> Iterator[Object]:
    """One series for the picture, or for each channel of it, an instance at a time: any number needs little memory."""
    model, samples = asked.model, asked.samples()
    for first in range(0, asked.n, secondary_capture.FRAMES_PER_INSTANCE):
        progress({"stage": "generating", "done": first, "total": asked.n})
        part = np.stack([each.image for each in islice(samples, secondary_capture.FRAMES_PER_INSTANCE)])
        for channel, frames in _series(model, part):
            for form in forms(asked.wanted):
                captures = secondary_capture.generated(
                    frames,
                    channel=channel,
                    spacing_mm=model.spacing_mm,
                    units=model.units,
                    form=form,
                    first=first,
                    total=asked.n,
                    **asked.of_series(),
                )
                finding = asked.finding(channel)
                yield from ((dataset, record, finding, form) for dataset, record in captures)


def _with_masks(asked: _Request, progress: Progress) -> Iterator[Object]:
    """A series for each channel, and the masks as SEG on the last of them. The pictures are laid one behind the other,
    for a mask needs places that it shares with its image.

    Raises:
        Rejected: too many for the memory.
    """
    require_few(asked.n)
    samples: list[Sample] = []
    for sample in asked.samples():
        progress({"stage": "generating", "done": len(samples), "total": asked.n})
        samples.append(sample)
    down, across = asked.model.spacing_mm or (1.0, 1.0)
    stacked = Sample(
        np.stack([sample.image for sample in samples], 1),
        np.stack([sample.mask for sample in samples if sample.mask is not None]),
    )
    yield from _placed(asked, stacked, (max(down, across), down, across))


def require_few(n: int) -> None:
    """Pass where `n` pictures and their masks may be held at once.

    Raises:
        Rejected: they are more than `MOST_WITH_MASKS`.
    """
    if n > MOST_WITH_MASKS:
        raise Rejected(
            f"{n} pictures with masks are held in memory at once; ask for {MOST_WITH_MASKS} at most, and for more "
            "with another seed"
        )


def _volumes(asked: _Request, progress: Progress) -> Iterator[Object]:
    """A series for each channel of each volume, and its mask as SEG on the last of them."""
    for number, sample in enumerate(asked.samples()):
        progress({"stage": "generating", "done": number, "total": asked.n})
        yield from _placed(asked, sample, asked.model.spacing_mm or (1.0, 1.0, 1.0), number)


def _placed(
    asked: _Request, sample: Sample, spacing_mm: Sequence[float], number: int | None = None
) -> Iterator[Object]:
    """sample: (channels, slices, rows, columns) with the steps `spacing_mm`; number: of the volume, None for slices of
    many."""
    model, lies = asked.model, grid(spacing_mm)
    captures: dict[str, list[tuple[Dataset, LabelRecord]]] = {}
    for channel, frames in _series(model, sample.image.swapaxes(0, 1)):
        for form in forms(asked.wanted):
            captures[form] = secondary_capture.generated_volume(
                Volume(np.asarray(frames, np.float32), lies, "", model.units),
                channel=channel,
                sample=number,
                form=form,
                **asked.of_series(),
            )
            finding = asked.finding(channel, number)
            yield from ((dataset, record, finding, form) for dataset, record in captures[form])
    if sample.mask is None:
        return
    masks, names = sample.mask.astype(np.float32), " and ".join(model.mask_labels)
    for encoding, arguments in encodings.SEGMENTATIONS.items():
        if encoding in asked.wanted:
            seg, record = segmentation.of_generated(
                Volume(masks, lies, "", "1"),
                captures=captures[form_under_masks(asked.wanted)],
                segments=segments_of(("background", *model.mask_labels)),
                model=model.identity,
                parameters=asked.of_masks() | ({} if number is None else {"sample": number}),
                description=f"{names} drawn by {model.identity.address}",
                made_at=asked.made_at,
                audit_id=model.audit_id,
                **arguments,
            )
            share = float((masks > 0).any((1, 2)).mean())
            yield seg, record, f"{names} on {share:.0%} of {len(masks)} pictures, seed {asked.seed}", encoding


def _series(model: Generator, images: Float32) -> list[tuple[str, Float32 | Picture]]:
    """(n, channels, rows, columns) -> the frames of each series, with the name of its channel, "" where it is alone."""
    if model.colour:
        return [("", np.moveaxis(picture.window(images, *model.pixel_range), 1, -1))]
    names = model.channels if len(model.channels) > 1 else ("",)
    return [(name, images[:, number]) for number, name in enumerate(names)]


def generate_files(
    model_folder: Path,
    out: Path,
    *,
    n: int,
    seed: int,
    label: str | None,
    form: Literal["png", "nifti"],
    truncation: float | None = None,
    guidance: float | None = None,
) -> list[Path]:
    """The same pictures as files that are not DICOM; each says that it is synthetic, of which model, seed and label.

    PNG: text chunks, and the visible mark below the picture. NIfTI: the header's description, and the sidecar. A model
    of several channels writes a file for each, and one for the mask where it draws one (NIfTI: label numbers; PNG: grey
    levels from black to white). They are made and written one by one, so that any number of them needs the memory of
    one.

    Raises:
        Rejected: as for `generate`, or volumes are asked for as PNG.
    """
    model = generator_of(model_folder, truncation, guidance)
    model.require(label)
    if model.dims == 3 and form == "png":
        raise Rejected(f"{model.identity.address} makes volumes; ask for dicom or nifti")
    out.mkdir(parents=True, exist_ok=True)
    # Of an unlabelled generator names and UIDs stay what they were before there were labels.
    of = [*([label] if label else []), *(f"{name}{float(value)!r}" for name, value in model.settings.items())]
    named = "-".join([model.identity.name, model.identity.version, *map(_file_word, of), f"seed{seed}"])
    written = []
    for number, sample in enumerate(model.samples(n, seed, label)):
        note = {"model": model.identity.address, "seed": seed, "sample": number, "audit_id": model.audit_id}
        note |= {**({"label": label} if label else {}), **model.settings}
        images = _images(model, sample)
        for place, ((word, values), ending) in enumerate(zip(images, _endings(images), strict=True), start=1):
            path = out / f"{named}-{number:05d}{ending}"
            mask = sample.mask is not None and place == len(images)
            if form == "png":
                path = path.with_name(path.name + ".png")
                mark = picture.SyntheticMark(model.identity.address, seed, model.audit_id)
                shown = _label_picture(values, len(model.mask_labels)) if mask else _pixels(model, values)
                described = " ".join([*of, *([word] if word else [])])
                picture.save_png(shown, path, synthetic=mark, description=described)
            else:
                path = path.with_name(path.name + ".nii.gz")
                named_by = [model.identity.content_hash, str(seed), str(number), *of, *([ending] if ending else [])]
                source = Source("", name_based_uid("file", *named_by), "", 1, True)
                _write_nifti(model, values.astype(np.float32), "1" if mask else model.units, source, path, note, word)
            written.append(path)
    return written


def _write_nifti(
    model: Generator, values: Float32, units: str, source: Source, path: Path, note: Mapping[str, Any], word: str
) -> None:
    said = {**note, **({"shows": word} if word else {})}
    if model.dims == 3:
        lies = grid(model.spacing_mm or (1.0, 1.0, 1.0))
        nifti.write(Volume(values, lies, "", units, (source,) * len(values)), path, note=said)
        return
    spacing_mm = None if model.spacing_mm is None else (model.spacing_mm[0], model.spacing_mm[1])
    nifti.write_projection(Projection(values, units, source, spacing_mm), path, note=said)


def _images(model: Generator, sample: Sample) -> list[tuple[str, npt.NDArray[Any]]]:
    """Each file's word and values: the picture, or each channel of it, and the mask."""
    if model.colour or len(model.channels) == 1:
        shown = [("", sample.image if model.colour else sample.image[0])]
    else:
        shown = list(zip(model.channels, sample.image, strict=True))
    return [*shown, *([("mask", sample.mask)] if sample.mask is not None else [])]


def _pixels(model: Generator, values: Float32) -> Picture:
    shown = picture.window(values, *model.pixel_range)
    return np.moveaxis(shown, 0, -1) if model.colour else shown


def _label_picture(mask: npt.NDArray[Any], labels: int) -> Picture:
    """Label numbers as grey levels, evenly from black for none to white for the last."""
    return (mask.astype(np.float64) * 255 / labels).round().astype(np.uint8)


def _file_word(label: str) -> str:
    """A label as part of a file's name."""
    return "".join(letter if letter.isalnum() else "_" for letter in label)


def _endings(images: Sequence[tuple[str, Any]]) -> list[str]:
    """What the file name of each image ends with; where two words would end alike, the later has its number, too."""
    found: list[str] = []
    for number, (word, _) in enumerate(images, start=1):
        ending = f"-{_file_word(word)}" if word else ""
        # A dash is in no file word: what has a number is no other's word.
        found.append(f"{ending}-{number}" if ending in found else ending)
    return found


def _predictor(folder: Path) -> Classifier | Segmenter | Translator:
    return LOADED.get(folder, lambda: _loaded(folder))


def _loaded(folder: Path) -> Classifier | Segmenter | Translator:
    given = version.load(folder).description.given
    if given is None or given.kind == "mask":
        return predictor.load(folder)
    made = from_pictures.load(folder)
    assert isinstance(made, Translator)
    return made


def generator_of(folder: Path, truncation: float | None = None, guidance: float | None = None) -> Generator:
    return LOADED.get(
        folder,
        lambda: generator.load(folder, truncation=truncation, guidance=guidance),
        "generator",
        truncation,
        guidance,
    )


def _complaint(model: Classifier | Segmenter | Translator, case: Case) -> str:
    """Why the input is outside the model's card; "" where it is inside."""
    try:
        if isinstance(model, Translator):
            model.check_domain(case.image)
        else:
            model.check_domain(case.image, str(case.datasets[0].get("BodyPartExamined") or ""))
    except OutOfDomain as error:
        return str(error)
    return ""


def _sentences(refused: Sequence[tuple[Case, str]]) -> str:
    return "; ".join(f"series {case.datasets[0].SeriesInstanceUID}: {complaint}" for case, complaint in refused)
