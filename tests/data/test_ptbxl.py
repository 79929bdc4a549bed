import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from data.beats import BeatError, median_beat
from data.cohort import CohortError
from data.readers.ptbxl import WfdbReader, load_ptbxl
from tests.places import ROOT, SHARED
from tests.simulated_strips import rhythm_strip, write_ptbxl

REAL = SHARED / "ptbxl"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ptbxl"


def load(folder, **options):
    return load_ptbxl(folder, cache=folder.parent / "cache", workers=1, **options)


def test_each_record_becomes_its_median_beat(folder):
    write_ptbxl(folder, 3)
    cohort = load(folder)
    strip = rhythm_strip(heart_rate=62, noise=0.02, seed=2)
    expected = median_beat(strip, 500).ecg
    assert np.abs(cohort.ecg[1] - expected).max() < 0.002  # rounded to 1 uV in the file
    assert list(cohort.subjects["subject_id"]) == ["1", "2", "3"]
    assert list(cohort.subjects["patient_id"]) == ["100", "101", "102"]
    assert list(cohort.subjects["sex"]) == ["male", "female", "male"]
    assert list(cohort.subjects["fold"]) == [1, 2, 3]
    assert cohort.subjects["bmi"][0] == pytest.approx(70 / 1.7**2)


def test_missing_values_stay_missing_and_coded_ones_are_decoded(folder):
    write_ptbxl(
        folder,
        4,
        age=[300, np.nan, 89, 0],
        sex=[0, np.nan, 1, 1],
        height=[6, 180, np.nan, 170],
        weight=[70, 80, 60, 700],
        heart_axis=["LAD", None, None, "MID"],
    )
    subjects = load(folder).subjects
    np.testing.assert_array_equal(subjects["age"], [90, np.nan, 89, 0])
    assert list(subjects["age_over_89"]) == [True, False, False, False]
    np.testing.assert_array_equal(subjects["height"], [np.nan, 180, np.nan, 170])
    np.testing.assert_array_equal(subjects["weight"], [70, 80, 60, np.nan])
    np.testing.assert_allclose(subjects["bmi"], [np.nan, 80 / 1.8**2, np.nan, np.nan])
    assert list(subjects["sex"].isna()) == [False, True, False, False]
    assert list(subjects["heart_axis"].isna()) == [False, True, True, False]


def test_superclasses_are_those_of_all_diagnostic_statements(folder):
    codes = [
        "{'NORM': 100.0, 'SR': 0.0}",
        "{'NDT': 50.0, 'IMI': 0.0}",
        "{'SR': 0.0}",
        "{'LVH': 100.0, 'NORM': 15.0}",
        "{}",
    ]
    write_ptbxl(folder, 5, scp_codes=codes)
    subjects = load(folder).subjects
    assert list(subjects["superclass"].fillna("none")) == [
        "NORM",
        "MI+STTC",
        "none",
        "NORM+HYP",
        "none",
    ]
    assert list(subjects["normal"]) == [True, False, False, False, False]


def test_unreadable_records_are_left_out_with_their_reason(folder):
    write_ptbxl(folder, 7)
    records = folder / "records500"
    (records / "00001_hr.dat").unlink()
    (records / "00002_hr.dat").write_bytes((records / "00002_hr.dat").read_bytes()[:1001])
    (records / "00003_hr.hea").write_text("nonsense\n")
    flat = np.fromfile(records / "00004_hr.dat", "<i2").reshape(-1, 12)
    flat[:, 7] = 0
    flat.tofile(records / "00004_hr.dat")
    gap = np.fromfile(records / "00005_hr.dat", "<i2").reshape(-1, 12)
    gap[50, 3] = -32768  # how WFDB writes a missing sample
    gap.tofile(records / "00005_hr.dat")
    for number in (4, 5):  # of the samples as they were
        forget_checksums(records / f"0000{number}_hr.hea")
    swapped = np.fromfile(records / "00006_hr.dat", "<i2").reshape(-1, 12)
    swapped[:, [1, 0, *range(2, 12)]].tofile(records / "00006_hr.dat")
    cohort = load(folder)
    assert list(cohort.subjects["subject_id"]) == ["7"]
    reasons = list(cohort.excluded["reason"])
    assert all(reason.startswith("unreadable (") for reason in reasons[:3])
    assert reasons[3:] == [
        "lead V2 is flat",
        "lead aVR has missing samples",
        "lead I contradicts its checksum",
    ]


def forget_checksums(header):
    first, *lines = [line.split() for line in header.read_text().splitlines()]
    lines = [[*line[:6], "0", *line[7:]] for line in lines]
    header.write_text("\n".join(" ".join(line) for line in [first, *lines]) + "\n")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "records500/../../x", "s3://a/b"])
def test_record_names_that_lead_out_of_the_folder_are_refused(folder, name):
    write_ptbxl(folder, 2, filename_hr=["records500/00001_hr", name])
    cohort = load(folder)
    assert list(cohort.excluded["reason"]) == ["file name leads out of the data folder"]


@pytest.mark.parametrize(
    "name", ["records500\\00002_hr", "records500/00002_hr.hea", " records500/00002_hr.dat "]
)
def test_record_names_of_other_systems_and_with_extensions_are_read(folder, name):
    write_ptbxl(folder, 3)
    read = WfdbReader(str(folder))
    np.testing.assert_array_equal(read(name).ecg, read("records500/00002_hr").ecg)
    with pytest.raises(BeatError, match="leads out"):
        read("..\\" + name.strip())


def test_a_header_without_a_rate_is_refused_not_taken_for_250_hz(folder):
    write_ptbxl(folder, 2)
    header = folder / "records500" / "00001_hr.hea"
    first, rest = header.read_text().split("\n", 1)
    header.write_text(" ".join(first.split()[:2]) + "\n" + rest)
    cohort = load(folder)
    assert list(cohort.excluded["reason"]) == ["the header gives no sampling rate"]


def test_a_header_cannot_name_a_signal_file_outside_its_folder(folder):
    write_ptbxl(folder, 2)
    header = folder / "records500" / "00001_hr.hea"
    (folder / "stolen.dat").write_bytes((folder / "records500" / "00001_hr.dat").read_bytes())
    header.write_text(header.read_text().replace("00001_hr.dat", "../stolen.dat"))
    assert list(load(folder).subjects["subject_id"]) == ["2"]


def test_other_units_are_converted_or_refused(folder):
    write_ptbxl(folder, 1)
    header = folder / "records500" / "00001_hr.hea"
    read = WfdbReader(str(folder))
    expected = read("records500/00001_hr").ecg
    text = header.read_text()
    header.write_text(text.replace("1000.0(0)/mV", "1.0(0)/uV"))
    np.testing.assert_allclose(read("records500/00001_hr").ecg, expected, rtol=1e-5)
    header.write_text(text.replace("/mV", "/mmHg"))
    with pytest.raises(BeatError, match="unknown unit 'mmHg'"):
        read("records500/00001_hr")


def test_a_limit_takes_the_first_records(folder):
    write_ptbxl(folder, 3)
    assert len(load(folder, limit=2)) == 2


def edit_database(folder, edit):
    file = folder / "ptbxl_database.csv"
    edit(pd.read_csv(file)).to_csv(file, index=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "ptbxl_database.csv").unlink(), "ptbxl_database.csv is not there"),
        (lambda f: (f / "scp_statements.csv").unlink(), "scp_statements.csv is not there"),
        (
            lambda f: edit_database(f, lambda t: t.drop(columns=["age", "strat_fold"])),
            r"lacks the columns \['age', 'strat_fold'\]",
        ),
        (
            lambda f: edit_database(f, lambda t: t.assign(sex=[0, 7])),
            "Record 2 has 7",
        ),
        (
            lambda f: edit_database(f, lambda t: t.assign(age=["60", "sixty"])),
            "age of '2'. Received: 'sixty'",
        ),
        (
            lambda f: edit_database(f, lambda t: t.assign(scp_codes="__import__('os')")),
            "scp_codes of record 1",
        ),
        (
            lambda f: edit_database(f, lambda t: t.assign(ecg_id=1)),
            "ecg_id 1 stands twice in ptbxl_database.csv, again in row 1",
        ),
        (lambda f: edit_database(f, lambda t: t.head(0)), "at least one"),
        (lambda f: (f / "ptbxl_database.csv").write_bytes(b"\xff\xfe\x00\x01"), "cannot be read"),
        (lambda f: (f / "ptbxl_database.csv").write_bytes(b""), "cannot be read"),
    ],
)
def test_a_damaged_folder_gives_one_error_that_names_the_culprit(folder, damage, message):
    write_ptbxl(folder, 2)
    damage(folder)
    with pytest.raises(CohortError, match=message):
        load(folder)


def test_tables_saved_by_a_spreadsheet_program_are_read(folder):
    write_ptbxl(folder, 2)
    file = folder / "ptbxl_database.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert len(load(folder)) == 2
    file.write_bytes(file.read_bytes().replace(b",", b";"))
    with pytest.raises(CohortError, match="another separator"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sampling_rate": 250}, "500 Hz and 100 Hz"), ({"limit": 0}, "limit of 1")],
)
def test_impossible_options_are_refused(folder, options, message):
    with pytest.raises(CohortError, match=message):
        load(folder, **options)


def test_reading_starts_without_the_libraries_that_few_records_need():
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import data.readers.ptbxl\n"
        "print({'wfdb', 'scipy.signal', 'scipy.stats', 'tensorflow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


real = pytest.mark.skipif(not REAL.is_dir(), reason="the PTB-XL sample is not beside the checkout")


@real
def test_real_records_give_beats_with_the_published_axis(tmp_path):
    cohort = load_ptbxl(REAL, tmp_path, workers=1, limit=60)
    assert len(cohort.excluded) <= 2
    assert cohort.subjects["beat_correlation"].median() > 0.98
    net = cohort.ecg[:, :, 110:190].sum(axis=2)
    axis = np.degrees(np.arctan2(net[:, 5] * 2 / np.sqrt(3), net[:, 0]))
    left = (cohort.subjects["heart_axis"] == "LAD").to_numpy()
    assert left.sum() >= 5
    assert np.median(axis[left]) < 0
    assert np.median(axis[~left]) > 15


@real
def test_real_records_give_the_same_beat_from_100_hz(tmp_path):
    fine, coarse = (load_ptbxl(REAL, tmp_path, rate, workers=1, limit=10) for rate in (500, 100))
    difference = np.abs(fine.ecg - coarse.ecg).mean(axis=(1, 2))
    assert np.median(difference) < 0.015
