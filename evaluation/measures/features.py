"""Clinical features of median beats: intervals, axes and amplitudes, for a whole cohort at once.

`waves.py` finds where the waves begin and end, as people mark them. The baseline is the end of the
PR segment. What cannot be found is NaN.

Dims: B beats of a chunk, N beats, L leads, T samples.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.cohort import LEADS, QRS_SAMPLE, SAMPLING_RATE, independent_leads
from data.units import MV, UNITS
from evaluation.measures.waves import (
    BASELINE,
    T_DURATION,
    T_FROM,
    T_SMOOTHING,
    find_p,
    find_qrs,
    find_t_end,
    smoothed,
    within,
)

# Kors JA, van Herpen G, Sittig AC, van Bemmel JH. Reconstruction of the Frank vectorcardiogram from
# standard electrocardiographic leads. Eur Heart J 1990;11:1083-1092. Rows x (left), y (down),
# z (back); columns as in INDEPENDENT_LEADS. Preferred to the inverse Dower matrix because its QRS-T
# angles agree with recorded Frank leads (Cortez and Schlegel, J Electrocardiol 2010;43:302-309).
KORS = np.array(
    [
        [0.38, -0.07, -0.13, 0.05, -0.01, 0.14, 0.06, 0.54],
        [-0.07, 0.93, 0.06, -0.02, -0.05, 0.06, -0.17, 0.13],
        [0.11, -0.23, -0.43, -0.06, -0.14, -0.20, -0.11, 0.31],
    ],
    dtype=np.float32,
)


class Feature(NamedTuple):
    """What a column of `measure` means."""

    unit: str
    definition: str


FEATURES = {
    "p_onset": Feature("ms", "begin of the P wave, median of the leads, from the QRS fiducial"),
    "p_offset": Feature("ms", "end of the P wave, median of the leads, from the QRS fiducial"),
    "qrs_onset": Feature("ms", "begin of the QRS complex in all leads together, from the fiducial"),
    "qrs_offset": Feature("ms", "end of the QRS complex in all leads together, from the fiducial"),
    "t_offset": Feature("ms", "end of the T wave, median of the leads, from the QRS fiducial"),
    "p_duration": Feature("ms", "P onset to P offset"),
    "pr_interval": Feature("ms", "P onset to QRS onset"),
    "qrs_duration": Feature("ms", "QRS onset to QRS offset"),
    "qt_interval": Feature("ms", "QRS onset to T offset"),
    "qtc": Feature("ms", "QT / cube root of RR in s (Fridericia); NaN without a heart rate"),
    "p_axis": Feature("degrees", "frontal axis of P, from its areas in I and aVF"),
    "qrs_axis": Feature("degrees", "frontal axis of QRS, from its areas in I and aVF"),
    "t_axis": Feature("degrees", "frontal axis of ST-T, from its areas in I and aVF"),
    "qrs_t_angle": Feature("degrees", "spatial angle between the mean QRS and ST-T vectors (Kors)"),
    "sokolow_lyon": Feature("mV", "S in V1 + R in V5"),
    "cornell": Feature("mV", "R in aVL + S in V3"),
    **{f"p_{lead.lower()}": Feature("mV", f"largest deflection of P in {lead}") for lead in LEADS},
    **{f"r_{lead.lower()}": Feature("mV", f"height of the QRS in {lead}") for lead in LEADS},
    **{
        f"s_{lead.lower()}": Feature("mV", f"depth of the QRS in {lead}, positive (S, Q or QS)")
        for lead in LEADS
    },
    **{f"j_{lead.lower()}": Feature("mV", f"level at the end of QRS in {lead}") for lead in LEADS},
    **{f"t_{lead.lower()}": Feature("mV", f"largest deflection of T in {lead}") for lead in LEADS},
}

CIRCULAR = ("p_axis", "qrs_axis", "t_axis")  # angles that may lie anywhere around the circle

CHUNK = 256  # beats at most; bounds memory to about 25 MB for each thread
THREADS = 2  # numpy lets another one run while it computes; more would wait for each other


class _Waves(NamedTuple):
    """Ends of the waves of B beats in samples, with fractions; NaN where there is no such wave."""

    p_onset: np.ndarray
    p_offset: np.ndarray
    qrs_onset: np.ndarray
    qrs_offset: np.ndarray
    t_offset: np.ndarray


def measure(
    ecg: np.ndarray,
    sampling_rate: float = SAMPLING_RATE,
    qrs_sample: int = QRS_SAMPLE,
    heart_rate: np.ndarray | float | None = None,
    unit: str = MV,
) -> pd.DataFrame:
    """Measures the clinical features of median beats.

    Args:
        ecg: (N, 12, T) in `unit`, leads in the order of `LEADS`; read in chunks, may be a memory
            map.
        sampling_rate: Hz.
        qrs_sample: fiducial: the QRS complex lies within 80 ms of it, and times count from it.
        heart_rate: (N,) or one number, beats per minute, for `qtc`; NaN where unknown.
        unit: of the ECGs and of the amplitudes that `FEATURES` has in mV; see `data.units`.

    Returns:
        N rows: the columns of `FEATURES` (float64, NaN where the wave they need is not found), and
        `failed` (bool): QRS or T not found. A missing P wave alone is no failure: atrial
        fibrillation has none.

    Raises:
        ValueError: the shape is another, a value is not finite, or the heart rate does not fit.
    """
    if ecg.ndim != 3 or ecg.shape[1] != len(LEADS):
        hint = " Drop the last axis: ecg[..., 0]." if ecg.ndim == 4 else ""
        raise ValueError(f"Expected ecg of shape (N, 12, T). Received: {tuple(ecg.shape)}.{hint}")
    if not 0 <= qrs_sample < ecg.shape[2]:
        raise ValueError(f"Expected qrs_sample in 0..{ecg.shape[2] - 1}. Received: {qrs_sample}.")
    rate = np.nan if heart_rate is None else np.asarray(heart_rate, dtype=np.float64)
    if np.ndim(rate) > 1 or np.size(rate) not in (1, len(ecg)) or np.any(rate <= 0):
        raise ValueError(
            f"Expected a positive heart_rate, one or one for each of {len(ecg)} beats. "
            f"Received: shape {np.shape(rate)}, lowest {np.min(rate)}."
        )

    step = max(min(CHUNK, -(-len(ecg) // THREADS)), 1)

    def of_chunk(start: int) -> pd.DataFrame:
        beats = ecg[start : start + step]
        return _measure_chunk(beats, sampling_rate / 1000, qrs_sample, UNITS[unit].mv)

    with ThreadPoolExecutor(THREADS) as threads:
        tables = threads.map(of_chunk, range(0, max(len(ecg), 1), step))
        table = pd.concat(tables, ignore_index=True).astype(np.float64)
    table["qtc"] = table["qt_interval"] * np.cbrt(rate / 60)
    failed = table[["qrs_duration", "qt_interval"]].isna().any(axis=1)
    return table[list(FEATURES)].assign(failed=failed)


def short_way(degrees: np.ndarray) -> np.ndarray:
    """Differences of angles as those between -180 and 180 degrees that are the same turn."""
    return (degrees + 180) % 360 - 180


def _measure_chunk(ecg: np.ndarray, ms: float, qrs_sample: int, mv: float) -> pd.DataFrame:
    """Features of (B, 12, T) beats, all but `qtc`; `ms` is the number of samples in 1 ms.

    A wave is told from noise by limits in mV, for which `mv` stands for one unit of the beats.
    """
    ecg = np.asarray(ecg, dtype=np.float32) * np.float32(mv)
    if not np.isfinite(ecg).all():
        raise ValueError("Expected finite ECGs. Received: NaN or infinite values.")
    qrs = find_qrs(independent_leads(ecg), ms, qrs_sample)
    baseline = _mean(ecg, qrs[0] - BASELINE[0] * ms, qrs[0] - BASELINE[1] * ms)
    ecg = ecg - np.nan_to_num(baseline)[:, :, None]
    smooth = smoothed(ecg, T_SMOOTHING * ms)
    p = find_p(independent_leads(ecg), qrs[0], ms)
    waves = _Waves(*p, *qrs, find_t_end(independent_leads(smooth), qrs[1], ms))
    times = {name: (end - qrs_sample) / ms for name, end in waves._asdict().items()}
    intervals = {
        "p_duration": times["p_offset"] - times["p_onset"],
        "pr_interval": times["qrs_onset"] - times["p_onset"],
        "qrs_duration": times["qrs_offset"] - times["qrs_onset"],
        "qt_interval": times["t_offset"] - times["qrs_onset"],
    }
    # P is so small that slow drift would turn it: its baseline is midway between its two ends.
    before_p = _mean(ecg, p[0] - BASELINE[0] * ms, p[0] - BASELINE[1] * ms)[:, :, None]
    directions = _directions(ecg, before_p / 2, waves)
    amplitudes = _amplitudes(ecg, smooth, before_p / 2, waves, ms)
    amplitudes = {name: values / mv for name, values in amplitudes.items()}
    return pd.DataFrame({**times, **intervals, **directions, **amplitudes})


def _directions(ecg: np.ndarray, p_base: np.ndarray, waves: _Waves) -> dict[str, np.ndarray]:
    """Frontal axes and spatial QRS-T angle (degrees) from mean vectors; ecg (B, 12, T)."""
    mean = {
        "p": _mean(ecg - p_base, waves.p_onset, waves.p_offset),
        "qrs": _mean(ecg, waves.qrs_onset, waves.qrs_offset),
        "t": _mean(ecg, waves.qrs_offset, waves.t_offset),
    }
    lead_i, lead_avf = LEADS.index("I"), LEADS.index("aVF")
    # Goldberger's aVF is sqrt(3) / 2 as long as a lead of Einthoven's triangle would be.
    axes = {
        f"{wave}_axis": np.degrees(np.arctan2(2 / np.sqrt(3) * v[:, lead_avf], v[:, lead_i]))
        for wave, v in mean.items()
    }
    qrs, t = (independent_leads(mean[wave][:, :, None])[:, :, 0] @ KORS.T for wave in ("qrs", "t"))
    sine = np.linalg.norm(np.cross(qrs, t), axis=1)
    return axes | {"qrs_t_angle": np.degrees(np.arctan2(sine, (qrs * t).sum(axis=1)))}


def _amplitudes(
    ecg: np.ndarray, smooth: np.ndarray, p_base: np.ndarray, waves: _Waves, ms: float
) -> dict[str, np.ndarray]:
    """Amplitudes in mV of (B, 12, T) beats; P and T are read off the smoothed ones."""
    p_high, p_low = _extremes(smooth - p_base, waves.p_onset, waves.p_offset)
    high, low = _extremes(ecg, waves.qrs_onset, waves.qrs_offset)
    t_onset = np.maximum(waves.qrs_offset + T_FROM * ms, waves.t_offset - T_DURATION * ms)
    t_high, t_low = _extremes(smooth, t_onset, waves.t_offset)
    by_wave = {
        "p": np.where(p_high > -p_low, p_high, p_low),
        "r": high,
        "s": -low,
        "j": _value_at(ecg, waves.qrs_offset),
        "t": np.where(t_high > -t_low, t_high, t_low),
    }
    named = {
        f"{wave}_{lead.lower()}": values[:, i]
        for wave, values in by_wave.items()
        for i, lead in enumerate(LEADS)
    }
    named["sokolow_lyon"] = named["s_v1"] + named["r_v5"]
    named["cornell"] = named["r_avl"] + named["s_v3"]
    return named


def _mean(ecg: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(B, L): mean of (B, L, T) between two times; NaN if there are none."""
    window = within(start, end, ecg.shape[2]).astype(ecg.dtype)
    count = window.sum(axis=1, keepdims=True)
    return (ecg @ window[:, :, None])[:, :, 0] / np.where(count > 0, count, np.nan)


def _extremes(ecg: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, L) each: highest and lowest value between two times, baseline 0 included; else NaN."""
    window = within(start, end, ecg.shape[2])[:, None]
    missing = np.where(window.any(axis=2), 0, np.nan)
    there = np.flatnonzero(window.any(axis=(0, 1)))
    some = slice(there[0], there[-1] + 1) if len(there) else slice(1)  # a third of the samples
    inside = np.where(window[:, :, some], ecg[:, :, some], 0)
    return inside.max(axis=2, initial=0) + missing, inside.min(axis=2, initial=0) + missing


def _value_at(ecg: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(B, L): value of (B, L, T) at (B,) samples, between samples by straight lines; NaN at NaN."""
    before = np.nan_to_num(np.floor(time)).astype(int)
    after = np.minimum(before + 1, ecg.shape[2] - 1)
    rows, share = np.arange(len(ecg)), (time - before)[:, None]
    return (1 - share) * ecg[rows, :, before] + share * ecg[rows, :, after]
