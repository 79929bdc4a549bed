"""Times are years from the recording on: others are converted when said, and refused when not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from config import DataConfig
from data import Cohort, CohortError, load_cohort
from data.outcomes import in_years, join_outcomes, with_outcomes
from data.synthetic import simulate

COHORT = simulate(60, seed=0)
YEARS = COHORT.subjects["time"]
# As a calendar has it: 365.25 days and 12 months to a year.
IN = {"years": YEARS, "months": 12 * YEARS, "days": 365.25 * YEARS}


def write(folder, time, **columns):
    table = COHORT.subjects[["subject_id", "event"]].assign(time=time, **columns)
    table.to_csv(folder / "outcomes.csv", index=False)
    return folder / "outcomes.csv"


def arrays(folder, time, **columns):
    np.save(folder / "ecg.npy", COHORT.ecg)
    COHORT.subjects.assign(time=time, **columns).to_csv(folder / "subjects.csv", index=False)
    return DataConfig(source="arrays", path=folder)


@pytest.mark.parametrize("unit", IN)
@pytest.mark.parametrize("way", ["table", "columns", "prepared"])
def test_times_in_any_unit_become_years_on_every_way_in(tmp_path, unit, way):
    if way == "table":
        settings = replace(arrays(tmp_path, YEARS), outcomes=write(tmp_path, IN[unit]))
    elif way == "columns":
        settings = arrays(tmp_path, IN[unit])
    else:
        Cohort(COHORT.ecg, COHORT.subjects.assign(time=IN[unit])).save(tmp_path)
        settings = DataConfig(source="prepared", path=tmp_path)
    cohort = load_cohort(replace(settings, time_unit=unit))
    np.testing.assert_allclose(cohort.subjects["time"], YEARS, rtol=1e-12)
    assert with_outcomes(cohort).subjects["time"].max() == pytest.approx(YEARS.max())


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (IN["days"], r"look like days: say --data.time_unit days"),
        (15 * IN["months"] / YEARS.max(), "look like months: say --data.time_unit months"),
        (2020 + (YEARS % 9).round(), "look like calendar years: give the time from the recording"),
        (YEARS.where(YEARS.index != 3, 3652.0), "Correct the value, or leave it empty"),
        (IN["days"] * 24 * 3600, "Correct the values"),
    ],
)
@pytest.mark.parametrize("way", ["table", "columns"])
def test_times_that_nobody_lives_are_refused_with_the_likely_unit(tmp_path, time, said, way):
    file, cohort = write(tmp_path, time), Cohort(COHORT.ecg, COHORT.subjects.assign(time=time))
    with pytest.raises(CohortError) as caught:
        join_outcomes(COHORT, file) if way == "table" else with_outcomes(cohort)
    message = str(caught.value)
    assert message.startswith("Expected years from the recording on as time, at most 120.")
    longest = COHORT.subjects["subject_id"][time.idxmax()]
    assert f"up to {time.max():g} of {longest!r}" in message
    assert said in message
    assert "\n" not in message


def test_the_unit_that_was_said_is_checked_too(tmp_path):
    with pytest.raises(
        CohortError, match=r"at most 1440\. .* like days: say --data.time_unit days"
    ):
        join_outcomes(COHORT, write(tmp_path, IN["days"]), time_unit="months")
    with pytest.raises(CohortError, match=r"unit of time among \['years', 'months', 'days'\]"):
        join_outcomes(COHORT, write(tmp_path, YEARS), time_unit="weeks")


def test_a_long_life_is_no_error():
    time = YEARS.where(YEARS.index != 0, 119.0)
    assert len(with_outcomes(Cohort(COHORT.ecg, COHORT.subjects.assign(time=time)))) == 60


def test_a_unit_is_not_for_times_that_are_years_already_or_not_there(tmp_path):
    with pytest.raises(CohortError, match="the times of synthetic are in years. Received: 'days'"):
        load_cohort(DataConfig(subjects=20, time_unit="days"))
    with pytest.raises(CohortError, match="the times of mimic are in years. Received: 'days'"):
        load_cohort(DataConfig(source="mimic", path=tmp_path, time_unit="days"))
    without = COHORT.subjects.drop(columns=["time", "event"])
    with pytest.raises(CohortError, match="has no column `time`. Give data.outcomes"):
        in_years(Cohort(COHORT.ecg, without), "days")
    settings = DataConfig(subjects=60, outcomes=write(tmp_path, IN["days"]), time_unit="days")
    np.testing.assert_allclose(load_cohort(settings).subjects["time"], YEARS, rtol=1e-12)


@pytest.mark.parametrize("code", [2, 0.5, -1])
def test_competing_codes_are_one_error_that_says_how_to_code_them(tmp_path, code):
    event = COHORT.subjects["event"].astype(float).where(YEARS.index != 7, code)
    cohort = Cohort(COHORT.ecg, COHORT.subjects.assign(event=event))
    expected = (
        rf"Expected 0 or 1 as event of '{COHORT.subjects['subject_id'][7]}'. Received: '?{code}"
    )
    for way in (
        lambda: with_outcomes(cohort),
        lambda: join_outcomes(COHORT, write(tmp_path, YEARS, event=event.map("{:g}".format))),
    ):
        with pytest.raises(CohortError, match=expected + r".*competes with it .* as 0"):
            way()


@pytest.mark.parametrize("name", ["entry", "Entry", "tstart"])
def test_late_entry_is_refused_on_every_way_in(tmp_path, name):
    late = pd.Series(np.where(YEARS.index == 5, 1.5, 0.0))
    expected = f"column '{name}', by which .* only from '?1.5'? on. Late entry .* not supported"
    with pytest.raises(CohortError, match=expected):
        join_outcomes(COHORT, write(tmp_path, YEARS, **{name: late}))
    with pytest.raises(CohortError, match=expected):
        with_outcomes(Cohort(COHORT.ecg, COHORT.subjects.assign(**{name: late})))


def test_an_entry_at_the_recording_says_nothing_and_is_taken(tmp_path):
    assert len(join_outcomes(COHORT, write(tmp_path, YEARS, entry=0))) == 60
    assert len(with_outcomes(Cohort(COHORT.ecg, COHORT.subjects.assign(entry=0.0)))) == 60
