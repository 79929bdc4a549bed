import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.conditions import Condition, ConditionSchema
from evaluation.measures.latent import (
    kl_per_dimension,
    latent_metrics,
    probe_targets,
)
from evaluation.measures.statistics import weighted_auc

rng = np.random.default_rng(3)
N = 400
AGE = rng.uniform(20, 90, N)
SEX = (rng.uniform(size=N) < 0.4).astype(float)
BMI = rng.normal(27, 4, N)
MEAN = np.stack([(AGE - 55) / 20, SEX - 0.4, rng.normal(size=N), 0.001 * rng.normal(size=N)], 1)
LOG_VAR = np.log(np.broadcast_to([0.1, 0.5, 0.2, 1.0], MEAN.shape))
CONDITIONS = np.stack([AGE, SEX, BMI], axis=1)
NAMES = ("age", "sex", "bmi")
METRICS = latent_metrics(MEAN, LOG_VAR, CONDITIONS, NAMES, seed=1)


def test_kl_equals_the_mean_log_density_ratio_of_samples():
    z = rng.normal(0.7, np.sqrt(0.3), size=400_000)
    ratio = stats.norm.logpdf(z, 0.7, np.sqrt(0.3)) - stats.norm.logpdf(z)
    kl = kl_per_dimension(np.array([[0.7]]), np.log([[0.3]]))
    assert kl.item() == pytest.approx(ratio.mean(), abs=0.005)


def test_the_total_is_the_sum_over_dimensions_and_has_an_interval():
    parts = [METRICS[f"kl_{number}"] for number in range(4)]
    assert METRICS["kl_total"] == pytest.approx(sum(parts))
    per_subject = kl_per_dimension(MEAN, LOG_VAR).sum(axis=1)
    interval = stats.bootstrap((per_subject,), np.mean, method="percentile", rng=rng)
    low, high = interval.confidence_interval
    assert METRICS["kl_total_low"] == pytest.approx(low, abs=0.05 * (high - low))
    assert METRICS["kl_total_high"] == pytest.approx(high, abs=0.05 * (high - low))


def test_aggregate_posterior_has_the_moments_of_samples_from_it():
    z = MEAN + np.exp(LOG_VAR / 2) * rng.normal(size=(500, *MEAN.shape))
    for number in range(4):
        sample = z[..., number]
        assert METRICS[f"aggregate_mean_{number}"] == pytest.approx(sample.mean(), abs=0.01)
        assert METRICS[f"aggregate_sd_{number}"] == pytest.approx(sample.std(), rel=0.01)


def test_a_used_dimension_is_active_and_a_dead_one_is_not():
    assert METRICS["dimensions"] == 4
    assert METRICS["active_units"] == 3
    assert METRICS["active_units_kl"] == 3
    assert METRICS["mean_variance_2"] == pytest.approx(np.var(MEAN[:, 2]))
    assert METRICS["collapsed"] is False


def test_a_varying_mean_in_a_wide_posterior_is_active_in_the_weak_sense_only():
    mean = rng.normal(0, 0.15, size=(N, 6))  # variance 0.0225, KL about 0.011 nat
    metrics = latent_metrics(mean, np.zeros_like(mean), np.zeros((N, 0)), ())
    assert metrics["active_units"] == 6
    assert metrics["active_units_kl"] == 0
    assert metrics["collapsed"] is True


@pytest.mark.parametrize(("used", "collapsed"), [(2, True), (3, False)])
def test_collapse_means_that_fewer_than_half_of_the_dimensions_are_in_use(used, collapsed):
    mean = rng.normal(size=(N, 6)) * (np.arange(6) < used)
    metrics = latent_metrics(mean, np.zeros_like(mean), np.zeros((N, 0)), (), draws=2)
    assert metrics["active_units_kl"] == used
    assert metrics["collapsed"] is collapsed


def test_a_shifted_but_constant_dimension_has_kl_and_is_not_active():
    metrics = latent_metrics(np.full((N, 1), 2.0), np.zeros((N, 1)), np.zeros((N, 0)), ())
    assert metrics["kl_0"] == pytest.approx(2.0)
    assert metrics["active_units_kl"] == 0


def test_probes_find_what_the_code_holds_and_nothing_else():
    assert METRICS["probe_r2_age"] > 0.99
    assert METRICS["probe_auc_sex"] == pytest.approx(1.0, abs=1e-6)
    assert METRICS["probe_r2_bmi"] < 0.02
    assert METRICS["probe_r2_bmi_low"] < METRICS["probe_r2_bmi"] < METRICS["probe_r2_bmi_high"]


def test_probe_r2_matches_the_known_share_of_explained_variance():
    code = rng.normal(size=(4000, 2))
    noisy = code[:, 0] + rng.normal(size=4000)  # half of the variance
    metrics = latent_metrics(code, np.zeros_like(code), noisy[:, None], ["x"])
    assert metrics["probe_r2_x"] == pytest.approx(0.5, abs=0.04)
    assert metrics["probe_r2_x_low"] < 0.5 < metrics["probe_r2_x_high"]


def test_probes_of_few_subjects_find_nothing_where_nothing_is():
    r2, auc = [], []
    for trial in range(30):
        of = np.random.default_rng(trial)
        code = of.normal(size=(40, 10))
        values = np.stack([of.normal(size=40), of.permutation(40) < 14], axis=1)
        metrics = latent_metrics(code, np.zeros_like(code), values, ["x", "y"], draws=2)
        r2.append(metrics["probe_r2_x"])
        auc.append(metrics["probe_auc_y"])
    assert -0.15 < np.median(r2) < 0.05  # without a penalty about -0.4
    assert np.mean(auc) == pytest.approx(0.5, abs=0.06)


def test_probes_do_not_learn_a_patient_by_heart():
    who = np.repeat(np.arange(40), 10)
    code = np.eye(40)[who] + 0.01 * rng.normal(size=(400, 40))
    values = rng.normal(size=40)[who][:, None]  # a property of the patient, not of the code
    by_patient = latent_metrics(code, np.zeros_like(code), values, ["x"], patients=who)
    by_recording = latent_metrics(code, np.zeros_like(code), values, ["x"])
    assert by_patient["probe_r2_x"] < 0.1
    assert by_recording["probe_r2_x"] > 0.9


def test_missing_conditions_are_left_out_and_constant_or_rare_ones_get_no_probe():
    holes = CONDITIONS.copy()
    holes[rng.uniform(size=N) < 0.3, 0] = np.nan
    holes[:, 1] = 1
    holes[8:, 2] = np.nan
    metrics = latent_metrics(MEAN, LOG_VAR, holes, NAMES)
    assert metrics["probe_r2_age"] > 0.99
    assert not any(name.startswith(("probe_auc_sex", "probe_r2_bmi")) for name in metrics)


def test_auc_equals_that_of_mann_whitney_with_ties_and_repeated_subjects():
    score = rng.integers(0, 6, 80).astype(float)
    positive = rng.uniform(size=80) < 0.4
    weights = rng.integers(0, 4, size=(5, 80)).astype(np.float32)
    for row, auc in zip(weights, weighted_auc(weights, score, positive), strict=True):
        repeated = np.repeat(np.arange(80), row.astype(int))
        x = score[repeated][positive[repeated]]
        y = score[repeated][~positive[repeated]]
        expected = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
        assert auc == pytest.approx(expected, rel=1e-6)


def test_scores_that_are_infinite_are_ties_as_others_are():
    score = np.array([-np.inf, np.inf, 0.0, np.inf, -np.inf, np.inf])
    positive = np.array([True, False, False, True, False, True])
    expected = stats.mannwhitneyu(score[positive], score[~positive]).statistic / 9
    [auc] = weighted_auc(np.ones((1, 6)), score, positive)
    assert auc == pytest.approx(expected)


def test_auc_without_one_of_the_classes_is_not_a_number():
    auc = weighted_auc(np.array([[1.0, 0.0]]), np.array([0.1, 0.2]), np.array([True, False]))
    assert np.isnan(auc).all()


def test_probe_targets_are_the_values_with_one_column_per_category():
    schema = ConditionSchema(
        [
            Condition("age", unit="years"),
            Condition("sex", "binary", categories=("female", "male")),
            Condition("class", "categorical", categories=("NORM", "MI", "CD")),
            Condition("lvef", unit="%"),
        ]
    )
    subjects = pd.DataFrame(
        {"age": [50.0, np.nan], "sex": ["male", None], "class": ["MI", None], "other": [1, 2]}
    )
    targets, names = probe_targets(schema, subjects)
    assert names == ["age", "sex", "class_NORM", "class_MI", "class_CD"]
    np.testing.assert_array_equal(targets, [[50, 1, 0, 1, 0], [np.nan] * 5])


def test_probe_targets_without_conditions_have_no_column():
    targets, names = probe_targets(ConditionSchema([]), pd.DataFrame({"age": [1, 2, 3]}))
    assert targets.shape == (3, 0)
    assert names == []


def test_every_metric_is_a_plain_number_or_bool():
    assert {type(value) for value in METRICS.values()} == {float, int, bool}
    assert latent_metrics(MEAN, LOG_VAR, CONDITIONS, NAMES, seed=1) == METRICS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_var": LOG_VAR[:, :2]}, "Expected mean and log_var of the same shape"),
        ({"names": ("age",)}, r"Expected conditions of shape \(400, 1\)"),
        ({"patients": [1, 2]}, "one patient id for each of 400 rows. Received: 2"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    given = {"mean": MEAN, "log_var": LOG_VAR, "conditions": CONDITIONS, "names": NAMES}
    with pytest.raises(ValueError, match=message):
        latent_metrics(**(given | change))
