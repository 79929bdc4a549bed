"""Training speed on one GPU: the networks of the presets with stock layers and as they are here.

    KERAS_BACKEND=jax python -m benchmarks.gpu [--batches 32 256 4096] [--kinds ours stock]

Both train as `training.fit` does there: ECGs lie on the GPU, and up to 32 steps are one call. Only
the layers differ, and have the same weights. Their outputs are compared first, in full float32;
in training NVIDIA GPUs multiply in TF32. Shown are ECGs per second in the fastest epoch, since the
first compiles, and the seconds of the first.
"""

from __future__ import annotations

import os
from typing import Literal

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import tyro

from benchmarks.training import NETWORKS, Clock, build, simulated
from training.batches import Batches, Samples
from training.calls import Calls, pipeline
from vae import VAE

KINDS = {"ours": "float32", "stock": "float32", "stock, bfloat16": "mixed_bfloat16"}


def network(name: str, kind: str) -> VAE:
    """A compiled network."""
    keras.config.set_dtype_policy(KINDS[kind])
    model = build(NETWORKS[name], kind if kind == "ours" else "stock, XLA")
    keras.config.set_dtype_policy("float32")
    return model


def check(name: str) -> None:
    """Ends the program if the outputs differ."""
    samples = simulated(16)
    ours, stock = network(name, "ours"), network(name, "stock")
    ours.set_weights(stock.get_weights())
    with jax.default_matmul_precision("float32"):
        one, other = (model.reconstruct(samples.ecg, samples.conditions) for model in (ours, stock))
    difference = np.abs(one - other).max()
    print(f"{name}: outputs differ by {difference:.1g} mV at most", flush=True)
    if difference > 1e-5:
        raise SystemExit("That is more than 1e-5.")


def measure(name: str, kind: str, batch: int, epochs: int, samples: Samples) -> None:
    """Prints one line."""
    model, clock = network(name, kind), Clock()
    model.resident = keras.ops.convert_to_tensor(samples.ecg)
    batches = Batches(samples, batch, resident=True)
    history = model.fit(
        pipeline(Calls(batches, model.resident)),
        **{"epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": [clock]},
    ).history
    if not np.isfinite(history["loss"]).all():
        raise SystemExit(f"{name}, {kind}: the loss became {history['loss'][-1]}.")
    rate = len(batches) * batch / min(clock.seconds[1:])
    print(f"{name:10} {batch:5}  {kind:16} {rate:11,.0f} {clock.seconds[0]:8.1f} s", flush=True)


def main(
    ecgs: int = 32768,
    epochs: int = 4,
    batches: tuple[int, ...] = (32, 256, 4096),
    kinds: tuple[Literal["ours", "stock", "stock, bfloat16"], ...] = tuple(KINDS),
) -> None:
    print(f"jax {jax.__version__}, keras {keras.__version__}, {jax.devices()[0].device_kind}")
    for name in NETWORKS:
        check(name)
    print(f"{'network':10} {'batch':>5}  {'layers':16} {'ECGs/s':>11} {'1st epoch':>10}")
    samples = simulated(ecgs)
    for kind in kinds:
        for batch in batches:
            for name in NETWORKS:
                measure(name, kind, batch, epochs, samples)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
