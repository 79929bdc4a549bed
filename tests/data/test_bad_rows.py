"""A bad row of a table costs that row; what was prepared is not prepared again."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from config import PRESETS
from data import load_cohort
from data.bad_rows import BadRows
from data.cohort import Cohort, CohortError
from data.outcomes import join_outcomes
from data.readers import ptbxl
from data.readers.code15 import load_code15
from data.readers.ptbxl import load_ptbxl
from data.readers.ukbiobank import load_ukbiobank
from tests.cohort_columns import reasons
from tests.data.test_code15 import write_code15
from tests.data.test_ukbiobank import recording
from tests.simulated_strips import write_ptbxl

N = 24  # one bad row is 4%, two are 8%


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "ptbxl"
    write_ptbxl(folder, N)
    return folder, (folder / "ptbxl_database.csv").read_text()


@pytest.fixture
def folder(written):
    folder, text = written
    (folder / "ptbxl_database.csv").write_text(text)
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Names of the records that are read."""
    names, real = [], ptbxl.read_16_bit
    monkeypatch.setattr(
        ptbxl, "read_16_bit", lambda path: names.append(int(path.name[:5])) or real(path)
    )
    return names


def edit(folder, **cells):
    """Column -> {row: text}."""
    file = folder / "ptbxl_database.csv"
    table = pd.read_csv(file, dtype=str)
    for column, values in cells.items():
        for row, text in values.items():
            table.loc[row, column] = text
    table.to_csv(file, index=False)


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("patient_id", None, "no patient_id"),
        ("scp_codes", None, "scp_codes are no dictionary of statements"),
        ("scp_codes", "[1", "scp_codes are no dictionary of statements"),
        ("age", "sixty", "age is not a number"),
        ("sex", "7", "sex is not 0 or 1"),
        ("strat_fold", "x", "strat_fold is not a number"),
        ("filename_hr", None, "no filename_hr"),
    ],
)
def test_a_bad_row_of_ptbxl_is_left_out_unread(folder, tmp_path, opened, column, text, reason):
    edit(folder, **{column: {3: text}})
    cohort = load_ptbxl(folder, tmp_path, workers=1)
    assert reasons(cohort) == {"4": reason}
    assert len(cohort) == N - 1
    assert 4 not in opened


def test_a_mended_table_reads_only_what_was_left_out(folder, tmp_path, opened):
    edit(folder, scp_codes={3: None}, age={5: "61"})
    before = load_ptbxl(folder, tmp_path, workers=1)
    opened.clear()
    edit(folder, scp_codes={3: "{'NORM': 100.0}"}, age={5: "62"}, sex={6: "1"})
    after = load_ptbxl(folder, tmp_path, workers=1)
    assert opened == [4]
    assert reasons(after) == {}
    np.testing.assert_array_equal(np.delete(np.asarray(after.ecg), 3, 0), before.ecg)
    assert after.subjects["age"][5] == 62
    assert list(after.subjects["subject_id"]) == [str(number) for number in range(1, N + 1)]
    opened.clear()
    whole = load_ptbxl(folder, tmp_path / "anew", workers=1)
    assert len(opened) == N
    np.testing.assert_array_equal(after.ecg, whole.ecg)
    pd.testing.assert_frame_equal(after.subjects, whole.subjects)


def test_a_change_of_the_table_goes_on_with_what_was_interrupted(folder, tmp_path, monkeypatch):
    real, names = ptbxl.read_16_bit, []

    def interrupted(path):
        names.append(path.name)
        if len(names) == 9:
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(ptbxl, "read_16_bit", interrupted)
        patch.setattr(ptbxl, "prepare", partial(ptbxl.prepare, shard_size=4))
        with pytest.raises(KeyboardInterrupt):
            load_ptbxl(folder, tmp_path, workers=1)
    edit(folder, age={5: "62"})
    names.clear()
    monkeypatch.setattr(ptbxl, "read_16_bit", lambda path: names.append(path.name) or real(path))
    assert len(load_ptbxl(folder, tmp_path, workers=1)) == N
    assert len(names) == N - 8


def test_many_bad_rows_are_a_bad_table(folder, tmp_path, opened):
    edit(folder, age={3: "sixty", 4: "x"})
    with pytest.raises(
        CohortError, match=r"age of '4'. Received: 'sixty'. 2 of 24 rows of ptbxl.*up to 5%"
    ):
        load_ptbxl(folder, tmp_path, workers=1)
    assert opened == []


def test_ids_that_are_missing_or_stand_twice_are_left_out_by_their_lines(folder, tmp_path):
    table = pd.read_csv(folder / "ptbxl_database.csv", dtype=str)
    table = pd.concat([table, table, table]).reset_index(drop=True)
    table["ecg_id"] = range(1, len(table) + 1)
    table.loc[5, "ecg_id"] = None
    table.loc[[7, 8], "ecg_id"] = 8
    table.to_csv(folder / "ptbxl_database.csv", index=False)
    cohort = load_ptbxl(folder, tmp_path, workers=1)
    assert reasons(cohort) == {
        "none (line 7)": "no ecg_id",
        "8 (line 9)": "ecg_id stands twice",
        "8 (line 10)": "ecg_id stands twice",
    }
    assert len(cohort) == 3 * N - 3


def test_a_bad_exam_of_code15_is_left_out(tmp_path):
    folder = tmp_path / "code15"
    write_code15(folder)
    file = folder / "exams.csv"
    table = pd.read_csv(file, dtype=str)
    row = table.iloc[0].copy()
    row["trace_file"] = "elsewhere.hdf5"
    more = pd.DataFrame([row.copy() for _ in range(30)])
    more["exam_id"] = range(9000, 9030)
    table.loc[1, "age"] = "old"
    pd.concat([table, more]).to_csv(file, index=False)
    cohort = load_code15(folder, tmp_path / "cache", workers=1)
    assert reasons(cohort)[table["exam_id"][1]] == "age is not a number"
    assert table["exam_id"][0] in set(cohort.subjects["subject_id"])


def test_a_bad_participant_of_uk_biobank_is_left_out(tmp_path):
    folder = tmp_path / "ukb"
    for name in ("1000011_20205_2_0.xml", "1000022_20205_2_0.xml", "1000033_20205_2_0.xml"):
        recording(folder, name)
    rows = "".join(f"{number},0,60\n" for number in range(2000000, 2000060))
    text = "eid,sex,age\n1000011,0,61\n1000022,2,55\nx,1,50\n1000033,0,50\n1000033,0,51\n"
    (folder / "subjects.csv").write_text(text + rows)
    with pytest.raises(CohortError, match="up to 5%"):
        load_ukbiobank(folder, tmp_path / "cache", workers=1)
    (folder / "subjects.csv").write_text(text + rows + rows.replace("20000", "30000"))
    cohort = load_ukbiobank(folder, tmp_path / "cache", workers=1)
    assert list(cohort.subjects["patient_id"]) == ["1000011"]
    assert reasons(cohort) == {
        "1000022_2_0": "sex is not female, male, 0 or 1",
        "1000033_2_0": "eid stands twice",
    }


def test_a_bad_outcome_is_a_missing_one_and_is_said(tmp_path, capsys):
    ecg = np.random.default_rng(0).normal(0, 0.3, (40, 12, 400)).astype(np.float32)
    cohort = Cohort(ecg, pd.DataFrame({"subject_id": [f"s{k}" for k in range(40)]}))
    table = pd.DataFrame({"subject_id": cohort.subjects["subject_id"], "time": 2.0, "event": 0})
    table.loc[::2, "event"] = 1
    table["time"] = table["time"].astype(object)
    table.loc[7, "time"] = 0
    table.to_csv(tmp_path / "t.csv", index=False)
    joined = join_outcomes(cohort, tmp_path / "t.csv")
    assert np.flatnonzero(joined.subjects["time"].isna()).tolist() == [7]
    assert "1 of 40 rows are left out, first 's7': time is not a time above 0" in (
        capsys.readouterr().out
    )
    table.loc[8, "event"] = 2  # of its own meaning, however rare
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(CohortError, match="Expected 0 or 1 as event of 's8'"):
        join_outcomes(cohort, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": ("age", "lvef")}, "Expected a column 'lvef'"),
        ({"outcomes": "nowhere.csv"}, "nowhere.csv is not there"),
        ({"outcomes": "bad.csv"}, "Expected a time above 0"),
        ({"outcomes": "other.csv"}, "No subject_id of .*other.csv"),
    ],
)
def test_what_tables_and_settings_tell_is_refused_before_a_recording_is_read(
    folder, tmp_path, opened, change, message
):
    from training.setup import open_data

    (tmp_path / "bad.csv").write_text("subject_id,time,event\n1,0,1\n2,2,0\n")
    (tmp_path / "other.csv").write_text("subject_id,time,event\nx1,1,1\nx2,2,0\n")
    if "outcomes" in change:
        change = {"outcomes": tmp_path / change["outcomes"]}
    data = replace(PRESETS["ptbxl"].data, path=folder, cache=tmp_path / "cache", **change)
    with pytest.raises(ValueError, match=message):
        open_data(replace(PRESETS["ptbxl"], data=data))
    assert opened == []


def test_a_doubled_column_is_refused_before_a_recording_is_read(folder, tmp_path, opened):
    file = folder / "ptbxl_database.csv"
    file.write_text(file.read_text().replace("heart_axis", "age", 1))
    with pytest.raises(CohortError, match="'age' is there twice"):
        load_cohort(replace(PRESETS["ptbxl"].data, path=folder, cache=tmp_path))
    assert opened == []


def test_a_table_of_one_row_is_refused_for_it():
    column = pd.Series(["x"], name="age")
    bad = BadRows(pd.Series(["a"]), "table.csv")
    bad.refuse(pd.Series([True]), column, bad.ids, "a number")
    with pytest.raises(CohortError, match=r"Expected a number as age of 'a'. Received: 'x'.$"):
        bad.settle()
