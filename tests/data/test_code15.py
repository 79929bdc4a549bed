import h5py
import numpy as np
import pandas as pd
import pytest

from data.beats import median_beat
from data.cohort import Cohort, CohortError
from data.readers.code15 import TracingReader, load_code15
from tests.cohort_columns import reasons
from tests.places import SHARED
from tests.simulated_strips import rhythm_strip

REAL = SHARED / "code15"
DIAGNOSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")


def strip_of(exam):
    """(12, 2934) mV: the 7.3 s at 400 Hz of an exam of this number."""
    return rhythm_strip(55 + exam, 2934 / 400, sampling_rate=400, noise=0.02, seed=exam)


def write_shard(file, exams):
    """Tracings as published: (n, 4096, 12), the strip in the middle, zeros before and after."""
    tracings = np.zeros((len(exams), 4096, 12), np.float32)
    for row, exam in enumerate(exams):
        tracings[row, 581:3515] = strip_of(exam).T
    with h5py.File(file, "w") as opened:
        opened["tracings"], opened["exam_id"] = tracings, np.array(exams, np.int64)


def write_code15(folder, **columns):
    """Exams 1 to 5: 4, 2, 5 in the first file, 3, 1 in the second, and a filling row each."""
    folder.mkdir()
    table = {
        "exam_id": [1, 2, 3, 4, 5],
        "age": [30, 40, 50, 60, 70],
        "is_male": [True, False, True, False, True],
        "patient_id": [11, 12, 13, 12, 15],
        "death": [False, True, False, None, True],
        "timey": [3.5, 1.25, 6.0, None, 0.5],
        "normal_ecg": [True, False, False, False, False],
        "trace_file": [f"exams_part{part}.hdf5" for part in (1, 0, 1, 0, 0)],
        **{name: [False, False, True, False, False] for name in DIAGNOSES},
    }
    pd.DataFrame(table | columns).to_csv(folder / "exams.csv", index=False)
    write_shard(folder / "exams_part0.hdf5", [4, 2, 5, 0])
    write_shard(folder / "exams_part1.hdf5", [3, 1, 0])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "code15"


def load(folder, **options):
    return load_code15(folder, cache=folder.parent / "cache", **({"workers": 1} | options))


def by_exam(cohort, column):
    return cohort.subjects.set_index("subject_id")[column].sort_index().tolist()


def test_each_exam_becomes_the_median_beat_of_its_own_tracing(folder):
    write_code15(folder)
    cohort = load(folder)
    assert list(cohort.subjects["subject_id"]) == ["4", "2", "5", "3", "1"]
    for exam, beat in zip((4, 2, 5, 3, 1), cohort.ecg, strict=True):
        expected = median_beat(strip_of(exam).astype(np.float32), 400).ecg
        np.testing.assert_array_equal(beat, expected)


def test_subjects_are_decoded(folder):
    write_code15(folder)
    cohort = load(folder)
    assert by_exam(cohort, "patient_id") == ["11", "12", "13", "12", "15"]
    assert by_exam(cohort, "age") == [30, 40, 50, 60, 70]
    assert by_exam(cohort, "sex") == ["male", "female", "male", "female", "male"]
    assert by_exam(cohort, "normal_ecg") == [True, False, False, False, False]
    for name in DIAGNOSES:
        assert by_exam(cohort, name) == [False, False, True, False, False]
        assert cohort.subjects[name].dtype == bool


def test_mortality_is_known_with_death_and_a_time_above_zero_or_not_at_all(folder):
    write_code15(folder, death=[0, 1, 1, None, 1], timey=[3.5, 0, -0.5, 2.0, None])
    cohort = load(folder)
    np.testing.assert_array_equal(by_exam(cohort, "time"), [3.5] + [np.nan] * 4)
    np.testing.assert_array_equal(by_exam(cohort, "event"), [0] + [np.nan] * 4)


def test_missing_values_stay_missing(folder):
    write_code15(
        folder,
        age=[None, 40, 50, 60, 70],
        is_male=[True, None, True, True, True],
        normal_ecg=[True, False, None, False, True],
    )
    cohort = load(folder)
    np.testing.assert_array_equal(by_exam(cohort, "age"), [np.nan, 40, 50, 60, 70])
    assert cohort.subjects["sex"].isna().sum() == 1
    np.testing.assert_array_equal(by_exam(cohort, "normal_ecg"), [1, 0, np.nan, 0, 1])


def test_zero_padding_is_removed_and_zeros_within_are_kept(folder):
    write_code15(folder)
    with h5py.File(folder / "exams_part0.hdf5", "r+") as opened:
        opened["tracings"][0, 1000:1010] = 0
        opened["tracings"][0, 581, :11] = 0  # one lead above zero is a recording
    strip = TracingReader(str(folder))(("exams_part0.hdf5", 0)).ecg
    expected = strip_of(4).astype(np.float32)
    expected[:, 1000 - 581 : 1010 - 581] = 0
    expected[:11, 0] = 0
    np.testing.assert_array_equal(strip, expected)


def test_exams_without_a_tracing_are_left_out_with_the_reason(folder):
    write_code15(folder, trace_file=["exams_part1.hdf5", "exams_part7.hdf5", None, "a", "a"])
    cohort = load(folder)
    assert list(cohort.subjects["subject_id"]) == ["1"]
    assert reasons(cohort) == {
        "2": "exams_part7.hdf5 is not there",
        "3": "exams.csv names no file",
        "4": "a is not there",
        "5": "a is not there",
    }


def test_a_file_that_was_not_downloaded_leaves_out_its_exams_until_it_is(folder):
    write_code15(folder)
    (folder / "exams_part1.hdf5").rename(folder.parent / "later.hdf5")
    assert sorted(load(folder).subjects["subject_id"]) == ["2", "4", "5"]
    (folder.parent / "later.hdf5").rename(folder / "exams_part1.hdf5")
    assert len(load(folder)) == 5


def test_exams_that_their_file_lacks_and_empty_tracings_are_left_out(folder):
    write_code15(folder)
    write_shard(folder / "exams_part0.hdf5", [4, 2])
    with h5py.File(folder / "exams_part0.hdf5", "r+") as opened:
        opened["tracings"][0] = 0
    reasons = load(folder).excluded.set_index("subject_id")["reason"]
    assert dict(reasons) == {"4": "tracing of zeros only", "5": "not in exams_part0.hdf5"}


@pytest.mark.parametrize("name", ["../exams_part0.hdf5", "sub/exams_part0.hdf5"])
def test_files_outside_the_folder_are_not_read(folder, name):
    write_code15(folder, trace_file=["exams_part1.hdf5"] + [name] * 4)
    for place in (folder.parent / "exams_part0.hdf5", folder / "sub" / "exams_part0.hdf5"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((folder / "exams_part0.hdf5").read_bytes())
    assert set(load(folder).excluded["reason"]) == {f"{name} is not there"}


ELSEWHERE = {
    "external link": lambda f, name, other: f.__setitem__(name, h5py.ExternalLink(other, name)),
    "soft link": lambda f, name, other: f.__setitem__(name, h5py.SoftLink("/secret")),
    "external storage": lambda f, name, other: f.create_dataset(
        name, f["secret"].shape, f["secret"].dtype, external=[(other, 0, f["secret"].nbytes)]
    ),
    "virtual": lambda f, name, other: f.create_virtual_dataset(name, virtual(f["secret"], other)),
}


def virtual(like, other):
    layout = h5py.VirtualLayout(like.shape, like.dtype)
    layout[:] = h5py.VirtualSource(other, "secret", like.shape)
    return layout


@pytest.mark.parametrize("kind", ELSEWHERE)
@pytest.mark.parametrize("name", ["tracings", "exam_id"])
def test_numbers_of_another_file_are_not_read(folder, kind, name):
    write_code15(folder)
    file, other = folder / "exams_part0.hdf5", folder.parent / "other.hdf5"
    other.write_bytes(file.read_bytes())
    with h5py.File(file, "r+") as opened:
        opened.move(name, "secret")
        ELSEWHERE[kind](opened, name, str(other))
    with pytest.raises(CohortError, match=f"{file.name} cannot be read: '{name}' (is a link|does)"):
        load(folder)
    if name == "tracings":  # nor where the file was exchanged after it was looked at
        with pytest.raises(OSError, match="is a link|does not hold"):
            TracingReader(str(folder))((file.name, 0))


def test_compressed_tracings_are_read(folder):
    write_code15(folder)
    expected = load(folder).ecg
    with h5py.File(folder / "exams_part0.hdf5", "r+") as opened:
        tracings = opened["tracings"][:]
        del opened["tracings"]
        opened.create_dataset("tracings", data=tracings, compression="gzip")
    received = load_code15(folder, folder.parent / "other", workers=1).ecg
    np.testing.assert_array_equal(received, expected)


def test_files_are_closed_after_reading(folder):
    write_code15(folder)
    load(folder)
    with h5py.File(folder / "exams_part0.hdf5", "r+"):
        pass  # refused by HDF5 while the file is open for reading elsewhere in this process


def test_a_limit_takes_exams_that_are_there(folder):
    write_code15(folder)
    (folder / "exams_part0.hdf5").unlink()
    cohort = load(folder, limit=2)
    assert list(cohort.subjects["subject_id"]) == ["3", "1"]
    assert len(cohort.excluded) == 0


def test_another_scale_gives_another_cohort(folder):
    write_code15(folder)
    whole, half = load(folder), load(folder, millivolts_per_unit=0.5)
    np.testing.assert_allclose(half.ecg, whole.ecg / 2, atol=1e-5)


def test_two_processes_give_the_same_cohort_as_one(folder):
    exams = np.arange(1, 131)
    columns = {name: False for name in ("is_male", "normal_ecg", *DIAGNOSES)}
    folder.mkdir()
    pd.DataFrame(
        {"exam_id": exams, "patient_id": exams, "age": 50, "death": True, "timey": 1.0}
        | {"trace_file": "exams_part0.hdf5"}
        | columns
    ).to_csv(folder / "exams.csv", index=False)
    tracings = np.zeros((130, 4096, 12), np.float32)
    tracings[:] = np.pad(strip_of(1).T, ((581, 581), (0, 0)))
    tracings *= np.linspace(0.5, 1.5, 130, dtype=np.float32)[:, None, None]
    with h5py.File(folder / "exams_part0.hdf5", "w") as opened:
        opened["tracings"], opened["exam_id"] = tracings, exams
    two = load(folder, workers=2)
    one = load_code15(folder, folder.parent / "other", workers=1)
    np.testing.assert_array_equal(two.ecg, one.ecg)
    assert len(one) == 130


def test_the_prepared_cohort_is_opened_again_without_the_tracings_being_read(folder, monkeypatch):
    write_code15(folder)
    first = load(folder)
    monkeypatch.setattr(TracingReader, "__call__", lambda *_: pytest.fail("read again"))
    again = load(folder)
    assert isinstance(again, Cohort)
    pd.testing.assert_frame_equal(again.subjects, first.subjects)


def edit(folder, **columns):
    file = folder / "exams.csv"
    pd.read_csv(file).assign(**columns).to_csv(file, index=False)


def truncate(file):
    file.write_bytes(file.read_bytes()[:5000])


def drop_column(folder):
    file = folder / "exams.csv"
    pd.read_csv(file).drop(columns="timey").to_csv(file, index=False)


def swap_axes(folder):
    with h5py.File(folder / "exams_part0.hdf5", "r+") as opened:
        tracings = opened["tracings"][:].transpose(0, 2, 1)
        del opened["tracings"]
        opened["tracings"] = tracings


def remove_tracings(folder):
    with h5py.File(folder / "exams_part0.hdf5", "r+") as opened:
        del opened["tracings"]


def remove_files(folder):
    for file in folder.glob("*.hdf5"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "exams.csv").unlink(), "exams.csv is not there. Expected the folder"),
        (drop_column, r"lacks the columns \['timey'\]"),
        (remove_files, r"None of the 2 files .* Unpack exams_part\*.zip"),
        (lambda f: truncate(f / "exams_part0.hdf5"), "exams_part0.hdf5 cannot be read"),
        (remove_tracings, "exams_part0.hdf5 cannot be read"),
        (swap_axes, r"shape \(4, T, 12\) .* Received: \(4, 12, 4096\)"),
        (lambda f: edit(f, age=["30", "40", "old", "60", "70"]), "age of '3'. Received: 'old'"),
        (lambda f: edit(f, death=[0, 0, 0, 2, 0]), "0 or 1 as death of '4'. Received: '2'"),
        (lambda f: edit(f, is_male=list("10MF1")), "is_male of '3'. Received: 'M'"),
        (lambda f: edit(f, exam_id=[1, 2, 3, 3, 5]), "stands twice"),
    ],
)
def test_a_damaged_folder_gives_one_error_that_names_the_culprit(folder, damage, message):
    write_code15(folder)
    damage(folder)
    with pytest.raises(CohortError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit of 1"),
        ({"millivolts_per_unit": 0}, "above 0"),
        ({"millivolts_per_unit": float("nan")}, "above 0"),
    ],
)
def test_impossible_options_are_refused(folder, options, message):
    with pytest.raises(CohortError, match=message):
        load(folder, **options)


real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the CODE-15% sample is not beside the checkout"
)


@real
def test_real_exams_give_beats_at_the_heart_rate_of_their_diagnosis(tmp_path):
    cohort = load_code15(REAL, tmp_path, workers=1)
    assert len(cohort) == 10
    assert cohort.subjects["beat_correlation"].min() > 0.95
    rate = cohort.subjects["heart_rate"]
    assert (rate[cohort.subjects["SB"]] < 60).all()
    assert (rate[cohort.subjects["ST"]] > 100).all()
    assert not (cohort.subjects[["SB", "ST"]].all(axis=1)).any()
    assert cohort.subjects["SB"].sum() == cohort.subjects["ST"].sum() == 2


@real
def test_real_exams_have_mortality_in_seven_of_ten(tmp_path):
    subjects = load_code15(REAL, tmp_path, workers=1).subjects
    assert subjects["time"].notna().sum() == 7
    assert subjects["event"].sum() == 1
    assert subjects.loc[subjects["event"] == 1, "time"].item() == 1.208218
