"""Public archives, as small folders written in their layouts."""

from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import wfdb

from config import DataConfig
from data import load_cohort
from data.beats import median_beat
from data.cohort import LEADS, CohortError
from data.readers.archives import load_challenge, load_mimic, load_sph
from tests import recording_files as files
from tests.cohort_columns import column, reasons
from tests.simulated_strips import rhythm_strip

ONE = files.Patient()


def strip(number):
    return rhythm_strip(heart_rate=60 + 3 * number, seconds=6, noise=0.02, seed=number)


# --- PhysioNet Challenges -----------------------------------------------------------------------


def test_the_challenge_gives_names_origins_ages_sexes_and_codes(tmp_path):
    for number, name in enumerate(("A0001", "E00001", "HR00001", "JS00001", "S0001")):
        folder = tmp_path / "in" / "training" / f"set{number}" / "g1"
        folder.mkdir(parents=True)
        files.challenge(folder, name, replace(ONE, strip=strip(number), age=40 + number))
        (folder / "RECORDS").write_text(name)
    files.challenge(folder, "I0001", replace(ONE, strip=np.tile(strip(9), 110)))
    cohort = load_challenge(tmp_path / "in", tmp_path / "cache", workers=1)
    found = cohort.subjects.set_index("subject_id")
    assert found["dataset"].to_dict() == {
        "A0001": "CPSC",
        "E00001": "Georgia",
        "HR00001": "PTB-XL",
        "JS00001": "Chapman-Shaoxing and Ningbo",
        "S0001": "PTB",
    }
    assert found["age"].tolist() == [40, 41, 42, 43, 44]
    assert set(found["sex"]) == {"female"}
    assert set(found["dx"]) == {"426783006,164889003"}
    assert reasons(cohort) == {"I0001": "longer than 600 s"}
    expected = median_beat(strip(1), 500).ecg
    row = column(cohort, "subject_id").index("E00001")
    np.testing.assert_allclose(cohort.ecg[row], expected, rtol=0, atol=0.006)


def test_two_records_of_one_name_in_the_challenge_keep_their_folders(tmp_path):
    for number in (1, 2):
        (tmp_path / "in" / f"{number}").mkdir(parents=True)
        one = replace(ONE, strip=strip(number))
        files.challenge(tmp_path / "in" / f"{number}", "X0001", one)
    cohort = load_challenge(tmp_path / "in", tmp_path / "cache", workers=1)
    assert column(cohort, "subject_id") == ["1/X0001.hea", "2/X0001.hea"]
    assert column(cohort, "dataset") == ["another"] * 2


# --- MIMIC-IV-ECG -------------------------------------------------------------------------------

ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:])  # of its headers


@pytest.fixture
def mimic(tmp_path):
    """Four studies of three subjects."""
    folder = tmp_path / "mimic"
    rows = [
        (10000032, 40689238, "2180-07-23 08:44:00"),
        (10000032, 44458630, "2181-07-23 09:54:00"),
        (10000117, 42749760, "2150-01-02 10:00:00"),
        (10000285, 49000000, "2160-06-01 00:00:00"),
    ]
    table = []
    for number, (subject, study, when) in enumerate(rows):
        place = f"files/p{str(subject)[:4]}/p{subject}/s{study}"
        (folder / place).mkdir(parents=True)
        wfdb.wrsamp(
            str(study),
            fs=500,
            units=["mV"] * 12,
            sig_name=list(ORDER),
            p_signal=strip(number)[[LEADS.index(lead) for lead in ORDER]].T,
            fmt=["16"] * 12,
            adc_gain=[200.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder / place),
        )
        table.append((subject, study, study, when, f"{place}/{study}"))
    columns = ["subject_id", "study_id", "file_name", "ecg_time", "path"]
    pd.DataFrame(table, columns=columns).to_csv(folder / "record_list.csv", index=False)
    return folder


def load(folder):
    return load_mimic(folder, folder.parent / "cache", workers=1)


def test_mimic_gives_studies_of_subjects_in_their_leads(mimic):
    cohort = load(mimic)
    assert column(cohort, "subject_id") == ["40689238", "44458630", "42749760", "49000000"]
    assert column(cohort, "patient_id") == ["10000032", "10000032", "10000117", "10000285"]
    for number, ecg in enumerate(cohort.ecg):  # aVF comes before aVL in these files
        expected = median_beat(strip(number), 500).ecg
        np.testing.assert_allclose(ecg, expected, rtol=0, atol=0.006)
    assert "age" not in cohort.subjects
    assert "time" not in cohort.subjects


def test_mimic_joins_ages_sexes_survival_and_what_the_machine_measured(mimic):
    (mimic / "patients.csv").write_text(
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
        "10000032,F,52,2180,2014 - 2016,2181-09-09\n10000117,M,48,2155,2014 - 2016,\n"
    )
    (mimic / "admissions.csv").write_text(
        "subject_id,hadm_id,dischtime\n10000032,1,2180-07-25 17:55:00\n"
        "10000032,2,2180-08-07 17:50:00\n10000117,3,2148-05-01 12:00:00\n"
    )
    (mimic / "machine_measurements.csv").write_text(
        "subject_id,study_id,cart_id,report_0,rr_interval,p_onset,p_end,qrs_onset,qrs_end,t_end,"
        "p_axis,qrs_axis,t_axis\n"
        "10000032,40689238,1,Sinus rhythm,750,40,128,170,258,520,81,77,-5\n"
        "10000032,44458630,1,AF,29999,29999,29999,170,260,520,29999,77,0\n"
    )
    cohort = load(mimic)
    np.testing.assert_array_equal(column(cohort, "age"), [52, 53, 43, np.nan])
    assert column(cohort, "sex")[:3] == ["female", "female", "male"]
    # Deaths are known until 2181-08-07, a year after the last discharge: she died later, and the
    # second ECG was 15 days before that. He has been followed until before his ECG.
    time, event = column(cohort, "time"), column(cohort, "event")
    days = (pd.Timestamp("2181-08-07") - pd.Timestamp("2180-07-23 08:44")).total_seconds() / 86400
    assert time[0] == pytest.approx(days / 365.25)
    assert time[1] == pytest.approx((14 + 14.1 / 24) / 365.25)
    np.testing.assert_array_equal(event, [0, 0, np.nan, np.nan])
    assert np.isnan(time[2:]).all()
    np.testing.assert_array_equal(column(cohort, "ecg_ventricular_rate"), [80, *[np.nan] * 3])
    np.testing.assert_array_equal(column(cohort, "ecg_pq_interval"), [130, *[np.nan] * 3])
    np.testing.assert_array_equal(column(cohort, "ecg_qrs_duration"), [88, 90, np.nan, np.nan])
    np.testing.assert_array_equal(column(cohort, "ecg_p_axis"), [81, *[np.nan] * 3])
    text = (mimic / "patients.csv").read_text()
    (mimic / "patients.csv").write_text(text.replace("2181-09-09", "2181-07-30"))
    cohort = load(mimic)
    assert column(cohort, "event")[:2] == [1, 1]
    assert column(cohort, "time")[1] == pytest.approx((7 + 14.1 / 24) / 365.25)
    (mimic / "patients.csv").write_text(text.replace("2181-09-09", "2181-07-23"))
    cohort = load(mimic)  # she died on the day of the second ECG
    assert column(cohort, "event")[1] == 1
    assert column(cohort, "time")[1] == pytest.approx(14.1 / 24 / 365.25)


def test_without_admissions_nobody_knows_how_long_mimic_was_followed(mimic):
    text = "subject_id,gender,anchor_age,anchor_year,dod\n10000032,F,52,2180,2181-09-09\n"
    (mimic / "patients.csv").write_text(text)
    cohort = load(mimic)
    assert column(cohort, "age")[:2] == [52, 53]
    assert "event" not in cohort.subjects
    (mimic / "patients.csv").write_text(text + "10000032,F,52,2180,\n")
    with pytest.raises(CohortError, match="'10000032' stands twice in .*patients.csv"):
        load(mimic)
    (mimic / "machine_measurements.csv").write_text("study_id\n1\n")
    with pytest.raises(CohortError, match="machine_measurements.csv cannot be read"):
        load(mimic)


def test_a_mimic_record_that_was_not_downloaded_is_left_out(mimic):
    next(mimic.rglob("42749760.dat")).unlink()
    assert reasons(load(mimic)) == {"42749760": "unreadable (FileNotFoundError)"}


# --- SPH ----------------------------------------------------------------------------------------


@pytest.fixture
def sph(tmp_path):
    folder = tmp_path / "sph"
    (folder / "records").mkdir(parents=True)
    for number in (1, 2, 3):
        with h5py.File(folder / "records" / f"A0000{number}.h5", "w") as opened:
            opened["ecg"] = strip(number).astype(np.float16)
    (folder / "metadata.csv").write_text(
        "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\nA00001,22;23,S00001,55,M,3000,2020-03-04\n"
        "A00002,1,S00002,37,F,3000,2019-08-08\nA00003,1,S00002,38,F,5000,2020-08-08\n"
    )
    return folder


def test_sph_gives_beats_persons_and_statements(sph):
    cohort = load_sph(sph, sph.parent / "cache", workers=1)
    assert column(cohort, "subject_id") == ["A00001", "A00002"]
    assert column(cohort, "patient_id") == ["S00001", "S00002"]
    assert column(cohort, "age") == [55, 37]
    assert column(cohort, "sex") == ["male", "female"]
    assert column(cohort, "aha_codes") == ["22;23", "1"]
    expected = median_beat(strip(1), 500).ecg
    np.testing.assert_allclose(cohort.ecg[0], expected, rtol=0, atol=0.003)
    assert reasons(cohort) == {
        "A00003": "another number of leads or samples than metadata.csv says"
    }


def test_sph_opens_nothing_elsewhere(sph, tmp_path):
    with h5py.File(sph / "records" / "A00002.h5", "w") as opened:
        opened["ecg"] = h5py.ExternalLink("A00001.h5", "ecg")
    file = sph / "metadata.csv"
    file.write_text(file.read_text().replace("A00003,1", "../A00003,1"))
    cohort = load_sph(sph, tmp_path / "cache", workers=1)
    assert reasons(cohort) == {"A00002": "unreadable (OSError)", "../A00003": "a name that is none"}


# --- all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["challenge", "mimic", "sph"])
def test_another_folder_is_named(tmp_path, source):
    (tmp_path / "in").mkdir()
    with pytest.raises(CohortError, match="record_list.csv|metadata.csv|no file in"):
        load_cohort(DataConfig(source=source, path=tmp_path / "in", cache=tmp_path / "cache"))


def test_the_settings_name_an_archive(sph):
    settings = DataConfig(source="sph", path=sph, cache=sph.parent / "cache", workers=1)
    assert load_cohort(settings).source == "SPH"
