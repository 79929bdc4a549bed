"""The heart as a current dipole: its waves, and the 8 leads that see them.

The dipole is the vector x(t) in Frank's axes (x left, y down, z back). Each wave of the beat (P,
QRS, ST, T) is a sum of Gaussian lobes, a lobe being a direction, an amplitude, a centre and a
width. Dower's matrix projects x(t) on the 8 independent leads. `synthetic.py` draws the people and
the durations of their waves, from which all of this follows.

Lead field: Dower GE, Machado HB, Osborne JA. On deriving the electrocardiogram from
vectorcardiographic leads. Clin Cardiol 1980;3:87-95.

Dims: N subjects, K lobes, T samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from data.cohort import QRS_SAMPLE, SAMPLES, SAMPLING_RATE

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

MEAN_AGE = 57.5  # years; effects are centred here, so that levels are those of the cohort
MEAN_BMI = 27.0  # kg/m2
P_ENDS = 2.1  # SD of a lobe
QRS_ENDS = 2.4
TIMES = (np.arange(SAMPLES) - QRS_SAMPLE) * (1000 / SAMPLING_RATE)  # ms from the QRS centre

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


class Lobes(NamedTuple):
    """Lobes of the heart vector. Before and after the centre of a skewed one, the widths differ."""

    centre: np.ndarray  # (N, K) ms
    before: np.ndarray  # (N, K) ms, one SD
    after: np.ndarray  # (N, K) ms, one SD
    vector: np.ndarray  # (N, 3, K) mV

    def area(self) -> np.ndarray:
        """(N, 3): direction of the wave as a whole."""
        return (self.vector * (self.before + self.after)[:, None]).sum(axis=2)


def draw_lobes(people: pd.DataFrame, timing: pd.DataFrame) -> Lobes:
    """The lobes of P, QRS, ST and T."""
    qrs = _qrs_lobes(people, timing)
    waves = (_p_lobes(people, timing), qrs, *_repolarisation(people, timing, qrs.area()))
    return Lobes(*(np.concatenate(parts, axis=-1) for parts in zip(*waves, strict=True)))


def _p_lobes(people: pd.DataFrame, timing: pd.DataFrame) -> Lobes:
    """Right atrium, left atrium."""
    f = factors_of(people)
    width = 0.175 * timing["p_duration"].to_numpy()[:, None].repeat(2, axis=1)
    ends = timing[["p_onset", "p_offset"]].to_numpy()
    centre = ends + P_ENDS * width * (1, -1)
    size = np.exp(0.22 * f["p_amplitude"])
    lobes = Lobes(centre, width, width, size[:, None, None] * P_VECTORS)
    axis = np.where(people["male"], 54, 57) + 18 * f["p_axis"]
    return lobes._replace(vector=_turned_to_axis(lobes, axis))


def _qrs_lobes(people: pd.DataFrame, timing: pd.DataFrame) -> Lobes:
    """Septum, apex, free wall, posterior wall, base."""
    f = factors_of(people)
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
    lobes = Lobes(centre, width, width, _turned(vector, np.radians(11 * f["rotation"]), (0, 2)))
    axis = np.where(male, 35, 39) - 8 * decades - 2 * units.to_numpy() + 20 * f["qrs_axis"]
    return lobes._replace(vector=_turned_to_axis(lobes, axis))


def _repolarisation(
    people: pd.DataFrame, timing: pd.DataFrame, qrs_area: np.ndarray
) -> tuple[Lobes, Lobes]:
    """ST, which peaks at the J point, and T, turned away from the QRS by the QRS-T angle."""
    f = factors_of(people)
    age, bmi, male = (people[name].to_numpy() for name in ("age", "bmi", "male"))
    decades = (age - MEAN_AGE) / 10

    level = np.where(
        male, 0.085 - 0.025 * decades + 0.04 * f["st_level"], 0.03 + 0.028 * f["st_level"]
    )
    rise = 0.2 * timing["qrs_duration"].to_numpy()[:, None]
    fall = 0.16 * timing["qt_interval"].to_numpy()[:, None]
    centre = timing["qrs_offset"].to_numpy()[:, None]
    st = Lobes(centre, rise, fall, level[:, None, None] * ST_DIRECTION[:, None])

    after = 0.095 * timing["qt_interval"].to_numpy()[:, None]
    before = after * 1.5 * np.exp(0.12 * f["t_shape"])[:, None]
    size = np.where(male, 0.54, 0.355) * np.exp(-0.015 * decades + 0.25 * f["t_amplitude"])
    size *= (bmi / MEAN_BMI) ** -0.3
    axis = np.where(male, 35, 43) + 14 * f["t_axis"]  # ST adds the rest of 39 and 45
    angle = np.where(male, 80, 66) + 0.4 * np.maximum(age - 51, 0)
    angle += 24 * f["qrs_t_angle"] + 5 * f["hypertrophy"] - 4 * f["contractility"]
    vector = size[:, None] * _direction_at(np.radians(axis), np.radians(angle), qrs_area)
    peak = timing["t_offset"].to_numpy()[:, None] - 2 * after
    return st, Lobes(peak, before, after, vector[:, :, None])


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


def _turned_to_axis(lobes: Lobes, axis: np.ndarray) -> np.ndarray:
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


def lead_field(people: pd.DataFrame) -> np.ndarray:
    """(N, 8, 3): Dower's matrix behind this chest wall, with these electrode positions."""
    f = factors_of(people)
    step = np.zeros((8, 3))
    step[2:] = np.gradient(DOWER[2:], axis=0)  # from one precordial electrode to the next
    field = DOWER + 0.2 * f["electrode_side"][:, None, None] * step
    field[:, 2:, 1] += 0.1 * f["electrode_height"][:, None]
    weaker = (people["bmi"].to_numpy()[:, None] / MEAN_BMI) ** CHEST_WALL
    return field * weaker[:, :, None]


def heart_vector(lobes: Lobes) -> np.ndarray:
    """(N, 3, T) float32 mV."""
    centre, before, after, vector = (part.astype(np.float32) for part in lobes)
    time = TIMES.astype(np.float32) - centre[:, :, None]  # (N, K, T)
    time /= np.where(time < 0, before[:, :, None], after[:, :, None])
    return vector @ np.exp(-0.5 * time**2)


def factors_of(people: pd.DataFrame) -> dict[str, np.ndarray]:
    """The latent factors, (N,) each, of the columns `factor_...`."""
    factors = people.filter(like="factor_")
    return {name.removeprefix("factor_"): column.to_numpy() for name, column in factors.items()}
