"""Simultaneous events: one convention from the loss to the report, and what it cannot tell."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.optimize import minimize_scalar

from evaluation.measures.survival import SurvivalSplit, _risks, survival_metrics
from evaluation.measures.survival_scores import tied_share, weighted_cox
from evaluation.report.reading import reading
from model.cox import baseline_hazard


def rounded(seed, n, step, covariates=1):
    """Covariates (n, p), time rounded up to multiples of a step (0: not at all), event."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, covariates))
    time = random.exponential(2 * np.exp(-x[:, 0]))
    end = np.minimum(random.exponential(20, n), 10)
    observed = np.minimum(time, end)
    event = (time <= end).astype(int)
    return x, np.ceil(observed / step) * step if step else observed, event


def split(seed, n, step):
    x, time, event = rounded(seed, n, step, covariates=3)
    truth = x[:, 0]
    return SurvivalSplit(
        pd.DataFrame({"x": x[:, 0] + x[:, 1]}), x[:, 1:], time, event, true_log_hazard=truth
    )


def slope(log_hazard, time, event):
    return weighted_cox(log_hazard[:, None], time, event, np.ones((1, len(time))), np.inf)[0][0, 0]


def slope_of_grouped_times(log_hazard, time, event):
    """Slope of a proportional hazard that is watched at the end of each step only, by its exact
    likelihood: an interval is survived with probability exp(-exp(level + slope * log hazard)).
    """
    intervals = np.unique(time)

    def negative(beta):
        total = 0.0
        for end in intervals:
            here = time >= end
            died = event[here] * (time[here] == end)
            stays = time[here] > end  # who was censored within the interval was not seen at its end
            hazard = np.exp(beta * log_hazard[here])

            def of_level(level, died=died > 0, stays=stays, hazard=hazard):
                cumulative = np.exp(level) * hazard
                return cumulative[stays].sum() - np.log(-np.expm1(-cumulative[died])).sum()

            total += minimize_scalar(of_level, bounds=(-12, 3), method="bounded").fun
        return total

    return minimize_scalar(negative, bounds=(0.3, 2), method="bounded").x


@pytest.mark.parametrize("weighted", [False, True])
def test_regressions_with_heavy_ties_equal_lifelines_under_any_weights(weighted):
    x, time, event = rounded(0, 400, 0.5, covariates=2)
    random = np.random.default_rng(1)
    draw = np.bincount(random.integers(400, size=400), minlength=400)  # with zeros
    rows = [draw, random.uniform(0.5, 2, 400)] if weighted else [np.ones(400)]
    found, _ = weighted_cox(x, time, event, np.stack(rows).astype(float), 2.0)
    table = pd.DataFrame(x).assign(time=time, event=event)
    for coefficients, weight in zip(found, rows, strict=True):
        data, options = table, {}
        if weighted:
            data = table.assign(weight=weight)[weight > 0]
            options = {"weights_col": "weight", "robust": True}
        expected = CoxPHFitter().fit(data, "time", "event", **options).params_
        np.testing.assert_allclose(coefficients, expected, atol=5e-5)


def test_of_subjects_alike_the_baseline_lets_the_tied_leave_one_by_one():
    time = np.array([1, 1, 1, 2, 2, 3, 4])
    event = np.array([1, 1, 0, 1, 1, 0, 1])
    expected = np.cumsum([1 / 7 + 1 / 6, 1 / 4 + 1 / 3, 1 / 1])
    times, hazard = baseline_hazard(np.zeros(7), time, event)
    np.testing.assert_array_equal(times, [1, 2, 4])
    np.testing.assert_allclose(hazard, expected, rtol=1e-12)
    _, hazard = baseline_hazard(np.zeros(7), time, event, "breslow")
    np.testing.assert_allclose(hazard, np.cumsum([2 / 7, 2 / 4, 1 / 1]), rtol=1e-12)
    for end, up_to in zip((1, 2, 4), expected, strict=True):
        _, found = weighted_cox(np.zeros((7, 1)), time, event, np.ones((1, 7)), end)
        assert found[0] == pytest.approx(up_to, rel=1e-9)


def test_baselines_with_ties_are_those_of_the_definition():
    x, time, event = rounded(2, 60, 0.5)
    hazard = np.exp(x[:, 0])
    expected, total = [], 0.0
    for moment in np.unique(time[event > 0]):
        tied = (time == moment) & (event > 0)
        for number in range(tied.sum()):
            total += 1 / (hazard[time >= moment].sum() - number / tied.sum() * hazard[tied].sum())
        expected.append(total)
    _, found = baseline_hazard(x[:, 0], time, event)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[-1] > 1.05 * baseline_hazard(x[:, 0], time, event, "breslow")[1][-1]


def test_without_ties_the_two_conventions_are_the_same_to_the_last_bit():
    x, time, event = rounded(3, 500, 0)
    for efron, breslow in zip(
        baseline_hazard(x[:, 0], time, event),
        baseline_hazard(x[:, 0], time, event, "breslow"),
        strict=True,
    ):
        np.testing.assert_array_equal(efron, breslow)
    assert tied_share(time, event) == 0


@pytest.mark.parametrize(
    ("step", "share", "expected"), [(0.25, 0.11, 0.97), (0.5, 0.20, 0.94), (1.0, 0.35, 0.85)]
)
def test_the_slope_of_the_true_risk_is_what_the_report_says_of_rounded_times(step, share, expected):
    found = []
    for seed in range(5):
        x, time, event = rounded(seed, 6000, step)
        found.append((tied_share(time, event), slope(x[:, 0], time, event)))
        table = pd.DataFrame({"x": x[:, 0], "time": time, "event": event})
        if seed == 0:
            theirs = CoxPHFitter().fit(table, "time", "event").params_["x"]
            assert found[0][1] == pytest.approx(theirs, abs=1e-4)
    np.testing.assert_allclose(np.mean(found, axis=0), (share, expected), atol=0.006)
    for number in (share, expected):
        assert f"{number:.2f}" in reading("tied_share")


def test_what_is_lost_lies_in_the_ties_and_not_in_the_risk():
    x, time, event = rounded(0, 6000, 1.0)
    assert slope(x[:, 0], time, event) < 0.88
    assert slope_of_grouped_times(x[:, 0], time, event) == pytest.approx(1, abs=0.03)
    x, time, event = rounded(0, 6000, 0)
    assert slope(x[:, 0], time, event) == pytest.approx(1, abs=0.03)


def test_the_report_says_that_times_are_tied_and_judges_with_the_baseline_of_the_ties():
    splits = split(4, 800, 0.5), split(5, 500, 0.5)
    metrics = survival_metrics(*splits, draws=100)
    share = tied_share(splits[1].time, splits[1].event)
    assert metrics["tied_share"] == share > 0.1
    risk = _risks(*splits, None)[0]["conditions"]
    expected = baseline_hazard(risk.train_log_hazard, splits[0].time, splits[0].event)
    np.testing.assert_array_equal(risk.baseline[1], expected[1])
    assert "tied_share" not in survival_metrics(split(4, 300, 0), split(5, 200, 0), draws=100)
