"""Training speed: the networks of the presets as stock Keras layers and as they are here.

    python -m benchmarks.training [--rounds 9] [--ecgs 1024]
    python -m benchmarks.training --linear     seconds per epoch as the cohort grows
    python -m benchmarks.training --profile    where the time of a step goes
    python -m benchmarks.training --augmentation [--busy 1]    what augmentation adds to an epoch,
                                                               with so many cores busy otherwise

"stock" is what Keras does by itself on a CPU: its own layers, `fit` with arrays, no XLA. "stock,
XLA" shows how much of the difference the compiler makes. "ours" is what `training.fit` does:
blocks, XLA, its pipeline, up to 32 steps to a call. All have the same weights; their outputs are
compared first. Rounds alternate between them in one process, since machines are noisy; shown are
the medians, and the median and range of the ratio of ours to stock within a round.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "--profile" in sys.argv:  # before TensorFlow reads it: kernels by their names
    os.environ["XLA_FLAGS"] = "--xla_cpu_enable_xprof_traceme=true"

import keras
import numpy as np
import tyro

from benchmarks.common import ARCHITECTURE, alternating, spread
from model import network
from training.batches import Batches, Samples
from training.calls import Calls, pipeline
from vae import PUBLISHED, VAE

NETWORKS = {"published": PUBLISHED, "default": {}}
KINDS = ("stock", "stock, XLA", "ours")
BATCHES = (32, 256)
PRODUCT = re.compile(r"(MatMul|dot)(_\d+)?(\.\d+)*$")
KERNEL = re.compile(r".*(_fusion|copy|concat|reduce|wrapped_\w+|transpose|slice|pad)(\.\d+)*$")


def build(keywords: dict, kind: str) -> VAE:
    """A compiled network."""
    ours = kind == "ours"
    with mock.patch.object(network, "Stack", network.Stack if ours else keras.Sequential):
        model = VAE(*ARCHITECTURE, 3, **keywords)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=kind != "stock")
    return model


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        """See the class."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """See the class."""
        self.seconds.append(time.perf_counter() - self.started)


def seconds(model: VAE, kind: str, samples: Samples, batch: int, augmentation: float = 0) -> float:
    """Of one epoch, the second of two: `fit` takes a moment to begin."""
    clock = Clock()
    keywords = {"epochs": 2, "verbose": 0, "callbacks": [clock]}
    if kind == "ours":
        batches = Batches(samples, batch, augmentation=augmentation)
        model.fit(pipeline(Calls(batches)), shuffle=False, **keywords)
    else:
        model.fit((samples.ecg, samples.conditions), batch_size=batch, **keywords)
    return clock.seconds[-1]


def simulated(n: int) -> Samples:
    """Noise: the values do not change the speed."""
    rng = np.random.default_rng(0)
    ecg = rng.standard_normal((n, 12, 400), np.float32)
    return Samples(ecg, rng.standard_normal((n, 3), np.float32))


def compare(rounds: int, n: int) -> None:
    samples = simulated(n)
    kinds = "".join(f"{kind:>12}" for kind in KINDS)
    print(f"{'network':10} {'batch':>5}  {kinds}   ratio (range)")
    for name, keywords in NETWORKS.items():
        for batch in BATCHES:
            models = {kind: build(keywords, kind) for kind in KINDS}
            for model in models.values():
                model.set_weights(models["stock"].get_weights())
            few = samples.ecg[:64], samples.conditions[:64]
            outputs = [model.reconstruct(*few) for model in models.values()]
            difference = max(np.abs(output - outputs[0]).max() for output in outputs)
            if difference > 1e-5:
                raise SystemExit(f"{name}: outputs differ by {difference:.2g} mV.")
            epochs = {
                kind: partial(seconds, model, kind, samples, batch)
                for kind, model in models.items()
            }
            times = {kind: each[1:] for kind, each in alternating(rounds, epochs).items()}
            row = "".join(f"{n / np.median(each):12.0f}" for each in times.values())
            ratios = times["stock"] / times["ours"]  # of one round each
            print(f"{name:10} {batch:5}  {row}   {spread(ratios, 1)}", flush=True)


def grow(rounds: int) -> None:
    model = build({}, "ours")
    sizes = (4096, 8192, 16384, 32768)
    epochs = {n: partial(seconds, model, "ours", simulated(n), 64) for n in sizes}
    taken = alternating(rounds, epochs)
    print(f"{'ECGs':>7} {'s per epoch':>12} {'ms per 1000':>12}")
    for n, each in taken.items():
        epoch = np.median(each[1:])
        print(f"{n:7} {epoch:12.2f} {1e6 * epoch / n:12.0f}", flush=True)


def augment(rounds: int, n: int, busy: int) -> None:
    samples, epochs = simulated(n), {}
    for strength in (0.0, 3.0):
        model = VAE(*ARCHITECTURE[:-1], 48, 3, hidden=(256,), time_warp=41, noise="per_sample")
        model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=True)
        epochs[strength] = partial(seconds, model, "ours", samples, 32, strength)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        taken = {strength: each[1:] for strength, each in alternating(rounds, epochs).items()}
    finally:
        for other in others:
            other.kill()
            other.wait()
    print(f"{'busy':>4} {'s without':>10} {'s with':>8}   ratio (range)")
    medians = "".join(f"{np.median(each):10.2f}" for each in taken.values())
    print(f"{busy:4} {medians}   {spread(taken[3.0] / taken[0.0], 2)}", flush=True)


def profile_steps(n: int) -> None:
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    print("ms per step of 32; kernels that run at the same time count twice")
    head = ("step", "XLA", "products", "element-wise", "rest of step")
    print(f"{'network':10}" + "".join(f"{name:>14}" for name in head))
    samples, batch = simulated(n), 32
    for name, keywords in NETWORKS.items():
        model = build(keywords, "ours")
        model.fit(pipeline(Calls(Batches(samples, batch))), shuffle=False, verbose=0)
        options = tf.profiler.experimental.ProfilerOptions(2, 0)
        with tempfile.TemporaryDirectory() as folder:
            with tf.profiler.experimental.Profile(folder, options):
                step = seconds(model, "ours", samples, batch) / (n // batch)
            [file] = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
            space = xplane_pb2.XSpace()
            with open(file, "rb") as content:
                space.ParseFromString(content.read())
        total: Counter[str] = Counter()
        for plane in space.planes:
            for line in plane.lines:
                for event in line.events:
                    label = plane.event_metadata[event.metadata_id].name
                    total[label] += event.duration_ps / 1e9 / (2 * (n // batch))  # two epochs
        products = sum(ms for label, ms in total.items() if PRODUCT.match(label))
        others = sum(
            ms for label, ms in total.items() if KERNEL.match(label) and not PRODUCT.match(label)
        )
        xla = total["CpuExecutable::ExecuteAsyncOnStream"]
        row = (1000 * step, xla, products, others, 1000 * step - xla)
        print(f"{name:10}" + "".join(f"{ms:14.2f}" for ms in row), flush=True)


def main(
    rounds: int = 9,
    ecgs: int = 1024,
    linear: bool = False,
    profile: bool = False,
    augmentation: bool = False,
    busy: int = 0,
) -> None:
    if augmentation:
        augment(rounds, ecgs, busy)
    elif profile:
        profile_steps(ecgs)
    elif linear:
        grow(rounds)
    else:
        compare(rounds, ecgs)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
