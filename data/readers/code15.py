"""CODE-15% (Ribeiro et al. 2021, doi 10.5281/zenodo.4916206), in its own layout.

`exams.csv` and, unpacked beside it, `exams_part0.hdf5` to `exams_part17.hdf5` or some of them.

The unit of the tracings is stated nowhere beyond doubt. The authors ask for volts times 1000, which
is mV, and the PhysioNet Challenge 2025 reads them as mV; so does this. But the same documentation
calls the scale 1e-4 V, and the QRS complexes of the ten exams at hand are about twice as large as
those of PTB-XL (medians: 1.9 against 1.0 mV in lead II, 4.7 against 1.8 mV in V4). Check amplitudes
before you compare them with those of another source; `millivolts_per_unit` changes the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from data.beats import BeatError, Strip
from data.cohort import Cohort, CohortError
from data.outcomes import flags, numbers, read_table
from data.readers.prepare import prepare

DIAGNOSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
COLUMNS = (
    *("exam_id", "patient_id", "age", "is_male", "death", "timey", "normal_ecg", "trace_file"),
    *DIAGNOSES,
)
SAMPLING_RATE = 400.0  # Hz
TRACING_LEADS = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")

_LAYOUT = "Expected the folder of the CODE-15% data set, with exams.csv and exams_part*.hdf5"


def load_code15(
    path: str | Path,
    cache: str | Path = "cache",
    workers: int | None = None,
    limit: int | None = None,
    progress: bool | None = None,
    millivolts_per_unit: float = 1.0,
) -> Cohort:
    """Reads CODE-15% as a cohort of median beats, prepared once and cached.

    Exams whose HDF5 file was not downloaded go to `excluded`. With further files downloaded, the
    cohort is prepared anew.

    Args:
        path: folder of the unpacked data set.
        cache: folder under which the prepared cohort is kept.
        workers: processes that prepare; one per CPU core if None.
        limit: only the first so many exams, in the order of the files.
        progress: show a progress bar; None shows it on a terminal only.
        millivolts_per_unit: scale of the tracings; see the head of this module.

    Returns:
        The cohort, in the order of the files. `subjects` has, beside the ids (`subject_id` is the
        exam) and the quality of each beat: `age` in years; `sex`; `event`, whether the patient
        died, and `time`, years to death or to the end of follow-up; `normal_ecg` and the six
        `DIAGNOSES`, true or false (1, 0 or missing if any is missing). `time` and `event` are
        published for the first exam of a patient only and are missing in the others, as they are
        where one of the two is, or where there was no follow-up (a time of 0 or less).

    Raises:
        CohortError: a file or column is not there or damaged, a row cannot be understood, or no
            exam gave a beat.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise CohortError(f"Expected a limit of 1 exam or more. Received: {limit}.")
    if not 0 < millivolts_per_unit < np.inf:
        raise CohortError(f"Expected millivolts_per_unit above 0. Received: {millivolts_per_unit}.")
    exams = read_table(path / "exams.csv", COLUMNS, _LAYOUT)
    records = _records(exams, path)
    order = sorted(range(len(records)), key=lambda i: (isinstance(records[i], str), records[i]))
    order = order[:limit]
    try:
        return prepare(
            subjects=_subjects(exams).iloc[order],
            records=[records[i] for i in order],
            read=TracingReader(str(path), millivolts_per_unit),
            cache=cache,
            source="CODE-15%",
            settings={"path": str(path.resolve()), "millivolts_per_unit": millivolts_per_unit},
            workers=workers,
            progress=progress,
        )
    finally:
        _open.cache_clear()


@dataclass(frozen=True)
class TracingReader:
    """Reads single tracings out of HDF5 files as strips in mV.

    Attributes:
        root: folder of the files.
        millivolts_per_unit: scale of the tracings.
    """

    root: str
    millivolts_per_unit: float = 1.0

    def __call__(self, record: tuple[str, int] | str) -> Strip:
        """Reads one tracing, without the zeros that fill it up at both ends.

        Args:
            record: file name and row, or the reason why there is no tracing.

        Raises:
            BeatError: there is no tracing, or nothing but zeros.
        """
        if isinstance(record, str):
            raise BeatError(record)
        file, row = record
        tracing = _dataset(_open(str(Path(self.root) / file)), "tracings")[row]  # (T, leads)
        recorded = np.flatnonzero(tracing.any(axis=1))
        if len(recorded) == 0:
            raise BeatError("tracing of zeros only")
        strip = tracing[recorded[0] : recorded[-1] + 1].T * np.float32(self.millivolts_per_unit)
        return Strip(strip, SAMPLING_RATE, TRACING_LEADS)


@lru_cache(maxsize=2)  # records come file by file
def _open(file: str) -> h5py.File:
    return h5py.File(file, "r")


def _dataset(opened: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this very file: another could be any file of the reader's.

    Raises:
        OSError: it is a link, or its numbers lie elsewhere.
        KeyError: it is not there.
    """
    link = opened.get(name, getlink=True)
    if link is None:
        raise KeyError(f"{name!r} is not there")
    if not isinstance(link, h5py.HardLink):
        raise OSError(f"{name!r} is a link to another place")
    dataset = opened[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise OSError(f"{name!r} does not hold its numbers itself")
    return dataset


def _records(exams: pd.DataFrame, folder: Path) -> list[tuple[str, int] | str]:
    """File and row of each exam, or why it has none. Only files in the folder itself are opened."""
    there = {file.name: file for file in folder.glob("*.hdf5")}
    names = exams["trace_file"].fillna("").astype(str)
    rows_of = {name: _rows_by_exam(there[name]) for name in names.unique() if name in there}
    if not rows_of:
        raise CohortError(
            f"None of the {names.nunique()} files that exams.csv names (first: "
            f"{names[0] if len(names) else 'none'}) is in {folder}. Unpack exams_part*.zip there."
        )
    records = []
    for name, exam in zip(names, exams["exam_id"], strict=True):
        if name not in rows_of:
            records.append(f"{name} is not there" if name else "exams.csv names no file")
        else:
            row = rows_of[name].get(exam)
            records.append(f"not in {name}" if row is None else (name, row))
    return records


def _rows_by_exam(file: Path) -> dict[str, int]:
    """Exam -> row in an HDF5 file; `exams.csv` is in another order."""
    try:
        with h5py.File(file, "r") as opened:
            shape, exams = _dataset(opened, "tracings").shape, _dataset(opened, "exam_id")[:]
    except (OSError, KeyError) as error:
        raise CohortError(
            f"{file} cannot be read: {error}. Was its download interrupted? Get it again, or take "
            "it away to go on without its exams."
        ) from error
    if len(shape) != 3 or shape[0] != len(exams) or shape[2] != len(TRACING_LEADS):
        raise CohortError(
            f"Expected tracings of shape ({len(exams)}, T, {len(TRACING_LEADS)}) in {file}, one "
            f"per exam_id. Received: {shape}."
        )
    return {str(exam): row for row, exam in enumerate(exams.tolist())}


def _subjects(exams: pd.DataFrame) -> pd.DataFrame:
    """The columns of `Cohort.subjects` from those of `exams.csv`."""
    ids = exams["exam_id"]
    time, event = numbers(exams["timey"], ids), flags(exams["death"], ids)
    known = (time > 0) & event.notna()
    return pd.DataFrame(
        {
            "subject_id": ids,
            "patient_id": exams["patient_id"],
            "age": numbers(exams["age"], ids),
            "sex": flags(exams["is_male"], ids).map({0.0: "female", 1.0: "male"}).astype(object),
            "time": time.where(known),
            "event": event.where(known),
            **{name: _booleans(exams[name], ids) for name in ("normal_ecg", *DIAGNOSES)},
        }
    )


def _booleans(column: pd.Series, ids: pd.Series) -> pd.Series:
    values = flags(column, ids)
    return values if values.isna().any() else values.astype(bool)
