"""Rhythm strips: what a usable one is, and its way to 8 clean leads at 500 Hz.

Dims: 8 independent leads, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from data.cohort import INDEPENDENT_LEADS, LEADS, PLAUSIBLE_PEAK_TO_PEAK_MV, SAMPLING_RATE
from data.leads import FRANK, expansion_matrix, lead_name
from data.spikes import without_spikes

MIN_SECONDS = 2.5
FLAT_MV = 0.02  # a lead of less from peak to peak is not connected
CLIPPED_MV = 0.5  # a lead resting nearer to its mean than this is quiet, not saturated
CLIPPED_SECONDS = 0.006  # at least, of the plateau at which a converter ends
ROUNDED = 1.5  # times the fall of a parabola is no rounded top any more
MAX_LIMB_MISFIT = 0.3  # III, aVR, aVL, aVF as given against those from I and II; PTB-XL: <= 0.09

# Hz, at half amplitude, zero phase. AHA/ACC/HRS 2007 (Kligfield et al., doi
# 10.1161/CIRCULATIONAHA.106.180200) allow a high-pass of up to 0.67 Hz without phase distortion,
# and ask for a low-pass of 150 Hz or more. On simulated strips of 45 to 70 beats per minute without
# wander, 0.67 Hz at the slope of a second-order Butterworth filter forward and backward moved the
# ST segment by 9 to 15 uV; 0.5 Hz at the slope of a third-order one by 1 to 3 uV. Of a wander of
# 0.3 mV the latter left 2 to 4 uV, a cubic spline through the PR segments 2 to 26 uV.
HIGH_PASS, LOW_PASS = 0.5, 150.0
HIGH_PASS_SLOPE, LOW_PASS_SLOPE = 6, 8  # the gain falls as this power of the frequency
QRS_BAND = (8.0, 30.0)  # holds most of the QRS, little of P, T and muscle noise
MAINS = (50.0, 60.0)
ACTIVITY_STEP = 5  # samples: the QRS activity has a rate of 100 Hz

_PAD = 500  # samples by which the ends are continued before filtering


class BeatError(ValueError):
    """A record that gives no median beat. The message is the reason, short enough to count."""


SLOWEST = 50.0  # Hz of a strip
MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "nv": 1e-6, "v": 1e3}  # in a unit, as `plain_unit` has it


def plain_unit(unit: str) -> str:
    """A unit in small letters, with u for the micro sign: "µV", of either code point, is "uv"."""
    return unit.casefold().replace("\N{GREEK SMALL LETTER MU}", "u")  # casefold makes one of two


class Strip(NamedTuple):
    """A rhythm strip as a reader returns it.

    Attributes:
        ecg: (leads, T) in mV.
        sampling_rate: Hz.
        leads: name of each row in any order, as `data.leads.lead_name` reads it: all 12 leads, or
            the 8 independent ones. Leads of Frank (vx, vy, vz) may stand beside them.
    """

    ecg: np.ndarray
    sampling_rate: float
    leads: Sequence[str] = LEADS


class Clean(NamedTuple):
    """A strip made ready.

    Attributes:
        ecg: (8, T) float32, mV, 500 Hz, leads in the order of `INDEPENDENT_LEADS`.
        activity: (T / 5,) its QRS activity at 100 Hz: see `_filter`.
        unpaced: the same two without the spikes of a pacemaker; None if it has none.
    """

    ecg: np.ndarray
    activity: np.ndarray
    unpaced: tuple[np.ndarray, np.ndarray] | None


def clean(strip: Strip) -> Clean:
    """Checks a strip, resamples it and filters it.

    Raises:
        BeatError: the strip is unusable; the message is the reason.
    """
    ecg, rows = standard_leads(strip.ecg, strip.leads)
    _check(ecg, strip.sampling_rate, tuple(rows))
    ecg = ecg[[rows[lead] for lead in INDEPENDENT_LEADS]].astype(np.float32, copy=False)
    unpaced = without_spikes(ecg, strip.sampling_rate)
    if unpaced is not None:
        unpaced = _filter(resample(unpaced, strip.sampling_rate))
    return Clean(*_filter(resample(ecg, strip.sampling_rate)), unpaced)


def standard_leads(ecg: np.ndarray, leads: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """The rows of an ECG but for leads of Frank, and lead, as `LEADS` writes it -> row.

    Args:
        ecg: (leads, T).
        leads: as of a `Strip`.

    Raises:
        BeatError: a lead is unknown, there twice or not there, or there are more rows or fewer.
    """
    rows = {}
    for row, name in enumerate(leads):
        if name.strip().upper() in FRANK:
            continue
        lead = lead_name(name)
        if lead is None:
            raise BeatError(f"unknown lead {name!r}")
        if lead in rows:
            raise BeatError(f"lead {lead} is there twice")
        rows[lead] = row
    for lead in INDEPENDENT_LEADS:
        if lead not in rows:
            raise BeatError(f"lead {lead} is not there")
    # A reader may store sample by sample; along a lead in one piece of memory all goes much faster.
    ecg = np.ascontiguousarray(ecg)
    if ecg.ndim != 2 or len(ecg) != len(leads):
        raise BeatError(f"expected {len(leads)} leads x samples, received shape {ecg.shape}")
    if len(rows) < len(ecg):
        ecg, rows = ecg[list(rows.values())], {lead: row for row, lead in enumerate(rows)}
    return ecg, rows


def _check(strip: np.ndarray, sampling_rate: float, leads: tuple[str, ...]) -> None:
    """Refuses what no filter repairs: gaps, lost or clipped leads, too little, another unit."""
    if not SLOWEST <= sampling_rate < np.inf:
        raise BeatError(f"sampling rate of {sampling_rate} Hz")
    if strip.shape[1] < MIN_SECONDS * sampling_rate:
        raise BeatError(f"shorter than {MIN_SECONDS} s")
    low, high = strip.min(axis=1), strip.max(axis=1)  # NaN where any sample is
    gaps = ~(np.isfinite(low) & np.isfinite(high))
    if gaps.any():
        raise BeatError(f"lead {leads[gaps.argmax()]} has missing samples")
    check_swing(high - low, leads)
    still = _stands_still(strip, int(sampling_rate / 2))
    if still.any():
        raise BeatError(f"lead {leads[still.argmax()]} is flat")
    mean = strip.mean(axis=1)
    for extreme in (low, high):
        stops = _stops_at(strip, extreme) & (np.abs(extreme - mean) > CLIPPED_MV)
        for row in np.flatnonzero(stops):
            if _clipped(strip[row], extreme[row], sampling_rate):
                raise BeatError(f"lead {leads[row]} is saturated")
    check_limb_leads(strip, leads)


def check_swing(swing: np.ndarray, leads: tuple[str, ...]) -> None:
    """Refuses lost leads and another unit than mV, by the (leads,) peak-to-peak amplitudes."""
    if swing.max() == 0:
        raise BeatError("all leads are flat")
    if not PLAUSIBLE_PEAK_TO_PEAK_MV[0] <= swing.max() <= PLAUSIBLE_PEAK_TO_PEAK_MV[1]:
        raise BeatError("amplitude is not in mV")
    flat = swing < FLAT_MV
    if flat.any():
        raise BeatError(f"lead {leads[flat.argmax()]} is flat")


def _stands_still(strip: np.ndarray, half_second: int) -> np.ndarray:
    """(leads,) whether one value fills three half seconds in a row, as no connected lead does."""
    blocks = strip.shape[1] // half_second
    block = strip[:, : blocks * half_second].reshape(len(strip), blocks, half_second)
    still = block.max(axis=2) == block.min(axis=2)
    return (still[:, 2:] & still[:, 1:-1] & still[:, :-2]).any(axis=1)


def _stops_at(strip: np.ndarray, extreme: np.ndarray) -> np.ndarray:
    """(leads,) whether a lead rests three times or more at this value, for 3 samples or longer.

    Once is no clipping: some recorders repeat the last value until the end of the record.
    """
    at_extreme = strip == extreme[:, None]
    stops = at_extreme[:, 2:] & at_extreme[:, 1:-1] & at_extreme[:, :-2]
    begins = stops[:, 1:] > stops[:, :-1]
    return begins.sum(axis=1, dtype=np.uint32) + stops[:, 0] >= 3


def _clipped(lead: np.ndarray, extreme: float, sampling_rate: float) -> bool:
    """Whether a lead was cut off at this value three times or more.

    Where a recorder has coarse steps, the rounded top of a wave rests on one value too. It then
    leaves it as a parabola would: the top being within one step for n samples, n samples further
    out on either side it has fallen by ((3n - 1) / (n - 1))^2 steps at most. What was cut off falls
    faster: it was not at its top.
    """
    edges = np.flatnonzero(np.diff(lead == extreme, prepend=False, append=False))
    start, stop = edges[::2], edges[1::2]
    length = stop - start
    long = length >= max(3, round(CLIPPED_SECONDS * sampling_rate))
    start, stop, length = start[long], stop[long], length[long]
    further = np.stack([start - length, stop - 1 + length])
    there = (further >= 0) & (further < len(lead))  # beyond the ends nothing is known
    fall = np.abs(lead.take(further, mode="clip") - extreme)
    fall = np.where(there, fall, np.inf).min(axis=0)
    rounded = _step(lead) * ((3 * length - 1) / (length - 1)) ** 2
    return int((fall > ROUNDED * rounded).sum()) >= 3


def _step(lead: np.ndarray) -> float:
    """The step of the recorder, in the unit of the lead: what lies between two of its values."""
    values = np.unique(lead)
    return float(np.median(np.diff(values))) if len(values) > 1 else 0.0


def check_limb_leads(strip: np.ndarray, leads: tuple[str, ...]) -> None:
    """Refuses rows that are not the leads they are called: derived limb leads must fit I and II."""
    given = [lead for lead in LEADS[2:6] if lead in leads]
    if not given:
        return
    names = ("I", "II", *given)
    limb = strip[[leads.index(lead) for lead in names]].astype(np.float32)
    limb -= limb.mean(axis=1, keepdims=True)
    power = np.einsum("lt,lt->l", limb, limb)
    misfit = limb[2:] - expansion_matrix(names)[2:] @ limb[:2]
    error = np.einsum("lt,lt->l", misfit, misfit)
    odd = error > MAX_LIMB_MISFIT**2 * power.max()
    if odd.any():  # of low leads of a recorder with coarse steps, it may be all rounding
        step = max(_step(lead) for lead in limb)
        odd = error > MAX_LIMB_MISFIT**2 * power.max() + limb.shape[1] * step**2 / 4
    if odd.any():
        raise BeatError(f"lead {given[int(odd.argmax())]} contradicts leads I and II")


def resample(strip: np.ndarray, sampling_rate: float, axis: int = 1) -> np.ndarray:
    """To 500 Hz along an axis: (8, T) -> (8, T')."""
    ratio = Fraction(SAMPLING_RATE / sampling_rate).limit_denominator(1000)
    if ratio == 1:
        return strip
    from scipy import signal  # here: its import takes as long as 200 records, most need none

    # The ends continue on the line through them: zeros would make a step.
    return signal.resample_poly(strip, *ratio.as_integer_ratio(), axis=axis, padtype="line")


def _filter(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zero-phase band-pass and mains notch, and the QRS activity, from one Fourier transform.

    Args:
        strip: (8, T) at 500 Hz, mV.

    Returns:
        The ECG, (8, T), and the QRS activity, (T / 5,) at 100 Hz: the length of the 8-lead vector
        in the band of the QRS, averaged over 80 ms.
    """
    samples = strip.shape[1]
    total = (
        2
        * ACTIVITY_STEP
        * fft.next_fast_len(-(-(samples + 2 * _PAD) // (2 * ACTIVITY_STEP)), real=True)
    )
    # Continued by a point reflection at each end, as filtfilt does.
    before = 2 * strip[:, :1] - strip[:, _PAD:0:-1]
    after = 2 * strip[:, -1:] - strip[:, -2 : -2 - (total - samples - _PAD) : -1]
    spectrum = fft.rfft(np.concatenate([before, strip, after], axis=1))
    gain, qrs_gain = _response(total)
    spectrum *= gain
    for mains in MAINS:
        _notch(spectrum, *_mains(total, mains))
    ecg = fft.irfft(spectrum, total)[:, _PAD : _PAD + samples]

    coarse = slice(total // ACTIVITY_STEP // 2 + 1)  # the frequencies that 100 Hz can hold
    band = fft.irfft(spectrum[:, coarse] * qrs_gain[coarse], total // ACTIVITY_STEP)
    activity = ndimage.uniform_filter1d(np.sqrt((band**2).sum(axis=0)), 8)
    return ecg, activity[_PAD // ACTIVITY_STEP :][: samples // ACTIVITY_STEP]


@lru_cache(maxsize=8)
def _response(total: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain of the filter, and of the QRS band, at the frequencies of a real Fourier transform."""
    frequency = fft.rfftfreq(total, 1 / SAMPLING_RATE)
    return _gain(frequency, HIGH_PASS, LOW_PASS), _gain(frequency, *QRS_BAND)


@lru_cache(maxsize=16)
def _mains(total: int, mains: float) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies around mains; which of them are mains, and which are not; gain without it."""
    frequency = fft.rfftfreq(total, 1 / SAMPLING_RATE)
    near = slice(*np.searchsorted(frequency, [mains - 5, mains + 5]))
    distance = np.abs(frequency[near] - mains)
    notch = 1 - np.exp(-((distance / 0.5) ** 2) / 2)
    return near, distance < 0.5, distance > 1, notch.astype(np.float32)


def _gain(frequency: np.ndarray, low: float, high: float) -> np.ndarray:
    """Amplitude gain of a Butterworth band-pass run forward and backward, 0.5 at its edges."""
    ratio = np.maximum(frequency, 1e-9)
    high_pass = 1 / (1 + (low / ratio) ** HIGH_PASS_SLOPE)
    return (high_pass / (1 + (ratio / high) ** LOW_PASS_SLOPE)).astype(np.float32)


def _notch(
    spectrum: np.ndarray, near: slice, at: np.ndarray, beside: np.ndarray, notch: np.ndarray
) -> None:
    """Takes mains out of the leads where it stands out by 6 dB; the others keep their QRS whole."""
    power = np.abs(spectrum[:, near]) ** 2
    stands_out = power[:, at].mean(axis=1) > 4 * power[:, beside].mean(axis=1)
    if stands_out.any():
        spectrum[stands_out, near] *= notch
