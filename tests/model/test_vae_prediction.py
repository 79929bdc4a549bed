"""The head on the latent space: its loss, its training and its predictions, against lifelines."""

import json
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from scipy.special import expit, log_softmax

import vae_prediction
from data.cohort import derive_leads
from data.conditions import Condition, ConditionSchema
from model.cox import baseline_hazard, batch_rows
from vae import VAE, ModelError
from vae_prediction import VAEPrediction

SHAPE, Z = (12, 40), 3
LAYERS = ((2, 2), ((1, 10), (12, 1)), ("same", "valid"))
TRUTH = np.array([1.0, -0.7, 0.5, 0.6])  # log hazard per SD of three factors and of age


def simulated(n, seed=0):
    """ECGs (n, 12, 40) of three factors and age, conditions (n rows), time and event (n, 2)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 4))
    waves = np.random.default_rng(7).normal(size=(4, 8, 10)).repeat(4, axis=2)
    sizes = np.array([0.4, 0.3, 0.2, 0.2])[:, None, None]  # mV; unequal, so that PCA tells them
    eight = np.tensordot(scores, sizes * waves, 1) + rng.normal(0, 0.02, (n, 8, 40))
    table = pd.DataFrame({"age": 55 + 10 * scores[:, 3], "sex": rng.choice(["female", "male"], n)})
    failure = rng.exponential(np.exp(-scores @ TRUTH))
    censoring = np.minimum(rng.exponential(2, n), 0.6)
    outcome = np.stack([np.minimum(failure, censoring), failure <= censoring], axis=1)
    return derive_leads(eight.astype(np.float32)), table, outcome.astype(np.float32)


ECG, TABLE, OUTCOME = simulated(1600)
TIME, EVENT = OUTCOME.T.astype(float)
SCHEMA = ConditionSchema(
    [Condition("age", unit="years"), Condition("sex", "binary", categories=("male", "female"))]
).fit(TABLE)
ENCODED = SCHEMA.encode(TABLE)
FEW = slice(0, 60)


def built(adapted=True, **arguments):
    options = {"schema": SCHEMA, "hidden": (4,), "noise": "learned"} | arguments
    model = VAEPrediction(SHAPE, *LAYERS, Z, SCHEMA.dim, **options)
    return model.adapt(ECG[::4], TABLE[::4]) if adapted else model


def with_head(seed=0, **arguments):
    """A model whose head says something."""
    model = built(**arguments)
    rng = np.random.default_rng(seed)
    for weight in model.head.weights:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return with_head()


def measured(model, y, rows=FEW, **arguments):
    """What Keras reports of these subjects."""
    model.compile(run_eagerly=True)
    options = {"batch_size": 1000, "verbose": 0, "return_dict": True} | arguments
    return model.evaluate([ECG[rows], ENCODED[rows]], y, **options)


def efron(log_hazard, time, event, weight):
    """Negative log partial likelihood by its definition; times without ties."""
    return sum(
        weight[i] * (np.log((weight * np.exp(log_hazard))[time >= time[i]].sum()) - log_hazard[i])
        for i in np.flatnonzero(event)
    )


# --- head -----------------------------------------------------------------------------------------


def test_an_untrained_cox_head_is_linear_without_bias_and_gives_hazard_ratios_of_1():
    model = built()
    assert [tuple(weight.shape) for weight in model.head.weights] == [(Z, 1)]
    np.testing.assert_array_equal(model.predict_log_hazard(ECG[FEW], TABLE[FEW]), np.zeros(60))


@pytest.mark.parametrize("inputs", ["latent", "latent_and_conditions"])
def test_the_log_hazard_is_the_weighted_sum_of_what_the_head_is_told(inputs):
    model = with_head(head_inputs=inputs)
    told, _ = model.encode(ECG[:300], TABLE[:300])  # two batches
    if inputs == "latent_and_conditions":
        told = np.concatenate([told, ENCODED[:300]], axis=1)
    weights = model.head.get_weights()[0]
    assert weights.shape == (told.shape[1], 1)
    log_hazard = model.predict_log_hazard(ECG[:300], TABLE[:300])
    np.testing.assert_allclose(log_hazard, (told @ weights)[:, 0], rtol=1e-4, atol=1e-5)
    outputs = model((ECG[:300], ENCODED[:300]))
    np.testing.assert_allclose(outputs["output"][:, 0], log_hazard, rtol=1e-4, atol=1e-5)


def test_a_log_hazard_has_no_bounds(model):
    kernel = model.head.kernel
    before = model.predict_log_hazard(ECG[FEW], TABLE[FEW])
    kernel.assign(50 * kernel)
    far = model.predict_log_hazard(ECG[FEW], TABLE[FEW])
    kernel.assign(kernel / 50)
    np.testing.assert_allclose(far, 50 * before, rtol=1e-4)
    assert far.min() < -20
    assert far.max() > 20


def test_the_head_reads_the_posterior_mean_in_training_too(model):
    inputs = (ECG[FEW], ENCODED[FEW])
    first, second = (model(inputs, training=True) for _ in range(2))
    assert np.abs(first["decoded"] - second["decoded"]).max() > 1e-3  # z is sampled
    np.testing.assert_array_equal(first["output"], second["output"])


# --- loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_elbo_plus_the_weighted_partial_likelihood_per_subject(weighted):
    model = with_head(task_weight=3.0)
    weight = np.random.default_rng(1).uniform(0.2, 2, 60) if weighted else np.ones(60)
    found = measured(model, OUTCOME[FEW], sample_weight=weight)
    log_hazard = model.predict_log_hazard(ECG[FEW], TABLE[FEW]).astype(float)
    task = efron(log_hazard, TIME[FEW], EVENT[FEW], weight) / weight.sum()
    elbo = found["reconstruction"] + found["kl"]
    assert task > 0.1
    assert found["task_loss"] == pytest.approx(task, rel=1e-4)
    assert found["loss"] == pytest.approx(elbo + 3 * task, rel=1e-4)
    assert found["objective"] == pytest.approx(elbo, rel=1e-5)
    share = 3 * task / (3 * task + abs(elbo))
    assert found["task_share"] == pytest.approx(share, rel=1e-4)


def test_ties_are_treated_as_asked():
    tied = np.stack([np.ceil(TIME * 5), EVENT], axis=1).astype(np.float32)[FEW]
    for ties in ("efron", "breslow"):
        model = with_head(ties=ties)
        log_hazard = model.predict_log_hazard(ECG[FEW], TABLE[FEW]).astype(float)
        hazard, expected = np.exp(log_hazard), 0.0
        for time in np.unique(tied[tied[:, 1] == 1, 0]):
            dead = (tied[:, 0] == time) & (tied[:, 1] == 1)
            for number in range(dead.sum()):
                share = number / dead.sum() if ties == "efron" else 0
                left = hazard[tied[:, 0] >= time].sum() - share * hazard[dead].sum()
                expected += np.log(left)
        expected -= log_hazard[tied[:, 1] == 1].sum()
        found = measured(model, tied)
        assert found["task_loss"] == pytest.approx(expected / 60, rel=1e-4)


def test_a_subject_of_weight_0_is_not_there(model):
    weight = np.ones(60)
    weight[[3, 17, 40]] = 0
    without = np.flatnonzero(weight)
    found = measured(model, OUTCOME[FEW], sample_weight=weight)
    alone = measured(model, OUTCOME[without], without)
    for name in ("loss", "task_loss", "task_share"):
        assert found[name] == pytest.approx(alone[name], rel=1e-4)


def test_the_order_of_the_rows_does_not_matter(model):
    found = measured(model, OUTCOME[FEW])
    for order in (np.argsort(TIME[FEW]), np.argsort(-TIME[FEW])):
        again = measured(model, OUTCOME[order], order)
        assert again["task_loss"] == pytest.approx(found["task_loss"], rel=1e-5)
        assert again["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_a_batch_without_events_teaches_the_head_nothing():
    model = built()
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    censored = np.flatnonzero(EVENT == 0)[:16]
    found = model.train_on_batch([ECG[censored], ENCODED[censored]], OUTCOME[censored])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(model.head.get_weights()[0], 0)


def test_the_loss_of_the_task_reaches_the_encoder():
    gradients = []
    for weight in (0.0, 100.0):
        model = with_head(task_weight=weight)
        before = model.encoder.get_layer("linear_mean").kernel.numpy()
        model.compile(keras.optimizers.SGD(1e-6), run_eagerly=True)
        model.train_on_batch([ECG[FEW], ENCODED[FEW]], OUTCOME[FEW])
        gradients.append(model.encoder.get_layer("linear_mean").kernel.numpy() - before)
    assert np.abs(gradients[1] - gradients[0]).max() > 10 * 1e-6


@pytest.mark.parametrize(
    ("y", "message"),
    [(None, "needs targets: fit"), (EVENT[FEW].astype("float32"), "time and event. Received")],
)
def test_targets_that_are_missing_or_of_another_shape_are_one_clear_error(y, message):
    model = built()
    model.compile("adam", jit_compile=False)
    with pytest.raises(ModelError, match=message):
        model.fit([ECG[FEW], ENCODED[FEW]], y, verbose=0)
    assert model.train_function is None  # with good targets it can be fitted still


def test_predict_of_keras_takes_a_table_as_fit_does():
    model = with_head(2)
    model.compile(run_eagerly=True)
    table, encoded = (model.predict((ECG[FEW], c[FEW]), verbose=0) for c in (TABLE, ENCODED))
    assert table.keys() == encoded.keys()
    for name, values in encoded.items():
        np.testing.assert_array_equal(table[name], values)
    with pytest.raises(ModelError, match="these look like microvolts"):
        model.predict((ECG[FEW] * 1000, TABLE[FEW]), verbose=0)


# --- training -------------------------------------------------------------------------------------


class Dealt(keras.utils.PyDataset):
    """Batches of 32 as `training.Batches` deals them, of all epochs one after the other."""

    def __init__(self, epochs):
        super().__init__()
        self.rows = np.concatenate([batch_rows(EVENT, 32, 0, epoch) for epoch in range(epochs)])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        rows = self.rows[index]
        return (ECG[rows], ENCODED[rows]), OUTCOME[rows]


def test_a_head_trained_in_batches_of_32_has_the_coefficients_of_lifelines():
    model = built()
    mean, _ = model.encode(ECG, TABLE)
    sd = mean.std(axis=0)
    fitted = CoxPHFitter().fit(pd.DataFrame(mean).assign(t=TIME, e=EVENT), "t", "e")
    expected = fitted.params_.to_numpy() * sd
    assert np.exp(2 * np.linalg.norm(expected)) > 5  # hazard ratios that a sigmoid could not give
    for part in (model.encoder, model.decoder):
        part.trainable = False
    batches = Dealt(epochs=16)
    schedule = keras.optimizers.schedules.CosineDecay(0.02, len(batches))
    model.compile(keras.optimizers.Adam(schedule), jit_compile=False)
    model.fit(batches, verbose=0, shuffle=False)
    found = model.head.get_weights()[0][:, 0] * sd
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    assert found @ expected / (expected @ expected) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(model.encode(ECG, TABLE)[0], mean)
    log_hazard = model.predict_log_hazard(ECG, TABLE)
    agreement = concordance_index(TIME, -log_hazard, EVENT)
    assert agreement == pytest.approx(fitted.concordance_index_, abs=0.002)


def test_standardising_the_latent_changes_a_log_hazard_by_a_constant_only():
    model = with_head(head_inputs="latent_and_conditions")
    before = model.predict_log_hazard(ECG, TABLE)
    model.encoder.get_layer("linear_mean").kernel.assign(
        3 * model.encoder.get_layer("linear_mean").kernel
    )
    model.head.kernel.assign(model.head.kernel / np.array([[3]] * Z + [[1]] * SCHEMA.dim))
    moved = model.predict_log_hazard(ECG, TABLE)
    np.testing.assert_allclose(moved, before, atol=1e-4)
    model.standardise_latent(ECG, TABLE)
    assert np.abs(model.encode(ECG, TABLE)[0].std(axis=0) - 1).max() < 0.05
    change = model.predict_log_hazard(ECG, TABLE) - before
    np.testing.assert_allclose(change, change.mean(), atol=1e-4)


def test_a_latent_dimension_that_never_varies_can_be_standardised_too():
    model = with_head()
    kernel = model.encoder.get_layer("linear_mean").kernel
    kernel.assign(kernel * np.array([1, 1, 0]))
    before = model.predict_log_hazard(ECG[FEW], TABLE[FEW])
    after = model.standardise_latent(ECG, TABLE).predict_log_hazard(ECG[FEW], TABLE[FEW])
    np.testing.assert_allclose(after - after.mean(), before - before.mean(), atol=1e-4)


# --- baseline, survival, files --------------------------------------------------------------------


def fitted_on(model):
    """lifelines on the log hazard of the model alone, from rows that event times separate."""
    log_hazard = model.predict_log_hazard(ECG, TABLE).astype(float)
    table = pd.DataFrame({"log_hazard": log_hazard, "t": TIME, "e": EVENT})
    return log_hazard, CoxPHFitter().fit(table, "t", "e")


def test_baseline_and_survival_curves_equal_those_of_lifelines():
    model = with_head(2)
    _, fitted = fitted_on(model)
    model.head.kernel.assign(model.head.kernel * float(fitted.params_.iloc[0]))
    log_hazard, fitted = fitted_on(model)  # its coefficient is 1: the same model
    assert fitted.params_.iloc[0] == pytest.approx(1, abs=1e-4)
    assert model.fit_baseline(ECG, TABLE, TIME, EVENT) is model
    times, hazard = (np.array(model.baseline[name]) for name in ("times", "cumulative_hazard"))
    np.testing.assert_array_equal(times, np.unique(TIME[EVENT == 1]))
    # lifelines' baseline is that of a subject with the mean log hazard.
    theirs = fitted.baseline_cumulative_hazard_.iloc[:, 0].loc[times].to_numpy()
    np.testing.assert_allclose(hazard * np.exp(log_hazard.mean()), theirs, rtol=1e-3)
    at = times[[0, 40, 200, -1]]
    survival = model.predict_survival(ECG[FEW], TABLE[FEW], at)
    expected = fitted.predict_survival_function(
        pd.DataFrame({"log_hazard": log_hazard[FEW]}), times=at
    )
    np.testing.assert_allclose(survival, expected.to_numpy().T, atol=1e-3)


def test_survival_is_a_falling_probability_and_follows_from_baseline_and_log_hazard():
    model = with_head(3)
    model.baseline = {"times": [1.0, 2.0, 4.0], "cumulative_hazard": [0.1, 0.3, 0.35]}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        survival = model.predict_survival(ECG[FEW], TABLE[FEW], [0.5, 1, 1.9, 2, 3, 9])
    assert any("last event of the training subjects was at 4 (y" in str(one) for one in said)
    model.predict_survival(ECG[FEW], TABLE[FEW], [8])  # without a warning
    hazard_ratio = np.exp(model.predict_log_hazard(ECG[FEW], TABLE[FEW]).astype(float))
    expected = np.exp(-hazard_ratio[:, None] * np.array([0, 0.1, 0.1, 0.3, 0.3, 0.35]))
    np.testing.assert_allclose(survival, expected, rtol=1e-6)
    assert survival.shape == (60, 6)
    assert (np.diff(survival, axis=1) <= 0).all()
    assert survival.min() >= 0
    assert survival.max() == 1


def test_a_baseline_of_very_many_event_times_keeps_its_shape_in_fewer_steps(monkeypatch):
    model = with_head(2)
    full = model.fit_baseline(ECG, TABLE, TIME, EVENT).baseline
    exact = model.predict_survival(ECG[FEW], TABLE[FEW], np.linspace(0, 0.6, 50))
    monkeypatch.setattr(vae_prediction, "BASELINE_STEPS", 200)
    short = model.fit_baseline(ECG, TABLE, TIME, EVENT).baseline
    assert len(full["times"]) > 400
    assert 150 < len(short["times"]) == len(short["cumulative_hazard"]) <= 200
    assert [short["times"][i] for i in (0, -1)] == [full["times"][i] for i in (0, -1)]
    about = model.predict_survival(ECG[FEW], TABLE[FEW], np.linspace(0, 0.6, 50))
    np.testing.assert_allclose(about, exact, atol=0.01)
    # Everybody has the event: few are at risk in the end, and the hazard rises fast.
    time, everybody = np.arange(len(ECG)) + 1.0, np.ones_like(EVENT)
    few = model.fit_baseline(ECG, TABLE, time, everybody).baseline["cumulative_hazard"]
    monkeypatch.setattr(vae_prediction, "BASELINE_STEPS", len(ECG))
    all_of = model.fit_baseline(ECG, TABLE, time, everybody).baseline["cumulative_hazard"]
    assert np.diff(few).max() <= few[-1] / 99 + np.diff(all_of).max()


def test_survival_without_a_baseline_is_an_error_that_says_what_to_call(model):
    with pytest.raises(ModelError, match="call fit_baseline first"):
        model.predict_survival(ECG[FEW], TABLE[FEW], [1.0])


def test_a_saved_model_comes_back_with_head_baseline_and_settings(tmp_path):
    model = with_head(4, head_inputs="latent_and_conditions", ties="breslow", task_weight=2)
    model.fit_baseline(ECG, TABLE, TIME, EVENT).save(tmp_path)
    loaded = VAE.load(tmp_path)
    assert type(loaded) is VAEPrediction
    assert loaded.settings == model.settings
    assert loaded.baseline == model.baseline
    log_hazard = model.predict_log_hazard(ECG[FEW], TABLE[FEW])
    np.testing.assert_array_equal(loaded.predict_log_hazard(ECG[FEW], TABLE[FEW]), log_hazard)
    np.testing.assert_array_equal(
        loaded.predict_survival(ECG[FEW], TABLE[FEW], [0.1, 0.5]),
        model.predict_survival(ECG[FEW], TABLE[FEW], [0.1, 0.5]),
    )
    np.testing.assert_array_equal(loaded.encode(ECG, TABLE)[0], model.encode(ECG, TABLE)[0])


def test_kerass_own_format_keeps_head_and_baseline_too(tmp_path):
    model = with_head(4).fit_baseline(ECG, TABLE, TIME, EVENT)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict_survival(ECG[FEW], TABLE[FEW], [0.3]),
        model.predict_survival(ECG[FEW], TABLE[FEW], [0.3]),
    )


def test_a_plain_vae_stays_one_and_a_head_without_baseline_none(tmp_path):
    VAE(SHAPE, *LAYERS, Z, SCHEMA.dim, schema=SCHEMA, hidden=()).save(tmp_path / "plain")
    assert type(VAE.load(tmp_path / "plain")) is VAE
    built().save(tmp_path / "head")
    assert VAE.load(tmp_path / "head").baseline is None
    assert json.loads((tmp_path / "head" / "parameters.json").read_text())["class"] == (
        "VAEPrediction"
    )


# --- other tasks ----------------------------------------------------------------------------------

CLASSES = np.digitize(ECG[:, 0, 3], np.quantile(ECG[:, 0, 3], (0.3, 0.7)))
TARGETS = {
    "binary": (EVENT, 1),
    "multiclass": (CLASSES, 3),
    "regression": (0.1 * TABLE["age"].to_numpy(), 1),
}


@pytest.mark.parametrize("task", list(TARGETS))
def test_other_tasks_have_the_losses_of_their_closed_forms(task, tmp_path):
    target, size = TARGETS[task]
    model = with_head(5, task=task, classes=size, task_weight=0.5)
    output = model.predict_head(ECG[FEW], TABLE[FEW]).astype(float)
    assert output.shape == (60, size)
    y = target[FEW]
    if task == "binary":
        probability = expit(output[:, 0])
        expected = -np.log(np.where(y == 1, probability, 1 - probability))
    elif task == "multiclass":
        expected = -log_softmax(output, axis=1)[np.arange(60), y]
    else:
        expected = (output[:, 0] - y) ** 2
    for weight in (np.ones(60), np.random.default_rng(0).uniform(0, 2, 60)):
        found = measured(model, y, sample_weight=weight)
        mean = np.average(expected, weights=weight)
        assert found["task_loss"] == pytest.approx(mean, rel=1e-4)
        elbo = found["reconstruction"] + found["kl"]
        assert found["loss"] == pytest.approx(elbo + 0.5 * mean, rel=1e-4)
    model.save(tmp_path)
    loaded = VAE.load(tmp_path)
    assert loaded.task == task
    np.testing.assert_array_equal(
        loaded.predict_head(ECG[FEW], TABLE[FEW]), model.predict_head(ECG[FEW], TABLE[FEW])
    )


@pytest.mark.parametrize("task", list(TARGETS))
def test_other_tasks_are_learned(task):
    target, size = TARGETS[task]
    model = built(task=task, classes=size)
    rows = slice(0, 400)
    before = measured(model, target[rows], rows)["task_loss"]
    model.encoder.trainable = model.decoder.trainable = False
    model.compile(keras.optimizers.Adam(0.25), run_eagerly=True)
    model.fit([ECG[rows], ENCODED[rows]], target[rows], batch_size=400, epochs=6, verbose=0)
    assert measured(model, target[rows], rows)["task_loss"] < 0.9 * before


def test_a_regression_target_of_any_unit_starts_at_its_mean_and_is_compared_in_sds(tmp_path):
    target = (130 + 30 * np.random.default_rng(0).normal(size=1600)).astype(np.float32)  # g
    model = built(task="regression")
    assert model.adapt_target(target) is model
    predicted = model.predict_head(ECG[FEW], TABLE[FEW])
    np.testing.assert_allclose(predicted, target.mean(), rtol=1e-6)
    assert measured(model, target, slice(None))["task_loss"] == pytest.approx(1, rel=1e-4)
    model.head.kernel.assign([[1], [0], [0]])
    z = model.encode(ECG[FEW], TABLE[FEW])[0][:, 0]
    expected = target.mean() + target.std() * z
    np.testing.assert_allclose(model.predict_head(ECG[FEW], TABLE[FEW])[:, 0], expected, rtol=1e-4)
    model.save(tmp_path)
    loaded = VAE.load(tmp_path).predict_head(ECG[FEW], TABLE[FEW])
    np.testing.assert_array_equal(loaded, model.predict_head(ECG[FEW], TABLE[FEW]))


def test_a_baseline_hazard_is_gone_once_log_hazards_are_others():
    time = np.linspace(1, 9, len(ECG))
    event = np.arange(len(ECG)) % 2
    for change in (
        lambda model: model.standardise_latent(ECG, TABLE),
        lambda model: model.fit(
            [ECG[FEW], ENCODED[FEW]], np.stack([time, event], axis=1)[FEW], verbose=0
        ),
        lambda model: model.train_on_batch([ECG, ENCODED], np.stack([time, event], axis=1)),
        lambda model: model.adapt(ECG, TABLE),
    ):
        model = built()
        model.fit_baseline(ECG, TABLE, time, event)
        assert model.predict_survival(ECG[FEW], TABLE[FEW], [5]).min() > 0
        with pytest.raises(ModelError, match="Expected times .* Received: NaN"):
            model.predict_survival(ECG[FEW], TABLE[FEW], [np.nan])
        model.compile(run_eagerly=True)
        change(model)
        with pytest.raises(ModelError, match="no baseline hazard"):
            model.predict_survival(ECG[FEW], TABLE[FEW], [5])


@pytest.mark.parametrize("wrong", [-1.0, np.inf])
def test_a_baseline_of_impossible_times_is_refused(wrong):
    time = np.where(np.arange(len(ECG)) == 3, wrong, 2.0)
    with pytest.raises(ValueError, match="times of 0 or more. Received: .* in row 3"):
        built().fit_baseline(ECG, TABLE, time, np.ones(len(ECG)))


def test_equal_targets_have_no_spread_whatever_their_rounding():
    target = np.full(245, 63.1)
    assert target.std() > 0
    model = built(task="regression").adapt_target(target)
    assert float(model.target_sd.numpy()) == 1


def test_a_target_that_is_no_number_is_named():
    with pytest.raises(ModelError, match="finite targets. Received: nan in row 1"):
        built(task="regression").adapt_target([1, np.nan, 2])


@pytest.mark.parametrize("task", ["binary", "cox"])
def test_targets_of_other_tasks_are_not_scaled(task):
    with pytest.raises(ModelError, match=f"{task}.*not scaled"):
        built(task=task).adapt_target([1, 0, 1])


def test_a_head_of_another_task_has_no_hazard():
    model = built(task="binary")
    for predict in (
        lambda: model.predict_log_hazard(ECG[FEW], TABLE[FEW]),
        lambda: model.predict_survival(ECG[FEW], TABLE[FEW], [1.0]),
        lambda: model.fit_baseline(ECG[FEW], TABLE[FEW], TIME[FEW], EVENT[FEW]),
    ):
        with pytest.raises(ModelError, match="'binary': it has no hazard"):
            predict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "survival"}, "task: expected one of .*'cox'.*'survival'"),
        ({"ties": "exact"}, "ties: expected one of .*'exact'"),
        ({"head_inputs": "ecg"}, "head_inputs: expected one of .*'ecg'"),
        ({"task_weight": -1}, "task_weight: expected 0 or more. Received: -1"),
        ({"task_weight": np.nan}, "task_weight: expected 0 or more. Received: nan"),
        ({"task": "multiclass"}, "at least 2 classes. Received: 1"),
    ],
)
def test_a_head_that_cannot_be_is_one_clear_error(arguments, message):
    with pytest.raises(ModelError, match=message):
        built(adapted=False, **arguments)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_baseline_has_the_ties_of_the_loss(ties):
    model = with_head(2, ties=ties)
    time = np.ceil(TIME * 10)
    model.fit_baseline(ECG, TABLE, time, EVENT)
    expected = baseline_hazard(model.predict_log_hazard(ECG, TABLE), time, EVENT, ties)
    np.testing.assert_array_equal(model.baseline["times"], expected[0])
    np.testing.assert_array_equal(model.baseline["cumulative_hazard"], expected[1])
