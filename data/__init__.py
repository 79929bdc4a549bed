"""Cohorts of ECGs: the contract, and one reader per source."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import pandas as pd

from data.cohort import (
    INDEPENDENT_LEADS,
    LEADS,
    QRS_SAMPLE,
    SAMPLING_RATE,
    Check,
    Cohort,
    CohortError,
    Split,
)

__all__ = [
    "INDEPENDENT_LEADS",
    "LEADS",
    "QRS_SAMPLE",
    "SAMPLING_RATE",
    "Cohort",
    "CohortError",
    "Split",
    "check_settings",
    "load_cohort",
]


# Settings that say something of some sources only: what they say nothing by, and those sources.
SOURCES_OF = {
    "recordings": (("all",), ("recordings",)),
    "keep_ids": ((False,), ("recordings",)),
    "millivolts_per_unit": ((0,), ("echonext",)),
    "beats": (("median", "strip"), ("recordings", "ukbiobank")),
}
IN_YEARS = ("synthetic", "code15", "mimic")  # sources that have times of their own, in years


def load_cohort(settings, check: Check | None = None) -> Cohort:
    """Reads the cohort that the settings name, from the cache if it was prepared before.

    What tables and settings tell is looked at before any recording is read.

    Args:
        settings: section `data` of a configuration, a `config.DataConfig`.
        check: is given the subjects of a source of recordings before these are read, to refuse
            them, and the names of columns that are known only later.

    Returns:
        The whole cohort; `Cohort.split` divides it.

    Raises:
        CohortError: the data are not there or break the contract.
    """
    from data.outcomes import in_years, join_outcomes, say_one_time

    check_settings(settings)
    unit = settings.time_unit
    joined = settings.outcomes is not None and "time" in settings.outcome_columns
    anything = check is not None or settings.outcomes is not None
    first = {"check": partial(_check_first, settings, check)} if anything else {}
    cohort = _read(settings, first)
    if unit != "years" and not joined:
        cohort = in_years(cohort, unit)
    if settings.outcomes is None:
        if settings.source not in IN_YEARS:
            say_one_time(cohort)
        return cohort
    return join_outcomes(cohort, settings.outcomes, settings.outcome_columns, time_unit=unit)


def check_settings(settings) -> None:
    """Refuses settings that do not go together, or a table that is not there.

    Args:
        settings: as in `load_cohort`.

    Raises:
        CohortError: which, and why.
    """
    for name, (nothing, sources) in SOURCES_OF.items():
        value = getattr(settings, name)
        if value not in nothing and settings.source not in sources:
            raise CohortError(
                f"data.{name} {value} is for the source {' or '.join(sources)}. Received the "
                f"source {settings.source!r}, which has no place for it."
            )
    unit = settings.time_unit
    if settings.outcomes is not None and not settings.outcomes.is_file():
        raise CohortError(f"data.outcomes: {settings.outcomes} is not there.")
    if settings.outcomes is not None and settings.source == "recordings" and not settings.keep_ids:
        raise CohortError(
            "data.outcomes goes by ids, and those of your recordings are replaced by hashes. Put "
            "the columns into subjects.csv beside the recordings, or say --data.keep_ids True."
        )
    joined = settings.outcomes is not None and "time" in settings.outcome_columns
    if unit != "years" and not joined and settings.source in IN_YEARS:
        raise CohortError(
            f"data.time_unit: the times of {settings.source} are in years. Received: {unit!r}. "
            "It is for data.outcomes and for tables of your own."
        )


def _check_first(
    settings, check: Check | None, subjects: pd.DataFrame, later: Collection[str]
) -> None:
    """Refuses settings that these subjects, whose recordings are not read yet, cannot meet."""
    from data.outcomes import join_outcomes

    if settings.outcomes is not None and "subject_id" not in subjects:
        later = {*later, *settings.outcome_columns}  # joined once the files say whom they are of
    elif settings.outcomes is not None:
        planned = Cohort.unread(subjects, settings.source)
        columns, unit = settings.outcome_columns, settings.time_unit
        with redirect_stdout(StringIO()):  # what it says is said when the outcomes are joined
            joined = join_outcomes(planned, settings.outcomes, columns, True, unit)
        subjects = joined.subjects
    if check is not None:
        check(subjects, later)


def _read(settings, first: Mapping[str, Check]) -> Cohort:
    # Each reader is imported on demand: the simulator should not need wfdb.
    if settings.source == "synthetic":
        from data.synthetic import simulate

        return simulate(settings.subjects, settings.seed)
    from data.fiducial import check_qrs

    path, cache, workers = settings.path, settings.cache, settings.workers or None
    if not path.exists():
        raise CohortError(f"data.path: {path} is not there. Give --data.path FOLDER.")
    if settings.source == "recordings":
        from data.readers.recordings import load_recordings

        kept = settings.recordings, settings.keep_ids
        return load_recordings(path, cache, settings.beats, *kept, workers, **first)
    if settings.source == "ptbxl":
        from data.readers.ptbxl import load_ptbxl

        return load_ptbxl(path, cache, int(settings.sampling_rate), workers, **first)
    if settings.source == "code15":
        from data.readers.code15 import load_code15

        return load_code15(path, cache, workers, **first)
    if settings.source == "ukbiobank":
        from data.readers.ukbiobank import load_ukbiobank

        cohort = load_ukbiobank(path, cache, settings.beats, workers, **first)
        remedy = "Its QOnset and QOffset do not fit its beats: --data.beats strip makes ours."
        check_qrs(cohort, remedy if settings.beats == "median" else "")
        return cohort
    if settings.source in ("challenge", "mimic", "sph"):
        from data.readers import archives

        return getattr(archives, f"load_{settings.source}")(path, cache, workers, **first)
    if settings.source == "echonext":
        from data.readers.echonext import load_echonext

        scale = settings.millivolts_per_unit
        return load_echonext(path, cache, workers, millivolts_per_unit=scale, **first)
    if settings.source == "arrays":
        from data.readers.arrays import load_arrays

        return load_arrays(path, settings.conditions, settings.sampling_rate, settings.qrs_sample)
    cohort = Cohort.open(path)
    check_qrs(
        cohort,
        "Make the cohort again, Cohort(ecg, subjects, sampling_rate=..., qrs_sample=...), or cut "
        "the arrays: --data.source arrays.",
    )
    return cohort
