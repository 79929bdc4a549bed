"""ECGs that are arrays already: a folder of `.npy` files with a table, or one `.npz` file.

Expected are median beats, aligned as `data.cohort` describes, in mV, or others of which is said
what they are: their sampling rate, and the sample on which the QRS is centred. They are then
resampled to 500 Hz and cut to the usual window. Either way the QRS is looked for. Three layouts are
read:

- a folder with `ecg.npy` and `subjects.csv` (or `conditions.csv`);
- a folder with `ecg.npy` and `conditions.npy`, (N, C) numbers, columns named by the caller;
- one `.npz` file with `ecg` and one array of N values per column.

`ecg` is (N, 12, T) or (N, 12, T, 1), or has the 8 independent leads, from which the other four
follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from data.cohort import (
    INDEPENDENT_LEADS,
    LEADS,
    QRS_SAMPLE,
    SAMPLES,
    SAMPLING_RATE,
    Cohort,
    CohortError,
    default_qrs_sample,
    derive_leads,
    einthoven_residual,
    refuse_lookalikes,
)
from data.fiducial import check_qrs
from data.outcomes import KEYS, as_ids, read_csv
from data.rows import chunks
from data.strips import resample

TABLES = ("subjects.csv", "conditions.csv")
# Largest median of `einthoven_residual`. In PTB-XL and simulated beats it is 0.13 with noise of 20
# uV in each lead, and 0.31 or more with any limb lead exchanged for another lead.
MAX_LIMB_MISFIT = 0.25
MIN_BEFORE, MIN_AFTER = 100, 200  # samples at 500 Hz around the QRS, which P and T waves need
REMEDY = (
    "If they are so, say it: --data.qrs_sample SAMPLE, --data.sampling_rate HZ. The usual window "
    "is then cut out of them."
)


def load_arrays(
    path: str | Path,
    names: Sequence[str] = (),
    sampling_rate: float = SAMPLING_RATE,
    qrs_sample: int | None = None,
) -> Cohort:
    """Reads arrays as a cohort.

    Args:
        path: a folder or an `.npz` file, as above.
        names: of the columns of `conditions.npy`.
        sampling_rate: Hz; another than 500 is resampled.
        qrs_sample: on which the middle of the QRS lies, 300 ms from the first one if left out.

    Returns:
        The cohort, 400 samples at 500 Hz with the QRS on sample 150, or what of this window the
        arrays hold. A large float32 `ecg.npy` of 12 leads at 500 Hz stays on disk, memory-mapped.
        Without a column `subject_id` the recordings are called by their row numbers, from 0.

    Raises:
        CohortError: a file is missing or damaged, or the arrays break the contract.
    """
    path = Path(path)
    if path.is_dir():
        ecg, subjects = _load(path / "ecg.npy"), _folder_table(path, names)
    elif path.suffix == ".npz" and path.is_file():
        arrays = _load(path)
        if "ecg" not in arrays:
            raise CohortError(f"{path} holds no array `ecg`. It has: {sorted(arrays)}.")
        ecg = arrays["ecg"]
        subjects = _array_table({key: value for key, value in arrays.items() if key != "ecg"})
    else:
        raise CohortError(
            f"{path} is neither a folder with ecg.npy and {TABLES[0]} nor an .npz file."
        )
    ecg = _twelve_leads(ecg)
    if subjects is None:
        subjects = pd.DataFrame(index=range(len(ecg)))
    refuse_lookalikes(KEYS, subjects, str(path))  # not called by row numbers instead
    if "subject_id" not in subjects:
        subjects.insert(0, "subject_id", range(len(subjects)))
    if "patient_id" not in subjects:
        print(
            f"{path} names no patients: each recording counts as a patient of its own. If some "
            "have several recordings, give a column patient_id, or a model is judged on patients "
            "that it was trained on."
        )
    at = default_qrs_sample(sampling_rate) if qrs_sample is None else qrs_sample
    source = f"arrays in {path.name}"
    cohort = Cohort(ecg, subjects, source, sampling_rate=float(sampling_rate), qrs_sample=at)
    _check_leads(cohort)
    check_qrs(cohort, REMEDY)
    usual = sampling_rate == SAMPLING_RATE and qrs_sample is None
    if usual and ecg.shape[2] != SAMPLES:
        raise CohortError(
            f"Expected {SAMPLES} samples at {SAMPLING_RATE:g} Hz in {source}, and the QRS on "
            f"sample {QRS_SAMPLE}. Received: {ecg.shape[2]} samples. --data.qrs_sample {at} cuts "
            f"the {SAMPLES} samples around it out of them."
        )
    return cohort if usual else _in_window(cohort)


def _in_window(cohort: Cohort) -> Cohort:
    """At 500 Hz, what there is of the usual window.

    Raises:
        CohortError: it is too little for a P or T wave.
    """
    ecg, rate = cohort.ecg, cohort.sampling_rate
    if rate != SAMPLING_RATE:
        parts = [resample(part, rate, axis=2) for _, part in chunks(ecg)]
        ecg = np.concatenate(parts).astype(np.float32, copy=False)
    at = round(cohort.qrs_sample * SAMPLING_RATE / rate)
    start, stop = max(0, at - QRS_SAMPLE), min(ecg.shape[2], at + SAMPLES - QRS_SAMPLE)
    if at - start < MIN_BEFORE or stop - at < MIN_AFTER:
        raise CohortError(
            f"Expected {MIN_BEFORE * 2} ms before and {MIN_AFTER * 2} ms after the middle of the "
            f"QRS in {cohort.source}, for P and T waves. Received: {at * 2} and "
            f"{(ecg.shape[2] - at) * 2} ms. Cut longer beats out of the recordings."
        )
    if stop - start < SAMPLES:
        print(
            f"{cohort.source}: {stop - start} of the usual {SAMPLES} samples around the QRS are "
            "there. A model of them reads no others."
        )
    ecg = ecg[:, :, start:stop]
    return Cohort(ecg, cohort.subjects, cohort.source, qrs_sample=at - start)


def _load(file: Path) -> np.ndarray | dict[str, np.ndarray]:
    """An `.npy` file memory-mapped, or all of an `.npz` file; never anything pickled."""
    if not file.is_file():
        raise CohortError(f"{file} is not there. Save it by numpy.save, float32 in mV.")
    try:
        if file.suffix == ".npy":
            return np.load(file, mmap_mode="r", allow_pickle=False)
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise CohortError(
            f"{file} cannot be read: {error}. Expected plain numbers or text, saved by numpy.save "
            "or numpy.savez; arrays of Python objects are refused because they can run code."
        ) from error


def _folder_table(folder: Path, names: Sequence[str]) -> pd.DataFrame | None:
    """The conditions beside `ecg.npy`, or None if there are none."""
    for name in TABLES:
        if (folder / name).is_file():
            return _table(folder / name)
    if not (folder / "conditions.npy").is_file():
        return None
    values = _load(folder / "conditions.npy")
    if values.ndim != 2 or values.shape[1] != len(names):
        raise CohortError(
            f"Expected conditions.npy of shape (N, {len(names)}) for the names {list(names)}. "
            f"Received: {values.shape}. Name each of its columns, in order."
        )
    return pd.DataFrame(np.asarray(values), columns=list(names))


def _table(file: Path) -> pd.DataFrame:
    """A table whose ids are text: 007 is not 7."""
    table = read_csv(file, dtype=dict.fromkeys(KEYS, str))
    for mark, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(table.columns) == 1 and mark in table.columns[0]:
            raise CohortError(
                f"{file} has {called} between its columns: {table.columns[0]!r}. Save it with "
                "commas there, and with points in decimal numbers."
            )
    for name in table.columns.intersection(KEYS):
        table[name] = as_ids(table[name])
    return table


def _array_table(columns: Mapping[str, np.ndarray]) -> pd.DataFrame | None:
    """The arrays beside `ecg` in an `.npz` file as columns."""
    lengths = {name: value.shape for name, value in columns.items()}
    if len(set(lengths.values())) > 1 or any(len(shape) != 1 for shape in lengths.values()):
        raise CohortError(f"Expected one value per ECG in each array. Received shapes: {lengths}.")
    return pd.DataFrame(dict(columns)) if columns else None


def _check_leads(cohort: Cohort) -> None:
    """Refuses lost leads, and limb leads in another order; an array has no names to tell them.

    Raises:
        CohortError: names the first recording with a lost lead.
    """
    misfit = np.empty(len(cohort))
    for start, ecg in chunks(cohort.ecg):
        flat = np.ptp(ecg, axis=2) == 0
        if flat.any():
            row, lead = np.argwhere(flat)[0]
            raise CohortError(
                f"ECG {cohort.subjects['subject_id'][start + row]!r} is constant in lead "
                f"{LEADS[lead]}: not connected, or filled up where it is missing. Leave the "
                "recording out."
            )
        misfit[start : start + len(ecg)] = einthoven_residual(ecg)
    if np.median(misfit) > MAX_LIMB_MISFIT:
        raise CohortError(
            f"Leads III, aVR, aVL and aVF do not follow from I and II in most of the {len(cohort)} "
            f"ECGs. Expected the leads in the order {', '.join(LEADS)}."
        )


def _twelve_leads(ecg: np.ndarray) -> np.ndarray:
    """(N, 12 or 8, T) or the same with a last axis of 1 -> (N, 12, T) float32.

    What is left wrong, `Cohort` refuses in words.
    """
    if not np.issubdtype(ecg.dtype, np.floating):
        raise CohortError(
            f"Expected ecg as floating-point numbers in mV. Received: {ecg.dtype}. Raw integers "
            "must be divided by the gain of the recorder."
        )
    if ecg.ndim == 4 and ecg.shape[3] == 1:
        ecg = ecg[..., 0]
    if ecg.dtype != np.float32:
        ecg = ecg.astype(np.float32)
    if ecg.ndim == 3 and ecg.shape[1] == len(INDEPENDENT_LEADS):
        ecg = derive_leads(ecg)
    if ecg.ndim != 3 or ecg.shape[1] != len(LEADS):
        swapped = ecg.ndim == 3 and ecg.shape[2] in (len(LEADS), len(INDEPENDENT_LEADS))
        raise CohortError(
            f"Expected ecg of shape (N, 12, T), the leads {', '.join(LEADS)}, or (N, 8, T), the "
            f"leads {', '.join(INDEPENDENT_LEADS)}. Received: {ecg.shape}."
            + (" Are leads and samples swapped? ecg.transpose(0, 2, 1) puts them right." * swapped)
        )
    return ecg
