"""Training speed: the networks of the presets as stock Keras layers and as they are here.

    python -m benchmarks.training [--rounds 9] [--ecgs 1024]
    python -m benchmarks.training --linear     seconds per epoch as the cohort grows
    python -m benchmarks.training --profile    where the time of a step goes, and its floor
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
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "--profile" in sys.argv:  # before TensorFlow reads it: kernels by their names
    os.environ["XLA_FLAGS"] = "--xla_cpu_enable_xprof_traceme=true"

import keras
import numpy as np
import tyro

from benchmarks.common import ARCHITECTURE, Timer, alternating, spread
from model import network
from training.batches import Batches, Samples
from training.calls import Calls, pipeline
from vae import PUBLISHED, VAE

NETWORKS = {"published": PUBLISHED, "default": {}}
WARPED = {"noise": "per_sample", "time_warp": 41}
KINDS = ("stock", "stock, XLA", "ours")
BATCHES = (32, 256)
PRODUCT = re.compile(r"(MatMul|dot)(_\d+)?(\.\d+)*$")
KERNEL = re.compile(r".*(_fusion|copy|concat|reduce|wrapped_\w+|transpose|slice|pad)(\.\d+)*$")


class Profiled(NamedTuple):
    """A network, and what else says how long a step takes."""

    keywords: dict
    batch: int = 32
    augmentation: float = 0.0
    gradient_norm: float | None = None


PROFILED = {name: Profiled(keywords) for name, keywords in NETWORKS.items()} | {
    "preset default": Profiled(WARPED, 64),
    "preset ptbxl": Profiled({"latent_space_dim": 48, "hidden": (256,)} | WARPED, 32, 3.0, 2000.0),
}


def build(keywords: dict, kind: str, gradient_norm: float | None = None) -> VAE:
    """A compiled network."""
    ours = kind == "ours"
    with mock.patch.object(network, "Stack", network.Stack if ours else keras.Sequential):
        sizes = {"latent_space_dim": ARCHITECTURE[-1], "condition_dim": 3}
        model = VAE(*ARCHITECTURE[:-1], **sizes | keywords)
    adam = keras.optimizers.Adam(1e-3, global_clipnorm=gradient_norm)
    model.compile(optimizer=adam, jit_compile=kind != "stock")
    return model


class Clock(keras.callbacks.Callback):
    """Times each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Timer] = []

    def on_epoch_begin(self, epoch, logs=None):
        """See the class."""
        self.timers.append(Timer().__enter__())

    def on_epoch_end(self, epoch, logs=None):
        """See the class."""
        self.timers[-1].__exit__()

    @property
    def seconds(self) -> list[float]:
        """Of each epoch."""
        return [timer.wall for timer in self.timers]


def seconds(model: VAE, kind: str, samples: Samples, batch: int, augmentation: float = 0) -> float:
    """Of one epoch, see `timed`."""
    return timed(model, kind, samples, batch, augmentation).wall


def timed(model: VAE, kind: str, samples: Samples, batch: int, augmentation: float = 0) -> Timer:
    """One epoch, the second of two: `fit` takes a moment to begin."""
    clock = Clock()
    keywords = {"epochs": 2, "verbose": 0, "callbacks": [clock]}
    if kind == "ours":
        batches = Batches(samples, batch, augmentation=augmentation)
        model.fit(pipeline(Calls(batches)), shuffle=False, **keywords)
    else:
        model.fit((samples.ecg, samples.conditions), batch_size=batch, **keywords)
    return clock.timers[-1]


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
        model = build(PROFILED["preset ptbxl"].keywords, "ours")
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


def profile_steps(rounds: int, n: int) -> None:
    speed = peak()
    print("ms per step, by the clock and of processor time; floor: processor time of the matrix")
    print(f"products alone at the {speed / 1e9:.0f} GFLOP/s that a large one reaches on a core")
    head = ("batch", "step", "CPU", "floor", "MFLOP", "products", "others")
    print(f"{'network':16}" + "".join(f"{name:>10}" for name in head))
    samples = simulated(n)
    for name, profiled in PROFILED.items():
        batch, steps = profiled.batch, n // profiled.batch
        model = build(profiled.keywords, "ours", profiled.gradient_norm)
        epoch = partial(timed, model, "ours", samples, batch, profiled.augmentation)
        timers = [epoch() for _ in range(rounds + 1)][1:]  # the first compiles
        wall, cpu = (
            1000 * np.median([getattr(timer, kind) for timer in timers]) / steps
            for kind in ("wall", "cpu")
        )
        took = kernels(epoch, 2 * steps)
        products = sum(ms for label, ms in took.items() if PRODUCT.match(label))
        flop = product_flop(model, samples, batch)
        row = (wall, cpu, 1000 * flop / speed, flop / 1e6, products, sum(took.values()) - products)
        print(f"{name:16}{batch:10}" + "".join(f"{each:10.1f}" for each in row), flush=True)


def peak() -> float:
    """FLOP of a product of large matrices in a second of processor time, the best of some."""
    import tensorflow as tf

    size, taken = 2048, []
    product = tf.function(tf.matmul, jit_compile=True)
    one = tf.ones((size, size))
    for _ in range(20):
        with Timer() as timer:
            product(one, one).numpy()
        taken.append(timer.cpu)
    return 2 * size**3 / min(taken)


def product_flop(model: VAE, samples: Samples, batch: int) -> float:
    """Of the matrix products of loss and gradient of a batch."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            outputs = model((samples.ecg[:batch], samples.conditions[:batch]), training=True)
            loss = model.compute_loss(y_pred=outputs)
        return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    total = 0.0
    for operation in gradients.get_concrete_function().graph.get_operations():
        if "MatMul" in operation.type:
            turned = operation.type == "MatMul" and operation.get_attr("transpose_a")
            turned = turned or "Batch" in operation.type and operation.get_attr("adj_x")
            shared = operation.inputs[0].shape[-2 if turned else -1]
            total += 2.0 * shared * operation.outputs[0].shape.num_elements()
    return total


def kernels(run: Callable[[], object], steps: int) -> dict[str, float]:
    """Milliseconds of each kernel in a step: its median, since other programs interrupt it."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    options = tf.profiler.experimental.ProfilerOptions(2, 0)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, options):
            run()
        [file] = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        space = xplane_pb2.XSpace()
        with open(file, "rb") as content:
            space.ParseFromString(content.read())
    taken = defaultdict(list)
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                label = plane.event_metadata[event.metadata_id].name
                if PRODUCT.match(label) or KERNEL.match(label):
                    taken[label].append(event.duration_ps / 1e9)
    return {label: float(np.median(each)) * len(each) / steps for label, each in taken.items()}


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
        profile_steps(rounds, ecgs)
    elif linear:
        grow(rounds)
    else:
        compare(rounds, ecgs)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
