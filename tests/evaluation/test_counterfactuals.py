from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data.cohort import LEADS
from data.conditions import Condition, ConditionSchema
from data.synthetic import simulate
from evaluation.measures.adherence import SWEPT
from evaluation.measures.counterfactuals import specificity_metrics
from evaluation.measures.features import measure
from evaluation.measures.slopes import Slopes, robust_sd

COHORT = simulate(300, seed=2)
YOUNG = np.flatnonzero(COHORT.subjects["age"] < 45)[:20]
BASE, SUBJECTS = COHORT.ecg[YOUNG], COHORT.subjects.iloc[YOUNG].reset_index(drop=True)
REAL = measure(COHORT.ecg[:20])
SCHEMA = ConditionSchema(
    [
        Condition("age", unit="years", low=0, high=120),
        Condition("sex", "binary", categories=("male", "female")),
        Condition("bmi", unit="kg/m2", low=10, high=80),
        Condition("centre", "categorical", categories=("a", "b", "c")),
    ]
)
CENTRES = {"a": 1.0, "b": 1.1, "c": 1.3}


class Gains:
    """z is the number of a beat; its voltage is +10% per decade, 0.8 in women, none of the BMI."""

    schema, leads, timing, unit = SCHEMA, LEADS, COHORT.timing, "mV"

    def __init__(self):
        self.asked = []

    def decode(self, z, subjects):
        self.asked.append(subjects)
        gain = 1 + (subjects["age"].astype(float).fillna(60) - 60) / 100
        gain = gain * np.where(subjects["sex"] == "female", 0.8, 1)
        gain = gain * subjects["centre"].map(CENTRES).fillna(1)
        return (BASE[z[:, 0]] * gain.to_numpy()[:, None, None]).astype(np.float32)


def slopes(value=0.0):
    pairs = tuple(
        (name, feature)
        for name in ("age", "sex", "bmi", "centre_b", "centre_c")
        for feature in SWEPT
    )
    return Slopes(pairs, np.full(len(pairs), value), np.full((4, len(pairs)), 1e-3), 15)


TRAIN = COHORT.subjects.assign(centre=np.resize(["b", "a", "b", "c"], 300))


def judge(subjects, value=0.0, model=None, train=TRAIN):
    subjects = subjects.assign(centre="b") if "centre" not in subjects else subjects
    latent = np.arange(len(BASE))[:, None]
    return specificity_metrics(model or Gains(), subjects, train, latent, REAL, slopes(value))


def height(gain):
    return measure((BASE * np.asarray(gain).reshape(-1, 1, 1)).astype(np.float32))["r_v5"]


def test_a_counterfactual_moves_what_it_should_by_as_much_in_sd_of_real_ecgs():
    metrics = judge(SUBJECTS)
    sd = robust_sd(REAL[["r_v5"]].to_numpy())[0]
    female = np.where(SUBJECTS["sex"] == "female", 0.8, 1)
    expected = (height(0.11 * female) / sd).mean()
    assert metrics["specificity_age_r_v5"] == pytest.approx(expected, rel=0.05)
    low, high = (metrics[f"specificity_age_r_v5_{end}"] for end in ("low", "high"))
    assert low < metrics["specificity_age_r_v5"] < high
    gain = 1.1 * (1 + (SUBJECTS["age"] - 60) / 100)
    expected = -(height(0.2 * gain) / sd).mean()
    assert metrics["specificity_sex_r_v5"] == pytest.approx(expected, rel=0.1)  # Huber's mean
    ratio = metrics["specificity_centre_c_r_v5"] / metrics["specificity_centre_b_r_v5"]
    assert ratio == pytest.approx(3, rel=0.05)


def test_a_condition_without_effect_moves_nothing():
    metrics = judge(SUBJECTS)
    assert all(metrics[f"specificity_bmi_{name}"] == 0 for name in SWEPT)


def test_each_change_is_of_one_condition_by_the_standard_step():
    model = Gains()
    judge(SUBJECTS, model=model)
    own, older, other, heavier, *centres = model.asked
    np.testing.assert_allclose(older["age"] - own["age"], 10)
    np.testing.assert_allclose(heavier["bmi"] - own["bmi"], 5)
    assert (other["sex"] != own["sex"]).all()
    assert [set(table["centre"]) for table in centres] == [{"b"}, {"a"}, {"c"}, {"a"}]
    for table, changed in zip(model.asked, ("", "age", "sex", "bmi", *["centre"] * 4), strict=True):
        kept = [name for name in SCHEMA.names if name != changed]
        pd.testing.assert_frame_equal(table[kept], own[kept])


def test_a_step_beyond_the_plausible_range_is_taken_back_and_counts_as_one_on():
    model = Gains()
    old = SUBJECTS.assign(age=np.where(np.arange(20) < 10, 115.0, 105.0))
    metrics = judge(old, model=model)
    step = model.asked[1]["age"] - model.asked[0]["age"]
    np.testing.assert_array_equal(step, np.where(np.arange(20) < 10, -10, 10))
    assert metrics["specificity_age_r_v5_low"] > 0


def test_an_unknown_condition_starts_from_the_reference_subject():
    model = Gains()
    unknown = SUBJECTS.drop(columns="bmi")
    unknown.loc[3, "age"], unknown.loc[4, "sex"] = np.nan, None
    judge(unknown, model=model)
    own = model.asked[0]
    assert own["age"][3] == COHORT.subjects["age"].median()
    assert own["sex"][4] == COHORT.subjects["sex"].mode()[0]
    assert set(own["bmi"]) == {COHORT.subjects["bmi"].median()}
    np.testing.assert_array_equal(own["age"][:3], SUBJECTS["age"][:3])


@pytest.mark.parametrize(
    "of_all",
    [
        {"age": 63.1, "sex": "male", "centre": "b"},  # 63.1, whose SD over 300 is not quite 0
        {"age": np.nan, "sex": None, "centre": None},
    ],
)
def test_a_condition_that_never_varied_or_is_known_of_nobody_is_not_changed(of_all):
    train = TRAIN.assign(**of_all)
    unknown = train["age"].isna().all()
    own = SUBJECTS.assign(**dict.fromkeys(of_all)) if unknown else SUBJECTS
    model = Gains()
    metrics = judge(own, model=model, train=train)
    moved = {name.split("_")[1] for name in metrics if name.endswith("_qrs_axis_real")}
    assert moved == {"bmi"}
    assert len(model.asked) == 2


def test_without_conditions_there_is_nothing_to_change():
    model = Gains()
    model.schema = ConditionSchema([])
    model.decode = lambda z, subjects: BASE[z[: len(subjects), 0]]
    none = Slopes((), np.zeros(0), np.zeros((4, 0)), 15)
    latent = np.arange(len(BASE))[:, None]
    assert specificity_metrics(model, SUBJECTS, TRAIN, latent, REAL, none) == {}


def test_beside_it_stands_what_the_real_slope_asks_for_the_same_step():
    metrics = judge(SUBJECTS, value=0.02)
    sd = robust_sd(REAL[["r_v5"]].to_numpy())[0]
    assert metrics["specificity_age_r_v5_real"] == pytest.approx(0.02 / sd)  # a decade
    assert metrics["specificity_bmi_r_v5_real"] == pytest.approx(5 * 0.02 / sd)
    assert metrics["specificity_sex_r_v5_real"] == pytest.approx(0.02 / sd)
    error = np.sqrt(4e-6)
    width = metrics["specificity_bmi_r_v5_real_high"] - metrics["specificity_bmi_r_v5_real_low"]
    assert width == pytest.approx(2 * 2.131 * error * 5 / sd, rel=1e-3)
    assert -1 < metrics["specificity_correlation"] < 1
    assert np.isfinite(metrics["specificity_gain"])


def test_an_axis_turns_the_short_way_round():
    class Turning(Gains):
        def decode(self, z, subjects):
            axis = np.deg2rad(np.where(subjects["age"] > 60, -175, 175))
            one, foot = np.cos(axis)[:, None], np.sin(axis)[:, None] * np.sqrt(3) / 2
            beat = BASE[:1, 1].repeat(len(z), axis=0)
            two = foot + one / 2
            limb = (one, two, two - one, -(one + two) / 2, one - two / 2, foot)
            limb = np.stack([part * beat for part in limb], axis=1)
            return np.concatenate([limb, BASE[:, 6:]], axis=1).astype(np.float32)

    metrics = judge(SUBJECTS.assign(age=55.0), model=Turning())
    sd = robust_sd(REAL[["qrs_axis"]].to_numpy())[0]
    assert metrics["specificity_age_qrs_axis"] == pytest.approx(10 / sd, rel=0.1)


def test_other_leads_have_no_counterfactual_features():
    model = SimpleNamespace(leads=("I", "II"), schema=SCHEMA)
    assert judge(SUBJECTS, model=model) == {}
