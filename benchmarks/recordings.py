"""How many files per second of each format become median beats, from a folder to a cohort.

    python -m benchmarks.recordings --n 300
    python -m benchmarks.recordings --folder /data/exports

Files are written from simulated strips of 10 s with 12 leads at 500 Hz, one format after the other
(DICOM, MUSE and CardioSoft with median beats besides). For each: size of a file, CPU time to tell
the format, to read, and to make the beat, in this process, after the first file, which imports what
its format needs; the files per second that one core could do at that cost; and those of the whole
preparation by the clock with each number of processes, their start of a second or two included.
Files are read once before, so that the disk is not what is measured. The memory is the most that
any process held.
"""

import resource
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path

import tyro

from benchmarks.common import Timer, cpu_ms
from data.beats import median_beat
from data.readers.formats import HEAD, tell_format
from data.readers.recordings import find_files, load_recordings, read_file
from tests.recording_files import FORMATS, Patient, challenge
from tests.simulated_strips import rhythm_strip


@dataclass(frozen=True)
class Options:
    """What is measured."""

    folder: Path | None = None  # recordings of yours; simulated ones of each format if left out
    n: int = 300  # files of each format
    workers: tuple[int, ...] = (1, 2)  # numbers of processes


def write_all(folder: Path, kind: str, n: int) -> None:
    folder.mkdir()
    for number in range(n):
        strip = rhythm_strip(55 + number % 40, noise=0.02, wander=0.1, seed=number)
        one = Patient(strip=strip, patient_id=f"P{number}")
        one = replace(one, recorded=datetime(2019, 1, 1) + timedelta(minutes=7 * number))
        if kind == "WFDB":
            challenge(folder, f"A{number:05d}", one)
        else:
            (folder / f"{number:06d}").write_bytes(FORMATS[kind](one))


def files_per_second(folder: Path, files: list, workers: int) -> float:
    """By the clock."""
    with tempfile.TemporaryDirectory() as cache, Timer() as timer, redirect_stdout(StringIO()):
        load_recordings(folder, cache, workers=workers)
    return len(files) / timer.wall


def measure(name: str, folder: Path, options: Options) -> None:
    files = find_files(folder)
    paths = [folder / file.name for file in files][:100]
    first = paths[0]
    read_file(first, tell_format(first, first.open("rb").read(HEAD)), False)
    telling, kinds = cpu_ms(lambda path: tell_format(path, path.open("rb").read(HEAD)), paths)
    reading, found = cpu_ms(
        lambda pair: read_file(*pair, False), list(zip(paths, kinds, strict=True))
    )
    beat, _ = cpu_ms(lambda pair: median_beat(*pair[0]), found)
    rates = [files_per_second(folder, files, workers) for workers in options.workers]
    size = sum(file.size for file in files) / len(files) / 1000
    print(
        f"{name:15s} {size:6.0f} kB  {telling:5.2f} {reading:6.2f} {beat:5.2f} "
        f"{1000 / (telling + reading + beat):11.0f}   " + "  ".join(f"{one:5.0f}" for one in rates),
        flush=True,
    )


def main(options: Options) -> None:
    print("format            file    CPU ms: tell, read, beat  files/s of a core  by processes")
    if options.folder is not None:
        measure("yours", options.folder, options)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            for kind in (*FORMATS, "WFDB"):
                folder = Path(scratch) / kind
                write_all(folder, kind, options.n)
                measure(kind, folder, options)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"At most {peak / 1e6:.2f} GB of memory in one process.")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
