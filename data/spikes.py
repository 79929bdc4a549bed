"""Spikes of pacemakers: higher than a QRS complex, and no part of the heart's activity.

Dims: 8 independent leads, T samples.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

MIN_RATE = 200.0  # Hz; with fewer samples a narrow QRS looks like the spike of a pacemaker
REACH = 0.008  # s on either side within which a spike has come and gone
HEIGHT_MV = 0.5  # length of the heart vector; less than that misleads nobody
BACK, REST = 0.3, 0.2  # of that length: what is left after it, and what moves before
SPEED = 0.3  # of the top speed of a spike, which a QRS complex does not reach
MIN_SECONDS_APART, MAX_SECONDS_APART = 0.2, 2.0  # s between two spikes of 30 to 300 per minute


def without_spikes(ecg: np.ndarray, sampling_rate: float) -> np.ndarray | None:
    """A strip with straight lines in place of the spikes of a pacemaker.

    Args:
        ecg: (8, T) mV, not filtered.
        sampling_rate: Hz.

    Returns:
        (8, T) float32; None if no pacemaker fires again and again.
    """
    if sampling_rate < MIN_RATE:
        return None
    reach = max(2, round(REACH * sampling_rate))
    spikes = _spikes(ecg, reach)
    beyond = np.diff(spikes) > MIN_SECONDS_APART * sampling_rate
    if 1 + beyond.sum() < max(2, ecg.shape[1] / sampling_rate / MAX_SECONDS_APART):
        return None  # none, or a disturbance that looks so
    for _ in range(3):  # those that lay too near to another are seen once that is gone
        if len(spikes):
            ecg = _without(ecg, spikes, reach)
            spikes = _spikes(ecg, reach)
    return ecg


def _spikes(ecg: np.ndarray, reach: int) -> np.ndarray:
    """Samples of (8, T) at which a pacemaker fires.

    The heart vector is at rest, goes far and is back where it was `reach` samples later. No QRS
    complex is so narrow, and no part of one begins from rest.
    """
    edge, stop = 2 * reach, ecg.shape[1] - 2 * reach

    def apart(samples: int) -> np.ndarray:
        moved = ecg[:, samples:] - ecg[:, :-samples]
        return np.sqrt(np.einsum("lt,lt->t", moved, moved))

    step = apart(reach)  # from each sample to the one `reach` later
    away = np.minimum(step[edge - reach : stop - reach], step[edge:stop])
    spike = away > HEIGHT_MV
    if spike.any():
        spike &= apart(edge)[edge - reach : stop - reach] < BACK * away
        spike &= step[: stop - edge] < REST * away
    return edge + np.flatnonzero(spike)


def _without(ecg: np.ndarray, spikes: np.ndarray, reach: int) -> np.ndarray:
    """(8, T) with straight lines in place of these spikes, and of what is as fast beside them."""
    at = np.zeros(ecg.shape[1], bool)
    at[spikes] = True
    speed = np.linalg.norm(np.gradient(ecg, axis=1), axis=0)
    there = ndimage.binary_dilation(at, iterations=reach)
    fast = speed > SPEED * np.median(ndimage.maximum_filter1d(speed, 2 * reach + 1)[at])
    there |= fast & ndimage.binary_dilation(at, iterations=3 * reach)  # they may swing
    there = ndimage.binary_closing(there, iterations=reach)
    time, known = np.arange(len(there)), np.flatnonzero(~there)
    return np.stack([np.interp(time, known, lead[known]) for lead in ecg]).astype(np.float32)
