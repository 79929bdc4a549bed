from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from config import CONDITIONS, DataConfig
from data import load_cohort
from data.beats import median_beat
from data.cohort import CohortError
from data.conditions import ConditionSchema
from data.readers.echonext import MEASURED, NUMBERS, load_echonext
from evaluation.measures.features import FEATURES, measure
from tests.cohort_columns import column
from tests.echonext_files import SD, strip, write_echonext

SPLITS = ("train", "test", "train", "val", "no_split", "train")


@pytest.fixture
def folder(tmp_path):
    """Six ECGs of four patients: the first has been looked at in every way, the third in none."""
    columns = {
        "patient_key": ["P1", "P2", "P3", "P4", "P2", "P1"],
        "sex": ["Male", "Female", "Male", "Female", "Female", "Male"],
        **{name: [50.0, 40, np.nan, 60, 55, 45] for name in NUMBERS},
        **{name: [1.0, 1, np.nan, 0, 0, 0] for pair in MEASURED.values() for name in pair},
        **{f"{name}_flag": [0, 1, 0, 0, 0, 1] for name in MEASURED},
    }
    columns["age_at_ecg"] = [60, 61, 62, 63, 64, 90]
    write_echonext(tmp_path / "echonext", SPLITS, **columns)
    return tmp_path / "echonext"


def load(folder, **options):
    options = {"workers": 1, "millivolts_per_unit": SD} | options
    return load_echonext(folder, folder.parent / "cache", **options)


def test_each_row_has_its_waveform_in_the_millivolts_that_are_given(folder):
    cohort = load(folder)
    assert column(cohort, "subject_id") == ["E0", "E1", "E2", "E3", "E5"]
    for number, ecg in zip((0, 1, 2, 3, 5), cohort.ecg, strict=True):
        np.testing.assert_allclose(ecg, median_beat(strip(number), 250).ecg, rtol=0, atol=1e-3)
    assert cohort.source == "EchoNext, one unit taken as 0.2 mV"
    assert column(cohort, "fold") == [1, 10, 1, 9, 1]
    assert column(cohort, "sex") == ["male", "female", "male", "female", "male"]
    assert column(cohort, "age") == [60, 61, 62, 63, 90]
    np.testing.assert_array_equal(column(cohort, "lvef"), [1, 1, np.nan, 0, 0])
    excluded = cohort.excluded
    assert excluded[["subject_id", "reason"]].to_numpy().tolist() == [
        ["E4", "an earlier ECG of a test patient"]
    ]


def test_a_flag_is_missing_where_nothing_was_measured(folder):
    cohort = load(folder)
    for name in MEASURED:
        flag = pd.Series(column(cohort, name))
        assert flag.fillna("?").tolist() == ["no", "yes", "?", "no", "yes"]
    ConditionSchema([CONDITIONS[name] for name in MEASURED]).check(cohort.subjects)


def test_each_number_is_that_of_its_own_column(tmp_path):
    values = {old: [10.0 * place + row for row in range(3)] for place, old in enumerate(NUMBERS, 1)}
    write_echonext(tmp_path / "echonext", ("train", "val", "test"), **values)
    cohort = load(tmp_path / "echonext")
    for name, place in {
        **{"age": "age_at_ecg", "lvef": "lvef_value", "pasp": "pasp_value"},
        **{"ivs": "ivs_measurement", "lvpw": "lvpw_measurement"},
        "tr_max_velocity": "tr_max_velocity_value",
    }.items():
        assert column(cohort, name) == values[place]


def test_one_measurement_is_enough_for_a_flag_and_one_that_is_set_needs_none(tmp_path):
    write_echonext(
        tmp_path / "echonext",
        ("train", "val", "test"),
        ivs_measurement=[1.0, np.nan, np.nan],
        lvpw_measurement=[np.nan] * 3,
        lvwt_gte_13_flag=[0, 0, 1],
    )
    flag = load(tmp_path / "echonext").subjects["lvwt_gte_13"]
    assert flag.fillna("?").tolist() == ["no", "?", "yes"]


def test_the_split_is_that_of_the_data_set(folder):
    split = load(folder).split(by_fold=True)
    assert column(split.test, "subject_id") == ["E1"]
    assert column(split.validation, "subject_id") == ["E3"]


def test_without_a_scale_the_ecgs_are_in_standardised_units(folder):
    settings = DataConfig(source="echonext", path=folder, cache=folder.parent / "cache", workers=1)
    cohort, in_mv = load_cohort(settings), load_cohort(replace(settings, millivolts_per_unit=SD))
    assert (cohort.unit, in_mv.unit) == ("standardised", "mV")
    assert cohort.source == "EchoNext, standardised"
    np.testing.assert_allclose(cohort.ecg, in_mv.ecg / SD, rtol=1e-4, atol=1e-5)
    noise = "beat_noise_uv"
    np.testing.assert_allclose(cohort.subjects[noise], in_mv.subjects[noise] / SD, rtol=1e-4)
    # They are what the archive holds: a beat of its waveform is the beat, whatever it is scaled by.
    raw = np.load(folder / "EchoNext_val_waveforms.npy")[0, 0].T
    np.testing.assert_allclose(cohort.ecg[3], median_beat(raw / 4, 250).ecg * 4, atol=1e-4)
    times = {"rtol": 1e-5, "err_msg": "limits in mV must see the same beats in both"}
    found, expected = (
        measure(one.ecg, **one.timing, unit=one.unit).drop(columns=["qtc", "failed"])
        for one in (cohort, in_mv)
    )
    for name, feature in FEATURES.items():
        if name != "qtc":
            share = SD if feature.unit == "mV" else 1
            np.testing.assert_allclose(found[name] * share, expected[name], atol=2e-3, **times)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda wave: wave.fill(np.nan), "lead I has missing samples"),
        (lambda wave: np.multiply(wave, 1000, out=wave), "amplitude is not in standardised units"),
        (lambda wave: wave[0, :, 6].fill(0), "lead V1 is flat"),
    ],
)
def test_a_standardised_ecg_without_sense_is_left_out(folder, spoil, reason):
    file = folder / "EchoNext_val_waveforms.npy"
    waves = np.load(file)
    spoil(waves[0])
    np.save(file, waves)
    excluded = load(folder, millivolts_per_unit=0).excluded
    assert excluded.set_index("subject_id")["reason"]["E3"] == reason


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "EchoNext_val_waveforms.npy").unlink(), "val_waveforms.npy is not there"),
        (
            lambda f: np.save(f / "EchoNext_val_waveforms.npy", np.zeros((2, 1, 2500, 12))),
            r"Expected .*\(1, 1, 2500, 12\).*Received: \(2, 1, 2500, 12\)",
        ),
        (lambda f: (f / "EchoNext_val_waveforms.npy").write_bytes(b"x"), "cannot be read"),
        (lambda f: (f / "echonext_metadata_100k.csv").unlink(), "metadata_100k.csv is not there"),
        (
            lambda f: (f / "echonext_metadata_100k.csv").write_text("ecg_key,split\n1,train\n"),
            "lacks the columns",
        ),
    ],
)
def test_what_does_not_fit_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(CohortError, match=message):
        load(folder)
