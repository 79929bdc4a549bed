"""Metrics of a head for classes and numbers, against scipy, lifelines, Keras and closed forms."""

import keras
import numpy as np
import pytest
from lifelines.utils import concordance_index
from scipy import stats
from scipy.special import expit

from evaluation.measures.prediction import prediction_metrics

N = 120


def binary(seed=0, n=N):
    """Logits (n, 1), with ties, and classes (n,)."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, n)
    return (target + rng.normal(0, 1.5, n)).round(1)[:, None].astype(np.float32), target


def measured(task, output, target, patients=None, **options):
    patients = np.arange(len(target)) if patients is None else patients
    return prediction_metrics(task, output, target, patients, **{"draws": 200} | options)


def test_auc_is_the_concordance_of_lifelines_and_the_u_statistic_of_scipy():
    logits, target = binary()
    found = measured("binary", logits, target)
    # A positive subject is an event at time 1, and everyone else outlives it.
    assert found["auc"] == pytest.approx(concordance_index(2 - target, -logits[:, 0], target))
    score = logits[:, 0].astype(float)
    u = stats.mannwhitneyu(score[target == 1], score[target == 0]).statistic
    assert found["auc"] == pytest.approx(u / ((target == 1).sum() * (target == 0).sum()))
    assert 0.6 < found["auc"] < 0.8
    assert measured("binary", -logits, target)["auc"] == pytest.approx(1 - found["auc"])


def test_brier_score_is_the_mean_squared_error_of_the_probability():
    logits, target = binary()
    found = measured("binary", logits, target)
    assert found["brier"] == pytest.approx(np.mean((expit(logits[:, 0]) - target) ** 2))
    assert found["brier_null"] == pytest.approx(np.mean((target.mean() - target) ** 2))
    # Keras has the same quantity from the probabilities.
    score = keras.losses.MeanSquaredError()(target[:, None], expit(logits))
    assert found["brier"] == pytest.approx(float(score), rel=1e-5)


def test_log_loss_is_the_cross_entropy_of_keras_and_the_null_the_entropy_of_scipy():
    rng = np.random.default_rng(1)
    target = rng.choice(3, N, p=[0.5, 0.3, 0.2])
    logits = (2 * np.eye(3)[target] + rng.normal(0, 2, (N, 3))).astype(np.float32)
    found = measured("multiclass", logits, target)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(target, logits)
    assert found["log_loss"] == pytest.approx(float(entropy), rel=1e-5)
    shares = np.bincount(target) / N
    assert found["log_loss_null"] == pytest.approx(stats.entropy(shares))
    assert found["accuracy_null"] == pytest.approx(shares.max())
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    accuracy.update_state(target, logits)
    assert found["accuracy"] == pytest.approx(float(accuracy.result()))


def test_a_class_that_the_test_split_lacks_changes_no_measure_of_the_others():
    rng = np.random.default_rng(2)
    target, logits = rng.integers(0, 2, N), rng.normal(size=(N, 3))
    found = measured("multiclass", logits, target)
    assert found["log_loss_null"] == pytest.approx(stats.entropy(np.bincount(target) / N))
    assert all(np.isfinite(value) for value in found.values())


def test_regression_is_measured_in_units_of_the_target_and_by_explained_variance():
    rng = np.random.default_rng(3)
    target = rng.normal(130, 30, N)
    output = (target + rng.normal(5, 10, N))[:, None]
    found = measured("regression", output, target)
    error = output[:, 0] - target
    assert found["mae"] == pytest.approx(np.abs(error).mean())
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    r2 = keras.metrics.R2Score(dtype="float64")
    r2.update_state(target[:, None], output)
    assert found["r2"] == pytest.approx(float(r2.result()), rel=1e-5)
    assert found["mae_null"] == pytest.approx(np.abs(target - target.mean()).mean())
    # The prediction of a least-squares line explains the square of the correlation.
    fitted = stats.linregress(output[:, 0], target)
    line = fitted.intercept + fitted.slope * output
    assert measured("regression", line, target)["r2"] == pytest.approx(fitted.rvalue**2)


def test_the_interval_of_the_error_is_that_of_the_standard_error():
    rng = np.random.default_rng(4)
    target = rng.normal(size=400)
    found = measured("regression", np.zeros((400, 1)), target, draws=2000)
    half = 1.96 * np.abs(target).std() / 20
    assert found["mae_low"] == pytest.approx(found["mae"] - half, abs=0.1 * half)
    assert found["mae_high"] == pytest.approx(found["mae"] + half, abs=0.1 * half)


def test_recordings_of_a_patient_are_drawn_together():
    rng = np.random.default_rng(5)
    target = rng.normal(size=100)
    alone = measured("regression", np.zeros((100, 1)), target, draws=1000)
    # Four copies of each: as much is known as before, so the interval stays as wide.
    copies, patients = np.repeat(target, 4), np.repeat(np.arange(100), 4)
    together = measured("regression", np.zeros((400, 1)), copies, patients, draws=1000)
    width, other = (found["rmse_high"] - found["rmse_low"] for found in (alone, together))
    assert other == pytest.approx(width, rel=0.1)
    assert together["recordings"] == 400


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_each_measure_has_an_interval_around_it_and_the_seed_fixes_it(task):
    logits, target = binary()
    output = np.concatenate([0 * logits, logits], axis=1) if task == "multiclass" else logits
    found = measured(task, output, target, seed=7)
    assert found == measured(task, output, target, seed=7)
    assert found != measured(task, output, target, seed=8)
    for name in [name for name in found if f"{name}_low" in found]:
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    without = {name for name in found if name.endswith("_null")} | {"recordings"}
    ends = {f"{name}_{end}" for name in found for end in ("low", "high")}
    assert {name for name in found if f"{name}_low" not in found} - ends == without


def test_a_draw_of_one_class_only_does_not_spoil_the_interval_of_the_auc():
    logits, target = np.arange(6.0)[:, None], np.array([0, 0, 0, 0, 0, 1])
    found = measured("binary", logits, target)
    assert found["auc"] == found["auc_low"] == found["auc_high"] == 1
