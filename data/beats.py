"""From a rhythm strip to one QRS-aligned median beat of 12 x 400 samples at 500 Hz.

The strip is resampled and freed of baseline wander and mains; QRS complexes are found on all leads
together and aligned to a fraction of a sample; the median over the beats that look alike is taken
in the 8 independent leads, and the other four follow from them exactly. The middle of the QRS
complex (half way between onset and offset) lies on `QRS_SAMPLE`; the PR segment is 0 mV.

A beat faster than 75 per minute does not fill 800 ms: its window shows the neighbouring beats at
its edges, as any window of fixed length does.

QRS complexes are found by peaks of the 8-lead vector in the QRS band, because one Fourier transform
gives that band along with the filtered ECG, and no lead that is low or noisy is trusted alone. In
175 records of PTB-XL this found all 2,095 complexes on which five of eight single-lead runs of
sleepecg agreed, and 2 more; sleepecg takes 0.6 ms per lead, neurokit2 3.3 ms, this below 1 ms.

Dims: N beats, T samples, 8 independent leads. Leads come last here: a window in time is then one
piece of memory, which is cut four times as fast.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.cohort import LEADS, QRS_SAMPLE, SAMPLES, derive_leads
from data.qrs import MIN_BEATS, NARROWEST, TOO_FEW, find_qrs, heart_rate, norms
from data.strips import BeatError, Clean, Strip, clean

__all__ = ["Beat", "BeatError", "Strip", "median_beat"]

MIN_SHARE = 0.125  # of all; where fewer look alike, two of many do so by chance
MIN_QRS_CORRELATION = 0.9  # a QRS less like the template is ectopic, noise, or no QRS
PREMATURE = 0.8  # of the median RR interval: an earlier beat has another P wave and T wave

QRS_REACH = 125  # samples on either side in which onset and offset are sought
QRS_SPEED = 0.05  # of the top speed of the 8-lead vector; slower is before or after the QRS

_DRAWN_AWAY = 6.0  # samples by which spikes may move the middle of the QRS
_QRS_HALF = 30  # samples on either side of a QRS centre that are compared
_MAX_TEMPLATES = 32  # bounds the comparison of all pairs in long strips
_KERNEL = 8  # samples that an interpolated value depends on


class Beat(NamedTuple):
    """A median beat and how good it is.

    Attributes:
        ecg: (12, 400) float32, mV, 500 Hz, leads in the order of `LEADS`.
        beats_used: beats in the median.
        beats_found: QRS complexes in the strip, of any shape; those not used are left out.
        correlation: median over the used beats of their correlation with the median beat.
        noise_uv: standard error of the median beat, root mean square over the leads, uV.
        heart_rate: beats per minute, of all QRS complexes.
    """

    ecg: np.ndarray
    beats_used: int
    beats_found: int
    correlation: float
    noise_uv: float
    heart_rate: float


def median_beat(strip: np.ndarray, sampling_rate: float, leads: Sequence[str] = LEADS) -> Beat:
    """Turns a rhythm strip into its median beat.

    Args:
        strip: (leads, T) in mV, at least 2.5 s.
        sampling_rate: Hz.
        leads: name of each row in any order, as `data.leads.lead_name` reads it: all 12 leads, or
            the 8 independent ones. Leads of Frank (vx, vy, vz) may stand beside them.

    Returns:
        The beat and its quality.

    Raises:
        BeatError: the strip gives no trustworthy beat; the message is the reason.
    """
    cleaned = clean(Strip(strip, sampling_rate, leads))
    ecg = np.ascontiguousarray(cleaned.ecg.T)
    found, centres, width, quiet = _places(cleaned, ecg)
    beats = _windows(ecg, centres, QRS_SAMPLE, SAMPLES - QRS_SAMPLE)
    alike = len(centres) >= MIN_SHARE * len(found)
    if not alike or _seen(beats).sum(axis=0).min() < MIN_BEATS:
        raise BeatError(TOO_FEW)
    if quiet is not ecg:  # the spikes ring in the PR segment, and the filter moved all else
        quiet = _windows(quiet, centres, QRS_SAMPLE, SAMPLES - QRS_SAMPLE)
        beats -= np.nanmedian(beats - quiet, axis=1, keepdims=True)
    else:
        quiet = beats
    beats -= _pr_level(quiet, QRS_SAMPLE - width // 2)
    median = _median(beats)
    correlation, noise_uv = _quality(beats, median)
    return Beat(
        ecg=derive_leads(median.T),
        beats_used=len(centres),
        beats_found=len(found),
        correlation=correlation,
        noise_uv=noise_uv,
        heart_rate=heart_rate(found),
    )


def _places(cleaned: Clean, ecg: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """As `_located`, and the (T, 8) strip whose PR segments are quiet: `ecg`, or without spikes."""
    if cleaned.unpaced is None:
        return *_located(ecg, cleaned.activity), ecg
    unpaced = np.ascontiguousarray(cleaned.unpaced[0].T)
    found, centres, width = _located(unpaced, cleaned.unpaced[1], NARROWEST)
    as_recorded = _unmoved(ecg, cleaned.activity, centres)
    if as_recorded is None:
        return found, centres, width, unpaced
    return found, *as_recorded[1:], ecg


def _located(
    ecg: np.ndarray, activity: np.ndarray, narrowest: float = 0
) -> tuple[np.ndarray, np.ndarray, int]:
    """All QRS complexes, the middles of those of the dominant shape, and the width of that."""
    found = find_qrs(activity, ecg, narrowest)
    centres = _without_premature(_align(ecg, found))
    onset, offset = qrs_bounds(_median(_windows(ecg, centres, QRS_REACH, QRS_REACH)))
    return found, centres + (onset + offset) / 2 - QRS_REACH, offset - onset


def _unmoved(
    ecg: np.ndarray, activity: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """The same in a strip with the spikes of a pacemaker; None if they draw the middle away.

    Most do not: where they are as small as a QRS complex, or close to it.

    Args:
        ecg: (T, 8).
        activity: (T / 5,).
        centres: (N,) without the spikes.
    """
    try:
        located = _located(ecg, activity)
    except BeatError:
        return None
    apart = np.abs(located[1][:, None] - centres).min(axis=0)
    return located if np.median(apart) <= _DRAWN_AWAY else None


def _align(ecg: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Centres, in fractions of a sample, of the QRS complexes that belong to the dominant shape.

    The first template is the complex that most others resemble, so that bigeminy does not blend two
    shapes; the complexes like it are then aligned to their median.
    """
    whole = (found >= 2 * _QRS_HALF) & (found < len(ecg) - 2 * _QRS_HALF)
    centres = found[whole]
    if len(centres) < MIN_BEATS:
        raise BeatError(TOO_FEW)
    some = centres[np.linspace(0, len(centres) - 1, min(len(centres), _MAX_TEMPLATES)).astype(int)]
    lags = np.arange(-_QRS_HALF, _QRS_HALF + 1, 2)
    correlation = _correlate(ecg, centres, _cut(ecg, some, 0)[:, 0], lags, step=4)
    likeness = correlation.max(axis=1)  # (N, templates)
    alike = likeness > MIN_QRS_CORRELATION
    seed = np.argmax(alike.sum(axis=0) + likeness.mean(axis=0))  # the mean breaks ties
    centres = (centres + lags[correlation[:, :, seed].argmax(axis=1)])[alike[:, seed]]

    lags = np.arange(-6, 7)
    template = _median(_cut(ecg, centres, 0)[:, 0])
    correlation = _correlate(ecg, centres, template[None], lags)[:, :, 0]
    centres = (centres + _peak(correlation, lags))[correlation.max(axis=1) > MIN_QRS_CORRELATION]
    if len(centres) < MIN_BEATS:
        raise BeatError(TOO_FEW)
    return centres


def _cut(ecg: np.ndarray, centres: np.ndarray, lags: np.ndarray | int, step: int = 1) -> np.ndarray:
    """QRS windows around whole-numbered centres, each at every lag: (N, lags, window, 8)."""
    window = np.arange(-_QRS_HALF, _QRS_HALF, step)
    samples = centres[:, None, None] + np.atleast_1d(lags)[:, None] + window
    return ecg.take(samples, axis=0, mode="clip")


def _correlate(
    ecg: np.ndarray, centres: np.ndarray, templates: np.ndarray, lags: np.ndarray, step: int = 1
) -> np.ndarray:
    """Cosine of the angle between each lagged window and each template, over all leads.

    Args:
        ecg: (T, 8).
        centres: (N,) sample numbers.
        templates: (K, window, 8).
        lags: (lags,) samples.
        step: compare every `step`-th sample.

    Returns:
        (N, lags, K).
    """
    windows = _cut(ecg, centres, lags, step).reshape(len(centres), len(lags), -1)
    templates = templates[:, ::step].reshape(len(templates), -1)
    length = norms(windows)[:, :, None] * norms(templates)
    # One product per beat: for a large one the linear algebra library starts threads, whose
    # waiting takes more CPU time than all the rest.
    return windows @ templates.T / np.maximum(length, 1e-9)


def _peak(correlation: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """(N,) lag of the largest correlation, by a parabola through it and its two neighbours."""
    top = np.clip(correlation.argmax(axis=1), 1, len(lags) - 2)
    before, at, after = (correlation[np.arange(len(top)), top + step] for step in (-1, 0, 1))
    bend = np.maximum(2 * at - before - after, 1e-9)
    return lags[top] + np.clip((after - before) / (2 * bend), -1, 1)


def _without_premature(centres: np.ndarray) -> np.ndarray:
    """Drops beats that come early, unless that is the rhythm (half of them or more are early)."""
    interval = np.diff(centres)
    in_time = np.concatenate([[True], interval > PREMATURE * statistics.median(interval)])
    enough = in_time.sum() >= max(MIN_BEATS, len(centres) / 2)
    return centres[in_time] if enough else centres


def _windows(ecg: np.ndarray, centres: np.ndarray, before: int, after: int) -> np.ndarray:
    """Cuts windows around fractional centres by windowed-sinc interpolation.

    On a simulated R wave of 12 ms at half height, whole samples blunt the median by 1.0%, this by
    0.4%.

    Returns:
        (N, before + after, 8); NaN where a window reaches beyond the strip.
    """
    whole = np.floor(centres).astype(int)
    distance = np.arange(_KERNEL) - (_KERNEL // 2 - 1) - (centres - whole)[:, None]
    kernel = np.sinc(distance) * np.cos(np.pi * distance / (_KERNEL + 2)) ** 2
    kernel = (kernel / kernel.sum(axis=1, keepdims=True)).astype(ecg.dtype)
    samples = whole[:, None] + np.arange(1 - before - _KERNEL // 2, after + _KERNEL // 2)
    raw = ecg.take(samples, axis=0, mode="clip")
    size = before + after
    windows = kernel[:, :1, None] * raw[:, :size]
    for tap in range(1, _KERNEL):
        windows += kernel[:, tap, None, None] * raw[:, tap : tap + size]
    samples = whole[:, None] + np.arange(-before, after)
    windows[(samples < 0) | (samples >= len(ecg))] = np.nan
    return windows


def _seen(beats: np.ndarray) -> np.ndarray:
    """(N, T) whether a sample of a beat lies within the strip."""
    return np.isfinite(beats[:, :, 0])


def _median(beats: np.ndarray) -> np.ndarray:
    """(N, T, 8) -> (T, 8), over the beats that are seen; as np.nanmedian, 20 times as fast."""
    ordered = np.sort(beats, axis=0)  # NaN comes last
    seen = _seen(beats).sum(axis=0)
    sample = np.arange(beats.shape[1])
    low = ordered[np.maximum(seen - 1, 0) // 2, sample]
    high = ordered[np.minimum(seen // 2, len(beats) - 1), sample]
    return (low + high) / 2


def qrs_bounds(ecg: np.ndarray) -> tuple[int, int]:
    """First and last sample of the QRS complex that lies around the middle of (T, leads).

    From the fastest point outward, the QRS lasts as long as the 8-lead vector moves faster than 5%
    of its top speed, slow passages of up to 16 ms (a slurred or notched complex) included.
    """
    speed = np.zeros(len(ecg))
    speed[2:-2] = norms(ecg[4:] - ecg[:-4])
    speed = ndimage.uniform_filter1d(speed, 3)
    middle = len(speed) // 2
    top = middle - _QRS_HALF + int(np.argmax(speed[middle - _QRS_HALF : middle + _QRS_HALF]))
    rest = np.quantile(speed[2:-2], 0.1)
    fast = speed > rest + QRS_SPEED * (speed[top] - rest)
    return top - _reach(fast[top::-1]), top + _reach(fast[top:])


def _reach(fast: np.ndarray, pause: int = 8, limit: int = 75) -> int:
    """Last True before `pause` or more False in a row, at most `limit`."""
    moments = np.flatnonzero(fast[:limit])
    gaps = np.flatnonzero(np.diff(moments) > pause)
    return int(moments[gaps[0]] if len(gaps) else moments[-1])


def _pr_level(beats: np.ndarray, onset: int) -> np.ndarray:
    """Mean of 16 ms that end 8 ms before the QRS, per beat and lead: (N, 1, 8); 0 if not seen."""
    level = beats[:, onset - 12 : onset - 4].mean(axis=1, keepdims=True)
    return np.nan_to_num(level)


def _quality(beats: np.ndarray, median: np.ndarray) -> tuple[float, float]:
    """How well the beats agree with their median, over all leads, where they are seen.

    Returns:
        The median over beats of the correlation, and the standard error of the median in uV:
        sqrt(pi / 2N) of the spread of the beats around it.
    """
    seen = _seen(beats)
    beats = beats.copy()
    beats[~seen] = 0
    power = np.einsum("ntl,ntl->n", beats, beats)
    power_of_median = seen @ np.einsum("tl,tl->t", median, median)
    shared = np.einsum("ntl,tl->n", beats, median)
    correlation = statistics.median(shared / np.sqrt(power * power_of_median))
    # The median over beats: one that runs into an ectopic beat says nothing of the noise.
    variance = statistics.median((power + power_of_median - 2 * shared) / (8 * seen.sum(axis=1)))
    variance = max(0.0, variance)  # rounding, where the beats are equal
    return float(correlation), float(1000 * np.sqrt(variance * np.pi / (2 * len(beats))))
