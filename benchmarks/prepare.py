"""How many records per second become median beats, from WFDB files to a prepared cohort.

    python -m benchmarks.prepare --path /data/ptb-xl --n 2000

Without --path the records are simulated: beats of the simulated cohort, repeated to 10 s strips at
500 Hz with noise and baseline wander, written as WFDB. "CPU ms" is what one record costs where it
is read and where its beat is made, measured in this process; the rate with workers includes
starting them. Records are read once before, so that the disk is not what is measured.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
import wfdb

from data.beats import median_beat
from data.cohort import LEADS, QRS_SAMPLE, SAMPLES, derive_leads
from data.prepare import prepare
from data.ptbxl import WfdbReader
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


def cpu_ms(function, items) -> float:
    start = time.process_time()
    for item in items:
        function(item)
    return 1000 * (time.process_time() - start) / len(items)


def measure(folder: Path, options: Options, cache: Path) -> None:
    names = [
        str(file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("*.hea"))
    ][: options.n]
    read = WfdbReader(str(folder))
    strips = [read(name) for name in names[:200]]
    print(f"{len(names)} records")
    print(f"CPU ms per record: reading {cpu_ms(read, names[:200]):.2f}, beat ", end="")
    print(f"{cpu_ms(lambda strip: median_beat(*strip), strips):.2f}")
    print("workers   records/s   seconds   left out")
    for workers in options.workers:
        subjects = pd.DataFrame({"subject_id": names})
        start = time.perf_counter()
        cohort = prepare(subjects, names, read, cache / str(workers), "benchmark", workers=workers)
        seconds = time.perf_counter() - start
        rate = len(names) / seconds
        print(f"{workers:7d}   {rate:9.0f}   {seconds:7.1f}   {len(cohort.excluded):8d}")


if __name__ == "__main__":
    chosen = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        source = chosen.path
        if source is None:
            source = Path(scratch) / "records"
            source.mkdir()
            write_simulated(source, chosen.n)
        measure(source, chosen, Path(scratch))
