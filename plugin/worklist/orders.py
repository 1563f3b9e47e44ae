"""What a workitem asks of Mirall: a prediction or a generation, in codes of our own (coding scheme 99MIRALL).

    Scheduled Workitem Code Sequence (0040,4018)          (predict, 99MIRALL) or (generate, 99MIRALL)
    Scheduled Processing Parameters Sequence (0074,1210)  content items (PS3.3 10.2) with these concept names:
        (model, 99MIRALL)        TEXT     NAME:VERSION, or NAME for the version that was released last
        (destination, 99MIRALL)  TEXT     a configured destination for the results; may repeat
        (samples, 99MIRALL)      NUMERIC  how many (generate; 1 where absent)
        (seed, 99MIRALL)         NUMERIC  of the first sample (generate; 0 where absent)
        (label, 99MIRALL)        TEXT     a class of the generator (generate)
    Input Information Sequence (0040,4021)                the study and, where not all of it, its series (predict)

Workitems with other codes are for others to perform.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection

from dicom_io.errors import Rejected
from plugin.jobs.port import Jobs
from plugin.registry import Registry
from plugin.worklist.elements import Attributes, code, elements, items, text

SCHEME = "99MIRALL"
PREDICT = code("predict", SCHEME, "Predict with a model version")
GENERATE = code("generate", SCHEME, "Generate synthetic samples")
MODEL = code("model", SCHEME, "Model version")
DESTINATION = code("destination", SCHEME, "Destination of the results")
SAMPLES = code("samples", SCHEME, "Number of samples")
SEED = code("seed", SCHEME, "Seed of the first sample")
LABEL = code("label", SCHEME, "Class")

_MAXIMUM_SAMPLES = 10_000


class BadOrder(Rejected):
    """A workitem asks for something of ours that cannot be done."""


@dataclass(frozen=True)
class Order:
    """One piece of work. study, series: input of a prediction; samples, seed, label: of a generation."""

    kind: Literal["predict", "generate"]
    model: str
    send_to: tuple[str, ...] = ()
    study: str = ""
    series: tuple[str, ...] = ()
    samples: int = 1
    seed: int = 0
    label: str | None = None

    def enqueue(self, jobs: Jobs, connection: Connection) -> str:
        """Make it a job, in the caller's transaction; gives the job's id. Raises NoSuchJob: the input is not there."""
        if self.kind == "generate":
            return jobs.enqueue_generation(
                self.model,
                n=self.samples,
                seed=self.seed,
                label=self.label,
                send_to=self.send_to,
                connection=connection,
            )
        return jobs.enqueue_prediction(
            self.study, self.model, series=self.series, send_to=self.send_to, connection=connection
        )


def is_ours(attributes: Attributes) -> bool:
    """One of our codes is scheduled."""
    return _kind(attributes) is not None


def order_of(attributes: Attributes, registry: Registry, destinations: Collection[str]) -> Order:
    """What a workitem with one of our codes asks for.

    Raises:
        BadOrder: something is missing, malformed or names an unknown destination.
        UnknownModel: no such model version is released.
    """
    kind = _kind(attributes)
    assert kind is not None
    given = _parameters(attributes)
    models = [name for name in given.get("model", []) if name]
    if len(models) != 1:
        raise BadOrder("the workitem names no model version; add a content item (model, 99MIRALL) with NAME:VERSION")
    model = registry.resolve(models[0]).identity.address
    send_to = tuple(given.get("destination", []))
    unknown = sorted(set(send_to) - set(destinations))
    if unknown:
        known = ", ".join(sorted(destinations)) or "none"
        raise BadOrder(f"there is no destination {unknown[0]!r}; configured are: {known}")
    if kind == "generate":
        samples, seed = _number(given, "samples", 1), _number(given, "seed", 0)
        if not 1 <= samples <= _MAXIMUM_SAMPLES:
            raise BadOrder(f"{samples} samples cannot be asked for; ask for 1 to {_MAXIMUM_SAMPLES}")
        return Order(kind, model, send_to, samples=samples, seed=seed, label=next(iter(given.get("label", [])), None))
    study, series = _input(attributes)
    return Order(kind, model, send_to, study=study, series=series)


def parameters_of(values: Iterable[tuple[Attributes, str | int]]) -> list[Attributes]:
    """Content items of a processing parameters sequence: (concept name, value)."""
    return [_content_item(name, value) for name, value in values]


def _content_item(name: Attributes, value: str | int) -> Attributes:
    kind = {"ValueType": "TEXT", "TextValue": value} if isinstance(value, str) else {"ValueType": "NUMERIC"}
    number: dict[str, Any] = {}
    if isinstance(value, int):
        number = {"NumericValue": value, "MeasurementUnitsCodeSequence": code("1", "UCUM", "no units")}
    return elements(ConceptNameCodeSequence=name, **kind, **number)


def _kind(attributes: Attributes) -> Literal["predict", "generate"] | None:
    for item in items(attributes, "ScheduledWorkitemCodeSequence"):
        if text(item, "CodingSchemeDesignator") == SCHEME:
            if text(item, "CodeValue") == "predict":
                return "predict"
            if text(item, "CodeValue") == "generate":
                return "generate"
    return None


def _parameters(attributes: Attributes) -> dict[str, list[str]]:
    """Values of our content items, by the code of their name."""
    found: dict[str, list[str]] = {}
    for item in items(attributes, "ScheduledProcessingParametersSequence"):
        for name in items(item, "ConceptNameCodeSequence"):
            if text(name, "CodingSchemeDesignator") == SCHEME:
                value = text(item, "TextValue") or text(item, "NumericValue")
                found.setdefault(text(name, "CodeValue"), []).append(value.strip())
    return found


def _number(given: dict[str, list[str]], name: str, default: int) -> int:
    values = given.get(name, [str(default)])
    try:
        number = float(values[0])
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise BadOrder(f"({name}, 99MIRALL) is {values[0]!r}, which is no whole number from 0; correct it")
    return int(number)


def _input(attributes: Attributes) -> tuple[str, tuple[str, ...]]:
    """Study and series of Input Information; the workitem's own Study Instance UID where it names none."""
    named = items(attributes, "InputInformationSequence")
    studies = {text(item, "StudyInstanceUID") for item in named} - {""}
    series = [uid for item in named if (uid := text(item, "SeriesInstanceUID"))]
    studies = studies or ({text(attributes, "StudyInstanceUID")} - {""})
    if len(studies) != 1:
        raise BadOrder("the workitem names no study, or several, as its input; name one in Input Information Sequence")
    return studies.pop(), tuple(dict.fromkeys(series))
