import numpy as np
import pandas as pd
import pytest

from data.conditions import Condition, ConditionSchema
from evaluation.draw import chosen_conditions, in_words, nearest_subjects

AGE, BMI = Condition("age", unit="years"), Condition("bmi", unit="kg/m2")
SEX = Condition("sex", "binary", categories=("male", "female"))
SIDE = Condition("side", "categorical", categories=("a", "b", "c", "d"))
SUBJECTS = pd.DataFrame(
    {
        "age": np.arange(101.0),  # the 5th percentile is 5
        "bmi": np.linspace(20, 30, 101),
        "sex": ["male"] * 40 + ["female"] * 61,
        "side": ["d"] * 50 + ["b"] * 30 + ["a"] * 21,
    }
)


def choices(*conditions):
    return chosen_conditions(ConditionSchema(conditions), SUBJECTS)


def test_both_sexes_are_shown_at_three_ages_and_the_rest_is_the_reference():
    chosen = choices(AGE, SEX, BMI)
    assert [(each["sex"], each["age"]) for each in chosen] == [
        *(("male", 5.0), ("male", 50.0), ("male", 95.0)),
        *(("female", 5.0), ("female", 50.0), ("female", 95.0)),
    ]
    assert {each["bmi"] for each in chosen} == {25.0}


def test_the_order_of_the_conditions_does_not_decide_what_is_crossed():
    assert [each["age"] for each in choices(SEX, AGE)] == [5.0, 50.0, 95.0] * 2


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ((AGE,), [{"age": age} for age in (5.0, 20.0, 40.0, 60.0, 80.0, 95.0)]),
        ((SEX,), [{"sex": "male"}, {"sex": "female"}]),
        ((SIDE,), [{"side": side} for side in "abd"]),
        ((), []),
    ],
)
def test_one_condition_alone_takes_all_the_room(conditions, expected):
    assert choices(*conditions) == expected


def test_two_numbers_are_crossed_and_so_are_the_two_commonest_of_many_categories():
    chosen = choices(AGE, BMI)
    assert [(each["age"], each["bmi"]) for each in chosen] == [
        (age, bmi) for age in (5.0, 50.0, 95.0) for bmi in (20.5, 29.5)
    ]
    assert [each["side"] for each in choices(AGE, SIDE)] == ["b"] * 3 + ["d"] * 3


def test_a_condition_that_never_varies_is_shown_once():
    same = SUBJECTS.assign(age=50.0)
    chosen = chosen_conditions(ConditionSchema([AGE, SEX]), same)
    assert chosen == [{"age": 50.0, "sex": "male"}, {"age": 50.0, "sex": "female"}]


def test_the_nearest_subject_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(50, 20, 300), "bmi": rng.normal(25, 3, 300)})
    wanted = [{"age": 30.0, "bmi": 30.0}, {"age": 70.0, "bmi": 21.0}]
    standard = table / table.std(ddof=0)
    expected = [
        int(((standard - pd.Series(each) / table.std(ddof=0)) ** 2).sum(axis=1).argmin())
        for each in wanted
    ]
    assert list(nearest_subjects(ConditionSchema([AGE, BMI]), wanted, table)) == expected


def test_another_sex_and_an_unknown_value_count_as_distance():
    schema = ConditionSchema([AGE, SEX])
    table = pd.DataFrame({"age": [50.0, 51.0, np.nan, 90.0], "sex": ["male", *["female"] * 3]})
    rows = nearest_subjects(schema, [{"age": 50.0, "sex": "female"}] * 4, table)
    assert list(rows) == [1, 2, 0, 3]  # at 0.05, 1, 2 and 2.2 SD


def test_no_subject_is_shown_twice():
    schema = ConditionSchema([AGE])
    table = pd.DataFrame({"age": [50.0, 60.0, 70.0]})
    rows = nearest_subjects(schema, [{"age": 50.0}, {"age": 51.0}, {"age": 52.0}], table)
    assert list(rows) == [0, 1, 2]


def test_conditions_are_told_in_words_and_rounded():
    schema = ConditionSchema([AGE, SEX, BMI])
    words = in_words(schema, {"age": 63.0, "sex": "female", "bmi": 26.3712})
    assert words == "age 63 years, sex female, bmi 26.4 kg/m2"
    assert in_words(schema, {"age": 63.0, "sex": None, "bmi": np.nan}) == (
        "age 63 years, sex unknown, bmi unknown"
    )
    assert in_words(ConditionSchema([Condition("n")]), {"n": 123456.0}) == "n 123000"
