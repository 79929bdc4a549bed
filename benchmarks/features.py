"""How well `evaluation.measures.features` measures: error on simulated truth, speed, real records.

    python -m benchmarks.features
    python -m benchmarks.features --ptbxl /data/ptb-xl

Prints bias and spread of each feature against the truth of a simulated cohort and the time for
10,000 beats; for PTB-XL the levels, the failure rates, the QRS duration by diagnosis, and the QRS
axis by the `heart_axis` of its table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from benchmarks.common import Timer
from data.cohort import Cohort
from data.readers.ptbxl import load_ptbxl
from data.synthetic import simulate
from evaluation.measures.features import CIRCULAR, FEATURES, measure, short_way

BEATS = 10_000  # for the speed
# PTB-XL's categories of the frontal QRS axis, from the most leftward to the most rightward.
AXIS_NAMES = ["ALAD", "LAD", "MID", "RAD", "ARAD", "AXL", "AXR", "SAG"]
AXIS_LIMITS = [-180, -90, -30, 30, 90, 120, 180]
SHOWN = """p_duration pr_interval qrs_duration qt_interval qtc p_axis qrs_axis t_axis qrs_t_angle
p_ii r_v5 s_v1 t_v5 j_v3 sokolow_lyon cornell""".split()


def errors(measured: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Measured minus true for the features both have; angles between -180 and 180 degrees."""
    names = [name for name in FEATURES if name in truth]
    difference = measured[names] - truth[names]
    axes = difference.columns.intersection(CIRCULAR)
    difference[axes] = short_way(difference[axes])
    return difference


def validation_table(cohort: Cohort) -> pd.DataFrame:
    """Bias, SD, 1st and 99th percentile of the error, correlation and missing share per feature."""
    measured = measure(cohort.ecg, heart_rate=cohort.subjects["heart_rate"].to_numpy())
    error = errors(measured, cohort.truth)
    return pd.DataFrame(
        {
            "unit": {name: FEATURES[name].unit for name in error},
            "truth_mean": cohort.truth[error.columns].mean(),
            "truth_sd": cohort.truth[error.columns].std(),
            "bias": error.mean(),
            "sd": error.std(),
            "low_1pct": error.quantile(0.01),
            "high_99pct": error.quantile(0.99),
            "r": measured[error.columns].corrwith(cohort.truth[error.columns]),
            "missing": error.isna().mean(),
        }
    )


def report_ptbxl(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        cohort = load_ptbxl(folder, cache=cache)
        subjects, ecg = cohort.subjects, np.array(cohort.ecg)
    measured = measure(ecg, heart_rate=subjects["heart_rate"].to_numpy())
    codes = pd.read_csv(folder / "ptbxl_database.csv", dtype={"ecg_id": str})
    codes = codes.set_index("ecg_id")["scp_codes"].reindex(subjects["subject_id"]).to_numpy()

    def having(*names: str) -> np.ndarray:
        return np.array([any(f"'{name}'" in row for name in names) for row in codes])

    without_p = having("AFIB", "AFLT", "PACE", "SVTAC", "PSVT")
    no_p = measured["p_duration"].isna()
    print(
        f"\nPTB-XL: {len(measured)} records; QRS or T not found in {measured['failed'].mean():.1%}"
    )
    print(
        f"no P wave found: {no_p[~without_p].mean():.1%} of {(~without_p).sum()} in sinus rhythm,"
    )
    print(f"{no_p[without_p].mean():.1%} of {without_p.sum()} in fibrillation, flutter or paced")
    print("\nAll records")
    print(measured[SHOWN].describe(percentiles=[0.01, 0.5, 0.99]).T.drop(columns="count").round(2))
    print("\nBy diagnosis: median (range) of the QRS duration, ms")
    for name in ("NORM", "IRBBB", "LAFB", "CRBBB", "CLBBB"):
        qrs = measured.loc[having(name), "qrs_duration"].dropna()
        spread = f"{qrs.median():.0f} ({qrs.min():.0f} to {qrs.max():.0f})" if len(qrs) else "-"
        print(f"  {name:6s} n = {having(name).sum():4d}   {spread}")
    print("\nNormal records, median by sex")
    print(measured[having("NORM")].groupby(subjects["sex"])[SHOWN].median().T.round(2))
    print("\nQRS axis (degrees) by PTB-XL's heart_axis")
    axis = subjects["heart_axis"].astype(pd.CategoricalDtype(AXIS_NAMES, ordered=True))
    print(pd.crosstab(axis, pd.cut(measured["qrs_axis"], AXIS_LIMITS)))


def main(subjects: int = 2000, seed: int = 0, ptbxl: Path | None = None) -> None:
    """Measures and prints.

    Args:
        subjects: size of the simulated cohort.
        seed: of the simulated cohort.
        ptbxl: folder of PTB-XL.
    """
    pd.set_option("display.width", 200, "display.max_rows", 200, "display.max_columns", 20)
    cohort = simulate(subjects, seed)
    print(f"{cohort.source}\nmeasured minus truth")
    print(validation_table(cohort).round(3))
    ecg = np.resize(cohort.ecg, (BEATS, *cohort.ecg.shape[1:]))
    with Timer() as timer:
        measure(ecg)
    print(f"\n{BEATS:,} beats: {timer.wall:.1f} s, {timer.cpu:.1f} s of CPU time")
    if ptbxl:
        report_ptbxl(ptbxl)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
