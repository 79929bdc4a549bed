"""EchoNext (Elias and Finer 2025, doi 10.13026/r9pp-3y42): 100,000 ECGs with echocardiography.

One folder with `echonext_metadata_100k.csv` and `EchoNext_train_waveforms.npy`,
`EchoNext_val_waveforms.npy` and `EchoNext_test_waveforms.npy`, (N, 1, 2500, 12) at 250 Hz, the rows
of each in the order of the table's rows of that split.

The waveforms are clipped and standardised over the whole set, so that millivolts are lost, and what
one unit stands for is not published. The cohort is then in standardised units, and all that is made
of it says so. Who knows it from ECGs whose millivolts are known may give it
(`millivolts_per_unit`); every amplitude of a model is then as right as that number.

A flag of the table is 0 also where nothing was measured. Here it is missing then. Rows of the split
`no_split` are earlier ECGs of test patients; they have no waveforms and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from data.bad_rows import BadRows
from data.beats import Beat, BeatError, Strip, median_beat
from data.cohort import LEADS, Cohort, CohortError
from data.outcomes import as_ids, flags, numbers, read_table
from data.readers.person import SEXES
from data.readers.prepare import Check, prepare
from data.units import MV, STANDARDISED, UNITS

TABLE = "echonext_metadata_100k.csv"
FOLDS = {"train": 1, "val": 9, "test": 10}  # as `Cohort.split(by_fold=True)` has them
NO_SPLIT = "no_split"
SAMPLING_RATE, SAMPLES = 250.0, 2500
# Flag without "_flag" -> columns of which one at least holds something if it was looked at.
MEASURED = {
    "lvef_lte_45": ("lvef_value",),
    "lvwt_gte_13": ("ivs_measurement", "lvpw_measurement"),
    "aortic_stenosis_moderate_or_greater": ("aortic_stenosis_value",),
    "aortic_regurgitation_moderate_or_greater": ("aortic_regurgitation_value",),
    "mitral_regurgitation_moderate_or_greater": ("mitral_regurgitation_value",),
    "tricuspid_regurgitation_moderate_or_greater": ("tricuspid_regurgitation_value",),
    "pulmonary_regurgitation_moderate_or_greater": ("pulmonary_regurgitation_value",),
    "rv_systolic_dysfunction_moderate_or_greater": ("rv_systolic_function_value",),
    "pericardial_effusion_moderate_large": ("pericardial_effusion_value",),
    "pasp_gte_45": ("pasp_value",),
    "tr_max_gte_32": ("tr_max_velocity_value",),
}
# Numbers of the table -> how they are called here.
NUMBERS = {
    "age_at_ecg": "age",  # 90 is "90 or older"
    "lvef_value": "lvef",
    "ivs_measurement": "ivs",
    "lvpw_measurement": "lvpw",
    "pasp_value": "pasp",
    "tr_max_velocity_value": "tr_max_velocity",
}


def load_echonext(
    path: str | Path,
    cache: str | Path = "cache",
    workers: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
    millivolts_per_unit: float = 0.0,
) -> Cohort:
    """Reads EchoNext as a cohort of median beats, prepared once and cached.

    Args:
        path: folder of the data set.
        cache: folder under which the prepared cohort is kept.
        workers: processes that prepare; one per CPU core if None.
        progress: show a progress bar; None shows it on a terminal only.
        check: as `data.readers.prepare.prepare` has it.
        millivolts_per_unit: what one unit of the waveforms stands for; 0 where it is not known.

    Returns:
        The cohort in the order of the table, in standardised units or, where it is known what one
        is, in mV. `subjects` has `age`, `sex`, `fold` (training 1, validation 9, test 10), the
        flags of `MEASURED` as "yes" and "no" or missing, and what was measured: `lvef` (%), `ivs`
        and `lvpw` (cm), `pasp` (mmHg), `tr_max_velocity` (m/s).

    Raises:
        CohortError: the scale is no number, a table or file is not there or does not fit, or no
            ECG gave a beat.
    """
    path = Path(path)
    if not 0 <= millivolts_per_unit < np.inf:
        raise CohortError(
            "Expected data.millivolts_per_unit above 0, or 0 where it is not known. Received: "
            f"{millivolts_per_unit}."
        )
    made = f"one unit taken as {millivolts_per_unit:g} mV" if millivolts_per_unit else STANDARDISED
    columns = ("ecg_key", "patient_key", "split", "sex", *NUMBERS)
    columns += tuple(
        column for pair in MEASURED.items() for column in (f"{pair[0]}_flag", *pair[1])
    )
    table = read_table(path / TABLE, dict.fromkeys(columns), "Expected the folder of EchoNext")
    bad = BadRows(table["ecg_key"], TABLE)
    subject_id = bad.mark_ids(as_ids(table["ecg_key"]))
    bad.mark_missing(table["patient_key"])
    known = table["split"].isin([*FOLDS, NO_SPLIT])
    bad.refuse(~known, table["split"], bad.ids, "train, val, test or no_split")
    sex = table["sex"].str.strip().str.lower().map(SEXES).astype(object)
    bad.refuse(table["sex"].notna() & sex.isna(), table["sex"], bad.ids, "male or female")
    row = table.groupby("split").cumcount()
    for split in FOLDS:
        _check_waveforms(path, split, int((table["split"] == split).sum()))
    subjects = pd.DataFrame(
        {
            "subject_id": subject_id,
            "patient_id": as_ids(table["patient_key"]),
            "sex": sex,
            **{new: numbers(table[old], bad.ids, bad.refuse) for old, new in NUMBERS.items()},
            **{name: _flag(table, name, bad) for name in MEASURED},
            "fold": table["split"].map(FOLDS),
        }
    )
    reasons = bad.settle()
    reasons = reasons.mask(table["split"] == NO_SPLIT, "an earlier ECG of a test patient")
    try:
        return prepare(
            subjects=subjects,
            records=list(zip(table["split"].astype(str), row.tolist(), strict=True)),
            read=WaveformReader(str(path), millivolts_per_unit),
            cache=cache,
            source=f"EchoNext, {made}",
            settings={"path": str(path.resolve()), "millivolts_per_unit": millivolts_per_unit},
            workers=workers,
            progress=progress,
            left_out=reasons.tolist(),
            check=check,
            unit=MV if millivolts_per_unit else STANDARDISED,
        )
    finally:
        _open.cache_clear()


@dataclass(frozen=True)
class WaveformReader:
    """Reads single waveforms as strips in mV, or as standardised beats.

    Attributes:
        root: folder of the data set.
        millivolts_per_unit: their scale; 0 if it is not known.
    """

    root: str
    millivolts_per_unit: float

    def __call__(self, record: tuple[str, int]) -> Strip | Beat:
        """Reads one waveform: split, and row of its file."""
        split, row = record
        waveform = np.array(_open(str(_file(Path(self.root), split)))[row, 0], np.float32)
        if self.millivolts_per_unit:
            return Strip(waveform.T * np.float32(self.millivolts_per_unit), SAMPLING_RATE, LEADS)
        unit = UNITS[STANDARDISED]
        try:  # what tells lost leads and spikes has limits in mV, which are carried over
            beat = median_beat(waveform.T * np.float32(unit.mv), SAMPLING_RATE, LEADS)
        except BeatError as error:
            raise BeatError(unit.words(str(error))) from error
        return beat._replace(ecg=beat.ecg / np.float32(unit.mv), noise_uv=beat.noise_uv / unit.mv)


def _file(folder: Path, split: str) -> Path:
    return folder / f"EchoNext_{split}_waveforms.npy"


@lru_cache(maxsize=3)
def _open(file: str) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _check_waveforms(folder: Path, split: str, count: int) -> None:
    """Refuses a file that does not have a waveform for each row of its split."""
    file = _file(folder, split)
    if not file.is_file():
        raise CohortError(f"{file} is not there. Expected the waveforms of the split {split}.")
    try:
        shape = _open(str(file)).shape
    except (ValueError, OSError) as error:
        raise CohortError(f"{file} cannot be read: {error}. Was its download cut?") from error
    if shape != (count, 1, SAMPLES, len(LEADS)):
        raise CohortError(
            f"Expected {file} of shape {(count, 1, SAMPLES, len(LEADS))}, a waveform for each row "
            f"of the split {split} in {TABLE}. Received: {shape}."
        )


def _flag(table: pd.DataFrame, name: str, bad: BadRows) -> pd.Series:
    """A flag in words; missing where it is 0 because nothing was measured."""
    flag = flags(table[f"{name}_flag"], bad.ids, bad.refuse)
    measured = table[list(MEASURED[name])].notna().any(axis=1) | (flag == 1)
    return flag.map({0.0: "no", 1.0: "yes"}).where(measured).astype(object)
