"""One step on one device and on two, from the same weights with the same batch.

Devices are made before a backend starts, so `test_devices.py` runs this in a process of its own.
Under JAX it is run by hand:

KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 PYTHONPATH=. \
python tests/two_devices.py
"""

import json
from dataclasses import replace
from unittest import mock

import keras
import numpy as np
import pytest

from config import CONDITIONS, CONFIG, TrainingConfig
from data.conditions import ConditionSchema
from data.synthetic import simulate
from model.replicas import replicas
from tests.backends import killed_in_epoch
from tests.eager import train_eagerly
from train import parse, train
from training.batches import Batches, Filled
from training.calls import pipeline
from training.devices import devices_in_use, open_devices
from training.setup import build_model, samples_of
from vae import PUBLISHED

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # The devices wait for each other in these threads: on a single core there would be one, and
    # they would wait for ever.
    tf.config.threading.set_inter_op_parallelism_threads(4)

SMALL = {"conv_filters": (2, 2), "latent_space_dim": 3, "hidden": (8,)}
# Name -> settings of the model, and the rate of a plain gradient step that moves it well.
# Free bits: each half of the batch keeps other dimensions above them than the whole does.
MODELS = {
    "default, with risk": (
        {**SMALL, "condition_dropout": 0.3, "free_bits": 5.0, "task": "cox", "task_weight": 1000.0},
        1e-6,
    ),
    "published": ({**SMALL, **PUBLISHED}, 1e-2),
}

RUN = [
    *("--data.subjects", "160", "--model.task", "cox", "--training.batch-size", "16"),
    *("--model.conv-filters", "2", "2", "--model.hidden", "8", "--model.latent-space-dim", "3"),
    *("--training.epochs", "3", "--evaluation.bootstrap", "100", "--evaluation.generated", "5"),
    *("--evaluation.examples", "1", "--model.time-warp", "0"),
]


def step(name, devices):
    """Change of the trained weights in one step, in their order, and what the history tells."""
    settings, rate = MODELS[name]
    config = replace(CONFIG, model=replace(CONFIG.model, **settings))
    cohort = simulate(23, seed=0)
    schema = ConditionSchema([CONDITIONS[one] for one in config.data.conditions])
    schema.fit(cohort.subjects)
    with open_devices(TrainingConfig(devices=devices, batch_size=16)):
        model = build_model(config, schema, cohort)
        if name != "published":
            model.adapt(cohort.ecg, cohort.subjects)
        random = np.random.default_rng(0)
        # What starts at zero would pass on no gradient. And far enough that ELU bends: else the
        # normalisation after it undoes a bias, whose gradient is then rounding.
        for weight in model.trainable_weights:
            weight.assign(weight + random.normal(0, 0.4, weight.shape))
        samples = samples_of(cohort, model, config.model)
        evaluated = Batches(samples, 22, shuffle=False)  # 22 and 1
        if devices_in_use() > replicas():
            evaluated = Filled(evaluated, devices)
        before = model.get_weights()
        model.compile(
            # One device needs no graph to take one step; several have to have one.
            optimizer=keras.optimizers.SGD(rate),
            run_eagerly=devices == 1,
            jit_compile=False,
        )
        batches, watched = pipeline(Batches(samples, 16)), pipeline(evaluated)
        history = model.fit(batches, validation_data=watched, shuffle=False, verbose=0).history
        change = [new - old for new, old in zip(model.get_weights(), before, strict=True)]
    return change, {key: row[0] for key, row in history.items()}


def differences(name):
    """How much two devices differ from one, as a share of the change in a weight or of a number."""
    (one, history), (two, other) = step(name, 1), step(name, 2)
    size = [np.abs(change).max() for change in one]
    shares = [
        # What a normalisation undoes has a gradient of 0: its rounding is no difference.
        float(np.abs(change - expected).max() / (largest + 1e-2 * max(size)))
        for change, expected, largest in zip(two, one, size, strict=True)
    ]
    return {
        "moved": sum(bool(largest) for largest in size),
        "weights": max(shares),
        "history": max(abs(other[key] / value - 1) for key, value in history.items() if value),
    }


def one_run_on_each():
    """The run `one` on one device; `two` on both, interrupted in its last epoch."""
    one, two = (
        parse(["--run", name, "--training.devices", number, "--training.xla", xla, *RUN])[0]
        for name, number, xla in (("one", "1", "False"), ("two", "2", "True"))
    )
    with mock.patch("evaluation.evaluate", return_value=({}, {})):  # after it is compared
        with killed_in_epoch(3):
            train(two)
        train(two)
        with pytest.MonkeyPatch.context() as patch:
            train_eagerly(patch)
            train(one)


def main():
    """Prints the differences, a line for each model."""
    for name in MODELS:
        print(json.dumps({name: differences(name)}), flush=True)


if __name__ == "__main__":
    main()
