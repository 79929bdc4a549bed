import numpy as np
import pandas as pd
import pytest

from config import DataConfig
from data import load_cohort
from data.cohort import Cohort, CohortError
from data.outcomes import join_outcomes, read_csv, with_outcomes
from data.synthetic import simulate

IDS = ["a1", "007", "12", "13"]
PATIENTS = ["p", "q", "q", "r"]


def make_cohort(**columns):
    ecg = np.random.default_rng(0).normal(0, 0.3, (4, 12, 400)).astype(np.float32)
    subjects = pd.DataFrame({"subject_id": IDS, "patient_id": PATIENTS, "age": [1.0, 2, 3, 4]})
    return Cohort(ecg, subjects.assign(**columns), source="made up")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "table.csv"


def write(file, text):
    file.write_text(text, encoding="utf-8")
    return file


COMPLETE = "subject_id,time,event\n13,4.5,0\n007,2,1\na1,1,0\n12,3,1\n"


def test_outcomes_are_joined_by_recording_whatever_the_order(file):
    cohort = make_cohort()
    joined = join_outcomes(cohort, write(file, COMPLETE))
    assert list(joined.subjects["subject_id"]) == IDS
    assert list(joined.subjects["time"]) == [1, 2, 3, 4.5]
    assert list(joined.subjects["event"]) == [0, 1, 1, 0]
    assert list(joined.subjects["age"]) == [1, 2, 3, 4]
    assert joined.source == "made up; time, event from table.csv (4 of 4 recordings)"
    assert joined.ecg is cohort.ecg
    assert "time" not in cohort.subjects


def test_outcomes_of_a_patient_go_to_all_recordings_of_the_patient_and_it_is_said(file, capsys):
    joined = join_outcomes(make_cohort(), write(file, "patient_id,time,event\nq,2,1\nr,3,0\n"))
    np.testing.assert_array_equal(joined.subjects["time"], [np.nan, 2, 2, 3])
    assert "1 of them have several recordings: each gets the same time" in capsys.readouterr().out
    join_outcomes(make_cohort(), write(file, "patient_id,time,event\np,2,1\nr,3,0\n"))
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (["2010-01-01T10:00", "2011-02-02T10:00"], True),
        (["2010-01-01T10:00", "2010-01-01T18:00"], False),
        ([np.nan, np.nan], True),  # not known
        (None, True),
    ],
)
def test_one_time_for_recordings_of_several_days_is_said(recorded, said, tmp_path, capsys):
    cohort = simulate(20, 0)
    cohort.subjects.loc[1, ["patient_id", "time"]] = cohort.subjects.loc[0, ["patient_id", "time"]]
    if recorded:
        cohort.subjects["recorded"] = recorded + [np.nan] * 18
    cohort.save(tmp_path / "one")
    cohort.subjects.loc[1, "time"] += 1  # each its own
    cohort.save(tmp_path / "each")
    for name, told in (("one", said), ("each", False)):
        load_cohort(DataConfig(source="prepared", path=tmp_path / name))
        assert ("1 patients have several recordings with on" in capsys.readouterr().out) == told


def test_recordings_that_the_table_lacks_and_empty_fields_have_no_outcome(file):
    text = "subject_id,time,event\na1,1,1\n12,,0\n13,NA,NA\n"
    joined = join_outcomes(make_cohort(), write(file, text))
    np.testing.assert_array_equal(joined.subjects["time"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(joined.subjects["event"], [1, np.nan, 0, np.nan])
    assert joined.source.endswith("(1 of 4 recordings)")


def test_ids_and_flags_are_understood_as_other_programs_write_them(file):
    file.write_bytes(b"\xef\xbb\xbfsubject_id, time, event\r\n12.0, 3, TRUE \r\n13.0, 1, False\r\n")
    joined = join_outcomes(make_cohort(), file)
    np.testing.assert_array_equal(joined.subjects["time"], [np.nan, np.nan, 3, 1])
    np.testing.assert_array_equal(joined.subjects["event"], [np.nan, np.nan, 1, 0])


def test_a_table_replaces_the_outcomes_of_the_cohort_and_says_so(file):
    cohort = make_cohort(time=[9.0, 9, 9, 9], event=[1, 1, 1, 1])
    joined = join_outcomes(cohort, write(file, "subject_id,time,event\na1,1,1\n"))
    np.testing.assert_array_equal(joined.subjects["time"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(joined.subjects["event"], [1, np.nan, np.nan, np.nan])
    assert joined.source.endswith("(1 of 4 recordings), in place of its own time and event")


def test_an_event_of_the_table_never_keeps_the_time_of_the_cohort(file):
    cohort = make_cohort(time=[9.0, 9, 9, 9], event=[1, 1, 1, 1])
    joined = join_outcomes(cohort, write(file, "subject_id,event\na1,1\n"), ["event"])
    assert "time" not in joined.subjects


def test_numbers_and_classes_are_joined_under_their_names(file):
    write(file, "subject_id,lvef,rhythm\na1,55,AF\n12,,SR\n13,60.5,\n")
    subjects = join_outcomes(make_cohort(), file, ["lvef", "rhythm"]).subjects
    np.testing.assert_array_equal(subjects["lvef"], [55, np.nan, np.nan, 60.5])
    assert list(subjects["rhythm"].fillna("none")) == ["AF", "none", "SR", "none"]


def test_a_column_that_the_cohort_has_already_must_say_the_same(file):
    same = join_outcomes(
        make_cohort(), write(file, "subject_id,age\na1,1\n007,2\n12,3\n13,4\n"), ["age"]
    )
    assert list(same.subjects["age"]) == [1, 2, 3, 4]
    write(file, "subject_id,age\na1,1\n007,2\n12,3\n13,5\n")
    with pytest.raises(CohortError, match="'age' already, with other values than .*table.csv"):
        join_outcomes(make_cohort(), file, ["age"])


def test_ids_that_the_cohort_lacks_are_refused_or_allowed(file):
    write(file, COMPLETE + "x1,1,1\nx2,1,1\nx3,1,1\nx4,1,1\n")
    with pytest.raises(CohortError, match=r"4 of the 8 ids .* \(first: x1, x2, x3\)"):
        join_outcomes(make_cohort(), file)
    assert list(join_outcomes(make_cohort(), file, allow_unknown=True).subjects["time"]) == [
        1,
        2,
        3,
        4.5,
    ]


def test_recordings_that_gave_no_beat_may_be_in_the_table(file):
    cohort = make_cohort()
    cohort.excluded = pd.DataFrame({"subject_id": ["x1"], "reason": ["all leads are flat"]})
    assert len(join_outcomes(cohort, write(file, COMPLETE + "x1,1,1\n"))) == 4


def test_the_joined_cohort_is_saved_and_opened_with_its_outcomes(file, tmp_path):
    joined = join_outcomes(make_cohort(), write(file, COMPLETE))
    joined.save(tmp_path / "prepared")
    opened = Cohort.open(tmp_path / "prepared")
    pd.testing.assert_frame_equal(opened.subjects, joined.subjects)
    assert opened.source == joined.source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "table.csv is not there"),
        ("", "cannot be read as a comma-separated table"),
        ("subject_id,time\na1,1\n", r"lacks the columns \['event'\]"),
        ("subject_id;time;event\na1;1;1\n", "another separator"),
        ("id,time,event\na1,1,1\n", r"neither of the columns \['subject_id', 'patient_id'\]"),
        ("subject_id,time,event\na1,1,1\n12,-0.5,1\n", "above 0 as time of '12'. Received: '-0.5'"),
        ("subject_id,time,event\na1,1,1\n12,0,1\n", "above 0 as time of '12'. Received: '0'"),
        ("subject_id,time,event\na1,1,1\n12,soon,1\n", "number as time of '12'. Received: 'soon'"),
        ("subject_id,time,event\na1,1,1\n12,inf,1\n", "number as time of '12'. Received: 'inf'"),
        ("subject_id,time,event\na1,1,1\n12,1,2\n", "0 or 1 as event of '12'. Received: '2'"),
        ("subject_id,time,event\na1,1,1\n12,1,1\n12,1,0\n", "'12' stands twice"),
        ("subject_id,time,event\n12,1,1\n12.0,1,0\n", "'12' stands twice"),
        ("subject_id,time,event\na1,1,1\n,1,1\n", "no subject_id in line 3"),
        ("subject_id,time,event\na1,1,0\n12,1,0\n", "`event` is 0 in all 2 recordings"),
        ("subject_id,time,event\nx,1,1\ny,1,1\n", r"No subject_id .* \(first: x, y\) .* a1, 007"),
        ("subject_id,time,event\n", r"No subject_id .* \(first: no rows\)"),
        ("subject_id,time,event\na1,,1\n", "gives no time for any recording"),
    ],
)
def test_a_table_that_makes_no_sense_gives_one_error_that_names_the_culprit(file, text, message):
    if text is not None:
        write(file, text)
    with pytest.raises(CohortError, match=message):
        join_outcomes(make_cohort(), file)


@pytest.mark.parametrize("columns", [[], ["patient_id"], ["time", "subject_id"]])
def test_ids_are_no_outcomes(file, columns):
    with pytest.raises(CohortError, match="Expected the names of outcome columns"):
        join_outcomes(make_cohort(), write(file, COMPLETE), columns)


def test_recordings_without_outcome_are_left_out_with_the_reason():
    cohort = make_cohort(time=[1.0, 0, np.nan, 2], event=[1, 1, 1, 0])
    cohort.excluded = pd.DataFrame({"subject_id": ["x"], "reason": ["flat"], "detail": [np.nan]})
    part = with_outcomes(cohort)
    assert list(part.subjects["subject_id"]) == ["a1", "13"]
    np.testing.assert_array_equal(part.ecg, cohort.ecg[[0, 3]])
    assert part.excluded.to_numpy().tolist() == [
        ["x", "flat", ""],
        ["007", "no known outcome", ""],
        ["12", "no known outcome", ""],
    ]
    assert len(cohort.excluded) == 1


@pytest.mark.parametrize(
    ("time", "event"),
    [(np.inf, 1), (-1, 1), (0, 0), (np.nan, 0), (1, np.nan)],
)
def test_an_outcome_is_known_only_with_a_time_above_zero_and_an_event(time, event):
    cohort = make_cohort(time=[1.0, 2, 3, time], event=[1.0, 0, 0, event])
    assert list(with_outcomes(cohort).excluded["subject_id"]) == ["13"]


def test_a_cohort_with_all_outcomes_is_returned_as_it_is():
    cohort = make_cohort(time=[1.0, 2, 3, 4], event=[1, 0, 0, 1])
    assert with_outcomes(cohort) is cohort


def test_other_outcomes_are_known_where_they_are_not_missing():
    cohort = make_cohort(rhythm=["AF", None, "SR", "SR"])
    assert list(with_outcomes(cohort, ["rhythm"]).subjects["subject_id"]) == ["a1", "12", "13"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {},
            r"A prediction head needs .* \(made up\) lacks \['time', 'event'\]. Give data.outcomes",
        ),
        ({"time": 1.0}, r"lacks \['event'\]"),
        ({"time": 1.0, "event": 0}, "No events: `event` is 0 in all 4"),
        ({"time": [1.0, 2, 3, 0], "event": [0, 0, 0, 1]}, "No events: `event` is 0 in all 3"),
        ({"time": np.nan, "event": 1}, "None of the 4 recordings has a known outcome"),
    ],
)
def test_a_cohort_that_no_prediction_can_learn_from_is_refused(columns, message):
    with pytest.raises(CohortError, match=message):
        with_outcomes(make_cohort(**columns))


def test_a_cohort_in_which_everybody_has_the_event_is_refused():
    cohort = simulate(30, seed=0)
    cohort.subjects["event"] = 1
    with pytest.raises(CohortError, match="All events"):
        with_outcomes(cohort)


def test_times_that_are_no_numbers_are_named():
    cohort = simulate(30, seed=0)
    time = cohort.subjects["time"].astype(object)
    time[3] = "4 years"
    with pytest.raises(CohortError, match="Expected a number as time of .*Received: '4 years'"):
        with_outcomes(Cohort(cohort.ecg, cohort.subjects.assign(time=time)))


def test_dates_of_entry_are_late_entry_too():
    cohort = simulate(30, seed=0)
    subjects = cohort.subjects.assign(entry_time="2010-01-01")
    with pytest.raises(CohortError, match="entry_time.*Late entry"):
        with_outcomes(Cohort(cohort.ecg, subjects))


def test_none_is_a_category_and_an_empty_field_is_missing(tmp_path):
    (tmp_path / "t.csv").write_text("stenosis,age\nNone,50\n,60\nNA,70\nmild,\n")
    table = read_csv(tmp_path / "t.csv")
    assert table["stenosis"].fillna("?").tolist() == ["None", "?", "?", "mild"]
    assert table["age"].isna().tolist() == [False, False, False, True]
