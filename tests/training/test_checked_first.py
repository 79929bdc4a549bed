"""What tables and settings make impossible is said before any recording is read."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import CONFIG, DataConfig, ModelConfig, replace
from data import CohortError
from data.conditions import ConditionError
from data.readers.prepare import prepare
from tests.simulated_strips import write_ptbxl
from training.checkpoint import TrainingError
from training.setup import check_warm_start, open_data


@pytest.fixture
def unread(tmp_path, monkeypatch):
    """A folder of PTB-XL whose recordings must not be read."""
    write_ptbxl(tmp_path / "ptbxl", 12)

    def read(*_):
        pytest.fail("a recording was read")

    monkeypatch.setattr("data.readers.ptbxl.WfdbReader.__call__", read)
    return tmp_path


def settings(folder, model=None, **data):
    ptbxl = {"source": "ptbxl", "path": folder / "ptbxl", "cache": folder / "cache", "workers": 1}
    return replace(CONFIG, data=DataConfig(**ptbxl, **data), model=model or ModelConfig())


def edit(folder, change):
    file = folder / "ptbxl" / "ptbxl_database.csv"
    table = pd.read_csv(file)
    change(table)
    table.to_csv(file, index=False)


def test_a_condition_out_of_its_range_or_not_there(unread):
    with pytest.raises(ConditionError, match="Expected a column 'lvef'"):
        open_data(settings(unread, conditions=("age", "lvef")))
    edit(unread, lambda table: table.__setitem__("age", [40] * 11 + [-7]))
    with pytest.raises(ConditionError, match="age of record '12' is -7"):
        open_data(settings(unread, conditions=("age", "sex")))


def test_folds_that_divide_a_patient_or_leave_a_part_empty(unread):
    edit(unread, lambda table: table.__setitem__("strat_fold", [1] * 12))
    with pytest.raises(CohortError, match="part of the split"):
        open_data(settings(unread, conditions=("age",), split="fold"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "is not there"),
        ("subject_id,time\n1,2\n", r"lacks the columns \['event'\]"),
        ("subject_id,time,event\n1,2,1\n1,3,0\n", "stands twice"),
        ("subject_id,time,event\n1,2,0\n2,3,0\n", "events"),
        ("subject_id,time,event\n1,2,7\n2,3,0\n", "Expected 0 or 1 as event"),
        ("subject_id,time,event\n1,2000,1\n2,3000,0\n", "time"),
    ],
)
def test_outcomes_that_cannot_be_joined(unread, table, message):
    outcomes = unread / "outcomes.csv"
    if table is not None:
        outcomes.write_text(table)
    cox = ModelConfig(task="cox")
    with pytest.raises(CohortError, match=message):
        open_data(settings(unread, cox, conditions=("age",), outcomes=outcomes))


@pytest.mark.parametrize("target", ["nothing", "sex"])
def test_a_target_that_is_not_there_or_no_number(unread, target):
    regression = ModelConfig(task="regression", target=target)
    with pytest.raises(CohortError, match=target):
        open_data(settings(unread, regression, conditions=("age",)))


def test_columns_that_come_with_the_recordings_are_waited_for(tmp_path):
    write_ptbxl(tmp_path / "ptbxl", 12)
    model = ModelConfig(task="regression", target="heart_rate")
    cohort, _, _ = open_data(settings(tmp_path, model, conditions=("age",)))
    assert cohort.subjects["target"].between(40, 120).all()


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (pd.DataFrame({"subject_id": [1, 2], "patient_id": [1, None]}), "no patient_id"),
        (pd.DataFrame(np.zeros((2, 2)), columns=["age", "age"]), "'age' .* twice"),
        (pd.DataFrame({"subject_id": [1, 2], "Patient ID": [1, 2]}), "'patient_id' in"),
    ],
)
def test_subjects_that_break_the_contract(tmp_path, subjects, message):
    if "subject_id" not in subjects:
        subjects.insert(0, "subject_id", ["a", "b"])

    def read(_):
        pytest.fail("a recording was read")

    with pytest.raises(CohortError, match=message):
        prepare(subjects, [0, 1], read, tmp_path, "test", progress=False)
    assert not list(Path(tmp_path).iterdir())


def test_a_warm_start_from_nothing(tmp_path):
    with pytest.raises(TrainingError, match="training.warm_start: no run or model lies at"):
        check_warm_start(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "parameters.json").write_text("{}")
    check_warm_start(tmp_path)
    check_warm_start(tmp_path / "model")
