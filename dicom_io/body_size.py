"""Body surface area and lean body mass of a patient, by which uptake may be measured.

    BSA [m2] = 0.007184 W^0.425 H^0.725                     Du Bois and Du Bois, Arch Intern Med 17:863 (1916)
    LBM [kg] = 9270 W / (6680 + 216 BMI) for men,           Janmahasatian et al., Clin Pharmacokinet 44:1051 (2005)
               9270 W / (8780 + 244 BMI) for women

Symbols: W weight in kg, H height in cm, BMI = W / (height in m)^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.errors import MissingAttribute, UnknownUnits
from dicom_io.pet_attributes import named, positive, value

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Nobody is smaller or taller in m, or heavier in kg; larger numbers are cm (or inches) and g by mistake.
_SIZES_M = (0.2, 3.0)
_MOST_KG = 700.0
_LEAN = {"M": (6680.0, 216.0), "F": (8780.0, 244.0)}


def body_surface_area_cm2(ds: Dataset) -> float:
    """From Patient's Weight (0010,1030) and Size (0010,1020). Raises as `size_m` and `weight_kg` do."""
    return float(1e4 * 0.007184 * weight_kg(ds) ** 0.425 * (100 * size_m(ds)) ** 0.725)


def lean_body_mass_g(ds: Dataset) -> float:
    """From weight, size and Patient's Sex (0010,0040), which must be M or F: there is no formula for another."""
    at_rest, by_bmi = _LEAN[_sex(ds)]
    weight = weight_kg(ds)
    return 1000 * 9270 * weight / (at_rest + by_bmi * weight / size_m(ds) ** 2)


def size_m(ds: Dataset) -> float:
    """Patient's Size (0010,1020) in m. Raises MissingAttribute where it is absent, UnknownUnits outside 0.2 to 3 m."""
    size = positive(ds, "PatientSize", "(0010,1020)")
    if not _SIZES_M[0] <= size <= _SIZES_M[1]:
        raise UnknownUnits(
            f"{named(ds)}: PatientSize (0010,1020) is {size:g} m, which nobody is; correct it if it is in cm"
        )
    return size


def weight_kg(ds: Dataset) -> float:
    """Patient's Weight (0010,1030) in kg. Raises MissingAttribute where it is absent, UnknownUnits above 700."""
    weight = positive(ds, "PatientWeight", "(0010,1030)")
    if weight > _MOST_KG:
        raise UnknownUnits(f"{named(ds)}: PatientWeight (0010,1030) is {weight:g} kg; correct it if it is in g")
    return weight


def _sex(ds: Dataset) -> str:
    sex = str(value(ds, "PatientSex") or "")
    if not sex:
        raise MissingAttribute(f"{named(ds)} has no PatientSex (0010,0040), without which there is no SUVlbm; add it")
    if sex not in _LEAN:
        raise UnknownUnits(
            f"{named(ds)}: PatientSex (0010,0040) is {sex}, and lean body mass has formulas for M and F only; ask for "
            "SUV by body weight"
        )
    return sex
