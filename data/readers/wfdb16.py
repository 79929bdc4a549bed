"""WFDB records of 16-bit integers, read in a part of the time that the wfdb package takes.

The package spends 2.4 to 5 ms on a record of PTB-XL, three quarters of it on the header; all else
on the way to a median beat takes 4 to 6 ms. This module reads what PTB-XL and most other 12-lead
ECGs are: one segment, one signal file in format 16 (behind a header of its own or not, as in the
MATLAB files of the PhysioNet Challenges) or any number in format 516, which is FLAC; one sample per
frame, all fields of the header given. It leaves everything else to the package, and gives the same
values to the last bit.

Unlike the package it compares the samples with the checksums in the header, so that a damaged or
exchanged signal file is noticed.

Format: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.strips import BeatError

MISSING = -32768  # how format 16 writes a missing sample

_RECORD = re.compile(
    r"""
    [-\w]+ \s+ (\d+)        # name, number of signals
    \s+ (\d+(?:\.\d+)?)     # sampling rate
    \s+ (\d+)               # number of samples
    (?:\s+ .*)?             # time and date, in whatever order
    """,
    re.ASCII | re.VERBOSE,
)
_SIGNAL = re.compile(
    r"""
    ([-\w]+\.\w+) \s+ (5?16)(?:\+(\d{1,6}))?             # file, never a path; format; offset
    \s+ (\d+(?:\.\d+)?) (?:\( (-?\d{1,6}) \))? / ([\u00b5\u03bc]?\w+)  # gain, baseline, unit
    \s+ \d+ \s+ (-?\d{1,6}) \s+ -?\d+                    # resolution, zero, first value
    \s+ (-?\d+) \s+ \d+ \s+ (\S[^\t]*)                   # checksum, block size, name
    """,
    re.ASCII | re.VERBOSE,
)


class Signals(NamedTuple):
    """A WFDB record.

    Attributes:
        values: (signals, T) float32, in `units`; NaN where missing.
        sampling_rate: Hz.
        units: of each signal, as the header writes it.
        names: of each signal.
    """

    values: np.ndarray
    sampling_rate: float
    units: list[str]
    names: list[str]


def read_16_bit(record: str | Path) -> Signals | None:
    """Reads a record if it is of the usual kind.

    Args:
        record: path without extension.

    Returns:
        Its signals; None if the record is of another kind, or a signal file does not have the size
        that the header says: the wfdb package can read it, or tell what is wrong.

    Raises:
        BeatError: the samples contradict the checksums in the header.
        OSError: a file cannot be read.
    """
    first, *others = _header_lines(record) or [""]
    head = _RECORD.fullmatch(first)
    fields = [_SIGNAL.fullmatch(line) for line in others]
    if head is None or not fields or None in fields or len(fields) != int(head[1]):
        return None
    files, formats, offsets, gains, baselines, units, zeros, checksums, names = zip(
        *map(re.Match.groups, fields), strict=True
    )
    if None in baselines and any(baselines):
        return None
    # Without baselines the zeros of the converter are them.
    baselines = [zero if b is None else b for b, zero in zip(baselines, zeros, strict=True)]
    gain = np.array(gains, np.float64)[:, None]
    if len(set(formats)) > 1 or len(set(offsets)) > 1 or (gain == 0).any():
        return None
    read = _plain if formats[0] == "16" else _flac
    digital = read(Path(record).parent, files, int(head[3]), int(offsets[0] or 0))
    if digital is None:
        return None
    digital = np.ascontiguousarray(digital.T)
    compare_checksums(digital, np.array(checksums, np.int64), names)
    values = digital.astype(np.float32) - np.array(baselines, np.float32)[:, None]
    if (gain == gain.astype(np.float32)).all():
        gain = gain.astype(np.float32)  # the quotient is the same, and comes eight times as fast
    np.divide(values, gain, out=values, casting="same_kind")
    values[digital == MISSING] = np.nan
    return Signals(values, float(head[2]), list(units), list(names))


def _plain(folder: Path, files: Sequence[str], samples: int, offset: int) -> np.ndarray | None:
    """(samples, signals) of one file; None if there are more, or it has another size."""
    file, size = folder / files[0], offset + 2 * len(files) * samples
    if len(set(files)) > 1 or file.stat().st_size != size:
        return None
    return np.fromfile(file, "<i2", offset=offset).reshape(-1, len(files))


def _flac(folder: Path, files: Sequence[str], samples: int, offset: int) -> np.ndarray | None:
    """The same of FLAC files, that of each signal named; None if they hold anything else."""
    import soundfile  # here: few records need it

    parts = []
    for file, named in groupby(files):
        try:
            with soundfile.SoundFile(folder / file) as opened:
                kind = opened.format, opened.subtype
                parts.append(opened.read(dtype="int16", always_2d=True))
        except soundfile.LibsndfileError:
            return None
        right = parts[-1].shape == (samples, len(list(named)))
        if offset or kind != ("FLAC", "PCM_16") or not right:
            return None
    return np.concatenate(parts, axis=1)


def as_written(
    record: str | Path, units: list[str], names: list[str]
) -> tuple[list[str], list[str]]:
    """Units and names of the wfdb package, put right where the header is not ASCII.

    The package drops every byte that is none: a µV becomes a V.

    Args:
        record: path without extension.
        units: of each signal, as the package gives them.
        names: of each signal, likewise.

    Raises:
        BeatError: something else is not ASCII, and what the package made of it is not known.
    """
    first, *lines = _header_lines(record)
    name, *numbers = re.split(r"[ \t]+", first)
    if "/" in name:
        if not "".join(sum(_segment_headers(record, lines), lines)).isascii():
            raise BeatError("a header of a segment is not ASCII")
    if not "".join(numbers).isascii():
        raise BeatError("the first line of the header is not ASCII")
    units, names = list(units), list(names)
    for number, line in enumerate(lines[: len(units)]):
        if line.isascii():
            continue
        fields = re.split(r"[ \t]+", line, maxsplit=8)
        calibration, slash, unit = "".join(fields[2:3]).partition("/")
        if not "".join([*fields[:2], calibration, *fields[3:8]]).isascii() or not slash:
            raise BeatError(f"the header of signal {number + 1} is not ASCII")
        units[number], names[number] = unit, "".join(fields[8:]) or names[number]
    return units, names


def check_rate(record: str | Path) -> None:
    """Refuses a header without a sampling rate: the format means 250 Hz by it, the writer may not.

    Raises:
        BeatError: it gives none.
    """
    first = (_header_lines(record) or [""])[0].split()
    if len(first) == 2:
        raise BeatError("the header gives no sampling rate")


def check_gains(record: str | Path) -> bool:
    """Refuses a header without gains: the wfdb package takes 200 per mV, the recorder may not.

    Returns:
        Whether the record is one segment.

    Raises:
        BeatError: a gain is not there, or 0, which means "not calibrated".
    """
    first, *lines = _header_lines(record) or [""]
    whole = "/" not in re.split(r"\s", first)[0]
    if not whole:
        lines = [line for _, *signals in _segment_headers(record, lines) for line in signals]
    for line in lines:
        file, *rest = line.split()
        gain = re.match(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?", rest[1]) if len(rest) > 1 else None
        if file != "~" and (gain is None or float(gain[0]) == 0):
            raise BeatError("no gain in the header")
    return whole


def _segment_headers(record: str | Path, segments: Sequence[str]) -> list[list[str]]:
    """The lines of the header that each segment has of its own."""
    names = [re.match(r"[-\w]*", line)[0] for line in segments]
    return [_header_lines(Path(record).parent / name) for name in names if name]


def _header_lines(record: str | Path) -> list[str]:
    """The lines of a header but for comments, each in UTF-8 or, where it is none, Latin-1.

    The format is ASCII, and yet some programs write units and names otherwise. No byte is dropped.
    """
    content = Path(f"{record}.hea").read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = [_decoded(line).strip() for line in content.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def compare_checksums(digital: np.ndarray, expected: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuses (signals, T) samples whose sums modulo 65536 are not those of the header."""
    if not expected.any():
        return  # zeros stand for unknown
    differs = digital.astype(np.uint16).sum(axis=1, dtype=np.uint16) != expected % 65536
    if differs.any():
        raise BeatError(f"lead {names[differs.argmax()]} contradicts its checksum")
