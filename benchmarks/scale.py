"""Memory and speed as a cohort grows: prepared, opened from disk, trained on.

    python -m benchmarks.scale --n 10000 100000 500000 [--steps 0] [--latent] [--judgement]

For each n a prepared cohort is written to a scratch folder (19 kB per ECG, twice that while it is
written): beats of 4,000 simulated subjects, over and over with noise of 5 uV. Then the default
network is trained on the training part of its split: in a process that has the ECGs on disk only,
and, where they fit, in one that has them in memory too and takes them from either in turn, since
machines are noisy. "ECG/s" is the median over calls of 13 steps, after the first, which compiles
or starts; "ratio" that of disk to memory within a round, median and range; "s / epoch" follows
from all calls: `--steps` steps a round, or with 0 a whole epoch. "CPU ms" is the processor time
that the batches of 1,000 ECGs take to make, measured by themselves. Before it is opened, and before
training from disk, the file leaves the system's cache: the disk is part of what is measured.

"peak" is what the system counts as memory of the process at most, pages of files included, and
"own" the part that is its own. `--latent` and `--judgement` add what follows training in a run.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.common import Timer, gigabytes, spread

CALLS = 3  # at least, of which the first compiles
SIMULATED = 4000
COLUMNS = ("rate", "epoch", "making", "peak", "own", "open", "adapt")


@dataclass(frozen=True)
class Options:
    """What is measured."""

    n: tuple[int, ...] = (10_000, 100_000)  # sizes of the cohorts
    steps: int = 260  # of training in a round; 0 is an epoch
    rounds: int = 5  # of training from disk and in memory, alternating
    latent: bool = False  # also the closed-form steps after training, from disk
    judgement: bool = False  # also the evaluation on the test part, from disk
    prepare: tuple[int, ...] = (5_000, 50_000)  # records to prepare; none to leave it out
    scratch: Path | None = None  # folder on the disk to measure


# ---- in the processes that are measured ----------------------------------------------------------


def peak_memory() -> float:
    """GB; `ru_maxrss` may be that of the parent, if that was larger, and VmHWM may not be there."""
    unit = 1e9 if sys.platform == "darwin" else 1e6
    peak = gigabytes("VmHWM")
    return peak if peak == peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def write_cohort(folder: Path, n: int) -> dict:
    import pandas as pd

    from data.cohort import Cohort
    from data.rows import write_array
    from data.synthetic import simulate

    few, rng = simulate(SIMULATED, seed=0), np.random.default_rng(0)
    source = np.arange(n) % SIMULATED

    def parts():
        for start in range(0, n, 2000):
            ecg = few.ecg[source[start : start + 2000]]
            yield ecg + np.float32(0.005) * rng.standard_normal(ecg.shape, np.float32)

    subjects = few.subjects.iloc[source][["age", "sex", "bmi"]].reset_index(drop=True)
    subjects.insert(0, "subject_id", np.arange(n))
    folder.mkdir()
    write_array(folder / "raw.npy", (n, *few.ecg.shape[1:]), parts())
    raw = np.load(folder / "raw.npy", mmap_mode="r")
    Cohort(raw, pd.DataFrame(subjects), source="benchmark").save(folder)
    (folder / "raw.npy").unlink()
    return {}


def train(
    folder: Path, n: int, steps: int, rounds: int, in_memory: bool, latent: bool, judgement: bool
) -> dict:
    import keras

    from config import CONFIG, DataConfig
    from training.batches import Batches
    from training.calls import Calls
    from training.provenance import Clock
    from training.setup import build_model, open_data, samples_of

    uncache(folder / "ecg.npy")
    config = dataclasses.replace(CONFIG, data=DataConfig(source="prepared", path=folder))
    clock = Clock()
    with clock.phase("open"):
        cohort, split, schema = open_data(config)
    on_disk = split.train.ecg
    if in_memory:
        split.train.ecg = np.array(on_disk)
    model = build_model(config, schema, cohort)
    with clock.phase("adapt"):
        model.adapt(split.train.ecg, split.train.subjects)
    samples = samples_of(split.train, model, config.model)
    model.compile(
        keras.optimizers.Adam(config.training.learning_rate),
        jit_compile=config.training.xla,
    )
    sources = {"disk": samples._replace(ecg=on_disk)} | ({"memory": samples} if in_memory else {})
    calls = {
        kind: Calls(Batches(source, config.training.batch_size)) for kind, source in sources.items()
    }
    taken, own = alternate(model, calls, folder / "ecg.npy", steps, rounds)
    kind = "memory" if in_memory else "disk"
    batches, seconds = calls[kind].batches, np.concatenate(taken[kind])
    found = {"rate": float(batches.batch_size / np.median(seconds))}
    found["epoch"] = float(len(batches) * seconds.mean())
    found |= {"peak": peak_memory(), "own": own}
    if in_memory:
        pairs = zip(taken["memory"], taken["disk"], strict=True)
        found["ratios"] = [float(np.median(memory) / np.median(disk)) for memory, disk in pairs]
    batches.start_epoch(rounds)  # other rows than those of the last round
    if not in_memory:
        uncache(folder / "ecg.npy")
    found["making"] = making(calls[kind])
    if latent:
        with clock.phase("latent"):
            model.standardise_latent(samples.ecg, samples.conditions)
        with clock.phase("prior"):
            model.fit_prior(samples.ecg, samples.conditions)
        found["peak of latent and prior"] = peak_memory()
    if judgement:
        from evaluation import evaluate

        with clock.phase("judgement"):
            evaluate(model, split, config.evaluation)
        found["peak of judgement"] = peak_memory()
    return found | clock.seconds


def alternate(
    model, calls: dict, file: Path, steps: int, rounds: int
) -> tuple[dict[str, list[np.ndarray]], float]:
    """Trains from each kind of `Calls` in turn.

    Returns:
        Of each kind, for each round, the seconds per step of its calls; GB of its own at most.
    """
    taken: dict[str, list[np.ndarray]] = {kind: [] for kind in calls}
    most = 0.0
    for number in range(rounds):
        for kind, made in calls.items():
            made.batches.start_epoch(number)
            if kind == "disk":
                uncache(file)
            seconds, own = paced(model, made, steps)
            taken[kind].append(seconds)
            most = max(most, own)
    return taken, most


def paced(model, calls, steps: int) -> tuple[np.ndarray, float]:
    """Seconds per step of each call but the first, and GB of its own at most."""
    import keras

    from training.calls import pipeline

    class Pace(keras.callbacks.Callback):
        """Notes the time after every call, and the most memory of its own."""

        def on_train_begin(self, logs=None):
            self.times, self.own = [], 0.0

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter())
            self.own = max(self.own, gigabytes("RssAnon"))

    number = min(steps or len(calls.batches), len(calls.batches)) // calls.steps
    if number < CALLS:
        raise SystemExit(
            f"Expected {CALLS * calls.steps} or more steps and batches. {steps} steps."
        )
    pace = Pace()
    keywords = {"steps_per_epoch": number, "shuffle": False, "verbose": 0}
    model.fit(pipeline(calls), callbacks=[pace], **keywords)
    return np.diff(pace.times) / calls.steps, pace.own


def making(calls) -> float:
    """Milliseconds of processor time for making 1000 ECGs' batches, with nothing beside it."""
    from training.calls import pipeline

    number = min(20, len(calls))
    made = iter(pipeline(calls))
    next(made)
    with Timer() as timer:
        for _ in range(1, number):
            next(made)
    ecgs = (number - 1) * calls.steps * calls.batches.batch_size
    return 1e6 * timer.cpu / ecgs


def uncache(file: Path) -> None:
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_simulated(number: int):
    """A beat, as a source that stores median beats gives it."""
    from data.beats import Beat

    ecg = np.random.default_rng(number).standard_normal((12, 400), np.float32)
    return Beat(ecg, 8, 9, 0.99, 5.0, 60.0)


def prepare(folder: Path, n: int) -> dict:
    import pandas as pd

    from data.readers.prepare import prepare as prepare_cohort

    own, done = [gigabytes("RssAnon")], threading.Event()
    watch = threading.Thread(target=lambda: watch_memory(own, done), daemon=True)
    watch.start()
    table = pd.DataFrame({"subject_id": np.arange(n)})
    with Timer() as timer:
        prepare_cohort(table, range(n), read_simulated, folder, "benchmark", workers=1)
    done.set()
    watch.join()
    return {"seconds": timer.wall, "peak": peak_memory(), "own": max(own)}


def watch_memory(own: list[float], done: threading.Event) -> None:
    while not done.wait(0.02):
        own.append(gigabytes("RssAnon"))


# ---- the tables ----------------------------------------------------------------------------------


def measured(function: str, folder: Path, *arguments) -> dict:
    """Calls a function of this file in a process of its own."""
    code = (
        "import json, sys; from pathlib import Path; from benchmarks import scale\n"
        "name, folder, *rest = json.loads(sys.argv[1])\n"
        "print(json.dumps(getattr(scale, name)(Path(folder), *rest)))"
    )
    call = json.dumps([function, str(folder), *arguments])
    done = subprocess.run([sys.executable, "-c", code, call], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)  # otherwise TensorFlow's start-up notes
    return json.loads(done.stdout.splitlines()[-1])


def report(folder: Path, n: int, options: Options) -> None:
    size = n * 12 * 400 * 4 / 1e9
    measured("write_cohort", folder, n)
    how = n, options.steps, options.rounds
    disk = measured("train", folder, *how, False, options.latent, options.judgement)
    print(f"{n:8d} {size:6.1f}  disk    {line(disk)}", flush=True)
    free = gigabytes("MemAvailable", "/proc/meminfo")
    if not free <= 1.5 * size:  # NaN where the system does not tell
        memory = measured("train", folder, *how, True, False, False)
        print(f"{'':17}memory  {line(memory)}  {spread(memory['ratios'], 2)}", flush=True)
    for name, value in disk.items():
        if name not in COLUMNS:
            print(f"{name:>27} {value:8.1f} {'GB' if 'peak' in name else 's'}")


def line(found: dict) -> str:
    """A row of the table, but for the ratio."""
    widths = {"rate": "7.0", "epoch": "10.0", "making": "7.1", "peak": "8.2", "own": "7.2"}
    widths |= {"open": "7.1", "adapt": "8.1"}
    return "".join(f"{found[name]:{width}f}" for name, width in widths.items())


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        names = "GB  ECGs in   ECG/s s / epoch CPU ms peak GB own GB open s adapt s  ratio (range)"
        print(f"{'n':>8}     {names}")
        for n in options.n:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                report(Path(folder) / "cohort", n, options)
        if options.prepare:
            print(" records  prepared / s  peak GB  own GB")
        for n in options.prepare:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                value = measured("prepare", Path(folder), n)
            rate = n / value["seconds"]
            print(f"{n:8d} {rate:13.0f} {value['peak']:8.2f} {value['own']:7.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
