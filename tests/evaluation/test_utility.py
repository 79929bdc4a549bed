import numpy as np
import pytest

from data.conditions import Condition, ConditionSchema
from data.synthetic import simulate
from evaluation.measures.regressor import ConditionRegressor
from evaluation.measures.utility import utility_metrics

SPLIT = simulate(1200, seed=6).split(0.15, 0.25)
OTHERS = simulate(len(SPLIT.train), seed=7)  # as if generated: of the same distribution
SCHEMA = ConditionSchema(
    [
        Condition("age", unit="years"),
        Condition("sex", "binary", categories=("male", "female")),
        Condition("bmi", unit="kg/m2"),
    ]
)


def trained_on(ecg, subjects):
    return ConditionRegressor(SCHEMA, ecg, subjects, SPLIT.validation)


@pytest.fixture(scope="module")
def of_real():
    return trained_on(SPLIT.train.ecg, SPLIT.train.subjects)


@pytest.fixture(scope="module")
def judged(of_real):
    of_others = trained_on(OTHERS.ecg, OTHERS.subjects)
    return utility_metrics(SCHEMA, of_others, of_real, SPLIT.test, draws=200)


def test_ecgs_of_the_same_distribution_are_as_useful_as_real_ones(judged):
    for name in ("auc_sex", "r2_bmi"):
        assert judged[f"tstr_over_trtr_{name}"] == pytest.approx(1, abs=0.1)
    assert judged["tstr_over_trtr_r2_age_low"] < 1.05
    assert judged["tstr_over_trtr_r2_age_high"] > 0.95


def test_the_ratio_is_of_skill_above_chance(judged):
    assert judged["tstr_over_trtr_auc_sex"] == pytest.approx(
        (judged["tstr_auc_sex"] - 0.5) / (judged["trtr_auc_sex"] - 0.5)
    )
    assert judged["tstr_over_trtr_r2_age"] == pytest.approx(
        judged["tstr_r2_age"] / judged["trtr_r2_age"]
    )
    assert "tstr_over_trtr_mae_age" not in judged
    assert judged["tstr_mae_bmi"] < judged["tstr_mae_age"]


def test_trained_on_the_same_ecgs_the_ratio_is_1_in_every_bootstrap_sample(of_real):
    metrics = utility_metrics(SCHEMA, of_real, of_real, SPLIT.test, draws=100)
    for end in ("", "_low", "_high"):
        assert metrics[f"tstr_over_trtr_r2_bmi{end}"] == 1
    assert metrics["tstr_r2_bmi_low"] < metrics["tstr_r2_bmi"] < metrics["tstr_r2_bmi_high"]


def test_generated_ecgs_that_ignore_the_conditions_teach_nothing(of_real):
    someone = np.random.default_rng(0).permutation(len(SPLIT.train))
    of_ignoring = trained_on(SPLIT.train.ecg[someone], SPLIT.train.subjects)
    metrics = utility_metrics(SCHEMA, of_ignoring, of_real, SPLIT.test, draws=100)
    assert metrics["tstr_over_trtr_auc_sex"] < 0.5
    assert metrics["tstr_over_trtr_r2_bmi"] < 0.1
    assert metrics["tstr_over_trtr_r2_age"] < 0.1


def test_without_skill_of_real_ecgs_there_is_no_ratio(of_real):
    someone = np.random.default_rng(1).permutation(len(SPLIT.test))
    test = SPLIT.test.take(np.arange(len(SPLIT.test)))
    test.ecg = test.ecg[someone]  # nobody could read these
    metrics = utility_metrics(SCHEMA, of_real, of_real, test, draws=100)
    assert "trtr_auc_sex" in metrics
    assert not [name for name in metrics if name.startswith("tstr_over_trtr")]
