"""Several training steps in one call of the compiled program.

Python, Keras and the launch of a program took a quarter of the time of a step of 32 ECGs on two
CPU cores. `training.calls` hands over the batches of several steps at once, and `run_steps`, which
`VAE.train_step` compiles, loops over them inside the program.

Dims: K steps, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops, tree


def run_steps(step: Callable, call: dict, *state):
    """Takes the steps of a call, one after the other.

    Args:
        step: Keras's `train_step` or `test_step` of one batch. With JAX it also takes the values of
            all variables and gives them back changed; elsewhere it changes the variables.
        call: of `training.calls.Calls`; its batches are (K, B, ...), of which `steps` count. None
            stands for targets that there are not.
        state: with JAX, the values.

    Returns:
        What the last step returns; elsewhere than with JAX, nothing.
    """

    def batch(index):
        return tree.map_structure(
            lambda part: part if part is None else part[index], call["batches"]
        )

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
