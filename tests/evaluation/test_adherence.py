from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.cohort import LEADS
from data.conditions import Condition, ConditionSchema
from data.synthetic import simulate
from evaluation.measures.adherence import (
    SWEPT,
    condition_effects,
    generate_like,
    reference_subject,
    references_of,
    slope_metrics,
    sweep_values,
)
from evaluation.measures.features import measure

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

    schema = ConditionSchema(SCHEMA.conditions).fit(SUBJECTS)
    leads, timing, unit = LEADS, COHORT.timing, "mV"

    def __init__(self):
        self.asked = []
        self.prior = SimpleNamespace(sample=self.sample)

    def sample(self, encoded, seed):
        """The latent is the number of the beat."""
        people = [self.person(row) for row in encoded]
        assert len(set(people)) == 1
        self.asked.append((len(encoded), seed, *people[0]))
        return np.arange(len(encoded))[:, None]

    def decode(self, z, encoded):
        ages, sexes, _ = zip(*map(self.person, encoded), strict=True)
        gain = (1 + (np.array(ages) - 60) / 100) * np.where(np.equal(sexes, "female"), 0.8, 1.0)
        return (BASE[z[:, 0]] * gain[:, None, None]).astype(np.float32)

    def person(self, encoded):
        """Age, sex and BMI; each but sex is followed by a 1, as it is known."""
        age, _, female, bmi, _ = encoded
        age, bmi = (
            round(value * sd + mean, 4)
            for value, (mean, sd) in zip(
                (float(age), float(bmi)), self.schema.scaling.values(), strict=True
            )
        )
        return age, "female" if female > 0 else "male", bmi


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
        kept = [i for i in range(3) if i != number // 2]
        assert [asked[i] for i in kept] == pytest.approx([reference[i] for i in kept], abs=1e-3)
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

    subjects = pd.DataFrame({"age": np.linspace(0, 20, 21)})  # 5th to 95th percentile: 1 to 19

    class Turning:
        schema, leads = ConditionSchema([Condition("age", unit="")]).fit(subjects), LEADS
        timing, unit = COHORT.timing, "mV"
        prior = SimpleNamespace(sample=lambda encoded, seed: np.zeros((len(encoded), 1)))

        def decode(self, z, encoded):
            mean, sd = self.schema.scaling["age"]
            beats = [turned(170 + mean + sd * age) for age in encoded[:, 0].astype("f8")]
            return np.concatenate(beats).astype(np.float32)

    effects = condition_effects(Turning(), subjects, n=2)
    ends = [measure(turned(170 + age))["qrs_axis"].iloc[0] for age in (1, 19)]
    assert ends[0] > 150 > -150 > ends[1]
    assert effects["effect_age_qrs_axis"] == pytest.approx((ends[1] + 360 - ends[0]) / 18, rel=1e-4)
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
    subjects = pd.DataFrame({"bmi": np.linspace(0.15, 0.45, 1001), "sex": "female"})
    subjects.loc[::2, "sex"] = "male"
    values = sweep_values(SCHEMA.conditions[2], subjects)
    np.testing.assert_allclose(values, np.linspace(0.165, 0.435, 7), atol=0.001)
    assert sweep_values(SCHEMA.conditions[1], subjects) == ["male", "female"]
    men = subjects[subjects["sex"] == "male"]  # what a model of men makes of women is a guess
    assert sweep_values(SCHEMA.conditions[1], men) == ["male"]


# ---- slopes of generated ECGs against those of real ones -----------------------------------------

PEOPLE = simulate(400, seed=4).subjects
EFFECTS = {"age": 0.4, "sex": 0.8, "bmi": -0.2}  # per decade, in women, per unit, all features


def table(subjects, share=1.0, seed=0, noise=1.0):
    """Features that depend on the conditions, some more, some less."""
    rng = np.random.default_rng(seed)
    known = (
        EFFECTS["age"] * (subjects["age"] - 57) / 10
        + EFFECTS["sex"] * (subjects["sex"] == "female")
        + EFFECTS["bmi"] * (subjects["bmi"] - 27)
    ).to_numpy()
    weight = np.linspace(-1, 1, len(SWEPT))
    values = share * np.outer(known, weight) + noise * rng.standard_t(
        5, (len(subjects), len(SWEPT))
    )
    return pd.DataFrame(values, columns=list(SWEPT))


@pytest.fixture(autouse=True)
def few_halvings(monkeypatch):
    monkeypatch.setattr("evaluation.measures.adherence.HALVINGS", 4)


def against(share, copies=2, subjects=PEOPLE, **options):
    generated = [table(subjects, share, seed=10 + copy) for copy in range(copies)]
    generated = pd.concat(generated, ignore_index=True)
    return slope_metrics(SCHEMA, subjects, table(subjects), generated, **options)[0]


def test_a_generator_like_the_real_recovers_as_many_slopes_as_one_half_of_them_does():
    metrics = against(1.0)
    assert metrics["slopes"] == 3 * len(SWEPT)
    assert metrics["slopes_recovered"] > 0.85
    assert metrics["slopes_recovered"] <= metrics["slopes_agree"] <= 1
    assert metrics["slopes_recovered_clear"] > 0.85
    assert metrics["slopes_correlation"] > 0.95
    assert metrics["slopes_gain"] == pytest.approx(1, abs=0.1)
    assert 0.9 < metrics["slopes_recovered_null"] <= 1
    assert metrics["slopes_recovered_null_low"] < metrics["slopes_recovered_null_high"] <= 1
    assert metrics["slopes_gain_null"] == pytest.approx(1, abs=0.1)
    assert metrics["slopes_gain_null_low"] < 1 < metrics["slopes_gain_null_high"]


def test_a_generator_that_ignores_the_conditions_recovers_what_the_mean_beat_does():
    metrics = against(0.0)
    assert metrics["slopes_recovered"] == pytest.approx(
        metrics["mean_beat_slopes_recovered"], abs=0.2
    )
    assert metrics["slopes_recovered"] < 0.4
    assert metrics["slopes_recovered_clear"] < 0.3
    assert metrics["slopes_agree"] < 0.45
    assert metrics["slopes_gain"] == pytest.approx(0, abs=0.1)
    clear = metrics["slopes_clear"] / metrics["slopes"]
    assert metrics["mean_beat_slopes_recovered"] == pytest.approx(1 - clear)
    strong = "slope_age_cornell"  # of weight 1
    assert metrics[strong] == pytest.approx(0, abs=0.15)
    assert metrics[f"{strong}_low"] < metrics[strong] < metrics[f"{strong}_high"]
    assert metrics[f"{strong}_real_low"] < EFFECTS["age"] < metrics[f"{strong}_real_high"]
    assert metrics[f"{strong}_difference_high"] < 0


def test_half_the_effects_are_a_gain_of_one_half():
    metrics = against(0.5)
    assert metrics["slopes_gain"] == pytest.approx(0.5, abs=0.06)
    assert metrics["slopes_recovered"] < 0.7
    for name, effect in EFFECTS.items():
        key = f"slope_{name}_cornell"
        assert metrics[key] == pytest.approx(effect / 2, rel=0.3)
        assert metrics[f"{key}_difference"] == pytest.approx(
            metrics[key] - metrics[f"{key}_real"], abs=1e-9
        )


def test_more_generated_ecgs_narrow_the_interval():
    few, many = against(1.0, copies=1), against(1.0, copies=4)

    def width(metrics):
        keys = [f"slope_age_{name}" for name in SWEPT]
        return np.mean([metrics[f"{key}_high"] - metrics[f"{key}_low"] for key in keys])

    assert width(few) == pytest.approx(2 * width(many), rel=0.1)


def test_references_are_compared_as_other_patients():
    others = simulate(800, seed=9).subjects  # of the same names: sim-000001 ...
    truth = table(others, noise=1e-3)[["cornell", "r_i"]]
    metrics = against(0.5, references={"true": (truth, others)})
    assert metrics["slope_age_cornell_true"] == pytest.approx(EFFECTS["age"], rel=1e-2)
    assert metrics["slopes_gain_true"] == pytest.approx(0.5, abs=0.08)
    assert metrics["slopes_recovered_true"] < 0.5
    assert "slope_age_r_v5_true" not in metrics
    alone = against(0.5)
    assert alone.items() <= metrics.items()


def test_references_are_the_training_ecgs_and_the_truth_where_it_is_known():
    split = COHORT.split()
    of_train = pd.DataFrame({"r_v5": np.arange(len(split.train))}), split.train.subjects
    references = references_of(split, *of_train)
    assert set(references) == {"train", "true"}
    assert references["train"] == of_train
    features, subjects = references["true"]
    assert len(features) == len(subjects) == len(COHORT)
    assert "qrs_duration" not in features
    assert {"r_v5", "qrs_axis"} <= set(features)
    row = subjects.index[subjects["subject_id"] == "sim-000007"][0]
    assert features["r_v5"][row] == COHORT.truth["r_v5"][6]
    for part in split:
        part.truth = None
    assert set(references_of(split, *of_train)) == {"train"}


def test_a_condition_that_few_test_subjects_know_has_no_slope():
    subjects = PEOPLE.assign(bmi=PEOPLE["bmi"].where(PEOPLE.index < 9))
    real = table(PEOPLE)
    metrics, _ = slope_metrics(SCHEMA, subjects, real, pd.concat([real, real]))
    assert not [name for name in metrics if "_bmi_" in name]
    assert metrics["slopes"] == 2 * len(SWEPT)
    assert metrics["slopes_recovered"] == 1
    assert metrics["slope_age_r_v5_difference"] == pytest.approx(0, abs=1e-9)


def test_rows_that_do_not_fit_are_named():
    real = table(PEOPLE)
    with pytest.raises(ValueError, match=r"400 real ECGs.*Received: 400 and 650 rows"):
        slope_metrics(SCHEMA, PEOPLE, real, pd.concat([real, real[:250]]))
    with pytest.raises(ValueError, match="Received: 399"):
        slope_metrics(SCHEMA, PEOPLE, real[:399], real)


def test_generated_like_repeats_the_subjects_and_leaves_the_unknown_unknown():
    asked = {}

    def generate(n, seed, **columns):
        asked.update(n=n, seed=seed, **columns)
        return np.zeros((n, 12, 4))

    model = SimpleNamespace(schema=SCHEMA, generate=generate)
    subjects = pd.DataFrame({"age": [40.0, np.nan], "sex": ["female", None], "other": [1, 2]})
    assert len(generate_like(model, subjects, 2, seed=3)) == 4
    assert (asked["n"], asked["seed"]) == (4, 3)
    assert set(asked) == {"n", "seed", "age", "sex"}
    np.testing.assert_array_equal(asked["age"], [40, np.nan, 40, np.nan])
    assert list(asked["sex"]) == ["female", None] * 2


def test_generated_and_real_ecgs_are_paired_by_patient_in_any_order():
    shuffled = PEOPLE.sample(frac=1, random_state=0).reset_index(drop=True)
    real = table(shuffled)
    same = slope_metrics(SCHEMA, shuffled, real, real)[0]
    assert same["slope_age_r_v5_difference_high"] == pytest.approx(0, abs=1e-9)
    assert same["slope_age_r_v5_high"] > same["slope_age_r_v5"] + 0.01
    twice = pd.concat([real, real], ignore_index=True)
    twice = slope_metrics(SCHEMA, shuffled, real, twice)[0]
    assert twice["slope_age_r_v5_difference_high"] < 0.005


def test_a_reference_is_not_paired_with_the_test_patients():
    """A shift well below the errors would be clear if what both owe to a patient cancelled."""
    generated = table(PEOPLE, seed=3)
    shifted = generated.add(0.02 * PEOPLE["age"] / 10, axis=0)
    metrics, _ = slope_metrics(
        SCHEMA, PEOPLE, table(PEOPLE), generated, {"train": (shifted, PEOPLE)}
    )
    assert metrics["slopes_recovered_train"] == 1
