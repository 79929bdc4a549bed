"""PTB-XL (Wagner et al. 2020, doi 10.1038/s41597-020-0495-6), version 1.0.x, in its own layout.

`ptbxl_database.csv`, `scp_statements.csv` and `records500/` or `records100/` in one folder, as
unpacked from https://physionet.org/content/ptb-xl/.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from data.bad_rows import BadRows
from data.beats import BeatError, Strip
from data.cohort import Cohort, CohortError
from data.outcomes import numbers, read_table
from data.readers.person import HEIGHT_CM, WEIGHT_KG
from data.readers.prepare import Check, prepare
from data.readers.wfdb16 import (
    Signals,
    as_written,
    check_gains,
    check_rate,
    compare_checksums,
    read_16_bit,
)
from data.strips import MILLIVOLTS, plain_unit

COLUMNS = (
    *("ecg_id", "patient_id", "age", "sex", "height", "weight", "scp_codes", "heart_axis"),
    *("strat_fold", "filename_lr", "filename_hr"),
)
STATEMENTS = ("diagnostic", "diagnostic_class")
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
SEXES = {0: "male", 1: "female"}
AGE_OVER_89 = 300  # how ages above 89 are published, so that nobody is identified by them

_LAYOUT = (
    "Expected the folder of the unpacked PTB-XL data set, with ptbxl_database.csv, "
    "scp_statements.csv and records500/ or records100/"
)


def load_ptbxl(
    path: str | Path,
    cache: str | Path = "cache",
    sampling_rate: int = 500,
    workers: int | None = None,
    limit: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
) -> Cohort:
    """Reads PTB-XL as a cohort of median beats, prepared once and cached.

    Args:
        path: folder of the unpacked data set.
        cache: folder under which the prepared cohort is kept.
        sampling_rate: 500 or 100 Hz, which of the two sets of recordings is read. Beats have 500 Hz
            in both cases; those from 100 Hz hold nothing above 50 Hz.
        workers: processes that prepare; one per CPU core if None.
        limit: only the first so many recordings.
        progress: show a progress bar; None shows it on a terminal only.
        check: as `data.readers.prepare.prepare` has it.

    Returns:
        The cohort. `subjects` has, beside the ids and the quality of each beat:
        `age` in years, 90 where it is published as "over 89" (those also have `age_over_89`);
        `sex`; `height` in cm and `weight` in kg, missing where implausible; `bmi` in kg/m2 where
        both are known; `fold` 1..10; `superclass`, the diagnostic superclasses of all statements
        whatever their likelihood (0 means unknown there), joined by "+" in the order of
        `SUPERCLASSES`, missing if none; `normal`, whether it is "NORM" and nothing else;
        `heart_axis` as published. Missing values stay missing.

    Raises:
        CohortError: a file or column is not there, a row cannot be understood, or no record could
            be read.
    """
    path = Path(path)
    if sampling_rate not in (500, 100):
        raise CohortError(f"PTB-XL has 500 Hz and 100 Hz. Received: {sampling_rate}.")
    if limit is not None and limit < 1:
        raise CohortError(f"Expected a limit of 1 recording or more. Received: {limit}.")
    database, statements = (
        read_table(path / name, columns, _LAYOUT, dtype=None, skipinitialspace=False)
        for name, columns in (("ptbxl_database.csv", COLUMNS), ("scp_statements.csv", STATEMENTS))
    )
    database = database[:limit]
    names = database["filename_hr" if sampling_rate == 500 else "filename_lr"]
    subjects, reasons = _subjects(database, _superclass_of(statements), names)
    return prepare(
        subjects=subjects,
        records=names.astype(str).tolist(),
        read=WfdbReader(str(path)),
        cache=cache,
        source=f"PTB-XL {sampling_rate} Hz",
        settings={"path": str(path.resolve())},
        workers=workers,
        progress=progress,
        left_out=reasons.tolist(),
        check=check,
    )


@dataclass(frozen=True)
class WfdbReader:
    """Reads WFDB records below a folder as strips in mV.

    Attributes:
        root: the folder; no record name leads out of it.
    """

    root: str

    def __call__(self, name: str) -> Strip:
        """Reads one record.

        Args:
            name: path of the record below `root`, with or without extension; backslashes divide it
                as slashes do.

        Raises:
            BeatError: the name leads out of the folder, the unit is unknown, the header gives no
                sampling rate or no gain, or the samples contradict their checksum.
        """
        name = re.sub(r"\.(hea|dat)$", "", name.strip().replace("\\", "/"))
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "://" in name:
            raise BeatError("file name leads out of the data folder")
        path = Path(self.root) / name
        values, sampling_rate, units, leads = read_16_bit(path) or _read_any_format(path)
        factors = [MILLIVOLTS.get(plain_unit(unit)) for unit in units]
        if None in factors:
            raise BeatError(f"unknown unit {units[factors.index(None)]!r}")
        if set(factors) != {1.0}:
            values = values * np.array(factors, np.float32)[:, None]
        return Strip(values, sampling_rate, leads)


def _read_any_format(path: Path) -> Signals:
    import wfdb  # here: every worker would import it, and few records need it

    check_rate(path)
    whole = check_gains(path)
    record = wfdb.rdrecord(str(path), physical=not whole, return_res=32)
    units, names = as_written(path, record.units, record.sig_name)
    if whole:
        # Samples that the package averaged or shifted are not those that were added up.
        as_stored = set(record.samps_per_frame) == {1} and not any(record.skew)
        if as_stored and None not in record.checksum:
            compare_checksums(record.d_signal.T, np.array(record.checksum, np.int64), tuple(names))
        record.dac(inplace=True, return_res=32)
    return Signals(record.p_signal.T, record.fs, units, names)


def _subjects(
    database: pd.DataFrame, superclass_of: dict[str, str], names: pd.Series
) -> tuple[pd.DataFrame, pd.Series]:
    """The columns of `Cohort.subjects` from those of PTB-XL, and why rows are left out."""
    ids = database["ecg_id"]
    bad = BadRows(ids.astype(str), "ptbxl_database.csv")
    subject_id = bad.mark_ids(ids)
    for column in (database["patient_id"], names):
        bad.mark_missing(column)
    age, sex, height, weight, fold = (
        numbers(database[column], ids.astype(str), bad.refuse)
        for column in ("age", "sex", "height", "weight", "strat_fold")
    )
    unknown = sex.notna() & ~sex.isin(list(SEXES))
    if unknown.any():
        row = unknown.idxmax()
        bad.mark(
            unknown,
            "sex is not 0 or 1",
            f"Expected sex 0 (male) or 1 (female). Record {ids[row]} has {sex[row]:g}.",
        )
    height = height.where(height.between(*HEIGHT_CM))
    weight = weight.where(weight.between(*WEIGHT_KG))
    statements = database["scp_codes"].map(_statements)
    wrong = statements.isna()
    if wrong.any():
        [received] = database["scp_codes"].loc[[wrong.idxmax()]].tolist()
        bad.mark(
            wrong,
            "scp_codes are no dictionary of statements",
            f"scp_codes of record {ids[wrong.idxmax()]} are no dictionary of statements: "
            f"{received!r}.",
        )
    classes = [_superclasses(found, superclass_of) for found in statements]
    subjects = pd.DataFrame(
        {
            "subject_id": subject_id,
            "patient_id": database["patient_id"],
            "age": age.mask(age == AGE_OVER_89, 90.0),
            "age_over_89": age > 89,
            "sex": sex.map(SEXES).astype(object),
            "height": height,
            "weight": weight,
            "bmi": weight / (height / 100) ** 2,
            "fold": fold,
            "superclass": pd.Series(classes, dtype=object, index=database.index),
            "normal": [found == "NORM" for found in classes],
            "heart_axis": database["heart_axis"].astype(object),
        }
    )
    return subjects, bad.settle()


def _superclass_of(statements: pd.DataFrame) -> dict[str, str]:
    """Code of each diagnostic statement -> its superclass; the first column holds the codes."""
    diagnostic = statements[statements["diagnostic"] == 1]
    return dict(zip(diagnostic.iloc[:, 0], diagnostic["diagnostic_class"], strict=True))


def _statements(codes: object) -> list[str] | None:
    """Codes of a published dictionary of statements, such as "{'NORM': 100.0}"; None if it is none.

    What is no text, or no such dictionary, is none.
    """
    try:
        return list(ast.literal_eval(codes).keys())
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError, MemoryError):
        return None


def _superclasses(statements: list[str] | None, superclass_of: dict[str, str]) -> str | float:
    """Superclasses of statements, joined; missing if there are none."""
    found = {superclass_of.get(code) for code in statements or ()}
    return "+".join(known for known in SUPERCLASSES if known in found) or np.nan
