"""UK Biobank: resting 12-lead ECGs (field 20205) and a table of what is known of the participants.

One folder with, in it or in folders below it, the CardioSoft XML files under the names they come
with (`1234567_20205_2_0.xml`: participant, field, visit, number), and in the folder itself:

- `subjects.csv`, a row per participant: `eid`, and any columns, such as `age` (years), `sex`
  (female / male, or 0 / 1 as UK Biobank codes them), `bmi` (kg/m2), image-derived measures, `time`
  (years) and `event` (0 / 1). With a column `instance` (2 for `_2_0`) it has a row per visit.
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

from data.beats import Beat, BeatError, Strip
from data.cohort import Cohort, CohortError, refuse_lookalikes
from data.outcomes import flags, numbers, numbers_or_text, read_table
from data.readers.cardiosoft import MEASUREMENTS, read_measurements, read_median_beat, read_strip
from data.readers.prepare import QUALITY, prepare

TABLE, WITHDRAWN = "subjects.csv", "withdrawn.csv"
KNOWN = ("instance", "sex", "age", "bmi", "time", "event")  # columns that are read as what they are
SEXES = {"0": "female", "1": "male", "female": "female", "male": "male"}
BEATS = {"median": read_median_beat, "strip": read_strip}

_FILE = re.compile(r"(\d+)_20205_(\d+)_(\d+)\.xml", re.IGNORECASE | re.ASCII)
_LAYOUT = f"Expected a folder of files like 1234567_20205_2_0.xml, and in it {TABLE} with `eid`"


def load_ukbiobank(
    path: str | Path,
    cache: str | Path = "cache",
    beats: str = "median",
    workers: int | None = None,
    limit: int | None = None,
    progress: bool | None = None,
) -> Cohort:
    """Reads resting ECGs of UK Biobank as a cohort of median beats, prepared once and cached.

    Args:
        path: the folder, as described at the head of this module.
        cache: folder under which the prepared cohort is kept.
        beats: "median", the median beats that the recorder stored (see
            `data.cardiosoft.read_median_beat`), or "strip", our own from the rhythm strips.
        workers: processes that prepare; one per CPU core if None.
        limit: only the first so many recordings, in the order of participant and visit.
        progress: show a progress bar; None shows it on a terminal only.

    Returns:
        The cohort, in the order of participant and visit. `subjects` has `subject_id`
        ("1234567_2_0"), `patient_id` (the participant: visits of one are never divided by a
        split), `instance` (the visit), the columns of the table, what the recorder measured
        (`ecg_age` and `data.cardiosoft.MEASUREMENTS`), and the quality of each beat. Recordings of
        participants who are not in the table or withdrew, and those that give no beat, go to
        `excluded`.

    Raises:
        CohortError: no recordings or no table, a row of the table that cannot be understood, or no
            recording gave a beat.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise CohortError(f"Expected a limit of 1 recording or more. Received: {limit}.")
    if beats not in BEATS:
        raise CohortError(f"Expected beats among {list(BEATS)}. Received: {beats!r}.")
    recordings = _recordings(path)[:limit]
    known = _participants(path / TABLE)
    keys = ["patient_id", "instance"] if "instance" in known else ["patient_id"]
    subjects = recordings.merge(known, on=keys, how="left", indicator=True, validate="m:1")
    reasons = np.where(subjects.pop("_merge") == "both", "", f"not in {TABLE}")
    reasons[subjects["patient_id"].isin(_withdrawn(path / WITHDRAWN))] = "withdrawn"
    files = subjects.pop("file").tolist()
    measured = [
        {} if reason else read_measurements(path / file)
        for file, reason in zip(files, reasons, strict=True)
    ]
    return prepare(
        subjects=subjects.join(pd.DataFrame(measured, index=subjects.index)),
        records=list(zip(files, reasons.tolist(), strict=True)),
        read=RecordingReader(str(path), beats),
        cache=cache,
        source=f"UK Biobank {beats}",
        settings={"path": str(path.resolve())},
        workers=workers,
        progress=progress,
    )


@dataclass(frozen=True)
class RecordingReader:
    """Reads CardioSoft files below a folder.

    Attributes:
        root: the folder.
        beats: "median" or "strip".
    """

    root: str
    beats: str = "median"

    def __call__(self, record: tuple[str, str]) -> Strip | Beat:
        """Reads one recording.

        Args:
            record: the file, and the reason why it is left out ("" if it is not).

        Raises:
            BeatError: it is left out, or gives no beat.
        """
        file, reason = record
        if reason:
            raise BeatError(reason)
        return BEATS[self.beats](Path(self.root) / file)


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


def _participants(file: Path) -> pd.DataFrame:
    """The columns of `Cohort.subjects` from those of the table; rows with negative ids are gone."""
    table = read_table(file, ["eid"], _LAYOUT)
    refuse_lookalikes(KNOWN, table, str(file))
    reserved = ("subject_id", "patient_id", "file", "ecg_age", *MEASUREMENTS, *QUALITY)
    taken = [name for name in table if name in reserved]
    if taken:
        raise CohortError(f"{file} has columns that this reader makes: {taken}. Rename them.")
    eids = _eids(table["eid"], file)
    here = ~eids.str.startswith("-")
    table, eids = table[here], eids[here]
    columns = {name: _column(table[name], eids) for name in table.columns.drop("eid")}
    known = pd.DataFrame({"patient_id": eids, **columns})
    keys = [name for name in ("patient_id", "instance") if name in known]
    twice = known.duplicated(keys)
    if twice.any():
        raise CohortError(
            f"eid {eids[twice.idxmax()]!r} stands twice in {file}; {twice.sum()} rows repeat one. "
            "Expected one row per participant, or per visit with a column `instance`."
        )
    return known


def _eids(column: pd.Series, file: Path) -> pd.Series:
    """Ids as whole numbers in text; 1234567.0 is 1234567."""
    eids = column.str.strip().str.replace(r"\.0*$", "", regex=True)
    wrong = ~eids.str.fullmatch(r"-?[0-9]+", na=False)
    if wrong.any():
        row = wrong.idxmax()
        # Counted as a text editor does: from 1, with the header.
        raise CohortError(
            f"Expected whole numbers as eid in {file}. Received in line {row + 2}: {column[row]!r}."
        )
    return eids.str.replace(r"^(-?)0+(\d)", r"\1\2", regex=True)


def _column(column: pd.Series, eids: pd.Series) -> pd.Series:
    """A column as numbers if it holds nothing else, or text; known ones as what they are."""
    if column.name == "sex":
        return _sex(column, eids)
    if column.name == "event":
        return flags(column, eids)
    if column.name == "instance":
        return _instance(column, eids)
    if column.name in ("age", "bmi", "time"):
        return numbers(column, eids)
    return numbers_or_text(column)


def _sex(column: pd.Series, eids: pd.Series) -> pd.Series:
    code = column.str.strip().str.lower().str.replace(r"\.0*$", "", regex=True)
    sex = code.map(SEXES).astype(object)
    wrong = sex.isna() & column.notna()
    if wrong.any():
        row = wrong.idxmax()
        raise CohortError(
            f"Expected sex as female or male, or UK Biobank's 0 (female) or 1 (male). Participant "
            f"{eids[row]} has {column[row]!r}."
        )
    return sex


def _instance(column: pd.Series, eids: pd.Series) -> pd.Series:
    values = numbers(column, eids)
    wrong = values % 1 != 0  # also where it is missing
    if wrong.any():
        row = wrong.idxmax()
        raise CohortError(
            f"Expected the number of a visit as instance of participant {eids[row]}. "
            f"Received: {column[row]!r}."
        )
    return values.astype(int)


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
