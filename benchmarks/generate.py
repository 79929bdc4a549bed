"""Generation speed: ECGs per second of `VAE.generate`, conditions and prior included.

    python -m benchmarks.generate [--n 20000] [--rounds 5]

Untrained networks of the presets, whose weights do not change the speed; the prior is a mixture
fitted to random latents, as after training. The median of the rounds; the first one compiles. The
last column is `generate_files` to one npz file on this disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tyro

from benchmarks.common import ARCHITECTURE, Timer, schema_for
from data.synthetic import simulate
from evaluation.generate import generate_files
from model.prior import fit_prior
from vae import PUBLISHED, VAE

NETWORKS = {"default": {}, "published": PUBLISHED}


def build(keywords: dict) -> VAE:
    """A network with named conditions and a prior like that of a trained one."""
    subjects = simulate(1000, 0).subjects
    schema = schema_for(subjects)
    vae = VAE(*ARCHITECTURE, schema.dim, schema=schema, **keywords)
    rng = np.random.default_rng(0)
    vae.prior = fit_prior(rng.standard_normal((1000, 10)), schema.encode(subjects))
    for weight in vae.decoder.trainable_weights:  # not the zeros that a linear path starts with
        weight.assign(rng.normal(0, 0.1, weight.shape))
    return vae


def main(n: int = 20000, rounds: int = 5) -> None:
    rng = np.random.default_rng(0)
    conditions = {
        "age": rng.uniform(20, 80, n),
        "sex": rng.choice(["male", "female"], n),
        "bmi": rng.uniform(18, 40, n),
    }
    print(f"{'network':10} {'first, s':>9} {'ECGs/s':>8} {'to npz':>8}")
    for name, keywords in NETWORKS.items():
        vae, seconds = build(keywords), []
        for _ in range(rounds + 1):
            with Timer() as timer:
                vae.generate(seed=0, **conditions)
            seconds.append(timer.wall)
        with tempfile.TemporaryDirectory() as folder:
            vae.save(Path(folder) / "model")
            with Timer() as timer:
                generate_files(
                    Path(folder) / "model", Path(folder) / "ecgs", conditions, n, format="npz"
                )
        rate = n / np.median(seconds[1:])
        print(f"{name:10} {seconds[0]:9.2f} {rate:8.0f} {n / timer.wall:8.0f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
