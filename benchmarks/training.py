"""Training speed: the networks of the presets with stock convolutions and with those of `fast`.

    python -m benchmarks.training [--rounds 5] [--ecgs 1024]

Both have the same weights; their outputs are compared first. Rounds alternate between them in one
process, since machines are noisy, and the median counts. "stock" is what Keras does by itself on a
CPU, without XLA; "stock, XLA" shows how much of the difference the compiler makes.
"""

from __future__ import annotations

import argparse
import os
import time
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import network
from vae import PUBLISHED, VAE

ARCHITECTURE = ((12, 400), (5, 5), ((1, 40), (12, 1)), ("same", "valid"), 10, 3)
NETWORKS = {"published": PUBLISHED, "default": {}}
KINDS = {"stock": (True, False), "stock, XLA": (True, True), "fast, XLA": (False, True)}


def build(keywords: dict, stock: bool) -> VAE:
    """A network with stock or fast convolutions."""
    if not stock:
        return VAE(*ARCHITECTURE, **keywords)
    with (
        mock.patch.object(network, "FastConv2D", keras.layers.Conv2D),
        mock.patch.object(network, "FastConv2DTranspose", keras.layers.Conv2DTranspose),
    ):
        return VAE(*ARCHITECTURE, **keywords)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ecgs", type=int, default=1024)
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    ecg = rng.standard_normal((settings.ecgs, 12, 400)).astype(np.float32)
    conditions = rng.standard_normal((settings.ecgs, 3)).astype(np.float32)
    print(f"{'network':10} {'batch':>5}  " + "".join(f"{kind:>12}" for kind in KINDS) + "   ratio")
    for name, keywords in NETWORKS.items():
        for batch in (32, 256):
            models = {}
            for kind, (stock, xla) in KINDS.items():
                models[kind] = build(keywords, stock)
                models[kind].set_weights(models["stock"].get_weights())
                models[kind].compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=xla)
            outputs = [model.reconstruct(ecg[:64], conditions[:64]) for model in models.values()]
            difference = max(np.abs(output - outputs[0]).max() for output in outputs)
            if difference > 1e-5:
                raise SystemExit(f"{name}: outputs differ by {difference:.2g} mV.")
            seconds: dict[str, list[float]] = {kind: [] for kind in models}
            for _ in range(settings.rounds + 1):  # the first one compiles
                for kind, model in models.items():
                    started = time.perf_counter()
                    model.fit((ecg, conditions), batch_size=batch, verbose=0)
                    seconds[kind].append(time.perf_counter() - started)
            rate = {kind: settings.ecgs / np.median(times[1:]) for kind, times in seconds.items()}
            row = "".join(f"{value:12.0f}" for value in rate.values())
            print(
                f"{name:10} {batch:5}  {row}   {rate['fast, XLA'] / rate['stock']:5.1f}", flush=True
            )


if __name__ == "__main__":
    main()
