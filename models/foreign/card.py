"""The card of a version that was made elsewhere: what its makers say, what is known here, and what is not."""

from __future__ import annotations

from models.foreign.decision import Decision
from models.foreign.origin import Foreign, Origin
from models.version import Description


def card(description: Description, foreign: Foreign) -> str:
    """docs/README.md."""
    origin = foreign.origin
    channels = "; ".join(
        " ".join(part for part in (channel.name, channel.modality, channel.contrast, f"in {channel.units}") if part)
        for channel in description.channels
    )
    lines = [
        f"# {description.name}:{description.version}",
        "",
        f"State: **{description.state}**. It was made elsewhere, and nothing of it was measured here.",
        "",
        "Research use only. Not for diagnosis or treatment.",
        "",
        "## What it is for",
        "",
        f"{description.task.capitalize()} of {_escaped(channels)}. Labels: {_escaped(', '.join(description.labels))}.",
        _decided(foreign.decision, description),
        "",
        "## What its makers say",
        "",
        *_said(origin),
        "",
        "## What is known here",
        "",
        f"- Imported from a bundle with the hash `{origin.bundle_hash}`, weights `models/{origin.weights}`.",
        "- Network, input chain, inferer and decision were read from its configuration; nothing of it was run.",
        f"- It takes a {description.domain.kind} with {len(description.channels)} channel(s).",
        "",
        "## What is not known",
        "",
        "- What it was trained on, and whose images: test patients of any cohort here may have been among them.",
        "- Where it holds: spacing, extent and intensities of its training images. No image is refused for them.",
        *_unturned(description, foreign),
        "- How well it does here: `mirall evaluate` measures it on a cohort. Its probabilities are not calibrated.",
        "",
    ]
    return "\n".join(lines)


def _unturned(description: Description, foreign: Foreign) -> list[str]:
    if description.task != "segmentation" or any(step["_target_"] == "Orientationd" for step in foreign.chain):
        return []
    axes = "columns, rows, slices" if foreign.files_first else "slices, rows, columns"
    return [
        (
            f"- How its images lay: it does not turn them, and is given their axes as {axes}, as DICOM has them. Files "
            "that were flipped on the way lay otherwise."
        )
    ]


def _decided(decision: Decision, description: Description) -> str:
    if decision.threshold is None:
        how = "The most probable class is taken" if decision.activation == "softmax" else "Each class has a probability"
        return f"{how}; no threshold was fixed on validation."
    of = f", of overlapping channels painted over one another ({len(decision.painted)})" if decision.painted else ""
    return f"Threshold {decision.threshold:g}, as its makers set it{of}; none was fixed on validation here."


def _said(origin: Origin) -> list[str]:
    said = {
        "Name": f"{origin.name} {origin.version}".strip(),
        "Task": origin.task,
        "Description": origin.description,
        "Authors": origin.authors,
        "Copyright": origin.copyright,
        "Licence": origin.license,
        "Data": origin.data_source,
        "Intended use": origin.intended_use,
        "Figures of theirs": ", ".join(f"{name} {value}" for name, value in origin.claims.items()),
    }
    return [f"- {name}: {_escaped(words) if words else 'not said'}" for name, words in said.items()]


def _escaped(words: str) -> str:
    """Words of others as words, whatever Markdown or HTML they would be."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|!" else letter for letter in words)
