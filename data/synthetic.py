"""Simulated cohorts whose truth is known: a dipole model of the heart, seen by 12 leads.

`dipole.py` makes the beats. Age, sex and BMI act on durations, axes, voltages and the chest wall at
published levels, about twenty latent factors do so beside them. Most of this is not additive in the
ECG: waves move, widen and turn.

Conventions, which the truth follows and a reader of the tracing would find within a few ms:
    * P runs from 2.1 SD before the centre of its first lobe to 2.1 SD after that of its last one;
      QRS likewise with 2.4 SD. The QRS centre, at `QRS_SAMPLE`, is midway between its two ends.
    * T is Gaussian on either side of its peak, with different widths. It ends 2 SD after the peak:
      there the tangent at the steepest descent meets the baseline. People see its end 10 ms later
      (docs/delineation.md).
    * QTc is Fridericia's, QT / cube root of RR.
    * Amplitudes, axes and the QRS-T angle are measured on the noiseless beat: amplitudes from the
      middle of the PR segment, axes from areas (I and aVF), the angle between the areas of the
      heart vector over QRS and over ST-T.

Dims: N subjects, T samples.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.cohort import LEADS, QRS_SAMPLE, SAMPLES, SAMPLING_RATE, Cohort, derive_leads
from data.dipole import (
    DOWER,
    MEAN_AGE,
    MEAN_BMI,
    TIMES,
    Lobes,
    draw_lobes,
    factors_of,
    heart_vector,
    lead_field,
)

FACTORS = (
    "heart_rate",
    "p_duration",
    "p_axis",
    "p_amplitude",
    "pr_segment",
    "qrs_duration",
    "qrs_axis",
    "rotation",  # of the QRS about the long axis of the body: where V1-V6 change from S to R
    "voltage",
    "septal",  # size of the first forces: r in V1, q in V6
    "basal",  # size of the last forces: s in I and V6
    "activation",  # early or late peak of R within the QRS
    "hypertrophy",  # also raises LV mass
    "contractility",  # also raises LV ejection fraction
    "qtc",
    "qrs_t_angle",
    "t_axis",
    "t_amplitude",
    "t_shape",
    "st_level",
    "electrode_side",  # precordial electrodes too far left or right
    "electrode_height",  # or too high or low
)

# Log hazard per unit, and the value that counts as 0. ECG terms are 1.2 times the published ones
# (QRS above 110 ms: hazard ratio 3.1, taken as 25 ms; QTc: 1.14 per 20 ms; abnormal QRS-T angle:
# 2.3 to 5.2, taken as 3 over 45 degrees; LVH voltage: 2.4, taken as 2.2 SD), and act
# together and over the whole range, so that the ECG tells far more than it does in real cohorts.
HAZARDS = {
    "age": (0.05, 57.5),  # per year
    "male": (0.4, 0.48),
    "bmi": (0.03, 27.0),  # per kg/m2
    "qrs_duration": (0.054, 88.5),  # per ms
    "qtc": (0.008, 416.0),  # per ms
    "qrs_t_angle": (0.030, 75.0),  # per degree
    "factor_hypertrophy": (0.34, 0.0),  # per SD
    "factor_voltage": (0.34, 0.0),  # per SD
}
WEIBULL_SHAPE = 1.3
WEIBULL_SCALE = 29.0  # years; about a quarter of the subjects have an event
FOLLOW_UP = 10.0  # years
DROP_OUT = 0.02  # per year

EARLIEST_P = -285.0  # ms from the QRS centre, 15 ms after the window opens: PR stays below 260 ms
CHUNK = 512  # subjects sampled at a time: 8 MB of lobes


def simulate(n_subjects: int, seed: int = 0) -> Cohort:
    """Simulates a cohort of resting ECGs with image-derived conditions and outcomes.

    The link from ECG to outcome is stronger than in real cohorts (see `HAZARDS`), and events are
    more frequent (about 25% in 10 years), so that a small cohort shows what a large real one would.

    Args:
        n_subjects: N, at least 1.
        seed: the same N and seed give the same cohort.

    Returns:
        N ECGs. `subjects`: age (30 to 85 years), sex, bmi (kg/m2), lv_mass (g), lvef (%),
        heart_rate (1/min), time (years) and event (1 happened, 0 censored). `truth`: durations and
        positions of the wave ends from the QRS centre (ms), axes and QRS-T angle (degrees),
        amplitudes (mV; `r_` the highest and `s_` the deepest point of the QRS, a positive number,
        `j_` and `t_` signed), noise (uV), latent factors (`factor_...`: standard normal,
        independent of age, sex and BMI) and `log_hazard` (about 0 on average).

    Raises:
        ValueError: `n_subjects` is below 1.
    """
    if n_subjects < 1:
        raise ValueError(f"Expected n_subjects of at least 1. Received: {n_subjects}.")
    subject_rng, noise_rng, outcome_rng = np.random.default_rng(seed).spawn(3)
    people = _draw_people(subject_rng, n_subjects)
    timing = _draw_timing(people)
    lobes = draw_lobes(people, timing)
    field = lead_field(people).astype(np.float32)  # (N, 8, 3)
    noise = 5 + 10 * subject_rng.random(n_subjects)  # uV

    ecg = np.empty((n_subjects, len(LEADS), SAMPLES), dtype=np.float32)
    measured = []
    for start in range(0, n_subjects, CHUNK):
        rows = slice(start, start + CHUNK)
        heart = heart_vector(Lobes(*(part[rows] for part in lobes)))  # (N, 3, T)
        beat = field[rows] @ heart  # (N, 8, T)
        measured.append(_measure(derive_leads(beat), heart, timing[rows]))
        ecg[rows] = derive_leads(beat + _noise(noise_rng, noise[rows]))

    factors = people.filter(like="factor_")
    truth = pd.concat([timing, pd.concat(measured, ignore_index=True), factors], axis=1)
    truth["noise"] = noise
    truth["log_hazard"] = _log_hazard(people, truth)
    subjects = people[["subject_id", "patient_id", "age", "sex", "bmi", "lv_mass", "lvef"]].copy()
    subjects["heart_rate"] = truth["heart_rate"].round(1)
    subjects["time"], subjects["event"] = _draw_outcomes(outcome_rng, truth["log_hazard"])
    source = f"simulated by a dipole model: {n_subjects} subjects, seed {seed}"
    return Cohort(ecg=ecg, subjects=subjects, source=source, truth=truth)


def _draw_people(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Age, sex, BMI, latent factors, and the two measures that an image of the heart would give."""
    factors = rng.standard_normal((n, len(FACTORS)))
    male = rng.random(n) < 0.48
    people = pd.DataFrame(factors, columns=[f"factor_{name}" for name in FACTORS])
    people["subject_id"] = people["patient_id"] = [f"sim-{i:06d}" for i in range(1, n + 1)]
    people["age"] = (30 + 55 * rng.beta(2.2, 2.2, n)).round(1)
    people["sex"] = np.where(male, "male", "female")
    people["male"] = male
    spread = np.where(male, 0.14, 0.17)
    bmi = np.where(male, 27.4, 26.7) * np.exp(spread * rng.standard_normal(n) - spread**2 / 2)
    people["bmi"] = np.clip(bmi, 16, 50).round(1)
    # Levels and spread as in UK Biobank: Petersen SE et al., J Cardiovasc Magn Reson 2017;19:18.
    size = 0.14 * people["factor_hypertrophy"] + 0.06 * rng.standard_normal(n)
    mass = np.where(male, 103, 70) * (people["bmi"] / MEAN_BMI) ** 0.6 * np.exp(size)
    people["lv_mass"] = mass.round(1)
    function = 4.5 * people["factor_contractility"] + 2.5 * rng.standard_normal(n)
    people["lvef"] = np.clip(np.where(male, 58, 61) + function, 20, 80).round(1)
    return people


def _draw_timing(people: pd.DataFrame) -> pd.DataFrame:
    """Heart rate (1/min), durations, and the ends of the waves from the QRS centre (ms)."""
    f = factors_of(people)
    age, bmi, male = (people[name].to_numpy() for name in ("age", "bmi", "male"))
    decades, units = (age - MEAN_AGE) / 10, bmi - MEAN_BMI

    rate = np.clip(np.where(male, 63, 66) * np.exp(0.15 * f["heart_rate"] - 0.011), 42, 110)
    p = np.where(male, 112, 108) + 2.9 * decades + 0.38 * units + 9 * f["p_duration"]
    segment = np.where(male, 52, 50) + 0.1 * decades + 0.1 * units
    qrs = np.where(male, 92 - 0.75 * decades, 85) + 0.3 * (np.minimum(bmi, 30) - 26.3)
    qrs += 7.8 * f["qrs_duration"] + 1.5 * f["hypertrophy"] - 1.5 * f["contractility"]
    pr = p + segment * np.exp(0.38 * f["pr_segment"] - 0.072)
    pr = np.minimum(pr, -qrs / 2 - EARLIEST_P)
    qtc = np.where(male, 410, 421) + 0.25 * (np.maximum(age - 40, 0) - 18) + 0.45 * units
    qtc += 13.5 * f["qtc"]
    qt = qtc * np.cbrt(60 / rate)
    return pd.DataFrame(
        {
            "heart_rate": rate,
            "p_duration": p,
            "pr_interval": pr,
            "qrs_duration": qrs,
            "qt_interval": qt,
            "qtc": qtc,
            "p_onset": -qrs / 2 - pr,
            "p_offset": -qrs / 2 - pr + p,
            "qrs_onset": -qrs / 2,
            "qrs_offset": qrs / 2,
            "t_offset": -qrs / 2 + qt,
        }
    )


def _noise(rng: np.random.Generator, level: np.ndarray) -> np.ndarray:
    """(N, 8, T) float32 mV: half the power white, half slow (0.6 to 12.5 Hz, falling with 1 / f).

    Args:
        rng: random numbers.
        level: (N,) uV, root mean square.
    """
    cycles = np.arange(1, 21)[:, None]
    slow = np.cos(np.pi * cycles * (np.arange(SAMPLES) + 0.5) / SAMPLES) / cycles  # (20, T)
    slow /= np.sqrt((slow**2).sum(axis=0).mean())
    shape = (len(level), len(DOWER))
    noise = rng.standard_normal((*shape, len(slow)), dtype=np.float32) @ slow.astype(np.float32)
    noise += rng.standard_normal((*shape, SAMPLES), dtype=np.float32)
    return noise * (level / 1000 / np.sqrt(2)).astype(np.float32)[:, None, None]


def _measure(ecg: np.ndarray, heart: np.ndarray, timing: pd.DataFrame) -> pd.DataFrame:
    """Axes (degrees), QRS-T angle (degrees) and amplitudes (mV) of noiseless beats.

    Args:
        ecg: (N, 12, T) mV.
        heart: (N, 3, T) mV.
        timing: N rows.
    """
    ends = {name: timing[name].to_numpy() for name in timing}
    baseline = _value_at(ecg, (ends["p_offset"] + ends["qrs_onset"]) / 2)
    ecg = ecg - baseline[:, :, None]

    def within(start: np.ndarray, end: np.ndarray) -> np.ndarray:  # (N, 1, T)
        return ((start[:, None] <= TIMES) & (end[:, None] >= TIMES))[:, None]

    p = within(ends["p_onset"], ends["p_offset"])
    qrs = within(ends["qrs_onset"], ends["qrs_offset"])
    st_t = within(ends["qrs_offset"], ends["t_offset"])
    t_only = within(ends["t_offset"] - 0.45 * ends["qt_interval"], ends["t_offset"])
    i, avf = LEADS.index("I"), LEADS.index("aVF")
    measured = {}
    for name, window in (("p", p), ("qrs", qrs), ("t", st_t)):
        area = (ecg * window).sum(axis=2)
        axis = np.arctan2(area[:, avf] * 2 / np.sqrt(3), area[:, i])
        measured[f"{name}_axis"] = np.degrees(axis)
    areas = [(heart * window).sum(axis=2) for window in (qrs, st_t)]
    cosine = (areas[0] * areas[1]).sum(axis=1) / np.prod(np.linalg.norm(areas, axis=2), axis=0)
    measured["qrs_t_angle"] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    t = np.where(t_only, ecg, 0)
    t_peak = np.abs(t).argmax(axis=2)[:, :, None]
    amplitudes = {
        "r": np.where(qrs, ecg, 0).max(axis=2),
        "s": -np.where(qrs, ecg, 0).min(axis=2),
        "j": _value_at(ecg, ends["qrs_offset"]),
        "t": np.take_along_axis(t, t_peak, axis=2)[:, :, 0],
    }
    for name, amplitude in amplitudes.items():
        for lead, column in zip(LEADS, amplitude.T, strict=True):
            measured[f"{name}_{lead.lower()}"] = column
    measured["sokolow_lyon"] = measured["s_v1"] + measured["r_v5"]
    measured["cornell"] = measured["r_avl"] + measured["s_v3"]
    return pd.DataFrame(measured).astype(np.float64)


def _value_at(ecg: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(N, L): the ECG at (N,) ms from the QRS centre, between samples by straight lines."""
    position = QRS_SAMPLE + time * SAMPLING_RATE / 1000
    before = np.floor(position).astype(int)
    share = (position - before)[:, None]
    rows = np.arange(len(ecg))
    return (1 - share) * ecg[rows, :, before] + share * ecg[rows, :, before + 1]


def _log_hazard(people: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """(N,): the weighted sum of `HAZARDS`."""
    table = truth.assign(age=people["age"], male=people["male"].astype(float), bmi=people["bmi"])
    terms = [weight * (table[name] - centre) for name, (weight, centre) in HAZARDS.items()]
    return np.sum(terms, axis=0)


def _draw_outcomes(
    rng: np.random.Generator, log_hazard: pd.Series
) -> tuple[np.ndarray, np.ndarray]:
    """Times (years, (N,)) and events ((N,) 0 / 1): Weibull, censored at random and at the end."""
    n = len(log_hazard)
    cumulative = rng.standard_exponential(n) * np.exp(-log_hazard.to_numpy())
    event_time = WEIBULL_SCALE * cumulative ** (1 / WEIBULL_SHAPE)
    censoring = np.minimum(FOLLOW_UP, rng.exponential(1 / DROP_OUT, n))
    return np.minimum(event_time, censoring), (event_time <= censoring).astype(int)
