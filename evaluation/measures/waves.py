"""Where the waves of median beats begin and end.

Onsets and offsets are global, one per beat from all leads together, as the CSE Working Party asks
for (Eur Heart J 1985;6:815-825): a wave begins where the first lead leaves the baseline and ends
where the last one comes to rest. What moves in any lead shows in the spatial velocity, the length
of the derivative of the 8 independent leads:

    * QRS is sought outwards from the largest velocity, to where the velocity has come down to the
      quietest level nearby plus a small share of the peak, and stays there.
    * P is sought likewise before the QRS, on a smoother velocity.
    * T ends where the tangent at its steepest return meets the baseline (Lepeschkin and Surawicz,
      Circulation 1952;6:378-388), taken on the direction in which the T wave is largest.

What cannot be found is NaN.

Dims: B beats, T samples.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

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


def find_qrs(leads: np.ndarray, ms: float, qrs_sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Onset and offset of the QRS complex, (B,) samples each; leads (B, 8, T)."""
    n_samples = leads.shape[2]
    velocity = _velocity(leads, QRS_SMOOTHING * ms)
    near = np.abs(np.arange(n_samples) - qrs_sample) <= 80 * ms
    peak = np.where(near, velocity, 0).argmax(axis=1)
    window = within(peak - QRS_REACH[0] * ms, peak + QRS_REACH[1] * ms, n_samples)
    onset, offset, top, _ = _find_ends(velocity, window, (QRS_BUSY, QRS_REST), n_samples, ms)
    return _where(top > 0, onset, offset)


def find_p(leads: np.ndarray, qrs_onset: np.ndarray, ms: float) -> tuple[np.ndarray, np.ndarray]:
    """Onset and offset of the P wave, (B,) samples each; leads (B, 8, T), baseline 0."""
    n_samples = leads.shape[2]
    # What begins with the QRS is cut off, or smoothing would spread it into the PR segment.
    before_qrs = np.arange(n_samples) < (qrs_onset - BASELINE[1] * ms)[:, None]
    velocity = _velocity(leads * before_qrs[:, None], P_SMOOTHING * ms)
    window = within(qrs_onset - P_EARLIEST * ms, qrs_onset - P_LATEST * ms, n_samples)
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


def find_t_end(leads: np.ndarray, qrs_offset: np.ndarray, ms: float) -> np.ndarray:
    """End of the T wave, (B,) samples; leads (B, 8, T), smoothed, baseline 0."""
    n_samples = leads.shape[2]
    rows, time = np.arange(len(leads)), np.arange(n_samples)
    window = within(qrs_offset + T_FROM * ms, qrs_offset + T_PEAK_UNTIL * ms, n_samples)
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
    before = within(first - REST_REACH * ms, first, n_samples)
    after = within(last, np.minimum(last + REST_REACH * ms, latest), n_samples)
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


def smoothed(signal: np.ndarray, sd: float, order: int = 0) -> np.ndarray:
    """Gaussian filter (or its derivative, per sample) along the last axis."""
    return ndimage.gaussian_filter1d(signal, sd, axis=-1, order=order, truncate=3)


def _velocity(leads: np.ndarray, sd: float) -> np.ndarray:
    """(B, T): length of the derivative of (B, 8, T) leads, mV per sample."""
    derivative = smoothed(leads, sd, order=1)
    return np.sqrt(np.einsum("blt,blt->bt", derivative, derivative))


def within(start: np.ndarray, end: np.ndarray, n_samples: int) -> np.ndarray:
    """(B, T) bool: start <= t <= end; nowhere if either is NaN."""
    time = np.arange(n_samples)
    return (time >= start[:, None]) & (time <= end[:, None])


def _where(found: np.ndarray, *ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """All ends of a wave (B,), NaN unless all were found."""
    found = found & np.isfinite(ends).all(axis=0)
    return tuple(np.where(found, end, np.nan) for end in ends)
