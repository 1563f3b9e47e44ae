"""A model (a finished run or a released version) on the test patients of a cohort, as plain JSON-ready figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.volume import Volume
from models import answers, cases, coarse, from_pictures, generator, networks, predictor, saliency, study, version
from models.cases import Case
from models.evaluation import agreement, classification, fidelity, label_shares, privacy, segmentation, trivial
from models.evaluation.agreement import Compared
from models.evaluation.bootstrap import FEWEST_PATIENTS
from models.evaluation.features import ContentFeatures, EncodedFeatures, RandomFeatures
from models.evaluation.segmentation import Pair
from models.evaluation.subsets import evenly
from models.from_pictures import Painter, Translator
from models.networks.from_picture import FromPicture
from models.study import Reading
from models.training import couples, pictures
from models.version import ModelVersion

AUDIT_SEED = 20261120

_ELSEWHERE = (
    "test patients may have been trained on: the model was made elsewhere, and nobody here knows of what; the figures "
    "count only where no patient is in both"
)


def evaluate(folder: Path, cohort: Cohort, *, draws: int = 2000, tolerance_mm: float | None = None) -> dict[str, Any]:
    """Measure on the cohort's test split; see the modules under `models.evaluation` for the figures.

    Another cohort than the one that was trained on is measured, too. But its split knows nothing of the training, and
    its pseudonyms may be of another key, so nobody can tell whether patients are in both. The report says so:
    `trained_on_this_cohort` is False and `caution` a sentence (else ""). There is one, too, where a model that it
    started from was trained on another cohort.

    tolerance_mm: of a segmenter's surfaces; None for 2.

    Raises:
        Rejected: the cohort has another task or channels, or no test images; a tolerance for what draws no surfaces.
    """
    model = require_fit(folder, cohort)
    task, known = model.description.task, model.description.given
    if tolerance_mm is not None and task != "segmentation":
        raise Rejected(f"{model.identity.address} is for {task}, and a tolerance is of surfaces; leave it out")
    measures: dict[str, Callable[[Path, Cohort, int], dict[str, Any]]] = {
        "classification": _classifier,
        "segmentation": partial(_segmenter, tolerance_mm=tolerance_mm or segmentation.TOLERANCE_MM),
        "generation": _generator,
    }
    measure = _pictures_of_pictures if known else measures[task]
    report: dict[str, Any] = {
        "task": task,
        "cohort": cohort.name,
        "data_hash": cohort.data_hash,
        "trained_on_this_cohort": model.description.saw.data_hash == cohort.data_hash,
        "caution": caution_of(model.description.saw, cohort),
        "split_unit": cohort.split_unit,
        "split": "test",
        "synthetic_test_images": sum(item.synthetic for item in cohort.test),
        "test_items": len(cohort.test),
        "bootstrap_draws": draws,
    }
    return report | measure(folder, cohort, draws)


def require_fit(folder: Path, cohort: Cohort) -> ModelVersion:
    """The model, where it can be measured on the cohort's test split.

    Raises:
        Rejected: the cohort has another task or channels, or no test images.
    """
    model = version.load(folder)
    task = model.description.task
    if task not in (cohort.task, "generation"):
        raise Rejected(f"{model.identity.address} is for {task}, cohort {cohort.name!r} for {cohort.task}")
    known = model.description.given
    wanted = model.description.channels + (known.channels if known else ())
    # A generator's channels are taken by name, a predictor's in the cohort's order.
    given = set(wanted) <= set(cohort.channels) if task == "generation" else cohort.channels[: len(wanted)] == wanted
    if not given:
        names = ", ".join(channel.name for channel in wanted)
        raise Rejected(f"{model.identity.address} needs channels {names}, which cohort {cohort.name!r} does not give")
    if not cohort.test:
        raise Rejected(f"cohort {cohort.name!r} has no test images; import it with a share for the test split")
    return model


def caution_of(saw: version.Saw, cohort: Cohort) -> str:
    """A sentence where the model, or what it started from, was trained on another cohort, or elsewhere; else ""."""
    if not saw.data_hash:
        return _ELSEWHERE
    seen = {"the model": saw} | {f"{each.address}, which it started from,": each for each in saw.ancestors}
    others = [
        f"{who} was trained on cohort {each.cohort!r} with data hash {each.data_hash[:12]}"
        for who, each in seen.items()
        # Of weights from a file nobody knows what they had seen; the card says so.
        if each.data_hash not in ("", cohort.data_hash)
    ]
    if not others:
        return ""
    return (
        f"test patients may have been trained on: {', and '.join(others)}, and this is {cohort.name!r} with "
        f"{cohort.data_hash[:12]}, whose split was made without regard to that training; the figures count only where "
        "no patient is in both"
    )


def _classifier(folder: Path, cohort: Cohort, draws: int) -> dict[str, Any]:
    model = predictor.load(folder)
    assert isinstance(model, predictor.Classifier)
    seen = answers.on_images(model, cohort)
    # Another cohort's class numbers may mean something else; then only "any class but the first" can be measured.
    alike = cohort.labels == model.labels
    report = classification.evaluate(
        seen.probabilities.astype(np.float64),
        seen.labels,
        seen.patients,
        threshold=model.threshold,
        prevalence=_prevalence(cohort.training),
        draws=draws,
        by_class=alike,
        stated=[item.groups for item in seen.items],
    )
    reading = model.description.study
    if reading is not None and len(set(seen.studies)) < len(seen.studies):
        report["by_study"] = _of_studies(reading, seen, cohort, draws)
    if model.description.foreign is None:
        report["saliency"] = _saliency(model, cohort)
    return {"labels": list(model.labels) if alike else []} | report


def _saliency(model: predictor.Classifier, cohort: Cohort) -> Mapping[str, Any]:
    """Whether maps of saliency show what was learned, on test images; see `saliency.sanity`."""
    definition, chain = model.model.network_definition, model.model.model_input
    found = cases.load(cohort, cohort.test, chain, masks=False, labels=False)
    images = [picture for case in found for picture in case.image.transpose(0, 1)]
    return saliency.sanity(model.network, lambda: networks.build(definition), images)


def _of_studies(reading: Reading, seen: answers.Classed, cohort: Cohort, draws: int) -> dict[str, Any]:
    """The figures of whole studies by the version's rule; a study is positive where one of its pictures is."""
    studies = seen.studies
    owners = dict(zip(studies, seen.patients, strict=True))
    p = np.array([reading.probability(each) for each in study.in_studies(seen.suspicions, studies).values()])
    positive = (seen.labels > 0).astype(np.float64)
    truth = np.array([each.any() for each in study.in_studies(positive, studies).values()])
    return {"rule": reading.words, "fixed_on": reading.studies} | classification.evaluate(
        np.stack([1 - p, p], 1),
        truth.astype(np.int64),
        [owners[name] for name in owners],
        threshold=reading.threshold,
        prevalence=_prevalence_of_studies(cohort.training),
        draws=draws,
    )


def _prevalence(items: Sequence[Item]) -> float:
    """Share of positives in training, from the data list alone."""
    labels = [label for item in items for label in (item.slice_labels or ((item.label or 0),))]
    return float(np.mean(np.array(labels) > 0))


def _prevalence_of_studies(items: Sequence[Item]) -> float:
    positive: dict[str, bool] = {}
    for item in items:
        found = max(item.slice_labels or ((item.label or 0),)) > 0
        positive[study.study_of(item)] = positive.get(study.study_of(item), False) or found
    return float(np.mean([*positive.values()]))


def _segmenter(folder: Path, cohort: Cohort, draws: int, tolerance_mm: float) -> dict[str, Any]:
    model = predictor.load(folder)
    assert isinstance(model, predictor.Segmenter)
    steps = model.model.model_input
    training = cases.load(cohort, cohort.training, steps)
    rule = segmentation.brightness_rule(
        [case.image.numpy() for case in training], [case.mask.numpy() > 0 for case in training if case.mask is not None]
    )
    name = cohort.channels[rule.channel].name
    by_brightness = f"{name} {'above' if rule.above else 'below'} {rule.cut:.3g} (chosen on training)"
    ours = answers.on_volumes(model, cohort)
    baselines: dict[str, list[Pair]] = {"everything is foreground": [], by_brightness: []}
    for case in cases.load(cohort, cohort.test, steps):
        assert isinstance(case.source, Volume) and case.mask is not None
        truth, spacing = case.mask.numpy() > 0, case.source.spacing_mm
        guesses = (np.ones_like(truth), rule.mask(case.image.numpy()))
        for masks, guess in zip(baselines.values(), guesses, strict=True):
            masks.append(Pair(case.patient, guess, truth, spacing))
    stated = [item.groups for item in cohort.test]
    return segmentation.evaluate(
        ours, baselines, threshold=model.threshold, draws=draws, stated=stated, tolerance_mm=tolerance_mm
    )


def _generator(folder: Path, cohort: Cohort, draws: int) -> dict[str, Any]:
    model = generator.load(folder)
    description = model.model.description
    px = int(model.model.network_definition["image_px"])

    # Another cohort's class numbers may mean something else; then the spread is that of all classes together.
    labels = bool(model.labels) and cohort.labels == description.labels

    view = pictures.View(model.channels, model.mask_labels, description.only_label, labels, model.dims)

    def real(items: Sequence[Item]) -> cases.Squares:
        return view.read(cohort, items, model.model.model_input, px, description.minimum_signal)[1]

    # Classes, where there are any, come in the shares that training had.
    synthetic = torch.from_numpy(np.stack([*model.pictures(description.audit_samples, AUDIT_SEED)]))
    training, held_out = real(cohort.training), real(cohort.test)
    if min(len(training), len(held_out)) < 2:
        raise Rejected(f"cohort {cohort.name!r} has too few slices above minimum_signal for an evaluation")
    numbers = [model.class_of(AUDIT_SEED, index) for index in range(description.audit_samples)]
    return {
        "seed": AUDIT_SEED,
        "samples": description.audit_samples,
        **measured(synthetic, numbers, training, held_out, description.labels, draws, model.mask_labels),
    }


def measured(
    synthetic: torch.Tensor,
    numbers: Sequence[int | None],
    training: cases.Squares,
    held_out: cases.Squares,
    names: Sequence[str],
    draws: int,
    mask_labels: Sequence[str] = (),
) -> dict[str, Any]:
    """The figures of pictures, wherever they come from: spread, fidelity, privacy, and masks where they have some.

    synthetic: as the images of `training`. numbers: the class of each, an index into `names`, or None. mask_labels: of
    the last planes.
    """
    encoded, content = EncodedFeatures(training.images), ContentFeatures(training.images)
    seen, unseen = (training.images, training.patients), (held_out.images, held_out.patients)
    return {
        "spread": _spread(synthetic, numbers, training, names),
        "fidelity": fidelity.evaluate(synthetic, seen, unseen, [RandomFeatures(training.planes), encoded], draws=draws),
        "privacy": privacy.evaluate(synthetic, training.images, unseen, [privacy.small_pixels, content], draws=draws),
        **_labels_of(synthetic, held_out, mask_labels),
    }


def _labels_of(synthetic: torch.Tensor, held_out: cases.Squares, names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {}
    made, real = (images[:, -len(names) :] for images in (synthetic, held_out.images))
    return {"masks": label_shares.evaluate(made, real, names)}


def _spread(
    synthetic: torch.Tensor, numbers: Sequence[int | None], real: cases.Squares, names: Sequence[str]
) -> dict[str, float | None]:
    """By class, or of all together where there are none: see `fidelity.spread`; None where it is undefined."""
    features = RandomFeatures(real.planes)
    if real.labels is None:
        ratios = {"all": fidelity.spread(features(synthetic), features(real.images))}
    else:
        of = torch.tensor([-1 if number is None else number for number in numbers])
        ratios = {
            names[label]: fidelity.spread(features(synthetic[of == label]), features(real.images[real.labels == label]))
            for label in sorted(set(real.labels.tolist()) & set(of.tolist()))
        }
    return {name: None if np.isnan(ratio) else round(ratio, 4) for name, ratio in ratios.items()}


def _pictures_of_pictures(folder: Path, cohort: Cohort, draws: int) -> dict[str, Any]:
    given = version.load(folder).description.given
    if given and given.kind == "itself":
        return {"given": "itself"} | _variation(folder, cohort, draws)
    model = from_pictures.load(folder)
    measure = _painter(model, cohort, draws) if isinstance(model, Painter) else _translator(model, cohort, draws)
    return {"given": model.given.kind} | measure


def _translator(model: Translator, cohort: Cohort, draws: int) -> dict[str, Any]:
    """Beside the true picture of every test case, by the way that serving goes; and the baselines' beside it.

    There is no copy audit: what is made shows the patient that it was made of.
    """
    steps, factor = model.model.model_input, model.factor
    given, made = (couples.view(cohort, channels) for channels in (model.channels, model.description.channels))
    shown, wanted = (
        _pixels_of(cases.load(each, each.training, steps, masks=False, labels=False)) for each in (given, made)
    )
    simple = trivial.baselines(shown, wanted, [channel.name for channel in model.channels], factor)
    compared = []
    for item, truth in zip(given.test, made.test, strict=True):
        (case,) = cases.load(made, [truth], steps, masks=False, labels=False)
        source = cohorts.load_image(given, item)
        source = coarse.coarser(source, factor) if factor > 1 else source
        shown = model.slices(source)
        true = case.image
        if factor > 1:
            true = coarse.on_scale_of(shown.transpose(0, 1), source, case.source, factor)
        beside = {name: each(shown) for name, each in simple.items()}
        compared.append(Compared(case.patient, model.pictures(source), true.transpose(0, 1), beside))
    return agreement.evaluate(compared, draws=draws)


def _variation(folder: Path, cohort: Cohort, draws: int) -> dict[str, Any]:
    """The figures of every generator, of variations of training pictures, evenly chosen: what the study counted among
    its new pictures. The copy audit finds how many are the old ones."""
    model = version.load(folder)
    description, network = model.description, model.network()
    assert isinstance(network, FromPicture)
    view = pictures.View(tuple(channel.name for channel in description.channels), (), description.only_label, False)
    training, held_out = (
        view.read(cohort, items, model.model_input, model.network_definition["image_px"], description.minimum_signal)[1]
        for items in (cohort.training, cohort.test)
    )
    count = description.audit_samples
    chosen = training.take(evenly(len(training), count))
    sources = [generator.source_of(AUDIT_SEED, index) for index in range(count)]
    made = [network.make_from(given, source) for given, source in zip(chosen, sources, strict=False)]
    report = {"seed": AUDIT_SEED, "samples": len(made)}
    return report | measured(torch.stack(made), [None] * len(made), training, held_out, (), draws)


def _pixels_of(found: Sequence[Case]) -> torch.Tensor:
    """(1, channels, 1, n): all pixels of all cases, of whatever sizes."""
    return torch.cat([case.image.flatten(1) for case in found], 1)[None, :, None]


def _painter(model: Painter, cohort: Cohort, draws: int) -> dict[str, Any]:
    """The figures of every generator, of pictures of the test patients' masks; and of training patients' masks, which
    is where a copy would come from. style: how much pictures of one mask differ, over how much real ones do.

    mask: where the strongest rule of brightness, found on real training slices, sees the labels: its Dice with the mask
    on pictures of test masks, beside that on the real slices of the same masks.
    """
    description, labels = model.description, len(model.labels)
    made = couples.view(cohort, description.channels)
    view = pictures.View(model.made, model.labels, None, False)
    training, held_out = (
        view.read(made, items, model.model.model_input, model.image_px, description.minimum_signal)[1]
        for items in (made.training, made.test)
    )

    def painted(masks: torch.Tensor, count: int) -> torch.Tensor:
        """`count` pictures of masks, evenly chosen, each in a style of its own."""
        chosen = torch.linspace(0, len(masks) - 1, count).round().long()
        sources = [generator.source_of(AUDIT_SEED, index) for index in range(count)]
        return torch.stack([model.network.make_from(masks[at], one) for at, one in zip(chosen, sources, strict=True)])

    count = description.audit_samples
    real, masks = held_out.images[:, :-labels], held_out.images[:, -labels:]
    seen = replace(training, stored=training.images[:, :-labels], mask_planes=0)
    synthetic = painted(masks, count)
    report = {"seed": AUDIT_SEED, "samples": count}
    report |= measured(synthetic, [None] * count, seen, replace(held_out, stored=real, mask_planes=0), (), draws)
    of_training = painted(training.images[:, -labels:], count)
    spaces: list[privacy.Space] = [privacy.small_pixels, ContentFeatures(seen.images)]
    audit = privacy.evaluate(of_training, seen.images, (real, held_out.patients), spaces, draws=draws)
    styles = painted(masks[masks.amax((1, 2, 3)).argmax()][None], 16)
    features = RandomFeatures(real.shape[1])
    return report | {
        "privacy_of_training_masks": audit,
        "style": round(fidelity.spread(features(styles), features(real)), 4),
        "mask": _mask_kept(training, masks, real, synthetic),
    }


def _mask_kept(
    training: cases.Squares, masks: torch.Tensor, real: torch.Tensor, synthetic: torch.Tensor
) -> dict[str, float | None]:
    labels = masks.shape[1]
    rule = segmentation.brightness_rule(
        [each[:-labels].numpy() for each in training.images], [_drawn(each[-labels:]) for each in training.images]
    )
    chosen = torch.linspace(0, len(masks) - 1, len(synthetic)).round().long()
    drawn = [_drawn(each) for each in masks]

    def agrees(shown: torch.Tensor, numbers: Sequence[int]) -> float | None:
        found = [segmentation.dice(rule.mask(one.numpy()), drawn[at]) for one, at in zip(shown, numbers, strict=True)]
        found = [one for one, at in zip(found, numbers, strict=True) if drawn[at].any()]
        return round(float(np.mean(found)), 4) if found else None

    return {"real": agrees(real, range(len(real))), "made": agrees(synthetic, chosen.tolist())}


def _drawn(planes: torch.Tensor) -> segmentation.Mask:
    """(labels, rows, columns) -> (rows, columns): where some label covers half of a pixel."""
    mask: segmentation.Mask = (planes.amax(0) > 0).numpy()
    return mask


def verdict(report: dict[str, Any]) -> tuple[str, str]:
    """(state, reason) of a version with this evaluation (promise 6).

    proven: a predictor whose lower 95 % bound beats every trivial baseline on enough real test patients.
    """
    if report["split_unit"] != "patient":
        return "teaching", f"the split is by {report['split_unit']}, not by patient, so figures may be inflated"
    if report.get("given") == "itself":
        return "unproven", "pictures are variations of patients' own, which repeat them"
    if report.get("given", "mask") != "mask":
        return "unproven", "nearness to the truth does not show that nothing which matters was lost or made up"
    if report["task"] == "generation":
        return "unproven", "fidelity and a copy test do not yet show that synthetic images help or leak nobody"
    if report["synthetic_test_images"]:
        return "unproven", "test images are synthetic, which proves nothing about patients"
    if report["patients"] < FEWEST_PATIENTS:
        return "unproven", f"{report['patients']} test patients are fewer than {FEWEST_PATIENTS}"
    if not report["beats_baseline"]:
        return "unproven", "the lower 95 % bound does not beat the trivial baselines"
    return "proven", f"the lower 95 % bound beats the trivial baselines on {report['patients']} test patients"
