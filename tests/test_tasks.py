"""A line in the table of tasks is a task everywhere."""

import json
from copy import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, huber

import train as script
from config import CONFIG, ConfigError, ModelConfig
from data.synthetic import simulate
from data.tasks import TASKS, Task
from evaluation.measures.prediction import prediction_metrics
from tests.eager import train_eagerly
from tests.fresh_process import run_fresh
from tests.sparing import judge_sparingly
from tests.tiny_cohort import COHORT, CONFIGURED, SCHEMA
from training.setup import build_model, with_targets
from vae import VAE, ModelError
from vae_prediction import VAEPrediction

LINE = Task("regression", "Huber", {"delta": 0.5})
SIZES = (12, 40), (2,), ((1, 10),), ("same",), 2, 0
ECG = np.random.default_rng(0).normal(0, 0.2, (30, 12, 40)).astype(np.float32)


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(TASKS, "huber", LINE)


def with_output(**settings):
    """A model whose head says something."""
    model = VAEPrediction(*SIZES, hidden=(), **settings).adapt(ECG)
    rng = np.random.default_rng(1)
    for weight in model.head.weights:
        weight.assign(rng.normal(0, 1, weight.shape))
    model.compile(run_eagerly=True)
    return model


def test_its_loss_is_that_of_scipy_and_survives_saving(added, tmp_path):
    target = np.random.default_rng(2).normal(40, 6, 30)
    model = with_output(task="huber").adapt_target(target)
    error = (target - model.predict_head(ECG)[:, 0]) / target.std()
    assert (np.abs(error) < 0.5).any()
    assert (np.abs(error) > 0.5).any()
    found = model.evaluate(ECG, target, batch_size=30, verbose=0, return_dict=True)
    assert found["task_loss"] == pytest.approx(huber(0.5, error).mean(), rel=1e-4)
    model.save(tmp_path)
    np.testing.assert_array_equal(VAE.load(tmp_path).predict_head(ECG), model.predict_head(ECG))


def test_its_loss_may_be_a_function_of_ones_own(monkeypatch):
    def focal(target, logit):  # Lin et al. 2017, without alpha, gamma 2
        from keras import ops

        right = ops.sigmoid(ops.where(target > 0, logit, -logit))
        return -ops.squeeze((1 - right) ** 2 * ops.log(right), axis=1)

    monkeypatch.setitem(TASKS, "focal", Task("binary", focal))
    model, y = with_output(task="focal"), np.arange(30) % 2
    right = np.where(y, 1, -1) * model.predict_head(ECG)[:, 0]
    expected = (-((1 - expit(right)) ** 2) * np.log(expit(right))).mean()
    found = model.evaluate(ECG, y, batch_size=30, verbose=0, return_dict=True)
    assert found["task_loss"] == pytest.approx(expected, rel=1e-4)


def test_its_targets_and_head_go_by_its_kind(added, monkeypatch):
    monkeypatch.setitem(TASKS, "three", Task("multiclass", "SparseCategoricalCrossentropy"))
    cohort = replace_subjects(kind=["a", "b", "c", "d"] * 10, grams=np.arange(40.0))
    for task, target, size in (("huber", "grams", 1), ("three", "kind", 4)):
        settings = replace(CONFIGURED.model, task=task, target=target)
        known = with_targets(cohort, settings)
        model = build_model(replace(CONFIGURED, model=settings), SCHEMA, known)
        assert model.head.units == size
        assert len(set(known.subjects["target"])) == (40 if task == "huber" else 4)


def replace_subjects(**columns):
    cohort = copy(COHORT)
    cohort.subjects = COHORT.subjects.assign(**columns)
    return cohort


def test_its_metrics_are_those_of_its_kind(added):
    output, target = np.random.default_rng(0).normal(size=(2, 50))
    patients = np.arange(50)
    arguments = output[:, None], target, patients, 0, 100
    assert prediction_metrics("huber", *arguments) == prediction_metrics("regression", *arguments)


def test_without_the_line_it_is_refused_and_the_table_named():
    with pytest.raises(ConfigError, match="model.task: expected one of .*'regression'.*'huber'"):
        ModelConfig(task="huber", target="age")
    with pytest.raises(ModelError, match="'huber'. To add a task, add a line to data.tasks.TASKS"):
        VAEPrediction(*SIZES, task="huber")
    with pytest.raises(SystemExit):
        script.parse(["--model.task", "huber", "--model.target", "age"])


@pytest.mark.parametrize("settings", [("numbers", "Huber"), ("regression",), ("survival", "Huber")])
def test_a_line_that_makes_no_task_is_refused(settings):
    with pytest.raises(ValueError, match="expected one of|loss: one, unless"):
        Task(*settings)


def test_the_command_line_takes_it_and_needs_its_target(added, tmp_path):
    code = (
        "from data.tasks import TASKS, Task\n"
        "TASKS['huber'] = Task('regression', 'Huber')\n"
        "import sys, train\n"
        "config, _ = train.parse(['--model.task', 'huber', '--model.target', 'bmi'])\n"
        "print(config.model.task, config.model.target, 'tensorflow' in sys.modules)\n"
        "train.parse(['--model.task', 'huber'])\n"
    )
    done = run_fresh(code, tmp_path)
    assert done.stdout == "huber bmi False\n"
    assert "model.target: expected a column for the task huber" in done.stderr


def test_a_run_trains_and_judges_it(added, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_eagerly(monkeypatch)
    judge_sparingly(monkeypatch)
    small = {"conv_filters": (2, 2), "latent_space_dim": 3, "hidden": (8,)}
    cohort = simulate(200, 0)
    cohort.excluded = pd.DataFrame({"subject_id": ["lost"], "reason": ["lead V1 is flat"]})
    cohort.save(tmp_path / "prepared")
    shares = {"validation_fraction": 0.2, "test_fraction": 0.25}
    config = replace(
        CONFIG,
        run="huber",
        data=replace(CONFIG.data, source="prepared", path=tmp_path / "prepared", **shares),
        model=replace(CONFIG.model, task="huber", target="lv_mass", **small),
        training=replace(CONFIG.training, epochs=1, xla=False),
        evaluation=replace(CONFIG.evaluation, bootstrap=100, generated=20, examples=1),
    )
    folder = script.train(config)
    left_out = (folder / "excluded.csv").read_text().splitlines()
    assert left_out == ["subject_id,reason", "lost,lead V1 is flat"]
    metrics = json.loads((folder / "metrics.json").read_text())["prediction"]
    assert {"mae", "rmse", "r2", "mae_null"} <= set(metrics)
    model = VAE.load(folder)
    assert model.task == "huber"
    mass = cohort.split(0.2, 0.25, config.data.seed).train.subjects["lv_mass"]
    assert float(model.target_mean.numpy()) == pytest.approx(mass.mean(), rel=1e-5)
    assert float(model.target_sd.numpy()) == pytest.approx(mass.std(ddof=0), rel=1e-5)
    assert json.loads((folder / "config.json").read_text())["model"]["task"] == "huber"
