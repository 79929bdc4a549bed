"""What the processes of a run ask of each other. They train as one in `end_to_end/test_jax.py`."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from config import PRESETS, ConfigError
from data.synthetic import simulate
from training import processes
from training.provenance import what_is_trained

QUICK, COHORT = PRESETS["quick"], simulate(20, seed=0)


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
    monkeypatch.setattr(processes.atexit, "register", lambda _: None)


def told_by_the_first(monkeypatch, given):
    """Process 0 has this in place of what the second one hands over."""
    with monkeypatch.context() as patch:
        sent = []
        patch.setattr(processes, "told", lambda content: sent.append(content) or content)
        processes.check_alike(given)
    monkeypatch.setattr(processes, "told", lambda _: sent[0])


def moved(section, **where):
    return replace(QUICK, **{section: replace(getattr(QUICK, section), **where)})


def test_where_files_lie_may_differ(second_of_two, monkeypatch):
    told_by_the_first(monkeypatch, what_is_trained(QUICK, COHORT))
    here = moved("data", path=Path("here"), cache=Path("there"), workers=3)
    processes.check_alike(what_is_trained(here, COHORT))


@pytest.mark.parametrize(
    ("config", "cohort"),
    [
        (moved("training", seed=1), COHORT),
        (moved("data", seed=1), COHORT),
        (moved("model", kl_weight=0.5), COHORT),
        (QUICK, simulate(20, seed=1)),
    ],
)
def test_other_settings_or_data_than_process_0_has_end_the_run(
    second_of_two, monkeypatch, config, cohort
):
    told_by_the_first(monkeypatch, what_is_trained(QUICK, COHORT))
    with pytest.raises(processes.ProcessError, match="process 1 of 2 has other settings or data"):
        processes.check_alike(what_is_trained(config, cohort))


def test_the_first_process_goes_on_alone_with_all_of_the_model(second_of_two, monkeypatch):
    monkeypatch.setattr(processes, "leave", lambda: None)
    alone, given = SimpleNamespace(), []
    alone.set_weights = given.append
    trained = SimpleNamespace(schema="schema", prior="of a warm start", get_weights=lambda: [1])
    assert processes.on_this(trained, lambda: alone) is alone
    assert (alone.schema, alone.prior, given) == (trained.schema, trained.prior, [[1]])


def test_several_processes_need_jax(second_of_two, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    with pytest.raises(ConfigError, match="expected KERAS_BACKEND=jax, or one process"):
        processes.join()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_PROCESSES", "two"),
        ("PROCESS_ID", "2"),
        ("JOB_ADDRESSES", "somewhere"),
        ("JOB_ADDRESSES", ""),
    ],
)
def test_a_variable_that_does_not_fit_is_named(second_of_two, monkeypatch, name, value):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1234")
    monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    with pytest.raises(ConfigError, match=f"KERAS_DISTRIBUTION_{name}"):
        processes.join()
