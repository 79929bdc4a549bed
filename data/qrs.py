"""QRS complexes in a strip: found by the activity in their band, told from other waves by width.

Dims: N complexes, T samples at 500 Hz, 8 independent leads, which come last.
"""

from __future__ import annotations

import statistics

import numpy as np

from data.cohort import SAMPLING_RATE
from data.strips import ACTIVITY_STEP, BeatError

MIN_BEATS = 2  # each sample of the median is seen in two beats that agree, or there is no beat
TOO_FEW = "too few beats that look alike"
_QRS_THRESHOLD = 0.25  # of the typical largest activity in 1.5 s
_MIN_RR = 0.25  # s: 240 beats per minute
_WIDEST = 50.0  # ms by `_widths`; a wave wider than that is no QRS complex
NARROWEST = 9.0  # the same where spikes of a pacemaker were taken out: a narrower one is its rest
_WAVE_HALF = 6  # samples at 100 Hz on either side of such a wave that are taken out


def find_qrs(activity: np.ndarray, ecg: np.ndarray, narrowest: float = 0) -> np.ndarray:
    """Sample numbers at 500 Hz of the QRS complexes.

    The threshold is relative to the median over stretches of 1.5 s of their largest activity, which
    neither a few ectopic beats nor a burst of noise or a pause can move. What is as high as a QRS
    but far wider, a tall T wave, is taken out, and the QRS complexes are sought anew in the rest.

    Args:
        activity: (T / 5,) QRS activity at 100 Hz.
        ecg: (T, 8) mV.
        narrowest: ms by `_widths`; a narrower wave is taken out as well.
    """
    rate, activity = SAMPLING_RATE / ACTIVITY_STEP, activity.copy()
    while True:
        stretches = np.array_split(activity, max(1, int(len(activity) / (1.5 * rate))))
        typical = statistics.median(stretch.max() for stretch in stretches)
        found = find_peaks(activity, _QRS_THRESHOLD * typical, int(_MIN_RR * rate))
        if len(found) < MIN_BEATS:
            raise BeatError(TOO_FEW)
        width = _widths(ecg, found * ACTIVITY_STEP)
        other = width > _WIDEST
        if other.any():
            other &= width > 1.3 * np.quantile(width, 0.25)
        other |= width < narrowest
        if not other.any():
            return found * ACTIVITY_STEP
        for peak in found[other]:
            activity[_wave(activity, peak)] = 0


def _wave(activity: np.ndarray, peak: int) -> slice:
    """`_WAVE_HALF` on either side of a peak, and on from there as long as the activity falls."""
    start, stop = max(0, peak - _WAVE_HALF), min(len(activity) - 1, peak + _WAVE_HALF)
    while start > 0 and activity[start - 1] < activity[start]:
        start -= 1
    while stop < len(activity) - 1 and activity[stop + 1] < activity[stop]:
        stop += 1
    return slice(start, stop + 1)


def _widths(ecg: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """(N,) ms that the heart vector would need for all of its way at its top speed.

    In 120 records of LUDB a QRS complex marked by hand has 9 to 45 ms, a T wave 54 or more. What is
    cut off by an end of the strip has the median of the others.
    """
    window = peaks[:, None] + np.arange(-40, 40)
    waves = ecg.take(window, axis=0, mode="clip")  # (N, 80, 8)
    speed = norms(waves[:, 4:] - waves[:, :-4]).max(axis=1) / 8
    width = norms(np.ptp(waves, axis=1)) / np.maximum(speed, 1e-9)
    cut_off = (window[:, 0] < 0) | (window[:, -1] >= len(ecg))
    if cut_off.any():
        width[cut_off] = np.median(width)
    return width


def heart_rate(found: np.ndarray) -> float:
    """Beats per minute, of all beats: the mean of six RR intervals in a row, the median over these.

    In bigeminy and trigeminy, where the median RR interval is one of two or three, it is the rate
    at which the heart beats; of one that is too many it knows less than the mean of all.
    """
    interval = np.diff(found)
    some = min(6, len(interval))
    mean = np.convolve(interval, np.full(some, 1 / some), "valid")
    return 60 * SAMPLING_RATE / float(statistics.median(mean))


def find_peaks(values: np.ndarray, height: float, distance: int) -> np.ndarray:
    """Maxima of at least `height`; of two nearer than `distance`, the higher one.

    As `scipy.signal.find_peaks`, whose import takes longer than the beats of 200 records.
    """
    middle = values[1:-1]
    top = (middle > values[:-2]) & (middle >= values[2:]) & (middle >= height)
    kept = []
    for peak in 1 + np.flatnonzero(top)[np.argsort(-middle[top])]:
        if all(abs(peak - higher) >= distance for higher in kept):
            kept.append(peak)
    return np.sort(kept)


def norms(vectors: np.ndarray) -> np.ndarray:
    """As np.linalg.norm over the last axis, in one pass."""
    return np.sqrt(np.einsum("...k,...k->...", vectors, vectors))
