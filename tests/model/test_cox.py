"""The Cox loss, its batches and the baseline hazard, against lifelines, R's values and brute force.

Reference values for rossi: lifelines 0.30 (Efron) and R survival (Breslow).
"""

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from lifelines import CoxPHFitter
from lifelines.datasets import load_rossi

from model.cox import (
    _with_events,
    baseline_hazard,
    batch_rows,
    cox_partial_likelihood,
    partial_log_likelihood,
    survival_function,
)

ROSSI_COVARIATES = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
ROSSI_EFRON = (-0.37942, -0.05744, 0.31390, -0.14980, -0.43370, -0.08487, 0.09150)
ROSSI_BRESLOW = (-0.37902, -0.05725, 0.31413, -0.15111, -0.43278, -0.08498, 0.09111)


def brute_force(log_hazard, time, event, ties, weight=None, strata=None):
    """Negative log partial likelihood straight from its definition, as a double loop."""
    weight = np.ones(len(time)) if weight is None else weight
    strata = np.zeros(len(time)) if strata is None else strata
    hazard, total = weight * np.exp(log_hazard), 0.0
    for stratum in np.unique(strata):
        for moment in np.unique(time[(event == 1) & (strata == stratum)]):
            at_risk = (time >= moment) & (strata == stratum) & (weight > 0)
            tied = (time == moment) & (strata == stratum) & (event == 1) & (weight > 0)
            deaths = tied.sum()
            for number in range(deaths):
                share = number / deaths if ties == "efron" else 0.0
                denominator = hazard[at_risk].sum() - share * hazard[tied].sum()
                total += weight[tied].mean() * np.log(denominator)
            total -= (weight * log_hazard)[tied].sum()
    return total


def loss_and_gradient(log_hazard, *outcome, **options):
    """The summed loss and its gradient (B,) in float32, compiled by XLA, as numpy."""
    log_hazard = np.asarray(log_hazard, np.float32)
    outcome = [np.asarray(values, np.float32) for values in outcome]

    def total(values):
        return ops.sum(cox_partial_likelihood(values, *outcome, **options))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def both(values):
            with tf.GradientTape() as tape:
                tape.watch(values)
                loss = total(values)
            return loss, tape.gradient(loss, values)

        loss, gradient = both(tf.constant(log_hazard))
    else:
        import jax

        loss, gradient = jax.jit(jax.value_and_grad(total))(log_hazard)
    return float(loss), np.asarray(gradient)


def summed_loss(log_hazard, *outcome, **options):
    """The summed loss in float32, not compiled: compiling takes most of a second."""
    log_hazard = np.asarray(log_hazard, np.float32)
    return float(ops.sum(cox_partial_likelihood(log_hazard, *outcome, **options)))


def random_outcomes(seed, n, distinct_times=6):
    """Small cohorts with many ties: log hazard, time, event, weight, strata."""
    random = np.random.default_rng(seed)
    return (
        random.normal(size=n),
        random.integers(1, distinct_times + 1, n).astype(float),
        random.integers(0, 2, n).astype(float),
        random.uniform(0.2, 3, n) * (random.random(n) > 0.1),
        random.integers(0, 2, n).astype(float),
    )


def simulated(seed, n, event_share, coefficients=(0.8, -0.5, 0.4)):
    """Linear Cox data with exponential times, censored at random and at a fixed end."""
    random = np.random.default_rng(seed)
    coefficients = np.array(coefficients)
    x = random.normal(size=(n, len(coefficients)))
    failure = random.exponential(np.exp(-x @ coefficients))
    censoring = np.minimum(random.exponential(3, n), 1)
    scale = np.quantile(failure / censoring, event_share)  # time unit that gives this event share
    return x, np.minimum(failure / scale, censoring), (failure / scale <= censoring).astype(float)


@pytest.mark.parametrize(
    ("ties", "coefficients", "expected"),
    [("efron", ROSSI_EFRON, 658.74766), ("breslow", ROSSI_BRESLOW, 659.1206)],
)
def test_loss_on_rossi_is_the_published_one(ties, coefficients, expected):
    rossi = load_rossi()
    log_hazard = rossi[ROSSI_COVARIATES].to_numpy() @ np.array(coefficients)
    time, event = rossi["week"].to_numpy(), rossi["arrest"].to_numpy()
    loss, gradient = loss_and_gradient(log_hazard, time, event, ties=ties)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert -partial_log_likelihood(log_hazard, time, event, ties) == pytest.approx(
        expected, rel=1e-7
    )
    # At the maximum the score is zero: the coefficients are given to five decimals.
    assert np.abs(rossi[ROSSI_COVARIATES].to_numpy().T @ gradient).max() < 0.05


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_with_heavy_ties_equals_lifelines(weighted):
    x, time, event = simulated(0, 500, 0.6)
    time = np.ceil(time * 12)
    table = pd.DataFrame(x).assign(time=time, event=event)
    weight = np.random.default_rng(1).uniform(0.5, 2, 500) if weighted else np.ones(500)
    options = {"weights_col": "weight", "robust": True} if weighted else {}
    fitted = CoxPHFitter().fit(
        table.assign(weight=weight) if weighted else table, "time", "event", **options
    )
    log_hazard = x @ fitted.params_.to_numpy()
    loss = summed_loss(log_hazard, time, event, sample_weight=weight)
    assert loss == pytest.approx(-fitted.log_likelihood_, rel=1e-5)


def test_strata_equal_lifelines():
    rossi = load_rossi()
    fitted = CoxPHFitter().fit(rossi, "week", "arrest", strata=["race"])
    names = list(fitted.params_.index)
    loss = summed_loss(
        rossi[names].to_numpy() @ fitted.params_.to_numpy(),
        rossi["week"].to_numpy(),
        rossi["arrest"].to_numpy(),
        strata=rossi["race"].to_numpy(),
    )
    assert loss == pytest.approx(-fitted.log_likelihood_, rel=1e-5)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("seed", range(5))
def test_loss_equals_the_double_loop_of_the_definition(ties, seed):
    log_hazard, time, event, weight, strata = random_outcomes(seed, 24)
    for options in (
        {},
        {"weight": weight},
        {"strata": strata},
        {"weight": weight, "strata": strata},
    ):
        named = {{"weight": "sample_weight"}.get(name, name): v for name, v in options.items()}
        terms = cox_partial_likelihood(log_hazard, time, event, ties=ties, **named)
        assert tuple(terms.shape) == (24,)
        assert float(ops.sum(terms)) == pytest.approx(
            brute_force(log_hazard, time, event, ties, **options), rel=1e-6
        )
    assert -partial_log_likelihood(log_hazard, time, event, ties) == pytest.approx(
        brute_force(log_hazard, time, event, ties), rel=1e-12
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6), shift=st.floats(-50, 50), ties=st.sampled_from(["efron", "breslow"])
)
def test_terms_follow_their_rows_and_ignore_an_added_constant(seed, shift, ties):
    log_hazard, time, event, weight, strata = random_outcomes(seed, 12)
    order = np.random.default_rng(seed).permutation(12)
    options = {"ties": ties, "sample_weight": weight, "strata": strata}
    terms = np.asarray(cox_partial_likelihood(log_hazard, time, event, **options))
    options |= {"sample_weight": weight[order], "strata": strata[order]}
    moved = cox_partial_likelihood(log_hazard[order] + shift, time[order], event[order], **options)
    np.testing.assert_allclose(np.asarray(moved), terms[order], atol=1e-4)
    assert (terms[event == 0] == 0).all()


def test_weight_zero_is_the_same_as_leaving_the_row_out():
    log_hazard, time, event, weight, _ = random_outcomes(3, 30)
    keep = weight > 0
    assert 0 < keep.sum() < 30
    time[np.argmin(keep)] = 99  # alone at risk, and not there
    _, gradient = loss_and_gradient(log_hazard, time, event, sample_weight=weight)
    assert np.isfinite(gradient).all()
    assert (gradient[~keep] == 0).all()
    terms = np.asarray(cox_partial_likelihood(log_hazard, time, event, sample_weight=weight))
    alone = cox_partial_likelihood(
        log_hazard[keep], time[keep], event[keep], sample_weight=weight[keep]
    )
    np.testing.assert_allclose(terms[keep], np.asarray(alone), rtol=1e-5)
    assert (terms[~keep] == 0).all()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradient_equals_float64_finite_differences(ties):
    log_hazard, time, event, weight, strata = random_outcomes(7, 20)
    _, gradient = loss_and_gradient(
        log_hazard, time, event, ties=ties, sample_weight=weight, strata=strata
    )
    step = 1e-5 * np.eye(20)
    expected = [
        brute_force(log_hazard + h, time, event, ties, weight, strata)
        - brute_force(log_hazard - h, time, event, ties, weight, strata)
        for h in step
    ]
    np.testing.assert_allclose(gradient, np.array(expected) / 2e-5, atol=2e-5)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("order", ["earlier", "later", "mixed"])
def test_log_hazards_of_300_stay_finite_and_right(ties, order):
    _, time, event, _, _ = random_outcomes(11, 40)
    mixed = np.random.default_rng(0).random(40) < 0.5
    high = {"earlier": time < 4, "later": time >= 4, "mixed": mixed}[order]
    log_hazard = np.where(high, 300.0, -300.0)
    loss, gradient = loss_and_gradient(log_hazard, time, event, ties=ties)
    assert loss == pytest.approx(-partial_log_likelihood(log_hazard, time, event, ties), rel=1e-5)
    assert loss == pytest.approx(brute_force(log_hazard, time, event, ties), rel=1e-5)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    ("log_hazard", "time", "event"),
    [
        ([1.0, -300.0, 300.0, 0.0], [1, 2, 3, 3], [0, 0, 0, 0]),  # all censored
        ([5.0], [2.0], [1]),  # nobody to compare with
        ([300.0], [2.0], [0]),
        ([1.0, 3.0], [1.0, 2.0], [0, 1]),  # the event is last
    ],
)
def test_batches_without_a_comparison_give_zero_and_a_zero_gradient(log_hazard, time, event):
    loss, gradient = loss_and_gradient(log_hazard, time, event)
    assert loss == 0
    assert (gradient == 0).all()


def test_columns_are_taken_as_vectors_and_half_precision_is_widened():
    log_hazard, time, event, _, _ = random_outcomes(2, 16)
    expected = np.asarray(cox_partial_likelihood(log_hazard.astype("float16"), time, event))
    assert expected.dtype == np.float32
    column = log_hazard.astype("float16")[:, None]
    terms = cox_partial_likelihood(column, time[:, None], event[:, None] > 0)
    np.testing.assert_allclose(np.asarray(terms), expected)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="Expected ties among"):
        cox_partial_likelihood(np.zeros(3), np.ones(3), np.ones(3), ties="exact")
    with pytest.raises(ValueError, match="Expected 3 values of time"):
        cox_partial_likelihood(np.zeros(3), np.ones(4), np.ones(3))
    with pytest.raises(ValueError, match="one log hazard, time and event per subject"):
        partial_log_likelihood(np.zeros(3), np.ones(4), np.ones(3))
    with pytest.raises(ValueError, match="time is NaN in row 1"):
        partial_log_likelihood(np.zeros(2), np.array([1, np.nan]), np.ones(2))
    with pytest.raises(ValueError, match="event of 0 or 1. Received 2"):
        partial_log_likelihood(np.zeros(2), np.ones(2), np.array([1, 2]))
    with pytest.raises(ValueError, match="at least one event"):
        baseline_hazard(np.zeros(2), np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="at least one batch of 32"):
        batch_rows(np.ones(31), 32, seed=0, epoch=0)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_full_split_likelihood_agrees_with_the_loss_on_100_000_subjects_at_once(ties):
    x, time, event = simulated(5, 100_000, 0.3)
    time = np.ceil(time * 50)
    log_hazard = x @ (0.8, -0.5, 0.4)
    assert partial_log_likelihood(log_hazard, time, event) < 0
    part = slice(0, 1500)
    loss = summed_loss(log_hazard[part], time[part], event[part], ties=ties)
    full = partial_log_likelihood(log_hazard[part], time[part], event[part], ties)
    assert -full == pytest.approx(loss, rel=1e-5)
    assert partial_log_likelihood(log_hazard, time, 0 * event, ties) == 0


def test_baseline_hazard_and_survival_curves_equal_lifelines():
    rossi = load_rossi()
    fitted = CoxPHFitter().fit(rossi, "week", "arrest")
    # lifelines centres the covariates; its log partial hazard and its baseline belong together.
    log_hazard = fitted.predict_log_partial_hazard(rossi).to_numpy()
    times, hazard = baseline_hazard(log_hazard, rossi["week"], rossi["arrest"], "breslow")
    theirs = fitted.baseline_cumulative_hazard_.iloc[:, 0]
    np.testing.assert_allclose(hazard, theirs.loc[times], rtol=1e-10)
    at = np.array(
        [0.5, 1, 10, 30, 52]
    )  # between event weeks lifelines interpolates; ours is a step
    curves = survival_function(log_hazard[:7], times, hazard, at)
    expected = fitted.predict_survival_function(rossi[:7], times=at).to_numpy().T
    np.testing.assert_allclose(curves[:, 1:], expected[:, 1:], rtol=1e-10)
    assert (curves[:, 0] == 1).all()
    between = survival_function(log_hazard[:7], times, hazard, [10.9])
    np.testing.assert_array_equal(between[:, 0], curves[:, 2])


def test_survival_curves_of_extreme_log_hazards_are_zero_or_one():
    curves = survival_function(np.array([-800.0, 800.0]), np.array([1.0]), np.array([0.1]), [0, 2])
    np.testing.assert_array_equal(curves, [[1, 1], [1, 0]])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(40, 300),
    batch_size=st.integers(2, 40),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
    epoch=st.integers(0, 50),
)
def test_batches_hold_no_row_twice_and_an_event_each_where_there_are_enough(
    n, batch_size, share, seed, epoch
):
    event = (np.random.default_rng(seed).random(n) < share).astype(int)
    rows = batch_rows(event, batch_size, seed, epoch)
    assert rows.shape == (n // batch_size, batch_size)
    assert len(np.unique(rows)) == rows.size
    with_event = event[rows].any(axis=1).sum()
    assert with_event == min(len(rows), event[rows].sum())
    np.testing.assert_array_equal(rows, batch_rows(event, batch_size, seed, epoch))


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_without_an_event_gets_one_of_a_batch_of_two_before_one_of_more(seed):
    event = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    rows = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    dealt = _with_events(rows, event, np.random.default_rng(seed))
    assert event[dealt].sum(axis=1).tolist() == [4, 1, 1]
    assert sorted(dealt.ravel()) == list(range(12))


def test_epochs_differ_where_no_row_is_left_out():
    epochs = [batch_rows(np.arange(100) % 10 == 0, 20, 1, epoch) for epoch in range(5)]
    assert all(len(np.unique(rows)) == 100 for rows in epochs)
    assert len({tuple(rows.ravel()) for rows in epochs}) == 5
    # The company that a subject keeps changes, not only the order of the batches.
    assert len({frozenset(batch) for rows in epochs for batch in rows.tolist()}) == 25


def test_epochs_differ_and_leave_out_each_row_once_in_turn():
    event = np.arange(103) % 10 == 0
    left_out = []
    for epoch in range(103):
        left_out.append(np.setdiff1d(np.arange(103), batch_rows(event, 20, 1, epoch)))
    assert {len(rows) for rows in left_out} == {3}
    np.testing.assert_array_equal(np.bincount(np.concatenate(left_out)), np.full(103, 3))
    assert len(np.unique(np.concatenate(left_out[:34]))) == 102
    assert (batch_rows(event, 20, 1, 0) != batch_rows(event, 20, 1, 1)).any()
    assert (batch_rows(event, 20, 1, 0) != batch_rows(event, 20, 2, 0)).any()


def fit_linear(x, time, event, batches, learning_rate):
    """Coefficients (p,) of a linear log hazard, trained by Adam on these batches (n, B) in turn."""
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, len(batches))
    model.compile(
        keras.optimizers.Adam(schedule),
        loss=lambda y, log_hazard: cox_partial_likelihood(log_hazard, y[:, 0], y[:, 1]),
        jit_compile=True,
        steps_per_execution=25,
    )
    rows, outcome = batches.ravel(), np.stack([time, event], axis=1)
    model.fit(
        x[rows].astype(np.float32),
        outcome[rows].astype(np.float32),
        batch_size=batches.shape[1],
        shuffle=False,
        verbose=0,
    )
    return np.asarray(model.get_weights()[0])[:, 0]


def test_full_batch_gradient_descent_gives_the_coefficients_of_lifelines():
    rossi = load_rossi()
    x = rossi[ROSSI_COVARIATES].to_numpy()
    sd = x.std(axis=0)
    batches = np.tile(np.arange(len(x)), (150, 1))
    found = fit_linear((x - x.mean(axis=0)) / sd, rossi["week"], rossi["arrest"], batches, 0.05)
    np.testing.assert_allclose(found / sd, ROSSI_EFRON, atol=1e-3)


def test_batches_of_32_with_rare_events_give_the_coefficients_within_5_percent():
    x, time, event = simulated(3, 6000, 0.05)
    table = pd.DataFrame(x).assign(time=time, event=event)
    full = CoxPHFitter().fit(table, "time", "event").params_.to_numpy()
    batches = np.concatenate([batch_rows(event, 32, seed=0, epoch=epoch) for epoch in range(20)])
    assert event[batches].any(axis=1).all()
    found = fit_linear(x, time, event, batches, 0.02)
    assert found @ full / (full @ full) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(found, full, atol=0.05 * np.abs(full).max())
