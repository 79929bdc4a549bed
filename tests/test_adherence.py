from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conditions import Condition, ConditionSchema
from data.cohort import LEADS
from data.synthetic import simulate
from evaluation.adherence import SWEPT, condition_effects, reference_subject, sweep_values
from evaluation.features import measure

COHORT = simulate(300, seed=2)
SUBJECTS = COHORT.subjects
BASE = COHORT.ecg[SUBJECTS["age"] < 45][:12]  # young: well above the noise in every lead
SCHEMA = ConditionSchema(
    [
        Condition("age", unit="years"),
        Condition("sex", "binary", categories=("male", "female")),
        Condition("bmi", unit="kg/m2"),
    ]
)


class Scaled:
    """A generator whose effects are known: +10% of voltage per decade, 20% less in women."""

    schema, leads = SCHEMA, LEADS

    def __init__(self):
        self.asked = []

    def generate(self, n, seed, age, sex, bmi):
        self.asked.append((n, seed, age, sex, bmi))
        gain = (1 + (age - 60) / 100) * (0.8 if sex == "female" else 1.0)
        return (BASE[:n] * gain).astype(np.float32)


@pytest.fixture(scope="module")
def judged():
    model = Scaled()
    return model, condition_effects(model, SUBJECTS, n=12, seed=5)


def test_an_effect_is_the_known_change_per_unit_with_its_interval(judged):
    _, effects = judged
    gain = 0.8 if SUBJECTS["sex"].mode()[0] == "female" else 1.0
    height = measure(BASE * np.float32(gain))["r_v5"]  # of the reference sex at 60 years
    assert effects["effect_age_r_v5"] == pytest.approx(0.1 * height.mean(), rel=1e-3)
    low, high = stats.norm.interval(0.95, 0.1 * height.mean(), stats.sem(0.1 * height))
    assert effects["effect_age_r_v5_low"] == pytest.approx(low, rel=1e-3)
    assert effects["effect_age_r_v5_high"] == pytest.approx(high, rel=1e-3)


def test_the_effect_of_sex_is_women_minus_men(judged):
    _, effects = judged
    at_median = 1 + (SUBJECTS["age"].median() - 60) / 100
    height = measure(BASE * np.float32(at_median))["sokolow_lyon"]
    assert effects["effect_sex_sokolow_lyon"] == pytest.approx(-0.2 * height.mean(), rel=1e-3)


def test_what_does_not_move_has_no_effect(judged):
    _, effects = judged
    for name in SWEPT:
        assert effects[f"effect_bmi_{name}"] == 0
    assert effects["effect_age_qrs_axis"] == pytest.approx(0, abs=0.1)
    assert len(effects) == 3 * 3 * len(SWEPT)


def test_only_one_condition_changes_at_a_time_and_the_latents_stay(judged):
    model, _ = judged
    reference = (SUBJECTS["age"].median(), SUBJECTS["sex"].mode()[0], SUBJECTS["bmi"].median())
    assert len(model.asked) == 6
    for number, (n, seed, *asked) in enumerate(model.asked):
        assert (n, seed) == (12, 5)
        changed = {i for i in range(3) if asked[i] != reference[i]}
        assert changed <= {number // 2}
    ages = [asked[2] for asked in model.asked[:2]]
    np.testing.assert_allclose(ages, np.percentile(SUBJECTS["age"], [5, 95]), atol=0.51)
    assert [asked[3] for asked in model.asked[2:4]] == ["male", "female"]


def test_an_axis_turns_the_short_way_round():
    def turned(degrees):
        """I and aVF of a beat whose QRS and T point there."""
        one, foot = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        beat = BASE[:1, 1]  # a shape with P, QRS and T
        two = foot + one / 2
        limb = (one, two, two - one, -(one + two) / 2, one - two / 2, foot)
        limb = np.stack([part * beat for part in limb], axis=1)
        return np.concatenate([limb, BASE[:1, 6:]], axis=1)

    class Turning:
        schema, leads = ConditionSchema([Condition("age", unit="")]), LEADS

        def generate(self, n, seed, age):
            return np.repeat(turned(170 + age), n, axis=0).astype(np.float32)

    subjects = pd.DataFrame({"age": np.linspace(0, 20, 21)})  # 5th to 95th percentile: 1 to 19
    effects = condition_effects(Turning(), subjects, n=2)
    ends = [measure(turned(170 + age))["qrs_axis"].iloc[0] for age in (1, 19)]
    assert ends[0] > 150 > -150 > ends[1]
    assert effects["effect_age_qrs_axis"] == pytest.approx((ends[1] + 360 - ends[0]) / 18)
    assert 0.5 < effects["effect_age_qrs_axis"] < 2


def test_other_leads_and_constant_conditions_have_no_effects():
    model = SimpleNamespace(leads=("I", "II"), schema=SCHEMA)
    assert condition_effects(model, SUBJECTS) == {}
    constant = Scaled()
    effects = condition_effects(constant, SUBJECTS.assign(bmi=25.0), n=4)
    assert not [name for name in effects if "bmi" in name]
    assert all(asked[4] == 25 for asked in constant.asked)


def test_the_reference_subject_is_median_and_commonest():
    subjects = pd.DataFrame({"age": [30, 40, np.nan, 80], "sex": ["male", None, "female", "male"]})
    schema = ConditionSchema(SCHEMA.conditions[:2])
    assert reference_subject(schema, subjects) == {"age": 40.0, "sex": "male"}


def test_a_sweep_runs_from_the_5th_to_the_95th_percentile_or_through_the_categories():
    subjects = pd.DataFrame({"bmi": np.linspace(0.15, 0.45, 1001)})
    values = sweep_values(SCHEMA.conditions[2], subjects)
    np.testing.assert_allclose(values, np.linspace(0.165, 0.435, 7), atol=0.001)
    assert sweep_values(SCHEMA.conditions[1], subjects) == ["male", "female"]
