"""Several devices: each takes a part of every batch, and the step is that of the whole batch.

TensorFlow's `MirroredStrategy` runs the model once per device on the rows of that device, then adds
up the gradients. What compares or averages rows would see a part of them only, so the model hands
it all rows (`whole_batch`), and draws random numbers for all rows (`random_rows`). With JAX's
`DataParallel` an array is the whole batch wherever its rows lie, and nothing is to be done here.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import keras
from keras import ops

if TYPE_CHECKING:
    from config import TrainingConfig

BACKENDS = ("tensorflow", "jax")


class DeviceError(ValueError):
    """Devices that are not there, or that cannot do what is asked."""


def open_devices(settings: TrainingConfig) -> contextlib.AbstractContextManager:
    """Where a model must be built and trained to use the devices of `training.devices`.

    Raises:
        DeviceError: there are fewer, or they cannot do what the settings ask.
    """
    backend, wanted = keras.backend.backend(), settings.devices
    names = keras.distribution.list_devices()  # CPUs only where there is nothing better
    clips = backend == "tensorflow" and settings.gradient_norm > 0
    if wanted == "auto":
        most = 1 if names[0].startswith("cpu") or backend not in BACKENDS or clips else len(names)
        wanted = max(n for n in range(1, most + 1) if settings.batch_size % n == 0)
    if wanted == 1:
        return contextlib.nullcontext()
    _check(len(names) >= wanted, f"at most {len(names)} ({', '.join(names)})", wanted)
    _check(backend in BACKENDS, f"1 with the backend {backend}", wanted)
    whole = settings.batch_size % wanted == 0
    _check(whole, f"a divisor of training.batch_size, {settings.batch_size}", wanted)
    # Keras shortens the gradient of each device before it adds them up.
    _check(not clips, "1 with training.gradient_norm above 0 and TensorFlow", wanted)
    names = names[:wanted]
    print(f"Each batch is divided between {', '.join(names)}.")
    if backend == "jax":
        return keras.distribution.DataParallel(devices=names).scope()
    return _mirrored(tuple(names)).scope()


@functools.cache
def _mirrored(names: tuple[str, ...]):
    """One strategy for all runs of a process.

    TensorFlow 2.21 numbers what devices exchange, anew for each strategy, and mistakes what a
    second one exchanges for what the first did.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)


def _check(true: bool, expected: str, received: int) -> None:
    if not true:
        raise DeviceError(f"training.devices: expected {expected}. Received: {received}.")


def devices_in_use() -> int:
    """Number of devices between which the scope that we are in divides each batch."""
    if keras.backend.backend() == "jax":
        distribution = keras.distribution.distribution()
        return 1 if distribution is None else distribution.device_mesh.devices.size
    return replicas()


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
    context = _replica_context()
    if context is None:
        return draw(shape, dtype="float32", seed=seed)
    rows, devices = shape[0], context.num_replicas_in_sync
    drawn = draw((devices * rows, *shape[1:]), dtype="float32", seed=seed)
    return ops.reshape(drawn, (devices, *shape))[context.replica_id_in_sync_group]


def _replica_context():
    """Where the model runs on the rows of one of several devices, TensorFlow's handle of that."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None
