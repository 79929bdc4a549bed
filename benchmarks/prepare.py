"""How many records per second become median beats, from WFDB files to a prepared cohort.

    python -m benchmarks.prepare --path /data/ptb-xl --n 2000

Without --path the records are simulated: beats of the simulated cohort, repeated to 10 s strips at
500 Hz with noise and baseline wander, written as WFDB.

First what one record costs in CPU time where it is read and where its beat is made, in this
process, and the records per second that one core could do at that cost. Then the whole preparation,
by number of processes: as it is, start of the workers included; the start-up alone; the rate after
it; and the CPU time of all processes together, which tells more than the clock where other programs
share the machine. Records are read once before, so that the disk is not what is measured.
"""

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
import wfdb

from benchmarks.common import Timer, cpu_ms
from data.beats import BeatError, Strip, median_beat
from data.cohort import LEADS, QRS_SAMPLE, SAMPLES, derive_leads
from data.readers.prepare import SHARD_SIZE, prepare
from data.readers.ptbxl import WfdbReader
from data.synthetic import simulate


@dataclass(frozen=True)
class Options:
    """What is measured."""

    path: Path | None = None  # folder with WFDB records anywhere below; simulated ones if left out
    n: int = 1000  # number of records at most
    workers: tuple[int, ...] = (1, 2)  # numbers of processes, one row of the table each


def write_simulated(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    time_s = np.arange(5000) / 500
    for number, beat in enumerate(simulate(n, seed=0).ecg):
        disturbance = 0.02 * rng.standard_normal((8, 5000))
        disturbance += 0.2 * np.sin(2 * np.pi * 0.25 * time_s + rng.uniform(0, 6.28, (8, 1)))
        strip = derive_leads(disturbance)
        for centre in range(QRS_SAMPLE + 10, 5000 - SAMPLES, int(rng.integers(400, 550))):
            strip[:, centre - QRS_SAMPLE : centre - QRS_SAMPLE + SAMPLES] += beat
        wfdb.wrsamp(
            f"{number:06d}",
            fs=500,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            p_signal=strip.T,
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder),
        )


def timed(folder: Path, names: list[str], workers: int) -> tuple[float, float, int]:
    """Prepares a cohort: seconds by the clock, CPU seconds, number of records left out."""
    subjects = pd.DataFrame({"subject_id": names})
    with tempfile.TemporaryDirectory() as cache:
        with Timer() as timer:
            cohort = prepare(
                subjects, names, WfdbReader(str(folder)), cache, "benchmark", workers=workers
            )
        return timer.wall, timer.cpu, len(cohort.excluded)


def make_beat(strip: Strip) -> None:
    with suppress(BeatError):
        median_beat(*strip)


def measure(folder: Path, options: Options) -> None:
    files = sorted(folder.rglob("*.hea"))[: options.n]
    names = [str(file.relative_to(folder).with_suffix("")) for file in files]
    if len(names) <= max(options.workers) * SHARD_SIZE:
        raise SystemExit(f"Expected more than {SHARD_SIZE} records per worker. Got {len(names)}.")
    read = WfdbReader(str(folder))
    strips = [read(name) for name in names[:200]]
    (reading, _), (beat, _) = cpu_ms(read, names[:200]), cpu_ms(make_beat, strips)
    print(f"{len(names)} records. CPU ms per record: reading {reading:.2f}, beat {beat:.2f}")
    print(f"At most {1000 / (reading + beat):.0f} records/s on one core")
    print("workers  records/s  seconds  start-up s  records/s after it  CPU ms/record  left out")
    for workers in options.workers:
        few = names[: workers * SHARD_SIZE]
        seconds, cpu, left_out = timed(folder, names, workers)
        rate = (len(names) - len(few)) / (seconds - timed(folder, few, workers)[0])
        print(
            f"{workers:7d}  {len(names) / seconds:9.0f}  {seconds:7.1f}"
            f"  {seconds - len(names) / rate:10.1f}  {rate:18.0f}"
            f"  {1000 * cpu / len(names):13.2f}  {left_out:8d}"
        )


if __name__ == "__main__":
    chosen = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        source = chosen.path
        if source is None:
            source = Path(scratch) / "records"
            source.mkdir()
            write_simulated(source, chosen.n)
        measure(source, chosen)
