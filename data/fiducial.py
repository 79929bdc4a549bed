"""Where the QRS complexes of a cohort lie: found in its ECGs, and compared with what is said.

An array of numbers does not tell its sampling rate, nor which of its samples is the middle of the
QRS. All that is measured in milliseconds from there would be measured elsewhere, without a word.

Dims: N recordings, L leads, T samples.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from data.beats import QRS_REACH, qrs_bounds
from data.cohort import SAMPLING_RATE, Cohort, CohortError
from data.rows import even_rows, select, stored
from data.strips import resample

MOST = 500  # recordings looked at, evenly spaced: what is sought is a median
OFF_MS = 20.0  # by which the median may be off: cardiologists and programs differ by less
# Median width of the QRS in ms. It is about 90 in any cohort, 150 if all have bundle branch block;
# a rate said to be twice what it is, or half, leaves these limits.
WIDTHS_MS = (55.0, 165.0)
ALIGNED = 0.6  # share of the recordings whose QRS lies near the median; of strips it is far less
NEAR_MS = 60.0
COMMON_RATES = (100, 125, 128, 200, 240, 250, 256, 257, 300, 360, 400, 500, 512, 600, 1000, 2000)


def locate_qrs(ecg: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Finds the QRS complex of each median beat, the largest where there are several.

    Args:
        ecg: (N, L, T) mV, finite.
        sampling_rate: Hz.

    Returns:
        The middle between onset and offset, (N,) samples, and the width, (N,) ms.
    """
    middle, width = np.empty(len(ecg)), np.empty(len(ecg))
    for row, leads in enumerate(np.asarray(ecg, np.float32)):
        beat = resample(leads, sampling_rate).T  # (T, L) at 500 Hz
        onset, offset = _bounds(beat)
        middle[row] = (onset + offset) / 2 * sampling_rate / SAMPLING_RATE
        width[row] = (offset - onset) * 1000 / SAMPLING_RATE
    return middle, width


def _bounds(beat: np.ndarray) -> tuple[int, int]:
    """Onset and offset of the QRS in (T, L)."""
    padded = np.pad(beat, ((QRS_REACH, QRS_REACH), (0, 0)), mode="edge")
    slope = ndimage.gaussian_filter1d(padded, 2, axis=0, order=1)
    speed = np.linalg.norm(slope, axis=1)
    # By its energy over 80 ms: a spike is faster, a T wave longer, but neither both.
    middle = int(np.argmax(ndimage.uniform_filter1d(speed**2, 40)))
    middle = min(max(middle, QRS_REACH), len(padded) - QRS_REACH)
    start = middle - QRS_REACH
    onset, offset = qrs_bounds(padded[start : start + 2 * QRS_REACH])
    return start + onset - QRS_REACH, start + offset - QRS_REACH


def check_qrs(cohort: Cohort, remedy: str) -> None:
    """Checks that the QRS complexes lie where `cohort` says, and are as wide as such are.

    Args:
        cohort: with `sampling_rate` and `qrs_sample`.
        remedy: how both are said, for the message.

    Raises:
        CohortError: names what was found.
    """
    rate, expected = cohort.sampling_rate, cohort.qrs_sample
    rows = even_rows(len(cohort), MOST)
    middle, width = locate_qrs(np.asarray(select(stored(cohort.ecg), rows)), rate)
    found, ms = float(np.median(middle)), 1000 / rate
    source = cohort.source or "the cohort"
    near = (np.abs(middle - found) * ms < NEAR_MS).mean()
    if near < ALIGNED:
        low, high = np.quantile(middle, [0.25, 0.75])
        raise CohortError(
            f"The QRS complexes of {source} are not aligned: half of them lie between samples "
            f"{low:.0f} and {high:.0f}. Expected median beats with the QRS on sample {expected}. "
            "Of rhythm strips, data.beats.median_beat makes such."
        )
    wide = float(np.median(width))
    if abs(found - expected) * ms > OFF_MS:
        raise CohortError(
            f"Expected the middle of the QRS on sample {expected} ({expected * ms:.0f} ms at "
            f"{rate:g} Hz) of {source}. Found: on sample {found:.0f}, as the median of "
            f"{len(rows)} ECGs, {wide:.0f} ms wide{_another(found / max(expected, 1), rate, wide)}."
            f" {remedy}"
        )
    if not WIDTHS_MS[0] <= wide <= WIDTHS_MS[1]:
        raise CohortError(
            f"Expected QRS complexes of {WIDTHS_MS[0]:.0f} to {WIDTHS_MS[1]:.0f} ms in {source}. "
            f"Found: {wide:.0f} ms at {rate:g} Hz, as the median of {len(rows)} ECGs. Is the "
            f"sampling rate another? {remedy}"
        )


def _another(ratio: float, rate: float, width: float) -> str:
    """A common rate at which a QRS of an odd width would be as wide and lie as it should."""
    if WIDTHS_MS[0] <= width <= WIDTHS_MS[1]:
        return ""
    for other in COMMON_RATES:
        fits = abs(ratio * rate / other - 1) < 0.03 and other != rate
        if fits and WIDTHS_MS[0] <= width * rate / other <= WIDTHS_MS[1]:
            return f", as it would be at {other} Hz"
    return ""
