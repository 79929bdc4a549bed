"""The file of an epoch, and what is best, without training: `test_fit.py` trains."""

import errno
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from data.conditions import Condition, ConditionSchema
from tests.tiny_cohort import COHORT, CONFIGURED, SCHEMA
from training import checkpoint
from training.checkpoint import Checkpoint, TrainingError
from training.setup import build_model


def opened(path, watch="val_objective", schema=SCHEMA):
    """A model that could be trained, and its checkpoint of 5 epochs."""
    model = build_model(CONFIGURED, schema, COHORT)
    model.compile(keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    saver = Checkpoint(path, 5, 0, watch)
    saver.set_model(model)
    return model, saver


def epoch(saver, number, value, **others):
    """An epoch at whose end all that the model and its optimizer hold is `value`."""
    for variable in (*saver.model.weights, *saver.model.optimizer.variables):
        variable.assign(np.full(variable.shape, value))
    saver.on_epoch_begin(number)
    logs = dict.fromkeys(("objective", "val_rmse_uv", "val_kl", "val_active_units"), 1.0)
    saver.on_epoch_end(number, logs | {"val_objective": float(value)} | others)


def held(variables):
    return {float(value) for one in variables for value in np.unique(np.asarray(one))}


@pytest.mark.parametrize(
    ("watch", "others"),
    [("val_objective", [{}, {}]), ("val_c_index", [{"val_c_index": 0.8}, {"val_c_index": 0.7}])],
)
def test_the_last_epoch_goes_on_and_the_best_one_before_the_interruption_is_kept(
    tmp_path, capsys, watch, others
):
    path = tmp_path / "run" / "training.npz"
    _, saver = opened(path, watch)
    epoch(saver, 0, 2, **others[0])
    epoch(saver, 1, 3, **others[1])
    lines = capsys.readouterr().out.splitlines()
    assert ["*" in line for line in lines] == [True, False]
    assert [line.endswith("C 0.800") for line in lines] == [watch == "val_c_index", False]

    model, again = opened(path, watch)
    assert again.restore(model) == 2
    assert held(model.weights) == held(model.optimizer.variables) == {3}
    assert again.history == saver.history
    for one in (again, saver):  # of a run that was interrupted, and of one that was not
        assert one.best_epoch == 0
        one.take_best(one.model)
        assert held(one.model.weights) == {2}
    epoch(again, 2, 1, **{name: 0.9 for name in others[0]})
    again.take_best(model)
    assert held(model.weights) == {1}


def test_a_run_does_not_go_on_with_conditions_that_are_coded_otherwise(tmp_path):
    coded = Condition("sex", "binary", categories=("male", "female"))
    other = replace(coded, categories=("female", "male"))
    path = tmp_path / "training.npz"
    model, saver = opened(path, schema=ConditionSchema([coded]))
    epoch(saver, 0, 2)
    assert saver.restore(model) == 1
    model, saver = opened(path, schema=ConditionSchema([other]))
    with pytest.raises(TrainingError, match=r'CONDITIONS: .*"male", "female".* -> .*"female"'):
        saver.restore(model)
    with np.load(path) as saved:  # as earlier versions wrote it
        earlier = {name: saved[name] for name in saved if name != "conditions"}
    np.savez(path, **earlier)
    assert saver.restore(model) == 1
    model.schema = None  # its conditions are encoded by the user
    epoch(saver, 1, 3)
    assert saver.restore(model) == 2


def test_what_is_lost_names_the_best_epoch_that_is_kept(tmp_path):
    _, saver = opened(tmp_path / "training.npz")
    for number, value in enumerate((4, 2, 3)):
        epoch(saver, number, value)
    kept = saver.path.read_bytes()
    with pytest.raises(TrainingError, match=r"^val_kl became .* in epoch 4\. Epoch 2 is kept in "):
        epoch(saver, 3, 1, val_kl=np.nan)
    assert saver.path.read_bytes() == kept


def test_a_disk_that_is_full_halfway_leaves_the_epoch_before(tmp_path, monkeypatch):
    model, saver = opened(tmp_path / "training.npz")
    epoch(saver, 0, 2)

    def half(file, **arrays):
        Path(file).write_bytes(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(OSError, match="No space left"):
            epoch(saver, 1, 1)
    assert saver.restore(model) == 1
    assert held(model.weights) == {2}


@pytest.mark.parametrize(
    ("values", "patience", "finished"),
    [
        ([], 0, False),
        ([5, 4, 3, 2], 0, False),
        ([5, 4, 3, 2, 1], 0, True),
        ([1, 2, 3, 4], 0, False),
        ([3, 1, 2], 2, False),
        ([3, 1, 2, 2], 2, True),
        ([3, 1, 2, 0], 2, False),
    ],
)
def test_training_ends_with_the_epochs_or_with_patience(tmp_path, values, patience, finished):
    saver = Checkpoint(tmp_path / "training.npz", 5, patience, "val_objective")
    saver.history = [{"val_objective": value} for value in values]
    assert saver.finished == finished


def test_the_first_process_alone_writes_and_the_others_go_on_from_what_it_has(
    tmp_path, monkeypatch
):
    _, first = opened(tmp_path / "first.npz")
    epoch(first, 0, 2)
    monkeypatch.setattr(checkpoint.processes, "rank", lambda: 1)
    model, second = opened(tmp_path / "second.npz")
    epoch(second, 0, 3)
    assert not second.path.exists()
    sent = [b"yes", first.path.read_bytes()]
    monkeypatch.setattr(checkpoint.processes, "told", lambda _: sent.pop(0))
    assert second.restore(model) == 1
    assert held(model.weights) == {2}
    second.path.write_bytes(b"of an earlier run")
    monkeypatch.setattr(checkpoint.processes, "told", lambda _: b"")  # the first one has none
    assert second.restore(model) == 0
