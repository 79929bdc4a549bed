"""A head in a run: targets, epochs judged on the whole split, warm start, results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index

import train as script
from config import CONDITIONS, CONFIG, Config, ModelConfig, TrainingConfig, from_dict
from data import load_cohort
from data.cohort import CohortError
from data.conditions import Condition, ConditionError, ConditionSchema
from data.synthetic import simulate
from tests.eager import train_eagerly
from tests.one_line import one_line
from tests.sparing import judge_sparingly
from train import train
from training.checkpoint import Checkpoint, TrainingError
from training.fit import FullSplit, fit
from training.run_folder import RunError, record
from training.setup import (
    build_model,
    check_split,
    compare_division,
    open_data,
    samples_of,
    warm_start,
    with_targets,
)
from vae import VAE, ModelError
from vae_prediction import VAEPrediction

SMALL = {"conv_filters": (2, 2), "latent_space_dim": 3, "hidden": (8,)}
COX = replace(
    CONFIG,
    run="cox",
    data=replace(CONFIG.data, subjects=300, validation_fraction=0.2, test_fraction=0.25),
    model=replace(CONFIG.model, task="cox", head_inputs="latent_and_conditions", **SMALL),
    training=TrainingConfig(epochs=2, batch_size=64, learning_rate=0.01, xla=False),
    evaluation=replace(CONFIG.evaluation, bootstrap=100, generated=20, examples=1),
)
COHORT = simulate(300)
RISK_FIGURES = ("kaplan_meier", "calibration", "survival_curves", "risk_direction")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A Cox run, and a binary one that starts from it and trains only its head."""
    folder = tmp_path_factory.mktemp("prediction")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_eagerly(patch)
        judge_sparingly(patch, RISK_FIGURES)
        cox = folder / train(COX)
        # Generated ECGs are judged once: that they are those of a head makes no difference.
        patch.setattr("evaluation.judge._generator_metrics", lambda *_: {})
        patch.setattr("evaluation.judge.draw", lambda *_: {})
        binary = folder / train(
            replace(
                COX,
                run="binary",
                model=replace(COX.model, task="binary", target="event"),
                training=replace(COX.training, warm_start=cox, freeze=True, watch="objective"),
            )
        )
    return cox, binary


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def parts_of(config):
    """The parts of the split and the samples of a configuration, as a run takes them."""
    cohort = with_targets(COHORT, config.model)
    split = cohort.split(
        config.data.validation_fraction, config.data.test_fraction, config.data.seed
    )
    schema = ConditionSchema([CONDITIONS[name] for name in config.data.conditions])
    return cohort, split, schema.fit(split.train.subjects)


# --- targets --------------------------------------------------------------------------------------


def without(name):
    cohort = simulate(40)
    cohort.subjects = cohort.subjects.drop(columns=name)
    return cohort


def changed(**columns):
    """Forty simulated recordings with other values in some columns, in their first rows."""
    cohort = simulate(40)
    for name, values in columns.items():
        old = (
            cohort.subjects[name].astype(object) if name in cohort.subjects else pd.Series([0] * 40)
        )
        cohort.subjects[name] = [*values, *old[len(values) :]]
    return cohort


@pytest.mark.parametrize(
    ("cohort", "task", "target", "message"),
    [
        (without(["time", "event"]), "cox", "", "needs the columns .*time.*lacks.*data.outcomes"),
        (changed(event=[0] * 40), "cox", "", "No events"),
        (changed(time=[0.0] * 40), "cox", "", "None of the 40 recordings has a known outcome"),
        (COHORT, "binary", "stroke", "model.target: the cohort has no column 'stroke'"),
        (changed(ill=["no"] * 40), "binary", "ill", r"needs two classes. ill has: \['no'\]"),
        (changed(ill=[0, 1, 2]), "binary", "ill", r"needs two classes. ill has: \[0, 1, 2\]"),
        (changed(ill=["no"] * 40), "multiclass", "ill", "needs several classes"),
        (changed(ill=[0.5, 1, 2]), "multiclass", "ill", "4 numbers such as 0.5: did you mean"),
        (changed(bmi=["thin"]), "regression", "bmi", "bmi of record 'sim-.*' is no number: 'thin'"),
        (changed(bmi=[np.inf]), "regression", "bmi", "bmi of record .* is no number: inf"),
        (changed(bmi=[None] * 40), "regression", "bmi", "None of the 40 .* known outcome"),
    ],
)
def test_a_target_that_is_not_there_or_makes_no_sense_is_one_clear_error(
    cohort, task, target, message
):
    with pytest.raises(CohortError, match=message):
        with_targets(cohort, ModelConfig(task=task, target=target))


def test_a_number_that_stands_for_not_measured_is_no_target_of_a_regression():
    with pytest.raises(ConditionError, match="bmi of record .* is -999 kg/m2, outside"):
        with_targets(changed(bmi=[-999.0]), ModelConfig(task="regression", target="bmi"))


@pytest.mark.parametrize(
    ("task", "target", "columns"),
    [
        ("cox", "", {"time": [None, 0.0, 1.0], "event": [1, 1, None]}),
        ("regression", "bmi", {"bmi": [None, np.nan, None]}),
        ("multiclass", "ill", {"ill": [None, np.nan, None, "a", "b", *"c" * 35]}),
    ],
)
def test_recordings_of_unknown_outcome_are_left_out_and_counted(task, target, columns):
    cohort = changed(**columns)
    before = cohort.subjects.copy()
    part = with_targets(cohort, ModelConfig(task=task, target=target))
    assert len(part) == 37
    np.testing.assert_array_equal(part.ecg, cohort.ecg[3:])
    assert list(part.excluded["subject_id"]) == list(cohort.subjects["subject_id"][:3])
    assert set(part.excluded["reason"]) == {"no known outcome"}
    pd.testing.assert_frame_equal(cohort.subjects, before)  # the caller's stays as it was


def test_classes_become_numbers_in_their_order_and_no_head_changes_nothing():
    cohort = with_targets(COHORT, ModelConfig(task="binary", target="sex"))
    is_male = COHORT.subjects["sex"] == "male"
    np.testing.assert_array_equal(cohort.subjects["target"], is_male)
    assert with_targets(COHORT, ModelConfig()) is COHORT


def test_a_model_has_as_many_classes_as_the_cohort_and_its_samples_their_numbers():
    settings = ModelConfig(task="multiclass", target="heart_rate_class", **SMALL)
    cohort, split, schema = parts_of(COX)
    cohort.subjects["heart_rate_class"] = np.digitize(cohort.subjects["heart_rate"], (60, 75))
    cohort = with_targets(cohort, settings)
    model = build_model(replace(COX, model=settings), schema, cohort)
    samples = samples_of(cohort, model, settings)
    assert model.head.kernel.shape == (3, 3)
    np.testing.assert_array_equal(samples.target, cohort.subjects["heart_rate_class"])
    assert not samples.event.any()


@pytest.mark.parametrize(
    ("task", "column", "values", "message"),
    [
        ("cox", "event", 0, "has no event that another outlives"),
        ("binary", "target", 1, "has only one class"),
    ],
)
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_part_of_the_split_on_which_no_head_can_be_judged_is_named(
    task, column, values, message, name
):
    settings = ModelConfig(task=task, target="event")
    split = with_targets(COHORT, settings).split(0.2, 0.25)
    check_split(split, settings)
    getattr(split, name).subjects[column] = values
    with pytest.raises(CohortError, match=f"The {name} part of the split, .* {message}"):
        check_split(split, settings)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_part_of_a_single_patient_is_refused_before_training(name):
    split = COHORT.split(0.2, 0.25)
    check_split(split, ModelConfig())
    getattr(split, name).subjects["patient_id"] = "the same"
    with pytest.raises(CohortError, match=f"2 patients or more in the {name}.* Received: 1"):
        check_split(split, ModelConfig())


def test_events_after_the_follow_up_of_training_are_none_to_judge_by():
    split = COHORT.split(0.2, 0.25)
    settings = ModelConfig(task="cox")
    end = split.train.subjects["time"].max()
    subjects = split.test.subjects
    early = subjects.index[subjects["event"] == 1][0]
    subjects["time"] = np.where(subjects["event"] == 1, end + 0.1, end + 0.2)
    with pytest.raises(CohortError, match="The test part .* no event within the follow-up of tra"):
        check_split(split, settings)
    subjects.loc[early, "time"] = end - 0.1
    check_split(split, settings)


def test_an_event_that_nobody_outlives_is_no_event_to_judge_by():
    split = COHORT.split(0.2, 0.25)
    subjects = split.test.subjects
    subjects["event"] = (subjects["time"] == subjects["time"].max()).astype(int)
    with pytest.raises(CohortError, match="The test part .* no event that another outlives"):
        check_split(split, ModelConfig(task="cox"))


# --- seeds ----------------------------------------------------------------------------------------


def test_the_split_has_the_seed_of_the_data_and_the_network_that_of_training():
    data = replace(COX.data, subjects=60, seed=3)
    config = replace(COX, data=data, model=ModelConfig(**SMALL), training=TrainingConfig(seed=5))
    cohort, split, schema = open_data(config)
    for ours, theirs in zip(split, simulate(60, 3).split(0.2, 0.25, 3), strict=True):
        assert ours.subjects["subject_id"].tolist() == theirs.subjects["subject_id"].tolist()
    assert build_model(config, schema, cohort).settings["seed"] == 5


# --- epochs ---------------------------------------------------------------------------------------


def test_each_epoch_is_judged_on_the_whole_validation_split_as_lifelines_does():
    cohort, split, schema = parts_of(COX)
    config = replace(COX, model=replace(COX.model, head_inputs="latent", task_weight=4.0))
    model = build_model(config, schema, cohort).adapt(split.train.ecg, split.train.subjects)
    # On the training split, of 165: a validation batch holds them all, one of 64 does not.
    samples = samples_of(split.train, model, config.model)
    mean, _ = model.encode(samples.ecg, samples.conditions)
    time, event = samples.target.T.astype(float)
    fitted = CoxPHFitter().fit(pd.DataFrame(mean).assign(t=time, e=event), "t", "e")
    model.head.kernel.assign(fitted.params_.to_numpy()[:, None])
    logs = {"objective": 7.0, "task_loss": 2.0, "val_objective": 100.0}
    callback = FullSplit(samples)
    callback.set_model(model)
    callback.on_epoch_end(0, logs)
    negative = -fitted.log_likelihood_
    assert logs["val_c_index"] == pytest.approx(fitted.concordance_index_, abs=1e-3)
    assert logs["val_partial_likelihood"] == pytest.approx(negative / event.sum(), rel=1e-5)
    assert logs["val_objective"] == pytest.approx(100 + 4 * negative / len(event), rel=1e-6)
    assert logs["objective"] == 7 + 4 * 2
    model.task = "binary"
    logs |= {"val_task_loss": 3.0, "val_objective": 100.0, "objective": 7.0}
    callback.on_epoch_end(0, logs)
    assert (logs["objective"], logs["val_objective"]) == (7 + 4 * 2, 100 + 4 * 3)


def test_the_best_epoch_has_the_lowest_loss_or_the_highest_c_index():
    history = [
        {"val_objective": 3.0, "val_partial_likelihood": 4.0, "val_c_index": 0.6},
        {"val_objective": 1.0, "val_partial_likelihood": 3.0, "val_c_index": 0.5},
        {"val_objective": 2.0, "val_partial_likelihood": 2.0, "val_c_index": 0.7},
        {"val_objective": 2.0, "val_partial_likelihood": 3.0, "val_c_index": 0.4},
    ]
    for watch, best in (("objective", 1), ("partial_likelihood", 2), ("c_index", 2)):
        saver = Checkpoint(Path("unused"), 9, 0, f"val_{watch}")
        saver.history = history
        assert saver.best_epoch == best


def test_training_ends_with_the_weights_of_the_epoch_of_the_highest_c_index(tmp_path, monkeypatch):
    train_eagerly(monkeypatch)
    training = replace(COX.training, watch="c_index", learning_rate=0.1, epochs=3)
    config = replace(COX, training=training)
    cohort, split, schema = parts_of(config)
    model = build_model(config, schema, cohort).adapt(split.train.ecg, split.train.subjects)
    model.encoder.trainable = model.decoder.trainable = False
    parts = [samples_of(part, model, config.model) for part in (split.train, split.validation)]
    history = fit(model, *parts, config, tmp_path / "checkpoint.npz")["val_c_index"]
    time, event = parts[1].target.T
    log_hazard = model.predict_log_hazard(parts[1].ecg, parts[1].conditions)
    assert history.max() == pytest.approx(concordance_index(time, -log_hazard, event), abs=1e-6)
    assert history.nunique() == 3


# --- warm start -----------------------------------------------------------------------------------


def test_a_warm_start_takes_the_network_and_leaves_the_head_at_zero(runs):
    cohort, split, schema = parts_of(COX)
    config = replace(COX, model=replace(COX.model, kl_weight=2.0), training=TrainingConfig(seed=5))
    model, other = build_model(config, schema, cohort), VAE.load(runs[0])
    ecg, table = split.test.ecg, split.test.subjects
    assert np.abs(model.encode(ecg, table)[0] - other.encode(ecg, table)[0]).max() > 0.1
    warm_start(model, runs[0], freeze=False)
    for ours, theirs in zip(model.encode(ecg, table), other.encode(ecg, table), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(model.reconstruct(ecg, table), other.reconstruct(ecg, table))
    assert not np.asarray(model.noise_shape).any()  # it would be trained without the QRS
    assert not model.head.get_weights()[0].any()
    assert len(model.trainable_variables) == len(other.trainable_variables)
    warm_start(model, runs[0], freeze=True)
    np.testing.assert_array_equal(model.noise_sd_uv, other.noise_sd_uv)


def test_a_warm_start_scales_the_conditions_as_the_network_learned_them(runs):
    cohort, split, schema = parts_of(COX)
    older = split.train.subjects.assign(age=split.train.subjects["age"] + 10)
    model = build_model(COX, ConditionSchema(schema.conditions).fit(older), cohort)
    warm_start(model, runs[0], freeze=False)
    ecg, table = split.test.ecg, split.test.subjects
    expected, _ = VAE.load(runs[0]).encode(ecg, table)
    np.testing.assert_array_equal(model.encode(ecg, table)[0], expected)


def test_a_frozen_network_stays_as_it_was_while_the_head_moves(runs):
    before, after = (VAE.load(folder) for folder in runs)
    for part in ("encoder", "decoder"):
        pairs = zip(getattr(before, part).weights, getattr(after, part).weights, strict=True)
        assert all((old.numpy() == new.numpy()).all() for old, new in pairs)
    for name in ("log_noise", "scale", "mean_beat"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    drawn = [model.generate(3, age=80, sex="female") for model in (before, after)]
    np.testing.assert_array_equal(*drawn)
    assert after.task == "binary"
    assert np.abs(after.head.get_weights()[0]).min() > 0


def test_a_warm_start_says_whose_patients_may_be_among_the_test_patients(runs, capsys):
    folder = Path(runs[0])
    config = from_dict(Config, json.loads((folder / "config.json").read_text("utf-8")))
    cohort = load_cohort(config.data)
    compare_division(folder, config, cohort)
    assert capsys.readouterr().out == ""
    compare_division(folder, replace(config, data=replace(config.data, test_fraction=0.3)), cohort)
    compare_division(folder, config, cohort.take(np.arange(len(cohort) - 1)))
    compare_division(folder / "model", config, cohort)
    warning = "was trained on other recordings or another division of them"
    assert capsys.readouterr().out.count(warning) == 3


def test_a_run_goes_on_from_the_model_it_was_begun_with_only(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("training.run_folder.describe", lambda *_: {"data": {}})
    shutil.copytree(Path(runs[0]) / "model", tmp_path / "from")
    record(tmp_path, None, tmp_path / "from")
    record(tmp_path, None, tmp_path / "from")
    file = tmp_path / "from" / "parameters.json"
    file.write_text(file.read_text("utf-8").replace("kl_weight", "kl_weight "), "utf-8")
    with pytest.raises(RunError, match="begun with other data: data.warm_start"):
        record(tmp_path, None, tmp_path / "from")


def test_a_regression_needs_different_values():
    settings = ModelConfig(task="regression", target="event")
    split = with_targets(COHORT, settings).split(0.2, 0.25)
    split.test.subjects["target"] = 1.0
    with pytest.raises(CohortError, match="The test part .* one value of the target only"):
        check_split(split, settings)


def test_with_a_frozen_network_the_head_alone_decides_which_epoch_is_best(runs):
    history = pd.read_csv(runs[1] / "history.csv")
    rest = history["val_reconstruction"] + history["val_kl"]
    np.testing.assert_allclose(rest, rest[0], rtol=1e-6)
    np.testing.assert_allclose(history["val_objective"], rest + history["val_task_loss"], rtol=1e-6)
    best = history["val_task_loss"].argmin() + 1
    assert metrics_of(runs[1])["training"]["best_epoch"] == best > 1


@pytest.mark.parametrize(
    ("model", "conditions", "message"),
    [
        ({"latent_space_dim": 4}, ("age", "sex", "bmi"), "latent_space_dim: 3 -> 4"),
        ({"hidden": (9,)}, ("age", "sex", "bmi"), r"hidden: \(8,\) -> \(9,\)"),
        ({}, ("age", "sex"), "condition_dim: 5 -> 3"),
        ({}, ("age", "sex", "lvef"), r"conditions: \('age', 'sex', 'bmi'\) -> .*'lvef'"),
    ],
)
def test_a_warm_start_from_another_network_says_what_is_different(runs, model, conditions, message):
    config = replace(
        COX, model=replace(COX.model, **model), data=replace(COX.data, conditions=conditions)
    )
    cohort, _, schema = parts_of(config)
    with pytest.raises(TrainingError, match=f"holds another network: .*{message}"):
        warm_start(build_model(config, schema, cohort), runs[0], freeze=True)


def test_a_warm_start_from_a_model_without_named_conditions_or_from_nothing_is_refused(tmp_path):
    schema = ConditionSchema([Condition("sex", "binary", categories=("male", "female"))])
    network = ((12, 40), (2,), ((12, 5),), ("same",), 2, 1)
    VAE(*network, hidden=()).save(tmp_path / "unnamed")
    model = VAEPrediction(*network, hidden=(), schema=schema)
    with pytest.raises(TrainingError, match=r"conditions: None -> \('sex',\)"):
        warm_start(model, tmp_path / "unnamed", freeze=False)
    with pytest.raises(ModelError, match="holds no model"):
        warm_start(model, tmp_path / "nothing", freeze=False)


# --- results --------------------------------------------------------------------------------------


def test_a_cox_run_reports_survival_beside_the_usual_sections(runs):
    metrics = metrics_of(runs[0])
    survival = metrics["survival"]
    assert {"reconstruction", "latent", "adherence"} < set(metrics)
    for name in ("conditions", "latent", "both", "model", "oracle"):
        assert 0.3 < survival[f"{name}_c_harrell"] < 0.95
    assert {"model_calibration_slope", "model_ibs", "model_ici"} < set(survival)
    assert "model_minus_conditions_c_harrell_low" in survival
    history = pd.read_csv(runs[0] / "history.csv")
    assert {"task_loss", "task_share", "val_partial_likelihood", "val_c_index"} <= set(history)
    assert history["task_share"].between(0, 1).all()


def test_a_saved_cox_run_predicts_what_was_measured(runs):
    model = VAE.load(runs[0])
    _, split, _ = parts_of(COX)
    test = split.test
    time, event = test.subjects["time"], test.subjects["event"]
    log_hazard = model.predict_log_hazard(test.ecg, test.subjects)
    reported = metrics_of(runs[0])["survival"]["model_c_harrell"]
    assert reported == pytest.approx(concordance_index(time, -log_hazard, event), abs=1e-6)
    # On the subjects it was fitted on, Breslow's baseline expects as many events as there were.
    part = split.train
    last = model.predict_survival(part.ecg, part.subjects, [0.0, *part.subjects["time"]])[:, 1:]
    expected_events = -np.log(np.diag(last)).sum()
    assert expected_events == pytest.approx(part.subjects["event"].sum(), rel=0.01)


def test_a_cox_run_draws_its_figures_and_shows_them_in_the_report(runs):
    report = (runs[0] / "report.html").read_text()
    for name in RISK_FIGURES:
        assert (runs[0] / "figures" / f"{name}.png").stat().st_size > 10_000
    assert report.count("data:image/png") == len(list((runs[0] / "figures").glob("*.png")))


def test_a_binary_run_reports_prediction(runs):
    metrics = metrics_of(runs[1])
    assert "survival" not in metrics
    prediction = metrics["prediction"]
    assert prediction["auc_low"] < prediction["auc"] < prediction["auc_high"]
    _, split, _ = parts_of(COX)
    shares = split.test.subjects["event"].mean()
    assert prediction["brier_null"] == pytest.approx(shares * (1 - shares))
    assert prediction["recordings"] == len(split.test)


def test_outcomes_without_events_end_a_run_with_one_line_on_the_screen(
    tmp_path, monkeypatch, capsys
):
    table = COHORT.subjects[["subject_id", "time"]].assign(event=0)
    table.to_csv(tmp_path / "outcomes.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "PRESETS", {"tiny": replace(COX, run="tiny")})
    typed = ("--preset", "tiny", "--data.outcomes", "outcomes.csv")
    assert "No events" in one_line(script.main, "train.py: ", capsys, *typed)
