"""The data contract, stated once: what a cohort of ECGs is, in memory and on disk.

An ECG is one median beat per recording: float32, millivolts, leads in the order of `LEADS`,
`SAMPLES` samples at `SAMPLING_RATE` Hz, the QRS complex centred on sample `QRS_SAMPLE`. Where the
millivolts are lost, a cohort is in another unit of `data.units`, and says so.

Dims: N recordings, L leads, T samples.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.leads import (
    INDEPENDENT_LEADS,
    LEADS,
    derive_leads,
    einthoven_residual,
    independent_leads,
    lead_name,
)
from data.look_alikes import look_alike
from data.rows import Rows, chunks, even_rows, select, write_array
from data.units import MV, UNITS

__all__ = [
    "INDEPENDENT_LEADS",
    "LEADS",
    "QRS_SAMPLE",
    "SAMPLES",
    "SAMPLING_RATE",
    "Cohort",
    "CohortError",
    "Split",
    "derive_leads",
    "einthoven_residual",
    "independent_leads",
]

SAMPLING_RATE = 500.0  # Hz
SAMPLES = 400  # 800 ms
QRS_SAMPLE = (
    150  # 300 ms before the QRS centre hold a P wave at PR 240 ms; 500 ms after, the T wave
)
UV_PER_MV = 1000.0
# The source whose ids are keyed hashes: their order is that of the key, and means nothing.
RECORDINGS = "recordings"
IDS = ("subject_id", "patient_id")
NOT_IN_TABLES = re.compile("[\\x00\\r\\ud800-\\udfff]")  # as an id, with which other files are made
NOT_IN_TEXTS = re.compile("[\\x00\\ud800-\\udfff]")
FORMAT_VERSION = 1
SMALL = 2**30  # bytes of a cohort on disk of which a split reads what it can: 56,000 ECGs

# A resting 12-lead QRS is 0.2 to 10 mV from peak to peak in its largest lead. Values in microvolts
# are 1000 times that, in volts 1/1000.
PLAUSIBLE_PEAK_TO_PEAK_MV = (0.05, 50.0)


def default_qrs_sample(sampling_rate: float) -> int:
    """The sample at this rate in Hz that lies where `QRS_SAMPLE` does, 300 ms from the first."""
    return round(QRS_SAMPLE * sampling_rate / SAMPLING_RATE)


# Refuses subjects whose recordings are not read yet; it is told which columns come with these.
Check = Callable[[pd.DataFrame, Collection[str]], None]


class CohortError(ValueError):
    """Data that break the contract. The message names the record and what to do."""


def refuse_lookalikes(names: Iterable[str], columns: Iterable[object], source: str) -> None:
    """Refuses a column that has one of these names but for capitals, spaces and the like.

    Such a column would be carried along as something else, and the one that it is would be missing.

    Raises:
        CohortError: names both.
    """
    found = look_alike(names, columns)
    if found is not None:
        raise CohortError(
            f"Expected a column {found[0]!r} in {source}. Received {found[1]!r}: rename it, or "
            "take it out if it is something else."
        )


class Split(NamedTuple):
    """Three cohorts that share no patient."""

    train: Cohort
    validation: Cohort
    test: Cohort


@dataclass(eq=False)
class Cohort:
    """ECGs and what is known of their subjects, row by row.

    Attributes:
        ecg: (N, L, T) float32, in `unit`; an array, a read-only memory map, or `Rows` on disk.
        subjects: N rows, index 0..N-1. `subject_id` (unique) names the recording, `patient_id` the
            person (splits are by patient; equal to `subject_id` if absent). Condition columns,
            optional `time` (years) and `event` (0 / 1), anything else carried along. Missing
            values are NaN.
        source: where the data came from, one line.
        excluded: what was left out and why: columns `subject_id`, `reason`.
        truth: for simulated data, N rows of true features, latent factors and log hazard.
        leads: names of the L leads. Those of `LEADS` may be written as `data.leads.lead_name` reads
            them; in another order they are put in order, with the ECGs.
        sampling_rate: Hz.
        qrs_sample: on which the middle of the QRS lies; by default 300 ms from the first one.
        unit: "mV", or "standardised" where nobody knows how many mV one is.

    Raises:
        CohortError: the data break the contract.
    """

    ecg: np.ndarray | Rows
    subjects: pd.DataFrame
    source: str = ""
    excluded: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame({"subject_id": [], "reason": []}, dtype=object)
    )
    truth: pd.DataFrame | None = None
    leads: tuple[str, ...] = LEADS
    sampling_rate: float = SAMPLING_RATE
    qrs_sample: int | None = None
    unit: str = MV

    def __post_init__(self) -> None:
        named = tuple(lead_name(str(lead)) for lead in self.leads)
        self.leads = tuple(self.leads) if None in named else named
        self.subjects = checked_subjects(self.subjects)
        _check_recorded(self.ecg, self.leads, self.sampling_rate, self.qrs_sample, self.unit)
        if self.qrs_sample is None:
            self.qrs_sample = default_qrs_sample(self.sampling_rate)
        self.qrs_sample = int(self.qrs_sample)
        self._hashes = _check_ecg(self.ecg, self.subjects["subject_id"], self.leads, self.unit)
        if self.leads != LEADS and set(self.leads) == set(LEADS):
            self.ecg = np.asarray(self.ecg)[:, [self.leads.index(lead) for lead in LEADS]]
            self.leads = LEADS
            self._hashes = _hashed(self.ecg)
        if self.truth is not None:
            if len(self.truth) != len(self.subjects):
                raise CohortError(
                    f"Expected truth of {len(self.subjects)} rows. Received: {len(self.truth)}."
                )
            self.truth = self.truth.reset_index(drop=True)

    @classmethod
    def unread(cls, subjects: pd.DataFrame, source: str = "") -> Cohort:
        """A cohort whose ECGs are still to be read: (N, 0, 0).

        What its table does not allow is found by the same functions as later, before hours of work.

        Raises:
            CohortError: the subjects break the contract.
        """
        cohort = object.__new__(cls)
        cohort.subjects = checked_subjects(subjects)
        cohort.ecg = np.empty((len(subjects), 0, 0), np.float32)
        cohort.source, cohort.truth, cohort.leads = source, None, LEADS
        cohort.excluded = pd.DataFrame({"subject_id": [], "reason": []}, dtype=object)
        cohort.sampling_rate, cohort.qrs_sample, cohort.unit = SAMPLING_RATE, QRS_SAMPLE, MV
        cohort._hashes = np.arange(len(subjects))
        return cohort

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def timing(self) -> dict[str, float]:
        """`sampling_rate` and `qrs_sample`, for whatever measures in milliseconds from the QRS."""
        return {"sampling_rate": self.sampling_rate, "qrs_sample": self.qrs_sample}

    def take(self, rows: Sequence[int] | np.ndarray, most: int | None = None) -> Cohort:
        """The recordings at these row numbers, in this order. `excluded` stays as it is.

        Args:
            rows: row numbers, or (N,) bool.
            most: bytes. Of a memory-mapped cohort a larger part stays on disk: its `ecg` is then
                `Rows`, which read what they are asked for. `rows.IN_MEMORY` where left out.
        """
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        part = object.__new__(Cohort)  # rows of a valid cohort are valid: not checked again
        part.ecg = select(self.ecg, rows, most)
        part.subjects = self.subjects.iloc[rows].reset_index(drop=True)
        part.truth = None if self.truth is None else self.truth.iloc[rows].reset_index(drop=True)
        part.source, part.excluded = self.source, self.excluded
        part.leads, part.sampling_rate = self.leads, self.sampling_rate
        part.qrs_sample, part.unit = self.qrs_sample, self.unit
        part._hashes = self._hashes[rows]
        return part

    def thinned(self, count: int, most: int | None = None) -> Cohort:
        """An even selection of at most `count` recordings; the cohort itself if it has no more.

        What is on disk is read, unless it is more than `most` bytes (see `take`).
        """
        if len(self) <= count and (most == 0 or not isinstance(self.ecg, Rows)):
            return self
        return self.take(even_rows(len(self), count), most)

    def equal_recordings(self) -> pd.DataFrame:
        """Recordings whose ECG is that of an earlier one, to the last bit.

        Returns:
            `subject_id`, `patient_id`, and those of the first recording with this ECG,
            `equal_to` and `its_patient`; in the order of the cohort, empty without any.
        """
        _, first, group = np.unique(self._hashes, return_index=True, return_inverse=True)
        original = first[group]
        later = np.flatnonzero(original != np.arange(len(self)))
        ids = self.subjects[list(IDS)]
        found = ids.iloc[original[later]].set_axis(["equal_to", "its_patient"], axis=1)
        return pd.concat([part.reset_index(drop=True) for part in (ids.iloc[later], found)], axis=1)

    def holds_ecgs_of(self, *others: Cohort) -> np.ndarray:
        """(N,) whether each ECG is also one of these cohorts, to the last bit."""
        return np.isin(self._hashes, np.concatenate([other._hashes for other in others]))

    def _persons(self) -> pd.Series:
        """(N,) `patient_id`, one for all patients who share an equal recording."""
        patients, equal = self.subjects["patient_id"], self.equal_recordings()
        if equal.empty:
            return patients
        from scipy.sparse import coo_matrix  # here: every process that prepares would import it
        from scipy.sparse.csgraph import connected_components

        names, number = np.unique(patients.to_numpy(), return_inverse=True)
        shared = (np.searchsorted(names, equal[who]) for who in ("patient_id", "its_patient"))
        graph = coo_matrix((np.ones(len(equal)), tuple(shared)), (len(names),) * 2)
        _, person = connected_components(graph, directed=False)
        _, first = np.unique(person, return_index=True)
        return pd.Series(names[first[person]][number], index=patients.index)

    def split(
        self, validation: float = 0.1, test: float = 0.15, seed: int = 0, by_fold: bool = False
    ) -> Split:
        """Divides by patient; patients who share an equal recording are one.

        Args:
            validation: share of the patients; this and the next as `config.DataConfig` has them.
            test: share of the patients.
            seed: of the random division.
            by_fold: use the column `fold` (1..10) instead: 10 is test, 9 validation, the rest
                training, as PTB-XL recommends. Equal recordings of several patients in several
                parts all go to the first of these, so that none that is judged was trained on.

        Returns:
            (train, validation, test); no patient is in two of them. Of a memory-mapped cohort of
            more than `SMALL` bytes all stay on disk (see `take`): `part.ecg[rows]` reads an array.

        Raises:
            CohortError: a part would be empty, or the folds divide a patient.
        """
        patients = self.subjects["patient_id"]
        if by_fold:
            if "fold" not in self.subjects or self.subjects["fold"].isna().any():
                raise CohortError(
                    "Expected a column `fold` without gaps to split by fold. "
                    'Set data.split to "random", or add the column.'
                )
            fold = pd.to_numeric(self.subjects["fold"], errors="coerce").to_numpy()
            if not np.isin(fold, range(1, 11)).all():
                row = int(np.argmin(np.isin(fold, range(1, 11))))
                raise CohortError(
                    "Expected whole numbers from 1 to 10 as `fold`. Record "
                    f"{self.subjects['subject_id'][row]!r} has "
                    f"{self.subjects['fold'].tolist()[row]!r}."
                )
            part = np.where(fold == 10, 2, np.where(fold == 9, 1, 0))
            parts_of = pd.Series(part).groupby(patients.to_numpy()).nunique()
            if (parts_of > 1).any():
                raise CohortError(
                    f"Patient {parts_of.index[parts_of > 1][0]!r} is in two parts of the split: "
                    "its folds must be all training (1-8), all 9 or all 10."
                )
            persons = self._persons()
            part = pd.Series(part).groupby(persons.to_numpy()).transform("min").to_numpy()
        else:
            if not (0 < validation and 0 < test and validation + test < 1):
                raise CohortError(
                    "Expected shares of validation and test above 0 with a sum below 1. "
                    f"Received: {validation} and {test}."
                )
            patients = self._persons()
            names = patients.unique()
            if self.source != RECORDINGS:  # of these, the order of the files
                names = np.sort(names)
            order = np.random.default_rng(seed).permutation(len(names))
            n_test, n_validation = (
                max(1, round(len(names) * share)) for share in (test, validation)
            )
            part_of = np.zeros(len(names), dtype=int)
            part_of[order[:n_test]] = 2
            part_of[order[n_test : n_test + n_validation]] = 1
            part = part_of[pd.Index(names).get_indexer(patients)]
        for number, name in enumerate(Split._fields):
            if not (part == number).any():
                raise CohortError(
                    f"The {name} part of the split is empty: {len(self)} recordings of "
                    f"{patients.nunique()} patients. A split needs at least three patients"
                    + (" and recordings in folds 1-8, 9 and 10." if by_fold else ".")
                )
        # Of a large cohort none is in memory: at 100,000 validation and test would take 0.5 GB.
        most = None if self.ecg.nbytes <= SMALL else 0
        return Split(*(self.take(part == number, most) for number in range(3)))

    def save(self, folder: str | Path) -> None:
        """Writes `ecg.npy`, `subjects.csv`, `excluded.csv`, `cohort.json` (and `truth.csv`).

        All are written beside their places first: where the disk is full, an earlier cohort stays
        as it was. `cohort.json` is moved last: a folder without it is unfinished, and `open` says
        so.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"subjects.csv": self.subjects, "excluded.csv": self.excluded}
        if self.truth is not None:
            tables["truth.csv"] = self.truth
        names = ("ecg.npy", *tables, "cohort.json")
        try:
            # Not in place: the ECGs may be a memory map of the very file that is replaced.
            parts = (ecg for _, ecg in chunks(self.ecg))
            write_array(folder / "ecg.npy.partial", self.ecg.shape, parts)
            for name, table in tables.items():
                # Texts in quotes: a line break of any kind is part of a text then.
                quoting = csv.QUOTE_NONNUMERIC
                table.to_csv(folder / f"{name}.partial", index=False, quoting=quoting)
            text = json.dumps(self._description(), indent=2) + "\n"
            (folder / "cohort.json.partial").write_text(text, encoding="utf-8")
            (folder / "cohort.json").unlink(missing_ok=True)
            (folder / "truth.csv").unlink(missing_ok=True)
            for name in names:
                (folder / f"{name}.partial").replace(folder / name)
        finally:
            for name in names:
                (folder / f"{name}.partial").unlink(missing_ok=True)

    def _description(self) -> dict:
        """What `cohort.json` holds."""
        return {
            "format_version": FORMAT_VERSION,
            "source": self.source,
            "unit": self.unit,
            "leads": list(self.leads),
            "sampling_rate": self.sampling_rate,
            "qrs_sample": self.qrs_sample,
            "shape": list(self.ecg.shape),
            "text_columns": [
                name
                for name, kind in self.subjects.dtypes.items()
                if not pd.api.types.is_numeric_dtype(kind)
            ],
            "excluded": self.excluded["reason"].value_counts().to_dict(),
        }

    @classmethod
    def open(cls, folder: str | Path) -> Cohort:
        """Opens a prepared folder; the ECGs stay on disk, memory-mapped and read-only.

        Raises:
            CohortError: no finished prepared cohort of a known version lies there.
        """
        folder = Path(folder)
        if not (folder / "cohort.json").is_file():
            raise CohortError(
                f"{folder} is no prepared cohort: cohort.json is missing (not there, or the "
                "preparation was interrupted). Prepare it again."
            )
        try:
            description = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
            version = description["format_version"]
            if version > FORMAT_VERSION:
                raise CohortError(
                    f"{folder} was prepared by a newer version (format {version}, this one reads "
                    f"up to {FORMAT_VERSION}). Update the code or prepare it again."
                )
            if description["unit"] not in UNITS:
                expected = " or ".join(UNITS)
                raise CohortError(f"{folder} is in {description['unit']!r}. Expected {expected}.")
            truth = folder / "truth.csv"
            parts = {
                "ecg": np.lib.format.open_memmap(folder / "ecg.npy", mode="r"),
                "subjects": _read_table(
                    folder / "subjects.csv", {name: str for name in description["text_columns"]}
                ),
                "source": description["source"],
                "excluded": _read_table(folder / "excluded.csv", str),
                "truth": _read_table(truth) if truth.is_file() else None,
                "leads": tuple(description["leads"]),
                "sampling_rate": description["sampling_rate"],
                "qrs_sample": description.get("qrs_sample"),  # not there before it was kept
                "unit": description["unit"],
            }
        except CohortError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CohortError(
                f"{folder} is damaged ({type(error).__name__}: {error}). "
                "Delete the folder and prepare it again."
            ) from error
        return cls(**parts)


def _read_table(path: Path, dtype: type | dict[str, type] | None = None) -> pd.DataFrame:
    """Reads what `DataFrame.to_csv` wrote: only an empty field is missing, an id may be "NA"."""
    table = pd.read_csv(
        path, dtype=dtype, keep_default_na=False, na_values=[""], float_precision="round_trip"
    )
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much as row names
        raise ValueError(f"the rows of {path.name} have more fields than its header")
    return table


def checked_subjects(subjects: pd.DataFrame) -> pd.DataFrame:
    """Adds missing ids, and checks that `subject_id` is complete and unique."""
    if not isinstance(subjects, pd.DataFrame):
        raise CohortError(f"Expected subjects as a pandas DataFrame. Received: {type(subjects)}.")
    subjects = subjects.reset_index(drop=True).copy()
    if len(subjects) == 0:
        raise CohortError("Expected at least one subject. Received an empty table.")
    twice = subjects.columns[subjects.columns.duplicated()]
    if len(twice):
        raise CohortError(f"The column {twice[0]!r} of the subjects is there twice. Rename one.")
    refuse_lookalikes(IDS, subjects.columns, "the subjects")
    if "subject_id" not in subjects:
        raise CohortError(
            f"Expected a column `subject_id`. Received the columns {list(subjects.columns)}."
        )
    if "patient_id" not in subjects:
        subjects["patient_id"] = subjects["subject_id"]
    for column in IDS:
        missing = subjects[column].isna() | (subjects[column].astype(str) == "")
        if missing.any():
            raise CohortError(
                f"Row {int(missing.idxmax())} of the subjects has no {column}. "
                "Fill it in, or leave the row out."
            )
        numbers = pd.api.types.is_float_dtype(subjects[column])
        if numbers and (subjects[column] % 1 == 0).all():
            subjects[column] = subjects[column].astype(np.int64)  # 15709.0 -> 15709
        subjects[column] = subjects[column].astype(str)
        odd = subjects[column].map(lambda name: bool(NOT_IN_TABLES.search(name)))
        if odd.any():
            raise CohortError(
                f"{column} {subjects[column][odd.idxmax()]!r} has characters that a table cannot "
                "hold. Rename it."
            )
    for column, values in subjects.select_dtypes(exclude="number").items():
        odd = values.astype(object).map(lambda one: bool(NOT_IN_TEXTS.search(str(one))))
        if odd.any():
            raise CohortError(
                f"{column} of record {subjects['subject_id'][odd.idxmax()]!r} has characters that "
                f"a table cannot hold: {values[odd.idxmax()]!r}. Take them out."
            )
    twice = subjects["subject_id"].duplicated()
    if twice.any():
        row = int(twice.idxmax())
        raise CohortError(
            f"subject_id {subjects['subject_id'][row]!r} stands twice (again in row {row}). "
            "Each recording needs its own; recordings of one person share a patient_id."
        )
    return subjects


def _check_recorded(
    ecg: np.ndarray | Rows,
    leads: tuple[str, ...],
    sampling_rate: float,
    qrs_sample: int | None,
    unit: str,
) -> None:
    """Checks that there are ECGs, and what is said of how they were recorded."""
    if not isinstance(ecg, (np.ndarray, Rows)):
        raise CohortError(f"Expected ecg as a NumPy array. Received: {type(ecg)}.")
    if len(set(leads)) != len(leads):
        twice = next(lead for lead in leads if leads.count(lead) > 1)
        raise CohortError(f"Expected different leads. {twice} is there twice in {leads}.")
    number = isinstance(sampling_rate, (int, float)) and math.isfinite(sampling_rate)
    if not number or sampling_rate <= 0:
        raise CohortError(f"Expected a sampling rate in Hz. Received: {sampling_rate!r}.")
    whole = isinstance(qrs_sample, (int, np.integer)) and qrs_sample >= 0
    if qrs_sample is not None and not whole:
        raise CohortError(f"Expected a sample number as qrs_sample. Received: {qrs_sample!r}.")
    if unit not in UNITS:
        raise CohortError(f"Expected a unit among {list(UNITS)}. Received: {unit!r}.")


def _hashed(ecg: np.ndarray) -> np.ndarray:
    """(N,) 64-bit hashes of ECGs: by chance, two of 500,000 agree once in 10^8 cohorts."""
    return np.array([hash(one.tobytes()) for one in ecg], np.int64)


def _check_ecg(
    ecg: np.ndarray | Rows, ids: pd.Series, leads: tuple[str, ...], unit: str
) -> np.ndarray:
    """Checks shape, type, finiteness and unit; chunked, so that memory maps stay on disk.

    Returns:
        (N,) hashes of the ECGs, for which they need not be read again.
    """
    expected = f"Expected ecg of shape ({len(ids)}, {len(leads)}, T)"
    if ecg.ndim != 3 or ecg.shape[:2] != (len(ids), len(leads)) or ecg.shape[2] == 0:
        hint = ""
        if ecg.ndim == 3 and ecg.shape[2] == len(leads) != ecg.shape[1]:
            hint = " Are leads and samples swapped?"
        elif ecg.ndim == 3 and ecg.shape[0] != len(ids):
            hint = " The first axis must have one recording per row of subjects."
        elif ecg.ndim == 4 and ecg.shape[-1] == 1:
            hint = " Drop the last axis: ecg[..., 0]."
        raise CohortError(f"{expected}. Received: {tuple(ecg.shape)}.{hint}")
    called = UNITS[unit].amplitude
    if ecg.dtype != np.float32:
        raise CohortError(f"Expected ecg of dtype float32 in {called}. Received: {ecg.dtype}.")
    peak_to_peak, hashes = np.empty(len(ids)), np.empty(len(ids), np.int64)
    for start, chunk in chunks(ecg):
        finite = np.isfinite(chunk).all(axis=2)
        if not finite.all():
            row, lead = np.argwhere(~finite)[0]
            raise CohortError(
                f"ECG {ids[start + row]!r} has NaN or infinite values in lead {leads[lead]}. "
                "Leave the recording out, or repair it."
            )
        peak_to_peak[start : start + len(chunk)] = np.ptp(chunk, axis=2).max(axis=1)
        hashes[start : start + len(chunk)] = _hashed(chunk)
    low, high = (limit / UNITS[unit].mv for limit in PLAUSIBLE_PEAK_TO_PEAK_MV)
    typical = float(np.median(peak_to_peak))
    if unit != MV and not low <= typical <= high:
        raise CohortError(
            f"Expected ECGs in {called}. The median peak-to-peak amplitude is {typical:.4g}: these "
            "are in another unit, or flat."
        )
    if typical > high:
        raise CohortError(
            f"Expected ECGs in mV. The median peak-to-peak amplitude is {typical:.4g}: these look "
            "like microvolts or raw units. Divide by 1000 (uV), or by the gain."
        )
    if typical < low:
        raise CohortError(
            f"Expected ECGs in mV. The median peak-to-peak amplitude is {typical:.4g}: these look "
            "like volts or normalised values. Convert them to mV."
        )
    odd = (peak_to_peak < low / 10) | (peak_to_peak > high)
    if odd.any():
        row = int(odd.argmax())
        raise CohortError(
            f"ECG {ids[row]!r} has a peak-to-peak amplitude of {peak_to_peak[row]:.4g} {called}: "
            "flat, or in another unit than the rest. Leave it out, or correct its unit."
        )
    return hashes
