"""UK Biobank: resting 12-lead ECGs (field 20205) and a table of what is known of the participants.

One folder with, in it or in folders below it, the CardioSoft XML files under the names they come
with (`1234567_20205_2_0.xml`: participant, field, visit, number), and in the folder itself:

- `subjects.csv`, a row per participant: `eid`, and any columns, such as `age` (years), `sex`
  (female / male, or 0 / 1 as UK Biobank codes them), `bmi` (kg/m2), image-derived measures, `time`
  (years) and `event` (0 / 1). With a column `instance` (2 for `_2_0`) it has a row per visit. Age,
  sex and BMI may also be called by their fields, as UK Biobank exports them (`p21003_i2`,
  `21003-2.0`, `f.21003.2.0`): each recording then has those of its visit.
- `withdrawn.csv` (if wanted), the participants who withdrew, one id per line, as UK Biobank sends
  it out.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.bad_rows import BadRows
from data.cohort import Cohort, CohortError, refuse_lookalikes
from data.outcomes import flags, numbers, numbers_or_text, read_table
from data.readers.cardiosoft import MEASUREMENTS, read_measurements, read_median_beat, read_strip
from data.readers.prepare import QUALITY, Check, Recording, prepare
from data.readers.subjects_table import MAX_YEARS

TABLE, WITHDRAWN = "subjects.csv", "withdrawn.csv"
KNOWN = ("instance", "sex", "age", "bmi", "time", "event")  # columns that are read as what they are
SEXES = {"0": "female", "1": "male", "female": "female", "male": "male"}
FIELDS = {"21003": "age", "31": "sex", "21001": "bmi"}
ALWAYS = "sex"  # asked at the first visit only
BEATS = {"median": read_median_beat, "stored": read_median_beat, "strip": read_strip}

_FILE = re.compile(r"(\d+)_20205_(\d+)_(\d+)\.xml", re.IGNORECASE | re.ASCII)
# Of the Research Analysis Platform, and of the tools before it.
_FIELD = re.compile(
    r"(?:participant\.)?p(?P<field>\d+)(?:_i(?P<visit>\d+))?(?:_a0)?"
    r"|(?:f\.)?(?P<old>\d+)[-.](?P<at>\d+)[.]0"
)
_LAYOUT = f"Expected a folder of files like 1234567_20205_2_0.xml, and in it {TABLE} with `eid`"


def load_ukbiobank(
    path: str | Path,
    cache: str | Path = "cache",
    beats: str = "median",
    workers: int | None = None,
    limit: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
) -> Cohort:
    """Reads resting ECGs of UK Biobank as a cohort of median beats, prepared once and cached.

    Args:
        path: the folder, as described at the head of this module.
        cache: folder under which the prepared cohort is kept.
        beats: "median", the median beats that the recorder stored (see
            `data.readers.cardiosoft.read_median_beat`), or "strip", our own from the rhythm strips.
        workers: processes that prepare; one per CPU core if None.
        limit: only the first so many recordings, in the order of participant and visit.
        progress: show a progress bar; None shows it on a terminal only.
        check: as `data.readers.prepare.prepare` has it.

    Returns:
        The cohort, in the order of participant and visit. `subjects` has `subject_id`
        ("1234567_2_0"), `patient_id` (the participant: visits of one are never divided by a
        split), `instance` (the visit), the columns of the table, what the recorder measured
        (`ecg_age` and `data.readers.cardiosoft.MEASUREMENTS`), and the quality of each beat.
        Recordings of participants who are not in the table or withdrew, and those that give no
        beat, go to `excluded`.

    Raises:
        CohortError: no recordings or no table, a row of the table that cannot be understood, one
            time for several visits, or no recording gave a beat.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise CohortError(f"Expected a limit of 1 recording or more. Received: {limit}.")
    if beats not in BEATS:
        raise CohortError(f"Expected beats among {list(BEATS)}. Received: {beats!r}.")
    recordings = _recordings(path)[:limit]
    known, bad_rows, fields = _participants(path / TABLE)
    _refuse_one_time_for_all(known, recordings)
    keys = ["patient_id", "instance"] if "instance" in known else ["patient_id"]
    subjects = recordings.merge(known, on=keys, how="left", indicator=True, validate="m:1")
    reasons = np.where(subjects.pop("_merge") == "both", "", f"not in {TABLE}")
    subjects = _of_each_visit(subjects, fields)
    if len(bad_rows):
        found = recordings.merge(bad_rows, on=keys, how="left")["reason"]
        reasons = np.where(found.notna(), found, reasons)
    reasons[subjects["patient_id"].isin(_withdrawn(path / WITHDRAWN))] = "withdrawn"
    files = subjects.pop("file").tolist()
    cohort = prepare(
        subjects=subjects,
        records=files,
        read=RecordingReader(str(path), beats),
        cache=cache,
        source=f"UK Biobank {beats}",
        settings={"path": str(path.resolve())},
        workers=workers,
        progress=progress,
        left_out=reasons.tolist(),
        check=check,
        facts=("ecg_age", *MEASUREMENTS),
    )
    _say_other_ages(cohort.subjects)
    return cohort


def _refuse_one_time_for_all(known: pd.DataFrame, recordings: pd.DataFrame) -> None:
    """Refuses a time that would count from each of several visits.

    Raises:
        CohortError: names a participant of several.
    """
    if "time" not in known or "instance" in known:
        return
    timed = known["patient_id"][known["time"].notna()]
    of_several = recordings["patient_id"][recordings["patient_id"].duplicated()]
    found = of_several[of_several.isin(timed)]
    if len(found):
        raise CohortError(
            f"{TABLE} has one `time` for all visits of participant {found.iloc[0]!r}, though times "
            "count from the recording. Give a row per visit, with the column `instance`."
        )


def _say_other_ages(subjects: pd.DataFrame) -> None:
    """Says where the table has another age than the recorder was told."""
    if "age" not in subjects or "ecg_age" not in subjects:
        return
    apart = (subjects["age"] - subjects["ecg_age"]).abs() > MAX_YEARS
    if apart.any():
        row = apart.idxmax()
        print(
            f"{int(apart.sum())} recordings have another age in {TABLE} than in their file, such "
            f"as {subjects['subject_id'][row]}: {subjects['age'][row]:g} and "
            f"{subjects['ecg_age'][row]:g}. With a column `instance` each visit has its own row."
        )


@dataclass(frozen=True)
class RecordingReader:
    """Reads CardioSoft files below a folder.

    Attributes:
        root: the folder.
        beats: "median" (or "stored", the same) or "strip".
    """

    root: str
    beats: str = "median"

    def __call__(self, file: str) -> Recording:
        """Reads one recording and what the recorder measured.

        Args:
            file: its name below the folder.

        Raises:
            BeatError: it gives no beat.
        """
        path = Path(self.root) / file
        measured = read_measurements(path).items()
        facts = {name: None if np.isnan(value) else value for name, value in measured}
        return Recording(BEATS[self.beats](path), facts)


def _recordings(folder: Path) -> pd.DataFrame:
    """`subject_id`, `patient_id`, `instance` and `file` of each recording, in their order."""
    rows = []
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            if (parts := _FILE.fullmatch(name)) and file.is_file():
                eid, instance, number = (int(part) for part in parts.groups())
                rows.append((eid, instance, number, str(file.relative_to(folder))))
    if not rows:
        raise CohortError(f"No resting ECGs in {folder}. {_LAYOUT}.")
    return pd.DataFrame(
        [
            (f"{eid}_{instance}_{number}", str(eid), instance, file)
            for eid, instance, number, file in sorted(rows)
        ],
        columns=["subject_id", "patient_id", "instance", "file"],
    )


def _participants(file: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict]]:
    """The columns of `Cohort.subjects` from those of the table; rows with negative ids are gone.

    Returns:
        The rows that are understood; the ids (with instances) of the others, and why; and which
        columns are fields, see `_fields`.
    """
    table = read_table(file, [], _LAYOUT)
    if "eid" not in table:
        table = table.rename(columns={"participant.eid": "eid", "f.eid": "eid"})
    if "eid" not in table:
        table = read_table(file, ["eid"], _LAYOUT)  # which says what is missing
    refuse_lookalikes(KNOWN, table, str(file))
    fields = _fields(table.columns)
    meant = {column: name for name, found in fields.items() for column in found.values()}
    reserved = ("subject_id", "patient_id", "file", "ecg_age", *MEASUREMENTS, *QUALITY)
    taken = [name for name in table if name in reserved]
    if taken:
        raise CohortError(f"{file} has columns that this reader makes: {taken}. Rename them.")
    bad = BadRows(table["eid"], str(file))
    eids = _eids(table["eid"], bad)
    bad.ids = eids
    here = ~eids.str.startswith("-")
    columns = {
        name: _column(table[name], meant.get(name, name), eids, bad)
        for name in table.columns.drop("eid")
    }
    known = pd.DataFrame({"patient_id": eids, **columns})[here]
    keys = [name for name in ("patient_id", "instance") if name in known]
    twice = known.duplicated(keys, keep=False)
    if twice.any():
        again = known.duplicated(keys)
        bad.mark(
            twice.reindex(eids.index, fill_value=False),
            "eid stands twice",
            f"eid {eids[again.idxmax()]!r} stands twice in {file}; {again.sum()} rows repeat one. "
            "Expected one row per participant, or per visit with a column `instance`.",
        )
    reasons = bad.settle()[here]
    good = reasons == ""
    return known[good], known[keys][~good].drop_duplicates().assign(reason=reasons), fields


def _fields(columns: pd.Index) -> dict[str, dict[int | None, str]]:
    """Name -> visit -> column that is this field, for names that no column has; None: all visits.

    Where a row is a visit, a column is what it is called.

    Raises:
        CohortError: two columns are the same field of the same visit.
    """
    fields: dict[str, dict[int | None, str]] = {}
    for column in columns:
        found = _FIELD.fullmatch(column)
        name = FIELDS.get(found["field"] or found["old"]) if found else None
        if name is None or name in columns or "instance" in columns:
            continue
        visit = None if name == ALWAYS else found["visit"] or found["at"]
        visit, of_visits = visit if visit is None else int(visit), fields.setdefault(name, {})
        if visit in of_visits:
            raise CohortError(
                f"{TABLE} has {name} twice, as {of_visits[visit]} and as {column}. Leave one out."
            )
        of_visits[visit] = column
    if fields:
        said = (f"{name} is {', '.join(found.values())}" for name, found in fields.items())
        print(f"{TABLE}: {'; '.join(said)}.")
    return fields


def _of_each_visit(subjects: pd.DataFrame, fields: dict[str, dict]) -> pd.DataFrame:
    """Columns that are fields become one for each name, of the visit of the recording.

    Raises:
        CohortError: a field is of other visits only: at the first one people were years younger.
    """
    subjects = subjects.copy()
    visits = sorted(subjects["instance"].unique())
    for name, found in fields.items():
        here = [visit for visit in visits if visit in found or None in found]
        if not here:
            raise CohortError(
                f"{TABLE} has {name} of other visits only ({', '.join(found.values())}); the ECGs "
                f"are of visits {', '.join(map(str, visits))}. Export the field for these."
            )
        none = int((~subjects["instance"].isin(here)).sum())
        if none:
            print(f"{TABLE} has no {name} of the visit of {none} recordings: it is unknown there.")
        value = pd.Series(np.nan, subjects.index, object if name == ALWAYS else float)
        for visit in here:
            rows = subjects["instance"] == visit
            value[rows] = subjects.loc[rows, found.get(visit, found.get(None))]
        subjects[name] = value
    return subjects.drop(columns=[one for found in fields.values() for one in found.values()])


def _eids(column: pd.Series, bad: BadRows) -> pd.Series:
    """Ids as whole numbers in text; 1234567.0 is 1234567."""
    eids = column.str.strip().str.replace(r"\.0*$", "", regex=True)
    wrong = ~eids.str.fullmatch(r"-?[0-9]+", na=False)
    if wrong.any():
        row = wrong.idxmax()
        # Counted as a text editor does: from 1, with the header.
        bad.mark(
            wrong,
            "eid is no whole number",
            f"Expected whole numbers as eid. Received in line {row + 2}: {column[row]!r}.",
        )
    return eids.fillna("").str.replace(r"^(-?)0+(\d)", r"\1\2", regex=True)


def _column(column: pd.Series, name: str, eids: pd.Series, bad: BadRows) -> pd.Series:
    """A column as numbers if it holds nothing else, or text; known names as what they are."""
    if name == "sex":
        return _sex(column, eids, bad)
    if name == "event":
        return flags(column, eids, bad.refuse)
    if name == "instance":
        return _instance(column, eids, bad)
    if name in ("age", "bmi", "time"):
        return numbers(column, eids, bad.refuse)
    return numbers_or_text(column)


def _sex(column: pd.Series, eids: pd.Series, bad: BadRows) -> pd.Series:
    code = column.str.strip().str.lower().str.replace(r"\.0*$", "", regex=True)
    sex = code.map(SEXES).astype(object)
    wrong = sex.isna() & column.notna()
    if wrong.any():
        row = wrong.idxmax()
        bad.mark(
            wrong,
            "sex is not female, male, 0 or 1",
            f"Expected sex as female or male, or UK Biobank's 0 (female) or 1 (male). Participant "
            f"{eids[row]} has {column[row]!r}.",
        )
    return sex


def _instance(column: pd.Series, eids: pd.Series, bad: BadRows) -> pd.Series:
    values = numbers(column, eids, bad.refuse)
    wrong = values % 1 != 0  # also where it is missing
    if wrong.any():
        row = wrong.idxmax()
        bad.mark(
            wrong,
            "instance is no number of a visit",
            f"Expected the number of a visit as instance of participant {eids[row]}. "
            f"Received: {column[row]!r}.",
        )
    return values.where(~wrong, -1).astype(int)


def _withdrawn(file: Path) -> list[str]:
    """Ids of those who withdrew; none without the file. A header `eid` is allowed."""
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    eids = [line for line in lines if line and line.lower() != "eid"]
    wrong = [eid for eid in eids if not re.fullmatch("[0-9]+", eid)]
    if wrong:
        raise CohortError(f"Expected one id per line in {file}. Received: {wrong[0]!r}.")
    return eids
