"""Files that are damaged, hostile or no ECG: each one line, and the rest goes on."""

import gzip
import hashlib
import io
import os
import struct
import threading
import time
import zipfile
import zlib
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

import data.readers.recordings as module
from data.cohort import LEADS, CohortError
from data.readers import bounds
from data.readers.exports import read_export
from data.readers.formats import MAX_XML, PARSERS, tell_format
from data.readers.kept import UNREADABLE
from data.readers.recordings import find_files, load_recordings
from data.strips import BeatError
from tests import recording_files as files
from tests.data.test_recordings import ONE, column, found, load, other, put, reasons
from tests.recording_files import FORMATS
from tests.simulated_strips import rhythm_strip


@pytest.fixture
def folder(tmp_path):
    """With one good recording, which every test finds again."""
    folder = tmp_path / "in"
    put(folder, "good", files.mfer(other(1)))
    return folder


def check(folder, expected, **options):
    """That these files are left out for these reasons, and the good one is not."""
    received = reasons(folder, **options)
    assert received == expected
    cohort = load(folder, **options)
    assert len(cohort) == 1
    assert cohort.subjects["recorded"][0] == "2011-01-01T12:00:05"


def test_files_that_are_no_ecg_are_told_by_their_content(folder):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.xml", files.muse(ONE))
    expected = {
        "empty.xml": (b"", "empty file"),
        "notes.xml": (b"dear colleague", "no known format"),
        "zeros.dcm": (b"\0" * 5000, "no known format"),
        "report.pdf": (b"%PDF-1.7\n...", "a PDF: a picture of an ECG, no samples"),
        "scan.xml": (b"\x89PNG\r\n\x1a\n", "a picture, no samples"),
        "all.xml": (archive.getvalue(), "a zip archive: unpack it"),
        "a.xml.gz": (gzip.compress(files.muse(ONE)), "compressed by gzip: unpack it"),
        "page.html": (b"<html><body/></html>", "XML of no known kind of ECG"),
        "b.bdf": (b"\xffBIOSEMI" + b" " * 500, "BDF, which is not read"),
    }
    for name, (content, _) in expected.items():
        put(folder, name, content)
    check(folder, {name: reason for name, (_, reason) in expected.items()})


@pytest.mark.parametrize("kind", FORMATS)
def test_a_wrong_extension_does_not_matter_and_a_truncated_file_is_left_out(folder, kind):
    whole = FORMATS[kind](ONE)
    for cut in (0.2, 0.6, 0.97):
        put(folder, f"cut {cut}", whole[: int(len(whole) * cut)])
    received = reasons(folder)
    assert set(received) == {"cut 0.2", "cut 0.6", "cut 0.97"}
    assert not any("\n" in reason or len(reason) > 80 for reason in received.values())


@pytest.mark.parametrize("kind", FORMATS)
def test_no_damage_ends_the_preparation(folder, kind):
    """Bytes at random, in the header and anywhere: a beat or a reason, never an exception."""
    whole = np.frombuffer(FORMATS[kind](ONE), np.uint8)
    rng = np.random.default_rng(0)
    for number in range(8):
        damaged = whole.copy()
        span = 600 if number % 2 else len(whole)
        places = rng.integers(0, min(span, len(whole)), 1 + number)
        damaged[places] = rng.integers(0, 256, len(places))
        put(folder, f"{number}", damaged.tobytes())
    read = found(folder)
    assert len(read.cohort) + len(read.cohort.excluded) == 9
    assert np.isfinite(read.cohort.ecg).all()


def test_two_recordings_in_one_file_are_none(folder):
    one, two = files.scp(ONE), files.scp(other(2))
    muse = files.muse(ONE, median=False)
    waveform = muse[muse.index(b"<Waveform>") : muse.index(b"</RestingECG>")]
    put(folder, "scp", one + two)
    put(folder, "xml", files.philips(ONE) + files.philips(other(2)))
    put(folder, "aecg", files.aecg(ONE, series=2))
    put(folder, "muse", muse.replace(waveform, 2 * waveform))
    put(folder, "dicom", files.dicom(ONE, groups=2))
    check(
        folder,
        {
            "scp": "holds several recordings",
            "xml": "damaged XML: junk after document element",
            "aecg": "holds several recordings",
            "muse": "holds several recordings",
            "dicom": "holds several recordings",
        },
    )


def test_what_the_library_refuses_is_said_without_what_is_in_the_file(folder):
    put(folder, "old", files.philips(ONE).replace(b">1.04<", b">0.99<"))
    put(folder, "cut", files.mortara(ONE).replace(b'DATA="', b'DATA="*'))
    put(folder, "part", files.philips(ONE).replace(b"documenttype>", b"other>"))
    check(
        folder,
        {
            "old": "a variant of Philips XML that is not read",
            "cut": "damaged Mortara XML",
            "part": "incomplete Philips XML",
        },
    )


def test_strips_without_qrs_or_with_lost_leads_are_none(folder):
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((8, 3000))
    noise = np.concatenate([noise[:2], noise[[1]] - noise[[0]], -(noise[[0]] + noise[[1]]) / 2])
    put(folder, "noise", files.muse(replace(ONE, strip=0.1 * rng.standard_normal((12, 3000)))))
    lost = ONE.strip.copy()
    lost[7] = 0
    put(folder, "lost", files.mortara(replace(ONE, strip=lost)))
    off = ONE.strip.copy()
    off[8, 1000:2000] = 3.0  # a plateau of 2 s
    put(folder, "plateau", files.mortara(replace(ONE, strip=off)))
    check(
        folder,
        {
            "noise": "too few beats that look alike",
            "lost": "lead V2 is flat",
            "plateau": "lead V3 is flat",
        },
    )


def test_mixed_rates_units_and_doubled_leads_are_refused(folder):
    put(folder, "rates", files.edf(ONE, rates=[500] * 6 + [250] * 6))
    put(folder, "starts", files.scp(ONE, late="II"))
    put(folder, "unit", files.edf(ONE, unit="mmHg"))
    put(folder, "no unit", files.edf(ONE, unit=""))
    put(folder, "twice", files.mortara(replace(ONE, leads=("I", "I", *LEADS[2:]))))
    put(folder, "frank", files.mortara(replace(ONE, strip=ONE.strip[:3], leads=("X", "Y", "Z"))))
    swapped = ONE.strip.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    put(folder, "swapped", files.mortara(replace(ONE, strip=swapped)))
    check(
        folder,
        {
            "rates": "leads with different sampling rates",
            "starts": "leads with different starts",
            "unit": "unknown unit 'mmHg'",
            "no unit": "no unit of lead I",
            "twice": "lead I is there twice",
            "frank": "none of the standard leads",
            "swapped": "lead III contradicts leads I and II",
        },
    )


def test_what_was_not_recorded_at_once_or_not_at_all_is_refused(folder):
    put(folder, "edf", files.edf(ONE, onsets=[0, 1, 2, 13, 14, 15]))
    whole = files.edf(ONE, onsets=range(6))
    expected = read_export(put(folder.parent, "plain", files.edf(ONE)), "EDF").strip.ecg
    found = read_export(put(folder.parent, "whole", whole), "EDF").strip.ecg
    np.testing.assert_array_equal(found, expected)
    mfer = files.mfer(ONE)
    at, rate = mfer.index(b"\x1e\x84"), b"\x0b\x06\0\0" + struct.pack("<i", 500)
    frame = mfer[at:-2]
    assert rate in mfer
    put(folder, "mfer pointer", mfer[:-2] + b"\x07\x04" + struct.pack("<I", 9000) + mfer[at:])
    other_rate = rate.replace(struct.pack("<i", 500), struct.pack("<i", 250))
    put(folder, "mfer rates", mfer[:-2] + other_rate + frame + b"\x80\0")
    put(folder, "mfer part", mfer.replace(b"\x06\x01\x01", b"\x06\x01\x02", 1))
    put(folder, "mfer no rate", mfer.replace(rate, b""))
    fault = files.ishne(ONE)
    samples = np.frombuffer(fault[522:], "<i2").reshape(-1, 12).copy()
    samples[1000:1050, 8] = -32768
    put(folder, "ishne", fault[:522] + samples.tobytes())
    put(
        folder,
        "aecg",
        files.aecg(ONE).replace(b'<scale value="5.0" unit="uV"/>', b'<scale unit="uV"/>'),
    )
    check(
        folder,
        {
            "edf": "has gaps",
            "mfer pointer": "has gaps",
            "mfer rates": "holds several recordings",
            "mfer part": "truncated",
            "mfer no rate": "no sampling rate",
            "ishne": "lead V3 has missing samples",
            "aecg": "no scale of the samples",
        },
    )


def test_leads_of_scp_that_contradict_their_checksum_are_refused(folder):
    scp = files.scp(ONE)
    first, second = (struct.pack("<IIB", 1, ONE.strip.shape[1], number) for number in (3, 4))
    assert first + second in scp  # V1 and V2, exchanged
    put(folder, "leads", scp.replace(first + second, second + first))
    packed = files.scp(ONE, compressed=True)
    table = struct.pack("<H", 19999)
    put(folder, "table", packed.replace(table, struct.pack("<H", 19998), 1))
    received = reasons(folder)
    assert received["leads"] == "samples contradict their checksum"
    assert set(received) == {"leads", "table"}


def test_samples_that_contradict_their_checksum_are_refused(folder):
    muse = files.muse(ONE, median=False)
    at = muse.index(b"<WaveFormData>") + 100
    put(folder, "muse", muse[:at] + bytes([muse[at] ^ 1]) + muse[at + 1 :])
    scp = bytearray(files.scp(ONE))
    scp[-1000] ^= 1
    put(folder, "scp", bytes(scp))
    files.challenge(folder, "A1", ONE, fmt="16")
    (folder / "A1.mat").write_bytes((folder / "A1.mat").read_bytes()[24:])
    assert set(reasons(folder)) == {"muse", "scp"}
    damaged = bytearray((folder / "A1.mat").read_bytes())
    damaged[1000] ^= 1
    (folder / "A1.mat").write_bytes(damaged)
    received = reasons(folder)
    assert "checksum" in received.pop("A1.hea")
    assert set(received.values()) == {"samples contradict their checksum"}


def test_a_file_that_fails_for_a_moment_counts_as_unreadable_which_is_read_again(
    folder, monkeypatch
):
    def fail(*_):
        raise OSError("the disk was away")

    monkeypatch.setattr(module, "read_file", fail)
    with pytest.raises(BeatError, match=rf"^{UNREADABLE} \(OSError\)"):
        module.FileReader(str(folder), False, None)(module.state(folder, "good"))


def test_wfdb_headers_without_signals_rate_or_sense(folder):
    files.challenge(folder, "A1", ONE)
    (folder / "A1.mat").unlink()
    files.challenge(folder, "A2", ONE)
    text = (folder / "A2.hea").read_text().replace(" 500 3000 05-Feb-2020 11:39:16", "", 1)
    (folder / "A2.hea").write_text(text)
    (folder / "A3.hea").write_text("A3 12 500 5000\n")
    (folder / "A4.hea").write_text("A4 1 500 5000\n../../../etc/passwd 16 200/mV 16 0 0 0 0 I\n")
    (folder / "A5.hea").write_text("see the other folder\n")
    files.challenge(folder, "A6", ONE)
    (folder / "A6.hea").rename(folder / "A6.HEA")
    received = reasons(folder)
    assert received.pop("A6.HEA") == "a WFDB header called .HEA: call it .hea"
    assert received.pop("A2.hea") in (
        "no sampling rate in the header",
        "unreadable (HeaderSyntaxError)",
    )
    assert received.pop("A5.hea") == "no known format"
    assert set(received) == {"A1.hea", "A3.hea", "A4.hea"}


# --- hostile XML --------------------------------------------------------------------------------

LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


def test_entities_are_neither_expanded_nor_fetched(folder):
    (folder.parent / "secret").write_text("1,2,3")
    for kind, write in FORMATS.items():
        if "XML" not in kind and kind != "HL7 aECG":
            continue
        text = write(ONE)
        at = text.index(b"?>") + 2 if text.startswith(b"<?xml") else 0
        external = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{folder.parent}/secret">]>'
        for name, dtd in (("laughs", LAUGHS), ("external", external)):
            put(folder, f"{kind} {name}", text[:at] + dtd.encode() + text[at:])
    assert set(reasons(folder).values()) == {"XML that defines entities"}
    assert len(reasons(folder)) == 10


def test_a_document_type_that_is_only_named_is_no_harm(folder):
    put(folder, "x", files.muse(ONE, doctype='<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'))
    assert len(load(folder)) == 2


def test_xml_may_be_in_any_encoding_even_another_than_it_says(folder):
    text = files.muse(ONE).decode().replace("Klabautermann", "Kl\u00e4ge")
    for number, encoding in enumerate(("utf-8", "iso-8859-1", "utf-16", "windows-1252")):
        written = text.replace('encoding="UTF-8"', f'encoding="{encoding}"')
        written = written.replace("10:35:20", f"11:35:2{number}").replace("ACC-99", f"B{number}")
        put(folder, f"{number}", written.encode(encoding))
    text16 = files.philips(other(5)).decode().replace("UTF-8", "UTF-16")
    put(folder, "philips", text16.encode("utf-16"))
    put(folder, "lies", text.replace("10:35:20", "12:00:00").encode("latin-1"))
    put(folder, "bom", b"\xef\xbb\xbf" + files.aecg(other(2)))
    put(folder, "prefix", files.aecg(other(3), prefix="v3"))
    cohort = found(folder).cohort
    left = [one for one in cohort.excluded["reason"] if one != "copy of another recording"]
    assert left == []
    assert set(cohort.subjects["format"]) == {"MFER", "GE MUSE XML", "Philips XML", "HL7 aECG"}


def test_xml_that_is_too_deep_large_or_rich_is_refused_quickly(folder):
    put(folder, "deep", b"<RestingECG>" * 50_000)
    put(folder, "rich", b"<RestingECG>" + b"<a/>" * 1_000_000 + b"</RestingECG>")
    put(folder, "large", b"<RestingECG>" + b" " * MAX_XML + b"</RestingECG>")
    begun = time.monotonic()
    assert reasons(folder) == {
        "deep": "XML nested deeper than 64",
        "rich": "XML of more than 200000 elements",
        "large": "XML larger than 16 MB",
    }
    assert time.monotonic() - begun < 20


# --- bombs --------------------------------------------------------------------------------------


def test_what_grows_when_it_is_unpacked_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(bounds, "MEMORY", 2**28)
    # SCP-ECG: four billion samples are declared.
    scp = files.scp(ONE)
    number = struct.pack("<IIB", 1, ONE.strip.shape[1], 1)
    put(folder, "scp", scp.replace(number, struct.pack("<IIB", 1, 2**32 - 2, 1)))
    # DICOM: deflated as a whole.
    dicom = files.dicom(ONE)
    start = dicom.index(b"1.2.840.10008.1.2.1")
    put(folder, "dicom", dicom[:start] + b"1.2.840.10008.1.2.1.99" + zlib.compress(b"\0" * 10**7))
    # Philips: the dictionary of LZW makes a kilobyte of ten bits.
    one = files.philips(ONE).replace(
        b'compressflag="False"', b'compressflag="True" compressmethod="XLI"'
    )
    import base64

    body = b"\x01\x00" * 1_500_000
    bomb = struct.pack("<iHh", len(body), 0, 0) + body
    start, end = (
        one.index(b'resolution="5.0">', one.index(b"<parsedwaveforms")) + 17,
        one.index(b"</parsed"),
    )
    put(folder, "xli", one[:start] + base64.b64encode(bomb) + one[end:])
    begun = time.monotonic()
    received = reasons(folder)
    assert time.monotonic() - begun < 60
    assert set(received) == {"scp", "dicom", "xli"}
    assert received["dicom"] == "DICOM compressed as a whole (deflated): unpack it"


@pytest.mark.parametrize(
    ("limit", "pause", "seconds"), [("SECONDS", 0, 0.5), ("PATIENCE", 0.01, 3)]
)
def test_a_file_that_takes_too_long_is_left_out(folder, monkeypatch, limit, pause, seconds):
    monkeypatch.setattr(bounds, limit, seconds)

    def forever(file, *rest):
        while file.name == "slow":
            try:
                time.sleep(pause)
            except Exception:
                continue
        return real(file, *rest)

    real = module.read_file
    monkeypatch.setattr(module, "read_file", forever)
    put(folder, "slow", files.scp(ONE))
    check(folder, {"slow": f"unreadable within {seconds} s"})


def test_a_machine_that_is_busy_with_other_work_is_no_fault_of_the_file(monkeypatch):
    monkeypatch.setattr(bounds, "SECONDS", 0.2)
    with bounds.bounded():
        time.sleep(0.5)
    ended = threading.Event()

    def work():
        while not ended.is_set():
            hashlib.sha256(bytes(10_000_000))

    busy = threading.Thread(target=work)
    busy.start()
    try:
        with bounds.bounded():
            time.sleep(0.5)  # in which another thread of this process works
    finally:
        ended.set()
        busy.join()


def test_a_file_that_takes_too_much_memory_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(bounds, "MEMORY", 2**27)
    real = module.read_file
    monkeypatch.setattr(
        module,
        "read_file",
        lambda file, *rest: np.ones(2**28) if file.name == "big" else real(file, *rest),
    )
    put(folder, "big", files.scp(ONE))
    check(folder, {"big": "unreadable within 0.125 GB of memory"})


def test_large_files_are_not_read(folder, monkeypatch):
    with (folder / "holter.ecg").open("wb") as file:
        file.write(files.ishne(ONE))
        file.truncate(bounds.MAX_BYTES + 1)
    opened = []
    monkeypatch.setattr(
        module, "tell_format", lambda file, head: opened.append(file.name) or "MFER"
    )
    assert reasons(folder) == {"holter.ecg": "larger than 64 MB"}
    assert opened == ["good"]


# --- files and folders --------------------------------------------------------------------------


def test_links_pipes_and_hidden_files(folder):
    (folder / "loop").symlink_to(".")
    (folder / "self").symlink_to("self")
    (folder / "away").symlink_to("/nowhere")
    os.mkfifo(folder / "pipe")
    (folder / ".hidden").write_bytes(files.muse(ONE))
    (folder / ".git").mkdir()
    (folder / ".git" / "x").write_text("x")
    lost = "no file: a link that leads nowhere, a pipe or the like"
    check(folder, {"self": lost, "away": lost, "pipe": lost})


@pytest.mark.parametrize("keep_ids", [False, True])
def test_names_that_are_no_text_are_told_in_one_line(folder, capsys, keep_ids):
    for number, name in enumerate((b"\xff\xfe", b"two\nlines", b"tab\rback")):
        path = os.path.join(os.fsencode(folder), name)
        with open(path, "wb") as file:
            file.write(files.mfer(other(2 + number)) if number else b"nothing")
    cohort = load(folder, keep_ids=keep_ids)
    assert len(cohort) == 3
    printed = capsys.readouterr().out.encode().decode()  # every character can be printed
    assert "no known format: 1 (\\udcff\\udcfe)" in printed


def test_folders_that_cannot_be_looked_into_are_named(folder, monkeypatch, capsys):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    (folder / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    assert len(load(folder)) == 1
    assert "closed cannot be looked into: Permission denied." in capsys.readouterr().out


def test_a_file_that_changes_while_it_is_read_is_left_out_and_read_the_next_time(
    folder, monkeypatch
):
    file = put(folder, "growing", files.muse(ONE))
    real = module.read_file

    def read(path, *rest):
        result = real(path, *rest)
        if path.name == "growing":
            with path.open("ab") as opened:
                opened.write(b" ")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_file", read)
        check_first = reasons(folder)
    assert check_first == {"growing": "changed while it was read"}
    assert len(load(folder)) == 2
    file.unlink()
    assert len(load(folder)) == 1


def test_ten_thousand_files_in_one_folder_are_found_at_once(tmp_path):
    for number in range(10_000):
        os.close(os.open(tmp_path / f"{number}.x", os.O_CREAT))
    begun = time.monotonic()
    assert len(find_files(tmp_path)) == 10_000
    assert time.monotonic() - begun < 5


def test_the_same_recording_in_several_files_is_taken_once_and_both_are_named(folder, capsys):
    for name, write in (("a.xml", files.muse), ("b.dcm", files.dicom), ("c", files.scp)):
        put(folder, name, write(ONE))
    put(folder, "copy", files.muse(ONE))
    files.challenge(folder, "A1", ONE)  # names no patient
    put(folder, "later", files.muse(replace(ONE, recorded=datetime(2020, 1, 1))))
    put(folder, "somebody else", files.muse(replace(ONE, patient_id="P2")))
    same = "copy of another recording"
    # A1.hea comes first, but does not say whose it is.
    assert reasons(folder) == {"A1.hea": same, "b.dcm": same, "c": same, "copy": same}
    assert "b.dcm of a.xml" in capsys.readouterr().out
    kept = [found(folder).file_of[one] for one in column(load(folder), "subject_id")]
    assert kept == ["a.xml", "good", "later", "somebody else"]


def test_two_recordings_of_one_person_a_minute_apart_are_two(folder):
    for number in range(4):
        strip = rhythm_strip(seconds=10, noise=0.02, seed=100 + number)
        moment = datetime(2015, 1, 1, 12, number)
        put(folder, f"{number}", files.mfer(replace(ONE, strip=strip, recorded=moment)))
    assert reasons(folder) == {}


def test_a_folder_without_recordings_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(CohortError, match="There is no file in .*in"):
        load_recordings(tmp_path / "in", tmp_path / "cache", workers=1)
    put(tmp_path / "in", "notes.txt", b"nothing")
    with pytest.raises(CohortError, match=r"None of the 1 records.*no known format.*'notes.txt'"):
        load_recordings(tmp_path / "in", tmp_path / "cache", workers=1)
    with pytest.raises(CohortError, match="Expected a folder of recordings"):
        load_recordings(tmp_path / "in" / "notes.txt", tmp_path / "cache")
    with pytest.raises(CohortError, match="Expected recordings among"):
        load_recordings(tmp_path / "in", tmp_path / "cache", keep="some")


@pytest.mark.parametrize("kind", PARSERS)
def test_formats_are_not_taken_for_each_other(tmp_path, kind):
    file = put(tmp_path, "x", FORMATS[kind](ONE))
    assert tell_format(file, file.read_bytes()[:4096]) == kind
    with pytest.raises(BeatError):
        tell_format(put(tmp_path, "y", b"\x05" + file.read_bytes()[3:40]), b"\x05\x06\x07")


# --- corners ------------------------------------------------------------------------------------


def test_a_median_beat_alone_and_one_without_a_lead(folder):
    put(folder, "alone", files.dicom(ONE, groups=0))
    put(folder, "whole", files.muse(other(6)))
    beat = files.muse(ONE).replace(b"<LeadID>V1</LeadID>", b"<LeadID>V7</LeadID>", 1)
    put(folder, "lead", beat)
    short = ONE.median[:, 200:500]
    put(folder, "short", files.dicom(Cut(short)))
    put(folder, "edge", files.dicom(Cut(np.roll(ONE.median, -150, axis=1))))
    short = "the stored median beat is too short around the QRS"
    received = reasons(folder, beats="stored")
    assert received.pop("good") == "no stored median beat"
    assert received == {
        "alone": "no rhythm strip",
        "lead": "lead V1 of the stored median beat is not there",
        "short": short,
        "edge": short,
    }


class Cut(files.Patient):
    """A patient with another stored beat."""

    def __init__(self, stored):
        super().__init__()
        self.stored = stored

    @property
    def median(self):
        return self.stored


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (" 500 3000 05-Feb-2020 11:39:16", "", "no sampling rate in the header"),
        ("A1.mat 16+24", "A1.mat 16x2+24", "leads with different sampling rates"),
        (" 0 II\n", " 0 I\n", "lead I is there twice"),
        ("/mV", "/mmHg", "unknown unit 'mmHg'"),
    ],
)
def test_wfdb_headers_that_say_something_else(folder, old, new, reason):
    files.challenge(folder, "A1", ONE)
    header = folder / "A1.hea"
    header.write_text(header.read_text().replace(old, new, 12 if old == "/mV" else 1))
    assert reasons(folder)["A1.hea"] == reason


def test_wfdb_records_of_other_leads_are_none_and_dates_in_order_are_read(folder):
    files.challenge(folder, "A1", replace(ONE, leads=("vx", "vy", "vz", *"abcdefgjk")))
    files.challenge(folder, "A2", other(2))
    files.challenge(folder, "A3", other(3))
    for name, when in (("A2", "10:35:00 04/03/2019"), ("A3", "10:35:00 44/03/2019")):
        header = folder / f"{name}.hea"
        header.write_text(header.read_text().replace("05-Feb-2020 11:39:16", when))
    assert reasons(folder) == {"A1.hea": "none of the standard leads"}
    moments = load(folder).subjects["recorded"]
    assert moments.tolist()[0] == "2019-03-04T10:35:00"
    assert moments.isna().tolist() == [False, True, False]


def test_ages_follow_from_dates_and_half_of_a_moment_is_a_day(folder):
    text = files.cardiosoft(ONE).replace(b'<Age units="YEARS">62</Age>', b"")
    put(folder, "a", text)
    text = files.cardiosoft(other(4)).replace(b'<Age units="YEARS">62</Age>', b"")
    put(folder, "b", text.replace(b"<Hour>12</Hour>", b"<Hour>25</Hour>"))
    muse = files.muse(other(3)).replace(b"12:00:05</AcquisitionTime>", b"noon</AcquisitionTime>")
    put(folder, "c", muse)
    subjects = load(folder).subjects
    np.testing.assert_array_equal(subjects["age"], [62, np.nan, 62, 62])
    assert subjects["recorded"].tolist()[2] == "2013-01-01"


def test_limits_hold_where_the_system_has_none(folder, monkeypatch):
    """Windows has neither, and alarms ring in the main thread only."""
    from concurrent.futures import ThreadPoolExecutor

    put(folder, "x", files.scp(ONE))
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(load, folder).result()) == 2
    monkeypatch.setattr(bounds.Path, "read_text", _no_such_file)
    with bounds.bounded():
        pass


def _no_such_file(*_, **__):
    raise OSError


def test_if_the_table_leaves_nothing_over_that_is_said(folder):
    rows = "".join(f"x{number},60\n" for number in range(30))
    (folder / "subjects.csv").write_text("file,age\ngood,old\n" + rows)
    with pytest.raises(CohortError, match="None of the 1 recordings is left.*age is not a number"):
        load(folder)


def test_many_conflicts_are_counted(folder, capsys):
    for number in range(2, 9):
        put(folder, f"{number}", files.mfer(other(number)))
    (folder / "subjects.csv").write_text(f"patient_id,age\n{ONE.patient_id},80\n")
    load(folder)
    printed = capsys.readouterr().out
    assert printed.count("age 62 in the file, 80 in subjects.csv") == 5
    assert "8 values of age or sex differ" in printed


def test_a_key_that_cannot_be_written_is_one_clear_error(folder):
    (folder.parent / "cache").write_text("a file where a folder should be")
    with pytest.raises(CohortError, match="pseudonyms.key cannot be written"):
        load(folder)


def test_what_is_as_tall_in_all_leads_but_no_rectangle_is_kept():
    """A hump of 0.6 mV in all leads, a spike, and a broad QRS up in all: no calibration pulses."""
    from data.readers.calibration import without_calibration
    from data.strips import Strip

    strip = ONE.strip * 0
    strip[:, :500] = 0.6 * np.sin(np.linspace(0, np.pi, 500))
    strip[:, -20:-15] = 1.0
    strip[:, -400:-360] = np.linspace(0.5, 1.5, 12)[:, None]
    assert without_calibration(Strip(strip, 500, LEADS)).ecg is strip
