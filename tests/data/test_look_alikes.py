"""A column that is called nearly as expected is never taken for something else, on any way in."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from config import DataConfig
from data import Cohort, CohortError, load_cohort
from data.conditions import Condition, ConditionError, ConditionSchema
from data.look_alikes import look_alike
from data.outcomes import join_outcomes, read_csv, with_outcomes
from data.readers.arrays import load_arrays
from data.readers.ukbiobank import load_ukbiobank
from data.synthetic import simulate
from evaluation.generate import read_table

COHORT = simulate(30, seed=0)
SCHEMA = ConditionSchema(
    [Condition("age", unit="years"), Condition("sex", "binary", categories=("male", "female"))]
).fit(COHORT.subjects)
TWO = pd.DataFrame({"age": [50.0, 60.0], "sex": ["female", "male"]})
ALIKE = ["Sex", "sex ", " SEX", "\ufeffsex", "sex\u00a0"]


@pytest.mark.parametrize("name", ALIKE)
def test_what_makes_no_other_name(name):
    assert look_alike(["age", "sex"], ["age", name]) == ("sex", name)
    assert look_alike(["age", "sex"], ["age", "sex", name]) is None
    assert look_alike(["lv_mass"], ["LV mass"]) == look_alike(["lv_mass"], ["LV mass", 3])
    for other in ("PatientID", "patientid", "patient-Id", "_patient__id"):
        assert look_alike(["patient_id"], ["age", other]) == ("patient_id", other)


@pytest.mark.parametrize("name", ["sexes", "sex2", "age_at_sex", 3, None])
def test_what_makes_another_name(name):
    assert look_alike(["age", "sex"], ["age", name]) is None


@pytest.mark.parametrize("name", ALIKE)
def test_a_table_and_a_mapping_with_a_look_alike_are_refused(name):
    with pytest.raises(ConditionError) as caught:
        SCHEMA.encode(TWO.rename(columns={"sex": name}))
    assert f"Expected a column 'sex'. Received {name!r}" in str(caught.value)
    with pytest.raises(ConditionError) as caught:
        SCHEMA.encode({"age": 50, name: "female"})
    assert f"Unknown condition {name!r}. This model knows ('age', 'sex')" in str(caught.value)


def test_a_table_without_any_condition_is_refused_and_nothing_at_all_is_not():
    for table in (pd.DataFrame({"height": [1.8, 1.7]}), pd.DataFrame(index=range(2))):
        with pytest.raises(ConditionError, match=r"columns among \('age', 'sex'\)\. Received: \["):
            SCHEMA.encode(table)
    np.testing.assert_array_equal(SCHEMA.encode({}, 2), np.zeros((2, 3)))
    np.testing.assert_array_equal(SCHEMA.encode(TWO[["sex"]])[:, :2], np.zeros((2, 2)))
    assert ConditionSchema([]).encode(pd.DataFrame({"height": [1.8, 1.7]})).shape == (2, 0)


@pytest.mark.parametrize("name", ALIKE)
def test_another_cohort_with_a_look_alike_is_not_judged_as_unknown(name):
    from evaluation.external import fitting  # here: it is slow to import

    leads, shape = COHORT.leads, COHORT.ecg.shape[1:]
    timing, unit = COHORT.timing, COHORT.unit
    model = SimpleNamespace(leads=leads, timing=timing, unit=unit, ecg_shape=shape, schema=SCHEMA)
    other = Cohort(COHORT.ecg, COHORT.subjects.rename(columns={"sex": name}))
    with pytest.raises(ConditionError, match="Expected a column 'sex'"):
        fitting(model, other)


@pytest.mark.parametrize(
    "name", ["Patient_ID", "patient id", "patient_id ", "\ufeffpatient_id", "PatientID"]
)
def test_patients_under_a_look_alike_are_not_divided_by_the_split(tmp_path, name):
    subjects = COHORT.subjects.assign(patient_id="p").rename(columns={"patient_id": name})
    with pytest.raises(CohortError, match="Expected a column 'patient_id' in the subjects"):
        Cohort(COHORT.ecg, subjects)
    for alike in ("Subject_ID", "SubjectID"):
        np.savez(tmp_path / "all.npz", ecg=COHORT.ecg, **{alike: np.arange(30)})
        with pytest.raises(CohortError, match="Expected a column 'subject_id' in .*all.npz"):
            load_cohort(DataConfig(source="arrays", path=tmp_path / "all.npz"))


def test_outcomes_under_look_alikes_are_refused(tmp_path):
    table = COHORT.subjects[["subject_id", "patient_id", "time", "event"]]
    for column in ("subject_id", "time", "event"):
        table.rename(columns={column: column.title()}).to_csv(tmp_path / "o.csv", index=False)
        with pytest.raises(
            CohortError, match=rf"'{column}' in .*o.csv. Received '{column.title()}'"
        ):
            join_outcomes(COHORT, tmp_path / "o.csv")
    cohort = Cohort(COHORT.ecg, COHORT.subjects.rename(columns={"time": "Time"}))
    with pytest.raises(CohortError, match="Expected a column 'time' in .*Received 'Time'"):
        with_outcomes(cohort)


def test_visits_and_sexes_of_uk_biobank_under_look_alikes_are_refused(tmp_path):
    (tmp_path / "1234567_20205_2_0.xml").write_text("<a/>")
    for name in ("Instance", "SEX", "Time"):
        (tmp_path / "subjects.csv").write_text(f"eid,{name}\n1234567,1\n")
        with pytest.raises(CohortError, match=rf"{name.lower()}' in .* Received '{name}'"):
            load_ukbiobank(tmp_path, tmp_path / "cache")


def test_spaces_around_the_names_of_a_file_are_taken_away_and_this_is_said(tmp_path, capsys):
    file = tmp_path / "subjects.csv"
    file.write_text('subject_id ," patient_id ",sex ,note\n007,1.0,female,x \n', "utf-8-sig")
    table = read_csv(file, dtype={"subject_id": str, "patient_id": str})
    assert table.to_dict("records") == [
        {"subject_id": "007", "patient_id": "1.0", "sex": "female", "note": "x"}
    ]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert said[2].endswith("subjects.csv: the column 'sex ' is taken as 'sex'.")
    file.write_text("sex ,sex\n1,2\n")
    with pytest.raises(CohortError, match="column 'sex' is there twice"):
        read_csv(file)
    file.write_text("age,sex\n1,2\n")
    read_csv(file)
    assert capsys.readouterr().out == ""


def test_spaces_around_values_make_no_other_value(tmp_path):
    np.save(tmp_path / "ecg.npy", COHORT.ecg[:3])
    text = "subject_id , sex,age\na , female ,50 \n b,male , 60\nc,  ,70\n"
    (tmp_path / "subjects.csv").write_text(text)
    subjects = load_arrays(tmp_path).subjects
    assert subjects["subject_id"].tolist() == ["a", "b", "c"]
    assert subjects["sex"].tolist()[:2] == ["female", "male"]
    assert subjects["sex"].isna().tolist() == [False, False, True]
    assert subjects["age"].tolist() == [50, 60, 70]
    given = read_table(tmp_path / "subjects.csv", SCHEMA, {})
    np.testing.assert_array_equal(SCHEMA.encode(given), SCHEMA.encode(subjects))
