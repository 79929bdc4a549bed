"""Simulated cohorts whose truth is known: a dipole model of the heart, seen by 12 leads.

The heart is a current dipole, the vector x(t) in Frank's axes (x left, y down, z back). Each wave
of the beat (P, QRS, ST, T) is a sum of Gaussian lobes, a lobe being a direction, an amplitude, a
centre and a width. Dower's matrix projects x(t) on the 8 independent leads; the other four are
derived. Age, sex and BMI act on durations, axes, voltages and the chest wall at published levels,
about twenty latent factors do so beside them. Most of this is not additive in the ECG: waves move,
widen and turn.

Conventions, which the truth follows and a reader of the tracing would find within a few ms:
    * P runs from 2.1 SD before the centre of its first lobe to 2.1 SD after that of its last one;
      QRS likewise with 2.4 SD. The QRS centre, at `QRS_SAMPLE`, is midway between its two ends.
    * T is Gaussian on either side of its peak, with different widths. It ends 2 SD after the peak:
      there the tangent at the steepest descent meets the baseline.
    * QTc is Fridericia's, QT / cube root of RR.
    * Amplitudes, axes and the QRS-T angle are measured on the noiseless beat: amplitudes from the
      middle of the PR segment, axes from areas (I and aVF), the angle between the areas of the
      heart vector over QRS and over ST-T.

Lead field: Dower GE, Machado HB, Osborne JA. On deriving the electrocardiogram from
vectorcardiographic leads. Clin Cardiol 1980;3:87-95.

Dims: N subjects, K lobes, T samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from data.cohort import LEADS, QRS_SAMPLE, SAMPLES, SAMPLING_RATE, Cohort, derive_leads

# Rows I, II, V1..V6; columns x (left), y (down), z (back).
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# The frontal plane as the limb leads span it: I, and 2 / sqrt(3) aVF at right angles to it.
FRONTAL = np.stack([DOWER[0], (DOWER[1] - DOWER[0] / 2) * 2 / np.sqrt(3)])

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

MEAN_AGE = 57.5  # years; effects are centred here, so that levels are those of the cohort
MEAN_BMI = 27.0  # kg/m2
P_ENDS = 2.1  # SD of a lobe
QRS_ENDS = 2.4
EARLIEST_P = -285.0  # ms from the QRS centre, 15 ms after the window opens: PR stays below 260 ms
TIMES = (np.arange(SAMPLES) - QRS_SAMPLE) * (1000 / SAMPLING_RATE)  # ms from the QRS centre
CHUNK = 512  # subjects sampled at a time: 8 MB of lobes

# Lobes of the QRS: centre and SD as shares of its duration, vector in mV (x, y, z), fitted to the
# mean R and S of middle-aged men in each lead.
QRS_CENTRES = (-0.5 + QRS_ENDS * 0.075, -0.16, 0.0, 0.14, 0.5 - QRS_ENDS * 0.095)
QRS_WIDTHS = (0.075, 0.085, 0.085, 0.11, 0.095)
QRS_VECTORS = np.array(
    [
        [-0.14, -0.12, -0.36],  # septum: right and forward
        [0.84, 0.52, 0.25],  # apex
        [1.03, 0.38, 0.24],  # free wall
        [0.12, -0.04, 0.76],  # posterior wall
        [-0.22, 0.05, 0.21],  # base: right and back
    ]
).T  # (3, 5)
WOMEN_TO_MEN = np.array([[0.90], [0.97], [0.72]])  # smaller forces to the back: less S in V1-V3
P_VECTORS = np.array([[0.045, 0.095, -0.075], [0.075, 0.06, 0.04]]).T  # right, then left atrium
ST_DIRECTION = np.array([0.29, 0.15, -0.94])
# Fat and breast tissue lie over the lateral leads: amplitude goes with BMI to these powers.
CHEST_WALL = np.array([0, 0, -1.0, -0.5, -0.2, -0.8, -1.0, -1.0])


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
    lobes = _draw_lobes(people, timing)
    field = _lead_field(people).astype(np.float32)  # (N, 8, 3)
    noise = 5 + 10 * subject_rng.random(n_subjects)  # uV

    ecg = np.empty((n_subjects, len(LEADS), SAMPLES), dtype=np.float32)
    measured = []
    for start in range(0, n_subjects, CHUNK):
        rows = slice(start, start + CHUNK)
        heart = _heart_vector(_Lobes(*(part[rows] for part in lobes)))  # (N, 3, T)
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
    f = _factors(people)
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


class _Lobes(NamedTuple):
    """Lobes of the heart vector. Before and after the centre of a skewed one, the widths differ."""

    centre: np.ndarray  # (N, K) ms
    before: np.ndarray  # (N, K) ms, one SD
    after: np.ndarray  # (N, K) ms, one SD
    vector: np.ndarray  # (N, 3, K) mV

    def area(self) -> np.ndarray:
        """(N, 3): direction of the wave as a whole."""
        return (self.vector * (self.before + self.after)[:, None]).sum(axis=2)


def _draw_lobes(people: pd.DataFrame, timing: pd.DataFrame) -> _Lobes:
    """The lobes of P, QRS, ST and T."""
    qrs = _qrs_lobes(people, timing)
    waves = (_p_lobes(people, timing), qrs, *_repolarisation(people, timing, qrs.area()))
    return _Lobes(*(np.concatenate(parts, axis=-1) for parts in zip(*waves, strict=True)))


def _p_lobes(people: pd.DataFrame, timing: pd.DataFrame) -> _Lobes:
    """Right atrium, left atrium."""
    f = _factors(people)
    width = 0.175 * timing["p_duration"].to_numpy()[:, None].repeat(2, axis=1)
    ends = timing[["p_onset", "p_offset"]].to_numpy()
    centre = ends + P_ENDS * width * (1, -1)
    size = np.exp(0.22 * f["p_amplitude"])
    lobes = _Lobes(centre, width, width, size[:, None, None] * P_VECTORS)
    axis = np.where(people["male"], 54, 57) + 18 * f["p_axis"]
    return lobes._replace(vector=_turned_to_axis(lobes, axis))


def _qrs_lobes(people: pd.DataFrame, timing: pd.DataFrame) -> _Lobes:
    """Septum, apex, free wall, posterior wall, base."""
    f = _factors(people)
    male = people["male"].to_numpy()
    decades, units = (people["age"].to_numpy() - MEAN_AGE) / 10, people["bmi"] - MEAN_BMI
    duration = timing["qrs_duration"].to_numpy()[:, None]
    later = (0.015 * f["activation"] + 0.008 * f["hypertrophy"])[:, None] * (0, 1, 1, 1, 0)
    centre, width = duration * (QRS_CENTRES + later), duration * QRS_WIDTHS

    voltage = 0.15 * (f["voltage"] + f["hypertrophy"]) - np.where(male, 0.15, 0.08) * decades - 0.05
    size = voltage[:, None] + np.zeros(5)
    size[:, 0] += 0.35 * f["septal"]
    size[:, 4] += 0.4 * f["basal"]
    vector = np.where(male[:, None, None], 1, WOMEN_TO_MEN) * QRS_VECTORS * np.exp(size)[:, None]
    lobes = _Lobes(centre, width, width, _turned(vector, np.radians(11 * f["rotation"]), (0, 2)))
    axis = np.where(male, 35, 39) - 8 * decades - 2 * units.to_numpy() + 20 * f["qrs_axis"]
    return lobes._replace(vector=_turned_to_axis(lobes, axis))


def _repolarisation(
    people: pd.DataFrame, timing: pd.DataFrame, qrs_area: np.ndarray
) -> tuple[_Lobes, _Lobes]:
    """ST, which peaks at the J point, and T, turned away from the QRS by the QRS-T angle."""
    f = _factors(people)
    age, bmi, male = (people[name].to_numpy() for name in ("age", "bmi", "male"))
    decades = (age - MEAN_AGE) / 10

    level = np.where(
        male, 0.085 - 0.025 * decades + 0.04 * f["st_level"], 0.03 + 0.028 * f["st_level"]
    )
    rise = 0.2 * timing["qrs_duration"].to_numpy()[:, None]
    fall = 0.16 * timing["qt_interval"].to_numpy()[:, None]
    centre = timing["qrs_offset"].to_numpy()[:, None]
    st = _Lobes(centre, rise, fall, level[:, None, None] * ST_DIRECTION[:, None])

    after = 0.095 * timing["qt_interval"].to_numpy()[:, None]
    before = after * 1.5 * np.exp(0.12 * f["t_shape"])[:, None]
    size = np.where(male, 0.54, 0.355) * np.exp(-0.015 * decades + 0.25 * f["t_amplitude"])
    size *= (bmi / MEAN_BMI) ** -0.3
    axis = np.where(male, 35, 43) + 14 * f["t_axis"]  # ST adds the rest of 39 and 45
    angle = np.where(male, 80, 66) + 0.4 * np.maximum(age - 51, 0)
    angle += 24 * f["qrs_t_angle"] + 5 * f["hypertrophy"] - 4 * f["contractility"]
    vector = size[:, None] * _direction_at(np.radians(axis), np.radians(angle), qrs_area)
    peak = timing["t_offset"].to_numpy()[:, None] - 2 * after
    return st, _Lobes(peak, before, after, vector[:, :, None])


def _turned(vector: np.ndarray, angle: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Turns (N, 3, K) vectors by (N,) radians from the first towards the second of two axes."""
    turned = vector.copy()
    a, b = axes
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned[:, a] = cos * vector[:, a] - sin * vector[:, b]
    turned[:, b] = sin * vector[:, a] + cos * vector[:, b]
    return turned


def _across(axis: np.ndarray) -> np.ndarray:
    """(N, 3): the heart vector lies at this frontal axis (radians) if its product with this is 0.

    (The limb leads, being no orthogonal system, see a little of z, too.)
    """
    return np.cos(axis)[:, None] * FRONTAL[1] - np.sin(axis)[:, None] * FRONTAL[0]


def _turned_to_axis(lobes: _Lobes, axis: np.ndarray) -> np.ndarray:
    """Turns a wave in the frontal plane until its area lies at (N,) degrees."""
    x, y, z = lobes.area().T
    normal_x, normal_y, normal_z = _across(np.radians(axis)).T
    # normal . (area turned to the angle u) = 0, solved for u
    share = -normal_z * z / (np.hypot(x, y) * np.hypot(normal_x, normal_y))
    u = np.arctan2(normal_y, normal_x) - np.arccos(np.clip(share, -1, 1))
    return _turned(lobes.vector, u - np.arctan2(y, x), (0, 1))


def _direction_at(axis: np.ndarray, angle: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Unit vectors with this frontal axis and this angle to a reference, on its anterior side.

    Where no such vector exists the closest is taken; none turns beyond 85 degrees to the front, so
    that T stays upright along its axis.

    Args:
        axis: (N,) radians.
        angle: (N,) radians.
        reference: (N, 3).
    """
    normal = _across(axis)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    back = np.array([0, 0, 1]) - normal[:, 2:] * normal
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    along = np.cross(normal, back)  # with `back`, spans the plane of that frontal axis
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    a, b = (reference * along).sum(axis=1), (reference * back).sum(axis=1)
    share = np.clip(np.cos(angle) / np.hypot(a, b), -1, 1)
    u = np.maximum(np.arctan2(b, a) - np.arccos(share), np.radians(-85))[:, None]
    return np.cos(u) * along + np.sin(u) * back


def _lead_field(people: pd.DataFrame) -> np.ndarray:
    """(N, 8, 3): Dower's matrix behind this chest wall, with these electrode positions."""
    f = _factors(people)
    step = np.zeros((8, 3))
    step[2:] = np.gradient(DOWER[2:], axis=0)  # from one precordial electrode to the next
    field = DOWER + 0.2 * f["electrode_side"][:, None, None] * step
    field[:, 2:, 1] += 0.1 * f["electrode_height"][:, None]
    weaker = (people["bmi"].to_numpy()[:, None] / MEAN_BMI) ** CHEST_WALL
    return field * weaker[:, :, None]


def _heart_vector(lobes: _Lobes) -> np.ndarray:
    """(N, 3, T) float32 mV."""
    centre, before, after, vector = (part.astype(np.float32) for part in lobes)
    time = TIMES.astype(np.float32) - centre[:, :, None]  # (N, K, T)
    time /= np.where(time < 0, before[:, :, None], after[:, :, None])
    return vector @ np.exp(-0.5 * time**2)


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


def _factors(people: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: people[f"factor_{name}"].to_numpy() for name in FACTORS}
