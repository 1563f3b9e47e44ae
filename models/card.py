"""The card of a model version and the report of its evaluation, as Markdown that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.domain import Domain
from models.study import Reading
from models.version import Description, Saw

_AXES = {"volume": ("between slices", "down", "across"), "projection": ("down", "across")}


def card(description: Description, report: Mapping[str, Any]) -> str:
    """docs/README.md: what for, what it saw, where it holds, how well, its limits."""
    saw = description.saw
    channels = "; ".join(
        " ".join(part for part in (channel.name, channel.modality, channel.contrast, f"in {channel.units}") if part)
        for channel in description.channels
    )
    synthetic = f", {saw.synthetic_images} of them synthetic" if saw.synthetic_images else ""
    volumes = description.task == "generation" and len(description.spacing_mm or ()) == 3
    pictures = "volumes" if volumes else "slices"
    lines = [
        f"# {description.name}:{description.version}",
        "",
        f"State: **{description.state}**. {_sentence(report['reason'])}",
        "",
        "Research use only. Not for diagnosis or treatment.",
        "",
        "## What it is for",
        "",
        _purpose(description, channels),
        *(
            [f"Threshold {description.threshold:.3g}, fixed on validation{_aim(description)}."]
            if description.threshold is not None
            else []
        ),
        *_of_whole_studies(description.study),
        *(
            [
                (
                    f"Samples are in {description.units or 'no unit'}, {description.pixel_range[0]:g} to "
                    f"{description.pixel_range[1]:g}, every one synthetic."
                )
            ]
            if description.pixel_range
            else []
        ),
        "",
        "## What it saw",
        "",
        (
            f"Cohort {saw.cohort}: {saw.patients} training and {saw.validation_patients} validation patients, "
            f"{saw.images} training {pictures}{synthetic}; {saw.images_seen} drawn. Split by {saw.split_unit}. "
            f"Recipe {saw.recipe}, seed {saw.seed}. Data hash `{saw.data_hash}`."
        ),
        *_ancestors(saw),
        *_made(description),
        *_members(description),
        "",
        "## Where it holds",
        "",
        *_domain(description.domain, description),
        "",
        "## How well",
        "",
        *figures(report),
        "",
        "## Limits",
        "",
        *_limits(description, report),
        "",
    ]
    return "\n".join(lines)


def _aim(description: Description) -> str:
    if description.task != "classification":
        return ""
    if description.least_sensitivity is not None:
        return f" for a sensitivity of {description.least_sensitivity:g} or more there"
    return " for the best sensitivity plus specificity there"


def _members(description: Description) -> list[str]:
    """Of an ensemble: what it was made of."""
    if not description.members:
        return []
    of = ", ".join(f"`{member.content_hash[:12]}` (seed {member.seed})" for member in description.members)
    mirrors = (
        f", each looking at mirror images ({', '.join(description.mirrored)}), too" if description.mirrored else ""
    )
    return ["", f"An ensemble: the mean of the probabilities of {len(description.members)} runs, {of}{mirrors}."]


def _ancestors(saw: Saw) -> list[str]:
    """What it started from, the nearest first: those patients were seen, too."""
    lines = []
    begun = "It"
    for each in saw.ancestors:
        if not each.cohort:
            known = (
                f"the weights of {each.address} (SHA-256 `{each.content_hash}`), and what they had seen is not known"
            )
            lines += ["", f"{begun} started from {known}."]
            continue
        who = "the same training patients" if each.data_hash == saw.data_hash else f"{each.patients} training patients"
        lines += [
            "",
            (
                f"{begun} started from the weights of {each.address} (content hash `{each.content_hash}`), which had "
                f"seen {who} of cohort {each.cohort}. Data hash `{each.data_hash}`."
            ),
        ]
        begun = each.address
    return lines


def _made(description: Description) -> list[str]:
    count = description.made_embeddings
    fitted = f"to the embeddings of the training images and {count} that SMOTE made between them"
    return ["", f"Its last layer was fitted anew, {fitted}."] if count else []


def _of_whole_studies(reading: Reading | None) -> list[str]:
    if reading is None:
        return []
    fixed = f"calibrated on {reading.studies} studies of validation, threshold {reading.threshold:.3g}"
    return [f"A study is read by {reading.words}, {fixed}."]


def _purpose(description: Description, channels: str) -> str:
    given = description.given
    if given is None:
        of = f", with masks of {', '.join(description.mask_labels)}" if description.mask_labels else ""
        only = f" Only of {description.only_label}." if description.only_label else ""
        labels = ", ".join(_labels(description)) or "none"
        return f"{description.task.capitalize()} of {channels}{of}.{only} Labels: {labels}."
    if given.kind == "mask":
        return f"Pictures of masks: {channels}. Labels of a mask: {', '.join(description.labels[1:])}."
    if given.kind == "coarse":
        return f"Pixels that are {given.factor} times finer, of {channels}."
    return f"{channels}, made of {' and '.join(channel.name for channel in given.channels)}."


def _labels(description: Description) -> list[str]:
    """What a predictor tells apart, or what a generator can be asked for."""
    if description.task != "generation":
        return list(description.labels)
    known = zip(description.labels, description.label_slices, strict=False)
    return [f"{name} ({slices} training slices)" for name, slices in known if slices]


def report(description: Description, report: Mapping[str, Any]) -> str:
    """evaluation/report.md."""
    lines = [
        f"# Evaluation of {description.name}:{description.version}",
        "",
        (
            f"Audit {description.audit_id}. Cohort {report['cohort']}, split `{report['split']}`, split by "
            f"{report['split_unit']}, {report['bootstrap_draws']} bootstrap draws of whole patients. Data hash "
            f"`{report['data_hash']}`."
        ),
        "",
        f"State: **{description.state}**. {_sentence(report['reason'])}",
        "",
        *figures(report),
        "",
        "Every figure with its controls and every patient is in `evaluation.json`.",
        "",
    ]
    return "\n".join(lines)


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."


def _domain(domain: Domain, description: Description) -> list[str]:
    if description.given and description.given.kind == "mask":
        return _field(description)
    axes = _AXES[domain.kind]
    given = description.given
    taken = description.channels if given is None else given.channels
    lines = [f"- a {domain.kind} with {len(taken)} channel(s)"]
    for name, (low, high) in zip(axes, domain.spacing_mm, strict=False):
        lines.append(f"- spacing {name}: {low:.3g} to {high:.3g} mm")
    for name, (low, high) in zip(axes, domain.extent_mm, strict=False):
        lines.append(f"- extent {name}: {low:.3g} to {high:.3g} mm")
    for channel, (low, high) in zip(taken, domain.top_value, strict=False):
        lines.append(f"- 99.5th percentile of {channel.name}: {low:.3g} to {high:.3g} {channel.units}")
    return [*lines, "", "Anything else is refused, or marked out-of-domain where it is forced."]


def _field(description: Description) -> list[str]:
    """Of masks: what they cover, since their pixels are brought to the network's."""
    down, across = description.spacing_mm or (1.0, 1.0)
    return [
        f"- masks of {', '.join(description.labels[1:])}; it makes squares of pixels of {down:.2f} x {across:.2f} mm",
        "",
        "Masks that cover much more or less are refused, or marked out-of-domain where it is forced.",
    ]


def interval_text(value: Mapping[str, float | None]) -> str:
    """Of an interval as reports hold it."""
    if value["value"] is None:
        return "undefined"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def figures(report: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown; first, where there is one, the caution that goes with them."""
    caution = [f"**Caution**: {report['caution']}.", ""] if report.get("caution") else []
    if report.get("given") in ("channels", "coarse"):
        return caution + _translator_figures(report)
    return caution + (_generator_figures if report["task"] == "generation" else _predictor_figures)(report)


def _predictor_figures(report: Mapping[str, Any], of: str = "images") -> list[str]:
    """of: what a classifier's report counts."""
    if report["task"] == "classification":
        beside = {report["baseline"]["name"]: report["baseline"]["metrics"]}
        size = f"{report['images']} {of} of {report['patients']} test patients, prevalence {report['prevalence']:.3f}"
    else:
        beside = report["baselines"]
        size = f"{report['cases']} cases of {report['patients']} test patients"
    return [
        f"{size}, threshold {report['threshold']:.3g}. 95 % intervals in brackets.",
        "",
        "| | model | " + " | ".join(beside) + " |",
        "| --- " * (len(beside) + 2) + "|",
        *(
            f"| {name} | {interval_text(value)} | "
            + " | ".join(interval_text(metrics[name]) for metrics in beside.values())
            + " |"
            for name, value in report["metrics"].items()
        ),
        *_beside_metrics(report),
    ]


def _beside_metrics(report: Mapping[str, Any]) -> list[str]:
    """Of several classes, and of lesions by size; nothing for a report from before they were counted."""
    lines = []
    if "by_class" in report:
        told = {name: interval_text(value) for name, value in report["by_class"].items()}
        classes = len(report["confusion_by_class"])
        lines += ["", f"Of the most probable class: macro F1 {told['macro_f1']}, micro F1 {told['micro_f1']}, balanced"]
        lines[-1] += f" accuracy {told['balanced_accuracy']}."
        lines += ["", "| class | sensitivity | precision | F1 |", "| --- | --- | --- | --- |"]
        names = report["labels"]
        lines += [
            f"| {names[number]} | {told[f'sensitivity_{number}']} | {told[f'precision_{number}']} | "
            f"{told[f'f1_{number}']} |"
            for number in range(classes)
        ]
    if "saliency" in report:
        lines += ["", _of_saliency(report["saliency"])]
    if "by_study" in report:
        whole = report["by_study"]
        lines += ["", f"Studies, each by {whole['rule']}, calibrated on {whole['fixed_on']} studies of validation:", ""]
        lines += _predictor_figures({"task": "classification", **whole}, "studies")
    if "lesions_by_size" in report:
        counted = [f"{each['found']} of {each['lesions']} {size}" for size, each in report["lesions_by_size"].items()]
        lines += ["", f"Lesions found: {', '.join(counted)}."]
    return lines


def _of_saliency(found: Mapping[str, Any]) -> str:
    beside = f"Maps of saliency ({found['method']}) and those of random weights on {found['pictures']} test images:"
    if found["rank_correlation"] is None:
        return f"{beside} they are the same everywhere. They say nothing, and are not made."
    says = "they show what was learned" if found["passed"] else "they show what any network shows, and are not made"
    return f"{beside} rank correlation {found['rank_correlation']:.2f}; {says}."


def _translator_figures(report: Mapping[str, Any]) -> list[str]:
    beside = report["baselines"]
    names = {"absolute_error": "absolute error, share of the range", "psnr_db": "PSNR, dB", "ssim": "SSIM"}
    nearer = "; ".join(f"{name} {interval_text(apart)}" for name, apart in report["difference"].items())
    return [
        (
            f"{report['cases']} cases of {report['patients']} test patients beside their true pictures, and beside "
            "what needs no network. 95 % intervals in brackets."
        ),
        "",
        "| | model | " + " | ".join(beside) + " |",
        "| --- " * (len(beside) + 2) + "|",
        *(
            f"| {words} | {interval_text(report['metrics'][name])} | "
            + " | ".join(interval_text(figures[name]) for figures in beside.values())
            + " |"
            for name, words in names.items()
        ),
        "",
        f"Absolute error below that of: {nearer}.",
    ]


def _generator_figures(report: Mapping[str, Any]) -> list[str]:
    lines = [
        (
            f"{report['samples']} samples (seed {report['seed']}) beside "
            f"{report['fidelity']['held_out_patients']} held-out "
            "patients. Distances are in our own feature spaces and compare with no published figure."
        ),
        "",
        "| feature space | KID to held-out | real-vs-real floor | ratio | blurred | noisy | tells these apart |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, space in report["fidelity"]["spaces"].items():
        ratio = "says nothing" if space["ratio"] is None else f"{space['ratio']:.1f}"
        lines.append(
            f"| {name} | {interval_text(space['kid_to_held_out'])} | {interval_text(space['floor'])} | {ratio} | "
            f"{space['controls']['blurred']:.3f} | {space['controls']['noisy']:.3f} | "
            f"{'yes' if space['usable'] else 'no'} |"
        )
    lines += _distances(report["fidelity"]["spaces"])
    # Reports from before it was measured have none.
    spread = {name: ratio for name, ratio in report.get("spread", {}).items() if ratio is not None}
    if spread:
        of = ", ".join(f"{name} {ratio:.2f}" for name, ratio in spread.items())
        lines += ["", f"Spread within classes, over that of training slices (1: as varied; 0: one picture): {of}."]
    if "masks" in report:
        lines += ["", *_labels_drawn(report["masks"])]
    if "mask" in report:
        lines += ["", *_of_masks(report)]
    lines += [
        "",
        "| feature space | copy rate | planted copies found | held-out flagged | passed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, space in report["privacy"]["spaces"].items():
        flagged = "undefined" if space["held_out_flagged"] is None else f"{space['held_out_flagged']:.3f}"
        lines.append(
            f"| {name.replace('_', ' ')} | {interval_text(space['copy_rate'])} | {space['planted_recall']:.3f} | "
            f"{flagged} | {'yes' if space['passed'] else 'no'} |"
        )
    return lines


def _distances(spaces: Mapping[str, Any]) -> list[str]:
    """Frechet distance, and what samples share with reals; nothing for a report from before they were measured."""
    known = {name: space for name, space in spaces.items() if "frechet" in space}
    if not known:
        return []
    lines = [
        "",
        "| feature space | FD to held-out | to training | real-vs-real floor | FD / floor | covariance | images each |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, space in known.items():
        found = space["frechet"]
        ratio = "says nothing" if found["ratio"] is None else f"{found['ratio']:.1f}"
        lines.append(
            f"| {name} | {found['to_held_out']:.3f} | {found['to_training']:.3f} | {interval_text(found['floor'])} | "
            f"{ratio} | {found['covariance']} | {found['images_each']} |"
        )
    lines += [
        "",
        "| feature space | judged against held-out | precision | recall | density | coverage |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, space in known.items():
        for whose in ("samples", "training"):
            numbers = space["neighbours"][whose].values()
            told = " | ".join("undefined" if number is None else f"{number:.2f}" for number in numbers)
            lines.append(f"| {name} | {whose if whose == 'samples' else 'training images'} | {told} |")
    return lines


def _labels_drawn(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| label of the mask | on samples | on held-out pictures | pixels, samples | pixels, held-out |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, beside in found.items():
        shares = " | ".join(f"{beside[whose]['share']:.0%}" for whose in ("samples", "real"))
        pixels = (beside[whose]["pixels"] for whose in ("samples", "real"))
        sizes = " | ".join("none" if each is None else f"{each:g}" for each in pixels)
        lines.append(f"| {name} | {shares} | {sizes} |")
    return [*lines, "", "Pixels: the median over the pictures that show the label."]


def _of_masks(report: Mapping[str, Any]) -> list[str]:
    dice = {name: "undefined" if value is None else f"{value:.3f}" for name, value in report["mask"].items()}
    copies = [
        f"{name.replace('_', ' ')} {interval_text(space['copy_rate'])}"
        for name, space in report["privacy_of_training_masks"]["spaces"].items()
    ]
    text = (
        f"Pictures are of test patients' masks. A rule of brightness finds the labels with a Dice of {dice['made']} on "
        f"them, and of {dice['real']} on the real slices. Pictures of one mask vary {report['style']:.2f} times as "
        f"much as real slices do. Copy rate of pictures of training patients' masks: {', '.join(copies)}."
    )
    return [text]


def _limits(description: Description, report: Mapping[str, Any]) -> list[str]:
    saw = description.saw
    lines = []
    if saw.split_unit != "patient":
        lines.append(f"- Split by {saw.split_unit}: training and test may share patients. Teaching only.")
    if description.task == "generation" and saw.patients < 20:
        lines.append(f"- {saw.patients} training patients are few: expect near copies and little variety.")
    if report["synthetic_test_images"]:
        lines.append(f"- {report['synthetic_test_images']} of {report['test_items']} test items are synthetic.")
    for each in saw.ancestors:
        if each.data_hash not in ("", saw.data_hash) and description.task == "generation":
            lines.append(
                f"- The copy test looks for patients of cohort {saw.cohort}, not for those of {each.cohort}, whom "
                f"{each.address} had seen."
            )
    if saw.synthetic_images or any(each.synthetic_images for each in saw.ancestors):
        lines.append("- Trained on synthetic images too.")
    if description.task != "generation" and report["patients"] < 20:
        lines.append(f"- {report['patients']} test patients are few: intervals are wide and may be too narrow still.")
    given = description.given
    if given and given.kind == "coarse":
        lines.append(
            "- Learned from pixels that were averaged by a computer, not from a scanner's wider ones: what it adds was "
            "never measured."
        )
    elif given and given.kind == "channels":
        lines.append("- What the given images do not show cannot be known: lesions may be lost, or made up.")
    elif given:
        lines.append("- What is not drawn in the mask comes from the code, slice by slice: slices are no one volume.")
    lines.append("- One cohort, one way of acquisition: expect less elsewhere.")
    return lines
