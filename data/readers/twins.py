"""The same recording in several files: exported twice, in two formats, or copied.

Two exports of one recording differ by rounding, resampling and the filters of the export; two
recordings of one person, made a minute apart, by noise, breathing and heart rate. Measured on
PTB-XL: of 2,358 recordings of 2,277 patients, with neither patient nor date known, only two pairs
are taken for one recording, and these are equal to the last bit. Of 249 recordings and their copies
all pairs are found where the copy is rounded to 5 uV or resampled to 1000 Hz, 96% at 250 Hz, and
there, too, all where patient and moment are known.

Dims: N recordings, P pairs.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from data.cohort import INDEPENDENT_LEADS, LEADS, Cohort
from data.readers.excluded import leave_out, none_of
from data.rows import chunks

COPY = "copy of another recording"
MAX_DIFFERENCE_MV = 0.015  # root mean square over the beat; recorders round to 1 to 5 uV
MAX_RATE = 0.005  # relative difference of the heart rates
MAX_SHIFT = timedelta(days=1)  # clocks and time zones
# Of two files with the same patient and the same second; one of them may have been filtered.
MAX_FILTERED_MV = 0.1

_ROWS = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]


def without_twins(cohort: Cohort) -> Cohort:
    """Keeps one file of each recording: the first that names the patient, or the first."""
    pairs = twins(cohort)
    if not len(pairs):
        return cohort
    subjects = cohort.subjects
    known = (subjects["patient_id"] != subjects["subject_id"]).to_numpy()
    near: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    kept = np.arange(len(cohort))
    settled: set[int] = set()
    # A file that names nobody may be like those of two patients: it joins one, it joins not them.
    for row in sorted(near, key=lambda row: (not known[row], row)):
        originals = [other for other in near[row] if other in settled and kept[other] == other]
        kept[row] = min(originals, default=row, key=lambda other: (not known[other], other))
        settled.add(row)
    copies = kept != np.arange(len(cohort))
    reasons = none_of(cohort).mask(copies, COPY)
    return leave_out(cohort, reasons, subjects["subject_id"].iloc[kept].reset_index(drop=True))


def twins(cohort: Cohort) -> np.ndarray:
    """(P, 2) rows of recordings that are the same one, each pair once."""
    subjects = cohort.subjects
    swing = np.empty((len(cohort), len(_ROWS)))
    for start, ecg in chunks(cohort.ecg):
        swing[start : start + len(ecg)] = np.ptp(ecg[:, _ROWS], axis=2)
    rate = np.log(subjects["heart_rate"].to_numpy(np.float64))
    # A difference of 15 uV on average moves the span of a lead by less than eight times that.
    place = np.column_stack([swing / (8 * MAX_DIFFERENCE_MV), rate / MAX_RATE])
    usable = np.isfinite(place).all(axis=1)
    tree = cKDTree(place[usable])
    near = np.flatnonzero(usable)[tree.query_pairs(1.0, p=np.inf, output_type="ndarray")]
    near = np.concatenate([near.reshape(-1, 2), _same_moment(subjects)])
    near = np.unique(np.sort(near, axis=1), axis=0)
    close = [_same(cohort, subjects, *pair) for pair in near.tolist()]
    return near[np.array(close, bool)]


def _same_moment(subjects: pd.DataFrame) -> np.ndarray:
    """(P, 2) rows with the same patient and the same second."""
    timed = subjects["recorded"].astype(str).str.contains("T")
    known = (subjects["patient_id"] != subjects["subject_id"]) & timed
    pairs = [
        (rows[0], other)
        for rows in subjects[known].groupby(["patient_id", "recorded"]).indices.values()
        for other in rows[1:]
    ]
    rows = np.flatnonzero(known)
    return rows[np.array(pairs, np.int64).reshape(-1, 2)]


def _same(cohort: Cohort, subjects: pd.DataFrame, first: int, second: int) -> bool:
    patient, own, when = (subjects[name] for name in ("patient_id", "subject_id", "recorded"))
    both_known = all(patient[row] != own[row] for row in (first, second))
    if both_known and patient[first] != patient[second]:
        return False
    limit = MAX_DIFFERENCE_MV
    moments = when[[first, second]]
    if moments.notna().all():
        timed = moments.str.contains("T").all()
        if both_known and timed and moments.iloc[0] == moments.iloc[1]:
            limit = MAX_FILTERED_MV
        earlier, later = sorted(map(datetime.fromisoformat, moments))  # of any year
        shift = later - earlier
        # Time zones differ by half hours.
        if shift > MAX_SHIFT or (timed and shift % timedelta(minutes=30)):
            return False
    difference = np.asarray(cohort.ecg[first]) - np.asarray(cohort.ecg[second])
    return bool(np.sqrt((difference**2).mean()) < limit)
