"""A folder of simulated ECGs in the layout of EchoNext."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.readers.echonext import MEASURED, NUMBERS, TABLE
from tests.simulated_strips import rhythm_strip

SD = 0.2  # mV that one of its units is


def strip(number: int) -> np.ndarray:
    """(12, 2500) mV."""
    rate = 60 + 5 * (number % 7)
    gain = 1 + 0.03 * (number % 11)
    return gain * rhythm_strip(rate, 10, sampling_rate=250, noise=0.02, seed=number)


def write_echonext(folder: Path, splits: Sequence[str], **columns) -> None:
    """Writes a table with a row for each of the splits, and waveforms of all but `no_split`."""
    folder.mkdir()
    n = len(splits)
    table = {
        "ecg_key": [f"E{number}" for number in range(n)],
        "patient_key": [f"P{number}" for number in range(n)],
        "split": splits,
        "sex": [("Male", "Female")[number % 2] for number in range(n)],
        **{name: 50.0 + np.arange(n) % 17 for name in NUMBERS},
        **{name: 1.0 for pair in MEASURED.values() for name in pair if name not in NUMBERS},
        **{f"{name}_flag": np.arange(n) // 2 % 2 for name in MEASURED},
    }
    pd.DataFrame(table | columns).to_csv(folder / TABLE, index=False)
    for split in ("train", "val", "test"):
        rows = [number for number in range(n) if splits[number] == split]
        waves = np.stack([strip(number).T[None] / SD for number in rows]).astype(np.float32)
        np.save(folder / f"EchoNext_{split}_waveforms.npy", waves)
