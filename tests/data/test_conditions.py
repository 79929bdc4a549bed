"""Conditions: encodings against numbers worked out by hand, mistakes against their messages."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.conditions import Condition, ConditionError, ConditionSchema

AGE = Condition("age", "continuous", "years", 0, 120)
SEX = Condition("sex", "binary", categories=("male", "female"))
AXIS = Condition("axis", "categorical", categories=("left", "normal", "right"))
PEOPLE = pd.DataFrame(
    {
        "subject_id": ["a", "b", "c", "d"],
        "age": [40.0, 60.0, np.nan, 80.0],
        "sex": ["male", "female", None, "female"],
        "axis": ["right", "left", np.nan, "normal"],
    }
)
SD = np.sqrt(800 / 3)  # of 40, 60, 80


def schema(*conditions, encoding="standard"):
    return ConditionSchema(conditions or (AGE, SEX, AXIS), encoding)


def fitted():
    return schema().fit(PEOPLE)


# --- encoding -----------------------------------------------------------------------------------


def test_the_standard_encoding_is_the_one_worked_out_by_hand():
    expected = [
        [-20 / SD, 1, -1, 0, 0, 1],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],  # all missing
        [20 / SD, 1, 1, 0, 1, 0],
    ]
    encoded = fitted().encode(PEOPLE)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)


def test_the_raw_encoding_is_the_bare_numbers():
    known = PEOPLE.drop(index=2)
    encoded = schema(AGE, SEX, encoding="raw").fit(known).encode(known)
    np.testing.assert_array_equal(encoded, [[40, 0], [60, 1], [80, 1]])


def test_columns_follow_the_order_of_the_conditions_not_of_the_table():
    one = schema(SEX, AGE).fit(PEOPLE).encode(PEOPLE[["age", "sex"]])
    np.testing.assert_array_equal(one, fitted().encode(PEOPLE)[:, [2, 0, 1]])


def test_widths_and_dim_count_the_encoded_columns():
    assert schema().widths == (2, 1, 3)
    assert schema().dim == fitted().encode(PEOPLE).shape[1] == 6
    assert schema(encoding="raw").widths == (1, 1, 3)
    assert schema(AGE, SEX).names == ("age", "sex")


def test_no_conditions_encode_to_no_columns():
    empty = ConditionSchema(())
    assert empty.fit(PEOPLE).encode(PEOPLE).shape == (4, 0)
    assert empty.encode({}, n=3).shape == (3, 0)


def test_scalars_are_repeated_and_columns_taken_as_they_are():
    by_name = fitted().encode({"age": [40, 60], "sex": "female"}, n=2)
    table = pd.DataFrame({"age": [40, 60], "sex": ["female", "female"], "axis": [None, None]})
    np.testing.assert_array_equal(by_name, fitted().encode(table))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, float("nan"), [None], [np.nan, None]])
def test_a_missing_value_is_the_same_as_a_condition_left_out(missing):
    n = len(missing) if isinstance(missing, list) else 1
    left_out = fitted().encode({"age": 50}, n=n)
    np.testing.assert_array_equal(fitted().encode({"age": 50, "sex": missing}, n=n), left_out)
    np.testing.assert_array_equal(fitted().encode(pd.DataFrame({"age": [50] * n})), left_out)


@pytest.mark.parametrize("age", [50, 50.0, np.float32(50), np.array(50), np.array([50]), "50"])
def test_a_number_may_be_of_any_type_that_means_it(age):
    np.testing.assert_array_equal(fitted().encode({"age": age}), fitted().encode({"age": 50.0}))


def test_nullable_and_categorical_columns_encode_like_plain_ones():
    table = pd.DataFrame(
        {
            "age": pd.array([40, 60, None, 80], dtype="Int64"),
            "sex": PEOPLE["sex"].astype("category"),
            "axis": PEOPLE["axis"].astype("string"),
        }
    )
    np.testing.assert_array_equal(fitted().encode(table), fitted().encode(PEOPLE))


def test_an_encoded_array_passes_and_one_of_another_width_does_not():
    encoded = fitted().encode(PEOPLE)
    np.testing.assert_array_equal(fitted().encode(encoded), encoded)
    with pytest.raises(ConditionError, match=r"shape \(N, 6\).*Received: \(4, 5\)"):
        fitted().encode(encoded[:, :5])


AGES = st.lists(st.one_of(st.none(), st.floats(0, 120)), min_size=2, max_size=30)


@settings(max_examples=60, deadline=None)
@given(AGES.filter(lambda ages: len({a for a in ages if a is not None}) > 1), st.data())
def test_a_standardised_value_can_be_turned_back_and_missing_ones_are_marked(ages, data):
    drawn = st.lists(st.sampled_from([None, "male", "female"]), min_size=len(ages))
    sexes = data.draw(drawn.map(lambda drawn: drawn[: len(ages)]).filter(any))
    table = pd.DataFrame({"age": ages, "sex": pd.Series(sexes, dtype=object)})
    model = schema(AGE, SEX).fit(table)
    value, known, sex = model.encode(table).T
    mean, sd = model.scaling["age"]
    column = pd.to_numeric(table["age"]).to_numpy(float)
    np.testing.assert_array_equal(known == 1, ~np.isnan(column))
    np.testing.assert_array_equal(value[np.isnan(column)], 0)
    back = (value.astype(float) * sd + mean)[known == 1]
    tolerance = 1e-6 * max(sd, np.abs(column[known == 1] - mean).max())
    np.testing.assert_allclose(back, column[known == 1], atol=tolerance)
    assert [{-1: "male", 0: None, 1: "female"}[int(s)] for s in sex] == list(table["sex"])


# --- scaling ------------------------------------------------------------------------------------


def test_scaling_is_mean_and_sd_of_the_known_values_that_it_was_fitted_on():
    assert fitted().scaling == {"age": (60, pytest.approx(SD))}
    skewed = schema(AGE).fit(pd.DataFrame({"age": [20.0, 20.0, None, 80.0]}))
    assert skewed.scaling == {"age": (pytest.approx(40), pytest.approx(SD * np.sqrt(3)))}


def test_encoding_other_subjects_leaves_the_scaling_as_it_was():
    model = fitted()
    before = dict(model.scaling)
    model.encode(pd.DataFrame({"age": [100.0, 110.0], "sex": ["male"] * 2}))
    assert model.scaling == before


@pytest.mark.parametrize("age", [0.1, 60.0, 1 / 3])
def test_a_condition_that_never_varies_is_centred_and_not_blown_up(age):
    model = schema(AGE).fit(pd.DataFrame({"age": [age] * 3}))
    assert model.scaling["age"] == (pytest.approx(age), 1)
    encoded = model.encode({"age": [age, age + 1]})
    np.testing.assert_allclose(encoded, [[0, 1], [1, 1]], atol=1e-6)


def test_encoding_before_fitting_says_so():
    with pytest.raises(ConditionError, match="age has no scaling yet. Call fit"):
        schema().encode({"age": 50})


def test_a_saved_schema_encodes_the_same():
    model = fitted()
    saved = json.loads(json.dumps(model.to_dict()))
    again = ConditionSchema.from_dict(saved)
    np.testing.assert_array_equal(again.encode(PEOPLE), model.encode(PEOPLE))
    assert again.conditions == model.conditions
    assert again.to_dict() == model.to_dict()


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: [],
        lambda saved: None,
        lambda saved: saved.pop("conditions") and saved,
        lambda saved: saved | {"conditions": 3},
        lambda saved: saved | {"conditions": [{"label": "age"}]},
        lambda saved: saved | {"scaling": {"age": ["x", 1]}},
        lambda saved: saved | {"scaling": {"age": [1]}},
        lambda saved: saved | {"encoding": "cooked"},
        lambda saved: saved | {"conditions": [{"name": "age", "low": "x", "high": 3}]},
    ],
)
def test_a_damaged_description_is_one_clear_error(change):
    with pytest.raises(ConditionError):
        ConditionSchema.from_dict(change(fitted().to_dict()))


# --- what is refused ----------------------------------------------------------------------------


def people(**columns):
    return PEOPLE.drop(columns=[name for name in columns if columns[name] is None]).assign(
        **{name: values for name, values in columns.items() if values is not None}
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (people(age=[40, -3, 50, 60]), r"age of record 'b' is -3 years, outside \[0, 120\].*Corr"),
        (people(age=[40, 50, 60, 300]), r"age of record 'd' is 300 years.*make it missing"),
        (people(age=[40, "old", 50, 60]), "age: expected a number of years.*'old' in record 'b'"),
        (people(age=[40, 50, np.inf, 60]), "age: expected a number of years.*inf in record 'c'"),
        (people(age=[np.nan] * 4), "age is missing in every record.*Leave it out of data.cond"),
        (people(sex=[None] * 4), "sex is missing in every record"),
        (people(age=None), "Expected a column 'age'.*Received the columns.*'sex'"),
        (people(sex=["male", "Female", None, "male"]), r"one of \('male'.*'Female' in record 'b'"),
        (people(sex=[0, 1, 0, 1]), r"sex: expected one of \('male', 'female'\).*0 in record 'a'"),
        (people(axis=["left", "", "left", "left"]), "axis: expected one of.*'' in record 'b'"),
    ],
)
def test_the_first_record_that_does_not_fit_is_named(table, message):
    with pytest.raises(ConditionError, match=message):
        schema().check(table)
    with pytest.raises(ConditionError, match=message):
        schema().fit(table)


def test_without_ids_the_row_is_named():
    with pytest.raises(ConditionError, match="age of row 1 is 200 years"):
        schema(AGE).check(pd.DataFrame({"age": [1, 200]}))


def test_limits_belong_to_the_range_and_none_means_no_limit():
    schema(AGE).check(pd.DataFrame({"age": [0, 120]}))
    schema(Condition("angle")).check(pd.DataFrame({"angle": [-1e9, 1e9]}))
    with pytest.raises(ConditionError, match="angle of row 0 is -1 "):
        schema(Condition("angle", low=0)).check(pd.DataFrame({"angle": [-1, 5]}))


def test_missing_under_raw_is_refused_with_the_record_and_a_way_out():
    with pytest.raises(ConditionError, match="age of record 'c' is missing.*\"standard\" encoding"):
        schema(AGE, encoding="raw").check(PEOPLE)
    with pytest.raises(ConditionError, match="sex is missing in row 0"):
        schema(AGE, SEX, encoding="raw").encode({"age": 40})


@pytest.mark.parametrize(
    ("values", "n", "message"),
    [
        ({"agee": 50}, None, r"Unknown condition 'agee'. This model knows \('age', 'sex', 'axis'"),
        ({"age": "old"}, None, "age: expected a number of years. Received 'old' in row 0"),
        ({"sex": 1}, None, r"sex: expected one of \('male', 'female'\). Received 1 in row 0"),
        ({"age": [40, 50], "sex": ["male"] * 3}, None, "one length. Received: age 2, sex 3"),
        ({"age": [40, 50]}, 3, "one length. Received: age 2, n = 3"),
        ({"age": [40, 50, 60]}, 1, "one length. Received: age 3, n = 1"),
        ({"age": []}, 2, "one length. Received: age 0, n = 2"),
    ],
)
def test_a_mistake_in_a_call_is_named(values, n, message):
    with pytest.raises(ConditionError, match=message):
        fitted().encode(values, n)


def test_a_value_the_model_never_saw_warns_and_is_encoded():
    with pytest.warns(UserWarning, match=r"age = 150 years is outside \[0, 120\]"):
        encoded = fitted().encode({"age": [50, 150]})
    assert encoded[1, 0] == pytest.approx(90 / SD)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ordinal"}, "age: expected a kind among .*Got 'ordinal'"),
        ({"low": 5, "high": 5}, "low 5 is not below high 5"),
        ({"low": 9, "high": 5}, "low 9 is not below high 5"),
        ({"categories": ("a", "b")}, "a continuous condition has no categories"),
        ({"kind": "binary"}, "two or more different categories"),
        ({"kind": "binary", "categories": ("a", "a")}, "two or more different categories"),
        ({"kind": "binary", "categories": ("a", "b", "c")}, "exactly two"),
        ({"kind": "categorical", "categories": ("a",)}, "two or more different categories"),
    ],
)
def test_a_condition_whose_fields_do_not_fit_is_refused(fields, message):
    with pytest.raises(ConditionError, match=message):
        Condition("age", **fields)


def test_a_schema_needs_different_names_and_a_known_encoding():
    with pytest.raises(ConditionError, match=r"own name. Received \['age', 'age'\]"):
        schema(AGE, AGE)
    with pytest.raises(ConditionError, match="'cooked'"):
        schema(AGE, encoding="cooked")
