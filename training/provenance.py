"""What a run was made of, such as versions, commit and data, and how long it took."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from config import Config, to_dict
from data import Cohort
from data.cohort import default_qrs_sample
from data.rows import chunks
from data.units import MV

PACKAGES = (
    *("tensorflow", "keras", "jax", "numpy", "scipy", "pandas", "lifelines"),
    *("wfdb", "ecgdatakit", "pydicom"),
)
CHUNK = 4096  # recordings hashed at a time, so that a memory-mapped cohort stays on disk


def describe(cohort: Cohort, columns: Sequence[str] | None = None) -> dict[str, object]:
    """Everything that decides what numbers come out, beside the configuration.

    Args:
        cohort: what is trained on.
        columns: of the subjects that count; all where left out.

    Returns:
        `data` (source, number of recordings, sha256 of ECGs and subjects), `columns`, `commit` (of
        the code; None outside a git checkout, with "-dirty" where files were changed), `device`,
        `backend`, `python`, `platform` and `packages`, plain values for JSON.
    """
    import keras

    return {
        "data": {
            "source": cohort.source,
            "recordings": len(cohort),
            "fingerprint": fingerprint(cohort, columns),
        },
        "columns": _there(cohort, columns),
        "commit": commit(),
        "device": ", ".join(keras.distribution.list_devices()),
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def fingerprint(cohort: Cohort, columns: Sequence[str] | None = None) -> str:
    """Sha256 of ECGs, how they were recorded, and these columns of the subjects, or all.

    A run keeps the names of the columns that there were, so that one added later is no change.
    """
    recorded = cohort.leads, cohort.sampling_rate, cohort.ecg.shape
    if cohort.qrs_sample != default_qrs_sample(cohort.sampling_rate):
        recorded += (cohort.qrs_sample,)
    if cohort.unit != MV:
        recorded += (cohort.unit,)
    digest = hashlib.sha256(repr(recorded).encode())
    for _, ecg in chunks(cohort.ecg, CHUNK):
        digest.update(np.ascontiguousarray(ecg))
    digest.update(cohort.subjects[_there(cohort, columns)].to_csv(index=False).encode())
    return digest.hexdigest()


def _there(cohort: Cohort, columns: Sequence[str] | None) -> list[str]:
    """Those of the columns that the subjects have, or all."""
    wanted = cohort.subjects.columns if columns is None else columns
    return [name for name in wanted if name in cohort.subjects]


def what_is_trained(config: Config, cohort: Cohort) -> str:
    """Settings, but for where files lie, and the data: the same on machines that train together."""
    settings = to_dict(config)
    for name in ("path", "cache", "outcomes", "workers"):
        del settings["data"][name]
    del settings["training"]["warm_start"]
    return f"{settings} {fingerprint(cohort)}"


def commit() -> str | None:
    """The commit that this code is at, with "-dirty" if it was changed since."""
    here = Path(__file__).parent.parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]
    try:
        # The top of the checkout must be ours: copied into another project, its commit says nothing
        top = _output(["git", "-C", str(here), "rev-parse", "--show-toplevel"])
        return _output(command) if Path(top).resolve() == here.resolve() else None
    except (OSError, subprocess.SubprocessError):
        return None


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class Clock:
    """Seconds of each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.0f} s: {parts}"


def speed(history: pd.DataFrame, recordings: int, clock: Clock, watch: str) -> dict:
    """Section `training` of the metrics.

    Args:
        history: a row per epoch.
        recordings: in the training split.
        clock: of the run so far.
        watch: what the best epoch goes by.
    """
    import keras

    from training.checkpoint import best_epoch

    epoch = float(history["seconds"].median())
    return {
        "epochs": len(history),
        "best_epoch": best_epoch(history.to_dict("records"), f"val_{watch}") + 1,
        # The median epoch, with its validation and checkpoint.
        "ecgs_per_second": recordings / epoch,
        "compile_seconds": max(0.0, float(history["seconds"].iloc[0]) - epoch),
        **{f"{name}_seconds": seconds for name, seconds in clock.seconds.items()},
        "seconds": sum(clock.seconds.values()),
        "device": ", ".join(keras.distribution.list_devices()),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}",
    }
