"""What a model on several devices must know: how many there are, and the rows of all of them.

TensorFlow's `MirroredStrategy` runs the model once per device on the rows of that device, then adds
up the gradients. What compares or averages rows would see a part of them only, so the model hands
it all rows (`whole_batch`), and draws random numbers for all rows (`random_rows`). With JAX's
`DataParallel` an array is the whole batch wherever its rows lie, and nothing is to be done here.
"""

from __future__ import annotations

import keras
from keras import ops


def replicas() -> int:
    """How often TensorFlow runs the model at a time, each on its part of the rows."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def whole_batch(values: list) -> list:
    """Tensors (b, ...) of the rows of one device -> (B, ...) of all; differentiable.

    Each device then computes the loss of all rows. Their gradients are added up: divide the loss
    by `replicas`.
    """
    context = _replica_context()
    if context is None:
        return values
    # One by one: the gradient of a gathered list asks for tensors of one rank (TensorFlow 2.21).
    return [context.all_gather(value, axis=0) for value in values]


def random_rows(draw, shape, seed):
    """Random numbers for the rows of this device: those that one device would draw for them.

    Each device draws for all rows and takes its own; from the same seed, it would otherwise draw
    what the others draw.

    Args:
        draw: `keras.random.normal` or another distribution of (shape, dtype, seed).
        shape: (b, ...), b the rows of this device. Each device has as many.
        seed: generator.
    """
    if draw is keras.random.normal and keras.backend.backend() == "tensorflow":
        draw = _normal
    context = _replica_context()
    if context is None:
        return draw(shape, dtype="float32", seed=seed)
    rows, devices = shape[0], context.num_replicas_in_sync
    drawn = draw((devices * rows, *shape[1:]), dtype="float32", seed=seed)
    return ops.reshape(drawn, (devices, *shape))[context.replica_id_in_sync_group]


def _normal(shape, dtype, seed):
    """The numbers of `keras.random.normal`, which leaves the algorithm to TensorFlow.

    XLA on a CPU then derives the key anew for each number, which takes far longer than they do.
    """
    import tensorflow as tf

    key = tf.cast(seed.next() % (tf.int32.max - 1), "int32")
    return tf.random.stateless_normal(shape, key, dtype=dtype, alg="philox")


def _replica_context():
    """Where the model runs on the rows of one of several devices, TensorFlow's handle of that."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None
