"""A folder of recordings of any formats: beats, persons, table, privacy."""

import base64
import os
import re
import secrets
import threading
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from config import PRESETS, DataConfig
from data import load_cohort
from data.beats import median_beat
from data.cohort import LEADS, Cohort, CohortError
from data.readers import twins
from data.readers.exports import read_export, standard_lead
from data.readers.person import Person, person
from data.readers.pseudonyms import Pseudonyms
from data.readers.recordings import find_files, load_recordings, read_folder, state
from data.synthetic import simulate
from tests import recording_files as files
from tests.cohort_columns import column
from tests.places import SHARED
from tests.recording_files import FORMATS, SECRETS, Patient
from tests.simulated_strips import ECTOPIC, rhythm_strip

REAL = SHARED / "formats"
ONE = Patient()


def other(number, **how):
    """Another recording of the same patient, if nothing else is said."""
    strip = rhythm_strip(heart_rate=55 + 2 * number, seconds=5, noise=0.02, seed=number)
    strip = strip * (1 + 0.05 * number)
    moment = datetime(2010 + number, 1, 1, 12, 0, 5)
    return replace(ONE, strip=strip, recorded=moment, accession=f"A{number}", **how)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def put(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def load(folder, **options):
    return load_recordings(folder, folder.parent / "cache", **({"workers": 1} | options))


def found(folder, **options):
    return read_folder(folder, folder.parent / "cache", **({"workers": 1} | options))


def reasons(folder, **options):
    """Of each file that is left out."""
    read = found(folder, **options)
    excluded = read.cohort.excluded
    return {
        read.file_of[one]: why
        for one, why in zip(excluded["subject_id"], excluded["reason"], strict=True)
    }


def likeness(one, two):
    """Correlation. Half a sample of shift changes the steep QRS by 0.1 mV, and this by 0.0003."""
    return np.corrcoef(one.ravel(), two.ravel())[0, 1]


# --- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_beat_of_its_strip_and_whom_it_is_of(folder, kind):
    put(folder, "deep/er/x.any", FORMATS[kind](ONE))
    cohort = load(folder)
    expected = median_beat(ONE.strip, 500)
    np.testing.assert_allclose(cohort.ecg[0], expected.ecg, rtol=0, atol=0.006)  # 5 uV per unit
    [one] = cohort.subjects.to_dict("records")
    assert one["format"] == kind
    assert (one["age"], one["sex"]) == (62, "female")
    assert one["recorded"] == "2019-07-05T10:35:20"
    assert one["heart_rate"] == pytest.approx(expected.heart_rate, rel=0.01)
    assert one["patient_id"] != one["subject_id"]
    if kind not in ("HL7 aECG", "EDF", "ISHNE", "MFER"):  # these have no place for them
        assert (one["height"], one["weight"]) == (170, 72)
        assert one["bmi"] == pytest.approx(72 / 1.7**2)


def test_compressed_scp_has_the_samples_of_the_plain_one(folder):
    plain = read_export(put(folder, "a", files.scp(ONE)), "SCP-ECG").strip
    packed = files.scp(ONE, compressed=True)
    assert len(packed) < 0.7 * len(files.scp(ONE))
    found = read_export(put(folder, "b", packed), "SCP-ECG").strip
    np.testing.assert_array_equal(found.ecg, plain.ecg)


def test_records_of_the_challenge_give_beat_age_sex_and_diagnoses(folder):
    files.challenge(folder, "A0001", ONE)
    files.challenge(folder, "A0002", other(2, sex="M"), ["# Age: NaN", "#Sex: Unknown", "#Dx: 1"])
    cohort = load(folder)
    expected = median_beat(ONE.strip, 500)
    np.testing.assert_allclose(cohort.ecg[0], expected.ecg, rtol=0, atol=0.006)
    assert column(cohort, "sex")[0] == "female"
    assert pd.isna(column(cohort, "sex")[1])
    np.testing.assert_array_equal(column(cohort, "age"), [62, np.nan])
    assert column(cohort, "dx") == ["426783006,164889003", "1"]
    assert pd.isna(column(cohort, "recorded")).all()  # the date is that of the header's making


def test_records_of_the_challenge_may_be_matlab_5_files(folder):
    from scipy.io import savemat

    files.challenge(folder, "A0001", ONE)
    expected = load(folder)
    savemat(folder / "A0001.mat", {"val": ONE.digital}, do_compression=True)
    np.testing.assert_allclose(load(folder).ecg, expected.ecg, rtol=0, atol=1e-4)
    gap = ONE.digital.copy()
    gap[7, 1000:1040] = -32768  # how a missing sample is written
    savemat(folder / "A0001.mat", {"val": gap})
    with pytest.raises(CohortError, match="lead V2 contradicts its checksum"):
        load(folder)
    header = folder / "A0001.hea"
    header.write_text(re.sub(r"(?m) \d+ 0 (\S+)$", r" 0 0 \1", header.read_text()))  # not known
    with pytest.raises(CohortError, match="lead V2 has missing samples"):
        load(folder)
    savemat(folder / "A0001.mat", {"val": ONE.digital[:, :-1]})
    with pytest.raises(CohortError, match="another number of leads or samples than the header"):
        load(folder)


def test_a_file_that_only_has_the_name_of_the_header_gives_no_samples(folder):
    from scipy.io import savemat

    files.challenge(folder, "A0001", ONE)
    header = folder / "A0001.hea"
    expected = load(folder)
    (folder / "A0001.mat").rename(folder / "A0001.dat")
    header.write_text(header.read_text().replace("A0001.mat", "A0001.dat"))
    savemat(folder / "A0001.mat", {"val": ONE.digital.astype(float) / 2})  # as it was filtered
    np.testing.assert_array_equal(load(folder).ecg, expected.ecg)


def test_a_matlab_5_file_without_gains_in_its_header_is_refused(folder):
    from scipy.io import savemat

    files.challenge(folder, "A0001", ONE)
    savemat(folder / "A0001.mat", {"val": ONE.digital})
    header = folder / "A0001.hea"
    header.write_text(header.read_text().replace("200/mV", "0/mV"))
    with pytest.raises(CohortError, match="no gain in the header"):
        load(folder)


@pytest.mark.parametrize(
    ("said", "lead"),
    [
        *(("Lead I", "I"), ("MDC_ECG_LEAD_aVF", "aVF"), ("C3", "V3"), ("DII", "II")),
        *(("II_2", "II"), ("avr", "aVR"), ("VX", None)),
    ],
)
def test_leads_go_by_the_names_that_programs_give_them(said, lead):
    assert standard_lead(said) == lead


@pytest.mark.parametrize(("second", "same"), [("0001-01-01T00:00:00", True), ("0001-03-01", False)])
def test_copies_are_found_whatever_year_the_recorder_thought_it_was(second, same):
    cohort = SimpleNamespace(ecg=np.zeros((2, 12, 400)))
    subjects = pd.DataFrame({"subject_id": ["a", "b"], "patient_id": ["P", "P"]})
    subjects["recorded"] = ["0001-01-01T00:00:00", second]
    assert twins._same(cohort, subjects, 0, 1) is same


def test_signals_of_any_name_are_a_part_of_the_header_that_names_them(folder):
    files.challenge(folder, "A0001", ONE)
    header = folder / "A0001.hea"
    (folder / "A0001.mat").rename(folder / "other_name_of_it.bin")
    header.write_text(header.read_text().replace("A0001.mat", "other_name_of_it.bin"))
    [one] = find_files(folder)
    assert one.called == "A0001.hea"
    signals = folder / "other_name_of_it.bin"
    before = state(folder, "A0001.hea")
    signals.write_bytes(signals.read_bytes() + b"more")
    assert state(folder, "A0001.hea").size == before.size + 4


def test_another_recording_under_the_name_of_a_header_is_found_and_annotations_are_not(folder):
    files.challenge(folder, "A0001", ONE)
    put(folder, "A0001.xml", files.muse(other(2, patient_id="Q17")))
    for name in ("A0001.atr", "A0001.v1", "A0001.txt"):
        put(folder, name, b"anything")
    assert [one.called for one in find_files(folder)] == ["A0001.hea", "A0001.xml"]
    cohort = load(folder)
    assert len(cohort) == 2
    assert cohort.excluded.empty


def test_all_formats_lie_in_one_folder_under_any_names(folder):
    for number, write in enumerate(FORMATS.values()):
        put(folder, f"{number % 3}/{number}.{'dcm' if number % 2 else 'xml'}", write(other(number)))
    cohort = load(folder)
    assert sorted(column(cohort, "format")) == sorted(FORMATS)
    assert len(set(column(cohort, "patient_id"))) == 1
    for seed in range(3):  # one patient cannot be divided
        with pytest.raises(CohortError, match="part of the split is empty"):
            cohort.split(0.3, 0.3, seed)


@pytest.mark.parametrize("rate", [100, 250, 1000, 2000])
def test_rates_from_100_to_2000_hz_are_brought_to_500(folder, rate):
    strip = rhythm_strip(seconds=6, sampling_rate=rate, noise=0.01, seed=3)
    put(folder, "x", files.mortara(replace(ONE, strip=strip, rate=rate)))
    expected = median_beat(rhythm_strip(seconds=6, seed=3), 500)
    cohort = load(folder)
    assert likeness(cohort.ecg[0], expected.ecg) > 0.99
    assert column(cohort, "heart_rate") == [pytest.approx(expected.heart_rate, rel=0.01)]


def test_a_rate_that_is_no_whole_number_is_not_rounded(folder):
    """3.33 ms per sample are 300.3 Hz."""
    one = replace(ONE, strip=rhythm_strip(seconds=6, sampling_rate=300, seed=3), rate=300)
    written = files.aecg(one).replace(f'value="{1 / 300}"'.encode(), b'value="3.33"')
    file = put(folder, "x", written.replace(b'unit="s"', b'unit="ms"'))
    assert read_export(file, "HL7 aECG").strip.sampling_rate == pytest.approx(1 / 0.00333)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rate": 90}, "sampling rate of 90 Hz"),
        ({"rate": 4000}, "sampling rate of 4000 Hz"),
        ({"strip": ONE.strip[:, :1200]}, "shorter than 2.5 s"),
        ({"strip": np.tile(ONE.strip, 110)}, "longer than 600 s"),
        ({"strip": ONE.strip * 1000}, "amplitude is not in mV"),
    ],
)
def test_strips_that_are_none_are_left_out(folder, change, reason):
    put(folder, "good", files.mfer(other(1)))
    one = replace(ONE, **change)
    if "amplitude" in reason:
        one = replace(ONE, strip=ONE.strip / 500)
    put(folder, "bad", files.mortara(one))
    assert reasons(folder) == {"bad": reason}


def test_leads_i_and_ii_follow_from_other_limb_leads_and_extra_leads_are_ignored(folder):
    rows = [LEADS.index(lead) for lead in ("III", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")]
    names = (*(LEADS[row] for row in rows), "V7", "X")
    strip = np.concatenate([ONE.strip[rows], ONE.strip[:2] * 3])
    put(folder, "x", files.mortara(replace(ONE, strip=strip, leads=names)))
    expected = median_beat(ONE.strip, 500).ecg
    np.testing.assert_allclose(load(folder).ecg[0], expected, rtol=0, atol=0.03)
    one = replace(ONE, strip=ONE.strip[[0, *range(6, 12)]], leads=("I", *LEADS[6:]))
    put(folder, "y", files.mortara(one))
    assert reasons(folder) == {"y": "lead II is not there"}


def test_the_recorders_own_beat_is_cut_aligned_and_put_on_our_zero(folder):
    put(folder, "a", files.muse(ONE))
    ectopic = rhythm_strip(seconds=6, waves=ECTOPIC, seed=3)
    put(folder, "b", files.dicom(replace(ONE, strip=ectopic)))
    put(folder, "c", files.muse(other(3), median=False))
    put(folder, "d", files.cardiosoft(other(4)))
    cohort = load(folder, beats="stored")
    assert column(cohort, "format") == ["GE MUSE XML", "CardioSoft XML"]
    ours = load(folder)
    assert likeness(cohort.ecg[0], ours.ecg[0]) > 0.999
    assert likeness(cohort.ecg[1], ours.ecg[3]) > 0.99
    # As it is stored, moved by whole samples and by one level per lead.
    places = [ONE.median[:, at : at + 400] * 0.005 - cohort.ecg[0] for at in range(90, 130)]
    assert min(np.ptp(place[[0, 1, *range(6, 12)]], axis=1).max() for place in places) < 1e-5
    assert np.median(ONE.median) * 0.005 > 0.09  # on a zero of its own
    assert np.abs(cohort.ecg[0][:, 100:110]).max() < 0.02
    assert reasons(folder, beats="stored") == {
        "b": "the stored median beat is not of this strip",
        "c": "no stored median beat",
    }


def test_a_calibration_pulse_is_cut_off(folder):
    strip = ONE.strip.copy()
    strip[:, -150:-50] = strip[:, -151:-150] * 0 + 1.0
    strip[:, -50:] = 0
    put(folder, "end", files.muse(replace(ONE, strip=strip), median=False))
    strip = ONE.strip.copy()
    strip[:, :80], strip[:, 80:180], strip[:, 180:220] = 0, 1.0, 0
    put(folder, "start", files.philips(replace(other(1), strip=strip)))
    expected = median_beat(ONE.strip, 500)
    cohort = load(folder)
    assert len(cohort) == 2
    for ecg, rate in zip(cohort.ecg, column(cohort, "heart_rate"), strict=True):
        assert likeness(ecg, expected.ecg) > 0.99
        assert rate == pytest.approx(expected.heart_rate, rel=0.03)


# --- patients and the table ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("", "0000", "X X X X", "X F X X", "xxxx", "ANON", "<removed>", "De-identified", "[TEST]"),
        *("Anonymous patient", "unknown", "_unk_", "N/A", "anonym-000", "no id"),
    ],
)
def test_what_stands_for_no_name_is_nobody(name):
    assert person(patient_id=name, accession=name) == Person()


@pytest.mark.parametrize("name", ["ANONYM-0012", "test 7", "xenia", "X17", "Nona", "00120", "F X"])
def test_a_pseudonym_is_somebody(name):
    assert person(patient_id=f" {name} ").patient_id == name
    assert person(patient_id=f"{name}\r\0", dx="\0" + name)[::7] == (name, name)


def test_patients_stay_together_and_their_first_or_last_recording_is_taken(folder):
    for number in range(4):
        put(folder, f"{number}", files.muse(other(number, patient_id=f"P{number % 2 + 1}7")))
    put(folder, "none", files.muse(other(5, patient_id="000000")))
    put(folder, "nil", files.muse(other(7, patient_id="000000")))
    put(folder, "nobody", files.muse(other(6, patient_id="ANONYMOUS")))
    everybody = load(folder)
    patients = column(everybody, "patient_id")
    assert len(everybody) == 7
    assert len(set(patients)) == 5  # those without a name are a patient each
    years = {
        keep: sorted(found(folder, keep=keep).cohort.subjects["recorded"].str[:4])
        for keep in ("first", "last")
    }
    assert years == {
        "first": ["2010", "2011", "2015", "2016", "2017"],
        "last": ["2012", "2013", "2015", "2016", "2017"],
    }
    assert reasons(folder, keep="first") == {
        "2": "not the first of its patient",
        "3": "not the first of its patient",
    }


TABLES = {
    "file": "file,age,lvef\na.xml,70,55\nsub\\b.bin,,40\n",
    "bare file": "file,age,lvef\na,70,55\nb,,40\n",
    "accession": "accession_number,age,lvef\nA1,70,55\nA2,,40\n",
    "patient and day": "patient_id,date,age,lvef\nP1,2011-01-01,70,55\nP1,2012-01-01,,40\n",
    "patient and minute": (
        "patient_id,date,age,lvef\nP1,2011-01-01 12:00,70,55\nP1,2012-01-01T12:00:05,,40\n"
    ),
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("keep_ids", [False, True])
def test_a_table_is_joined_and_wins(folder, text, keep_ids, capsys):
    put(folder, "a.xml", files.muse(other(1, patient_id="P1")))
    put(folder, "sub/b.bin", files.dicom(other(2, patient_id="P1")))
    put(folder, "c", files.muse(other(3, patient_id="P9")))
    (folder / "subjects.csv").write_text(text)
    cohort = load(folder, keep_ids=keep_ids)
    assert column(cohort, "age") == [70, 62, 62]
    np.testing.assert_array_equal(column(cohort, "lvef"), [55, np.nan, 40])
    printed = capsys.readouterr().out
    assert "a.xml: age 62 in the file, 70 in subjects.csv." in printed
    assert "2 of 3 recordings have a row." in printed
    assert (column(cohort, "patient_id")[1] == "P9") is keep_ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("height\na,1.70", "a height of 100 to 220 cm"),
        ("weight\na,7e4", "a weight of 20 to 250 kg"),
    ],
)
def test_a_body_in_other_units_is_refused(folder, text, expected):
    put(folder, "a", files.muse(ONE))
    (folder / "subjects.csv").write_text(f"file,{text}\n")
    with pytest.raises(CohortError, match=f"Expected {expected}"):
        load(folder)


def test_a_body_of_impossible_size_is_unknown_and_costs_no_recording(folder):
    for number in range(4):
        put(folder, f"{number}", files.muse(other(number, patient_id=f"P{number}")))
    (folder / "subjects.csv").write_text("file,height\n0,0\n1,95\n2,181\n3,170\n")
    cohort = load(folder)
    assert len(cohort) == 4
    assert sorted(cohort.subjects["height"]) == [170, 170, 170, 181]  # the files say 170


@pytest.mark.parametrize("named", ["a copy", "b", "c/d"])
def test_a_row_may_name_either_file_of_one_recording(folder, named, capsys):
    for name in ("a copy.xml", "b.xml", "c/d.xml"):
        put(folder, name, files.muse(ONE))
    put(folder, "e.xml", files.muse(other(1)))
    (folder / "subjects.csv").write_text(f"file,lvef,age\n{named},41,70\n", "utf-8")
    assert column(load(folder), "lvef")[0] == 41
    printed = capsys.readouterr().out
    assert "1 of 2 recordings have a row.\n" in printed
    assert "a copy.xml: age 62 in the file, 70 in subjects.csv." in printed


def test_of_two_rows_the_one_of_the_file_that_is_kept_is_taken(folder, capsys):
    for name in ("a.xml", "b.xml"):
        put(folder, name, files.muse(ONE))
    (folder / "subjects.csv").write_text("file,lvef\nb,30\na,41\n", "utf-8")
    assert column(load(folder), "lvef") == [41]
    assert "1 of 2 rows have no recording" in capsys.readouterr().out


def test_patient_sex_and_body_of_the_table_win(folder, capsys):
    put(folder, "a", files.muse(ONE))
    (folder / "subjects.csv").write_text(
        "file,patient_id,sex,height,time,event\na,Q5,male,180,2.5,1\nz,Q6,,,1,0\n"
    )
    cohort = load(folder, keep_ids=True)
    [one] = cohort.subjects.to_dict("records")
    assert (one["patient_id"], one["sex"], one["time"], one["event"]) == ("Q5", "male", 2.5, 1)
    assert one["bmi"] == pytest.approx(72 / 1.8**2)
    printed = capsys.readouterr().out
    assert "a: sex female in the file, male in subjects.csv" in printed
    assert "1 of 2 rows have no recording" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,sex\n60,male\n", "none of the columns that name a recording"),
        ("file,age\nother,60\n", "No row of .*belongs to a recording, by file .*'other'"),
        ("file,age\na,sixty\n", "Expected a number as age of 'a'. Received: 'sixty'"),
        ("file,sex\na,1\n", "Expected female or male as sex"),
        ("file,age,age\na,1,1\n", "'age' is there twice"),
        ("file,Age\na,1\n", "Expected a column 'age'.*Received 'Age'"),
        ("file,age\na,1\na,2\n", "'a' stands twice"),
        ("patient_id,date,age\nP1,03/04/2019,60\n", "Expected a date as 2019-03-04"),
        ("file,heart_rate\na,60\n", "columns that this reader makes"),
        ("file,time,event\na,0,1\n", "Expected a time above 0"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_before_any_recording_is_read(
    folder, text, message, monkeypatch
):
    put(folder, "a", files.muse(ONE))
    (folder / "subjects.csv").write_text(text)
    if "belongs" not in message:
        monkeypatch.setattr("data.readers.recordings.prepare", lambda **_: pytest.fail("read"))
    with pytest.raises(CohortError, match=message):
        load(folder)


@pytest.mark.parametrize("second", ["./a", "a.xml"])
def test_two_rows_for_one_recording_are_refused_however_they_call_it(folder, second):
    put(folder, "a.xml", files.muse(ONE))
    (folder / "subjects.csv").write_text(f"file,age\na,50\n{second},70\n")
    with pytest.raises(CohortError, match=f"'a' and '{second}' in .* are the same recording"):
        load(folder)


def test_other_beats_than_there_are_are_refused(folder):
    put(folder, "a", files.muse(ONE))
    with pytest.raises(CohortError, match="beats among .*'median', 'strip', 'stored'.*'Stored'"):
        load(folder, beats="Stored")


def test_a_condition_that_nobody_has_is_refused_before_any_recording_is_read(folder, monkeypatch):
    from training.setup import open_data

    put(folder, "a", files.muse(ONE))
    monkeypatch.setattr("data.readers.recordings.prepare", lambda **_: pytest.fail("read"))
    settings = PRESETS["recordings"]
    data = replace(settings.data, path=folder, cache=folder.parent / "cache", conditions=("lvef",))
    with pytest.raises(ValueError, match="Expected a column 'lvef'"):
        open_data(replace(settings, data=data))


def test_one_bad_row_of_many_is_left_out_and_a_mended_table_reads_nothing_anew(folder, monkeypatch):
    put(folder, "a", files.muse(other(1)))
    put(folder, "b", files.muse(other(2)))
    rows = "".join(f"x{number},60\n" for number in range(40))
    (folder / "subjects.csv").write_text("file,age\na,61\nb,old\n" + rows)
    assert reasons(folder) == {"b": "age is not a number in subjects.csv"}
    monkeypatch.setattr(
        "data.readers.recordings.read_file", lambda *_: pytest.fail("a file was read again")
    )
    (folder / "subjects.csv").write_text("file,age\na,61\nb,70\n" + rows)
    assert column(load(folder), "age") == [61, 70]


def test_the_settings_name_the_source(folder):
    put(folder, "a", files.muse(ONE))
    settings = replace(PRESETS["recordings"].data, path=folder, cache=folder.parent / "cache")
    cohort = load_cohort(replace(settings, keep_ids=True))
    assert column(cohort, "subject_id") == ["a"]
    assert column(cohort, "patient_id") == ["4711-0815-PAT"]
    stored = load_cohort(replace(settings, beats="stored"))
    assert pd.isna(column(stored, "beat_noise_uv")).all()


@pytest.mark.parametrize(
    "setting",
    [
        {"recordings": "first"},
        {"keep_ids": True},
        {"beats": "stored"},
        {"millivolts_per_unit": 2.0},
    ],
)
def test_settings_of_other_sources_are_not_passed_over(setting):
    with pytest.raises(CohortError, match=f"data.{next(iter(setting))} .*source 'synthetic'"):
        load_cohort(DataConfig(**setting))


def test_outcomes_by_ids_need_the_ids(folder):
    for number in range(4):
        put(folder, f"{number}", files.mfer(other(number, patient_id=f"P{number}")))
    outcomes = folder.parent / "outcomes.csv"
    outcomes.write_text("patient_id,time,event\nP1,2,1\nP2,3,0\n")
    settings = replace(PRESETS["recordings"].data, path=folder, cache=folder.parent / "cache")
    settings = replace(settings, outcomes=outcomes)
    with pytest.raises(CohortError, match="replaced by hashes.*subjects.csv"):
        load_cohort(settings)
    cohort = load_cohort(replace(settings, keep_ids=True))
    np.testing.assert_array_equal(column(cohort, "time"), [np.nan, 2, 3, np.nan])


# --- what is kept of a file ---------------------------------------------------------------------


def test_nothing_that_is_written_holds_a_name_an_id_or_a_birth_date(folder, capsys):
    for number, (kind, write) in enumerate(FORMATS.items()):
        put(
            folder,
            f"{SECRETS[0]}_{number}/{SECRETS[1]} {kind}",
            write(other(number, patient_id=SECRETS[10])),
        )
    whole = files.muse(ONE)
    put(folder, f"cut {SECRETS[0]}", whole[: len(whole) // 2])
    # Errors of the libraries may hold what they could not read.
    put(folder, "odd number", files.edf(ONE).replace(b"-163840.0"[:8], b"Zwetschg", 1))
    (folder / "A2.hea").write_text(f"A2 12 {SECRETS[0]} 5000\n{SECRETS[1]} 16 x\n")
    (folder / "A2.mat").write_bytes(b"x")
    put(folder, "odd unit", whole.replace(b"MICROVOLTS", SECRETS[0].encode()))
    files.challenge(folder, "A1", other(12), [f"#Age: {SECRETS[0]}", f"#Name: {SECRETS[1]}"])
    (folder / "subjects.csv").write_text(
        f"patient_id,date,lvef\n{SECRETS[10]},2010-01-01,50\n{SECRETS[0]},2011-01-02,40\n"
    )
    for options in ({}, {"beats": "stored"}, {"keep": "first"}):
        load(folder, **options)
    cohort = load(folder)
    cohort.save(folder.parent / "cache" / "saved")
    written = [one for one in (folder.parent / "cache").rglob("*") if one.is_file()]
    assert len(written) > 10
    for file in written:
        content = file.read_bytes().lower()
        for secret in (*SECRETS, "Zwetschg"):
            for encoded in (
                secret.encode(),
                secret.encode("utf-16-le"),
                secret.encode("utf-32-le"),
            ):
                assert encoded.lower() not in content, (file, secret)
    key = folder.parent / "cache" / "pseudonyms.key"
    assert key.stat().st_mode & 0o077 == 0
    assert SECRETS[0] in capsys.readouterr().out  # the person at the screen may know the files


def test_ids_are_kept_if_asked_for_and_hashes_depend_on_the_key(folder):
    put(folder, "a", files.muse(ONE))
    hashed = column(load(folder), "patient_id")
    assert hashed == column(load(folder), "patient_id")
    assert re.fullmatch("[0-9a-f]{16}", hashed[0])
    (folder.parent / "cache" / "pseudonyms.key").unlink()
    assert column(load(folder), "patient_id") != hashed
    assert column(load(folder, keep_ids=True), "patient_id") == ["4711-0815-PAT"]
    (folder.parent / "cache" / "pseudonyms.key").write_text("short")
    with pytest.raises(CohortError, match=r"pseudonyms.key is damaged"):
        load(folder)


# --- preparation --------------------------------------------------------------------------------


def test_the_split_depends_on_the_order_of_the_files_and_not_on_the_key():
    ecg, parts = simulate(30, 0).ecg, []
    for key in ("0" * 64, "1" * 64, None):
        ids = [Pseudonyms(key)("file", f"{number}.xml") for number in range(30)]
        cohort = Cohort(ecg, pd.DataFrame({"subject_id": ids}), source="recordings")
        parts.append(np.concatenate([part.ecg for part in cohort.split()]))
    np.testing.assert_array_equal(parts[1], parts[0])
    np.testing.assert_array_equal(parts[2], parts[0])


def test_of_two_at_once_both_have_the_first_key(tmp_path, monkeypatch):
    found, token = [], secrets.token_hex
    second = threading.Thread(target=lambda: found.append(Pseudonyms.of(tmp_path, False)))

    def slowly(size):
        if second.ident is None:
            second.start()
            second.join(0.3)
        return token(size)

    monkeypatch.setattr(secrets, "token_hex", slowly)
    first = Pseudonyms.of(tmp_path, False)
    second.join(10)
    assert found == [first]
    key = tmp_path / "pseudonyms.key"
    assert list(tmp_path.iterdir()) == [key]
    assert key.stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_only_files_that_are_new_or_changed_are_read(folder, monkeypatch):
    import data.readers.recordings as module

    real, opened = module.read_file, []
    monkeypatch.setattr(
        module, "read_file", lambda file, *rest: opened.append(file.name) or real(file, *rest)
    )
    for number in (1, 2):
        put(folder, f"{number}", files.muse(other(number)))
    load(folder)
    put(folder, "3", files.muse(other(3)))
    put(folder, "1", files.philips(other(4)))
    cohort = load(folder)
    assert opened == ["1", "2", "1", "3"]
    assert column(cohort, "format") == ["Philips XML", "GE MUSE XML", "GE MUSE XML"]
    assert load(folder, keep="last").subjects["recorded"].tolist() == ["2014-01-01T12:00:05"]
    assert len(opened) == 4


def test_workers_read_what_one_process_reads(folder):
    for number in range(3):
        put(folder, f"{number}", files.scp(other(number)))
    alone = load(folder)
    for file in (folder.parent / "cache").glob("recordings-*/*"):
        file.unlink()
    import data.readers.prepare as engine

    size, engine.SHARD_SIZE = engine.SHARD_SIZE, 1
    try:
        together = load(folder, workers=2)
    finally:
        engine.SHARD_SIZE = size
    np.testing.assert_array_equal(alone.ecg, together.ecg)
    pd.testing.assert_frame_equal(alone.subjects, together.subjects)


real = pytest.mark.skipif(not REAL.is_dir(), reason="the example files are not beside the checkout")


@real
def test_the_samples_of_a_real_dicom_file_are_those_of_pydicom():
    from pydicom import dcmread

    file = REAL / "waveform_ecg.dcm"
    found, read = read_export(file, "DICOM"), dcmread(file)
    for number, strip in ((0, found.strip), (1, found.stored)):
        expected = read.waveform_array(number).T / 1000  # its units are uV
        np.testing.assert_allclose(strip.ecg, expected, rtol=0, atol=1e-6)
        assert strip.leads == LEADS


@real
def test_the_samples_of_a_real_muse_file_are_those_that_stand_there():
    file = REAL / "muse_resting.xml"
    found = read_export(file, "GE MUSE XML")
    text = file.read_text("utf-8", errors="replace")
    [_, stored, strip] = text.split("<WaveformType>")
    for section, one in ((stored, found.stored), (strip, found.strip)):
        for lead, row in zip(one.leads, one.ecg, strict=True):
            part = section[section.index(f"<LeadID>{lead}</LeadID>") :]
            data = re.search("<WaveFormData>(.*?)</WaveFormData>", part, re.DOTALL)
            part = section[: section.index(f"<LeadID>{lead}</LeadID>")]
            scale = float(re.findall("<LeadAmplitudeUnitsPerBit>(.*?)<", part)[-1])
            expected = np.frombuffer(base64.b64decode(data[1]), "<i2") * scale
            np.testing.assert_allclose(row, expected / 1000, rtol=0, atol=1e-9)


@real
def test_real_exports_of_three_makers_are_read(tmp_path):
    cohort = load_recordings(REAL, tmp_path, workers=1)
    made = dict(zip(column(cohort, "format"), column(cohort, "heart_rate"), strict=True))
    # As the files state them: two rates, and an RR interval of 982 ms.
    stated = {"GE MUSE XML": 97, "Philips XML": 41, "DICOM": 60_000 / 982}
    assert made == pytest.approx(stated, abs=0.5)
    stored = load_recordings(REAL, tmp_path, beats="stored", workers=1)
    ours = dict(zip(column(cohort, "subject_id"), cohort.ecg, strict=True))
    for name, ecg in zip(column(stored, "subject_id"), stored.ecg, strict=True):
        assert np.corrcoef(ours[name].ravel(), ecg.ravel())[0, 1] > 0.99
