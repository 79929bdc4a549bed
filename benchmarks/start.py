"""Seconds to import what a command needs, and to end, without and with searches for garbage.

    python -m benchmarks.start [--rounds 5]

`training.quiet` imports Keras without them. Each import is a process of its own; they take turns.
"""

import subprocess
import sys
import time

import tyro

from benchmarks.common import alternating, spread

IMPORT = "from training.quiet import import_keras; import_keras(); import evaluation, vae"
SEARCHING = "import gc; gc.disable = gc.freeze = lambda: None; "


def seconds(code: str) -> float:
    """By the clock, of a process that runs this code."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(rounds: int = 5) -> None:
    """Prints median and range of both, and of their difference within a round."""
    ways = {
        "as commands do": lambda: seconds(IMPORT),
        "searching": lambda: seconds(SEARCHING + IMPORT),
    }
    taken = alternating(rounds, ways)  # the first round fills the cache of the system
    commands, searching = (values[1:] for values in taken.values())
    found = {
        **dict(zip(ways, (commands, searching), strict=True)),
        "difference": searching - commands,
    }
    for name, values in found.items():
        print(f"{name:15} {spread(values, 2)} s")


if __name__ == "__main__":
    tyro.cli(main)
