"""Parts that recipes of several tasks and families share. A key that is not listed is an error; names bear units."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.preprocessing import INTENSITY, check_steps

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Keys that are not listed here are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(Settings):
    """All counts are images, so that they mean the same at any batch size.

    report_images: between two validations with checkpoint. ema_half_life_images: of the running average that is kept.
    decay: of the learning rate after warm-up, a half cosine down to 1 %, what is left to the power of 0.9 (poly, Chen
    2018), or none at all.
    precision: "auto" takes bfloat16 where the machine has it; weights stay float32, but differ between machines.
    """

    total_images: Positive
    batch_size: Positive = 16
    report_images: Positive = 2000
    warm_up_images: Annotated[int, Field(ge=0)] = 500
    ema_half_life_images: Positive = 1000
    decay: Literal["cosine", "poly", "none"] = "cosine"
    precision: Literal["float32", "auto"] = "float32"


class PatientSchedule(Schedule):
    """patience_reports: stop when so many reports in a row bring no better validation; None goes on to the end."""

    patience_reports: Positive | None = None

    def is_over(self, images_seen: int, reports_since_best: int) -> bool:
        """All images were seen, or patience has run out."""
        impatient = self.patience_reports is not None and reports_since_best >= self.patience_reports
        return images_seen >= self.total_images or impatient


class Evaluation(Settings):
    """bootstrap_draws: patient-cluster resamples behind every 95 % interval."""

    bootstrap_draws: Annotated[int, Field(ge=100)] = 2000


class RecipeBase(Settings):
    """What every recipe has."""

    name: str
    seed: int = 0
    preprocessing: tuple[dict[str, Any], ...] = ()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _chain_is_harmless(self) -> Self:
        check_steps(self.preprocessing)
        return self


def require_grid(steps: tuple[dict[str, Any], ...], why: str) -> None:
    """Raises ValueError where a step changes the grid; why: it must not."""
    for step in steps:
        if step["_target_"] not in INTENSITY:
            raise ValueError(f"preprocessing: {step['_target_']} changes the grid; {why}")
