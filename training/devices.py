"""Several devices: each takes a part of every batch, and the step is that of the whole batch.

`model.replicas` says what the model does about it.
"""

from __future__ import annotations

import contextlib
import functools

import keras

from config import TrainingConfig
from model.replicas import replicas
from training import processes

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
    together = processes.number() > 1
    clips = backend == "tensorflow" and settings.gradient_norm > 0
    if wanted == "auto" and together:
        wanted = len(names)
    elif wanted == "auto":
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
    _check(wanted == len(names) or not together, f"{len(names)}, all of all processes", wanted)
    names = names[:wanted]
    print(f"Each batch is divided between {', '.join(names)}.")
    if backend == "jax":
        # Each process is fed its own rows; Keras divides tf.data only.
        return keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope()
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
