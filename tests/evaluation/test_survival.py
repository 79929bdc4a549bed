"""Survival measures against lifelines, double loops from the definitions and simulated truth."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.calibration import survival_probability_calibration
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar

from evaluation.figures.survival import (
    plot_calibration,
    plot_kaplan_meier,
    plot_survival_curves,
)
from evaluation.measures.survival import (
    HORIZON_PERCENTILES,
    SurvivalError,
    SurvivalSplit,
    logrank_p,
    risk_groups,
    survival_metrics,
)
from evaluation.measures.survival_scores import (
    brier_scores,
    calibration_curve,
    censoring_survival,
    concordance,
    step_function,
    weighted_cox,
)


def outcomes(seed, n, whole_years=False, censored=True):
    """Log hazard, time, event: exponential times, censored at random and after 10 years."""
    random = np.random.default_rng(seed)
    log_hazard = random.normal(size=n)
    time = random.exponential(8 * np.exp(-log_hazard))
    end = np.minimum(random.exponential(10, n), 10) if censored else np.full(n, np.inf)
    observed = np.minimum(time, end)
    return log_hazard, np.ceil(observed) if whole_years else observed, (time <= end).astype(int)


def split(seed, n, head=True, **changes):
    """A split whose outcome depends on age, sex and two of three latent dimensions."""
    random = np.random.default_rng(seed)
    conditions = pd.DataFrame(
        {"age": random.uniform(30, 80, n), "sex": random.choice(["female", "male"], n)}
    )
    latent = random.normal(size=(n, 3))
    true = (
        0.04 * (conditions["age"] - 55)
        + 0.4 * (conditions["sex"] == "male")
        + latent @ (0.8, -0.5, 0)
    )
    true = true.to_numpy()
    time = random.exponential(12 * np.exp(-true))
    end = np.minimum(random.exponential(20, n), 10)
    fields = {
        "conditions": conditions,
        "latent": latent,
        "time": np.minimum(time, end),
        "event": (time <= end).astype(int),
        "log_hazard": 2 * true if head else None,
        "true_log_hazard": true if head else None,
    }
    return SurvivalSplit(**(fields | changes))


def exponential_baseline(rate=1 / 12, power=1.0):
    """Cumulative hazard of the simulated splits, as a fine step function."""
    times = np.linspace(0.01, 12, 1200)
    return times, rate * times**power


@pytest.fixture(scope="module")
def splits():
    return split(0, 800), split(1, 400)


@pytest.fixture(scope="module")
def metrics(splits):
    return survival_metrics(*splits, baseline=exponential_baseline(), horizons=(2, 5, 8), draws=200)


@pytest.mark.parametrize("whole_years", [False, True])
def test_concordance_equals_lifelines_for_the_sample_and_for_bootstrap_draws(whole_years):
    score, time, event = outcomes(0, 150, whole_years)
    score = np.round(score, 1)  # ties
    drawn = np.random.default_rng(1).integers(150, size=(3, 150))
    weights = np.stack([np.ones(150), *(np.bincount(rows, minlength=150) for rows in drawn)])
    expected = [
        concordance_index(time[rows], -score[rows], event[rows])
        for rows in (np.arange(150), *drawn)
    ]
    np.testing.assert_allclose(concordance(score, time, event, weights), expected, rtol=1e-6)


def test_concordance_in_many_chunks_is_the_same(monkeypatch):
    score, time, event = outcomes(2, 100)
    whole = concordance(score, time, event, np.ones((1, 100)))
    monkeypatch.setattr("evaluation.measures.survival_scores.PAIRS_PER_CHUNK", 700)
    np.testing.assert_allclose(concordance(score, time, event, np.ones((1, 100))), whole, rtol=1e-6)


def test_uno_concordance_does_not_depend_on_censoring_where_harrell_does():
    score, time, _ = outcomes(3, 4000, censored=False)
    # A score whose order is right early and reversed late, so that the follow-up matters.
    score = np.where(time < 4, score, -score)
    one, horizon = np.ones((1, 4000)), 8.0
    early = (time <= horizon).astype(float)
    complete = concordance(score, time, np.ones(4000), one, early)[0]
    end = np.random.default_rng(4).exponential(6, 4000)
    observed, event = np.minimum(time, end), (time <= end).astype(int)
    g = step_function(*censoring_survival(observed, event), observed, start=1.0, side="left")
    importance = event * (observed <= horizon) / np.maximum(g, 1e-9) ** 2
    uno = concordance(score, observed, event, one, importance)[0]
    harrell = concordance(score, observed, event, one)[0]
    assert uno == pytest.approx(complete, abs=0.02)
    assert abs(harrell - complete) > 0.04


def test_censoring_distribution_puts_events_before_censoring():
    _, time, event = outcomes(5, 200)
    times, g = censoring_survival(time, event)
    expected = KaplanMeierFitter().fit(time, 1 - event).predict(times).to_numpy()
    np.testing.assert_allclose(g, expected, rtol=1e-12)
    # Tied: at time 2, one event leaves first, then one of the two still there is censored.
    times, g = censoring_survival(np.array([1, 2, 2, 3]), np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(g, [3 / 4, 3 / 8, 3 / 8])


def test_brier_score_is_that_of_the_definition():
    log_hazard, time, event = outcomes(6, 60, whole_years=True)
    times = np.array([1.5, 4.0, 7.0])
    survival = np.exp(-times / 8 * np.exp(log_hazard)[:, None])
    censoring = censoring_survival(time, event)
    expected = np.zeros((60, 3))
    for subject in range(60):
        for column, moment in enumerate(times):
            if time[subject] <= moment and event[subject]:
                earlier = censoring[0] < time[subject]
                g = censoring[1][earlier][-1] if earlier.any() else 1
                expected[subject, column] = survival[subject, column] ** 2 / g
            elif time[subject] > moment:
                g = censoring[1][censoring[0] <= moment][-1]
                expected[subject, column] = (1 - survival[subject, column]) ** 2 / g
    found = brier_scores(survival, times, time, event, censoring)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_brier_score_under_censoring_estimates_the_one_without():
    log_hazard, time, _ = outcomes(7, 5000, censored=False)
    times = np.array([2.0, 6.0])
    survival = np.exp(-times / 8 * np.exp(log_hazard)[:, None])
    everyone = np.ones(5000, int)
    complete = brier_scores(survival, times, time, everyone, censoring_survival(time, everyone))
    np.testing.assert_allclose(complete, ((time[:, None] > times) - survival) ** 2)
    end = np.random.default_rng(8).exponential(10, 5000)
    observed, event = np.minimum(time, end), (time <= end).astype(int)
    found = brier_scores(survival, times, observed, event, censoring_survival(observed, event))
    np.testing.assert_allclose(found.mean(axis=0), complete.mean(axis=0), atol=0.01)


def test_a_cohort_that_was_followed_otherwise_than_training_is_judged_as_if_followed_throughout():
    rng = np.random.default_rng(21)

    def followed(n, end):
        score = rng.standard_normal(n)
        time = rng.exponential(8 * np.exp(-score))
        table, latent = pd.DataFrame({"x": score}), np.zeros((n, 1))
        observed, event = np.minimum(time, end), time <= end
        return SurvivalSplit(table, latent, observed, event, score), time

    train, _ = followed(2000, rng.exponential(4, 2000))
    test, time = followed(2000, rng.uniform(0, 8, 2000))
    found = survival_metrics(train, test, exponential_baseline(), [2.0, 6.0], draws=2)
    complete = replace(test, time=np.minimum(time, 7), event=time <= 7)
    truth = survival_metrics(train, complete, exponential_baseline(), [2.0, 6.0], draws=2)
    for name in ("model_ibs", "kaplan_meier_ibs", "model_c_uno", "model_auc_1", "model_auc_2"):
        assert found[name] == pytest.approx(truth[name], abs=0.012), name


def test_without_a_maximum_or_an_event_a_regression_has_no_coefficient():
    x, time = np.arange(40.0), np.arange(40.0, 0, -1)  # the five highest have the event, in order
    event, weights = x > 34, np.ones((2, 40))
    weights[1, event] = 0
    coefficients, _ = weighted_cox(x[:, None], time, event, weights, 10.0)
    assert np.isnan(coefficients).all()
    event[3], time[3] = True, 5  # one of low risk, too
    coefficients, _ = weighted_cox(x[:, None], time, event, weights, 10.0)
    assert np.isfinite(coefficients[0]).all()


@pytest.mark.parametrize("discordant", [0, 1, 2])
def test_a_calibration_slope_that_many_samples_lack_has_no_interval(splits, discordant):
    train, _ = splits
    score = np.random.default_rng(3).standard_normal(40)
    order = np.argsort(-score)
    time, event = np.full(40, 8.0), np.zeros(40)
    time[order[:5]], event[order[:5]] = np.arange(1, 6), 1  # the highest risks, in order
    late = order[30 : 30 + discordant]  # of the samples a third lack one, an eighth lack two
    time[late], event[late] = 5.5, 1
    conditions = train.conditions.iloc[:40]
    test = SurvivalSplit(conditions, train.latent[:40], time, event, score)
    found = survival_metrics(train, test, exponential_baseline(), [2.0, 5.0], draws=40)
    assert np.isnan(found["model_calibration_slope"]) == (not discordant)
    assert np.isnan(found["model_calibration_slope_low"])
    assert np.isnan(found["model_calibration_slope_high"])


def test_weighted_cox_regression_equals_lifelines():
    log_hazard, time, event = outcomes(9, 200)
    random = np.random.default_rng(10)
    x = np.stack([log_hazard + random.normal(size=200), 5 + 3 * random.normal(size=200)], axis=1)
    weights = np.stack([np.ones(200), random.uniform(0.5, 2, 200)])
    coefficients, hazard = weighted_cox(x, time, event, weights, horizon=4.0)
    table = pd.DataFrame(x).assign(time=time, event=event)
    for row, options in enumerate(({}, {"weights_col": "weight", "robust": True})):
        data = table.assign(weight=weights[1]) if options else table
        fitted = CoxPHFitter().fit(data, "time", "event", **options)
        np.testing.assert_allclose(coefficients[row], fitted.params_, atol=1e-5)
        if row == 0:  # lifelines centres at the weighted mean
            expected = fitted.baseline_cumulative_hazard_.loc[:4.0].iloc[-1, 0]
            assert hazard[row] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("far", [8.0, 15.0])
def test_weighted_cox_regression_is_the_maximum_even_if_one_subject_is_far_out(far):
    random = np.random.default_rng(0)
    x = random.normal(size=200)
    x[0] = far
    time = random.exponential(np.exp(-np.clip(x, -3, 3)))
    event = random.random(200) < 0.7

    def loss(beta, times):  # Efron's, as it is defined; lifelines stops 1e-5 before its maximum
        nats = 0
        for at in np.unique(times[event]):
            dying = (times == at) & event
            all_at_risk, of_dying = (np.exp(beta * x[rows]).sum() for rows in (times >= at, dying))
            shares = np.arange(dying.sum()) / dying.sum()
            nats += np.log(all_at_risk - shares * of_dying).sum() - beta * x[dying].sum()
        return nats

    for times in (time, np.ceil(4 * time) / 4):  # with ties, too
        [[found]], _ = weighted_cox(x[:, None], times, event, np.ones((1, 200)), np.inf)
        best = minimize_scalar(loss, (0, 1), args=(times,), options={"xtol": 1e-10}).x
        assert found == pytest.approx(best, abs=1e-6)


def test_recordings_of_one_patient_are_no_independent_observations():
    random, found = np.random.default_rng(3), []
    patients = np.repeat(np.arange(40), 6)
    for _ in range(100):
        time, event = random.exponential(5, 40), random.random(40) < 0.6
        group = random.integers(0, 2, 40)
        found.append(logrank_p(time[patients], event[patients], group[patients], patients))
    assert np.mean(np.array(found) < 0.05) < 0.15
    expected = multivariate_logrank_test(time, group, event).p_value
    assert found[-1] == pytest.approx(expected)


def test_a_category_that_training_never_saw_is_unknown(splits):
    train, test = splits
    smoking = [np.resize(["former", "never"], len(part)) for part in splits]
    train = replace(train, conditions=pd.DataFrame({"smoking": smoking[0]}))
    test = replace(test, conditions=pd.DataFrame({"smoking": smoking[1]}))
    known = survival_metrics(train, test, exponential_baseline(), draws=100)
    assert known["conditions_imputed"] == 0
    test.conditions.loc[:9, "smoking"] = "current"
    unknown = survival_metrics(train, test, exponential_baseline(), draws=100)
    assert unknown["conditions_imputed"] == 10


def test_calibration_index_agrees_with_lifelines():
    x, time, event = outcomes(11, 600)
    table = pd.DataFrame({"x": x, "time": time, "event": event})
    model = CoxPHFitter(penalizer=0.3).fit(table, "time", "event")  # shrunk: miscalibrated
    axes = Figure().add_subplot()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lifelines.calibration.plt.tight_layout", lambda: None)
        _, expected, _ = survival_probability_calibration(model, table, 4.0, ax=axes)
    probability = 1 - model.predict_survival_function(table, times=[4.0]).to_numpy()[0]
    observed = calibration_curve(probability, time, event, 4.0)
    assert expected > 0.05
    assert np.abs(observed - probability).mean() == pytest.approx(expected, abs=0.015)


def test_calibration_curve_is_a_cox_regression_on_a_natural_spline_of_three_knots():
    x, time, event = outcomes(13, 400)
    x = np.exp(x / 2) - 2
    knots = np.quantile(x, (0.1, 0.5, 0.9))
    spline = CubicSpline(knots, (0, 1, 0), bc_type="natural")
    inside = np.clip(x, knots[0], knots[2])
    bend = spline(inside) + spline(inside, 1) * (x - inside)  # straight beyond the knots
    table = pd.DataFrame({"x": x, "bend": bend, "time": time, "event": event})
    fitted = CoxPHFitter().fit(table, "time", "event")
    expected = 1 - fitted.predict_survival_function(table, times=[4.0]).to_numpy()[0]
    observed = calibration_curve(-np.expm1(-np.exp(x)), time, event, 4.0)
    assert np.abs(fitted.params_["bend"] / fitted.standard_errors_["bend"]) > 3
    np.testing.assert_allclose(observed, expected, atol=1e-3)


def test_calibration_curve_finds_the_true_probability_of_distorted_predictions():
    x, time, event = outcomes(12, 5000)
    truth = 1 - np.exp(-4 / 8 * np.exp(x))
    observed = calibration_curve(truth**2, time, event, 4.0)
    assert np.abs(observed - truth).mean() < 0.02
    assert np.abs(truth**2 - truth).mean() > 0.15


def test_metrics_are_plain_numbers_with_intervals_around_them(metrics):
    json.dumps(metrics, allow_nan=False)
    assert {type(value) for value in metrics.values()} <= {int, float}
    for name in metrics:
        if name.endswith("_low"):
            name = name.removesuffix("_low")
            assert metrics[f"{name}_low"] <= metrics[f"{name}_high"]
            if not name.endswith("_ici"):  # a mean of absolute values, pushed up by resampling
                assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert metrics["test_subjects"] == 400
    assert (metrics["horizon_1"], metrics["horizon_3"]) == (2, 8)


def test_models_are_those_of_lifelines(splits, metrics):
    train, test = splits
    tables = [
        pd.DataFrame(part.latent).assign(
            age=part.conditions["age"],
            male=(part.conditions["sex"] == "male").astype(float),
            time=part.time,
            event=part.event,
        )
        for part in splits
    ]
    for name, columns in (
        ("conditions", ["age", "male"]),
        ("latent", [0, 1, 2]),
        ("both", [0, 1, 2, "age", "male"]),
    ):
        fitted = CoxPHFitter().fit(tables[0][[*columns, "time", "event"]], "time", "event")
        risk = fitted.predict_log_partial_hazard(tables[1])
        expected = concordance_index(test.time, -risk, test.event)
        assert metrics[f"{name}_c_harrell"] == pytest.approx(expected, abs=2e-3)
        slope = CoxPHFitter().fit(
            pd.DataFrame({"risk": risk, "time": test.time, "event": test.event}), "time", "event"
        )
        # The ridge of one event's worth shrinks by about 1 / events.
        assert metrics[f"{name}_calibration_slope"] == pytest.approx(
            slope.params_["risk"], rel=0.01
        )
        groups = risk_groups(fitted.predict_log_partial_hazard(tables[0]), risk)
        p = multivariate_logrank_test(test.time, groups, test.event).p_value
        assert np.log(metrics[f"{name}_logrank_p"]) == pytest.approx(np.log(p), rel=0.05)


def test_uno_auc_and_brier_of_the_head_are_those_of_double_loops(splits, metrics):
    train, test = splits
    times, g = censoring_survival(test.time, test.event)
    weight = np.zeros(len(test))
    for row in np.flatnonzero(test.event):
        earlier = times < test.time[row]
        weight[row] = 1 / (g[earlier][-1] if earlier.any() else 1)
    for number, horizon in enumerate((2, 5, 8), 1):
        right = total = 0.0
        for case in np.flatnonzero(test.event & (test.time <= horizon)):
            for control in np.flatnonzero(test.time > horizon):
                total += weight[case]
                right += weight[case] * (test.log_hazard[case] > test.log_hazard[control])
        assert metrics[f"model_auc_{number}"] == pytest.approx(right / total, rel=1e-6)
    right = total = 0.0
    for case in np.flatnonzero(test.event & (test.time <= 8)):
        for later in np.flatnonzero(test.time > test.time[case]):
            total += weight[case] ** 2
            right += weight[case] ** 2 * (test.log_hazard[case] > test.log_hazard[later])
    assert metrics["model_c_uno"] == pytest.approx(right / total, rel=1e-6)
    grid = np.linspace(0, 8, 101)
    hazard = np.concatenate([[0], exponential_baseline()[1]])
    hazard = hazard[np.searchsorted(exponential_baseline()[0], grid, side="right")]
    survival = np.exp(-hazard * np.exp(test.log_hazard)[:, None])
    scores = brier_scores(survival, grid, test.time, test.event, (times, g)).mean(axis=0)
    expected = ((scores[1:] + scores[:-1]) / 2).mean()
    assert metrics["model_ibs"] == pytest.approx(expected, rel=1e-9)
    known = KaplanMeierFitter().fit(train.time, train.event).predict(grid).to_numpy()
    scores = brier_scores(known, grid, test.time, test.event, (times, g)).mean(axis=0)
    expected = ((scores[1:] + scores[:-1]) / 2).mean()
    assert metrics["kaplan_meier_ibs"] == pytest.approx(expected, rel=1e-9)
    expected = 1 - metrics["model_ibs"] / metrics["kaplan_meier_ibs"]
    assert metrics["model_ibs_skill"] == pytest.approx(expected)


def test_in_whole_years_those_lost_in_the_year_of_the_horizon_are_no_controls(splits):
    train, test = (replace(part, time=np.ceil(part.time)) for part in splits)
    found = survival_metrics(train, test, exponential_baseline(), horizons=(2, 5), draws=2)
    g = step_function(*censoring_survival(test.time, test.event), test.time, 1.0, side="left")
    case, control = test.event & (test.time <= 5), test.time > 5
    right = test.log_hazard[case, None] > test.log_hazard[control]
    expected = np.average(right.mean(axis=1), weights=1 / g[case])
    assert found["model_auc_2"] == pytest.approx(expected, rel=1e-6)


def test_simulated_truth_is_recognised(metrics):
    # The head says twice the true log hazard: its order is perfect, its spread is not.
    assert metrics["model_c_harrell"] == pytest.approx(metrics["oracle_c_harrell"])
    assert metrics["oracle_minus_model_c_harrell"] == 0
    assert metrics["model_log_hazard_r"] == pytest.approx(1)
    assert metrics["model_calibration_slope"] == pytest.approx(
        metrics["oracle_calibration_slope"] / 2
    )
    assert metrics["model_calibration_slope_high"] < 0.8
    assert metrics["oracle_calibration_slope_low"] < 1 < metrics["oracle_calibration_slope_high"]
    assert metrics["model_ici"] > 2 * metrics["both_ici"]
    assert metrics["both_log_hazard_r"] > 0.97
    assert metrics["both_minus_conditions_c_harrell_low"] > 0
    assert metrics["both_minus_conditions_ibs_high"] < 0
    assert metrics["both_ibs_skill_low"] > 0


def test_paired_differences_are_more_certain_than_the_models(metrics):
    def width(name):
        return metrics[f"{name}_high"] - metrics[f"{name}_low"]

    expected = metrics["both_c_uno"] - metrics["conditions_c_uno"]
    assert metrics["both_minus_conditions_c_uno"] == pytest.approx(expected)
    unpaired = np.hypot(width("both_c_uno"), width("conditions_c_uno"))
    assert width("both_minus_conditions_c_uno") < 0.9 * unpaired


def test_recordings_of_one_patient_are_drawn_together():
    train, test = split(2, 300, head=False), split(3, 200, head=False)
    twice = np.tile(np.arange(200), 2)
    doubled = SurvivalSplit(
        test.conditions.iloc[twice], test.latent[twice], test.time[twice], test.event[twice]
    )
    as_strangers = survival_metrics(train, doubled, draws=150)
    doubled.patients = twice
    as_patients = survival_metrics(train, doubled, draws=150)
    assert as_patients["both_c_harrell"] == as_strangers["both_c_harrell"]
    width = [
        result["both_c_harrell_high"] - result["both_c_harrell_low"]
        for result in (as_patients, as_strangers)
    ]
    assert width[0] / width[1] == pytest.approx(np.sqrt(2), rel=0.25)


def test_missing_and_constant_conditions_and_a_split_without_censoring():
    train, test = split(4, 300, head=False), split(5, 150, head=False)
    for part in (train, test):
        part.conditions = part.conditions.assign(unit="mV", known=True)
        part.conditions.loc[:9, "age"] = np.nan
        part.conditions.loc[5:9, "sex"] = None
        longer = np.random.default_rng(0).uniform(0, 5, len(part))
        part.time = np.where(part.event, part.time, part.time + longer)
        part.event[:] = True
    metrics = survival_metrics(train, test, draws=20)
    assert metrics["conditions_imputed"] == 30
    assert 0.5 < metrics["conditions_c_harrell"] < metrics["both_c_harrell"] < 1
    everything = concordance_index(test.time, -test.latent[:, 0])
    assert metrics["latent_c_uno"] == pytest.approx(everything, abs=0.1)
    filled = []
    for part in (train, test):
        male = (part.conditions["sex"] == "male").where(part.conditions["sex"].notna())
        filled.append(part.conditions[["age"]].assign(male=male.astype(float)))
    for part, table in zip((train, test), filled, strict=True):
        part.conditions = table.fillna(filled[0].mean())
    by_hand = survival_metrics(train, test, draws=20)
    assert by_hand["conditions_imputed"] == 0
    assert by_hand["conditions_ibs"] == pytest.approx(metrics["conditions_ibs"], rel=1e-6)
    for part in (train, test):
        part.conditions = pd.DataFrame(index=range(len(part)))
    alone = survival_metrics(train, test, draws=20)
    assert not any(name.startswith(("conditions_c", "both")) for name in alone)
    assert alone["latent_c_harrell"] == metrics["latent_c_harrell"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event": np.zeros(30)}, "All 30 subjects are censored"),
        ({"event": np.full(30, 2)}, "events of 0 .censored. or 1. Received 2"),
        ({"time": np.arange(30.0)}, "times above 0. Received 0 in row 0"),
        ({"time": np.full(30, np.nan)}, "time is NaN or infinite in row 0"),
        ({"time": np.ones(29)}, "Expected time of 30 rows"),
        ({"latent": np.ones(30)}, "Expected latent of 30 rows"),
        ({"log_hazard": np.full(30, np.inf)}, "training diverged"),
    ],
)
def test_unusable_outcomes_are_named(changes, message):
    with pytest.raises(SurvivalError, match=message):
        split(0, 30, **changes)


def test_usual_horizons_give_way_to_a_test_split_whose_events_come_late_or_that_ends_early(splits):
    train, test = splits
    late = replace(test, time=np.maximum(test.time, np.percentile(train.time[train.event], 30)))
    first = late.time[late.event].min()
    metrics = survival_metrics(train, late, exponential_baseline(), draws=100)
    assert metrics["horizon_1"] == first
    assert metrics["horizon_2"] == np.percentile(train.time[train.event], 50)
    early = replace(test, time=np.minimum(test.time, np.percentile(train.time[train.event], 80)))
    metrics = survival_metrics(train, early, exponential_baseline(), draws=100)
    assert "horizon_2" in metrics
    assert "horizon_3" not in metrics


def test_horizons_of_a_test_split_that_was_followed_for_less_time_are_its_own(splits):
    train, test = splits
    end = np.percentile(train.time[train.event], 20)
    short = replace(test, time=np.minimum(test.time, end), event=test.event & (test.time < end))
    metrics = survival_metrics(train, short, exponential_baseline(), draws=100)
    expected = np.percentile(short.time[short.event], HORIZON_PERCENTILES)
    assert [metrics[f"horizon_{number}"] for number in (1, 2, 3)] == pytest.approx(expected)
    assert metrics["horizon_3"] < end


def test_unusable_settings_are_named(splits):
    train, test = splits
    with pytest.raises(SurvivalError, match="needs the baseline hazard"):
        survival_metrics(train, test)
    with pytest.raises(SurvivalError, match="Expected horizons below"):
        survival_metrics(train, test, exponential_baseline(), horizons=(5, 40))
    with pytest.raises(SurvivalError, match="Expected rising horizons"):
        survival_metrics(train, test, exponential_baseline(), horizons=(5, 2))
    other = split(6, 50, conditions=pd.DataFrame({"bmi": np.ones(50)}))
    with pytest.raises(SurvivalError, match="same conditions in both splits"):
        survival_metrics(train, other, exponential_baseline())


def test_risk_groups_take_their_limits_from_training():
    groups = risk_groups(np.arange(300), np.array([-5, 50, 99, 150, 250]))
    np.testing.assert_array_equal(groups, [0, 0, 0, 1, 2])


def test_kaplan_meier_figure_shows_numbers_at_risk_and_the_log_rank_p():
    log_hazard, time, event = outcomes(13, 300)
    group = risk_groups(log_hazard, log_hazard)
    figure = plot_kaplan_meier(time, event, group)
    axes, below = figure.axes
    texts = {text.get_text() for text in below.texts}
    for number in range(3):
        assert {str(int((time[group == number] >= tick).sum())) for tick in (0, 2, 4)} <= texts
    assert "p < 0.001" in axes.get_title(loc="left")
    p = multivariate_logrank_test(time, np.arange(300) % 2, event).p_value
    figure = plot_kaplan_meier(time, event, np.arange(300) % 2, labels=["even", "odd"])
    assert f"p = {p:.2g}" in figure.axes[0].get_title(loc="left")


def test_kaplan_meier_figure_counts_patients_and_names_groups_by_the_limits_of_training():
    log_hazard, time, event = outcomes(13, 60)
    low = np.repeat([0, 1], 30)  # nobody in the highest third
    names = "low", "middle", "high"
    alone = plot_kaplan_meier(time, event, low, names)
    nine = (np.repeat(part, 9) for part in (time, event, low))
    often = plot_kaplan_meier(*nine, names, patients=np.repeat(np.arange(60), 9))
    labels = [
        [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        for figure in (alone, often)
    ]
    assert labels[0] == labels[1]
    assert [label.split(" ")[0] for label in labels[0]] == ["low", "middle"]
    bands = [figure.axes[0].collections[0].get_paths()[0].vertices for figure in (alone, often)]
    np.testing.assert_allclose(*bands)
    one = plot_kaplan_meier(time, event, np.zeros(60, int), names)
    assert "nan" not in one.axes[0].get_title(loc="left")


def test_calibration_and_individual_figures_draw_what_they_are_given():
    log_hazard, time, event = outcomes(14, 300)
    probability = 1 - np.exp(-4 / 8 * np.exp(log_hazard))
    axes = plot_calibration(probability, time, event, 4.0).axes[0]
    smooth = axes.lines[1]
    np.testing.assert_allclose(smooth.get_xdata(), np.sort(probability))
    assert np.abs(smooth.get_ydata() - smooth.get_xdata()).mean() < 0.1
    early, late = (np.argsort(probability)[part] for part in (slice(30), slice(-30, None)))
    event[early], event[late] = 0, 1
    time[early], time[late] = 4, 3
    lost = np.concatenate([early[:12], late[:10]])  # of whom nobody knows whether they had it
    event[lost], time[lost] = 0, 2
    axes = plot_calibration(probability, time, event, 4.0).axes[0]
    [bars] = axes.collections
    first, second, *_, last = (path.vertices[:, 1] for path in bars.get_paths())
    rows = np.argsort(probability)[30:60]
    band = KaplanMeierFitter().fit(time[rows], event[rows]).confidence_interval_.loc[:4]
    np.testing.assert_allclose(second, 1 - band.iloc[-1, ::-1])
    np.testing.assert_allclose([*first, *last], [0, 1 - 0.025 ** (1 / 18), 0.025 ** (1 / 20), 1])
    times = np.linspace(0, 9, 10)
    curves = np.exp(-times / 8 * np.exp([-1.0, 0.0, 1.0])[:, None])
    axes = plot_survival_curves(times, curves, ["a", "b", "c"], time, event).axes[0]
    for line, curve in zip(axes.lines[1:], curves, strict=True):
        np.testing.assert_allclose(line.get_ydata(), curve)
