"""Cohorts of ECGs: the contract, and one reader per source."""

from __future__ import annotations

from data.cohort import (
    INDEPENDENT_LEADS,
    LEADS,
    QRS_SAMPLE,
    SAMPLING_RATE,
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
    "load_cohort",
]


IN_YEARS = ("synthetic", "code15")  # sources that have times of their own, in years


def load_cohort(settings) -> Cohort:
    """Reads the cohort that the settings name, from the cache if it was prepared before.

    Args:
        settings: section `data` of a configuration, a `config.DataConfig`.

    Returns:
        The whole cohort; `Cohort.split` divides it.

    Raises:
        CohortError: the data are not there or break the contract.
    """
    from data.outcomes import in_years, join_outcomes

    cohort, unit = _read(settings), settings.time_unit
    joined = settings.outcomes is not None and "time" in settings.outcome_columns
    if unit != "years" and not joined:
        if settings.source in IN_YEARS:
            raise CohortError(
                f"data.time_unit: the times of {settings.source} are in years. Received: {unit!r}. "
                "It is for data.outcomes and for tables of your own."
            )
        cohort = in_years(cohort, unit)
    if settings.outcomes is None:
        return cohort
    return join_outcomes(cohort, settings.outcomes, settings.outcome_columns, time_unit=unit)


def _read(settings) -> Cohort:
    # Each reader is imported on demand: the simulator should not need wfdb.
    if settings.source == "synthetic":
        from data.synthetic import simulate

        return simulate(settings.subjects, settings.seed)
    from data.fiducial import check_qrs

    if not settings.path.exists():
        raise CohortError(f"data.path: {settings.path} is not there. Give --data.path FOLDER.")
    if settings.source == "ptbxl":
        from data.readers.ptbxl import load_ptbxl

        return load_ptbxl(
            settings.path, settings.cache, int(settings.sampling_rate), settings.workers or None
        )
    if settings.source == "code15":
        from data.readers.code15 import load_code15

        return load_code15(settings.path, settings.cache, settings.workers or None)
    if settings.source == "ukbiobank":
        from data.readers.ukbiobank import load_ukbiobank

        cohort = load_ukbiobank(
            settings.path, settings.cache, settings.beats, settings.workers or None
        )
        remedy = "Its QOnset and QOffset do not fit its beats: --data.beats strip makes ours."
        check_qrs(cohort, remedy if settings.beats == "median" else "")
        return cohort
    if settings.source == "arrays":
        from data.readers.arrays import load_arrays

        return load_arrays(
            settings.path, settings.conditions, settings.sampling_rate, settings.qrs_sample
        )
    cohort = Cohort.open(settings.path)
    check_qrs(
        cohort,
        "Make the cohort again, Cohort(ecg, subjects, sampling_rate=..., qrs_sample=...), or cut "
        "the arrays: --data.source arrays.",
    )
    return cohort
