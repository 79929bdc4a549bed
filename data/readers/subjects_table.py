"""`subjects.csv` beside recordings: what a database knows of them, joined to what the files say.

A row belongs to a recording by one of these, the first that the table has:

- `file`: its name below the folder, or its bare name, both with or without extension; that of a
  copy of it does, too;
- `accession_number`;
- `patient_id` and `date` (2019-03-04, or with the time, 2019-03-04T10:35);
- `patient_id` alone: all recordings of the patient.

Other columns: `age` (years), `sex` (female / male), `height` (cm), `weight` (kg), `bmi` (kg/m2),
`time` and `event`, and any others, such as image-derived measures. Where the table says something
it wins; with `file` or `accession_number` also its `patient_id`.

Dims: N recordings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from data.bad_rows import BadRows
from data.cohort import Cohort, CohortError, refuse_lookalikes
from data.outcomes import as_ids, flags, numbers, numbers_or_text, read_table
from data.readers.excluded import leave_out, none_of
from data.readers.person import HEIGHT_CM, SEXES, WEIGHT_KG
from data.readers.prepare import QUALITY
from data.readers.pseudonyms import Pseudonyms
from data.readers.twins import COPY

TABLE = "subjects.csv"
KEYS = ("file", "accession_number", "patient_id", "date")
NUMBERS = ("age", "height", "weight", "bmi", "time")
RESERVED = ("subject_id", "recorded", "accession", "format", "dx", *QUALITY)
LIMITS = {"height": (*HEIGHT_CM, "cm"), "weight": (*WEIGHT_KG, "kg")}
MAX_YEARS = 1.0  # by which the ages of file and table may differ
NAMED = 5  # conflicts that are named

_LAYOUT = f"Expected columns among {', '.join(KEYS[:3])} (with or without date)"


@dataclass(frozen=True)
class Subjects:
    """The table, its rows checked.

    Attributes:
        file: where it was read.
        key: columns by which rows belong to recordings.
        rows: of good and bad rows, all columns.
        reasons: of each row, why it is left out, or "".
    """

    file: Path
    key: tuple[str, ...]
    rows: pd.DataFrame
    reasons: pd.Series


def read_subjects(file: Path) -> Subjects | None:
    """Reads the table, if there is one.

    Raises:
        CohortError: it cannot be understood.
    """
    if not file.exists():
        return None
    table = read_table(file, [], _LAYOUT)
    refuse_lookalikes((*KEYS, *NUMBERS, "sex", "event"), table, str(file))
    taken = [name for name in table if name in RESERVED]
    if taken:
        raise CohortError(f"{file} has columns that this reader makes: {taken}. Rename them.")
    for key in (("file",), ("accession_number",), ("patient_id", "date"), ("patient_id",)):
        if set(key) <= set(table):
            break
    else:
        raise CohortError(f"{file} has none of the columns that name a recording. {_LAYOUT}.")
    for name in table.columns.intersection(["file", "accession_number", "patient_id"]):
        table[name] = as_ids(table[name])
    named = table[list(key)].fillna("").agg(" ".join, axis=1).str.strip()
    bad = BadRows(named, str(file))
    for name in key:
        bad.mark_missing(table[name])
    if "date" in key:
        table["date"] = _dates(table["date"], bad)
    whole = table[list(key)].notna().all(axis=1)
    twice = table.duplicated(list(key), keep=False) & whole
    if twice.any():
        bad.mark(
            twice,
            "stands twice",
            f"{named[twice.idxmax()]!r} stands twice in {file}. Expected one row per "
            f"{' and '.join(key)}.",
        )
    columns = {name: _column(table[name], named, bad) for name in table if name not in KEYS}
    rows = pd.concat(
        [table[[name for name in KEYS if name in table]], pd.DataFrame(columns)], axis=1
    )
    return Subjects(file, key, rows, bad.settle())


def _dates(column: pd.Series, bad: BadRows) -> pd.Series:
    """Dates and times as ISO 8601 to the minute, or the day alone."""
    text = column.astype(object).str.strip().str.replace(" ", "T")
    form = r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?)?"
    wrong = column.notna() & ~text.str.fullmatch(form, na=False)
    bad.refuse(wrong, column, bad.ids, "a date as 2019-03-04 or 2019-03-04T10:35")
    text = text.str.slice(0, 16)
    return text.str.replace("T00:00", "").where(column.notna() & ~wrong)


def _column(column: pd.Series, ids: pd.Series, bad: BadRows) -> pd.Series:
    if column.name == "sex":
        code = column.str.strip().str.lower()
        sex = code.map(SEXES).astype(object)
        bad.refuse(column.notna() & sex.isna(), column, ids, "female or male")
        return sex
    if column.name == "event":
        return flags(column, ids, bad.refuse)
    if column.name in NUMBERS:
        values = numbers(column, ids, bad.refuse)
        if column.name == "time":
            bad.refuse(values <= 0, column, ids, "a time above 0")
        if column.name in LIMITS:
            low, high, unit = LIMITS[column.name]
            if 0 < values.median() < low / 10 or values.median() > 10 * high:  # another unit
                expected = f"a {column.name} of {low:g} to {high:g} {unit}"
                bad.refuse(values.notna(), column, ids, expected)
            return values.where(values.between(low, high))  # as of files; 0 stands for unknown
        return values
    return numbers_or_text(column)


def join_table(
    cohort: Cohort, table: Subjects, names: Pseudonyms, file_of: Mapping[str, str]
) -> tuple[Cohort, pd.DataFrame]:
    """The cohort with what the table says; recordings whose row is bad are left out.

    Args:
        cohort: N recordings.
        table: of `read_subjects`.
        names: makes the pseudonyms that the cohort has.
        file_of: `subject_id` -> file.

    Returns:
        The cohort, and where files and table contradict each other (see `conflicts`).

    Raises:
        CohortError: no row belongs to any recording.
    """
    row = _row_of_each(cohort, table, names, file_of)  # (N,), -1 without one
    found = row >= 0
    if not found.any():
        first = table.rows[list(table.key)].fillna("").astype(str).agg(" ".join, axis=1).head(1)
        raise CohortError(
            f"No row of {table.file} belongs to a recording, by {' and '.join(table.key)} (first: "
            f"{first.tolist()}; first file: {next(iter(file_of.values()))!r}). Were zeros at the "
            "start of ids lost?"
        )
    said = table.rows.iloc[np.where(found, row, 0)].reset_index(drop=True)
    said = said.where(pd.Series(found), np.nan).infer_objects()
    unused = int(len(table.rows) - len(set(row[found])))
    left = f"; {unused} of {len(table.rows)} rows have no recording, or one that was left out"
    print(
        f"{table.file}: {found.sum()} of {len(cohort)} recordings have a row"
        f"{left if unused else ''}."
    )
    subjects = cohort.subjects.copy()
    against = conflicts(subjects, said)
    _say(against, file_of)
    if "patient_id" in said and "patient_id" not in table.key:
        patients = said["patient_id"].dropna().map(lambda name: names("patient", name))
        subjects["patient_id"] = patients.reindex(subjects.index).fillna(subjects["patient_id"])
    for name in said.columns.difference(KEYS, sort=False):
        old = subjects[name] if name in subjects else np.nan
        subjects[name] = said[name].where(said[name].notna(), old)
    if {"height", "weight"} & set(said):
        own = said["bmi"] if "bmi" in said else pd.Series(np.nan, subjects.index)
        made = subjects["weight"] / (subjects["height"] / 100) ** 2
        subjects["bmi"] = own.fillna(made).fillna(subjects["bmi"])
    joined = cohort.take(np.arange(len(cohort)))
    joined.subjects = subjects
    why = pd.Series(np.where(found, table.reasons.to_numpy()[np.where(found, row, 0)], ""))
    return leave_out(joined, none_of(cohort).mask(why != "", why + f" in {TABLE}")), against


def _refuse_twice(table: Subjects, key: list[str | None]) -> None:
    """Refuses rows that name the same recording, each in its own way.

    Raises:
        CohortError: names two of them.
    """
    said: dict[str, str] = {}
    for name, one in zip(table.rows[table.key[0]], key, strict=True):
        if one is not None and pd.notna(name) and said.setdefault(one, name) != name:
            raise CohortError(
                f"{said[one]!r} and {name!r} in {table.file} are the same recording. Expected one "
                "row for each."
            )


def _row_of_each(
    cohort: Cohort, table: Subjects, names: Pseudonyms, file_of: Mapping[str, str]
) -> np.ndarray:
    subjects, rows = cohort.subjects, table.rows
    if table.key == ("file",):
        place = _places(file_of.values())
        key = [place.get(_plain_path(name)) for name in rows["file"].fillna("")]
        wanted = _named(cohort, set(key), file_of)
    elif table.key == ("accession_number",):
        key = [names("accession", name) for name in rows["accession_number"].fillna("")]
        wanted = subjects["accession"]
    else:
        key = [names("patient", name) for name in rows["patient_id"].fillna("")]
        wanted = subjects["patient_id"]
    if "date" not in table.key:
        _refuse_twice(table, key)
    number = dict(zip(reversed(key), range(len(key) - 1, -1, -1), strict=True))
    if "date" not in table.key:
        return np.array([number.get(one, -1) for one in wanted], np.int64)
    # To the minute, or by the day if the table has no more.
    number = {(one, day): at for at, (one, day) in enumerate(zip(key, rows["date"], strict=True))}
    moments = subjects["recorded"].fillna("").astype(str)
    return np.array(
        [
            next((number[one, day] for day in (when[:16], when[:10]) if (one, day) in number), -1)
            for one, when in zip(wanted, moments, strict=True)
        ],
        np.int64,
    )


def _named(cohort: Cohort, names: set[str | None], file_of: Mapping[str, str]) -> list[str]:
    """The file of each recording, or of a copy of it if the table has a row for that one only."""
    copies = cohort.excluded[cohort.excluded["reason"] == COPY]
    pairs = zip(copies["detail"], copies["subject_id"].map(file_of), strict=True)
    of_copy = {kept: file for kept, file in pairs if file in names}
    own = [(one, file_of[one]) for one in cohort.subjects["subject_id"]]
    return [file if file in names else of_copy.get(one, file) for one, file in own]


def _places(files: Mapping[str, str]) -> dict[str, str]:
    """Ways to name each file -> the file: whole, bare, and without extension if that is clear."""
    files = list(files)
    ways: dict[str, set[str]] = {}
    for file in files:
        bare = PurePosixPath(file).name
        for way in {bare, str(PurePosixPath(file).with_suffix("")), PurePosixPath(bare).stem}:
            ways.setdefault(way, set()).add(file)
    return {way: next(iter(of)) for way, of in ways.items() if len(of) == 1} | {f: f for f in files}


def _plain_path(name: str) -> str:
    return re.sub(r"^(\./)+", "", name.replace("\\", "/"))


def _say(against: pd.DataFrame, file_of: Mapping[str, str]) -> None:
    for one in against.head(NAMED).itertuples():
        file = file_of[one.subject_id]
        told, said = (f"{value:g}" if one.column == "age" else value for value in one[3:])
        print(f"{file}: {one.column} {told} in the file, {said} in {TABLE}.")
    if len(against) > NAMED:
        print(f"{len(against)} values of age or sex differ. That of {TABLE} is taken for all.")


def conflicts(subjects: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    """Recordings whose file says another sex than the table, or an age more than a year off.

    Args:
        subjects: N rows with `subject_id` and what the files say.
        said: N rows of what the table says.

    Returns:
        `subject_id`, `column`, `file`, `table`.
    """
    found = []
    for name in [name for name in ("sex", "age") if name in said]:
        file, table = subjects[name], said[name]
        both = file.notna() & table.notna()
        if name == "age":
            wrong = both & ((file.astype(float) - table.astype(float)).abs() > MAX_YEARS)
        else:
            wrong = both & (file != table)
        found += [
            (subjects["subject_id"][row], name, file[row], table[row])
            for row in np.flatnonzero(wrong)
        ]
    return pd.DataFrame(found, columns=["subject_id", "column", "file", "table"])
