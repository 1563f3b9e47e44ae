"""The figures of a generator, in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.reports import plots
from models.reports.parts import Part, Table, Text, interval_text

Report = Mapping[str, Any]


def parts(report: Report) -> list[Part]:
    words = (
        f"{report['samples']} samples (seed {report['seed']}) beside {report['fidelity']['held_out_patients']} "
        "held-out patients. Distances are in our own feature spaces and compare with no published figure."
    )
    spaces = report["fidelity"]["spaces"]
    told: list[Part] = [Text(words), _kernel_distance(spaces), *plots.of_generator(report), *_distances(spaces)]
    # Reports from before it was measured have none.
    spread = {name: ratio for name, ratio in report.get("spread", {}).items() if ratio is not None}
    if spread:
        of = ", ".join(f"{name} {ratio:.2f}" for name, ratio in spread.items())
        told.append(Text(f"Spread within classes, over that of training slices (1: as varied; 0: one picture): {of}."))
    if "masks" in report:
        told += _labels_drawn(report["masks"])
    if "mask" in report:
        told.append(_of_masks(report))
    return [*told, _copies(report["privacy"]["spaces"])]


def _kernel_distance(spaces: Report) -> Table:
    head = ("feature space", "KID to held-out", "real-vs-real floor", "ratio", "blurred", "noisy", "tells these apart")
    rows = tuple(
        (
            name,
            interval_text(space["kid_to_held_out"]),
            interval_text(space["floor"]),
            _ratio(space["ratio"]),
            f"{space['controls']['blurred']:.3f}",
            f"{space['controls']['noisy']:.3f}",
            "yes" if space["usable"] else "no",
        )
        for name, space in spaces.items()
    )
    return Table(head, rows)


def _ratio(ratio: float | None) -> str:
    return "says nothing" if ratio is None else f"{ratio:.1f}"


def _distances(spaces: Report) -> list[Part]:
    """Frechet distance, and what samples share with reals; nothing for a report from before they were measured."""
    known = {name: space for name, space in spaces.items() if "frechet" in space}
    if not known:
        return []
    far = (
        "feature space",
        "FD to held-out",
        "to training",
        "real-vs-real floor",
        "FD / floor",
        "covariance",
        "images each",
    )
    distances = tuple(_frechet(name, space["frechet"]) for name, space in known.items())
    shared = ("feature space", "judged against held-out", "precision", "recall", "density", "coverage")
    neighbours = tuple(
        (
            name,
            "samples" if whose == "samples" else "training images",
            *map(_share, space["neighbours"][whose].values()),
        )
        for name, space in known.items()
        for whose in ("samples", "training")
    )
    return [Table(far, distances), Table(shared, neighbours)]


def _frechet(name: str, found: Report) -> tuple[str, ...]:
    near = (f"{found['to_held_out']:.3f}", f"{found['to_training']:.3f}", interval_text(found["floor"]))
    return (name, *near, _ratio(found["ratio"]), found["covariance"], str(found["images_each"]))


def _share(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.2f}"


def _copies(spaces: Report) -> Table:
    head = ("feature space", "copy rate", "planted copies found", "held-out flagged", "passed")
    rows = tuple(
        (
            name.replace("_", " "),
            interval_text(space["copy_rate"]),
            f"{space['planted_recall']:.3f}",
            "undefined" if space["held_out_flagged"] is None else f"{space['held_out_flagged']:.3f}",
            "yes" if space["passed"] else "no",
        )
        for name, space in spaces.items()
    )
    return Table(head, rows)


def _labels_drawn(found: Report) -> list[Part]:
    head = ("label of the mask", "on samples", "on held-out pictures", "pixels, samples", "pixels, held-out")
    both = ("samples", "real")
    rows = tuple(
        (
            name,
            *(f"{beside[whose]['share']:.0%}" for whose in both),
            *("none" if beside[whose]["pixels"] is None else f"{beside[whose]['pixels']:g}" for whose in both),
        )
        for name, beside in found.items()
    )
    return [Table(head, rows), Text("Pixels: the median over the pictures that show the label.")]


def _of_masks(report: Report) -> Text:
    dice = {name: "undefined" if value is None else f"{value:.3f}" for name, value in report["mask"].items()}
    copies = [
        f"{name.replace('_', ' ')} {interval_text(space['copy_rate'])}"
        for name, space in report["privacy_of_training_masks"]["spaces"].items()
    ]
    return Text(
        f"Pictures are of test patients' masks. A rule of brightness finds the labels with a Dice of {dice['made']} on "
        f"them, and of {dice['real']} on the real slices. Pictures of one mask vary {report['style']:.2f} times as "
        f"much as real slices do. Copy rate of pictures of training patients' masks: {', '.join(copies)}."
    )
