"""The card of a model version, as Markdown that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.domain import Domain
from models.reports import figures
from models.reports.document import sentence
from models.reports.parts import markdown
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
        f"State: **{description.state}**. {sentence(report['reason'])}",
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
        *markdown(figures.parts(report)),
        "",
        "## Limits",
        "",
        *_limits(description, report),
        "",
        *(["## How it is served", "", description.engine.words, ""] if description.engine else []),
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


def _domain(domain: Domain, description: Description) -> list[str]:
    if description.given and description.given.kind == "mask":
        return _field(description)
    axes = _AXES[domain.kind]
    given = description.given
    taken = description.channels if given is None else given.channels
    lines = [f"- a {domain.kind} with {len(taken)} channel(s)"]
    if domain.body_parts:
        lines.append(f"- body part {', '.join(domain.body_parts)}, where an image says one")
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
