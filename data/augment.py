"""Random, physiologically small changes to median beats, for training on few of them.

Dims: B batch, L leads (the standard 12), T samples.
"""

from __future__ import annotations

import numpy as np

from data.cohort import QRS_SAMPLE, derive_leads, independent_leads
from data.dipole import DOWER

_TO_VECTOR = np.linalg.pinv(DOWER)  # (3, 8): least-squares heart vector of the 8 leads


def augment(
    ecg: np.ndarray, strength: float, rng: np.random.Generator, qrs_sample: int = QRS_SAMPLE
) -> np.ndarray:
    """Changes gain, heart orientation and timing of each beat a little.

    At strength 1 the standard deviations are 6% of gain, 5 degrees of rotation about each axis of
    the heart vector, 3% of duration before and after the QRS centre, and 1 sample of position.

    Args:
        ecg: (B, 12, T) mV.
        strength: multiplies all of these.
        rng: random generator.
        qrs_sample: the QRS centre.

    Returns:
        (B, 12, T) float32; leads obey the limb-lead equations exactly.
    """
    n, _, samples = ecg.shape
    leads = independent_leads(ecg)
    rotation = _rotations(np.deg2rad(5.0) * strength * rng.standard_normal((n, 3)))
    vector = _TO_VECTOR @ leads  # (B, 3, T)
    # Only what the dipole explains can be rotated; the rest of the beat stays.
    leads = leads + DOWER @ ((rotation - np.eye(3)) @ vector)
    leads = leads * np.exp(0.06 * strength * rng.standard_normal((n, 1, 1)))
    stretch = np.exp(0.03 * strength * rng.standard_normal((n, 2, 1)))
    shift = strength * rng.standard_normal((n, 1))
    offset = np.arange(samples) - qrs_sample
    source = np.where(offset < 0, offset * stretch[:, 0], offset * stretch[:, 1])
    source = np.clip(source + qrs_sample + shift, 0, samples - 1)
    whole = np.minimum(source.astype(int), samples - 2)[:, None]  # (B, 1, T)
    part = source[:, None] - whole
    left = np.take_along_axis(leads, whole, axis=2)
    right = np.take_along_axis(leads, whole + 1, axis=2)
    return derive_leads(((1 - part) * left + part * right).astype(np.float32))


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Rotations about x, then y, then z by (B, 3) radians -> (B, 3, 3)."""
    matrices = np.eye(3)
    for axis, (first, second) in enumerate(((1, 2), (2, 0), (0, 1))):
        turn = np.tile(np.eye(3), (len(angles), 1, 1))
        cos, sin = np.cos(angles[:, axis]), np.sin(angles[:, axis])
        turn[:, first, first] = turn[:, second, second] = cos
        turn[:, first, second], turn[:, second, first] = -sin, sin
        matrices = turn @ matrices
    return matrices
