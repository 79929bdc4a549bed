"""Time that runs faster in one part of a beat and slower in another.

From one person to the next P waves come earlier or later and T waves are stretched. A sum of fixed
shapes, which a linear decoder makes, smears such a wave rather than moves it. Here the decoder says
how fast to read off the beat that it has made, at a few knots along it; the QRS stays.

Dims: B batch, I leads, T samples, K knots.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

FASTEST = 1.0  # log speed at most: between 0.37 and 2.7 times as fast; so time never turns back


@keras.saving.register_keras_serializable(package="cvae_ecg")
class TimeWarp(keras.layers.Layer):
    """(deviation (B, I, T), speeds (B, K)) -> the deviation (B, I, T) of the beat read off so.

    The beat is `mean_beat` + `profile` x deviation: its mean waves move, too. Speeds are
    logarithmic, 0 at normal speed, bounded smoothly by `FASTEST`, and change linearly between knots
    that are evenly spaced from the first to the last sample.

    Args:
        qrs_sample: which stays where it is.

    Attributes:
        mean_beat: (I, T), in the units of the deviation.
        profile: (I, T), what a deviation of 1 is.
    """

    def __init__(self, qrs_sample: int, **keywords) -> None:
        super().__init__(**keywords)
        self.qrs_sample = qrs_sample

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {**super().get_config(), "qrs_sample": self.qrs_sample}

    def build(self, input_shape):
        """Prepares the knots; the mean beat is 0 until it is known."""
        _, n_leads, n_samples = input_shape[0]
        knots = input_shape[1][1]
        at = np.linspace(0, n_samples - 1, knots)
        rows = [np.interp(np.arange(n_samples), at, knot) for knot in np.eye(knots)]
        self.between = np.stack(rows).astype(np.float32)  # (K, T)
        shape = (n_leads, n_samples)
        self.mean_beat = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="mean_beat"
        )
        self.profile = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="profile"
        )
        self.built = True

    def call(self, inputs):
        """See the class."""
        deviation, speeds = inputs
        # Deviation x profile, as a division. XLA repeats a product in each kernel that reads it:
        # then both look-ups and the layers below would each compute the whole beat, or its
        # gradient, once more. It computes a division once. (1 / (1 / x) alone it would undo.)
        inverse = ops.maximum(1 / self.profile, 1e-30)
        beat = (deviation + self.mean_beat * inverse) / inverse
        last = deviation.shape[2] - 1
        log_speed = FASTEST * ops.tanh(ops.matmul(speeds, self.between))  # (B, T)
        # The time at a sample is the sum of all steps up to it; at the QRS none is lost.
        late = ops.cumsum(ops.expm1(log_speed), axis=1)
        at = self.qrs_sample
        late = late - late[:, at : at + 1]
        read = read_off(beat, ops.arange(last + 1, dtype="float32") + late)
        return (ops.transpose(read, (0, 2, 1)) - self.mean_beat) / self.profile

    def compute_output_shape(self, input_shape):
        """That of the deviation."""
        return input_shape[0]


def read_off(beat, times):
    """A beat (B, I, T) at the times (B, T) in samples, between samples linearly -> (B, T, I).

    What lies outside the beat is its first or last sample.
    """
    n_leads, last = beat.shape[1], beat.shape[2] - 1
    source = ops.clip(times, 0.0, float(last))
    before = ops.stop_gradient(ops.minimum(ops.floor(source), last - 1.0))
    share = (source - before)[:, :, None]
    # Of a training that has diverged the place is NaN: no sample then.
    index = ops.clip(ops.cast(before, "int32"), 0, last - 1)
    # A row holds all leads at one sample of one beat: a look-up, and a sum of its gradient, for
    # each time, not for each lead.
    rows = ops.reshape(ops.transpose(beat, (0, 2, 1)), (-1, n_leads))
    first = (last + 1) * ops.arange(ops.shape(beat)[0], dtype="int32")
    index = index + first[:, None]
    left, right = ops.take(rows, index, axis=0), ops.take(rows, index + 1, axis=0)
    return left + share * (right - left)
