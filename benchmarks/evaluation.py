"""Where the time of judging a run goes, part by part, report and explorer included.

    python -m benchmarks.evaluation RUN [--rounds 3] [--metrics FILE]

The run is read and judged as `python -m evaluation RUN` does it, and its results go to a scratch
folder. Each round loads the model anew, so that TensorFlow compiles as after training. Where other
programs share the machine, the time of the processor tells more than the clock, and with
OMP_NUM_THREADS=1 most: threads of the linear algebra library that wait for each other count too.
`--metrics` keeps the numbers, so that two versions of the code can be compared.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from benchmarks.common import gigabytes
from training.quiet import import_keras


class Parts:
    """Seconds of each part by the clock and of the processor, to when the next one begins."""

    def __init__(self) -> None:
        self.taken: dict[str, np.ndarray] = {}
        self.name, self.began = "", np.zeros(2)

    def begin(self, name: str) -> None:
        """Ends the part before."""
        now = np.array([time.perf_counter(), time.process_time()])
        if self.name:
            self.taken[self.name] = now - self.began
        self.name, self.began = name, now


def main(run: tyro.conf.Positional[str], rounds: int = 1, metrics: Path | None = None) -> None:
    """Prints two columns of seconds for each round."""
    import_keras()
    from evaluation import judge
    from evaluation.again import own_data, read_config
    from evaluation.draw import draw
    from evaluation.explorer.page import write_explorer
    from evaluation.explorer.reference import of_training
    from evaluation.report.page import write_results
    from training.run_folder import find_run
    from vae import VAE

    folder = find_run(run)
    config = read_config(folder)
    _, split, _ = own_data(folder, config, None)
    history = pd.read_csv(folder / "history.csv")
    taken = []
    for _ in range(rounds):
        model, parts = VAE.load(folder), Parts()
        parts.begin("encoding")
        posterior = model.encode(split.test.ecg, split.test.subjects)
        made = judge.Reconstruction(model, posterior[0], split.test.subjects)
        found = judge.measured(model, split, config.evaluation, posterior, made, parts.begin)
        parts.begin("figures")
        drawn = draw(model, split, found, made, posterior, config.evaluation, history)
        if "survival" in found:
            drawn |= judge.draw_risk(model, judge._followed(split), found["survival"])
        parts.begin("report and explorer")
        with tempfile.TemporaryDirectory() as scratch:
            page = partial(
                write_explorer, model=model, title="run", reference=of_training(split.train)
            )
            write_results(Path(scratch), found, drawn, page)
            if metrics is not None:
                shutil.copyfile(Path(scratch) / "metrics.json", metrics)
        parts.begin("")
        taken.append(parts.taken | {"all": sum(parts.taken.values())})
    print(
        f"{'Seconds by the clock, of the processor':40}"
        + "".join(f"{i:^16}" for i in range(rounds))
    )
    for name in taken[0]:
        pairs = ("{:8.1f}{:8.1f}".format(*one[name]) for one in taken)
        print(f"{name:24}" + "".join(pairs))
    print(f"Memory at most: {gigabytes('VmHWM'):.2f} GB")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
