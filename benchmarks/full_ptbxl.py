"""How long a run on all of PTB-XL takes, rehearsed on a part of it that is repeated.

    python -m benchmarks.full_ptbxl FOLDER [--records 21799] [--epochs 5]

The records in FOLDER are taken over and over, under new numbers, until there are so many. The
preset `ptbxl` reads, trains and judges them, in fewer epochs; the others are added at the speed of
the median epoch. What the model learns means nothing: it is judged on what it was trained on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from config import PRESETS

ROOT = Path(__file__).resolve().parents[1]
TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"


def main(folder: tyro.conf.Positional[Path], records: int = 21_799, epochs: int = 5) -> None:
    """Rehearses.

    Args:
        folder: with PTB-XL or a part of it.
        records: how many to make of them.
        epochs: to train.
    """
    with tempfile.TemporaryDirectory() as scratch:
        repeated = Path(scratch) / "repeated"
        repeated.mkdir()
        (repeated / STATEMENTS).symlink_to(folder.resolve() / STATEMENTS)
        table = pd.read_csv(folder / TABLE, dtype=str)
        there = [(folder / f"{name}.hea").is_file() for name in table["filename_hr"]]
        table = table[there]
        copy, row = np.divmod(np.arange(records), len(table))
        for number in range(copy[-1] + 1):  # under names of their own: a record is read once
            (repeated / f"copy{number}").symlink_to(folder.resolve())
        table = table.iloc[row].assign(ecg_id=np.arange(1, records + 1))
        for name in ("filename_lr", "filename_hr"):
            table[name] = [
                f"copy{number}/{file}" for number, file in zip(copy, table[name], strict=True)
            ]
        table.to_csv(repeated / TABLE, index=False)
        command = [sys.executable, str(ROOT / "train.py"), "--preset", "ptbxl"]
        command += ["--data.path", str(repeated), "--training.epochs", str(epochs)]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=scratch)
        seconds = time.perf_counter() - started
        metrics = json.loads((Path(scratch) / "runs/ptbxl/metrics.json").read_text("utf-8"))
    epoch = metrics["data"]["train_recordings"] / metrics["training"]["ecgs_per_second"]
    all_epochs = PRESETS["ptbxl"].training.epochs
    print(
        f"{records:,} records: {seconds:.0f} s with {epochs} epochs of {epoch:.1f} s each; "
        f"{seconds + (all_epochs - epochs) * epoch:.0f} s with {all_epochs}."
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
