"""Random, physiologically small changes to median beats, for training on few of them.

Seven numbers are drawn for each beat where the batches are made (`draw`); the change itself is part
of the training step (`augment`), wherever that runs.

Dims: B batch, I the independent 8 of the 12 standard leads, T samples.
"""

from __future__ import annotations

import numpy as np
from keras import ops

from data.dipole import DOWER
from data.leads import INDEPENDENT_LEADS, LEADS, expansion_matrix
from model.warp import read_off

DRAWN = 7  # numbers for each beat
_DIPOLE = DOWER.astype(np.float32)  # heart vector -> I leads
_TO_VECTOR = np.linalg.pinv(DOWER).astype(np.float32)  # least squares
_INDEPENDENT = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]
# Derivative of the rotation about x, y and z.
_TURNS = np.zeros((3, 3, 3), np.float32)
for _axis, (_first, _second) in enumerate(((1, 2), (2, 0), (0, 1))):
    _TURNS[_axis, _first, _second], _TURNS[_axis, _second, _first] = -1, 1


def draw(n: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """What `augment` does to each of n beats, at random.

    At strength 1 the standard deviations are 5 degrees of rotation about each axis of the heart
    vector, 6% of gain, 3% of duration before and after the middle of the QRS, and 1 sample of
    position.

    Args:
        n: number of beats.
        strength: multiplies all of these.
        rng: random generator.

    Returns:
        (n, 7) float32: three angles in radians, the logarithms of gain and of two speeds, samples.
    """
    sizes = (np.full(3, np.deg2rad(5.0)), [0.06], [0.03, 0.03], [1.0])
    drawn = [size * rng.standard_normal((n, len(size))) for size in sizes]
    return (strength * np.concatenate(drawn, axis=1)).astype(np.float32)


def augment(ecg, drawn, qrs_sample: int):
    """Changes heart orientation, gain and timing of each beat.

    Args:
        ecg: (B, 12, T) mV, standard leads.
        drawn: (B, 7), of `draw`; 0 changes nothing.
        qrs_sample: the middle of the QRS.

    Returns:
        (B, 12, T), float32; the limb leads agree as in a recorded ECG.
    """
    leads = ops.take(ecg, _INDEPENDENT, axis=1)
    # Only what a dipole explains can be rotated; the rest of the beat stays.
    turned = ops.matmul(_rotations(drawn[:, :3]) - np.eye(3, dtype=np.float32), _TO_VECTOR)
    change = ops.matmul(_DIPOLE, turned) + np.eye(len(_INDEPENDENT), dtype=np.float32)
    leads = ops.matmul(change * ops.exp(drawn[:, 3, None, None]), leads)
    offset = np.arange(ecg.shape[2], dtype=np.float32) - qrs_sample
    speeds = ops.exp(drawn[:, 4:6])
    source = ops.where(offset < 0, offset * speeds[:, :1], offset * speeds[:, 1:])
    read = read_off(leads, source + qrs_sample + drawn[:, 6:])  # (B, T, I)
    return ops.transpose(ops.matmul(read, expansion_matrix(LEADS).T), (0, 2, 1))


def _rotations(angles):
    """Rotations about x, then y, then z by (B, 3) radians -> (B, 3, 3), by Rodrigues' formula."""
    cos, sin = ops.cos(angles)[..., None, None], ops.sin(angles)[..., None, None]
    x, y, z = (
        np.eye(3, dtype=np.float32) + sin[:, axis] * turn + (1 - cos[:, axis]) * (turn @ turn)
        for axis, turn in enumerate(_TURNS)
    )
    return ops.matmul(z, ops.matmul(y, x))
