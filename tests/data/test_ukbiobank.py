import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from config import PRESETS, DataConfig
from data import Cohort, CohortError, load_cohort
from data.beats import median_beat
from data.readers.cardiosoft import MEASUREMENTS, read_median_beat, read_strip
from data.readers.ukbiobank import RecordingReader, load_ukbiobank
from tests.cardiosoft_files import document, stored_beat, stored_strip, waveforms, write
from tests.cohort_columns import column, reasons
from tests.places import SHARED

REAL = SHARED / "ukb" / "example_20205.xml"
TABLE = """eid,sex,age,bmi,lvef,site
1000011,0,61,24.5,58,Reading
1000022,1,55.5,,,Cheadle
1000033,1,70,31.25,49.5,Reading
"""


def recording(folder, name, gain=1.0, strip=False, **how):
    """A file whose beat is `gain` times the simulated one, and has an age of 60."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = np.round(stored_beat() * gain).astype(int)
    inside = waveforms(stored_strip(seed=1)) if strip else None
    return write(file, document(waveforms(stored), inside, age=60, **how))


@pytest.fixture
def folder(tmp_path):
    """Three participants, one with two visits, in folders of their own as on a research platform.

    Beside them, what is no resting ECG.
    """
    folder = tmp_path / "ukb"
    recording(folder, "10/1000022_20205_3_0.xml", 0.8)
    recording(folder, "10/1000022_20205_2_0.xml", 0.7)
    recording(folder, "1000011_20205_2_0.xml", 0.9)
    recording(folder, "1000033_20205_2_1.XML", 1.1)
    for name in ("1000011_6025_2_0.xml", "notes.xml", "1000011_20205_2_0.xml.part", "-5_20205_2_0"):
        (folder / name).write_text("no resting ECG")
    (folder / "1000055_20205_2_0.xml").mkdir()
    (folder / "subjects.csv").write_text(TABLE)
    return folder


def load(folder, **options):
    return load_ukbiobank(folder, folder.parent / "cache", **({"workers": 1} | options))


# --- recordings and participants ----------------------------------------------------------------


def test_each_recording_is_its_own_beat_and_its_participants_conditions(folder):
    cohort = load(folder)
    assert column(cohort, "subject_id") == ["1000011_2_0", "1000022_2_0", "1000022_3_0"] + [
        "1000033_2_1"
    ]
    assert column(cohort, "patient_id") == ["1000011", "1000022", "1000022", "1000033"]
    assert column(cohort, "instance") == [2, 2, 3, 2]
    assert column(cohort, "sex") == ["female", "male", "male", "male"]
    assert column(cohort, "age") == [61, 55.5, 55.5, 70]
    np.testing.assert_array_equal(column(cohort, "bmi"), [24.5, np.nan, np.nan, 31.25])
    np.testing.assert_array_equal(column(cohort, "lvef"), [58, np.nan, np.nan, 49.5])
    assert column(cohort, "site") == ["Reading", "Cheadle", "Cheadle", "Reading"]
    for ecg, gain in zip(cohort.ecg, (0.9, 0.7, 0.8, 1.1), strict=True):
        stored = np.round(stored_beat() * gain)[6:, 89:489] * 0.005
        np.testing.assert_allclose(ecg[6:], stored, rtol=0, atol=1e-6)
    assert cohort.source == "UK Biobank median"
    assert len(cohort.excluded) == 0


def test_what_the_recorder_measured_is_in_the_subjects(folder):
    cohort = load(folder)
    assert column(cohort, "ecg_age") == [60] * 4
    assert column(cohort, "heart_rate") == column(cohort, "ecg_ventricular_rate") == [65] * 4
    assert column(cohort, "ecg_qrs_duration") == [92] * 4
    assert set(MEASUREMENTS) <= set(cohort.subjects)
    assert column(cohort, "beats_used") == [9] * 4
    assert cohort.subjects["beat_correlation"].isna().all()


def test_visits_of_one_participant_are_never_divided(folder):
    for seed in range(8):
        parts = load(folder).split(0.3, 0.3, seed)
        assert sum("1000022" in set(part.subjects["patient_id"]) for part in parts) == 1


def test_beats_of_the_strips_are_ours(folder):
    file = recording(folder, "1000011_20205_2_0.xml", strip=True)
    cohort = load(folder, beats="strip")
    assert column(cohort, "subject_id") == ["1000011_2_0"]
    expected = median_beat(*read_strip(file))
    np.testing.assert_array_equal(cohort.ecg[0], expected.ecg)
    assert column(cohort, "beat_noise_uv") == [expected.noise_uv]
    assert column(cohort, "ecg_qrs_duration") == [92]
    assert set(reasons(cohort).values()) == {"no rhythm strip"}
    assert load(folder).source != cohort.source  # the stored beats are another cohort


def test_one_bad_file_does_not_stop_the_others(folder):
    laughs = '<!DOCTYPE a [<!ENTITY b "c">]><CardiologyXML/>'
    bad = {"1": "", "2": "\x89PNG", "3": laughs, "4": document(), "5": document("")}
    (folder / "subjects.csv").write_text(TABLE + "".join(f"{n},0,1,1,1,x\n" for n in bad))
    for number, text in bad.items():
        write(folder / f"{number}_20205_2_0.xml", text)
    write(folder / "1000033_20205_2_1.XML", document(waveforms(stored_beat()), qrs=(None, None)))
    cohort = load(folder)
    assert column(cohort, "subject_id") == ["1000011_2_0", "1000022_2_0", "1000022_3_0"]
    assert reasons(cohort) == {
        "1_2_0": "damaged XML: no element found",
        "2_2_0": "damaged XML: not well-formed (invalid token)",
        "3_2_0": "XML with a document type definition",
        "4_2_0": "no median beat",
        "5_2_0": "no median beat",
        "1000033_2_1": "no QRS onset and offset in ms",
    }


def test_participants_without_a_row_and_those_who_withdrew_are_left_out_unread(folder, monkeypatch):
    (folder / "subjects.csv").write_text(TABLE.replace("1000011", "1000044"))
    (folder / "withdrawn.csv").write_bytes(b"\xef\xbb\xbfeid\r\n1000033\r\n9999999\r\n\r\n")
    (folder / "1000033_20205_2_1.XML").write_text("damaged, which nobody notices")
    opened = []
    monkeypatch.setattr(
        "data.readers.ukbiobank.read_measurements", lambda file: opened.append(file.name) or {}
    )
    cohort = load(folder)
    assert opened == ["1000022_20205_2_0.xml", "1000022_20205_3_0.xml"]
    assert column(cohort, "patient_id") == ["1000022", "1000022"]
    assert reasons(cohort) == {"1000011_2_0": "not in subjects.csv", "1000033_2_1": "withdrawn"}


def test_a_table_may_have_a_row_per_visit(folder):
    (folder / "subjects.csv").write_text(
        "age,instance,eid\n61,2,1000011\n55,2.0,1000022\n58,3,1000022\n71,3,1000033\n"
    )
    cohort = load(folder)
    assert column(cohort, "age") == [61, 55, 58]
    assert column(cohort, "instance") == [2, 2, 3]
    assert reasons(cohort) == {"1000033_2_1": "not in subjects.csv"}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("1000022", "1000022.0").replace("1000011", " 1000011.00"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text + "-1,0,1,1,1,x\n-1,0,1,1,1,x\n",
        lambda text: text.replace(",0,61", ",Female,61").replace(",1,", ",MALE,"),
        lambda text: text.replace(",0,61", ",0.0,61").replace(",1,", ",1.0,"),
        lambda text: text.replace("1000033", "001000033") + "\n\n",
    ],
)
def test_tables_may_be_written_in_other_ways(folder, change):
    expected = load(folder).subjects
    with (folder / "subjects.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(change(TABLE))
    pd.testing.assert_frame_equal(load(folder).subjects, expected)


def test_outcomes_in_the_table_are_numbers_and_missing_values_stay_missing(folder):
    (folder / "subjects.csv").write_text(
        "eid,time,event,sex\n1000011,4.5,True,\n1000022,,,1\n1000033,2,0,0\n"
    )
    cohort = load(folder)
    np.testing.assert_array_equal(column(cohort, "time"), [4.5, np.nan, np.nan, 2])
    np.testing.assert_array_equal(column(cohort, "event"), [1, np.nan, np.nan, 0])
    assert cohort.subjects["sex"].isna().tolist() == [True, False, False, False]


def test_one_time_for_several_visits_is_refused(folder):
    (folder / "subjects.csv").write_text("eid,time,event\n1000011,4.5,1\n1000022,5,0\n")
    with pytest.raises(CohortError, match="one `time` for all visits of participant '1000022'"):
        load(folder)


def test_another_age_than_the_file_says_is_said(folder, capsys):
    (folder / "subjects.csv").write_text("eid,age\n1000011,30\n1000022,30\n1000033,30\n")
    own = load(folder).subjects["ecg_age"]
    shown = capsys.readouterr().out
    wrong = int(((own - 30).abs() > 1).sum())
    assert wrong > 0
    assert f"{wrong} recordings have another age in subjects.csv than in their file" in shown


def test_a_wide_table_of_image_derived_measures_is_carried_along(folder):
    table = pd.read_csv(folder / "subjects.csv")
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 300))).add_prefix("measure_")
    pd.concat([table, wide], axis=1).to_csv(folder / "subjects.csv", index=False)
    subjects = load(folder).subjects.drop_duplicates("patient_id")
    np.testing.assert_allclose(subjects[wide.columns], wide)


NAMES = {
    "platform": ("eid", "p31", "p21003_i2", "p21003_i3", "p21001_i2", "p21001_i3", "p21003_i0"),
    "with entity": ("participant.eid", "participant.p31", "participant.p21003_i2")
    + ("participant.p21003_i3", "participant.p21001_i2", "participant.p21001_i3", "p21003_i0"),
    "csv": ("eid", "31-0.0", "21003-2.0", "21003-3.0", "21001-2.0", "21001-3.0", "21003-0.0"),
    "R": ("f.eid", "f.31.0.0", "f.21003.2.0", "f.21003.3.0")
    + ("f.21001.2.0", "f.21001.3.0", "f.21003.0.0"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_age_sex_and_bmi_may_be_called_by_their_fields_and_are_of_the_visit(folder, names, capsys):
    rows = "1000011,0,61,,24.5,,50\n1000022,Male,55,58,27,,45\n1000033,1,70,,31,,60\n"
    (folder / "subjects.csv").write_text(f"{','.join(names)}\n{rows}")
    cohort = load(folder)
    assert column(cohort, "instance") == [2, 2, 3, 2]
    assert column(cohort, "age") == [61, 55, 58, 70]
    assert column(cohort, "sex") == ["female", "male", "male", "male"]
    np.testing.assert_array_equal(column(cohort, "bmi"), [24.5, 27, np.nan, 31])
    assert not {*names} & {*cohort.subjects}
    assert (
        f"subjects.csv: sex is {names[1]}; age is {names[2]}, {names[3]}" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "eid,p21003_i0\n1000011,50\n",
            "age of other visits only .p21003_i0.; the ECGs are of vis",
        ),
        ("f.eid,f.31.0.0\n1000011,2\n", "sex as female or male, or .* Participant 1000011 has '2'"),
        ("eid,p21003_i2,21003-2.0\n1000011,61,62\n", "age twice, as p21003_i2 and as 21003-2.0"),
        ("eid,p31,p31_i0\n1000011,0,1\n", "sex twice, as p31 and as p31_i0"),
        ("id,p31\n1000011,1\n", "lacks the columns .'eid'."),
        ("eid,p31,time\n1000022,1,5\n", "one `time` for all visits of participant '1000022'"),
    ],
)
def test_fields_that_do_not_fit_are_named(folder, table, message):
    (folder / "subjects.csv").write_text(table)
    with pytest.raises(CohortError, match=message):
        load(folder)


def test_a_visit_without_its_field_is_said(folder, capsys):
    (folder / "subjects.csv").write_text("eid,p21003_i2\n1000011,61\n1000022,55\n1000033,70\n")
    np.testing.assert_array_equal(column(load(folder), "age"), [61, 55, np.nan, 70])
    assert "no age of the visit of 1 recordings: it is unknown" in capsys.readouterr().out


def test_a_column_called_as_it_is_meant_comes_before_its_field(folder):
    (folder / "subjects.csv").write_text("eid,age,p21003_i2\n1000011,61,40\n1000022,55,40\n")
    cohort = load(folder)
    assert column(cohort, "age") == [61, 55, 55]
    assert column(cohort, "p21003_i2") == [40, 40, 40]


# --- prepared once ------------------------------------------------------------------------------


def test_the_prepared_cohort_is_opened_again_without_the_samples_being_read(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr(RecordingReader, "__call__", lambda *_: pytest.fail("read again"))
    again = load(folder)
    assert isinstance(again, Cohort)
    pd.testing.assert_frame_equal(again.subjects, first.subjects)


def test_a_new_file_another_table_or_another_withdrawal_prepares_anew(folder):
    assert len(load(folder)) == 4
    recording(folder, "1000011_20205_3_0.xml")
    assert len(load(folder)) == 5
    (folder / "withdrawn.csv").write_text("1000022\n")
    assert len(load(folder)) == 3
    (folder / "subjects.csv").write_text(TABLE.replace("61", "62"))
    assert load(folder).subjects["age"][0] == 62


def test_the_same_names_in_another_folder_are_another_cohort(folder):
    first = load(folder)
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    recording(other, "1000011_20205_2_0.xml", 0.5)
    assert np.abs(load(other).ecg[0] - first.ecg[0]).max() > 0.5


def test_the_reader_can_be_sent_to_other_processes(folder):
    reader = RecordingReader(str(folder), "median")
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader
    (beat, facts), (again, same) = (read("1000011_20205_2_0.xml") for read in (reader, copy))
    np.testing.assert_array_equal(beat.ecg, again.ecg)
    assert facts == same


def test_a_limit_takes_the_first_recordings(folder):
    assert column(load(folder, limit=2), "subject_id") == ["1000011_2_0", "1000022_2_0"]


@pytest.mark.parametrize("beats", ["median", "strip"])
def test_the_settings_name_the_reader_and_its_beats(folder, beats):
    recording(folder, "1000011_20205_2_0.xml", strip=True)
    settings = DataConfig(source="ukbiobank", path=folder, beats=beats, workers=1)
    cohort = load_cohort(replace(settings, cache=folder.parent / "cache"))
    assert cohort.source == f"UK Biobank {beats}"
    assert len(cohort) == {"median": 4, "strip": 1}[beats]


def test_the_preset_reads_the_stored_beats():
    preset = PRESETS["ukbiobank"]
    assert (preset.data.source, preset.data.beats) == ("ukbiobank", "median")
    assert preset.model == PRESETS["ptbxl"].model
    assert preset.training == PRESETS["recordings"].training == PRESETS["ptbxl"].training


# --- what is refused ----------------------------------------------------------------------------


def rewrite(folder, text):
    (folder / "subjects.csv").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "subjects.csv").unlink(), "subjects.csv is not there. Expected a folder"),
        (lambda f: rewrite(f, ""), "cannot be read as a comma-separated table"),
        (lambda f: rewrite(f, TABLE.replace("eid", "id")), r"lacks the columns \['eid'\]"),
        (lambda f: rewrite(f, TABLE.replace(",", ";")), r"lacks the columns \['eid'\]"),
        (lambda f: rewrite(f, TABLE + "1000022,1,1,1,1,x\n"), "eid '1000022' stands twice"),
        (lambda f: rewrite(f, TABLE + "1000022.0,1,1,1,1,x\n"), "eid '1000022' stands twice"),
        (lambda f: rewrite(f, TABLE + "1.2e6,1,1,1,1,x\n"), "in line 5: '1.2e6'"),
        (lambda f: rewrite(f, TABLE + ",1,1,1,1,x\n"), "in line 5: nan"),
        (lambda f: rewrite(f, TABLE.replace("61", "old")), "a number as age of '1000011'"),
        (lambda f: rewrite(f, TABLE.replace("31.25", "1e999")), "a number as bmi of '1000033'"),
        (lambda f: rewrite(f, TABLE.replace(",0,61", ",2,61")), "Participant 1000011 has '2'"),
        (lambda f: rewrite(f, TABLE.replace("lvef", "ecg_r_axis")), r"makes: \['ecg_r_axis'\]"),
        (lambda f: rewrite(f, TABLE.replace("lvef", "heart_rate")), r"makes: \['heart_rate'\]"),
        (lambda f: rewrite(f, "eid,instance\n7,2\n8,2.5\n"), "instance of participant 8"),
        (lambda f: rewrite(f, "eid,instance\n7,2\n8,\n"), "instance of participant 8"),
        (lambda f: rewrite(f, "eid,event\n1000011,2\n"), "0 or 1 as event of '1000011'"),
        (lambda f: rewrite(f, "eid\n1000011\n1000011\n"), "stands twice .* 1 rows repeat one"),
        (lambda f: rewrite(f, "eid\n7\n"), "None of the 4 records .* not in subjects.csv"),
        (lambda f: (f / "withdrawn.csv").write_text("1000011, 1000022\n"), "one id per line"),
        (
            lambda f: (f / "withdrawn.csv").write_text('"1000033"\n'),
            "one id per line in .*withdrawn.csv. Received: '\"1000033\"'",
        ),
        (
            lambda f: shutil.copy(f / "1000011_20205_2_0.xml", f / "10"),
            "'1000011_2_0' in row 1 is missing or stands twice",
        ),
    ],
)
def test_a_damaged_folder_gives_one_error_that_names_the_culprit(folder, damage, message):
    damage(folder)
    with pytest.raises(CohortError, match=message):
        load(folder)


def test_a_folder_without_recordings_says_what_was_expected(tmp_path):
    (tmp_path / "subjects.csv").write_text(TABLE)
    with pytest.raises(CohortError, match="No resting ECGs in .* files like 1234567_20205_2_0"):
        load_ukbiobank(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "message"), [({"limit": 0}, "limit of 1"), ({"beats": "mean"}, "beats among")]
)
def test_impossible_options_are_refused(folder, options, message):
    with pytest.raises(CohortError, match=message):
        load(folder, **options)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_plain_file_is_not_opened(folder):
    os.mkfifo(folder / "1000011_20205_3_0.xml")
    assert len(load(folder)) == 4


@pytest.mark.skipif(not REAL.is_file(), reason="no CardioSoft file is beside the checkout")
@pytest.mark.parametrize("beats", ["median", "strip"])
def test_a_real_file_becomes_a_cohort(tmp_path, beats):
    shutil.copyfile(REAL, tmp_path / "1000011_20205_2_0.xml")
    (tmp_path / "subjects.csv").write_text("eid,age,sex,bmi\n1000011,53,1,24.5\n")
    cohort = load(tmp_path, beats=beats)
    if beats == "median":
        np.testing.assert_array_equal(cohort.ecg[0], read_median_beat(REAL).ecg)
    assert cohort.subjects["heart_rate"][0] == pytest.approx(50, abs=1)
    assert cohort.subjects["ecg_qrs_duration"][0] == 92
    assert cohort.subjects["sex"][0] == "male"
