"""One step on one device and on two, from the same weights with the same batch.

Devices are made before a backend starts, so `test_devices.py` runs this in a process of its own.
Under JAX it is run by hand, and prints how far the two differ:

KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 PYTHONPATH=. python \
tests/two_devices.py
"""

import json
import sys
from dataclasses import replace

import keras
import numpy as np

from conditions import ConditionSchema
from config import CONDITIONS, CONFIG, TrainingConfig
from data.synthetic import simulate
from devices import open_devices
from training import Batches, build_model, samples_of
from vae import PUBLISHED

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

SMALL = {"conv_filters": (2, 2), "latent_space_dim": 3, "hidden": (8,)}
# Name -> settings of the model, and the rate of a plain gradient step that moves it well.
MODELS = {
    "default": ({**SMALL, "condition_dropout": 0.3, "free_bits": 2.0}, 1e-6),
    "published": ({**SMALL, **PUBLISHED}, 1e-2),
    "cox": ({**SMALL, "task": "cox", "task_weight": 1000.0}, 1e-6),
}


def step(name, devices):
    """Change of the weights in one step, by name, and what the history tells of it."""
    settings, rate = MODELS[name]
    config = replace(CONFIG, model=replace(CONFIG.model, **settings))
    cohort = simulate(23, seed=0)
    schema = ConditionSchema([CONDITIONS[one] for one in config.data.conditions])
    schema.fit(cohort.subjects)
    with open_devices(TrainingConfig(devices=devices, batch_size=16)):
        model = build_model(config, schema, cohort)
        if name != "published":
            model.adapt(cohort.ecg, cohort.subjects)
        samples = samples_of(cohort, model, config.model)
        if name == "cox":  # at zero it would pass no gradient on to the encoder
            model.head.kernel.assign(np.full(model.head.kernel.shape, 0.5))
        before = model.get_weights()
        model.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=False)
        batches = Batches(samples, 16)
        evaluated = Batches(samples, 22 if keras.backend.backend() == "tensorflow" else 16)
        history = model.fit(batches, validation_data=evaluated, shuffle=False, verbose=0).history
        change = [new - old for new, old in zip(model.get_weights(), before, strict=True)]
    paths = [f"{number} {weight.name}" for number, weight in enumerate(model.weights)]
    return dict(zip(paths, change, strict=True)), {key: row[0] for key, row in history.items()}


def differences(name):
    """Largest difference between one and two devices, as a share of the change it is part of."""
    (one, history), (two, other) = step(name, 1), step(name, 2)
    largest = max(np.abs(change).max() for change in one.values())
    shares = {
        # The true gradient of what a normalisation undoes is 0: its rounding is no difference.
        path: float(np.abs(two[path] - change).max() / (np.abs(change).max() + 1e-5 * largest))
        for path, change in one.items()
    }
    shares |= {key: abs(other[key] / value - 1) for key, value in history.items() if value}
    return {"changed": sum(bool(np.any(change)) for change in one.values()), "shares": shares}


if __name__ == "__main__":
    names = sys.argv[1:] or MODELS
    print(json.dumps({name: differences(name) for name in names}))
