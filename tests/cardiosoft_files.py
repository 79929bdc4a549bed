"""CardioSoft XML files with known beats, for the tests of the reader of UK Biobank."""

import numpy as np

from data.cohort import LEADS
from tests.simulated_strips import beat, rhythm_strip

MEASURED = {
    "VentricularRate": ("BPM", 65),
    "PQInterval": ("ms", 174),
    "PDuration": ("ms", 106),
    "QRSDuration": ("ms", 92),
    "QTInterval": ("ms", 440),
    "QTCInterval": ("ms", 401),
    "PAxis": ("degrees", 56),
    "RAxis": ("degrees", -12),
    "TAxis": ("degrees", 45),
    "QRSNum": (None, 9),
}
MIDDLE = 478  # ms from the start of the stored median beat to the middle of its QRS


def stored_beat(rate=500, resolution=5.0, seconds=1.2, middle=MIDDLE):
    """(12, T) whole numbers: the simulated beat in units of so many uV."""
    time = np.arange(round(seconds * rate)) / rate - middle / 1000
    return np.round(beat(time) * 1000 / resolution).astype(int)


def stored_strip(resolution=5.0, **options):
    return np.round(rhythm_strip(**options) * 1000 / resolution).astype(int)


def element(name, value, unit=None):
    units = "" if unit is None else f' units="{unit}"'
    return f"<{name}{units}>{value}</{name}>"


def samples_text(samples):
    """As the recorder writes it: tabulators, and lines that end with a comma."""
    words = [str(value) for value in samples]
    lines = [",".join(words[start : start + 200]) for start in range(0, len(words), 200)]
    return "\t\t\t" + ",\n\t\t\t".join(lines)


def waveforms(
    samples,
    leads=LEADS,
    rate=500,
    resolution=5.0,
    unit="uVperLsb",
    rate_unit="Hz",
    count=None,
    valid=None,
    texts=None,
):
    """The inside of a section. `count`: stated samples per lead; `texts`: lead -> other samples."""
    first, last = valid or (0, len(samples[0]) - 1)
    return "\n".join(
        [
            element("NumberOfLeads", len(leads)),
            element("SampleRate", rate, rate_unit),
            element("ChannelSampleCountTotal", len(samples[0]) if count is None else count),
            element("Resolution", resolution, unit),
            element("FirstValid", first, "Sample"),
            element("LastValid", last, "Sample"),
            *(
                f'<WaveformData lead="{lead}">'
                + (texts or {}).get(lead, samples_text(row))
                + "</WaveformData>"
                for lead, row in zip(leads, samples, strict=True)
            ),
        ]
    )


def document(median=None, strip=None, age=61, qrs=(432, 524), qrs_unit="ms", measured=MEASURED):
    """A whole file as text; a section that is None is not there, an onset that is None neither."""
    bounds = dict(zip(("QOnset", "QOffset"), qrs, strict=True))
    inside = [element(name, value, unit) for name, (unit, value) in measured.items()]
    inside += [element("MeasurementTable", element("RDuration", "69, , 36", "ms"))]
    inside += [element(k, value, qrs_unit) for k, value in bounds.items() if value is not None]
    inside += [] if median is None else [element("MedianSamples", median)]
    parts = [
        element("ObservationType", "RestECG"),
        element("PatientInfo", element("Name", "M\u00fcller") + element("Age", age, "YEARS")),
        element("RestingECGMeasurements", "\n".join(inside)),
        element("VectorLoops", element("Resolution", 3, "uVperLsb") + element("QOnset", 1, "ms")),
        *([] if strip is None else [element("StripData", strip)]),
        element("FullDisclosure", element("SampleRate", 20, "Hz")),
    ]
    inside = "\n".join(parts)
    declaration = '<?xml version="1.0" encoding="ISO-8859-1" ?>'
    return f"{declaration}\n<CardiologyXML>\n{inside}\n</CardiologyXML>\n"


def write(file, text, encoding="iso-8859-1"):
    """Writes with Windows line ends, as the recorder does."""
    file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    return file
