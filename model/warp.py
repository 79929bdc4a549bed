"""Time that runs faster in one part of a beat and slower in another.

From one person to the next P waves come earlier or later and T waves are stretched. A sum of fixed
shapes, which a linear decoder makes, smears such a wave rather than moves it. Here the decoder says
how fast to read off the beat that it has made, at a few knots along it; the R wave stays.

Dims: B batch, I leads, T samples, K knots.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

FIDUCIAL = 3 / 8  # of the window, where the R wave lies: sample 150 of 400
FASTEST = 1.0  # log speed at most: between 0.37 and 2.7 times as fast; so time never turns back


@keras.saving.register_keras_serializable(package="cvae_ecg")
class TimeWarp(keras.layers.Layer):
    """(ecg (B, I, T), speeds (B, K)) -> the ECG (B, I, T) read off at these speeds.

    Speeds are logarithmic, 0 at normal speed, bounded smoothly by `FASTEST`, and change linearly
    between knots that are evenly spaced from the first to the last sample.
    """

    def build(self, input_shape):
        """Prepares the sums that turn speeds at knots into times at samples."""
        samples, knots = input_shape[0][2], input_shape[1][1]
        at = np.linspace(0, samples - 1, knots)
        rows = [np.interp(np.arange(samples), at, knot) for knot in np.eye(knots)]
        self.between = np.stack(rows).astype(np.float32)  # (K, T)
        up_to = np.tri(samples)  # the time at a sample is the sum of all steps up to it
        self.summed = (up_to - up_to[round(FIDUCIAL * samples)]).T.astype(np.float32)  # (T, T)
        self.built = True

    def call(self, inputs):
        """See the class."""
        ecg, speeds = inputs
        last = ecg.shape[2] - 1.0
        log_speed = FASTEST * ops.tanh(ops.matmul(speeds, self.between))  # (B, T)
        source = ops.arange(last + 1, dtype="float32")
        source = source + ops.matmul(ops.expm1(log_speed), self.summed)
        source = ops.clip(source, 0.0, last)
        before = ops.stop_gradient(ops.minimum(ops.floor(source), last - 1))
        share = (source - before)[:, None]  # (B, 1, T)
        index = ops.broadcast_to(ops.cast(before, "int32")[:, None], ops.shape(ecg))
        left = ops.take_along_axis(ecg, index, axis=2)
        right = ops.take_along_axis(ecg, index + 1, axis=2)
        return left + share * (right - left)

    def compute_output_shape(self, input_shape):
        """That of the ECG."""
        return input_shape[0]
