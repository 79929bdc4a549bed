import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from data.conditions import Condition, ConditionSchema
from evaluation.measures.slopes import (
    HUBER,
    Slopes,
    adjusted_slopes,
    circular_medians,
    contrasts,
    correlation_and_gain,
    huber_regression,
    robust_means,
    robust_sd,
    unwrapped,
)

AGE, BMI = Condition("age", unit="years"), Condition("bmi", unit="kg/m2")
SEX = Condition("sex", "binary", categories=("male", "female"))
CENTRE = Condition("centre", "categorical", categories=("a", "b", "c"))


def people(n, seed=0):
    """Conditions that hang together: the old are heavier, women are older."""
    rng = np.random.default_rng(seed)
    female = rng.random(n) < 0.5
    age = 55 + 5 * female + 12 * rng.standard_normal(n)
    return pd.DataFrame(
        {
            "patient_id": [f"p{row}" for row in range(n)],
            "age": age,
            "sex": np.where(female, "female", "male"),
            "bmi": 27 + 0.15 * (age - 57) + 4 * rng.standard_normal(n),
            "centre": rng.choice(["a", "b", "c"], n),
        }
    )


def fit(table, subjects, *conditions):
    groups = np.unique(subjects["patient_id"], return_inverse=True)[1]
    slopes = adjusted_slopes(
        table, subjects, ConditionSchema(conditions), groups, int(groups.max()) + 1
    )
    return slopes, dict(zip(slopes.pairs, slopes.value, strict=True))


def design(n=60, seed=1):
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.standard_normal((n, 2))]), rng


def one_regression(x, y, **settings):
    """Of one y (N,): coefficients (D,) and influence (N, D)."""
    coefficients, influence = huber_regression(x, y[:, None], **settings)
    return coefficients[:, 0], influence[:, :, 0]


def test_regressions_of_several_at_once_are_those_of_each():
    x, rng = design(300)
    y = x @ rng.standard_normal((3, 4)) + rng.standard_t(2, (300, 4)) * [0.1, 1, 10, 0]
    coefficients, influence = huber_regression(x, y)
    for column, alone in enumerate(y.T):
        found, of_rows = one_regression(x, alone)
        np.testing.assert_allclose(coefficients[:, column], found, rtol=1e-12)
        np.testing.assert_allclose(influence[:, :, column], of_rows, rtol=1e-6, atol=1e-12)


def test_without_outliers_it_is_least_squares_with_the_hc3_sandwich():
    x, rng = design()
    y = x @ [1, 2, 3] + np.exp(x[:, 1]) * rng.standard_normal(len(x))
    coefficients, influence = one_regression(x, y, tuning=1e6)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(coefficients, expected, rtol=1e-10)
    bread = np.linalg.inv(x.T @ x)
    meat = np.zeros((3, 3))
    for row, rest in zip(x, y - x @ expected, strict=True):
        meat += np.outer(row, row) * (rest / (1 - row @ bread @ row)) ** 2
    np.testing.assert_allclose(influence.T @ influence, bread @ meat @ bread, rtol=1e-8)


def test_with_outliers_it_is_the_minimum_of_hubers_loss():
    x, rng = design(200)
    y = x @ [1, 2, 3] + 0.1 * rng.standard_normal(len(x))
    y[:20] += 50
    coefficients, _ = one_regression(x, y)
    limit = HUBER * np.median(np.abs(y - x @ coefficients)) / stats.norm.ppf(0.75)
    best = optimize.least_squares(
        lambda b: y - x @ b, coefficients + 0.1, loss="huber", f_scale=limit, xtol=1e-12
    )
    np.testing.assert_allclose(coefficients, best.x, atol=1e-4)
    np.testing.assert_allclose(coefficients[1:], [2, 3], atol=0.1)


def test_the_influence_of_a_row_is_what_leaving_it_out_does():
    x, rng = design(400)
    y = x @ [1, 2, 3] + rng.standard_t(3, len(x))
    coefficients, influence = one_regression(x, y)
    for row in range(0, 400, 40):
        without = one_regression(np.delete(x, row, 0), np.delete(y, row))[0]
        np.testing.assert_allclose(coefficients - without, influence[row], atol=1.5e-3)


def test_intervals_hold_the_true_slope_in_95_percent():
    held = []
    for seed in range(200):
        subjects = people(80, seed)
        rng = np.random.default_rng(1000 + seed)
        spread = subjects["age"] / 50  # grows with age
        feature = 0.3 * subjects["age"] - subjects["bmi"] + spread * rng.standard_t(4, 80)
        slopes, _ = fit(pd.DataFrame({"r": feature}), subjects, AGE, BMI)
        low, high = slopes.interval
        held.append((low <= [3, -1]) & (high >= [3, -1]))
    assert 0.92 < np.mean(held) < 0.98


def test_slopes_are_adjusted_for_the_other_conditions_and_in_their_units():
    subjects = people(500)
    feature = (
        0.2 * subjects["age"]
        - 3.0 * (subjects["sex"] == "female")
        + 0.5 * subjects["bmi"]
        + subjects["centre"].map({"a": 0, "b": 1, "c": -2})
    )
    _, found = fit(pd.DataFrame({"r": feature, "s": -feature}), subjects, AGE, SEX, BMI, CENTRE)
    expected = {"age": 2.0, "sex": -3.0, "bmi": 0.5, "centre_b": 1.0, "centre_c": -2.0}
    assert {name for name, _ in found} == set(expected)
    for name, slope in expected.items():
        assert found[name, "r"] == pytest.approx(slope, abs=1e-6)
        assert found[name, "s"] == pytest.approx(-slope, abs=1e-6)


def test_an_unknown_condition_tells_nothing_of_its_own_slope_but_all_of_the_others():
    rng = np.random.default_rng(3)
    subjects = people(400).assign(bmi=27 + 4 * rng.standard_normal(400))  # without regard to age
    feature = subjects["age"] + 0.2 * subjects["bmi"] + rng.standard_normal(400)
    unknown = np.arange(400) % 4 > 0
    feature[unknown] += 100  # whatever else is true of those
    subjects.loc[unknown, "bmi"] = np.nan
    table = pd.DataFrame({"r": feature})
    _, found = fit(table, subjects, BMI)
    of_known, expected = fit(
        table[~unknown].reset_index(drop=True), subjects[~unknown].reset_index(drop=True), BMI
    )
    assert found["bmi", "r"] == pytest.approx(expected["bmi", "r"], rel=0.02)
    both, found = fit(table, subjects, AGE, BMI)
    complete, _ = fit(
        table[~unknown].reset_index(drop=True), subjects[~unknown].reset_index(drop=True), AGE, BMI
    )
    assert found["age", "r"] == pytest.approx(10, abs=0.2)
    assert both.error[0] < 0.8 * complete.error[0]


def test_what_cannot_be_judged_has_no_slope_and_spoils_no_other():
    subjects = people(60).assign(twin=lambda table: 2 * table["age"] + 1, same=1.0)
    subjects["rare"] = np.where(np.arange(60) < 9, np.arange(60), np.nan)
    subjects["flag"] = np.where(np.arange(60) < 9, "yes", "no")
    conditions = (
        AGE,
        Condition("twin"),
        Condition("same"),
        Condition("rare"),
        Condition("flag", "binary", categories=("no", "yes")),
        Condition("absent"),
    )
    feature = pd.DataFrame({"r": 0.1 * subjects["age"], "none": np.nan})
    _, found = fit(feature, subjects, *conditions)
    assert found["age", "r"] == pytest.approx(1)
    for name in ("twin", "same", "rare", "flag", "absent"):
        assert np.isnan(found[name, "r"])
    assert np.isnan(found["age", "none"])


def test_few_patients_are_few_however_many_recordings_they_have():
    subjects = pd.concat([people(30)] * 10, ignore_index=True)
    subjects["rare"] = np.where(np.arange(300) % 30 < 9, np.arange(300.0), np.nan)
    _, found = fit(pd.DataFrame({"r": np.arange(300.0)}), subjects, Condition("rare"))
    assert np.isnan(found["rare", "r"])


def test_recordings_of_a_patient_count_together():
    subjects = people(200)
    rng = np.random.default_rng(4)
    table = pd.DataFrame({"r": subjects["age"] + 9 * rng.standard_normal(200)})
    once, _ = fit(table, subjects, AGE)
    twice, _ = fit(
        pd.concat([table] * 5, ignore_index=True), pd.concat([subjects] * 5, ignore_index=True), AGE
    )
    assert twice.value[0] == pytest.approx(once.value[0], rel=1e-6)
    assert twice.error[0] == pytest.approx(once.error[0], rel=0.02)


def test_a_difference_of_slopes_is_paired_by_patient():
    a = Slopes((), np.array([3.0]), np.array([[1.0], [0.0], [2.0]]), 9)
    b = Slopes((), np.array([1.0]), np.array([[1.0], [1.0], [0.0]]), 7)
    difference = a.minus(b)
    assert difference.value == 2
    assert difference.error[0] == pytest.approx(np.sqrt(0 + 1 + 4))
    low, high = difference.interval
    assert high[0] - 2 == pytest.approx(2 - low[0])
    assert high[0] == pytest.approx(2 + stats.t.ppf(0.975, 7) * np.sqrt(5))
    assert not difference.clear[0]
    assert a._replace(value=np.array([6.0])).clear[0]


@pytest.mark.parametrize("turn", [0, 150, -170])
def test_an_axis_beyond_180_degrees_has_the_slope_of_any_other(turn):
    subjects = people(300)
    rng = np.random.default_rng(5)
    axis = turn - 0.8 * (subjects["age"] - 57) + 15 * rng.standard_normal(300)
    axis[:9] += 180  # nowhere
    table = pd.DataFrame({"qrs_axis": (axis + 180) % 360 - 180, "qrs_t_angle": axis})
    centre = circular_medians(table)
    assert list(centre) == ["qrs_axis"]
    assert abs((centre["qrs_axis"] - turn + 180) % 360 - 180) < 5
    _, found = fit(unwrapped(table, centre), subjects, AGE)
    assert found["age", "qrs_axis"] == pytest.approx(-8, abs=1.5)


def test_contrasts_have_the_unit_that_their_names_promise():
    names, values, owners = contrasts(
        ConditionSchema([AGE, SEX, CENTRE]),
        pd.DataFrame({"age": [40, np.nan], "sex": ["female", None], "centre": ["c", None]}),
    )
    assert names == ["age", "sex", "centre_b", "centre_c"]
    np.testing.assert_array_equal(values, [[4, 1, 0, 1], [np.nan] * 4])
    np.testing.assert_array_equal(owners, [0, 1, 2, 2])


def test_noise_of_the_reference_does_not_lower_the_gain():
    rng = np.random.default_rng(6)
    true = rng.standard_normal(4000)
    found = correlation_and_gain(0.5 * true, true + rng.standard_normal(4000), np.ones(4000))
    assert found["gain"] == pytest.approx(0.5, abs=0.05)
    assert found["correlation"] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert correlation_and_gain(np.zeros(3), np.arange(3.0), np.zeros(3)) == {"gain": 0.0}
    assert correlation_and_gain(true[:2], true[:2], np.full(2, 9.0)) == {}


def test_robust_means_and_sds_shrug_off_outliers():
    rng = np.random.default_rng(7)
    values = 5 + 2 * rng.standard_normal((3000, 2))
    values[:90, 0] = 1000
    values[90:200, 0] = np.nan
    np.testing.assert_allclose(robust_sd(values), 2, rtol=0.1)
    means = robust_means(values, np.arange(3000), 3000)
    np.testing.assert_allclose(means.value, 5, atol=0.2)
    np.testing.assert_allclose(means.error, 2 / np.sqrt(3000), rtol=0.2)


@pytest.mark.parametrize("women", [1, 4, 9])
def test_a_slope_needs_enough_patients_in_whom_the_feature_was_found(women):
    subjects, rng = people(300), np.random.default_rng(3)
    feature = rng.standard_normal(300)
    of_sex = {sex: np.flatnonzero(subjects["sex"] == sex) for sex in ("male", "female")}
    found = np.concatenate([of_sex["male"][:60], of_sex["female"][:women]])
    table = pd.DataFrame({"p": np.where(np.isin(np.arange(300), found), feature, np.nan)})
    slopes, value = fit(table, subjects, SEX, AGE)
    assert np.isnan(value["sex", "p"])
    assert np.isfinite(value["age", "p"])
    assert slopes.freedom.tolist() == [len(found) - 2] * 2


def test_a_patient_of_many_recordings_makes_no_effect():
    """One of twelve women with twenty recordings, and no effect: 57% were called one before."""
    clear = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        person = np.concatenate([np.arange(112), np.full(19, 111)])
        subjects = pd.DataFrame({"sex": np.where(person < 100, "male", "female")})
        subjects["patient_id"] = person
        feature = rng.standard_normal(112)[person] + 0.3 * rng.standard_normal(len(person))
        clear += fit(pd.DataFrame({"r": feature}), subjects, SEX)[0].clear.tolist()
    assert np.mean(clear) < 0.2


def test_the_influence_of_a_patient_is_what_leaving_out_all_recordings_does():
    x, rng = design(400)
    groups = np.arange(400) // 4
    y = x @ [1, 2, 3] + rng.standard_t(3, 100)[groups] + rng.standard_normal(400)
    coefficients, influence = one_regression(x, y, groups=groups)
    for patient in range(0, 100, 10):
        others = groups != patient
        without = one_regression(x[others], y[others])[0]
        np.testing.assert_allclose(coefficients - without, influence[patient], atol=6e-3)


def test_the_influence_of_many_patients_is_worked_out_in_parts(monkeypatch):
    x, rng = design()
    y, groups = rng.standard_normal((60, 2)), np.arange(60) % 20
    whole = huber_regression(x, y, groups)[1]
    monkeypatch.setattr("evaluation.measures.slopes.SOME", 7)
    np.testing.assert_allclose(huber_regression(x, y, groups)[1], whole)


def test_a_rare_category_is_unknown_and_without_the_first_nothing_is_compared():
    rng = np.random.default_rng(0)

    def slopes_of(recordings=1, **counts):
        centre = np.tile(np.repeat(list(counts), list(counts.values())), recordings)
        height = pd.Series(centre).map({"a": 0.0, "b": 1.0, "c": -0.4}) + 0.1 * rng.normal(
            size=len(centre)
        )
        patient = np.arange(len(centre)) % sum(counts.values())
        subjects = pd.DataFrame({"centre": centre, "patient_id": patient})
        return fit(pd.DataFrame({"r": height}), subjects, CENTRE)[1]

    for recordings in (1, 3):
        found = slopes_of(recordings, a=20, b=100, c=9)
        assert found["centre_b", "r"] == pytest.approx(1, abs=0.05)
        assert np.isnan(found["centre_c", "r"])
    for few in ({"b": 100, "c": 100}, {"a": 9, "b": 100, "c": 100}):
        assert np.isnan(list(slopes_of(**few).values())).all()
    assert np.isfinite(list(slopes_of(a=50, b=50, c=50).values())).all()


def test_degrees_of_freedom_count_patients():
    many = pd.concat([people(60)] * 3, ignore_index=True)
    table = pd.DataFrame({"qrs": np.random.default_rng(0).normal(size=180)})
    assert fit(table, many, AGE, SEX)[0].freedom.tolist() == [60 - 3] * 2
    assert robust_means(table.to_numpy(), np.arange(180) % 60, 60).freedom.tolist() == [59]
    assert np.isnan(robust_means(table.to_numpy(), np.arange(180) % 9, 9).value).all()
