import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from data.cohort import independent_leads
from data.conditions import Condition, ConditionSchema
from data.synthetic import simulate
from evaluation.measures.regressor import (
    PENALTIES,
    ConditionRegressor,
    recovery_metrics,
    scores,
)

SPLIT = simulate(1200, seed=6).split(0.15, 0.25)
SCHEMA = ConditionSchema(
    [
        Condition("age", unit="years"),
        Condition("sex", "binary", categories=("male", "female")),
        Condition("bmi", unit="kg/m2"),
    ]
)


@pytest.fixture(scope="module")
def regressor():
    return ConditionRegressor(SCHEMA, SPLIT.train.ecg, SPLIT.train.subjects, SPLIT.validation)


def pooled(ecg):
    """8 leads, averages of 4 samples."""
    return (
        independent_leads(np.asarray(ecg, float))
        .reshape(len(ecg), 8, 100, 4)
        .mean(3)
        .reshape(len(ecg), 800)
    )


def test_the_regression_is_the_ridge_of_least_error_on_the_validation_split(regressor):
    x, y = pooled(SPLIT.train.ecg), SPLIT.train.subjects["bmi"].to_numpy()
    centred, rest = x - x.mean(0), y - y.mean()
    covariance = centred.T @ centred / len(x)
    largest = np.linalg.eigvalsh(covariance)[-1]
    x_check, y_check = pooled(SPLIT.validation.ecg), SPLIT.validation.subjects["bmi"].to_numpy()
    found = []
    for penalty in PENALTIES:
        solved = np.linalg.solve(
            covariance + penalty * largest * np.eye(800), centred.T @ rest / len(x)
        )
        error = np.square((x_check - x.mean(0)) @ solved + y.mean() - y_check).mean()
        found.append((error, solved))
    _, slopes = min(found, key=lambda pair: pair[0])
    expected = (pooled(SPLIT.test.ecg) - x.mean(0)) @ slopes + y.mean()
    np.testing.assert_allclose(regressor.predict(SPLIT.test.ecg)["bmi"], expected, rtol=1e-4)
    assert np.argmin([error for error, _ in found]) not in (0, len(PENALTIES) - 1)


def test_real_ecgs_in_place_of_generated_ones_recover_the_same(regressor):
    metrics = recovery_metrics(SCHEMA, regressor, SPLIT.test, SPLIT.test.ecg, draws=100)
    assert metrics["recovery_r2_bmi"] > 0.6
    assert metrics["recovery_auc_sex"] > 0.9
    assert metrics["recovery_r2_age"] > 0.1
    for name in ("r2_age", "mae_age", "auc_sex", "r2_bmi", "mae_bmi"):
        assert metrics[f"recovery_{name}_difference"] == 0
        assert metrics[f"recovery_{name}_difference_high"] == 0
        low, high = (metrics[f"recovery_{name}_real_{end}"] for end in ("low", "high"))
        assert low < metrics[f"recovery_{name}_real"] < high
    errors = np.abs(regressor.predict(SPLIT.test.ecg)["age"] - SPLIT.test.subjects["age"])
    assert metrics["recovery_mae_age"] == pytest.approx(errors.mean())


def test_each_of_several_ecgs_of_a_recording_is_read_beside_its_own_conditions(regressor):
    twice = np.concatenate([SPLIT.test.ecg, SPLIT.test.ecg])
    metrics = recovery_metrics(SCHEMA, regressor, SPLIT.test, twice, draws=10)
    for name in ("r2_age", "mae_age", "auc_sex"):
        assert metrics[f"recovery_{name}_difference"] == pytest.approx(0, abs=1e-9)


def test_a_generator_collapsed_onto_the_conditions_is_read_far_better_than_real_ecgs(regressor):
    """The mean beat at these conditions: regression of every sample, and nothing else."""

    def inputs(subjects):
        female = (subjects["sex"] == "female").astype(float)
        return np.stack([np.ones(len(subjects)), subjects["age"], female, subjects["bmi"]], axis=1)

    train = SPLIT.train
    effect = np.linalg.lstsq(inputs(train.subjects), train.ecg.reshape(len(train), -1), rcond=None)
    collapsed = (inputs(SPLIT.test.subjects) @ effect[0]).reshape(SPLIT.test.ecg.shape)
    metrics = recovery_metrics(SCHEMA, regressor, SPLIT.test, collapsed, draws=100)
    for name in ("r2_age", "auc_sex", "r2_bmi"):
        assert metrics[f"recovery_{name}"] > 0.95 or name == "r2_age"
        assert metrics[f"recovery_{name}_difference_low"] > 0
    assert metrics["recovery_mae_age_difference_high"] < 0


def test_a_generator_that_ignores_the_conditions_is_read_no_better_than_by_chance(regressor):
    someone = np.random.default_rng(0).permutation(len(SPLIT.test))
    generated = np.concatenate([SPLIT.test.ecg[someone], SPLIT.test.ecg[someone[::-1]]])
    metrics = recovery_metrics(SCHEMA, regressor, SPLIT.test, generated, draws=100)
    assert metrics["recovery_auc_sex"] == pytest.approx(0.5, abs=0.1)
    assert metrics["recovery_r2_age"] < 0.05
    assert metrics["recovery_r2_age_difference_high"] < 0


def test_unknown_conditions_are_left_out_of_training_and_judging(regressor):
    train, test = SPLIT.train, SPLIT.test
    known = np.arange(len(train)) % 2 == 0
    subjects = train.subjects.assign(bmi=train.subjects["bmi"].where(known))
    half = ConditionRegressor(SCHEMA, train.ecg, subjects, SPLIT.validation)
    alone = ConditionRegressor(
        SCHEMA, train.ecg[known], train.subjects[known].reset_index(drop=True), SPLIT.validation
    )
    np.testing.assert_allclose(half.predict(test.ecg)["bmi"], alone.predict(test.ecg)["bmi"])
    np.testing.assert_allclose(half.predict(test.ecg)["age"], regressor.predict(test.ecg)["age"])

    part = test.take(np.arange(len(test)))
    part.subjects = part.subjects.assign(age=part.subjects["age"].where(part.subjects.index < 9))
    metrics = recovery_metrics(SCHEMA, regressor, part, part.ecg, draws=100)
    assert not [name for name in metrics if "age" in name]
    assert "recovery_r2_bmi" in metrics

    few = train.subjects.assign(bmi=train.subjects["bmi"].where(train.subjects.index < 9), age=50.0)
    assert set(ConditionRegressor(SCHEMA, train.ecg, few, SPLIT.validation).readings) == {"sex"}
    check = SPLIT.validation.take(np.arange(20))
    check.subjects["bmi"] = check.subjects["bmi"].where(check.subjects.index < 9)
    readings = ConditionRegressor(SCHEMA, train.ecg, train.subjects, check).readings
    assert set(readings) == {"age", "sex"}


def test_each_category_is_read_by_itself_and_other_leads_are_read_as_they_are():
    rng = np.random.default_rng(1)
    ecg = rng.standard_normal((300, 2, 10)).astype(np.float32)
    kind = np.array(["a", "b", "c"])[ecg[:, :, :4].mean((1, 2)).argsort().argsort() // 100]
    subjects = pd.DataFrame({"kind": kind})
    cohort = SPLIT.validation.take([0])
    cohort.leads, cohort.ecg, cohort.subjects = ("X", "Y"), ecg[200:], subjects[200:]
    schema = ConditionSchema([Condition("kind", "categorical", categories=("a", "b", "c"))])
    regressor = ConditionRegressor(schema, ecg[:200], subjects[:200], cohort)
    read = regressor.predict(ecg[200:])
    assert set(read) == {"kind_a", "kind_b", "kind_c"}
    assert read["kind_c"][kind[200:] == "c"].mean() > read["kind_c"][kind[200:] == "a"].mean() + 0.3


def test_scores_are_those_of_brute_force_and_paired():
    rng = np.random.default_rng(2)
    value = rng.standard_normal(60)
    value[:5] = np.nan
    patients = np.repeat(np.arange(30), 2).astype(str)
    predicted = value + rng.standard_normal((3, 60))
    found = scores([predicted, predicted], value, [0.1, 0.1], patients, False, 0, 100)
    known = ~np.isnan(value)
    errors = predicted[:, known] - value[known]
    assert found["mae"][0][0] == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    spread = np.square(value[known] - 0.1).mean()
    assert found["r2"][0][0] == pytest.approx(1 - np.square(errors).mean() / spread, rel=1e-6)
    assert len(found["r2"][0]) == 101
    np.testing.assert_array_equal(found["r2"][0], found["r2"][1])
    assert found["r2"][0].std() > 0.01

    positive = (value > 0) + 0.0
    positive[np.isnan(value)] = np.nan
    found = scores([predicted], positive, [0.5], patients, True, 0, 100)
    ranks = rankdata(predicted[:, known].ravel())
    yes = np.tile(positive[known] == 1, 3)
    expected = (ranks[yes].sum() - yes.sum() * (yes.sum() + 1) / 2) / (yes.sum() * (~yes).sum())
    assert found["auc"][0][0] == pytest.approx(expected)
    once, thrice = predicted[:1], np.repeat(predicted[:1], 3, axis=0)
    found = scores([once, thrice], positive, [0.5, 0.5], patients, True, 0, 100)["auc"]
    np.testing.assert_allclose(*found)  # in every bootstrap sample
    assert found[0].std() > 0.01
    assert scores([predicted], np.ones(60), [1.0], patients, True, 0, 100) == {}


def test_errors_that_are_all_alike_are_so_however_many_recordings_a_draw_has():
    value = np.arange(12.0)
    patients = np.array([0] * 6 + [1, 2, 3, 4, 5, 6])
    found = scores([value[None] + 2], value, [0.0], patients, False, 0, 50)
    np.testing.assert_allclose(found["mae"][0], 2, rtol=1e-6)
