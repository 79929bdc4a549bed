"""ECGs as files that other programs read: WFDB, CSV, NPZ.

A file is whole or not there: it is written beside its place and moved into it.

Dims: N recordings, L leads, T samples.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.cohort import LEADS, SAMPLING_RATE
from data.units import MV, UNITS

WFDB_GAIN = 1000.0  # per mV: steps of 1 uV, so an error of 0.5 uV, and a range of +-32 mV
CSV_DECIMALS = 4  # of a millivolt: an error of 0.05 uV


class ExportError(ValueError):
    """An ECG that the format cannot hold."""


def write_wfdb(
    folder: str | Path,
    name: str,
    ecg: np.ndarray,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    comments: Sequence[str] = (),
    unit: str = MV,
) -> None:
    """Writes one ECG as a WFDB record, format 16: `name.dat` and then `name.hea`.

    As the header format of WFDB (signal files, header(5)) has it. `wfdb.wrsamp` writes the same
    numbers, many times slower.

    Args:
        folder: which is there.
        name: of the record: letters, digits, '-' and '_'.
        ecg: (L, T) in `unit`.
        leads: L names.
        sampling_rate: Hz.
        comments: lines at the end of the header.
        unit: of the ECG, named in the header; see `data.units`.

    Raises:
        ExportError: NaN, or beyond 32.767.
    """
    limit = np.iinfo(np.int16).max  # the most negative integer means "missing" in format 16
    digital = np.round(np.asarray(ecg, np.float64) * WFDB_GAIN)  # (L, T)
    if not (np.abs(digital) <= limit).all():
        raise ExportError(
            f"{name}: expected values of +-{limit / WFDB_GAIN} {UNITS[unit].amplitude} for WFDB "
            f"format 16. Received: {np.min(ecg):.4g} to {np.max(ecg):.4g}. Is the model broken? "
            "csv and npz hold them."
        )
    digital = digital.astype("<i2")
    header = [f"{name} {len(leads)} {sampling_rate:g} {digital.shape[1]}"]
    for lead, signal in zip(leads, digital, strict=True):
        # File, format, gain (zero) / unit, bits, ADC zero, first value, checksum, block, name.
        checksum = int(signal.sum(dtype=np.int64)) % 65536
        header.append(f"{name}.dat 16 {WFDB_GAIN:g}(0)/{unit} 16 0 {signal[0]} {checksum} 0 {lead}")
    header += [f"# {line}" for comment in comments for line in comment.splitlines()]
    _write_whole(Path(folder) / f"{name}.dat", digital.T.tobytes())
    _write_whole(Path(folder) / f"{name}.hea", ("\n".join(header) + "\n").encode())


def write_csv(
    folder: str | Path,
    name: str,
    ecg: np.ndarray,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
) -> None:
    """Writes one ECG as `name.csv`: a column `time_ms` from 0, and one in mV per lead.

    Args:
        folder: which is there.
        name: of the file, without `.csv`.
        ecg: (L, T) mV; four decimals are kept.
        leads: L names.
        sampling_rate: Hz.
    """
    time = np.arange(ecg.shape[1]) * 1000 / sampling_rate
    row = "%g" + f",%.{CSV_DECIMALS}f" * len(leads)
    table = np.column_stack([time, np.asarray(ecg, np.float64).T]).tolist()
    lines = [",".join(["time_ms", *leads]), *(row % tuple(values) for values in table)]
    _write_whole(Path(folder) / f"{name}.csv", ("\n".join(lines) + "\n").encode())


def write_npz(
    path: str | Path,
    chunks: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    columns: Mapping[str, np.ndarray] | None = None,
    unit: str = MV,
) -> None:
    """Writes many ECGs as one `.npz` file, a chunk at a time: memory does not grow with N.

    The file holds `ecg` (N, L, T) float32 in `unit`, `leads` (L,), `sampling_rate` in Hz,
    `conditions` (the names of the columns) and each column under its name.

    Args:
        path: of the file.
        chunks: of ECGs (n, L, T), N in all.
        shape: (N, L, T).
        leads: L names.
        sampling_rate: Hz.
        columns: name -> (N,) numbers or texts.
        unit: of the ECGs; one other than mV is in the file as `unit`.

    Raises:
        ExportError: the chunks hold another number of ECGs than `shape` says, or a column has the
            name of another array.
    """
    columns = columns or {}
    rest = {
        "leads": np.array(leads),
        "sampling_rate": np.array(float(sampling_rate)),
        "conditions": np.array(list(columns), dtype=str),
    }
    if unit != MV:
        rest["unit"] = np.array(unit)
    taken = [name for name in columns if name in {"ecg", "unit", *rest}]
    if taken:
        raise ExportError(
            f"{path}: expected columns of other names than the arrays of the file have. Received: "
            f"{taken}. Rename them, or choose csv or wfdb."
        )
    rest |= {name: np.asarray(values) for name, values in columns.items()}
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    partial, written = Path(f"{path}.partial"), 0
    try:
        # What numpy.savez does, which would need all ECGs at once.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("ecg.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks:
                    file.write(np.ascontiguousarray(chunk, dtype="<f4").tobytes())
                    written += len(chunk)
            for name, values in rest.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, values, allow_pickle=False)
        if written != shape[0]:
            raise ExportError(f"{path}: expected {shape[0]} ECGs. Received: {written}.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
