"""Files of every format with a known strip and a known person, for the tests of recordings.

Each is written from the public description of its format, not by the library that reads it.
"""

import base64
import binascii
import struct
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from data.cohort import LEADS
from tests.cardiosoft_files import document, waveforms
from tests.simulated_strips import beat, rhythm_strip

UV = 5.0  # resolution of all files
SECRETS = (
    *("Zwetschgenbaum", "Quendoline", "Birnstiel", "Oberfeldarzt", "Klabautermann"),
    *("1957-03-14", "19570314", "14-MAR-1957", "03-14-1957", "KH-Xanten-77", "4711-0815-PAT"),
    "ACC-99-31337",
)
LAST, FIRST, STAFF, DOCTOR, INSTITUTION = *SECRETS[:4], SECRETS[9]


@dataclass
class Patient:
    """Whom a file is of."""

    patient_id: str = "4711-0815-PAT"
    age: int = 62
    sex: str = "F"
    height: int = 170
    weight: int = 72
    recorded: datetime = datetime(2019, 7, 5, 10, 35, 20)
    accession: str = "ACC-99-31337"
    strip: np.ndarray = field(default_factory=lambda: rhythm_strip(seconds=6, noise=0.01, seed=3))
    rate: int = 500
    leads: tuple = LEADS

    @property
    def digital(self):
        """(leads, T) whole numbers of `UV` each."""
        return np.round(self.strip * 1000 / UV).astype("<i2")

    @property
    def median(self):
        """(leads, 600) the beat of the strip, its QRS at sample 260, on a zero of its own."""
        ecg = beat(np.arange(600) / 500 - 0.52)[[LEADS.index(lead) for lead in self.leads]]
        return np.round((ecg + 0.1) * 1000 / UV).astype("<i2")


def _b64(samples):
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()


def muse(one, median=True, doctype="", encoding="UTF-8", crc=True):
    """GE MUSE, restecg.dtd: eight leads."""

    def waveform(kind, samples):
        eight = [row for row, lead in enumerate(one.leads) if lead in ("I", "II") or lead[0] == "V"]
        leads = "".join(
            f"<LeadData><LeadByteCountTotal>{2 * samples.shape[1]}</LeadByteCountTotal>"
            f"<LeadSampleCountTotal>{samples.shape[1]}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{UV}</LeadAmplitudeUnitsPerBit>"
            "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>"
            f"<LeadID>{one.leads[row]}</LeadID><LeadSampleSize>2</LeadSampleSize>"
            + f"<LeadDataCRC32>{binascii.crc32(samples[row].tobytes())}</LeadDataCRC32>" * crc
            + f"<WaveFormData>{_b64(samples[row])}</WaveFormData></LeadData>"
            for row in eight
        )
        rate = one.rate if kind == "Rhythm" else 500
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{rate}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{leads}</Waveform>"
        )

    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n{doctype}<RestingECG>'
        f"<PatientDemographics><PatientID>{one.patient_id}</PatientID>"
        f"<PatientAge>{one.age}</PatientAge><AgeUnits>YEARS</AgeUnits>"
        f"<DateofBirth>03-14-1957</DateofBirth><Gender>{one.sex}</Gender>"
        f"<HeightCM>{one.height}</HeightCM><WeightKG>{one.weight}</WeightKG>"
        f"<PatientLastName>{LAST}</PatientLastName><PatientFirstName>{FIRST}</PatientFirstName>"
        "</PatientDemographics><TestDemographics>"
        f"<AcquisitionDate>{one.recorded:%m-%d-%Y}</AcquisitionDate>"
        f"<AcquisitionTime>{one.recorded:%H:%M:%S}</AcquisitionTime>"
        f"<SiteName>{INSTITUTION}</SiteName><AcquisitionTechLastName>{STAFF}"
        f"</AcquisitionTechLastName><OverreaderLastName>{DOCTOR}</OverreaderLastName>"
        f"</TestDemographics><Order><AccessionNumber>{one.accession}</AccessionNumber></Order>"
        "<Diagnosis><DiagnosisStatement><StmtText>Klabautermann</StmtText></DiagnosisStatement>"
        "</Diagnosis>"
        + (waveform("Median", one.median) if median else "")
        + waveform("Rhythm", one.digital)
        + "</RestingECG>"
    )
    return text.encode(encoding)


def philips(one):
    """Philips Sierra XML 1.04, not compressed."""
    count = one.digital.shape[1]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<restingecgdata xmlns="http://www3.medical.philips.com">'
        "<documentinfo><documenttype>PhilipsECG</documenttype>"
        "<documentversion>1.04</documentversion></documentinfo>"
        f'<dataacquisition date="{one.recorded:%Y-%m-%d}" time="{one.recorded:%H:%M:%S}">'
        f"<acquirer><operatorid>{STAFF}</operatorid><facilityname>{INSTITUTION}</facilityname>"
        f"</acquirer><signalcharacteristics><samplingrate>{one.rate}</samplingrate>"
        f"<resolution>{UV}</resolution><leadset>STD-12</leadset>"
        "<numberchannelsvalid>12</numberchannelsvalid>"
        "<numberchannelsallocated>12</numberchannelsallocated>"
        "<bitspersample>16</bitspersample></signalcharacteristics></dataacquisition>"
        f"<patient><generalpatientdata><patientid>{one.patient_id}</patientid>"
        f"<name><lastname>{LAST}</lastname><firstname>{FIRST}</firstname></name>"
        f"<age><years>{one.age}</years><dateofbirth>1957-03-14</dateofbirth></age>"
        f"<sex>{'Female' if one.sex == 'F' else 'Male'}</sex><height><cm>{one.height}</cm></height>"
        f"<weight><kg>{one.weight}</kg></weight></generalpatientdata></patient><waveforms>"
        f'<parsedwaveforms dataencoding="Base64" compressflag="False" '
        f'durationperchannel="{1000 * count // one.rate}" nbitspersample="16" '
        f'samplespersecond="{one.rate}" numberofleads="12" samplesperchannel="{count}" '
        f'resolution="{UV}">{_b64(one.digital)}</parsedwaveforms></waveforms></restingecgdata>'
    ).encode()


def aecg(one, prefix="", series=1):
    """HL7 annotated ECG."""
    p = f"{prefix}:" if prefix else ""
    space = f"xmlns{':' + prefix if prefix else ''}"
    sequences = "".join(
        f'<{p}component><{p}sequence><{p}code code="MDC_ECG_LEAD_{lead.upper()}"/>'
        f'<{p}value><{p}origin value="0" unit="uV"/><{p}scale value="{UV}" unit="uV"/>'
        f"<{p}digits>{' '.join(map(str, row))}</{p}digits></{p}value></{p}sequence></{p}component>"
        for lead, row in zip(one.leads, one.digital, strict=True)
    )
    sex = one.sex
    rhythm = (
        f'<{p}component><{p}series><{p}code code="RHYTHM"/>'
        f'<{p}effectiveTime><{p}low value="{one.recorded:%Y%m%d%H%M%S}"/></{p}effectiveTime>'
        f'<{p}component><{p}sequenceSet><{p}component><{p}sequence><{p}code code="TIME_ABSOLUTE"/>'
        f'<{p}value><{p}head value="{one.recorded:%Y%m%d%H%M%S}"/>'
        f'<{p}increment value="{1 / one.rate}" unit="s"/></{p}value></{p}sequence></{p}component>'
        f"{sequences}</{p}sequenceSet></{p}component></{p}series></{p}component>"
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{p}AnnotatedECG {space}="urn:hl7-org:v3">'
        f'<{p}effectiveTime><{p}low value="{one.recorded:%Y%m%d%H%M%S}"/></{p}effectiveTime>'
        f"<{p}componentOf><{p}timepointEvent><{p}componentOf><{p}subjectAssignment><{p}subject>"
        f'<{p}trialSubject><{p}id extension="{one.patient_id}"/><{p}subjectDemographicPerson>'
        f"<{p}name><{p}family>{LAST}</{p}family><{p}given>{FIRST}</{p}given></{p}name>"
        f'<{p}administrativeGenderCode code="{sex}"/><{p}birthTime value="19570314"/>'
        f"</{p}subjectDemographicPerson></{p}trialSubject></{p}subject></{p}subjectAssignment>"
        f"</{p}componentOf></{p}timepointEvent></{p}componentOf>{rhythm * series}</{p}AnnotatedECG>"
    ).encode()


def mortara(one):
    """Mortara ELI."""
    channels = "".join(
        f'<CHANNEL NAME="{lead}" UNITS_PER_MV="{1000 / UV:g}" DURATION="{len(row)}" '
        f'SAMPLE_FREQ="{one.rate}" BITS="16" FORMAT="SIGNED" ENCODING="BASE64" OFFSET="0" '
        f'DATA="{_b64(row)}"/>'
        for lead, row in zip(one.leads, one.digital, strict=True)
    )
    return (
        f'<ECG ACQUISITION_TIME="{one.recorded:%Y%m%d%H%M%S}" AGE="{one.age}" AGE_UNITS="YEARS" '
        f'HEIGHT="{one.height}" HEIGHT_UNITS="CM" WEIGHT="{one.weight}" WEIGHT_UNITS="KG" '
        f'TECHNICIAN="{STAFF}"><SUBJECT LAST_NAME="{LAST}" FIRST_NAME="{FIRST}" '
        f'ID="{one.patient_id}" GENDER="{one.sex}" DOB="19570314"/>'
        f'<SOURCE MANUFACTURER="Mortara" ACQUIRING_DEVICE_SITE_NAME="{INSTITUTION}"/>'
        f"{channels}</ECG>"
    ).encode()


def cardiosoft(one, median=True):
    """CardioSoft, with a person."""
    stored = one.median
    inside = waveforms(one.digital, rate=one.rate)
    text = document(waveforms(stored) if median else None, inside, qrs=(474, 566))
    person = (
        f"<PatientInfo><PID>{one.patient_id}</PID><Name><FamilyName>{LAST}</FamilyName>"
        f"<GivenName>{FIRST}</GivenName></Name>"
        f'<Age units="YEARS">{one.age}</Age><BirthDateTime><Day>14</Day><Month>3</Month>'
        "<Year>1957</Year></BirthDateTime>"
        f"<Gender>{'FEMALE' if one.sex == 'F' else 'MALE'}</Gender>"
        f'<Height units="CENTIMETERS">{one.height}</Height>'
        f'<Weight units="KILOGRAMS">{one.weight}</Weight></PatientInfo>'
    )
    start, rest = text.split("<PatientInfo>")
    when = one.recorded
    moment = "".join(
        f"<{name}>{getattr(when, name.lower())}</{name}>"
        for name in ("Hour", "Minute", "Second", "Day", "Month", "Year")
    )
    moment = f"<ObservationDateTime>{moment}</ObservationDateTime>"
    return (start + moment + person + rest.split("</PatientInfo>")[1]).encode("iso-8859-1")


def edf(one, rates=None, unit="uV", onsets=None):
    """EDF+ of one record per second, each from its onset in s if they are given."""
    digital, n = one.digital, len(one.leads)
    labels, rates = [f"ECG {lead}" for lead in one.leads], rates or [one.rate] * n
    seconds = digital.shape[1] // one.rate
    parts = [row[:: one.rate // rate] for row, rate in zip(digital, rates, strict=True)]
    if onsets:
        notes = b"".join(f"+{onset}\x14\x14\0".encode().ljust(60, b"\0") for onset in onsets)
        parts.append(np.frombuffer(notes, "<i2"))
        labels, rates, n = [*labels, "EDF Annotations"], [*rates, 30], n + 1

    def fields(values, width):
        return "".join(str(value).ljust(width)[:width] for value in values)

    sex = one.sex
    header = (
        "0".ljust(8)
        + f"{one.patient_id} {sex} 14-MAR-1957 {LAST},{FIRST}".ljust(80)
        + f"Startdate {one.recorded:%d-%b-%Y} X {STAFF} {INSTITUTION}".upper().ljust(80)
        + f"{one.recorded:%d.%m.%y%H.%M.%S}"
        + str(256 * (n + 1)).ljust(8)
        + ("EDF+D" if onsets else "EDF+C").ljust(44)
        + str(seconds).ljust(8)
        + "1".ljust(8)
        + str(n).ljust(4)
        + fields(labels, 16)
        + fields([""] * n, 80)
        + fields([unit] * n, 8)
        + fields([-32768 * UV] * n, 8)
        + fields([32767 * UV] * n, 8)
        + fields([-32768] * n, 8)
        + fields([32767] * n, 8)
        + fields([""] * n, 80)
        + fields(rates, 8)
        + fields([""] * n, 32)
    )
    data = b"".join(
        part[second * rate : (second + 1) * rate].tobytes()
        for second in range(seconds)
        for part, rate in zip(parts, rates, strict=True)
    )
    return header.encode("latin-1") + data


def ishne(one):
    """ISHNE 1.0."""
    header = bytearray(522)
    header[:8] = b"ISHNE1.0"
    struct.pack_into("<iiiih", header, 10, 0, one.digital.shape[1], 522, 522, 1)
    header[28 : 28 + len(FIRST)] = FIRST.encode()
    header[68 : 68 + len(LAST)] = LAST.encode()
    header[108 : 108 + len(one.patient_id)] = one.patient_id.encode()
    struct.pack_into("<hh", header, 128, 2 if one.sex == "F" else 1, 0)
    struct.pack_into("<hhh", header, 132, 14, 3, one.recorded.year - one.age)
    when = one.recorded
    struct.pack_into("<hhhhhh", header, 138, when.day, when.month, when.year, 1, 1, 2020)
    struct.pack_into("<hhh", header, 150, when.hour, when.minute, when.second)
    struct.pack_into("<h", header, 156, 12)
    # I, II, III, aVR, aVL, aVF, V1 ... V6 are 5 to 16.
    struct.pack_into("<12h", header, 158, *range(5, 17))
    struct.pack_into("<12h", header, 206, *[int(1000 * UV)] * 12)
    struct.pack_into("<h", header, 272, one.rate)
    return bytes(header) + one.digital.T.tobytes()


def _section(number, body):
    body += b"\0" * (len(body) % 2)
    head = struct.pack("<HIBB6x", number, len(body) + 16, 20, 20)
    crc = binascii.crc_hqx(head + body, 0xFFFF)
    return struct.pack("<H", crc) + head + body


def _huffman(values):
    """Second differences in the code of EN 1064's own table (19999)."""
    differences = np.concatenate([values[:2], np.diff(values, 2)]).tolist()
    bits = []
    for value in differences:
        if value == 0:
            bits.append("0")
        elif abs(value) <= 8:
            bits.append("1" * abs(value) + "0" + ("0" if value > 0 else "1"))
        elif -128 <= value < 128:
            bits.append("1111111110" + f"{value & 0xFF:08b}")
        else:
            bits.append("1111111111" + f"{value & 0xFFFF:016b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 16)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def scp(one, compressed=False, late=""):
    """SCP-ECG 2.0, amplitudes as they are or compressed: sections 0, 1, (2), 3 and 6.

    One lead may begin 10 samples late.
    """

    def tag(number, content):
        return struct.pack("<BH", number, len(content)) + content

    eight = [row for row, lead in enumerate(one.leads) if lead in ("I", "II") or lead[0] == "V"]
    codes = {"I": 1, "II": 2, "V1": 3, "V2": 4, "V3": 5, "V4": 6, "V5": 7, "V6": 8}
    count = one.digital.shape[1]
    when = one.recorded
    pack = _huffman if compressed else (lambda row: row.tobytes())
    leads = [pack(one.digital[row].astype("<i2")) for row in eight]
    sections = {
        1: tag(0, LAST.encode() + b"\0")
        + tag(1, FIRST.encode() + b"\0")
        + tag(2, one.patient_id.encode() + b"\0")
        + tag(4, struct.pack("<HB", one.age, 1))
        + tag(5, struct.pack("<HBB", 1957, 3, 14))
        + tag(6, struct.pack("<HB", one.height, 1))
        + tag(7, struct.pack("<HB", one.weight, 1))
        + tag(8, bytes([2 if one.sex == "F" else 1]))
        + tag(25, struct.pack("<HBB", when.year, when.month, when.day))
        + tag(26, bytes([when.hour, when.minute, when.second]))
        + tag(255, b""),
        3: struct.pack("<BB", 8, (8 << 3) | 4)
        + b"".join(
            struct.pack("<IIB", 11, count + 10, code)
            if lead == late
            else struct.pack("<IIB", 1, count, code)
            for lead, code in ((one.leads[row], codes[one.leads[row]]) for row in eight)
        ),
        6: struct.pack("<HHBB", int(1000 * UV), 1_000_000 // one.rate, 2 * compressed, 0)
        + struct.pack("<8H", *map(len, leads))
        + b"".join(leads),
    }
    if compressed:
        sections[2] = struct.pack("<H", 19999)
    made = {number: _section(number, body) for number, body in sorted(sections.items())}
    length = 16 + 10 * 12
    places, at = {0: (length, 7)}, 7 + length
    for number, section in made.items():
        places[number] = (len(section), at)
        at += len(section)
    pointers = b"".join(
        struct.pack("<HII", number, *places.get(number, (0, 0))) for number in range(12)
    )
    body = _section(0, pointers) + b"".join(made.values())
    rest = struct.pack("<I", len(body) + 6) + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def mfer(one):
    """MFER, little-endian, a block per channel."""

    def define(tag, content):
        size = len(content)
        if size < 128:
            return bytes([tag, size]) + content
        return bytes([tag, 0x84]) + size.to_bytes(4, "big") + content

    codes = dict(zip(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), range(1, 9), strict=True))
    codes |= {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64}
    when, count = one.recorded, one.digital.shape[1]
    return b"".join(
        [
            define(0x40, b"MFR ECG".ljust(32)),
            define(0x01, b"\1"),
            define(0x81, f"{LAST}^^{FIRST}".encode()),
            define(0x82, one.patient_id.encode()),
            define(0x83, bytes([one.age]) + struct.pack("<HHBB", 0, 1957, 3, 14)),
            define(0x84, bytes([2 if one.sex == "F" else 1])),
            define(
                0x85,
                struct.pack("<HBBBBB", when.year, when.month, when.day, *when.timetuple()[3:6]),
            ),
            define(0x04, struct.pack("<I", count)),
            define(0x05, bytes([12])),
            define(0x06, b"\1"),
            define(0x0B, struct.pack("<Bbi", 0, 0, one.rate)),
            define(0x0C, struct.pack("<Bbi", 0, -6, int(UV))),
            define(0x0A, b"\0"),
            *(
                b"\x3f" + define(number, define(0x09, struct.pack("<H", codes[lead])))
                for number, lead in enumerate(one.leads)
            ),
            define(0x1E, one.digital.tobytes()),
            b"\x80\0",
        ]
    )


def dicom(one, median=True, groups=1):
    """DICOM 12-lead ECG waveform, explicit little-endian."""
    from io import BytesIO

    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian

    def code(value, scheme, meaning):
        made = Dataset()
        made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
        return Sequence([made])

    def group(samples, rate, label):
        made = Dataset()
        made.MultiplexGroupLabel = label
        made.NumberOfWaveformChannels, made.NumberOfWaveformSamples = samples.shape
        made.SamplingFrequency = rate
        made.WaveformOriginality = "ORIGINAL"
        channels = []
        for lead in one.leads:
            channel = Dataset()
            channel.ChannelSourceSequence = code("5.6.3-9-1", "SCPECG", f"Lead {lead}")
            channel.ChannelSourceSequence[0].CodeValue = f"MDC_ECG_LEAD_{lead.upper()}"[:16]
            channel.ChannelSensitivity = UV
            channel.ChannelSensitivityUnitsSequence = code("uV", "UCUM", "microvolt")
            channel.ChannelSensitivityCorrectionFactor = 1
            channel.ChannelBaseline = 0
            channel.WaveformBitsStored = 16
            channels.append(channel)
        made.ChannelDefinitionSequence = Sequence(channels)
        made.WaveformBitsAllocated, made.WaveformSampleInterpretation = 16, "SS"
        made.WaveformData = samples.T.tobytes()
        return made

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3.4"
    ds.Modality = "ECG"
    ds.PatientName, ds.PatientID, ds.PatientSex = f"{LAST}^{FIRST}", one.patient_id, one.sex
    ds.PatientBirthDate, ds.PatientAge = "19570314", f"{one.age:03d}Y"
    ds.PatientSize, ds.PatientWeight = one.height / 100, one.weight
    ds.InstitutionName, ds.OperatorsName, ds.AccessionNumber = INSTITUTION, STAFF, one.accession
    ds.AcquisitionDateTime = f"{one.recorded:%Y%m%d%H%M%S}"
    rhythm = [group(one.digital, one.rate, "RHYTHM") for _ in range(groups)]
    ds.WaveformSequence = Sequence([*rhythm, *([group(one.median, 500, "MEDIAN BEAT")] * median)])
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def challenge(folder: Path, name: str, one, comments=None, fmt="16+24"):
    """A record of the PhysioNet Challenge: `.hea`, and `.mat` of MATLAB version 4."""
    digital = one.digital
    count = digital.shape[1]
    mat = struct.pack("<5i", 30, len(digital), count, 0, 4) + b"val\0" + digital.T.tobytes()
    (folder / f"{name}.mat").write_bytes(mat)
    sex = "Female" if one.sex == "F" else "Male"
    comments = (
        [f"#Age: {one.age}", f"#Sex: {sex}", "#Dx: 426783006,164889003"]
        if comments is None
        else comments
    )
    lines = [f"{name} {len(digital)} {one.rate} {count} 05-Feb-2020 11:39:16"]
    for lead, row in zip(one.leads, digital, strict=True):
        checksum = int(row.astype(np.int64).sum()) % 65536
        lines.append(f"{name}.mat {fmt} {1000 / UV:g}/mV 16 0 {row[0]} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, *comments]) + "\n")


FORMATS = {
    "GE MUSE XML": muse,
    "Philips XML": philips,
    "HL7 aECG": aecg,
    "Mortara XML": mortara,
    "CardioSoft XML": cardiosoft,
    "EDF": edf,
    "ISHNE": ishne,
    "SCP-ECG": scp,
    "MFER": mfer,
    "DICOM": dicom,
}
