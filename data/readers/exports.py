"""ECG files as hospitals' systems export them, read by ecgdatakit and brought to one form.

ecgdatakit (Apache-2.0, https://ecgdatakit.ummisco.fr) parses GE MUSE, Philips, HL7 aECG, Mortara,
DICOM, EDF, ISHNE, SCP-ECG and MFER. Of what it gives this module takes samples, scales, names of
leads and a few facts of the person; no unit, rate or lead is assumed. What it passes over with a
warning though it changes the meaning (a second recording in a file, samples that contradict their
checksum, gaps, data that stop early), is refused here. Its rates are whole numbers; where the file
gives another, that one is taken.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.beats import Beat, median_beat
from data.cohort import INDEPENDENT_LEADS, LEADS, QRS_SAMPLE, SAMPLES
from data.leads import derive_leads, expansion_matrix, lead_name
from data.readers.calibration import without_calibration
from data.readers.formats import parser
from data.readers.person import Person, person
from data.strips import (
    MILLIVOLTS,
    MIN_SECONDS,
    BeatError,
    Strip,
    check_limb_leads,
    check_swing,
    plain_unit,
    resample,
)

if TYPE_CHECKING:
    from ecgdatakit.models import ECGRecord, Lead

RATES = (100.0, 2000.0)  # Hz
MAX_SECONDS = 600.0  # of a resting ECG; more is a Holter recording
MIN_LIKENESS = 0.9  # correlation of the recorder's own beat with ours
QRS = slice(QRS_SAMPLE - 40, QRS_SAMPLE + 40)
DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax of DICOM

SEVERAL = "holds several recordings"
# Warnings of ecgdatakit that are no mere remarks, and the reason they become.
_GRAVE = {
    r"rhythm series found|sets in the rhythm series|Additional rhythm|redefine the chan": SEVERAL,
    # Of SCP-ECG 2 is the code of the samples, 3 the leads, 4 the beats that were taken out.
    r"CRC32 mismatch|CRC mismatch in: .*Section [2-6]\b": "samples contradict their checksum",
    r"truncated|only \d+ are complete|May be truncated|with no waveform data": "truncated",
    r"file has gaps|without a gap": "has gaps",
    r"no sampling interval": "no sampling rate",
    r"samples left uncalibrated": "no scale of the samples",
}

# Errors of ecgdatakit, by name: it is imported when the first such file comes.
_REFUSALS = {
    "CorruptedFileError": "damaged {}",
    "MissingElementError": "incomplete {}",
    "UnsupportedFormatError": "a variant of {} that is not read",
}


class Export(NamedTuple):
    """A recording as a file holds it.

    Attributes:
        strip: the rhythm strip.
        stored: the recorder's own median beat as it is stored, if the file has one.
        person: whom it is of.
    """

    strip: Strip
    stored: Strip | None
    person: Person


def read_export(file: Path, kind: str) -> Export:
    """Reads a file by ecgdatakit.

    Args:
        file: of a format of `data.readers.formats.PARSERS`.
        kind: which.

    Raises:
        BeatError: the file gives no ECG; the message is the reason.
        Exception: anything that a damaged file makes the library raise.
    """
    if kind == "DICOM":
        with file.open("rb") as opened:
            if DEFLATED in opened.read(4096):
                raise BeatError("DICOM compressed as a whole (deflated): unpack it")
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        try:
            record = parser(kind)().parse(file)
        except Exception as error:
            # Not the message: it may hold what is in the file.
            reason = _REFUSALS.get(type(error).__name__)
            if reason is None:
                raise
            raise BeatError(reason.format(kind)) from error
    for remark in remarks:
        for pattern, reason in _GRAVE.items():
            if re.search(pattern, str(remark.message)):
                raise BeatError(reason)
    if kind == "SCP-ECG":
        _refuse_trailing(file)
    # DICOM may have the median beat, or one lead for the rhythm, in a group of its own.
    whole = [
        group
        for group in record.raw_metadata.get("multiplex_groups", [])
        if group["channels"] >= len(INDEPENDENT_LEADS)
        and group["samples"] >= MIN_SECONDS * group["sampling_frequency"]
    ]
    if len(whole) > 1:
        raise BeatError(SEVERAL)
    if not record.leads:
        raise BeatError("no rhythm strip")
    faults = record.raw_metadata.get("lead_fault_samples", [0] * len(record.leads))  # of ISHNE
    for lead, fault in zip(record.leads, faults, strict=True):
        name = standard_lead(lead.label)
        if name and fault:
            raise BeatError(f"lead {name} has missing samples")
        if name and kind == "HL7 aECG" and not lead.adc_resolution:  # taken as 1
            raise BeatError("no scale of the samples")
    exact = _exact_rate(record)
    stored = as_strip(record.median_beats) if record.median_beats else None
    return Export(as_strip(record.leads, exact), stored, _person(record))


def _refuse_trailing(file: Path) -> None:
    """SCP-ECG says how long it is; what follows, ecgdatakit does not look at."""
    content = file.read_bytes()
    if content[int.from_bytes(content[2:6], "little") :].strip(b"\0"):
        raise BeatError(SEVERAL)


def _exact_rate(record: ECGRecord) -> float | None:
    """The sampling rate of the strip where it is no whole number; None if it is."""
    meta = record.raw_metadata
    rates = set(meta.get("exact_sampling_rates", {}).values())
    rates |= {meta.get("rhythm_time", {}).get("sampling_rate_exact")}
    rates |= {group.get("sampling_frequency") for group in meta.get("multiplex_groups", [])[:1]}
    if "rhythm_sample_interval_us" in meta:
        rates.add(1e6 / meta["rhythm_sample_interval_us"])
    rates -= {None}
    return rates.pop() if len(rates) == 1 else None


def as_strip(leads: Sequence[Lead], rate: float | None = None) -> Strip:
    """Leads of ecgdatakit as a strip in mV; those beyond the standard twelve are left out.

    Args:
        leads: with samples, scale, unit, rate and name each.
        rate: Hz, if not that of the leads.

    Raises:
        BeatError: leads that contradict each other, or a scale, unit or rate that is none.
    """
    chosen: dict[str, Lead] = {}
    for lead in leads:
        name = standard_lead(lead.label)
        if name is not None:
            if name in chosen:
                raise BeatError(f"lead {name} is there twice")
            chosen[name] = lead
    if not chosen:
        raise BeatError("none of the standard leads")
    for what, values in (
        ("sampling rates", {float(lead.sampling_rate) for lead in chosen.values()}),
        ("numbers of samples", {len(lead.samples) for lead in chosen.values()}),
        ("starts", {lead.annotations.get("start_sample") for lead in chosen.values()}),
    ):
        if len(values) > 1:
            raise BeatError(f"leads with different {what}")
    values = np.stack([_millivolts(name, lead) for name, lead in chosen.items()])
    whole = float(next(iter(chosen.values())).sampling_rate)
    near = rate is not None and abs(rate - whole) < 1
    return checked_strip(values, rate if near else whole, tuple(chosen))


def checked_strip(values: np.ndarray, rate: float, names: tuple[str, ...]) -> Strip:
    """A strip with leads I and II, at a rate that is one, between calibration pulses.

    Args:
        values: (leads, T) mV.
        rate: Hz.
        names: of the leads, as `LEADS` has them.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise BeatError(f"sampling rate of {rate:g} Hz")
    if values.shape[1] > MAX_SECONDS * rate:
        raise BeatError(f"longer than {MAX_SECONDS:g} s")
    missing = [name for name in ("I", "II") if name not in names]
    if missing:
        values, names = _with_limb_leads(values, names)
    return without_calibration(Strip(values, rate, names))


def standard_lead(label: str) -> str | None:
    """A lead as `LEADS` has it; None for any other. "II_2" is how a second II is called."""
    return lead_name(re.sub(r"_\d+$", "", label.strip()))


def _millivolts(name: str, lead: Lead) -> np.ndarray:
    """(T,) mV."""
    unit = lead.resolution_unit if lead.is_raw else lead.units
    if not unit or (lead.is_raw and not lead.resolution):
        raise BeatError(f"no unit of lead {name}")
    factor = MILLIVOLTS.get(plain_unit(unit))
    if factor is None:
        raise BeatError(f"unknown unit {unit!r}")
    if not lead.is_raw:
        return lead.samples * factor
    return lead.samples * (lead.resolution * factor) + lead.offset * factor


def _with_limb_leads(
    values: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Adds leads I and II where two other limb leads tell them: I = II - III and so on."""
    given = [name for name in LEADS[:6] if name in names]
    matrix = expansion_matrix(LEADS[:6])[[LEADS.index(name) for name in given]]
    if np.linalg.matrix_rank(matrix) < 2:
        lacking = [name for name in ("I", "II") if name not in names][0]
        raise BeatError(f"lead {lacking} is not there")
    limb = values[[names.index(name) for name in given]]
    solved = np.linalg.pinv(matrix.astype(np.float64)) @ limb
    kept = [row for row, name in enumerate(names) if name not in ("I", "II")]
    return np.concatenate([solved, values[kept]]), ("I", "II", *(names[row] for row in kept))


def stored_beat(stored: Strip | None, strip: Strip) -> Beat:
    """The recorder's own median beat in the window of the contract.

    Recorders store it with its QRS anywhere, and marks in units that they do not state. It is
    aligned, to the nearest sample, to our beat of the strip beside it, whose zero, the PR segment,
    it also gets: recorders take their zeros elsewhere, and a cohort may have several kinds.

    Returns:
        The beat; beats and heart rate are ours, `correlation` and `noise_uv` are NaN.

    Raises:
        BeatError: there is none, it is too short, or it is not of this strip.
    """
    if stored is None:
        raise BeatError("no stored median beat")
    own = median_beat(*strip)
    rows = {name: row for row, name in enumerate(stored.leads)}
    for lead in INDEPENDENT_LEADS:
        if lead not in rows:
            raise BeatError(f"lead {lead} of the stored median beat is not there")
    values = np.asarray(stored.ecg, np.float64)
    if not np.isfinite(values).all():
        raise BeatError("the stored median beat has missing samples")
    check_swing(np.ptp(values, axis=1), tuple(rows))
    check_limb_leads(values, tuple(rows))
    beat = resample(values[[rows[lead] for lead in INDEPENDENT_LEADS]], stored.sampling_rate)
    ours = own.ecg[[LEADS.index(lead) for lead in INDEPENDENT_LEADS]]
    # The QRS alone finds the place, also where the window around it does not fit.
    half = QRS.stop - QRS_SAMPLE
    windows = np.lib.stride_tricks.sliding_window_view(beat, 2 * half, axis=1)  # (8, places, 80)
    windows = windows - windows.mean(axis=2, keepdims=True)
    template = ours[:, QRS] - ours[:, QRS].mean(axis=1, keepdims=True)
    shared = np.einsum("lpt,lt->p", windows, template)
    length = np.sqrt(np.einsum("lpt,lpt->p", windows, windows) * (template**2).sum())
    likeness = shared / np.maximum(length, 1e-9)
    place = int(likeness.argmax())
    if likeness[place] < MIN_LIKENESS:
        raise BeatError("the stored median beat is not of this strip")
    start = place + half - QRS_SAMPLE
    if start < 0 or start + SAMPLES > beat.shape[1]:
        raise BeatError("the stored median beat is too short around the QRS")
    cut = beat[:, start : start + SAMPLES]
    cut = cut - np.median(cut - ours, axis=1, keepdims=True)
    return Beat(
        ecg=derive_leads(cut).astype(np.float32),
        beats_used=own.beats_used,
        beats_found=own.beats_found,
        correlation=np.nan,
        noise_uv=np.nan,
        heart_rate=own.heart_rate,
    )


def _person(record: ECGRecord) -> Person:
    patient, when = record.patient, record.recording.date
    meta = record.raw_metadata
    numbers = [meta.get("accession_number"), *_of(meta.get("order"), "accession", "requisition")]
    recorded = when.replace(tzinfo=None).isoformat(timespec="seconds") if when else None
    if recorded is None:
        recorded = _iso_date(meta.get("acquisition_date"))
    return person(
        patient.patient_id,
        patient.age,
        patient.sex,
        patient.height,
        patient.weight,
        recorded,
        next((number for number in numbers if number), None),
    )


def _of(table: object, *words: str) -> Iterable[str]:
    """Values whose names hold one of these words."""
    for name, value in table.items() if isinstance(table, dict) else ():
        if any(word in name.lower() for word in words):
            yield str(value)


def _iso_date(text: object) -> str | None:
    for form in ("%m-%d-%Y", "%Y-%m-%d"):
        try:
            return datetime.strptime(str(text).split(" ")[0], form).date().isoformat()
        except ValueError:
            continue
    return None
