"""A fictitious patient, and the UIDs of the phantoms: functions of a seed, nothing about a real person."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np

Kind = Literal["brain-mr", "breast-pet", "mammography", "histology"]
# New ones go last: the place in this row is part of what a seed draws.
KINDS: tuple[Kind, ...] = ("brain-mr", "breast-pet", "mammography", "histology")

# Own name space: the UID of a phantom can never meet that of a result or of another tool's object.
_NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "https://mirall.invalid/phantoms")
_SHORT = {"brain-mr": "MR", "breast-pet": "PT", "mammography": "MG", "histology": "SM"}
_GIVEN_NAMES = {
    "F": ("Alba", "Berta", "Clara", "Dora", "Elsa", "Frida", "Greta", "Hilda", "Irma", "Judit", "Karla", "Lola"),
    "M": ("Arno", "Bruno", "Carlo", "Dario", "Emil", "Fabio", "Gino", "Hugo", "Ivo", "Jordi", "Karl", "Leo"),
}


@dataclass(frozen=True)
class Patient:
    """Who the study says it is of. weight_kg: (0010,1030); height_m: (0010,1020); study_start: local time."""

    patient_id: str
    name: str
    birth_date: date
    sex: Literal["F", "M"]
    weight_kg: float
    height_m: float
    study_start: datetime

    @property
    def age_years(self) -> int:
        birthday_to_come = self.study_start.date() < self.birth_date.replace(year=self.study_start.year)
        return self.study_start.year - self.birth_date.year - int(birthday_to_come)


def stream(kind: Kind, seed: int, purpose: int) -> np.random.Generator:
    """Random numbers for one purpose; drawing more for one purpose does not change the others.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; phantoms take seeds from 0 up")
    return np.random.default_rng([seed, KINDS.index(kind), purpose])


def fictitious(kind: Kind, seed: int) -> Patient:
    """The patient of a seed. The identifier starts with PHANTOM, whatever else the study may claim to be."""
    rng = stream(kind, seed, 0)
    sex: Literal["F", "M"] = "M" if kind == "brain-mr" and rng.random() < 0.5 else "F"
    given = _GIVEN_NAMES[sex][int(rng.integers(len(_GIVEN_NAMES[sex])))]
    start = datetime(2025, 1, 6, 8) + timedelta(days=int(rng.integers(0, 250)), minutes=int(rng.integers(0, 500)))
    # Days 1 to 28 exist in every month, so no birth date and no birthday is impossible.
    birth = date(start.year - int(rng.integers(38, 78)), int(rng.integers(1, 13)), int(rng.integers(1, 29)))
    height_m = float(np.round(rng.normal(1.76 if sex == "M" else 1.64, 0.06), 2))
    weight_kg = float(np.round(np.clip(rng.normal(25.5, 3.5), 19, 35) * height_m**2, 1))
    identifier = f"PHANTOM-{_SHORT[kind]}-{seed:06d}"
    return Patient(identifier, f"Phantom^{given}", birth, sex, weight_kg, height_m, start)


def uid(*parts: str) -> str:
    """A UID below 2.25 (PS3.5 B.2) that is a function of its parts."""
    return f"2.25.{uuid.uuid5(_NAMES, json.dumps(parts)).int}"
