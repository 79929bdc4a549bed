import re

import numpy as np
import pytest
import soundfile
import wfdb

from data.beats import BeatError
from data.readers.ptbxl import WfdbReader
from data.readers.wfdb16 import read_16_bit
from tests.places import SHARED

REAL = SHARED / "ptbxl"

GAINS = ("1000.0(0)/mV", "200(-1024)/uV", "23423.371(7)/mV", "0.1(-99999)/V", "4.88(0)/mmHg")


def write(folder, calibrations=GAINS, samples=100, seed=0):
    """A record of random numbers in plain format 16; the path without extension."""
    digital = np.random.default_rng(seed).integers(-32768, 32768, (samples, len(calibrations)))
    digital[3, 0] = -32768  # missing
    digital.astype("<i2").tofile(folder / "a-1.dat")
    lines = [f"a-1 {len(calibrations)} 500 {samples}"]
    for lead, calibration in enumerate(calibrations):
        checksum = sum(int(value) for value in digital[:, lead]) % 65536
        if lead % 2:
            checksum -= 65536  # some programs write it as a signed number
        lines.append(f"a-1.dat 16 {calibration} 16 0 {digital[0, lead]} {checksum} 0 lead {lead}")
    (folder / "a-1.hea").write_text("\n".join(lines) + "\n")
    return folder / "a-1"


def edit(record, old, new, count=-1):
    header = record.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new, count))


def assert_same_as_wfdb(record):
    found = read_16_bit(record)
    expected = wfdb.rdrecord(str(record), return_res=32)
    assert found.values.dtype == expected.p_signal.dtype
    np.testing.assert_array_equal(found.values, expected.p_signal.T)  # NaN equals NaN
    assert found.sampling_rate == expected.fs
    assert found.units == expected.units
    assert found.names == expected.sig_name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("calibrations", [GAINS, GAINS[:1] * 12, GAINS[2:3], GAINS[:2]])
def test_values_are_those_of_the_wfdb_package_to_the_last_bit(tmp_path, calibrations, seed):
    record = write(tmp_path, calibrations, samples=2000, seed=seed)
    assert_same_as_wfdb(record)
    assert np.isnan(read_16_bit(record).values[0, 3])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a-1 5 500 100\n", "# made by hand\n\n  a-1 5 500 100 12:30:05 01/02/2003\n"),
        ("a-1 5 500 100\n", "a-1\t5  500.25 100 \n"),
        (" 0 lead 0", " 0 lead 0  \n# a comment"),
        ("lead 1", "aVR, right: (arm)"),
        ("\n", "\r\n"),
    ],
)
def test_headers_are_read_as_the_wfdb_package_reads_them(tmp_path, old, new):
    record = write(tmp_path)
    edit(record, old, new)
    assert_same_as_wfdb(record)


def test_signals_behind_a_header_without_baselines_are_those_of_the_wfdb_package(tmp_path):
    """As the MATLAB files of the PhysioNet Challenges; the zero of the converter is 7."""
    record = write(tmp_path, ("1000/mV", "200/uV"))
    signals = record.with_suffix(".dat")
    signals.write_bytes(b"x" * 24 + signals.read_bytes())
    edit(record, "dat 16 ", "dat 16+24 ")
    edit(record, "/mV 16 0 ", "/mV 16 7 ")
    edit(record, "500 100\n", "500 100 05-Feb-2020 11:39:16\n")
    found = read_16_bit(record)
    edit(record, " 05-Feb-2020 11:39:16", "")  # the package takes it for something else
    np.testing.assert_array_equal(
        found.values, wfdb.rdrecord(str(record), return_res=32).p_signal.T
    )
    signals.write_bytes(signals.read_bytes()[:-2] + b"zz")
    with pytest.raises(BeatError, match="checksum"):
        read_16_bit(record)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a-1 5 500 100", "a-1/1 5 500 100"),  # segments
        ("a-1 5 500 100", "a-1 5 500"),  # length to be found from the file
        ("a-1 5 500 100", "a-1 5 500/1000 100"),  # another clock
        ("a-1 5 500 100", "a-1 5 500 99"),  # the file is longer
        ("a-1 5 500 100", "a-1 5 500 101"),  # the file is shorter
        ("a-1 5 500 100", "a-1 4 500 100"),
        ("a-1 5 500 100", "a-1 500 100"),
        ("dat 16 ", "dat 16x2 "),  # samples per frame
        ("dat 16 ", "dat 16:3 "),  # skew
        ("dat 16 ", "dat 16+24 "),  # offset
        ("dat 16 ", "dat 212 "),
        ("dat 16 ", "dat 160 "),
        ("a-1.dat", "b.dat"),  # two signal files
        ("a-1.dat", "../a-1.dat"),
        ("a-1.dat", "/etc/a-1.dat"),
        ("1000.0(0)/mV", "1000.0/mV"),  # the baseline is the zero of the converter
        ("1000.0(0)/mV", "1000.0(0)"),
        ("1000.0(0)/mV", "0(0)/mV"),  # gain unknown
        ("1000.0(0)/mV", "1000(16777217)/mV"),  # not exact in float32
        (" 0 lead 0", ""),
    ],
)
def test_any_other_record_is_left_to_the_wfdb_package(tmp_path, old, new):
    record = write(tmp_path)
    edit(record, old, new, count=1)
    assert read_16_bit(record) is None


def test_an_empty_header_is_left_to_the_wfdb_package(tmp_path):
    record = write(tmp_path)
    record.with_suffix(".hea").write_text("# nothing\n")
    assert read_16_bit(record) is None


@pytest.mark.parametrize("fmt", ["212", "16", "24", "516"])
def test_the_reader_gives_the_same_strip_whatever_the_format(tmp_path, fmt):
    digital = np.random.default_rng(0).integers(-2000, 2000, (100, 2))
    wfdb.wrsamp(
        "r",
        fs=500,
        units=["mV", "uV"],
        sig_name=["I", "II"],
        d_signal=digital,
        fmt=[fmt] * 2,
        adc_gain=[200.0, 0.5],
        baseline=[10, 0],
        write_dir=str(tmp_path),
    )
    strip = WfdbReader(str(tmp_path))("r")
    expected = np.stack([(digital[:, 0] - 10) / 200, digital[:, 1] / 500])
    np.testing.assert_allclose(strip.ecg, expected, rtol=1e-6)
    assert strip.sampling_rate == 500
    assert list(strip.leads) == ["I", "II"]
    assert (read_16_bit(tmp_path / "r") is not None) == (fmt in ("16", "516"))


def in_flac(folder, subtype="PCM_16"):
    """A record of five signals in two files; the path without extension."""
    digital = np.random.default_rng(0).integers(-2000, 2000, (200, 5)).astype(np.int16)
    digital[3, 0] = -32768  # missing
    lines = ["f 5 500 200"]
    for file, signals in (("f_1.dat", range(3)), ("f_2.dat", range(3, 5))):
        part = digital[:, list(signals)]
        soundfile.write(folder / file, part, 500, format="FLAC", subtype=subtype)
        sums = part.astype(int).sum(axis=0) % 65536
        for signal, first, checksum in zip(signals, part[0], sums, strict=True):
            lines.append(f"{file} 516 200.0(10)/mV 16 0 {first} {checksum} 0 lead {signal}")
    (folder / "f.hea").write_text("\n".join(lines) + "\n")
    return folder / "f"


def test_flac_files_are_read_as_the_wfdb_package_reads_them(tmp_path):
    record = in_flac(tmp_path)
    assert_same_as_wfdb(record)
    assert np.isnan(read_16_bit(record).values[0, 3])
    checksum = record.with_suffix(".hea").read_text().split()[-4]
    edit(record, f" {checksum} 0 lead 4", " 1 0 lead 4")
    with pytest.raises(BeatError, match="lead lead 4 contradicts its checksum"):
        read_16_bit(record)


@pytest.mark.parametrize(
    ("old", "new"),
    [("500 200", "500 199"), ("f_2.dat", "f_1.dat"), ("f_2.dat", "none.dat"), (" 516 ", " 516+8 ")],
)
def test_any_other_flac_record_is_left_to_the_wfdb_package(tmp_path, old, new):
    record = in_flac(tmp_path)
    edit(record, old, new)
    assert read_16_bit(record) is None


def test_flac_of_other_samples_or_none_is_left_to_the_wfdb_package(tmp_path):
    record = in_flac(tmp_path, "PCM_S8")
    assert read_16_bit(record) is None
    (tmp_path / "f_1.dat").write_bytes(b"fLaC and nothing more")
    assert read_16_bit(record) is None


def test_samples_that_contradict_their_checksum_are_refused(tmp_path):
    record = write(tmp_path)
    samples = np.fromfile(record.with_suffix(".dat"), "<i2")
    samples[5 * 60 + 2] += 1
    samples.tofile(record.with_suffix(".dat"))
    with pytest.raises(BeatError, match="lead lead 2 contradicts its checksum"):
        read_16_bit(record)


def test_checksums_that_were_never_calculated_are_not_compared(tmp_path):
    record = write(tmp_path)
    header = record.with_suffix(".hea")
    first, *lines = [line.split(" ", 7) for line in header.read_text().splitlines()]
    lines = [[*line[:6], "0", line[7]] for line in lines]
    header.write_text("\n".join(" ".join(line) for line in [first, *lines]))
    assert_same_as_wfdb(record)


@pytest.mark.parametrize("missing", [".hea", ".dat"])
def test_a_missing_file_is_an_error(tmp_path, missing):
    record = write(tmp_path)
    record.with_suffix(missing).unlink()
    with pytest.raises(FileNotFoundError):
        read_16_bit(record)


# --- headers that are not ASCII -------------------------------------------------------------------

# Unit -> volts, by the International System of Units.
UNITS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9, "\u00b5V": 1e-6, "\u03bcV": 1e-6}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("fmt", ["16", "212"])  # ours, and that of the wfdb package
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_the_same_in_every_encoding_and_format(tmp_path, fmt, unit, encoding):
    if encoding == "latin-1" and unit == "\u03bcV":
        return  # it has no Greek letters
    digital = np.random.default_rng(0).integers(-2000, 2000, (100, 2))
    options = {"fmt": [fmt] * 2, "adc_gain": [4.0, 8.0], "baseline": [10, 0]}
    options |= {"units": ["XX", "XX"], "sig_name": ["I", "II"], "d_signal": digital}
    wfdb.wrsamp("r", fs=500, write_dir=str(tmp_path), **options)
    header = tmp_path / "r.hea"
    header.write_bytes(header.read_text().replace("XX", unit).encode(encoding))
    strip = WfdbReader(str(tmp_path))("r")
    expected = UNITS[unit] * 1e3 * np.stack([(digital[:, 0] - 10) / 4, digital[:, 1] / 8])
    np.testing.assert_allclose(strip.ecg, expected, rtol=1e-6)
    assert list(strip.leads) == ["I", "II"]
    assert (read_16_bit(tmp_path / "r") is not None) == (fmt == "16")


def in_format_212(folder, old="", new="", encoding="utf-8"):
    """A record for the wfdb package whose header is changed."""
    digital = np.zeros((100, 2), int)
    options = {"units": ["mV", "mV"], "sig_name": ["I", "II"], "fmt": ["212"] * 2}
    options |= {"adc_gain": [200.0, 200.0], "baseline": [0, 0]}
    wfdb.wrsamp("r", fs=500, write_dir=str(folder), d_signal=digital, **options)
    header = folder / "r.hea"
    header.write_bytes(header.read_text().replace(old, new).encode(encoding))
    return WfdbReader(str(folder))


@pytest.mark.parametrize(
    "unit", ["\u00e6V", "\u00a0V", "\u00c2\u00b5V", "\u03a9", "k\u03bcV", "mmHg"]
)
def test_a_unit_that_is_not_known_is_named_as_it_stands_there(tmp_path, unit):
    with pytest.raises(BeatError, match=re.escape(f"unknown unit {unit!r}")):
        in_format_212(tmp_path, "/mV", f"/{unit}")("r")
    record = write(tmp_path, ("1000.0(0)/mV", f"5(0)/{unit}"))
    with pytest.raises(BeatError, match=re.escape(f"unknown unit {unit!r}")):
        WfdbReader(str(tmp_path))(record.name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("200.0(0)", "200.0(\u22125)", "header of signal 1 is not ASCII"),  # a minus
        ("200.0", "\uff1200.0", "header of signal 1 is not ASCII"),  # a wide 2: gain 0
        ("r 2 500", "r 2 \uff1500", "first line of the header"),
    ],
)
def test_numbers_of_which_bytes_would_be_dropped_are_refused(tmp_path, old, new, message):
    with pytest.raises(BeatError, match=message):
        in_format_212(tmp_path, old, new)("r")


def test_names_of_leads_keep_their_letters(tmp_path):
    strip = in_format_212(tmp_path, " I\n", " \u2212I\n")("r")  # upside down
    assert list(strip.leads) == ["\u2212I", "II"]


def test_comments_may_be_in_any_encoding(tmp_path):
    read = in_format_212(tmp_path)
    expected = read("r").ecg
    header = tmp_path / "r.hea"
    header.write_bytes(header.read_bytes() + "# Müller\n".encode("latin-1"))
    np.testing.assert_array_equal(read("r").ecg, expected)


def test_a_segment_in_another_unit_is_refused(tmp_path):
    in_format_212(tmp_path, "/mV", "/\u00b5V")
    (tmp_path / "m.hea").write_text("m/2 2 500 200\nr 100\nr 100\n")
    with pytest.raises(BeatError, match="header of a segment is not ASCII"):
        WfdbReader(str(tmp_path))("m")


@pytest.mark.parametrize("gain", ["0(0)/mV", "0", "0.0/mV", "/mV"])
def test_without_a_gain_none_is_assumed(tmp_path, gain):
    with pytest.raises(BeatError, match="no gain in the header"):
        in_format_212(tmp_path, "200.0(0)/mV", gain)("r")
    (tmp_path / "m.hea").write_text("m/2 2 500 200\nr 100\nr 100\n")
    with pytest.raises(BeatError, match="no gain in the header"):
        WfdbReader(str(tmp_path))("m")
    record = write(tmp_path, ("1000.0(0)/mV", gain))
    with pytest.raises(BeatError, match="no gain in the header"):
        WfdbReader(str(tmp_path))(record.name)
    (tmp_path / "r.hea").write_text("r 2 500 100\nr.dat 212\nr.dat 212\n")
    with pytest.raises(BeatError, match="no gain in the header"):
        WfdbReader(str(tmp_path))("r")


def test_a_record_in_segments_with_gains_is_read(tmp_path):
    in_format_212(tmp_path)
    (tmp_path / "m.hea").write_text("m/2 2 500 200\nr 100\nr 100\n")
    assert WfdbReader(str(tmp_path))("m").ecg.shape == (2, 200)


@pytest.mark.parametrize("fmt", ["212", "24", "32", "80"])
def test_samples_of_other_formats_are_compared_with_their_checksums_too(tmp_path, fmt):
    rng, read = np.random.default_rng(0), WfdbReader(str(tmp_path))
    for name in ("a", "b"):
        wfdb.wrsamp(
            name,
            fs=500,
            units=["mV"] * 2,
            sig_name=["I", "II"],
            d_signal=rng.integers(-100, 100, (100, 2)),
            fmt=[fmt] * 2,
            adc_gain=[200.0] * 2,
            baseline=[0] * 2,
            write_dir=str(tmp_path),
        )
        expected = wfdb.rdrecord(str(tmp_path / name), return_res=32).p_signal.T
        np.testing.assert_array_equal(read(name).ecg, expected)
    (tmp_path / "a.dat").write_bytes((tmp_path / "b.dat").read_bytes())
    with pytest.raises(BeatError, match="lead I contradicts its checksum"):
        read("a")


def test_samples_that_are_averaged_are_not_compared(tmp_path):
    digital = [np.arange(100) % 50, np.arange(200) % 50]
    wfdb.wrsamp(
        "r",
        fs=500,
        units=["mV"] * 2,
        sig_name=["I", "II"],
        e_d_signal=digital,
        fmt=["212"] * 2,
        samps_per_frame=[1, 2],
        adc_gain=[200.0] * 2,
        baseline=[0] * 2,
        write_dir=str(tmp_path),
    )
    assert WfdbReader(str(tmp_path))("r").ecg.shape == (2, 100)


HEADERS = [*sorted(REAL.rglob("*_hr.hea"))[:10], *sorted(REAL.rglob("*_lr.hea"))[:10]]


@pytest.mark.skipif(not HEADERS, reason="the PTB-XL sample is not beside the checkout")
def test_real_records_are_read_as_the_wfdb_package_reads_them():
    for header in HEADERS:
        assert_same_as_wfdb(header.with_suffix(""))
