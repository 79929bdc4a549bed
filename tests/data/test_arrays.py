import numpy as np
import pandas as pd
import pytest

from data.cohort import CohortError, independent_leads
from data.readers.arrays import load_arrays
from tests.simulated_strips import beat

ECG = np.stack([beat((np.arange(400) - 150) / 500) * scale for scale in (0.8, 1.0, 1.2)])
ECG = ECG.astype(np.float32)
TABLE = pd.DataFrame({"age": [50.0, np.nan, 70.0], "sex": ["female", "male", None]})


def folder(path, ecg=ECG, table=TABLE, name="subjects.csv"):
    np.save(path / "ecg.npy", ecg)
    if table is not None:
        table.to_csv(path / name, index=False)
    return path


@pytest.mark.parametrize("name", ["subjects.csv", "conditions.csv"])
def test_a_folder_of_an_array_and_a_table_is_read(tmp_path, name):
    cohort = load_arrays(folder(tmp_path, name=name))
    np.testing.assert_array_equal(cohort.ecg, ECG)
    assert isinstance(cohort.ecg, np.memmap)
    assert list(cohort.subjects["subject_id"]) == ["0", "1", "2"]
    np.testing.assert_array_equal(cohort.subjects["age"], TABLE["age"])
    assert cohort.subjects["sex"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    "ecg",
    [ECG[..., None], ECG.astype(np.float64), ECG.astype(">f4"), np.asfortranarray(ECG)],
    ids=["published shape", "float64", "big-endian", "Fortran order"],
)
def test_equal_arrays_of_other_layouts_are_read(tmp_path, ecg):
    cohort = load_arrays(folder(tmp_path, ecg))
    np.testing.assert_array_equal(cohort.ecg, ECG)
    assert cohort.ecg.dtype == np.float32


def test_eight_leads_are_completed_by_einthoven(tmp_path):
    cohort = load_arrays(folder(tmp_path, independent_leads(ECG)))
    np.testing.assert_allclose(cohort.ecg, ECG, atol=1e-6)


def test_an_array_of_conditions_is_read_with_the_names_given(tmp_path):
    folder(tmp_path, table=None)
    np.save(tmp_path / "conditions.npy", [[50, 0], [60, 1], [70, 1]])
    cohort = load_arrays(tmp_path, names=("age", "female"))
    assert list(cohort.subjects["age"]) == [50, 60, 70]
    with pytest.raises(CohortError, match=r"shape \(N, 1\) for the names \['age'\]"):
        load_arrays(tmp_path, names=("age",))


def test_one_file_holds_ecg_and_columns(tmp_path):
    np.savez(tmp_path / "all.npz", ecg=ECG, age=[1, 2, 3], subject_id=np.array(["a", "b", "c"]))
    cohort = load_arrays(tmp_path / "all.npz")
    assert list(cohort.subjects["subject_id"]) == ["a", "b", "c"]
    assert list(cohort.subjects["age"]) == [1, 2, 3]


def test_ecgs_alone_are_a_cohort_and_that_no_patient_is_named_is_said(tmp_path, capsys):
    assert len(load_arrays(folder(tmp_path, table=None))) == 3
    assert "each recording counts as a patient of its own" in capsys.readouterr().out
    load_arrays(folder(tmp_path, table=TABLE.assign(patient_id=["p", "p", "q"])))
    assert not capsys.readouterr().out
    np.savez(tmp_path / "all.npz", ecg=ECG)
    assert len(load_arrays(tmp_path / "all.npz")) == 3


def gap():
    ecg = ECG.copy()
    ecg[1, 4, 9] = np.nan
    return ecg


@pytest.mark.parametrize(
    ("ecg", "message"),
    [
        (ECG.transpose(0, 2, 1), "leads and samples swapped"),
        (ECG[:, :11], r"Expected ecg of shape \(N, 12, T\)"),
        (ECG[0], r"Expected ecg of shape \(N, 12, T\)"),
        (1000 * ECG, "look like microvolts"),
        (ECG / 1000, "look like volts"),
        ((1000 * ECG).astype(np.int16), "divided by the gain"),
        (gap(), "ECG '1' has NaN or infinite values in lead aVL"),
        (ECG[:2], r"Expected ecg of shape \(3, 12, T\)"),
        (np.full(3, None), "Python objects are refused"),
    ],
)
def test_arrays_that_break_the_contract_are_refused(tmp_path, ecg, message):
    with pytest.raises(CohortError, match=message):
        load_arrays(folder(tmp_path, ecg))


def test_leads_in_another_order_in_most_ecgs_are_refused(tmp_path):
    odd = ECG.copy()
    odd[0] = ECG[0, ::-1]
    assert len(load_arrays(folder(tmp_path, odd))) == 3
    odd[2] = ECG[2, ::-1]
    with pytest.raises(CohortError, match="do not follow from I and II in most of the 3 ECGs"):
        load_arrays(folder(tmp_path, odd))


def test_an_empty_or_odd_place_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"ecg\.npy is not there"):
        load_arrays(tmp_path)
    with pytest.raises(CohortError, match="neither a folder"):
        load_arrays(tmp_path / "nothing")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(CohortError, match="cannot be read"):
        load_arrays(tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", x=ECG)
    with pytest.raises(CohortError, match="no array `ecg`"):
        load_arrays(tmp_path / "other.npz")
    np.savez(tmp_path / "short.npz", ecg=ECG, age=[1, 2, 3], bmi=[1, 2])
    with pytest.raises(CohortError, match="one value per ECG"):
        load_arrays(tmp_path / "short.npz")


def test_a_truncated_array_or_an_unreadable_table_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "ecg.npy").write_bytes((tmp_path / "ecg.npy").read_bytes()[:5000])
    with pytest.raises(CohortError, match=r"ecg\.npy cannot be read"):
        load_arrays(tmp_path)
    folder(tmp_path)
    (tmp_path / "subjects.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CohortError, match=r"subjects\.csv cannot be read"):
        load_arrays(tmp_path)


@pytest.mark.parametrize(("mark", "called"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_table_with_other_marks_than_commas_is_refused(tmp_path, mark, called):
    folder(tmp_path)
    text = (tmp_path / "subjects.csv").read_text()
    (tmp_path / "subjects.csv").write_text(text.replace(",", mark))
    with pytest.raises(CohortError, match=f"has {called} between its columns"):
        load_arrays(tmp_path)
