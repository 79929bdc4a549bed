"""Whole runs of `train.py` on one GPU, from start to report, phase by phase.

    KERAS_BACKEND=jax python -m benchmarks.gpu_run [--runs paper_4096 stock ...] [--tiny]

`paper_256` and `paper_4096` are the published network in 300 epochs of 40,000 simulated ECGs with
batches of so many; `default` and `prediction` the presets; `stock` is `paper_4096` with Keras's own
layers, three epochs, no evaluation and no explorer. Each is a process of its own in a temporary
folder. Printed are seconds as each phase ends, so that a time limit loses little, then what the run
reached and the most memory of the device that was in use. `--tiny` tries the script anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import tyro

os.environ.setdefault("KERAS_BACKEND", "jax")

ROOT = Path(__file__).resolve().parents[1]
PAPER = ["--preset", "paper", "--data.subjects", "53334"]  # 40,000 of them train
RUNS = {
    "paper_4096": [*PAPER, "--training.batch-size", "4096"],
    "stock": [*PAPER, "--training.batch-size", "4096", "--training.epochs", "3"],
    "paper_256": [*PAPER, "--training.batch-size", "256"],
    "default": ["--preset", "default"],
    "prediction": ["--preset", "prediction"],
}
TINY = ["--data.subjects", "200", "--training.epochs", "2", "--training.batch-size", "50"]
TINY += ["--evaluation.bootstrap", "100", "--evaluation.generated", "5"]


def one(name: str, tiny: bool) -> None:
    """A run in this process and the current folder."""
    started = time.perf_counter()
    import keras

    from model import network
    from train import main
    from training.provenance import Clock

    timed = Clock.phase

    @contextlib.contextmanager
    def told(clock: Clock, phase: str):
        with timed(clock, phase):
            yield
        print(f"{name}: {phase} took {clock.seconds[phase]:.1f} s", flush=True)

    print(f"{name}: imports took {time.perf_counter() - started:.1f} s", flush=True)
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(Clock, "phase", told))
        if name == "stock":
            patches.enter_context(mock.patch.object(network, "Stack", keras.Sequential))
            patches.enter_context(mock.patch("evaluation.evaluate", return_value=({}, {})))
            patches.enter_context(mock.patch("evaluation.explorer.page.write_explorer"))
        main([*RUNS[name], *(TINY if tiny else []), "--run", name])
    print(f"{name}: {time.perf_counter() - started:.1f} s in all", flush=True)
    training = json.loads(Path("runs", name, "metrics.json").read_text("utf-8"))["training"]
    peak = memory()
    print(
        f"{name}: {training['epochs']} epochs, {training['ecgs_per_second']:,.0f} ECGs/s in the "
        f"median epoch, compiling {training['compile_seconds']:.1f} s; "
        + (f"{peak / 2**30:.1f} GiB of the device at most" if peak else "memory of it not told"),
        flush=True,
    )


def memory() -> int:
    """Most bytes of the first device that were in use; 0 where it does not tell."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def main(
    runs: tuple[str, ...] = tuple(RUNS), tiny: bool = False, each: bool = False, limit: int = 570
) -> None:
    """Runs them in turn.

    Args:
        runs: of `RUNS`.
        tiny: a few ECGs.
        each: here, without a process and a folder of its own.
        limit: seconds after which no further run begins, and one that has not ended is stopped.
    """
    if each:
        one(*runs, tiny)
        return
    end = time.monotonic() + limit
    for name in runs:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.gpu_run", "--each", "--runs", name]
            process = subprocess.Popen(
                [*command, *(["--tiny"] if tiny else [])],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            with process.stdout as lines:
                for line in lines:
                    if not line.startswith("epoch") or line.split("/")[0].endswith(("0", " 1")):
                        print(line, end="", flush=True)  # every tenth epoch
                    if time.monotonic() > end:
                        process.kill()
            if process.wait():
                print(f"{name}: ended with {process.returncode}", flush=True)
        if time.monotonic() > end:
            break


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
