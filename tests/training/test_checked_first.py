"""What tables and settings make impossible is said before any recording is read."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import CONFIG, DataConfig, ModelConfig, replace
from data import CohortError
from data.beats import BeatError
from data.conditions import ConditionError
from data.readers.prepare import prepare
from data.synthetic import simulate
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


def test_conditions_of_those_without_a_target_do_not_count(unread, monkeypatch):
    edit(unread, lambda table: table.__setitem__("age", [40] * 11 + [-7]))
    rows = "".join(f"{number},{number},{number % 2}\n" for number in range(1, 12))
    (unread / "outcomes.csv").write_text(f"subject_id,time,event\n{rows}")
    config = settings(unread, ModelConfig(task="cox"), outcomes=unread / "outcomes.csv")
    monkeypatch.setattr("data.readers.ptbxl.WfdbReader.__call__", refuse_to_read)
    with pytest.raises(CohortError, match="times: read at last"):
        open_data(replace(config, data=replace(config.data, conditions=("age",))))


def test_columns_that_come_with_the_recordings_are_waited_for(tmp_path):
    write_ptbxl(tmp_path / "ptbxl", 12)
    model = ModelConfig(task="regression", target="heart_rate")
    cohort, _, _ = open_data(settings(tmp_path, model, conditions=("age",)))
    assert cohort.subjects["target"].between(40, 120).all()


def refuse_to_read(*_):
    raise BeatError("read at last")


class BeganReadingError(Exception):
    """Nothing was refused before."""


@pytest.fixture
def unread_files(tmp_path, monkeypatch):
    """A folder of files that name patients only once they are read."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A1.hea").write_text("")
    outcomes = "subject_id,time,event,lvef,fold\nA1,2,1,60,1\nA2,3,0,50,9\nA3,3,0,50,10\n"
    (tmp_path / "outcomes.csv").write_text(outcomes)

    def begin(**_):
        raise BeganReadingError

    monkeypatch.setattr("data.readers.recordings.prepare", begin)
    return tmp_path


@pytest.mark.parametrize("source", ["recordings", "challenge"])
def test_outcomes_of_recordings_are_waited_for(unread_files, source):
    data = {
        "source": source,
        "path": unread_files / "in",
        "cache": unread_files / "cache",
        "outcomes": unread_files / "outcomes.csv",
        "keep_ids": source == "recordings",
        "conditions": ("age", "lvef"),
        "outcome_columns": ("time", "event", "lvef", "fold"),
    }
    config = replace(CONFIG, data=DataConfig(**data, split="fold"), model=ModelConfig(task="cox"))
    with pytest.raises(BeganReadingError):
        open_data(config)
    lacking = replace(config, data=replace(config.data, outcome_columns=("time", "event")))
    with pytest.raises(ConditionError, match="Expected a column 'lvef'"):
        open_data(lacking)
    lacking = replace(lacking, data=replace(lacking.data, conditions=("age",)))
    with pytest.raises(CohortError, match="Expected a column `fold`"):
        open_data(lacking)


def test_the_archive_of_a_record_is_a_column_that_is_waited_for(unread_files):
    data = DataConfig("challenge", unread_files / "in", unread_files / "cache", conditions=("age",))
    model = ModelConfig(task="multiclass", target="dataset")
    with pytest.raises(BeganReadingError):
        open_data(replace(CONFIG, data=data, model=model))


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


def test_a_category_of_no_training_subject_is_told(tmp_path, capsys):
    cohort = simulate(40, seed=0)
    np.save(tmp_path / "ecg.npy", cohort.ecg)
    config = replace(CONFIG, data=DataConfig(source="arrays", path=tmp_path))
    sex = np.where(cohort.subjects.index == 3, "female", "male")  # of the validation split
    cohort.subjects.assign(sex=sex).to_csv(tmp_path / "subjects.csv", index=False)
    split = open_data(config)[1]
    assert (split.validation.subjects["sex"] == "female").any()
    assert "Warning: no training subject has sex female" in capsys.readouterr().out


def test_a_warm_start_from_nothing(tmp_path):
    with pytest.raises(TrainingError, match="warm_start: no run or model lies at .* as runs/NAME"):
        check_warm_start(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "parameters.json").write_text("{}")
    check_warm_start(tmp_path)
    check_warm_start(tmp_path / "model")
