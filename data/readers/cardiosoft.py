"""CardioSoft XML of resting 12-lead ECGs (GE), as UK Biobank gives it out in field 20205.

A file holds the recorder's median beat (12 leads, 1.2 s), its measurements, and the rhythm strip
(10 s), as comma-separated whole numbers with sampling rate and resolution beside them. Leads are
found by name, units are read, nothing is assumed.

Files are taken as hostile: a document type definition is refused where it begins, so that no
entity is ever defined, expanded or fetched; size and depth have a limit. Reading ends with the
section that is asked for; what comes after it is neither read nor checked.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import numpy as np

from data.beats import Beat, BeatError, Strip
from data.cohort import INDEPENDENT_LEADS, QRS_SAMPLE, SAMPLES, SAMPLING_RATE, derive_leads
from data.readers.person import Person, person
from data.strips import check_limb_leads, check_swing, plain_unit, resample, standard_leads

# Column -> element of <RestingECGMeasurements>, and its unit.
MEASUREMENTS = {
    "ecg_ventricular_rate": ("VentricularRate", "BPM"),
    "ecg_p_duration": ("PDuration", "ms"),
    "ecg_pq_interval": ("PQInterval", "ms"),
    "ecg_qrs_duration": ("QRSDuration", "ms"),
    "ecg_qt_interval": ("QTInterval", "ms"),
    "ecg_qtc_interval": ("QTCInterval", "ms"),
    "ecg_p_axis": ("PAxis", "degrees"),
    "ecg_r_axis": ("RAxis", "degrees"),
    "ecg_t_axis": ("TAxis", "degrees"),
}

MAX_BYTES = 16 * 2**20  # a resting ECG has 0.5 MB
MAX_SAMPLES = 100_000  # per lead; a rhythm strip has 5,000
SAMPLING_RATES = (100.0, 10_000.0)  # Hz; beyond, a typing error would fill the memory

_ROOT = "CardiologyXML"
_MEASURED = "RestingECGMeasurements"
_MEDIAN = f"{_MEASURED}/MedianSamples"
_STRIP = "StripData"
_AGE = "PatientInfo/Age"
_SCALES = ("SampleRate", "Resolution", "ChannelSampleCountTotal")
_MILLIVOLTS = {"nvperlsb": 1e-6, "uvperlsb": 1e-3, "mvperlsb": 1.0}
_DAY, _TIME = ("Year", "Month", "Day"), ("Hour", "Minute", "Second")
_CHUNK = 2**16
_MAX_DEPTH = 32
_MAX_LEADS = 32


def read_strip(file: str | Path) -> Strip:
    """Reads the rhythm strip.

    Args:
        file: CardioSoft XML.

    Returns:
        The strip in mV, its leads in the order of the file.

    Raises:
        BeatError: the file is damaged or holds no rhythm strip; the message is the reason.
        OSError: the file cannot be opened.
    """
    document = _parse(file, {f"{_STRIP}/{name}" for name in (*_SCALES, "WaveformData")}, _STRIP)
    return _waveforms(document, _STRIP, "rhythm strip")


def read_median_beat(file: str | Path) -> Beat:
    """Reads the recorder's own median beat and cuts it to the window of the contract.

    The middle between QRS onset and offset, both as the recorder measured them, comes to lie on
    `QRS_SAMPLE`, to the nearest sample: at 500 Hz the independent leads keep their stored values.
    The zero is the recorder's own, the value at the onset of the QRS. The other four leads follow
    from I and II; as stored they differ from that by up to 2 units of resolution.

    Args:
        file: CardioSoft XML.

    Returns:
        The beat. `beats_found` and `beats_used` are the recorder's count of QRS complexes (0 if it
        gave none), `heart_rate` its ventricular rate; `correlation` and `noise_uv` are NaN.

    Raises:
        BeatError: the file is damaged, or its median beat missing or unusable; the message is the
            reason.
        OSError: the file cannot be opened.
    """
    scalars = ("QOnset", "QOffset", "QRSNum", "VentricularRate")
    in_section = (*_SCALES, "FirstValid", "LastValid", "WaveformData")
    wanted = {f"{_MEASURED}/{name}" for name in scalars} | {f"{_MEDIAN}/{n}" for n in in_section}
    document = _parse(file, wanted, _MEASURED)
    stored, rate, leads = _waveforms(document, _MEDIAN, "median beat")
    stored, rows = standard_leads(stored, leads)
    start = _qrs_middle(document) - QRS_SAMPLE
    first, last = (document.number(f"{_MEDIAN}/{n}", "sample") for n in ("FirstValid", "LastValid"))
    first = max(0, 0 if np.isnan(first) else first) * SAMPLING_RATE / rate
    end = stored.shape[1] - 1
    last = min(end, end if np.isnan(last) else last) * SAMPLING_RATE / rate
    if start < first or start + SAMPLES - 1 > last:
        raise BeatError("the stored median beat is too short around the QRS")
    check_swing(np.ptp(stored, axis=1), tuple(rows))
    check_limb_leads(stored, tuple(rows))
    ecg = resample(stored[[rows[lead] for lead in INDEPENDENT_LEADS]], rate)
    beats = document.number(f"{_MEASURED}/QRSNum", "")
    beats = 0 if np.isnan(beats) else int(beats)
    return Beat(
        ecg=derive_leads(ecg[:, start : start + SAMPLES]).astype(np.float32),
        beats_used=beats,
        beats_found=beats,
        correlation=np.nan,
        noise_uv=np.nan,
        heart_rate=document.number(f"{_MEASURED}/VentricularRate", "BPM"),
    )


def read_stored_beat(file: str | Path) -> Strip:
    """Reads the recorder's own median beat as it is stored: all of it that is valid.

    Args:
        file: CardioSoft XML.

    Returns:
        The beat in mV, its QRS anywhere, its leads in the order of the file.

    Raises:
        BeatError: the file is damaged or holds no median beat; the message is the reason.
        OSError: the file cannot be opened.
    """
    in_section = (*_SCALES, "FirstValid", "LastValid", "WaveformData")
    document = _parse(file, {f"{_MEDIAN}/{name}" for name in in_section}, _MEDIAN)
    stored = _waveforms(document, _MEDIAN, "median beat")
    first, last = (document.number(f"{_MEDIAN}/{n}", "sample") for n in ("FirstValid", "LastValid"))
    first = 0 if np.isnan(first) else max(0, int(first))
    last = stored.ecg.shape[1] - 1 if np.isnan(last) else int(last)
    return stored._replace(ecg=stored.ecg[:, first : last + 1])


def read_measurements(file: str | Path) -> dict[str, float]:
    """Reads what the recorder measured, and the age at the recording; no samples.

    Args:
        file: CardioSoft XML.

    Returns:
        `ecg_age` in years and a value per column of `MEASUREMENTS`; NaN where the file gives none,
        or none in that unit, or is damaged.
    """
    paths = {"ecg_age": (_AGE, "years")}
    paths |= {name: (f"{_MEASURED}/{one}", unit) for name, (one, unit) in MEASUREMENTS.items()}
    try:
        document = _parse(file, {path for path, _ in paths.values()}, _MEASURED)
    except (BeatError, OSError):
        return dict.fromkeys(paths, np.nan)
    return {name: document.number(*path) for name, path in paths.items()}


def read_person(file: str | Path) -> Person:
    """Reads whom a recording is of.

    Args:
        file: CardioSoft XML.

    Raises:
        BeatError: the file is damaged; the message is the reason.
        OSError: the file cannot be opened.
    """
    patient, moment, visit = "PatientInfo", "ObservationDateTime", "PatientVisit/OrderNumber"
    own = ("PID", "Age", "Gender", "Height", "Weight", *(f"BirthDateTime/{n}" for n in _DAY))
    wanted = {f"{patient}/{name}" for name in own} | {
        f"{moment}/{name}" for name in (*_DAY, *_TIME)
    }
    document = _parse(file, {*wanted, visit}, patient)
    when = document.moment(moment, (*_DAY, *_TIME))
    age = document.number(_AGE, "years")
    born = document.moment(f"{patient}/BirthDateTime", _DAY)
    if np.isnan(age) and born and when:
        age = when.year - born.year - ((when.month, when.day) < (born.month, born.day))
    return person(
        document.text(f"{patient}/PID"),
        age,
        document.text(f"{patient}/Gender"),
        document.number(f"{patient}/Height", "centimeters"),
        document.number(f"{patient}/Weight", "kilograms"),
        when.isoformat(timespec="seconds") if when else None,
        document.text(visit),
    )


class _Element(NamedTuple):
    attributes: dict[str, str]
    text: str


class _Document:
    """The wanted elements of a file, by their path below the root."""

    def __init__(self) -> None:
        self.found: dict[str, list[_Element]] = {}

    def number(self, path: str, unit: str) -> float:
        """The first element there as a finite number; NaN if it is none, or in another unit."""
        attributes, text = self.found.get(path, [_Element({}, "")])[0]
        try:
            value = float(text)
        except ValueError:
            return np.nan
        same_unit = attributes.get("units", "").lower() == unit.lower()
        return value if same_unit and np.isfinite(value) else np.nan

    def text(self, path: str) -> str:
        """The first element there; "" without one."""
        return self.found.get(path, [_Element({}, "")])[0].text

    def moment(self, path: str, parts: tuple[str, ...]) -> datetime | None:
        """Numbers of year, month, day and so on there as a moment; None if they are none."""
        try:
            return datetime(*(int(self.text(f"{path}/{name}")) for name in parts))
        except ValueError:
            return None


class _Enough(Exception):
    """All that is wanted was read."""


def _parse(file: str | Path, wanted: set[str], last: str) -> _Document:
    """Reads a file piece by piece, no further than the end of the element `last`."""
    document, path, text = _Document(), [], []
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        if path[0] != _ROOT:
            raise BeatError("not a CardioSoft XML file")
        if len(path) > _MAX_DEPTH:
            raise BeatError(f"XML nested deeper than {_MAX_DEPTH}")
        where = "/".join(path[1:])
        if parser.CharacterDataHandler is not None:
            raise BeatError(f"unexpected element {name} among values")
        if where in wanted:
            elements = document.found.setdefault(where, [])
            elements.append(_Element(attributes, ""))
            if len(elements) > _MAX_LEADS:
                raise BeatError(f"more than {_MAX_LEADS} elements {name}")
            parser.CharacterDataHandler = text.append

    def end(_: str) -> None:
        where = "/".join(path[1:])
        path.pop()
        if where in wanted:
            parser.CharacterDataHandler = None
            elements = document.found[where]
            elements[-1] = elements[-1]._replace(text="".join(text))
            text.clear()
        if where == last:
            raise _Enough

    def refuse(*_: object) -> None:
        raise BeatError("XML with a document type definition")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        _feed(parser, file)
    except _Enough:
        pass
    except BeatError:
        raise
    except expat.ExpatError as error:
        raise BeatError(f"damaged XML: {expat.ErrorString(error.code)}") from error
    except (LookupError, ValueError) as error:
        raise BeatError("XML in an unknown encoding") from error
    return document


def _feed(parser: expat.XMLParserType, file: str | Path) -> None:
    size = 0
    with Path(file).open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise BeatError(f"larger than {MAX_BYTES // 2**20} MB")
            parser.Parse(chunk, False)
    parser.Parse(b"", True)


def _waveforms(document: _Document, section: str, name: str) -> Strip:
    """The leads of a section, in mV."""
    elements = document.found.get(f"{section}/WaveformData", [])
    if not elements:
        raise BeatError(f"no {name}")
    rate = document.number(f"{section}/SampleRate", "Hz")
    if np.isnan(rate):
        raise BeatError(f"no sampling rate of the {name} in Hz")
    if not SAMPLING_RATES[0] <= rate <= SAMPLING_RATES[1]:
        raise BeatError(f"sampling rate of {rate:g} Hz")
    leads = [element.attributes.get("lead", "") for element in elements]
    rows = [_samples(lead, element.text) for lead, element in zip(leads, elements, strict=True)]
    count = document.number(f"{section}/ChannelSampleCountTotal", "")
    count = len(rows[0]) if np.isnan(count) else count
    for lead, row in zip(leads, rows, strict=True):
        if len(row) != count:
            raise BeatError(f"lead {lead} of the {name} has another number of samples than stated")
    return Strip(np.stack(rows) * _resolution(document, section, name), rate, leads)


def _samples(lead: str, text: str) -> np.ndarray:
    if text.count(",") >= MAX_SAMPLES:
        raise BeatError(f"lead {lead} has more than {MAX_SAMPLES} samples")
    try:
        samples = np.array(text.split(","), dtype=np.float64)
    except ValueError as error:
        raise BeatError(f"lead {lead} has samples that are no numbers") from error
    # A bound far above any converter keeps what follows free of overflow.
    if not (np.abs(samples) < 1e9).all():
        raise BeatError(f"lead {lead} has samples that are no ECG")
    return samples


def _resolution(document: _Document, section: str, name: str) -> float:
    """Millivolts per unit."""
    path = f"{section}/Resolution"
    unit = document.found.get(path, [_Element({}, "")])[0].attributes.get("units", "")
    value = document.number(path, unit)
    if plain_unit(unit) not in _MILLIVOLTS or not 0 < value < 1e9:
        raise BeatError(f"no resolution of the {name} in microvolts or the like: unit {unit!r}")
    return value * _MILLIVOLTS[plain_unit(unit)]


def _qrs_middle(document: _Document) -> int:
    """Sample number at 500 Hz, in the stored median beat."""
    onset, offset = (document.number(f"{_MEASURED}/{name}", "ms") for name in ("QOnset", "QOffset"))
    if np.isnan(onset + offset):
        raise BeatError("no QRS onset and offset in ms")
    if not 0 < onset < offset < 1e6:
        raise BeatError("QRS onset and offset contradict each other")
    return int(np.floor((onset + offset) / 2 * SAMPLING_RATE / 1000 + 0.5))
