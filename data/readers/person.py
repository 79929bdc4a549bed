"""What a file says of whom it is of, and no more of it than a model may be told."""

from __future__ import annotations

import re
from typing import NamedTuple

from data.cohort import NOT_IN_TABLES

# Outside of these, heights and weights are typing errors or the two were swapped.
HEIGHT_CM = (100.0, 220.0)
WEIGHT_KG = (20.0, 250.0)
MAX_AGE = 120
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}

# Without what is no letter or number at its ends. A number makes it a pseudonym: ANONYM-0012.
_NOBODY = re.compile(
    r"|x+|x([\W_]+[xmf])+|unk|(unknown|anonym|test)[^1-9]*|anon|none|null|n/?a|no[ _]?id"
    r"|removed|redacted|deleted|de[ -]?identified",
    re.IGNORECASE,
)


class Person(NamedTuple):
    """What a file says of whom it is of; None where it says nothing.

    Attributes:
        patient_id: as the file has it, to be made a pseudonym.
        age: whole years at the recording: with its date, more would be the birth date.
        sex: "male" or "female".
        height: cm.
        weight: kg.
        recorded: local time, ISO 8601, or the date alone.
        accession: number of the order or examination, to be made a pseudonym.
        dx: codes of diagnoses, as WFDB headers of the PhysioNet Challenges have them.
    """

    patient_id: str | None = None
    age: float | None = None
    sex: str | None = None
    height: float | None = None
    weight: float | None = None
    recorded: str | None = None
    accession: str | None = None
    dx: str | None = None


def person(
    patient_id: str | None = None,
    age: float | None = None,
    sex: str | None = None,
    height: float | None = None,
    weight: float | None = None,
    recorded: str | None = None,
    accession: str | None = None,
    dx: str | None = None,
) -> Person:
    """What a file says, without what cannot be: it is missing then.

    An id such as 000000, "unknown" or "X X X X" is of nobody: all those would be one patient.
    """

    def within(value: float | None, low: float, high: float) -> float | None:
        known = value is not None and low <= value <= high
        return float(value) if known else None

    def plain(text: str | None) -> str:
        return NOT_IN_TABLES.sub("", text or "").strip()

    def named(name: str | None) -> str | None:
        name = plain(name)
        around = "".join(one for one in set(name) if one == "0" or not one.isalnum())
        return None if _NOBODY.fullmatch(name.strip(around)) else name

    age = within(age, 0, MAX_AGE)
    return Person(
        patient_id=named(patient_id),
        age=None if age is None else float(int(age)),
        sex=SEXES.get((sex or "").strip().lower()),
        height=within(height, *HEIGHT_CM),
        weight=within(weight, *WEIGHT_KG),
        recorded=recorded,
        accession=named(accession),
        dx=plain(dx) or None,
    )
