"""How batches come to the device: those of several training steps in one call of the program.

`Calls` hands over those of up to 32 steps at once, and `model.steps.run_steps` loops over them
inside the program. On a GPU nothing is left to the host between these steps.

Dims: K steps, B batch.
"""

from __future__ import annotations

import math

import keras
import numpy as np

from training.batches import Batches, Filled

MOST_STEPS = 32
MOST_BYTES = 2**24  # of the ECGs in a call: they are made while the call before runs, and compete


class Calls(keras.utils.PyDataset):
    """The same batches, K at a time.

    The last call is filled up with copies that are not trained on. Calls are equally long, so that
    these are few.

    Args:
        batches: B ECGs each, of validation with weights.
        resident: the ECGs on the device, if the batches hold row numbers. With JAX they go with
            each call, since its programs would be compiled with them in.
    """

    def __init__(self, batches: Batches | Filled, resident=None) -> None:
        super().__init__()
        self.batches = batches
        self.resident = resident if keras.backend.backend() == "jax" else None
        steps = min(MOST_STEPS, max(1, MOST_BYTES // batches[0][0][0].nbytes))
        self.steps = math.ceil(len(batches) / math.ceil(len(batches) / steps))

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.steps)

    def __getitem__(self, index: int) -> dict:
        first = index * self.steps
        stop = min(first + self.steps, len(self.batches))
        filled = np.minimum(np.arange(first, first + self.steps), stop - 1)
        call = {"batches": self.batches[filled], "steps": np.int32(stop - first)}
        return call if self.resident is None else call | {"resident": self.resident}


def pipeline(batches: Batches | Calls | Filled):
    """What `fit` reads: these batches, by tf.data where the backend is TensorFlow.

    They are then made while the step before runs. Keras would put a Python generator around them,
    which costs a sixth of the speed of the published network and, through what TensorFlow does to
    the memory allocator when it sees one, up to as much again.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    example = batches[0]
    given = tf.nest.flatten(example)
    parts = [part for part in given if part is not None]  # of targets that there are not
    whole = not isinstance(batches, Batches) or batches.shuffle  # all have the shape of the first

    def make(index: tf.Tensor):
        made = tf.numpy_function(
            lambda number: [part for part in tf.nest.flatten(batches[number]) if part is not None],
            [index],
            [one.dtype for one in parts],
        )
        for one, like in zip(made, parts, strict=True):
            one.set_shape(like.shape if whole else (None, *like.shape[1:]))
        left = iter(made)
        filled = [None if part is None else next(left) for part in given]
        return tf.nest.pack_sequence_as(example, filled)

    # There is nothing to tune, and the thread that tunes is not told when several devices end: they
    # would wait for it, for up to a minute (TensorFlow 2.21).
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.range(len(batches)).map(make).prefetch(1).with_options(options)
