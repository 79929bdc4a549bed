"""What a run was made of: versions, commit, device and a fingerprint of the data."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rows import chunks

if TYPE_CHECKING:
    from data import Cohort

PACKAGES = ("tensorflow", "keras", "jax", "numpy", "scipy", "pandas", "lifelines", "wfdb")
CHUNK = 4096  # recordings hashed at a time, so that a memory-mapped cohort stays on disk


def describe(cohort: Cohort) -> dict[str, object]:
    """Everything that decides what numbers come out, beside the configuration.

    Returns:
        `data` (source, number of recordings, sha256 of ECGs and subjects), `commit` (of the code;
        None outside a git checkout, with "-dirty" where files were changed), `device`, `backend`,
        `python`, `platform` and `packages`, plain values for JSON.
    """
    import keras

    return {
        "data": {
            "source": cohort.source,
            "recordings": len(cohort),
            "fingerprint": fingerprint(cohort),
        },
        "commit": commit(),
        "device": ", ".join(keras.distribution.list_devices()),
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def fingerprint(cohort: Cohort) -> str:
    """Sha256 of everything that training and evaluation read of a cohort."""
    digest = hashlib.sha256(repr((cohort.leads, cohort.sampling_rate, cohort.ecg.shape)).encode())
    for _, ecg in chunks(cohort.ecg, CHUNK):
        digest.update(np.ascontiguousarray(ecg))
    digest.update(cohort.subjects.to_csv(index=False).encode())
    return digest.hexdigest()


def commit() -> str | None:
    """The commit that this code is at, with "-dirty" if it was changed since."""
    here = Path(__file__).parent
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
