"""What the benchmarks share: the network's shape, clocks, rounds that alternate, memory.

Nothing here imports TensorFlow: some benchmarks measure the memory of processes without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from config import CONDITIONS
from data.conditions import ConditionSchema

# Of the presets `default` and `paper`: input, filters, kernels, paddings, latent dimensions.
ARCHITECTURE = ((12, 400), (5, 5), ((1, 40), (12, 1)), ("same", "valid"), 10)


def schema_for(subjects: pd.DataFrame) -> ConditionSchema:
    """Age, sex and BMI, as in the default preset."""
    return ConditionSchema([CONDITIONS[name] for name in ("age", "sex", "bmi")]).fit(subjects)


class Timer:
    """Of what is done within a `with`: seconds by the clock, and CPU seconds of all processes."""

    def __enter__(self) -> Timer:
        self.wall, self.cpu = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, self._cpu() - self.cpu

    @staticmethod
    def _cpu() -> float:
        used = os.times()  # of children, those that have ended
        return time.process_time() + used.children_user + used.children_system


def cpu_ms(function: Callable, items: Sequence) -> tuple[float, list]:
    """CPU milliseconds that a function takes for an item, and what it returns for each."""
    with Timer() as timer:
        results = [function(item) for item in items]
    return 1000 * timer.cpu / len(items), results


def alternating(rounds: int, functions: Mapping[str, Callable[[], float]]) -> dict[str, np.ndarray]:
    """What functions return when they are called in turn, since machines are noisy.

    Returns:
        (1 + rounds,) of each: the first round, which compiles, comes besides.
    """
    taken = [[function() for function in functions.values()] for _ in range(rounds + 1)]
    return dict(zip(functions, np.transpose(taken), strict=True))


def spread(values: np.ndarray, digits: int) -> str:
    """Median and range."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def gigabytes(name: str, file: str = "/proc/self/status") -> float:
    """A line of what the system tells of memory, in GB; NaN where it does not tell."""
    lines = Path(file).read_text().splitlines() if Path(file).is_file() else []
    found = [int(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{name}:")]
    return found[0] if found else float("nan")
