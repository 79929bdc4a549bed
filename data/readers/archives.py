"""Public archives of 12-lead ECGs, in their own layouts, by name.

- **PhysioNet Challenges 2020 and 2021** (https://physionet.org/content/challenge-2021/1.0.3/): WFDB
  headers with age, sex and SNOMED CT codes in comments (`data.readers.challenge`), anywhere below
  the folder. They name no patients: several recordings of one person (PTB, PTB-XL) may come to lie
  on both sides of a split.
- **MIMIC-IV-ECG** (Gow et al. 2023, https://physionet.org/content/mimic-iv-ecg/1.0/):
  `record_list.csv` with the WFDB records below it, `machine_measurements.csv` if it is there; from
  MIMIC-IV (https://physionet.org/content/mimiciv/) `patients.csv` for age, sex and deaths, and
  `admissions.csv` for the end of follow-up, if they were put beside it.
- **SPH**, Shandong Provincial Hospital (Liu et al. 2022, doi 10.1038/s41597-022-01403-5):
  `metadata.csv` and `records/A00001.h5`, each with `ecg`, 12 leads in the usual order, mV at
  500 Hz.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pandas as pd

from data.bad_rows import BadRows
from data.beats import BeatError, Strip
from data.cohort import LEADS, Cohort, CohortError
from data.outcomes import UNITS, as_ids, numbers, read_table
from data.readers.code15 import own_dataset
from data.readers.person import MAX_AGE, SEXES
from data.readers.prepare import Check, prepare
from data.readers.ptbxl import WfdbReader
from data.readers.recordings import load_recordings
from data.readers.twins import COPY

# Letters with which the names of the Challenge's records begin -> where they are from.
DATASETS = {
    "HR": "PTB-XL",
    "JS": "Chapman-Shaoxing and Ningbo",
    "A": "CPSC",
    "Q": "CPSC-Extra",
    "I": "St Petersburg",
    "S": "PTB",
    "E": "Georgia",
}
SPH_RATE = 500.0  # Hz
# Column -> from which marks of the machine, in ms, it is the time to which.
INTERVALS = {
    "ecg_pq_interval": ("p_onset", "qrs_onset"),
    "ecg_qrs_duration": ("qrs_onset", "qrs_end"),
    "ecg_qt_interval": ("qrs_onset", "t_end"),
}
AXES = {"ecg_p_axis": "p_axis", "ecg_r_axis": "qrs_axis", "ecg_t_axis": "t_axis"}
NOT_MEASURED = 29999


def load_challenge(
    path: str | Path,
    cache: str | Path = "cache",
    workers: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
) -> Cohort:
    """Reads records of the PhysioNet Challenges 2020 and 2021.

    Args:
        path: folder above them.
        cache: folder under which the prepared cohort is kept.
        workers: processes that prepare; one per CPU core if None.
        progress: show a progress bar; None shows it on a terminal only.
        check: as `data.readers.prepare.prepare` has it.

    Returns:
        The cohort; `subject_id` is the name of the record, `dataset` where it is from, `dx` its
        codes. Records of more than 10 minutes (St Petersburg) are in `excluded`.

    Raises:
        CohortError: there are no records, or none gave a beat.
    """
    cohort = load_recordings(
        path,
        cache,
        keep_ids=True,
        workers=workers,
        progress=progress,
        check=check and (lambda table, later: check(table, {*later, "dataset"})),
        extension=".hea",
    )
    subjects = cohort.subjects.drop(columns=["accession", "height", "weight", "bmi", "format"])
    names = subjects["subject_id"].map(lambda file: PurePosixPath(file).stem)
    if names.is_unique:
        subjects["subject_id"] = subjects["patient_id"] = names
        short = cohort.excluded["subject_id"].map(lambda file: PurePosixPath(file).stem)
        copies = cohort.excluded["reason"] == COPY
        stems = cohort.excluded["detail"].map(lambda file: PurePosixPath(str(file)).stem)
        detail = cohort.excluded["detail"].where(~copies, stems)
        cohort.excluded = cohort.excluded.assign(subject_id=short, detail=detail)
    letters = names.str.extract(r"^([A-Z]+)", expand=False)
    cohort.subjects = subjects.assign(
        dataset=letters.map(DATASETS).fillna("another").astype(object)
    )
    cohort.source = "PhysioNet Challenge"
    return cohort


def load_mimic(
    path: str | Path,
    cache: str | Path = "cache",
    workers: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
) -> Cohort:
    """Reads MIMIC-IV-ECG; arguments as of `load_challenge`.

    Returns:
        The cohort in the order of `record_list.csv`; `subject_id` is the study, `patient_id` the
        subject of MIMIC-IV. What the machine measured is in columns such as `ecg_qrs_duration`.
        With `patients.csv`: `age` and `sex`. With `admissions.csv` besides: `time` in years from
        the ECG to death or to the end of follow-up, and `event`. MIMIC-IV knows of deaths until a
        year after the last discharge; later ones count as survived until then. Recordings later
        than that have neither.

    Raises:
        CohortError: a table cannot be understood, or no record gave a beat.
    """
    path = Path(path)
    columns = ("subject_id", "study_id", "ecg_time", "path")
    expected = "Expected the folder of MIMIC-IV-ECG, with record_list.csv"
    table = read_table(path / "record_list.csv", columns, expected)
    bad = BadRows(table["study_id"], "record_list.csv")
    when = pd.to_datetime(table["ecg_time"], format="ISO8601", errors="coerce")
    bad.refuse(when.isna(), table["ecg_time"], bad.ids, "a date and time")
    for name in ("subject_id", "path"):
        bad.mark_missing(table[name])
    subjects = pd.DataFrame(
        {
            "subject_id": bad.mark_ids(as_ids(table["study_id"])),
            "patient_id": as_ids(table["subject_id"]),
            "recorded": when.dt.strftime("%Y-%m-%dT%H:%M:%S").astype(object),
        }
    )
    measured = path / "machine_measurements.csv"
    if measured.is_file():
        subjects = subjects.join(
            _measured(measured).reindex(as_ids(table["study_id"])).set_axis(subjects.index)
        )
    if (path / "patients.csv").is_file():
        subjects = subjects.join(_patients(path, subjects["patient_id"], when))
    return prepare(
        subjects=subjects,
        records=table["path"].astype(str).tolist(),
        read=WfdbReader(str(path)),
        cache=cache,
        source="MIMIC-IV-ECG",
        settings={"path": str(path.resolve())},
        workers=workers,
        progress=progress,
        left_out=bad.settle().tolist(),
        check=check,
    )


def _measured(file: Path) -> pd.DataFrame:
    """What the machine measured, by study; missing where it says so."""
    marks = sorted({mark for pair in INTERVALS.values() for mark in pair})
    columns = ["study_id", "rr_interval", *marks, *AXES.values()]
    try:  # of 33 columns, with 800,000 rows
        table = pd.read_csv(file, usecols=columns, dtype=str)
    except (ValueError, OSError) as error:
        raise CohortError(f"{file} cannot be read: {str(error).strip()}.") from error
    values = table[columns[1:]].apply(pd.to_numeric, errors="coerce")
    values = values.where(values.abs() < NOT_MEASURED)
    found = {
        "ecg_ventricular_rate": 60_000 / values["rr_interval"].where(values["rr_interval"] > 0)
    }
    for name, (first, last) in INTERVALS.items():
        length = values[last] - values[first]
        found[name] = length.where(length > 0)
    found |= {name: values[column] for name, column in AXES.items()}
    measured = pd.DataFrame(found).set_axis(as_ids(table["study_id"]))
    return measured[~measured.index.duplicated()]


def _patients(path: Path, ids: pd.Series, when: pd.Series) -> pd.DataFrame:
    """Age, sex and, where the end of follow-up is known, survival of each recording."""
    columns = ("subject_id", "gender", "anchor_age", "anchor_year", "dod")
    table = read_table(path / "patients.csv", columns, "")
    table["subject_id"] = as_ids(table["subject_id"])
    if table["subject_id"].duplicated().any():
        twice = table["subject_id"][table["subject_id"].duplicated()].iloc[0]
        raise CohortError(f"subject_id {twice!r} stands twice in {path / 'patients.csv'}.")
    names = table["subject_id"]
    born = numbers(table["anchor_year"], names) - numbers(table["anchor_age"], names)
    known = pd.DataFrame(
        {
            "born": born,
            "sex": table["gender"].str.strip().str.lower().map(SEXES),
            "dod": table["dod"],
        }
    ).set_axis(names)
    mine = known.reindex(ids).set_axis(ids.index)
    age = when.dt.year - mine["born"]
    found = pd.DataFrame(
        {"age": age.where(age.between(0, MAX_AGE)), "sex": mine["sex"].astype(object)}
    )
    if not (path / "admissions.csv").is_file():
        return found
    stays = read_table(path / "admissions.csv", ("subject_id", "dischtime"), "")
    left = pd.to_datetime(stays["dischtime"], format="ISO8601", errors="coerce")
    last = left.groupby(as_ids(stays["subject_id"])).max().reindex(ids).set_axis(ids.index)
    end = last.dt.normalize() + pd.Timedelta(days=365)
    died = pd.to_datetime(mine["dod"], format="ISO8601", errors="coerce")
    event = died.notna() & (died <= end)
    # Of a death the day is known: it counts at its end, or one on the day of the ECG were none.
    end = end.where(~event, died + pd.Timedelta(days=1))
    time = (end - when).dt.total_seconds() / 86_400 / UNITS["days"]
    followed = time > 0
    return found.assign(time=time.where(followed), event=event.astype(float).where(followed))


def load_sph(
    path: str | Path,
    cache: str | Path = "cache",
    workers: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
) -> Cohort:
    """Reads SPH; arguments as of `load_challenge`.

    Returns:
        The cohort in the order of `metadata.csv`; `aha_codes` are its diagnostic statements, "1" is
        a normal ECG.

    Raises:
        CohortError: the table cannot be understood, or no record gave a beat.
    """
    path = Path(path)
    columns = ("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex", "N", "Date")
    table = read_table(path / "metadata.csv", columns, "Expected the folder of SPH, metadata.csv")
    ids = table["ECG_ID"]
    bad = BadRows(ids, "metadata.csv")
    subject_id = bad.mark_ids(ids)
    bad.mark_missing(table["Patient_ID"])
    sex = table["Sex"].str.strip().str.lower().map(SEXES).astype(object)
    bad.refuse(table["Sex"].notna() & sex.isna(), table["Sex"], ids, "M or F")
    count = numbers(table["N"], ids, bad.refuse)
    subjects = pd.DataFrame(
        {
            "subject_id": subject_id,
            "patient_id": table["Patient_ID"],
            "age": numbers(table["Age"], ids, bad.refuse),
            "sex": sex,
            "recorded": table["Date"],
            "aha_codes": table["AHA_Code"],
        }
    )
    return prepare(
        subjects=subjects,
        records=[
            (str(name), -1 if np.isnan(n) else int(n)) for name, n in zip(ids, count, strict=True)
        ],
        read=SphReader(str(path)),
        cache=cache,
        source="SPH",
        settings={"path": str(path.resolve())},
        workers=workers,
        progress=progress,
        left_out=bad.settle().tolist(),
        check=check,
    )


@dataclass(frozen=True)
class SphReader:
    """Reads records of SPH as strips in mV.

    Attributes:
        root: folder of the archive.
    """

    root: str

    def __call__(self, record: tuple[str, int]) -> Strip:
        """Reads one record.

        Args:
            record: its name, and how many samples it has.

        Raises:
            BeatError: the name is none, or the record has another shape.
        """
        name, count = record
        if not re.fullmatch(r"\w+", name):
            raise BeatError("a name that is none")
        with h5py.File(Path(self.root) / "records" / f"{name}.h5", "r") as opened:
            dataset = own_dataset(opened, "ecg")
            if dataset.shape != (len(LEADS), count):
                raise BeatError("another number of leads or samples than metadata.csv says")
            return Strip(dataset[:].astype(np.float32), SPH_RATE)
