"""Outcomes: joined to any cohort from a table, and the recordings that have one.

Dims: N recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import pandas as pd

from data.bad_rows import BadRows, refusal
from data.cohort import IDS, Cohort, CohortError, refuse_lookalikes
from data.look_alikes import look_alike

SURVIVAL = ("time", "event")
KEYS = IDS
NO_OUTCOME = "no known outcome"
# What stands for a missing value in a table. None is not among them: it is a finding of its own, of
# a valve for example.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
UNITS = {"years": 1.0, "months": 12.0, "days": 365.25}  # per year
LONGEST = 120.0  # years that anybody can be followed up
# Columns by which other programs are told that a subject is at risk only later than time 0.
ENTRIES = ("entry", "entry_time", "time_entry", "tstart")

_ROUNDED = r"\d([.,]\d+)?[Ee]\+\d+"  # 1.23E+05, as spreadsheet programs write long numbers
_COMPETING = (
    " 0 is censored, 1 the event. Code what competes with it (death of another cause) as 0, which "
    "gives the hazard of the event among those still at risk, or as 1 if it is part of the outcome."
)
_FLAGS = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}


def join_outcomes(
    cohort: Cohort,
    table: str | Path,
    columns: Sequence[str] = SURVIVAL,
    allow_unknown: bool = False,
    time_unit: str = "years",
) -> Cohort:
    """Joins outcomes from a comma-separated table to a cohort, by id.

    Args:
        cohort: any cohort. Its `time` and `event` are replaced, not filled up: where the table says
            nothing, they are missing. So that two sources never mix, both go if one is replaced.
        table: with a column `subject_id`, or else `patient_id`, and a row per id. Time counts from
            the recording on, so a table by patient suits cohorts of one recording per person.
            Empty fields and NA are missing outcomes.
            A few rows that make no sense count as missing and are named (`data.bad_rows`).
        columns: to join. `time` is above 0, `event` is 0 or 1 (or false or true); any other becomes
            numbers if it holds nothing else, or stays text (a class).
        allow_unknown: do not refuse a table with ids that the cohort lacks. Recordings in
            `cohort.excluded` are known in any case; which patients they were is not.
        time_unit: of `time` in the table, one of `UNITS`. It becomes years.

    Returns:
        A cohort of the same N recordings. `source` tells where the outcomes came from, and how many
        there are; recordings that the table lacks have none.

    Raises:
        CohortError: the file or a column is not there, an id stands twice or is missing, values
            that make no sense (also a time beyond `LONGEST`, or a late entry), ids that the cohort
            lacks, no outcome for any recording, no events, or a column that the cohort has
            already, with other values.
    """
    file = Path(table)
    if not columns or set(columns) & set(KEYS):
        raise CohortError(f"Expected the names of outcome columns. Received: {list(columns)}.")
    rows = read_table(file, columns, "Expected a table with subject_id or patient_id and outcomes")
    refuse_lookalikes(KEYS, rows, str(file))
    key = next((key for key in KEYS if key in rows), None)
    if key is None:
        raise CohortError(
            f"{file} has neither of the columns {list(KEYS)}. Received: {list(rows)[:8]}."
        )
    bad = BadRows(rows[key], str(file))
    ids = as_ids(bad.mark_ids(rows[key].where(rows[key].isna(), as_ids(rows[key]))))
    outcomes = pd.DataFrame({name: _outcome(rows[name], ids, bad) for name in columns})
    good = bad.settle() == ""
    rows, ids, outcomes = rows[good], ids[good], outcomes[good]
    if not allow_unknown:
        _refuse_unknown(ids, cohort, key, file)
    if "time" in outcomes:
        _refuse_late_entry(rows, ids, str(file))
        outcomes["time"] = _years(outcomes["time"], ids, time_unit, str(file))
    outcomes = outcomes.set_axis(ids).reindex(cohort.subjects[key]).reset_index(drop=True)
    _check_known(outcomes, ids, cohort, key, file)
    patients = cohort.subjects["patient_id"]
    several = patients[patients.duplicated() & patients.isin(ids)].nunique()
    if key == "patient_id" and "time" in outcomes and several:
        print(
            f"{file} goes by patient, and {several} of them have several recordings: each gets the "
            "same time. Time counts from the recording on, so if these are of different dates, "
            "give a table by subject_id."
        )
    return _with_columns(cohort, outcomes, file)


def in_years(cohort: Cohort, time_unit: str) -> Cohort:
    """The cohort with its own column `time`, which is in this unit, in years.

    Raises:
        CohortError: there is no such column, or it holds something else.
    """
    if "time" not in cohort.subjects:
        raise CohortError(
            f"data.time_unit is {time_unit}, but the cohort ({cohort.source or 'no source given'}) "
            "has no column `time`. Give data.outcomes, a table that has one."
        )
    ids = cohort.subjects["subject_id"]
    time = _years(numbers(cohort.subjects["time"], ids), ids, time_unit, cohort.source)
    cohort = copy(cohort)  # the ECGs are shared
    cohort.subjects = cohort.subjects.assign(time=time)
    return cohort


def say_one_time(cohort: Cohort) -> None:
    """Says where recordings of a patient, unless of one day, have the same `time` from each on."""
    subjects = cohort.subjects
    if "time" not in subjects:
        return
    ids = subjects["subject_id"]
    day = ids.astype(str)  # where it is not known
    if "recorded" in subjects:
        known = subjects["recorded"].fillna("").astype(str)
        day = known.str.slice(0, 10).where(known != "", day)
    days = day[subjects["time"].notna()].groupby([subjects["patient_id"], subjects["time"]])
    several = (days.nunique() > 1).groupby(level=0).any().sum()
    if several:
        print(
            f"{several} patients have several recordings with one and the same `time`. Time counts "
            "from the recording on, so if these are of different dates, give each its own."
        )


def with_outcomes(cohort: Cohort, columns: Sequence[str] = SURVIVAL) -> Cohort:
    """The recordings whose outcome is known; the others go to `excluded`.

    Args:
        cohort: with these columns.
        columns: that make up the outcome. A `time` (years) of 0 or less is unknown.

    Returns:
        The cohort itself if nothing is missing, otherwise a part of it.

    Raises:
        CohortError: the columns are not there, no outcome is known, nobody or everybody had the
            event, an `event` is neither 0 nor 1, or a time is beyond `LONGEST`.
    """
    subjects = cohort.subjects
    lacking = [name for name in columns if name not in subjects]
    if lacking:
        refuse_lookalikes(columns, subjects, cohort.source or "the subjects")
        raise CohortError(
            f"A prediction head needs the columns {list(columns)}; this cohort "
            f"({cohort.source or 'no source given'}) lacks {lacking}. Give data.outcomes, a table "
            "of subject_id or patient_id and these columns."
        )
    known = subjects[list(columns)].notna().all(axis=1)
    if "time" in columns:
        time = pd.to_numeric(subjects["time"], errors="coerce")
        no_number = subjects["time"].notna() & time.isna()
        refuse(no_number, subjects["time"], subjects["subject_id"], "a number")
        known &= time.between(0, np.inf, inclusive="neither")
        _years(time.where(known), subjects["subject_id"], "years", cohort.source)
        _refuse_late_entry(subjects, subjects["subject_id"], cohort.source or "The cohort")
    if "event" in columns:
        event = subjects["event"]
        refuse(
            event.notna() & ~event.isin([0, 1]), event, subjects["subject_id"], "0 or 1", _COMPETING
        )
    if not known.any():
        raise CohortError(
            f"None of the {len(cohort)} recordings has a known outcome ({', '.join(columns)})."
        )
    if "event" in columns:
        _check_events(subjects["event"][known])
        if subjects["event"][known].all():
            raise CohortError(
                f"All events: `event` is 1 in all {known.sum()} recordings with an outcome, as if "
                "nobody had been followed up without one. Is it the right column, are those who "
                "stayed free of the event left out?"
            )
    if known.all():
        return cohort
    without = pd.DataFrame({"subject_id": subjects["subject_id"][~known], "reason": NO_OUTCOME})
    part = cohort.take(known.to_numpy())
    part.excluded = pd.concat([cohort.excluded, without], ignore_index=True)
    part.excluded = part.excluded.fillna("")  # the readers' column `detail`
    return part


def read_table(file: Path, columns: Sequence[str], expected: str, **options) -> pd.DataFrame:
    """Reads a comma-separated table, as text if nothing else is said; empty fields are NaN.

    Args:
        file: the table.
        columns: it must have.
        expected: for the message if the file is not there.
        **options: of `pandas.read_csv`.

    Raises:
        CohortError: the file is not there or no such table, or lacks a column.
    """
    if not file.is_file():
        raise CohortError(f"{file} is not there. {expected}.")
    table = read_csv(file, **{"dtype": str, **options})
    refuse_lookalikes(columns, table, str(file))
    missing = [name for name in columns if name not in table]
    if missing:
        raise CohortError(
            f"{file} lacks the columns {missing}. Received: {list(table.columns)[:8]}. Was it "
            "saved by a spreadsheet program with another separator?"
        )
    return table


def read_csv(file: Path, **options) -> pd.DataFrame:
    """Reads a comma-separated table that anybody may have written, most likely a spreadsheet.

    Byte-order mark, line ends of any system, quotes, and spaces around what stands between commas
    do not matter. Spaces around the names of columns are taken away, and this is said.

    Args:
        file: the table.
        **options: of `pandas.read_csv`.

    Raises:
        CohortError: the file cannot be read, its rows do not fit its header, a column is there
            twice, or ids were rounded.
    """
    as_written = {"encoding": "utf-8-sig", "skipinitialspace": True}
    options = {**as_written, "keep_default_na": False, "na_values": MISSING, **options}
    try:
        header = pd.read_csv(file, **{**options, "header": None, "nrows": 1, "dtype": str})
        stripped = {name: name.strip() for name in header.iloc[0].dropna()}
        spaced = {name: bare for name, bare in stripped.items() if name != bare}
        if isinstance(options.get("dtype"), dict):
            kinds = options["dtype"]
            options["dtype"] = kinds | {n: kinds[b] for n, b in spaced.items() if b in kinds}
        table = pd.read_csv(file, **options).rename(columns=spaced)
    except (ValueError, OSError) as error:
        raise CohortError(
            f"{file} cannot be read as a comma-separated table: {str(error).strip()}. Save it as "
            "CSV, UTF-8, with a point in decimal numbers."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much as row names
        raise CohortError(
            f"The rows of {file} have more fields than its header has columns, "
            f"{list(table.columns)[:8]}. Are there decimal commas, or commas at the ends of lines?"
        )
    names = header.iloc[0].dropna().str.strip()
    if names.duplicated().any():
        raise CohortError(
            f"The column {names[names.duplicated()].iloc[0]!r} is there twice in {file}. Rename "
            "one of them."
        )
    for name in table.columns:
        if pd.api.types.infer_dtype(table[name], skipna=True) == "string":
            text = table[name].str.strip()
            table[name] = text.where(text != "")
    for name, bare in spaced.items():
        print(f"{file}: the column {name!r} is taken as {bare!r}.")
    for name in table.columns.intersection([*KEYS, "exam_id", "eid"]):
        rounded = table[name].astype(str).str.strip().str.fullmatch(_ROUNDED)
        if rounded.any():
            raise CohortError(
                f"{name} {table[name][rounded.idxmax()]!r} in {file} was rounded by a spreadsheet "
                "program, and may stand for several ids. Format the column as text there."
            )
    return table


def refuse(
    wrong: pd.Series, column: pd.Series, ids: pd.Series, expected: str, remedy: str = ""
) -> None:
    """Refuses a table for its first wrong value.

    Args:
        wrong: (N,) which values are.
        column: (N,) the values.
        ids: (N,) names of the rows.
        expected: of each.
        remedy: end of the message.

    Raises:
        CohortError: any is wrong.
    """
    if wrong.any():
        raise CohortError(refusal(wrong, column, ids, expected, remedy))


def numbers(column: pd.Series, ids: pd.Series, refuse: Callable = refuse) -> pd.Series:
    """Text as finite numbers, NaN where it is missing.

    Args:
        column: (N,) text.
        ids: (N,) names of the rows.
        refuse: what becomes of values that are none: as `refuse` above, or `BadRows.refuse`.

    Raises:
        CohortError: something else stands there; names the record.
    """
    values = pd.to_numeric(column, errors="coerce").astype(float)
    values = values.where(np.isfinite(values))
    refuse(column.notna() & values.isna(), column, ids, "a number")
    return values


def flags(column: pd.Series, ids: pd.Series, refuse: Callable = refuse) -> pd.Series:
    """Text such as 0, 1, false or True as 0.0 and 1.0, NaN where it is missing.

    Args:
        column: (N,) text.
        ids: (N,) names of the rows.
        refuse: as in `numbers`.

    Raises:
        CohortError: something else stands there; names the record.
    """
    values = column.str.strip().str.lower().map(_FLAGS).astype(float)
    competing = _COMPETING if column.name == "event" else ""
    refuse(column.notna() & values.isna(), column, ids, "0 or 1", competing)
    return values


def numbers_or_text(column: pd.Series) -> pd.Series:
    """Text as numbers if it holds nothing else, or as it is."""
    values = pd.to_numeric(column, errors="coerce")
    return column if (values.isna() & column.notna()).any() else values.astype(float)


def _years(time: pd.Series, ids: pd.Series, unit: str, source: str) -> pd.Series:
    """Times above 0 in this unit as years.

    Raises:
        CohortError: an unknown unit, or a time that nobody lives; says which unit it looks like.
    """
    if unit not in UNITS:
        raise CohortError(f"Expected a unit of time among {list(UNITS)}. Received: {unit!r}.")
    years = time if unit == "years" else time / UNITS[unit]
    beyond = years > LONGEST
    if not beyond.any():
        return years
    row, known = years.idxmax(), time.dropna()
    longest, median = float(known.max()), float(known.median())
    if known.between(1850, 2150).mean() > 0.9:
        remedy = (
            "These look like calendar years: give the time from the recording to the event or to "
            "the end of follow-up"
        )
    elif beyond.sum() < 0.02 * len(known):
        remedy = "Correct the value, or leave it empty"
    else:
        # 30 years are a long follow-up: more months than that are days.
        like = "months" if longest <= 30 * UNITS["months"] else "days"
        remedy = "Correct the values"
        if UNITS[like] > UNITS[unit] and longest <= LONGEST * UNITS[like]:
            remedy = f"These look like {like}: say --data.time_unit {like}"
    raise CohortError(
        f"Expected {unit} from the recording on as time, at most {LONGEST * UNITS[unit]:g}. "
        f"{beyond.sum()} of {len(known)} times of {source or 'the cohort'} are longer, up to "
        f"{longest:g} of {ids[row]!r}; the median is {median:g}. {remedy}."
    )


def _refuse_late_entry(table: pd.DataFrame, ids: pd.Series, source: str) -> None:
    """Refuses left truncation, which no part of the project knows: it would be left out unsaid."""
    for column in table:
        if column not in ENTRIES and look_alike(ENTRIES, [column]) is None:
            continue
        late = table[column].notna() & (pd.to_numeric(table[column], errors="coerce") != 0)
        if late.any():
            row = late.idxmax()
            raise CohortError(
                f"{source} has a column {column!r}, by which {ids[row]!r} is at risk only from "
                f"{table[column].loc[[row]].tolist()[0]!r} on. Late entry (left truncation) is not "
                "supported: times count from the recording. Give them so, and take the column out."
            )


def as_ids(column: pd.Series) -> pd.Series:
    """Ids in text as `Cohort.subjects` has them: 15709.0 is 15709, and 007 stays 007."""
    return column.str.strip().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)


def _outcome(column: pd.Series, ids: pd.Series, bad: BadRows) -> pd.Series:
    if column.name == "event":
        return flags(column, ids)  # a code of its own means something: no row is left out for it
    if column.name == "time":
        time = numbers(column, ids, bad.refuse)
        bad.refuse(time <= 0, column, ids, "a time above 0")
        return time
    return numbers_or_text(column)


def _refuse_unknown(ids: pd.Series, cohort: Cohort, key: str, file: Path) -> None:
    """Refuses ids that are not in the cohort, unless none is: `_check_known` says more then."""
    known = set(cohort.subjects[key])
    if key == "subject_id":
        known |= set(cohort.excluded["subject_id"].astype(str))
    unknown = ids[~ids.isin(known)]
    if 0 < len(unknown) < len(ids):
        raise CohortError(
            f"{len(unknown)} of the {len(ids)} ids in {file} are no {key} of the cohort (first: "
            f"{', '.join(unknown[:3])}). Take them out, or set allow_unknown."
        )


def _check_known(
    outcomes: pd.DataFrame, ids: pd.Series, cohort: Cohort, key: str, file: Path
) -> None:
    """Refuses outcomes of nobody, and outcomes without an event."""
    if not ids.isin(cohort.subjects[key]).any():
        raise CohortError(
            f"No {key} of {file} (first: {', '.join(ids[:3]) or 'no rows'}) is in the cohort "
            f"(first: {', '.join(cohort.subjects[key][:3])})."
        )
    for name, values in outcomes.items():
        if values.isna().all():
            raise CohortError(f"{file} gives no {name} for any recording of the cohort.")
    if "event" in outcomes:
        _check_events(outcomes["event"].dropna())


def _check_events(event: pd.Series) -> None:
    if not event.any():
        raise CohortError(
            f"No events: `event` is 0 in all {len(event)} recordings with a known outcome. 1 means "
            "that the event happened at `time`, 0 that it had not until then."
        )


def _with_columns(cohort: Cohort, outcomes: pd.DataFrame, file: Path) -> Cohort:
    """The cohort with these columns; the ECGs are shared, not copied or checked again."""
    replaced = []
    if set(outcomes) & set(SURVIVAL):
        replaced = [name for name in SURVIVAL if name in cohort.subjects]
    subjects = cohort.subjects.drop(columns=replaced)
    for name in outcomes.columns.intersection(subjects.columns):
        old, new = subjects[name], outcomes[name]
        if not ((old == new) | (old.isna() & new.isna())).all():
            raise CohortError(
                f"The cohort has a column {name!r} already, with other values than {file}. Rename "
                "the one in the table."
            )
    known = int(outcomes.notna().all(axis=1).sum())
    joined = copy(cohort)
    joined.subjects = subjects.assign(**outcomes)
    joined.source = (
        f"{cohort.source}; {', '.join(outcomes)} from {file.name} "
        f"({known} of {len(cohort)} recordings)"
        + (f", in place of its own {' and '.join(replaced)}" if replaced else "")
    )
    return joined
