"""The same runs under any backend of Keras, with the same initial weights and random numbers.

Backends draw other random numbers from the same seed. With these made equal, what two of them
compute differs by rounding only.

`end_to_end/test_jax.py` starts `main` and `together` in processes under JAX, and reads what they
leave in their folder.
"""

import contextlib
import importlib.machinery
import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

SMALL = [
    *("--data.subjects", "200", "--training.epochs", "2", "--training.batch-size", "50"),
    *("--model.conv-filters", "2", "2", "--model.latent-space-dim", "3"),
    *("--evaluation.bootstrap", "100", "--evaluation.generated", "5"),
    *("--evaluation.examples", "1"),
]
RUNS = {
    "quick": [*SMALL, "--preset", "quick", "--training.augmentation", "1"],
    "prediction": [*SMALL, "--preset", "prediction", "--model.time-warp", "0"],
    "paper": [*SMALL, "--preset", "paper"],
}
DRAWS = 10_007  # random numbers, which are taken in turn


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class WithoutTensorFlow(importlib.machinery.PathFinder):
    """Finds no TensorFlow, as where it is not installed."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "tensorflow" else super().find_spec(name, path, target)


def draw_the_same(patch):
    """Weights and random numbers that do not depend on the backend. `patch` undoes it."""
    import keras
    from keras import ops
    from scipy.stats import norm

    from training import setup

    uniform = np.random.default_rng(0).uniform(size=DRAWS).astype(np.float32)
    tables = {keras.random.uniform: uniform, keras.random.normal: norm.ppf(uniform)}
    build = setup.build_model

    def rows(draw, shape, seed):
        first = ops.cast(ops.sum(ops.mod(seed.next(), 997)), "int32")
        size = int(np.prod([int(one) for one in shape]))
        numbers = (first * 101 + np.arange(size, dtype=np.int32)) % DRAWS
        return ops.reshape(ops.take(ops.convert_to_tensor(tables[draw], "float32"), numbers), shape)

    def with_the_same_weights(*arguments):
        model, random = build(*arguments), np.random.default_rng(0)
        for weight in (*model.encoder.trainable_weights, *model.decoder.trainable_weights):
            spread = float(np.std(ops.convert_to_numpy(weight)))
            if spread:  # what starts at zero stays there
                weight.assign(random.normal(0, spread, weight.shape))
        return model

    patch.setattr("vae.random_rows", rows)
    patch.setattr(setup, "build_model", with_the_same_weights)


def run(name, as_run=None, *more):
    """One of `RUNS`, to its report, under its own name or another."""
    from train import main

    main([*RUNS[name], "--run", as_run or name, *more])


def numbers(folder):
    """What nothing random stands before: of a new model that is adapted, and of that of a run."""
    from config import Config, from_dict
    from training.setup import build_model, open_data
    from vae import VAE

    config = from_dict(Config, json.loads((folder / "config.json").read_text("utf-8")))
    cohort, split, schema = open_data(config)
    new = build_model(config, schema, cohort).adapt(split.train.ecg, split.train.subjects)
    test, model = split.test, VAE.load(folder)
    return {
        "adapted": new.reconstruct(test.ecg, test.subjects),
        "reconstructed": model.reconstruct(test.ecg, test.subjects),
        "generated": model.generate(n=20, seed=1, age=60, sex="female", noise=True),
        "bound": model.bound(test.ecg, test.subjects) / test.ecg[0].size,
    }


@contextlib.contextmanager
def killed_in_epoch(number):
    """Training ends in this epoch (1, 2, ...), after its first step."""
    from training.fit import EpochStart

    def kill(callback, batch, logs=None):
        if callback.batches.epoch == number - 1:
            raise Killed

    with mock.patch.object(EpochStart, "on_train_batch_end", kill), contextlib.suppress(Killed):
        yield


def main(folder):
    """The runs under the backend of this process, without TensorFlow; see `end_to_end/test_jax.py`.

    `quick` and `two`, which divides each batch between two devices, are killed in their second
    epoch and go on; `alone` is not, and trains as on a GPU, where ECGs stay. Generated ECGs are
    judged in `quick` only.
    """
    sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = WithoutTensorFlow
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
    os.chdir(folder)
    from tests.sparing import judge_sparingly

    with pytest.MonkeyPatch.context() as patch:
        draw_the_same(patch)
        judge_sparingly(patch)
        with killed_in_epoch(2):
            run("quick")
        run("quick")
        np.savez("numbers.npz", **numbers(Path("runs/quick")))
        patch.setattr("evaluation.judge._generator_metrics", lambda *_: {})
        patch.setattr("evaluation.judge.draw", lambda *_: {})
        run("prediction")
        run("paper")
        patch.setattr("evaluation.evaluate", lambda *_: ({}, {}))
        with mock.patch("keras.distribution.list_devices", return_value=["gpu:0"]):
            run("quick", "alone")
        two = ("quick", "two", "--training.devices", "2")
        with killed_in_epoch(2):
            run(*two)
        run(*two)
    assert "tensorflow" not in sys.modules


def together(folder, kill=""):
    """`quick` in this process as one of several; `kill`: it is gone in the second epoch."""
    os.chdir(folder)
    from training.fit import EpochStart

    def end(callback, batch, logs=None):
        if kill and callback.batches.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        draw_the_same(patch)
        patch.setattr("evaluation.evaluate", lambda *_: ({}, {}))
        patch.setattr(EpochStart, "on_train_batch_end", end, raising=False)
        run("quick", "together")


if __name__ == "__main__":
    {"main": main, "together": together}[sys.argv[1]](*sys.argv[2:])
