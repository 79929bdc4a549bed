"""WFDB records with age, sex and diagnoses in comments, as the PhysioNet Challenges have them.

The Challenges of 2020 and 2021 (Perez Alday et al. 2020, doi 10.1088/1361-6579/abc960; Reyna et al.
2021, doi 10.23919/CinC53138.2021.9662687) give out 88,000 recordings of CPSC, Georgia,
Chapman-Shaoxing, Ningbo, PTB, PTB-XL and St Petersburg as `A0001.hea` and `A0001.mat`; the header
ends with lines such as "#Age: 74", "#Sex: Male" and "#Dx: 426783006,164889003" (SNOMED CT).
Layout: https://physionet.org/content/challenge-2021/1.0.3/. The date in these headers is that of
their making, written in another order than WFDB's own; only the latter is read.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import numpy as np

from data.readers.exports import Export, checked_strip, standard_lead
from data.readers.person import Person, person
from data.readers.ptbxl import WfdbReader
from data.readers.wfdb16 import MISSING, as_written, check_gains, compare_checksums
from data.strips import MILLIVOLTS, BeatError, Strip, plain_unit

_COMMENT = re.compile(r"#\s*(age|sex|dx)\s*:\s*(.*)", re.IGNORECASE)
_STARTED = re.compile(r"(\d\d?:\d\d:\d\d)(?:\.\d+)?\s+(\d\d?/\d\d?/\d{4})")
_MATLAB5 = b"MATLAB 5.0"
_SAMPLES_PER_FRAME = re.compile(r"\S+[ \t]+\d+x(\d+)")


def read_challenge(file: Path) -> Export:
    """Reads a WFDB record with what its comments say.

    Args:
        file: its header, called `.hea`.

    Raises:
        BeatError: the record gives no ECG; the message is the reason.
    """
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("latin-1").splitlines()
    fields = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if len(fields[0].split()) < 3:
        raise BeatError("no sampling rate in the header")
    frames = [_SAMPLES_PER_FRAME.match(line) for line in fields[1:]]
    if len({frame[1] if frame else "1" for frame in frames}) > 1:
        raise BeatError("leads with different sampling rates")
    own = file.with_suffix(".mat")  # another file of this name is of something else
    named = {line.split()[0] for line in fields[1:]} == {own.name}
    strip = (named and _matlab5(file)) or WfdbReader(str(file.parent))(file.stem)
    names = [standard_lead(name) for name in strip.leads]
    rows = [row for row, name in enumerate(names) if name is not None]
    chosen = tuple(names[row] for row in rows)
    for name in chosen:
        if chosen.count(name) > 1:
            raise BeatError(f"lead {name} is there twice")
    if not rows:
        raise BeatError("none of the standard leads")
    values = np.asarray(strip.ecg)
    values = values if len(rows) == len(names) else values[rows]
    return Export(
        checked_strip(values, strip.sampling_rate, chosen), None, _person(fields[0], lines)
    )


def _matlab5(header: Path) -> Strip | None:
    """Signals of a MATLAB 5 file, as programs save them today; None if they are in another.

    The headers of the Challenges take it for MATLAB 4, whose samples begin at byte 24.
    """
    file = header.with_suffix(".mat")
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        if opened.read(len(_MATLAB5)) != _MATLAB5:
            return None
    import wfdb  # here: every worker would import both, and few records need them
    from scipy.io import loadmat

    check_gains(header.with_suffix(""))
    known = wfdb.rdheader(str(header.with_suffix("")))
    digital = loadmat(file, variable_names=["val"])["val"]
    if digital.shape != (known.n_sig, known.sig_len):
        raise BeatError("another number of leads or samples than the header says")
    if digital.dtype == np.int16:
        checksums = np.array([one or 0 for one in known.checksum], np.int64)
        compare_checksums(np.ascontiguousarray(digital), checksums, tuple(known.sig_name))
    units, names = as_written(header.with_suffix(""), known.units, known.sig_name)
    factors = [MILLIVOLTS.get(plain_unit(unit)) for unit in units]
    if None in factors:
        raise BeatError(f"unknown unit {units[factors.index(None)]!r}")
    gain, zero = (np.array(one, np.float64)[:, None] for one in (known.adc_gain, known.baseline))
    values = (digital - zero) / gain * np.array(factors)[:, None]
    values[digital == MISSING] = np.nan
    return Strip(values.astype(np.float32), known.fs, names)


def _person(first: str, lines: list[str]) -> Person:
    said = {}
    for line in lines:
        if found := _COMMENT.match(line.strip()):
            said.setdefault(found[1].lower(), found[2].strip())
    started = _STARTED.search(first)
    recorded = None
    if started:
        try:
            when = datetime.strptime(" ".join(started.groups()), "%H:%M:%S %d/%m/%Y")
            recorded = when.isoformat(timespec="seconds")
        except ValueError:
            recorded = None
    try:
        age = float(said.get("age", ""))
    except ValueError:
        age = None
    return person(age=age, sex=said.get("sex"), recorded=recorded, dx=said.get("dx"))
