"""Several training steps to a call of the compiled program.

Python, Keras and the launch of a program took a quarter of the time of a step of 32 ECGs on two
CPU cores. `Calls` hands over the batches of up to 32 steps at once, and `run_steps`, which
`VAE.train_step` compiles, loops over them inside the program. On a GPU nothing is left to the host
between these steps.

Dims: K steps, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops, tree

if TYPE_CHECKING:
    from batches import Batches

MOST_STEPS = 32
MOST_BYTES = 2**24  # of the ECGs in a call: they are made while the call before runs, and compete


class Calls(keras.utils.PyDataset):
    """The same batches, K at a time.

    The last call is filled up with copies that are not trained on. Calls are equally long, so that
    these are few.

    Args:
        batches: B ECGs each.
        resident: the ECGs on the device, if the batches hold row numbers. With JAX they go with
            each call, since its programs would be compiled with them in.
    """

    def __init__(self, batches: Batches, resident=None) -> None:
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


def run_steps(step: Callable, call: dict, *state):
    """Takes the steps of a call, one after the other.

    Args:
        step: Keras's `train_step` of one batch. With JAX it also takes the values of all variables
            and gives them back changed; elsewhere it changes the variables.
        call: of `Calls`; its batches are (K, B, ...), of which `steps` are to be trained on.
        state: with JAX, the values.

    Returns:
        What the last step returns; elsewhere than with JAX, nothing.
    """

    def batch(index):
        return tree.map_structure(lambda part: part[index], call["batches"])

    def goes_on(index, *_):
        return index < call["steps"]

    if keras.backend.backend() == "jax":
        import jax

        logs, _ = jax.eval_shape(step, *state, batch(0))
        logs = tree.map_structure(lambda like: ops.zeros(like.shape, like.dtype), logs)
        index, logs, *state = jax.lax.while_loop(
            lambda carried: goes_on(*carried),
            lambda carried: (carried[0] + 1, *step(carried[2], batch(carried[0]))),
            (0, logs, *state),
        )
        return logs, *state

    def body(index):
        step(batch(index))
        return (index + 1,)

    ops.while_loop(goes_on, body, (0,))
    return None
