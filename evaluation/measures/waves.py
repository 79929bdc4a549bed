"""Where the waves of median beats begin and end, as people mark them.

The reference are the marks of cardiologists in LUDB (Kalyakulina et al., IEEE Access
2020;8:186181-186190), each lead by itself, and of these the median over the 8 independent leads:
`benchmarks/delineation.py` and docs/delineation.md. The CSE Working Party (Eur Heart J
1985;6:815-825) asks for the first onset and the last end in any lead instead; by that reference a
wave is longer, by as much as leads and noise differ.

    * QRS moves far faster than what is around it. It is sought in the spatial velocity, the length
      of the derivative of the 8 leads, outwards from the largest, to where that has come down to
      a small share of the top, beside the noise nearby, and stays there. The spike of a pacemaker
      is no part of it.
    * P and T are slow and small. Each lead that shows the wave has its own ends, the outermost
      points where the smoothed lead is as steep as a share of its steepest; the wave has the median
      of them. Neither the level of the noise nor the size of the wave comes into that, so that a
      real median beat and a generated one, which has no noise, are measured alike.

What cannot be found is NaN.

Dims: B beats, T samples.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Smoothing before differentiating, SD of a Gaussian in ms: below the width of the wave, and enough
# to take the noise of a median beat (5 to 15 uV) well below its velocity.
QRS_SMOOTHING, P_SMOOTHING = 3.0, 12.0
T_SMOOTHING = 8.0
T_SLOPE = 48.0  # ms over which the slope of T is taken, which smoothes it somewhat more than P
T_FINE = 8.0  # the same where QRS and T are told apart

# Shares of the largest velocity of QRS. Above BUSY is inside the wave, which bridges its turning
# points (the top of an R' in bundle branch block). From there outwards the wave is over where the
# velocity stays below REST of the top and what noise adds to that.
QRS_BUSY, QRS_REST = 0.12, (0.025, 0.035)  # REST before and after
NOISE = 1.5  # of the quietest level, is as fast as mere noise gets
REST_RUN = 10.0  # ms of rest that end a wave
QUIET_RUN = 16.0  # ms over which the quiet level is averaged
QRS_REACH = (60.0, 110.0)  # ms around the largest velocity in which QRS is busy: not P, not T
REST_REACH = 80.0  # ms beyond the busy part within which the rest must come
SPIKE = 24.0  # ms from the onset in which the spike of a pacemaker has come and gone
SPIKE_BACK, SPIKE_HEIGHT = 0.3, 0.1  # what is left then, of the spike; and the spike, of QRS

# Shares of the steepest slope of a lead at which P begins and ends, and T ends. People end P where
# it meets the PR segment, though the atria repolarise beneath it, and a Gaussian T wave 2.25 SD
# after its peak, where the tangent of Lepeschkin and Surawicz (Circulation 1952;6:378-388) ends it
# after 2.
P_ONSET, P_END, T_END = 0.35, 0.42, 0.39
P_SMEAR = 7.0  # ms by which smoothing carries the end of P into the PR segment
LEAD = 0.2  # of the slope of the steepest lead; a lead with less does not show the wave
P_BUSY = 0.35  # share of the largest velocity that is inside P for certain
P_EARLIEST, P_LATEST = 260.0, 20.0  # ms before the QRS onset between which P is busy
PAUSE = 30.0  # ms without a busy one part P from the wave before; its ends lie as near to the busy
P_DURATIONS = (60.0, 160.0)  # ms; outside, it is part of a P wave cut off, or P and the T before it
P_VELOCITY = 1.6  # uV/ms, spatial; in sinus rhythm 99 in 100 have 2.1, in fibrillation half 1.5
P_UNREST = 0.25  # quiet level over top, mean of both sides; in sinus rhythm 0.08, fibrillation 0.23
T_FROM, T_PEAK_UNTIL = 60.0, 350.0  # ms after QRS; a peak later than that is the next P wave
T_DURATION = 200.0  # ms before its end at most, so that a high ST segment is not taken for T
T_HEIGHT = 50.0  # uV along its largest direction; flatter is no T wave to find an end of
T_HIGH, T_BIPHASIC = 0.7, 100.0  # a second phase is as high, of the first, and within so many ms
T_RETURN = (30.0, 100.0)  # ms around the last time so high in which each lead returns
NEXT_QRS = (0.7, 60.0)  # as fast, of the QRS, is the next one; it begins so many ms before
BASELINE = (24.0, 6.0)  # ms before the onset of a wave, where its baseline is averaged


def find_qrs(leads: np.ndarray, ms: float, qrs_sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Onset and offset of the QRS complex, (B,) samples each; leads (B, 8, T)."""
    n_samples = leads.shape[2]
    velocity = _velocity(_slopes(leads, QRS_SMOOTHING * ms))
    near = np.abs(np.arange(n_samples) - qrs_sample) <= 80 * ms
    peak = np.where(near, velocity, 0).argmax(axis=1)
    window = within(peak - QRS_REACH[0] * ms, peak + QRS_REACH[1] * ms, n_samples)
    top, first, last = _busy(velocity, window, QRS_BUSY)
    before = within(first - REST_REACH * ms, first, n_samples)
    after = within(last, last + REST_REACH * ms, n_samples)
    run = round(REST_RUN * ms)
    # Noise adds to velocity by squares: it moves neither end.
    levels = [
        np.hypot(rest * top, NOISE * _quiet(velocity, side, ms))
        for rest, side in zip(QRS_REST, (before, after), strict=True)
    ]
    onset = n_samples - 1 - _first_rest(velocity[:, ::-1], before[:, ::-1], levels[0], run)
    offset = _first_rest(velocity, after, levels[1], run)
    onset, offset = _where(top > 0, onset, offset)
    return _after_spike(leads, onset, offset, ms), offset


def find_p(leads: np.ndarray, qrs_onset: np.ndarray, ms: float) -> tuple[np.ndarray, np.ndarray]:
    """Onset and offset of the P wave, (B,) samples each; leads (B, 8, T), baseline 0."""
    looked_at = np.nanmax(qrs_onset, initial=1) + 3 * P_SMOOTHING * ms
    leads = leads[:, :, : int(looked_at)]
    n_samples = leads.shape[2]
    # What begins with the QRS is cut off, or smoothing would spread it into the PR segment.
    before_qrs = np.arange(n_samples) < (qrs_onset - BASELINE[1] * ms)[:, None]
    slopes = _slopes(leads * before_qrs[:, None], P_SMOOTHING * ms)
    velocity = _velocity(slopes)
    window = within(qrs_onset - P_EARLIEST * ms, qrs_onset - P_LATEST * ms, n_samples)
    # P is the last wave in the window; before a pause there may be the T wave of the beat before.
    backwards = np.where(window, velocity, 0)[:, ::-1]
    highest = np.maximum.accumulate(backwards, axis=1)
    pause = _runs(backwards < P_BUSY * highest, round(PAUSE * ms))
    pause &= highest * ms > P_VELOCITY / 1000
    window &= ~np.logical_or.accumulate(pause, axis=1)[:, ::-1]
    top, first, last = _busy(velocity, window, P_BUSY)

    latest = qrs_onset - 10 * ms
    wave = within(first - PAUSE * ms, np.minimum(last + PAUSE * ms, latest), n_samples)
    onset, offset = _ends_in_leads(slopes, wave, P_ONSET, P_END)
    offset = offset - P_SMEAR * ms
    before = within(first - REST_REACH * ms, first, n_samples)
    after = within(last, np.minimum(last + REST_REACH * ms, latest), n_samples)
    unrest = (_quiet(velocity, before, ms) + _quiet(velocity, after, ms)) / 2
    found = (top * ms > P_VELOCITY / 1000) & (unrest < P_UNREST * top)
    shortest, longest = (limit * ms for limit in P_DURATIONS)
    found &= (offset - onset >= shortest) & (offset - onset <= longest)
    return _where(found, onset, offset)


def find_t_end(leads: np.ndarray, qrs_offset: np.ndarray, ms: float) -> np.ndarray:
    """End of the T wave, (B,) samples; leads (B, 8, T), smoothed by `T_SMOOTHING`, baseline 0."""
    n_samples = leads.shape[2]
    rows, time = np.arange(len(leads)), np.arange(n_samples)
    reach = round(T_SLOPE / 2 * ms)
    slopes = _differences(leads, reach)
    fast = _velocity(_differences(leads, max(round(T_FINE / 2 * ms), 1)))
    this_beat = time < _next_qrs(fast, qrs_offset, ms)[:, None]
    window = within(qrs_offset + T_FROM * ms, qrs_offset + T_PEAK_UNTIL * ms, n_samples) & this_beat
    wave = leads * window[:, None]
    direction = np.linalg.eigh(wave @ wave.transpose(0, 2, 1)).eigenvectors[:, :, -1:]  # (B, 8, 1)
    size = np.abs((leads.transpose(0, 2, 1) @ direction)[:, :, 0])  # (B, T) mV
    peak = np.where(window, size, 0).argmax(axis=1)
    height = size[rows, peak]

    # The return is sought around the last time at that height: past the peak, or past the second
    # phase of a biphasic wave, and short of a U wave.
    high = window & (size >= T_HIGH * height[:, None])
    high &= time <= (peak + T_BIPHASIC * ms)[:, None]
    last = n_samples - 1 - high[:, ::-1].argmax(axis=1)
    falling = within(last - T_RETURN[0] * ms, last + T_RETURN[1] * ms, n_samples) & this_beat
    _, end = _ends_in_leads(slopes, falling, 1.0, T_END)
    seen = high.any(axis=1) & (end > last) & (end < n_samples - 1 - reach)
    return _where((height > T_HEIGHT / 1000) & seen, end)[0]


def _busy(
    velocity: np.ndarray, window: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Top of the (B, T) velocity in the window, first and last sample at that share of it."""
    top = np.where(window, velocity, 0).max(axis=1)
    busy = window & (velocity >= share * top[:, None])
    return top, busy.argmax(axis=1), velocity.shape[1] - 1 - busy[:, ::-1].argmax(axis=1)


def _quiet(velocity: np.ndarray, window: np.ndarray, ms: float) -> np.ndarray:
    """(B,): the lowest mean velocity over `QUIET_RUN` in a window of (B, T)."""
    mean = ndimage.uniform_filter1d(velocity, max(round(QUIET_RUN * ms), 1), axis=1)
    return np.where(window, mean, np.inf).min(axis=1)


def _after_spike(leads: np.ndarray, onset: np.ndarray, offset: np.ndarray, ms: float) -> np.ndarray:
    """(B,): where the spike of a pacemaker has gone, if the QRS seems to begin with one.

    Unlike a q wave, a spike leaves all leads where they were: from the end of the one to the begin
    of the other the heart vector turns, but does not come back to its origin.
    """
    n_samples = leads.shape[2]
    start = np.nan_to_num(onset).astype(int)
    at = np.minimum(start[:, None] + np.arange(round(SPIKE * ms) + 1), n_samples - 1)
    away = leads - leads[np.arange(len(leads)), :, start][:, :, None]
    moved = np.sqrt(np.einsum("blt,blt->bt", away, away))  # (B, T) mV
    qrs = np.where(within(onset, offset, n_samples), moved, 0).max(axis=1, keepdims=True)
    begin = np.take_along_axis(moved, at, axis=1)
    highest = np.maximum.accumulate(begin, axis=1)
    gone = (begin < SPIKE_BACK * highest) & (highest > SPIKE_HEIGHT * qrs)
    return onset + gone.argmax(axis=1)  # 0 if it never is


def _next_qrs(velocity: np.ndarray, qrs_offset: np.ndarray, ms: float) -> np.ndarray:
    """(B,): sample before which the next QRS has not begun; T if it is not seen."""
    n_samples = velocity.shape[1]
    share, lead = NEXT_QRS
    end = (qrs_offset + T_FROM * ms)[:, None]
    later = np.arange(n_samples) > end
    top = np.where(later, 0, velocity).max(axis=1, keepdims=True)
    fast = later & (velocity > share * top)
    return np.where(fast.any(axis=1), fast.argmax(axis=1) - lead * ms, n_samples)


def _ends_in_leads(
    slopes: np.ndarray, window: np.ndarray, onset_share: float, end_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """First and last time in a window at which leads are steep, the median over the leads.

    Args:
        slopes: (B, 8, T) mV per sample.
        window: (B, T).
        onset_share: of the steepest slope of each lead in the window, at which it begins.
        end_share: at which it ends.

    Returns:
        (B,) each, samples; NaN where no lead moves.
    """
    steep = np.where(window[:, None], np.abs(slopes), 0)
    top = steep.max(axis=2)  # (B, 8)
    counts = (top >= LEAD * top.max(axis=1, keepdims=True)) & (top > 0)
    onset = steep.shape[2] - 1 - _last_above(steep[:, :, ::-1], onset_share * top)
    return _median(onset, counts), _median(_last_above(steep, end_share * top), counts)


def _last_above(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(B, 8): when (B, 8, T) values fall below (B, 8) levels for the last time, by straight lines.

    Where they are cut off above the level, as at the end of a window, it is the last sample there.
    """
    n_samples = values.shape[2]
    last = n_samples - 1 - (values >= level[:, :, None])[:, :, ::-1].argmax(axis=2)
    above, below = (
        np.take_along_axis(values, np.minimum(last + step, n_samples - 1)[:, :, None], 2)[:, :, 0]
        for step in (0, 1)
    )
    falls = (below > 0) & (below < level)
    return last + np.where(falls, (above - level) / np.where(falls, above - below, 1), 0)


def _median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(B,): median of those of (B, 8) values that count; NaN if none does."""
    ordered = np.sort(np.where(counts, values, np.inf), axis=1)
    number, rows = counts.sum(axis=1), np.arange(len(values))
    middle = (ordered[rows, np.maximum(number - 1, 0) // 2] + ordered[rows, number // 2 % 8]) / 2
    return np.where(number > 0, middle, np.nan)


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


def smoothed(signal: np.ndarray, sd: float, order: int = 0) -> np.ndarray:
    """Gaussian filter (or its derivative, per sample) along the last axis."""
    return ndimage.gaussian_filter1d(signal, sd, axis=-1, order=order, truncate=3)


def _slopes(leads: np.ndarray, sd: float) -> np.ndarray:
    """Derivative of (B, 8, T) leads, mV per sample."""
    return smoothed(leads, sd, order=1)


def _differences(leads: np.ndarray, reach: int) -> np.ndarray:
    """The same over `reach` samples on either side; 0 where that is beyond the window."""
    slopes = np.zeros_like(leads)
    slopes[:, :, reach:-reach] = leads[:, :, 2 * reach :] - leads[:, :, : -2 * reach]
    slopes /= 2 * reach
    return slopes


def _velocity(slopes: np.ndarray) -> np.ndarray:
    """(B, T): length of the derivative of the 8 leads."""
    return np.sqrt(np.einsum("blt,blt->bt", slopes, slopes))


def within(start: np.ndarray, end: np.ndarray, n_samples: int) -> np.ndarray:
    """(B, T) bool: start <= t <= end; nowhere if either is NaN."""
    time = np.arange(n_samples)
    return (time >= start[:, None]) & (time <= end[:, None])


def _where(found: np.ndarray, *ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """All ends of a wave (B,), NaN unless all were found."""
    found = found & np.isfinite(ends).all(axis=0)
    return tuple(np.where(found, end, np.nan) for end in ends)
