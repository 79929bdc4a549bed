"""Rhythm strips with a known beat, for the tests of the readers."""

from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

from data.cohort import LEADS, derive_leads

# Time from the middle of the QRS (s), width (s), amplitude (mV) in I, II, V1..V6: P, Q, R, S, T.
WAVES = (
    (-0.170, 0.020, (0.08, 0.12, 0.05, 0.06, 0.06, 0.06, 0.05, 0.05)),
    (-0.030, 0.007, (-0.05, -0.08, 0.10, 0.20, 0.10, -0.10, -0.12, -0.12)),
    (-0.003, 0.010, (0.70, 1.00, 0.20, 0.50, 0.90, 1.60, 1.50, 1.10)),
    (0.026, 0.008, (-0.10, -0.15, -0.90, -1.50, -1.10, -0.60, -0.30, -0.10)),
    (0.230, 0.045, (0.20, 0.25, -0.05, 0.30, 0.40, 0.40, 0.35, 0.25)),
)
ECTOPIC = (
    (-0.02, 0.020, (-0.9, -0.3, 1.2, 0.9, 0.2, -0.8, -1.1, -0.9)),
    (0.04, 0.020, (0.5, 0.9, -0.7, -0.4, -1.2, 0.9, 0.6, 0.4)),
)


def beat(seconds: np.ndarray, waves=WAVES) -> np.ndarray:
    """(12, T) mV at these times from the middle of the QRS."""
    independent = sum(
        np.array(amplitude)[:, None] * np.exp(-((seconds - centre) ** 2) / (2 * width**2))
        for centre, width, amplitude in waves
    )
    return derive_leads(independent)


def rhythm_strip(
    heart_rate=65.0,
    seconds=10.0,
    sampling_rate=500,
    jitter=0.03,
    noise=0.0,
    wander=0.0,
    mains=0.0,
    ectopic=(),
    premature=(),
    waves=WAVES,
    seed=0,
):
    """(12, T) mV: the beat above, repeated; those numbered in `ectopic` are ventricular ones.

    Those numbered in `premature` are conducted as the others, but come 0.25 s early.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    strip = np.zeros((12, len(time)))
    position, number = 0.2 + 0.3 * rng.random(), 0
    while position < seconds + 1:
        early = 0.3 * (number in ectopic) + 0.25 * (number in premature)
        strip += beat(time - position + early, ECTOPIC if number in ectopic else waves)
        position += 60 / heart_rate * (1 + jitter * rng.standard_normal())
        number += 1
    phase = rng.uniform(0, 2 * np.pi, (3, 8, 1))
    disturbance = wander * np.sin(2 * np.pi * 0.25 * time + phase[0])
    disturbance += wander / 2 * np.sin(2 * np.pi * 0.08 * time + phase[1])
    disturbance += mains * np.sin(2 * np.pi * 50 * time + phase[2])
    disturbance += noise * rng.standard_normal((8, len(time)))
    return strip + derive_leads(disturbance)


def write_ptbxl(folder: Path, n: int, **columns) -> None:
    """A folder of `n` simulated records in the layout of PTB-XL."""
    (folder / "records500").mkdir(parents=True)
    for number in range(1, n + 1):
        wfdb.wrsamp(
            f"{number:05d}_hr",
            fs=500,
            units=["mV"] * 12,
            sig_name=[lead.upper() for lead in LEADS],
            p_signal=rhythm_strip(heart_rate=60 + number % 20, noise=0.02, seed=number).T,
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder / "records500"),
        )
    table = {
        "ecg_id": range(1, n + 1),
        "patient_id": [float(100 + number) for number in range(n)],
        "age": 60.0,
        "sex": [number % 2 for number in range(n)],
        "height": 170.0,
        "weight": 70.0,
        "scp_codes": "{'NORM': 100.0, 'SR': 0.0}",
        "heart_axis": "MID",
        "strat_fold": [number % 10 + 1 for number in range(n)],
        "filename_lr": [f"records100/{number:05d}_lr" for number in range(1, n + 1)],
        "filename_hr": [f"records500/{number:05d}_hr" for number in range(1, n + 1)],
    }
    pd.DataFrame(table | columns).to_csv(folder / "ptbxl_database.csv", index=False)
    statements = {"NORM": "NORM", "IMI": "MI", "LVH": "HYP", "CLBBB": "CD", "NDT": "STTC"}
    pd.DataFrame(
        {"diagnostic": 1.0, "diagnostic_class": list(statements.values())}, index=list(statements)
    ).to_csv(folder / "scp_statements.csv")
