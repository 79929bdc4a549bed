"""The data contract: what is refused and how it is said, the split by patient, prepared folders."""

import json
import tempfile
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import DataConfig
from data import Cohort, CohortError, load_cohort
from data.cohort import FORMAT_VERSION, LEADS, derive_leads
from data.synthetic import simulate


def beats(n=6, samples=30, seed=0):
    """Noise with the amplitude of an ECG in mV."""
    independent = np.random.default_rng(seed).normal(0, 0.5, (n, 8, samples))
    return derive_leads(independent.astype(np.float32))


def cohort(n=6, **columns):
    table = {"subject_id": [f"{number:03d}" for number in range(n)], **columns}
    return Cohort(beats(n), pd.DataFrame(table), source="noise")


def subjects(**columns):
    return pd.DataFrame({"subject_id": list("abcdef"), **columns})


# --- what is refused ----------------------------------------------------------------------------


def spoilt(change):
    ecg = beats()
    change(ecg)
    return ecg


@pytest.mark.parametrize(
    ("ecg", "message"),
    [
        (beats().transpose(0, 2, 1), r"Received: \(6, 30, 12\). Are leads and samples swapped\?"),
        (beats(5), r"Received: \(5, 12, 30\). .*one recording per row of subjects"),
        (beats()[:, :8], r"shape \(6, 12, T\). Received: \(6, 8, 30\)"),
        (beats()[..., None], r"Received: \(6, 12, 30, 1\). Drop the last axis"),
        (beats()[0], r"Received: \(12, 30\)"),
        (beats()[..., :0], r"Received: \(6, 12, 0\)"),
        (beats().astype(np.float64), "dtype float32 in mV. Received: float64"),
        (beats() * 1000, "median peak-to-peak amplitude.*microvolts.*Divide by 1000"),
        (beats() / 1000, "median peak-to-peak amplitude.*volts or normalised.*Convert them to mV"),
        (spoilt(lambda ecg: ecg[3, 7].fill(np.nan)), "ECG 'd' has NaN.*lead V2.*Leave the rec"),
        (spoilt(lambda ecg: ecg[5, 0, 2:3].fill(-np.inf)), "ECG 'f' has NaN or infinite.*lead I"),
        (spoilt(lambda ecg: ecg[2].fill(0.1)), "ECG 'c' has a peak-to-peak amplitude of 0 mV: fl"),
        (spoilt(lambda ecg: ecg.__setitem__(4, ecg[4] * 1000)), "ECG 'e' has .* in another unit"),
        (spoilt(lambda ecg: ecg.__setitem__(1, ecg[1] / 1000)), "ECG 'b' has .* in another unit"),
    ],
)
def test_ecgs_that_break_the_contract_are_refused_with_the_record_and_a_hint(ecg, message):
    with pytest.raises(CohortError, match=message):
        Cohort(ecg, subjects())


def test_the_record_is_named_beyond_the_first_chunk():
    ecg = np.tile(beats(1, samples=2), (5000, 1, 1))
    ecg[4500, 11, 1] = np.nan
    table = pd.DataFrame({"subject_id": range(5000)})
    with pytest.raises(CohortError, match="ECG '4500' has NaN.*lead V6"):
        Cohort(ecg, table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (subjects().iloc[:0], "at least one subject"),
        (subjects().rename(columns={"subject_id": "id"}), r"column `subject_id`.*\['id'\]"),
        (subjects(subject_id=["a", "b", None, "d", "e", "f"]), "Row 2 .* no subject_id. Fill it"),
        (subjects(subject_id=["a", "", "c", "d", "e", "f"]), "Row 1 .* no subject_id"),
        (subjects(patient_id=[1, 2, 3, np.nan, 5, 6]), "Row 3 .* no patient_id"),
        (subjects(subject_id=list("abcdbf")), r"subject_id 'b' stands twice \(again in row 4\)"),
        (subjects(subject_id=[1.0, 2, 3, 4, 5, 1]), "subject_id '1' stands twice"),
    ],
)
def test_subjects_that_break_the_contract_are_refused_with_the_row(table, message):
    with pytest.raises(CohortError, match=message):
        Cohort(beats(), table)


def test_truth_must_have_a_row_for_each_subject():
    with pytest.raises(CohortError, match="truth of 6 rows. Received: 5"):
        Cohort(beats(), subjects(), truth=pd.DataFrame({"qrs": range(5)}))


def test_ids_become_text_and_lose_the_decimal_point_that_a_gap_once_gave_them():
    made = Cohort(beats(), subjects(subject_id=range(6), patient_id=[1.0, 2, 3, 15709, 5, 6]))
    assert made.subjects["subject_id"].tolist() == list("012345")
    assert made.subjects["patient_id"][3] == "15709"


def test_without_patients_each_recording_is_one_and_the_given_table_stays_as_it_was():
    table = subjects().set_index(pd.Index(range(10, 16)))
    made = Cohort(beats(), table)
    assert made.subjects["patient_id"].tolist() == made.subjects["subject_id"].tolist()
    assert made.subjects.index.tolist() == list(range(6))
    assert list(table.columns) == ["subject_id"]


def test_other_leads_and_lengths_are_welcome_where_they_are_named():
    made = Cohort(beats()[:, :2], subjects(), leads=["I", "II"], sampling_rate=250)
    assert made.leads == ("I", "II")


def test_rows_are_taken_by_number_and_by_mask_in_all_tables():
    whole = cohort(age=np.arange(6.0))
    whole.truth = pd.DataFrame({"qrs": np.arange(6) * 10})
    part = whole.take([4, 1])
    assert part.subjects["age"].tolist() == [4, 1]
    assert part.truth["qrs"].tolist() == [40, 10]
    assert part.subjects.index.tolist() == [0, 1]
    np.testing.assert_array_equal(part.ecg, whole.ecg[[4, 1]])
    masked = whole.take(np.array([False, True, False, False, True, False]))
    assert masked.subjects["age"].tolist() == [1, 4]
    assert len(whole.take([])) == 0


# --- split by patient ---------------------------------------------------------------------------


def marked(patients, **columns):
    """A cohort whose ECGs carry their row number."""
    ecg = np.zeros((len(patients), 12, 2), np.float32)
    ecg[:, 0, 0] = 1 + np.arange(len(patients)) / 1000
    table = {"subject_id": range(len(patients)), "patient_id": patients, **columns}
    return Cohort(ecg, pd.DataFrame(table))


def patients_of(split):
    return [set(part.subjects["patient_id"]) for part in split]


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 30), min_size=10, max_size=80).filter(
        lambda patients: len(set(patients)) >= 5
    ),
    validation=st.floats(0.05, 0.35),
    test=st.floats(0.05, 0.35),
    seed=st.integers(0, 2**31),
)
def test_every_recording_is_in_one_part_and_no_patient_in_two(patients, validation, test, seed):
    split = marked(patients).split(validation, test, seed)
    train_patients, validation_patients, test_patients = patients_of(split)
    assert not train_patients & validation_patients
    assert not train_patients & test_patients
    assert not validation_patients & test_patients
    rows = [set(part.subjects["subject_id"]) for part in split]
    assert set.union(*rows) == {str(row) for row in range(len(patients))}
    assert sum(map(len, rows)) == len(patients)
    n = len(set(patients))
    assert len(test_patients) == max(1, round(n * test))
    assert len(validation_patients) == max(1, round(n * validation))
    for part in split:  # ECGs and subjects stay side by side
        expected = 1 + part.subjects["subject_id"].astype(int) / 1000
        np.testing.assert_allclose(part.ecg[:, 0, 0], expected, rtol=1e-6)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_rows():
    patients = [f"p{number % 40}" for number in range(100)]
    first = patients_of(marked(patients).split(seed=1))
    assert patients_of(marked(patients).split(seed=1)) == first
    assert patients_of(marked(patients[::-1]).split(seed=1)) == first
    assert patients_of(marked(patients).split(seed=2)) != first


def test_each_patient_is_as_likely_to_be_tested_as_any_other():
    whole = marked(range(20))
    counts = np.zeros(20)
    for seed in range(400):
        for patient in patients_of(whole.split(0.1, 0.2, seed))[2]:
            counts[int(patient)] += 1
    # Binomial(400, 0.2): mean 80, SD 8.
    assert counts.sum() == 400 * 4
    assert np.abs(counts - 80).max() < 4 * 8


def test_folds_divide_as_ptbxl_recommends():
    fold = np.array([1, 8, 9, 10, 3, 9, 10, 10])
    split = marked(range(8), fold=fold).split(by_fold=True)
    assert [part.subjects["fold"].tolist() for part in split] == [[1, 8, 3], [9, 9], [10, 10, 10]]


def test_a_patient_may_have_several_training_folds_but_no_two_parts():
    marked([0, 0, 1, 2], fold=[1, 2, 9, 10]).split(by_fold=True)
    with pytest.raises(CohortError, match="Patient '0' is in two parts of the split.*folds must"):
        marked([0, 0, 1, 2], fold=[1, 9, 9, 10]).split(by_fold=True)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, {"by_fold": True}, 'column `fold` without gaps.*data.split to "random"'),
        ({"fold": [1, 9, 10, np.nan]}, {"by_fold": True}, "column `fold` without gaps"),
        ({"fold": [1, 2, 9, 8]}, {"by_fold": True}, "The test part .* empty: .*folds 1-8, 9"),
        ({}, {"validation": 0}, "above 0 with a sum below 1. Received: 0 and 0.1"),
        ({}, {"test": 1.0}, "above 0 with a sum below 1"),
        ({}, {"test": float("nan")}, "above 0 with a sum below 1"),
        ({}, {"validation": 0.6, "test": 0.4}, "above 0 with a sum below 1"),
        ({}, {"validation": 0.5, "test": 0.49}, "train part.*empty: 4 recordings of 4 patients"),
        ({"patient_id": [7, 7, 8, 8]}, {}, "4 recordings of 2 patients.*at least three patients"),
        ({"patient_id": [7, 7, 7, 7]}, {}, "4 recordings of 1 patients.*at least three patients"),
    ],
)
def test_a_division_that_cannot_be_is_refused(columns, arguments, message):
    table = pd.DataFrame({"subject_id": range(4), **columns})
    with pytest.raises(CohortError, match=message):
        Cohort(beats(4), table).split(**arguments)


def test_the_shares_are_those_of_a_run_unless_others_are_given():
    run = DataConfig()
    plain, as_in_a_run = (
        patients_of(marked(range(40)).split(*shares))
        for shares in ((), (run.validation_fraction, run.test_fraction, run.seed))
    )
    assert plain == as_in_a_run


def test_three_patients_are_enough():
    assert [len(part) for part in marked([0, 1, 2]).split()] == [1, 1, 1]


# --- prepared folders ---------------------------------------------------------------------------


def assert_same(opened, saved):
    np.testing.assert_array_equal(opened.ecg, saved.ecg)
    pd.testing.assert_frame_equal(opened.subjects, saved.subjects, check_exact=True)
    pd.testing.assert_frame_equal(opened.excluded, saved.excluded, check_dtype=False)
    assert (opened.source, opened.leads) == (saved.source, saved.leads)
    assert opened.sampling_rate == saved.sampling_rate


def test_a_prepared_folder_gives_back_what_was_saved(tmp_path):
    made = cohort(
        patient_id=["007", "007", "1e5", "1.0", "0x1", "+5"],
        age=[40.5, np.nan, 1 / 3, 0.1, 1e-300, 90],
        sex=["female", None, "male", "NA", "null", 'a, "b"\n c'],
        fold=[1, 2, 3, 4, 9, 10],
        event=[True, False, True, True, False, False],
        site=["01", "02", "03", "04", "05", None],
    )
    made.excluded = pd.DataFrame({"subject_id": ["099", "NA"], "reason": ["lead V1 is flat"] * 2})
    made.truth = pd.DataFrame({"qrs": [0.1, 0.2, 1 / 3, np.nan, 5, 6]})
    made.sampling_rate = 250.0
    made.save(tmp_path / "folder")
    opened = Cohort.open(tmp_path / "folder")
    assert_same(opened, made)
    pd.testing.assert_frame_equal(opened.truth, made.truth, check_exact=True)
    description = json.loads((tmp_path / "folder" / "cohort.json").read_text("utf-8"))
    assert description["excluded"] == {"lead V1 is flat": 2}
    assert description["unit"] == "mV"
    assert description["leads"] == list(LEADS)


def test_the_unit_goes_with_the_ecgs(tmp_path):
    made = cohort()
    made = Cohort(5 * made.ecg, made.subjects, unit="standardised")
    made.save(tmp_path)
    opened = Cohort.open(tmp_path)
    assert (opened.unit, opened.take([0]).unit) == ("standardised", "standardised")
    assert {part.unit for part in opened.split(0.2, 0.2)} == {"standardised"}
    file = tmp_path / "cohort.json"
    description = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(description | {"unit": "uV"}), "utf-8")
    with pytest.raises(CohortError, match="is in 'uV'. Expected mV or standardised"):
        Cohort.open(tmp_path)
    with pytest.raises(CohortError, match="Expected a unit among .*standardised.*Received: 'uV'"):
        Cohort(made.ecg, made.subjects, unit="uV")


@pytest.mark.parametrize("factor", [1000, 0.001])
def test_standardised_ecgs_are_held_against_no_millivolts_but_make_sense(factor):
    ecg, subjects = cohort().ecg, cohort().subjects
    with pytest.raises(CohortError, match="Expected ECGs in standardised units.*another unit"):
        Cohort(np.float32(factor) * 5 * ecg, subjects, unit="standardised")
    loud = np.float32(60 / np.ptp(ecg, axis=2).max()) * ecg  # too much for mV
    with pytest.raises(CohortError, match="Expected ECGs in mV"):
        Cohort(np.repeat(loud[:1], len(ecg), axis=0), subjects)
    Cohort(np.repeat(loud[:1], len(ecg), axis=0), subjects, unit="standardised")


def test_text_in_a_pandas_type_of_its_own_stays_text(tmp_path):
    codes = ["01", "02", "01", "03", "02", "01"]
    made = cohort(site=pd.Categorical(codes), ward=pd.array(codes, dtype="string"))
    made.save(tmp_path)
    opened = Cohort.open(tmp_path).subjects
    assert opened["site"].tolist() == opened["ward"].tolist() == codes


PRINTABLE = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(
        st.one_of(PRINTABLE, st.from_regex(r"0*\d+\.?0?", fullmatch=True)),
        min_size=3,
        max_size=6,
        unique=True,
    ),
    numbers=st.data(),
)
def test_any_ids_and_numbers_survive_saving(ids, numbers):
    n = len(ids)
    values = numbers.draw(st.lists(st.floats(allow_infinity=False), min_size=n, max_size=n))
    made = Cohort(beats(n), pd.DataFrame({"subject_id": ids, "value": values}))
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        assert_same(Cohort.open(folder), made)


def test_opened_ecgs_stay_on_disk_and_cannot_be_written(tmp_path):
    cohort().save(tmp_path)
    opened = Cohort.open(tmp_path)
    assert isinstance(opened.ecg, np.memmap)
    assert Path(opened.ecg.filename) == tmp_path / "ecg.npy"
    with pytest.raises(ValueError, match="read-only"):
        opened.ecg[0, 0, 0] = 1


def test_an_opened_cohort_can_be_saved_over_itself(tmp_path):
    made = cohort()
    made.save(tmp_path)
    opened = Cohort.open(tmp_path)
    opened.subjects["age"] = 50.0
    opened.save(tmp_path)
    again = Cohort.open(tmp_path)
    np.testing.assert_array_equal(again.ecg, made.ecg)
    assert (again.subjects["age"] == 50).all()


def test_nothing_of_an_earlier_cohort_stays_behind(tmp_path):
    first = cohort()
    first.truth = pd.DataFrame({"qrs": range(6)})
    first.save(tmp_path)
    cohort(age=[1, 2, 3, 4, 5, 6]).save(tmp_path)
    assert Cohort.open(tmp_path).truth is None


def test_texts_may_have_line_breaks_quotes_and_commas(tmp_path):
    notes = ["a\rb", "c\r\nd", 'e "f"', "g,h\n", " 00", None]
    saved = cohort(note=notes, flag=[True, False] * 3, size=[0.1, None, 1e-300, 2, 3, 4])
    saved.excluded = pd.DataFrame({"subject_id": ["x"], "reason": ["no\rbeat"]}, dtype=object)
    saved.save(tmp_path)
    opened = Cohort.open(tmp_path)
    pd.testing.assert_frame_equal(opened.subjects, saved.subjects.replace({"note": {None: np.nan}}))
    pd.testing.assert_frame_equal(opened.excluded, saved.excluded)


@pytest.mark.parametrize("text", ["a\0b", "a\udcff"])
def test_texts_that_no_table_can_hold_are_refused(text):
    with pytest.raises(CohortError, match="note of record '001' has characters.*Take them out"):
        cohort(subject_id=[f"{k:03d}" for k in range(6)], note=["x", text, *"abcd"])


def test_an_interrupted_save_is_no_prepared_cohort(tmp_path, monkeypatch):
    def killed(self, target):
        if self.name == "subjects.csv.partial":
            raise KeyboardInterrupt
        return replace(self, target)

    cohort().save(tmp_path)
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cohort(5).save(tmp_path)
    with pytest.raises(CohortError, match="cohort.json is missing.*interrupted.*Prepare it again"):
        Cohort.open(tmp_path)


def rewrite(**changes):
    def change(folder):
        file = folder / "cohort.json"
        description = json.loads(file.read_text("utf-8")) | changes
        kept = {name: value for name, value in description.items() if value is not None}
        file.write_text(json.dumps(kept), encoding="utf-8")

    return change


def replaced(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    def change(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:size])

    return change


def pickled(folder):
    np.save(folder / "ecg.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def zipped(folder):
    with (folder / "ecg.npy").open("wb") as file:
        np.savez(file, ecg=beats())


@pytest.mark.parametrize(
    "damage",
    [
        cut("ecg.npy", -100),
        cut("ecg.npy", 0),
        cut("ecg.npy", 20),
        pickled,
        zipped,
        lambda folder: (folder / "ecg.npy").unlink(),
        cut("subjects.csv", 0),
        replaced("subjects.csv", b"\xff\xfe\x00"),
        replaced("subjects.csv", b'subject_id\n"000\n'),
        lambda folder: (folder / "subjects.csv").unlink(),
        lambda folder: (folder / "excluded.csv").unlink(),
        cut("cohort.json", 0),
        cut("cohort.json", 40),
        replaced("cohort.json", b"[]"),
        replaced("cohort.json", b"\xff"),
        rewrite(format_version="1"),
        rewrite(format_version=None),
        rewrite(source=None),
        rewrite(leads=5),
        rewrite(leads=None),
        rewrite(sampling_rate=None),
        rewrite(text_columns=5),
    ],
)
def test_a_damaged_folder_is_one_error_that_names_it(tmp_path, damage):
    cohort().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CohortError) as caught:
        Cohort.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "is damaged" in str(caught.value)
    assert "prepare it again" in str(caught.value)


def test_tables_and_ecgs_of_different_sizes_are_refused(tmp_path):
    cohort().save(tmp_path)
    file = tmp_path / "subjects.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CohortError, match=r"Expected ecg of shape \(5, 12, T\)"):
        Cohort.open(tmp_path)


def test_a_folder_from_a_newer_version_says_so(tmp_path):
    cohort().save(tmp_path)
    rewrite(format_version=FORMAT_VERSION + 1)(tmp_path)
    with pytest.raises(CohortError, match="prepared by a newer version.*Update the code"):
        Cohort.open(tmp_path)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_a_cohort_is_refused(tmp_path, folder):
    with pytest.raises(CohortError, match="is no prepared cohort: cohort.json is missing"):
        Cohort.open(tmp_path / folder)


# --- load_cohort --------------------------------------------------------------------------------


def test_a_prepared_folder_is_loaded_by_its_path(tmp_path):
    table = pd.DataFrame({"subject_id": list("abcdef"), "age": np.arange(6.0)})
    made = Cohort(simulate(20, seed=1).ecg[:6], table, source="simulated")
    made.save(tmp_path)
    assert_same(load_cohort(DataConfig(source="prepared", path=tmp_path)), made)


def test_arrays_are_loaded_with_the_names_of_the_conditions(tmp_path):
    ecg = simulate(20, seed=1).ecg[:6]
    np.save(tmp_path / "ecg.npy", ecg)
    np.save(tmp_path / "conditions.npy", np.arange(12.0).reshape(6, 2))
    made = load_cohort(DataConfig(source="arrays", path=tmp_path, conditions=("age", "bmi")))
    np.testing.assert_array_equal(made.ecg, ecg)
    assert made.subjects["bmi"].tolist() == [1, 3, 5, 7, 9, 11]


def test_the_simulated_cohort_has_the_size_and_the_seed_of_the_settings():
    one, same, other = (load_cohort(DataConfig(subjects=20, seed=seed)) for seed in (3, 3, 4))
    assert len(one) == 20
    np.testing.assert_array_equal(one.ecg, same.ecg)
    assert not np.array_equal(one.ecg, other.ecg)


@pytest.mark.parametrize(("workers", "given"), [(3, 3), (0, None)])
def test_ptbxl_is_read_with_the_cache_rate_and_workers_of_the_settings(
    tmp_path, monkeypatch, workers, given
):
    made = cohort()
    seen = []
    monkeypatch.setattr(
        "data.readers.ptbxl.load_ptbxl", lambda *arguments, **_: seen.append(arguments) or made
    )
    settings = DataConfig(
        source="ptbxl", path=tmp_path, cache=Path("beats"), sampling_rate=100, workers=workers
    )
    assert load_cohort(settings) is made
    assert seen == [(tmp_path, Path("beats"), 100, given)]


SOURCES = get_args(get_type_hints(DataConfig)["source"])


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "synthetic"])
def test_a_path_that_is_not_there_is_named(tmp_path, source):
    with pytest.raises(CohortError, match="data.path: .*nowhere is not there. Give --data.path"):
        load_cohort(DataConfig(source=source, path=tmp_path / "nowhere"))
