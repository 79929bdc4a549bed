"""Clinical features of median beats: intervals, axes and amplitudes, for a whole cohort at once.

Onsets and offsets are global, one per beat from all leads together, as the CSE Working Party asks
for (Eur Heart J 1985;6:815-825): a wave begins where the first lead leaves the baseline and ends
where the last one comes to rest. What moves in any lead shows in the spatial velocity, the length
of the derivative of the 8 independent leads:

    * QRS is sought outwards from the largest velocity, to where the velocity has come down to the
      quietest level nearby plus a small share of the peak, and stays there.
    * P is sought likewise before the QRS, on a smoother velocity.
    * T ends where the tangent at its steepest return meets the baseline (Lepeschkin and Surawicz,
      Circulation 1952;6:378-388), taken on the direction in which the T wave is largest.

The baseline is the end of the PR segment. What cannot be found is NaN.

Dims: B beats of a chunk, N beats, L leads, T samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from data.cohort import LEADS, QRS_SAMPLE, SAMPLING_RATE, independent_leads

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
    "p_onset": Feature("ms", "begin of the P wave in any lead, from the QRS fiducial"),
    "p_offset": Feature("ms", "end of the P wave in all leads, from the QRS fiducial"),
    "qrs_onset": Feature("ms", "begin of the QRS complex in any lead, from the QRS fiducial"),
    "qrs_offset": Feature("ms", "end of the QRS complex in all leads, from the QRS fiducial"),
    "t_offset": Feature("ms", "end of the T wave by the tangent method, from the QRS fiducial"),
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

CHUNK = 512  # beats; bounds memory to about 50 MB

# Smoothing before differentiating, SD of a Gaussian in ms: below the width of the wave, and enough
# to take the noise of a median beat (5 to 15 uV) well below its velocity.
QRS_SMOOTHING, P_SMOOTHING, T_SMOOTHING = 3.0, 8.0, 8.0

# Shares of the largest velocity of a wave. Above BUSY is inside the wave, which bridges its turning
# points (the top of an R' in bundle branch block). From there outwards the wave is over where the
# velocity stays below REST of the way from the quietest level nearby to the top. With these shares
# normal PTB-XL beats have a QRS of 91 (men) and 85 ms (women) and a P wave of 112 and 103 ms, where
# large cohorts have 92 and 85, 112 and 108.
QRS_BUSY, QRS_REST = 0.12, 0.03
P_BUSY, P_REST = 0.35, 0.3
PAUSE = 40.0  # ms without a busy one; what comes before is another wave
REST_RUN = 10.0  # ms of rest that end a wave
QUIET_RUN = 16.0  # ms over which the quiet level is averaged

QRS_REACH = (60.0, 110.0)  # ms around the largest velocity in which QRS is busy: not P, not T
REST_REACH = 80.0  # ms beyond the busy part within which the rest must come
P_EARLIEST, P_LATEST = 260.0, 20.0  # ms before the QRS onset between which P is busy
P_DURATIONS = (60.0, 180.0)  # ms; outside, it is part of a P wave cut off, or P and the T before it
P_VELOCITY = 1.5  # uV/ms, spatial; at least 2.5 in 207 normal ECGs, 1.2 to 1.7 without P waves
P_UNREST = 0.4  # quiet level over top; in normal ECGs at most half of that
T_FROM, T_PEAK_UNTIL = 60.0, 350.0  # ms after QRS; a peak later than that is the next P wave
T_DURATION = 200.0  # ms before its end at most, so that a high ST segment is not taken for T
T_HEIGHT = 50.0  # uV along its largest direction; flatter is no T wave to find an end of
T_BIPHASIC = 150.0  # ms after its largest deflection in which a second phase is sought
BASELINE = (24.0, 6.0)  # ms before the onset of a wave, where its baseline is averaged


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
) -> pd.DataFrame:
    """Measures the clinical features of median beats.

    Args:
        ecg: (N, 12, T) mV, leads in the order of `LEADS`; read in chunks, may be a memory map.
        sampling_rate: Hz.
        qrs_sample: fiducial: the QRS complex lies within 80 ms of it, and times count from it.
        heart_rate: (N,) or one number, beats per minute, for `qtc`; NaN where unknown.

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
    tables = [
        _measure_chunk(ecg[start : start + CHUNK], sampling_rate / 1000, qrs_sample)
        for start in range(0, max(len(ecg), 1), CHUNK)
    ]
    table = pd.concat(tables, ignore_index=True).astype(np.float64)
    table["qtc"] = table["qt_interval"] * np.cbrt(rate / 60)
    failed = table[["qrs_duration", "qt_interval"]].isna().any(axis=1)
    return table[list(FEATURES)].assign(failed=failed)


def short_way(degrees: np.ndarray) -> np.ndarray:
    """Differences of angles as those between -180 and 180 degrees that are the same turn."""
    return (degrees + 180) % 360 - 180


def _measure_chunk(ecg: np.ndarray, ms: float, qrs_sample: int) -> pd.DataFrame:
    """Features of (B, 12, T) beats, all but `qtc`; `ms` is the number of samples in 1 ms."""
    ecg = np.asarray(ecg, dtype=np.float32)
    if not np.isfinite(ecg).all():
        raise ValueError("Expected finite ECGs. Received: NaN or infinite values.")
    qrs = _find_qrs(independent_leads(ecg), ms, qrs_sample)
    baseline = _mean(ecg, qrs[0] - BASELINE[0] * ms, qrs[0] - BASELINE[1] * ms)
    ecg = ecg - np.nan_to_num(baseline)[:, :, None]
    smooth = _smooth(ecg, T_SMOOTHING * ms)
    p = _find_p(independent_leads(ecg), qrs[0], ms)
    waves = _Waves(*p, *qrs, _find_t_end(independent_leads(smooth), qrs[1], ms))
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


def _find_qrs(leads: np.ndarray, ms: float, qrs_sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Onset and offset of the QRS complex, (B,) samples each; leads (B, 8, T)."""
    n_samples = leads.shape[2]
    velocity = _velocity(leads, QRS_SMOOTHING * ms)
    near = np.abs(np.arange(n_samples) - qrs_sample) <= 80 * ms
    peak = np.where(near, velocity, 0).argmax(axis=1)
    window = _within(peak - QRS_REACH[0] * ms, peak + QRS_REACH[1] * ms, n_samples)
    onset, offset, top, _ = _find_ends(velocity, window, (QRS_BUSY, QRS_REST), n_samples, ms)
    return _where(top > 0, onset, offset)


def _find_p(leads: np.ndarray, qrs_onset: np.ndarray, ms: float) -> tuple[np.ndarray, np.ndarray]:
    """Onset and offset of the P wave, (B,) samples each; leads (B, 8, T), baseline 0."""
    n_samples = leads.shape[2]
    # What begins with the QRS is cut off, or smoothing would spread it into the PR segment.
    before_qrs = np.arange(n_samples) < (qrs_onset - BASELINE[1] * ms)[:, None]
    velocity = _velocity(leads * before_qrs[:, None], P_SMOOTHING * ms)
    window = _within(qrs_onset - P_EARLIEST * ms, qrs_onset - P_LATEST * ms, n_samples)
    # P is the last wave in the window; before a pause there may be the T wave of the beat before.
    top = np.where(window, velocity, 0).max(axis=1, keepdims=True)
    backwards = (window & (velocity >= P_BUSY * top))[:, ::-1]
    pause = np.logical_or.accumulate(backwards, axis=1) & _runs(~backwards, round(PAUSE * ms))
    window &= ~np.logical_or.accumulate(pause, axis=1)[:, ::-1]
    latest = qrs_onset - 10 * ms
    onset, offset, top, quiet = _find_ends(velocity, window, (P_BUSY, P_REST), latest, ms)
    shortest, longest = (limit * ms for limit in P_DURATIONS)
    found = (top * ms > P_VELOCITY / 1000) & (quiet < P_UNREST * top)
    found &= (offset - onset >= shortest) & (offset - onset <= longest)
    return _where(found, onset, offset)


def _find_t_end(leads: np.ndarray, qrs_offset: np.ndarray, ms: float) -> np.ndarray:
    """End of the T wave, (B,) samples; leads (B, 8, T), smoothed, baseline 0."""
    n_samples = leads.shape[2]
    rows, time = np.arange(len(leads)), np.arange(n_samples)
    window = _within(qrs_offset + T_FROM * ms, qrs_offset + T_PEAK_UNTIL * ms, n_samples)
    wave = leads * window[:, None]
    direction = np.linalg.eigh(wave @ wave.transpose(0, 2, 1)).eigenvectors[:, :, -1:]  # (B, 8, 1)
    along = (leads.transpose(0, 2, 1) @ direction)[:, :, 0]  # (B, T) mV
    size = np.abs(along)
    peak = np.where(window, size, 0).argmax(axis=1)
    height = size[rows, peak]

    # The descent is sought around the last time at half height: past the peak, or past the second
    # phase of a biphasic wave, and short of a U wave.
    high = window & (size >= 0.5 * height[:, None]) & (time <= peak[:, None] + T_BIPHASIC * ms)
    last = n_samples - 1 - high[:, ::-1].argmax(axis=1)
    upright = along * np.sign(along[rows, last])[:, None]
    slope = np.gradient(upright, axis=1)
    descent = np.abs(time - last[:, None]) <= 50 * ms
    steepest = np.where(descent, slope, np.inf).argmin(axis=1)
    falling = np.minimum(slope[rows, steepest], -1e-9)
    end = steepest - upright[rows, steepest] / falling
    seen = (end > last) & (end < n_samples - 1)
    return _where((height > T_HEIGHT / 1000) & seen, end)[0]


def _find_ends(
    velocity: np.ndarray,
    window: np.ndarray,
    shares: tuple[float, float],
    latest: np.ndarray | int,
    ms: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the wave within the window begins and ends.

    Args:
        velocity: (B, T).
        window: (B, T), where the wave is busy, if anywhere.
        shares: of the top velocity: busy above the first, at rest below the second.
        latest: (B,) sample by which the wave is over.
        ms: samples in 1 ms.

    Returns:
        (B,) each: onset and offset (samples; NaN if there is no rest), the top velocity, and the
        quiet level (the higher of that before and that after the wave).
    """
    n_samples = velocity.shape[1]
    busy_share, rest_share = shares
    top = np.where(window, velocity, 0).max(axis=1)
    busy = window & (velocity >= busy_share * top[:, None])
    first, last = busy.argmax(axis=1), n_samples - 1 - busy[:, ::-1].argmax(axis=1)
    before = _within(first - REST_REACH * ms, first, n_samples)
    after = _within(last, np.minimum(last + REST_REACH * ms, latest), n_samples)
    mean = ndimage.uniform_filter1d(velocity, max(round(QUIET_RUN * ms), 1), axis=1)
    quiet_before, quiet_after = (
        np.where(side, mean, np.inf).min(axis=1) for side in (before, after)
    )
    run = round(REST_RUN * ms)
    levels = [rest_share * top + (1 - rest_share) * quiet for quiet in (quiet_before, quiet_after)]
    onset = n_samples - 1 - _first_rest(velocity[:, ::-1], before[:, ::-1], levels[0], run)
    offset = _first_rest(velocity, after, levels[1], run)
    return onset, offset, top, np.maximum(quiet_before, quiet_after)


def _first_rest(
    velocity: np.ndarray, window: np.ndarray, level: np.ndarray, run: int
) -> np.ndarray:
    """(B,): when the (B, T) velocity in the window falls below the level for `run` samples."""
    rows = np.arange(len(velocity))
    resting = window & _runs(velocity < level[:, None], run)
    at = resting.argmax(axis=1)
    fast, slow = velocity[rows, np.maximum(at - 1, 0)], velocity[rows, at]
    crossed = (fast > level) & (at > 0)  # between the two samples, unless it begins at rest
    share = np.where(crossed, (fast - level) / np.where(crossed, fast - slow, 1), 1)
    return np.where(resting.any(axis=1) & (at > 0), at - 1 + share, np.nan)


def _runs(state: np.ndarray, length: int) -> np.ndarray:
    """(B, T) bool: the state holds here and for the `length` - 1 samples that follow."""
    length = max(length, 1)
    return (
        ndimage.minimum_filter1d(state.view(np.uint8), length, axis=1, origin=-(length // 2)) == 1
    )


def _smooth(signal: np.ndarray, sd: float, order: int = 0) -> np.ndarray:
    """Gaussian filter (or its derivative, per sample) along the last axis."""
    return ndimage.gaussian_filter1d(signal, sd, axis=-1, order=order, truncate=3)


def _velocity(leads: np.ndarray, sd: float) -> np.ndarray:
    """(B, T): length of the derivative of (B, 8, T) leads, mV per sample."""
    derivative = _smooth(leads, sd, order=1)
    return np.sqrt(np.einsum("blt,blt->bt", derivative, derivative))


def _within(start: np.ndarray, end: np.ndarray, n_samples: int) -> np.ndarray:
    """(B, T) bool: start <= t <= end; nowhere if either is NaN."""
    time = np.arange(n_samples)
    return (time >= start[:, None]) & (time <= end[:, None])


def _where(found: np.ndarray, *ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """All ends of a wave (B,), NaN unless all were found."""
    found = found & np.isfinite(ends).all(axis=0)
    return tuple(np.where(found, end, np.nan) for end in ends)


def _mean(ecg: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(B, L): mean of (B, L, T) between two times; NaN if there are none."""
    window = _within(start, end, ecg.shape[2]).astype(ecg.dtype)
    count = window.sum(axis=1, keepdims=True)
    return (ecg @ window[:, :, None])[:, :, 0] / np.where(count > 0, count, np.nan)


def _extremes(ecg: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, L) each: highest and lowest value between two times, baseline 0 included; else NaN."""
    window = _within(start, end, ecg.shape[2])[:, None]
    missing = np.where(window.any(axis=2), 0, np.nan)
    inside = np.where(window, ecg, 0)
    return inside.max(axis=2) + missing, inside.min(axis=2) + missing


def _value_at(ecg: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(B, L): value of (B, L, T) at (B,) samples, between samples by straight lines; NaN at NaN."""
    before = np.nan_to_num(np.floor(time)).astype(int)
    after = np.minimum(before + 1, ecg.shape[2] - 1)
    rows, share = np.arange(len(ecg)), (time - before)[:, None]
    return (1 - share) * ecg[rows, :, before] + share * ecg[rows, :, after]
