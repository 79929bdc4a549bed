"""Calibration pulses at the ends of a strip: no part of the ECG, and cut off.

Many electrocardiographs write a rectangle of 1 mV into all leads at once, at the end of the record
(Philips: in an eleventh second) or at its start. As a part of the strip it contradicts the lead
equations, and its edges look like QRS complexes.

Dims: L leads, T samples.
"""

from __future__ import annotations

import numpy as np

from data.strips import Strip

END_SECONDS = 1.5  # in which a pulse is looked for, at either end
LEAST_MV, LEAST_SECONDS = 0.4, 0.04
SPREAD = 0.2  # of its height: it has the same in all leads, as no QRS has
EDGE_SECONDS = 0.02
MARGIN_SECONDS = 0.06  # cut off with it


def without_calibration(strip: Strip) -> Strip:
    """The strip between calibration pulses, or as it is."""
    ecg = np.asarray(strip.ecg)
    first, last = 0, ecg.shape[1]
    end, margin = (
        round(seconds * strip.sampling_rate) for seconds in (END_SECONDS, MARGIN_SECONDS)
    )
    if last < 2 * end or not np.isfinite(ecg).all():
        return strip
    baseline = np.median(ecg, axis=1, keepdims=True)
    before = _pulse(ecg[:, :end] - baseline, strip.sampling_rate)
    after = _pulse(ecg[:, -end:] - baseline, strip.sampling_rate)
    if before is not None:
        first = before[1] + margin
    if after is not None:
        last = last - end + after[0] - margin
    return strip if last - first == ecg.shape[1] else strip._replace(ecg=ecg[:, first:last])


def _pulse(ecg: np.ndarray, rate: float) -> tuple[int, int] | None:
    """First and last sample of a pulse in (L, T) mV."""
    low, high = ecg.min(axis=0), ecg.max(axis=0)
    top = (low > LEAST_MV) & (high - low < SPREAD * high)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], top, [False]]).astype(int)))
    edge = round(EDGE_SECONDS * rate)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start < LEAST_SECONDS * rate:
            continue
        outside = [low[at] for at in (start - edge, stop + edge) if 0 <= at < len(low)]
        if outside and min(outside) < low[start:stop].mean() / 2:
            return int(start), int(stop)
    return None
