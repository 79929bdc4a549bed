"""What is written and read again, encoded and decoded, or measured in two ways, for any input."""

import itertools
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from config import CONDITIONS, PRESETS, Config, from_dict, to_dict
from data.cohort import LEADS, QRS_SAMPLE, Cohort, derive_leads
from data.conditions import Condition, ConditionSchema
from data.export import write_wfdb
from data.outcomes import MISSING, join_outcomes
from data.readers.arrays import load_arrays
from data.readers.cardiosoft import read_median_beat, read_strip
from data.readers.ptbxl import WfdbReader
from evaluation.measures.survival_scores import censoring_survival, concordance
from model.cox import (
    baseline_hazard,
    cox_partial_likelihood,
    partial_log_likelihood,
    survival_function,
)
from tests.cardiosoft_files import document, stored_beat, waveforms, write
from tests.simulated_strips import beat

any_input = settings(max_examples=40, derandomize=True, deadline=None)

ORDERS = st.permutations(range(12))
SEEDS = st.integers(0, 2**32 - 1)
# What a table may call a recording: letters of any language, commas, quotes, semicolons, zeros.
TEXT = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=6)
ODD = st.sampled_from(["007", "1e5", "a,b", 'a"b', "a;b", "'", "-1", "0x1F", "true", "É", "名前"])


def ecgs(n, seed, samples=40):
    """(n, 12, samples) mV of random leads that obey the limb-lead equations."""
    rng = np.random.default_rng(seed)
    eight = rng.uniform(-2, 2, (n, 8, samples))
    return derive_leads(eight.astype(np.float32))


# --- ECGs -----------------------------------------------------------------------------------------


@any_input
@given(order=ORDERS, seed=SEEDS, rate=st.sampled_from([100, 250, 500, 1000]))
def test_a_wfdb_record_holds_any_ecg_to_half_a_microvolt_in_any_order(order, seed, rate):
    names = [LEADS[row] for row in order]
    (ecg,) = ecgs(1, seed)[:, order]
    with tempfile.TemporaryDirectory() as folder:
        write_wfdb(folder, "r", ecg, names, rate)
        ours = WfdbReader(folder)("r")
        theirs = wfdb.rdrecord(str(Path(folder) / "r"))
    assert ours.leads == theirs.sig_name == names
    assert ours.sampling_rate == theirs.fs == rate
    # Half a step of 1 uV, and the rounding of float32.
    assert np.abs(ours.ecg - ecg).max() <= 0.5001e-3
    np.testing.assert_allclose(ours.ecg, theirs.p_signal.T, atol=1e-6)


@any_input
@given(ids=st.lists(TEXT | ODD, min_size=1, max_size=5, unique=True), order=ORDERS, seed=SEEDS)
def test_a_cohort_comes_back_from_disk_with_any_ids_and_its_leads_in_order(ids, order, seed):
    ecg = ecgs(len(ids), seed)
    subjects = pd.DataFrame({"subject_id": ids, "patient_id": ids[::-1]})
    made = Cohort(ecg[:, order], subjects, leads=[LEADS[row] for row in order])
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        opened = Cohort.open(folder)
        np.testing.assert_array_equal(opened.ecg, ecg)
    assert opened.leads == LEADS
    assert opened.subjects["subject_id"].tolist() == ids
    assert opened.subjects["patient_id"].tolist() == ids[::-1]


def plain(name):
    """Whether a table from elsewhere leaves a name as it is: documented, what it does not."""
    number = name.replace(".", "", 1).isdecimal() and "." in name  # 15709.0 is 15709
    return name == name.strip() and name not in MISSING and not number


@any_input
@given(ids=st.lists((TEXT | ODD).filter(plain), min_size=1, max_size=5, unique=True), seed=SEEDS)
def test_arrays_are_read_with_any_ids_as_any_program_writes_them(ids, seed):
    ages = np.random.default_rng(seed).uniform(0, 100, len(ids))
    gains = np.random.default_rng(seed).uniform(0.5, 2, (len(ids), 1, 1))
    ecg = (gains * beat((np.arange(400) - 150) / 500)).astype(np.float32)
    table = pd.DataFrame({"subject_id": ids, "age": ages})
    for encoding, end in (("utf-8", "\n"), ("utf-8-sig", "\r\n")):
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "ecg.npy", ecg)
            file = Path(folder) / "subjects.csv"
            table.to_csv(file, index=False, encoding=encoding, lineterminator=end)
            read = load_arrays(folder)
            np.testing.assert_array_equal(read.ecg, ecg)
        assert read.subjects["subject_id"].tolist() == ids
        np.testing.assert_allclose(read.subjects["age"], ages, rtol=1e-12)


@any_input
@given(order=ORDERS, seed=SEEDS, resolution=st.sampled_from([0.5, 1.0, 2.5, 4.88, 5.0]))
def test_a_cardiosoft_strip_comes_back_to_the_last_unit(order, seed, resolution):
    samples = np.random.default_rng(seed).integers(-30_000, 30_000, (12, 50))
    names = [LEADS[row] for row in order]
    text = document(None, waveforms(samples, names, 250, resolution))
    with tempfile.TemporaryDirectory() as folder:
        strip = read_strip(write(Path(folder) / "ecg.xml", text))
    assert list(strip.leads) == names
    assert strip.sampling_rate == 250
    np.testing.assert_allclose(strip.ecg * 1000 / resolution, samples, atol=1e-9)


@any_input
@given(order=ORDERS, gain=st.floats(0.3, 3), middle=st.integers(310, 600))
def test_a_cardiosoft_beat_comes_back_on_its_qrs_with_its_leads_in_order(order, gain, middle):
    middle -= middle % 2  # a whole sample at 500 Hz
    stored = np.round(stored_beat(seconds=2, middle=middle) * gain).astype(int)
    inside = waveforms(stored[order], [LEADS[row] for row in order])
    text = document(inside, qrs=(middle - 46, middle + 46))
    with tempfile.TemporaryDirectory() as folder:
        beat = read_median_beat(write(Path(folder) / "ecg.xml", text))
    start = middle // 2 - QRS_SAMPLE
    eight = stored[[0, 1, *range(6, 12)], start : start + 400] * 5.0 / 1000
    np.testing.assert_allclose(beat.ecg, derive_leads(eight), atol=1e-6)


# --- conditions and settings ----------------------------------------------------------------------


@st.composite
def tables(draw):
    """A schema of some conditions, and a table of them with gaps."""
    n = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(SEEDS))
    conditions, columns = [], {}
    for number in range(draw(st.integers(1, 4))):
        kind, name = draw(st.sampled_from(["continuous", "binary", "categorical"])), f"c{number}"
        if kind == "continuous":
            centre, spread = 10 ** rng.uniform(-3, 6), 10 ** rng.uniform(-2, 1)
            condition = Condition(name)
            values = (centre * (1 + spread * rng.normal(size=n))).tolist()
        else:
            count = 2 if kind == "binary" else draw(st.integers(2, 4))
            condition = Condition(name, kind, categories=tuple("pqrs"[:count]))
            values = rng.choice(list("pqrs"[:count]), n).tolist()
        known = draw(st.lists(st.booleans(), min_size=n, max_size=n))
        known[draw(st.integers(0, n - 1))] = True  # one is needed to fit
        conditions.append(condition)
        columns[name] = [
            value if is_known else None for value, is_known in zip(values, known, strict=True)
        ]
    return conditions, pd.DataFrame(columns)


@any_input
@given(tables())
def test_encoded_conditions_are_finite_and_tell_what_is_known_and_nothing_else(drawn):
    conditions, table = drawn
    schema = ConditionSchema(conditions).fit(table)
    encoded = schema.encode(table)
    assert encoded.shape == (len(table), schema.dim)
    assert np.isfinite(encoded).all()
    parts = np.split(encoded, np.cumsum(schema.widths)[:-1], axis=1)
    for condition, part in zip(conditions, parts, strict=True):
        known = table[condition.name].notna().to_numpy()
        assert not part[~known].any()
        if condition.kind == "continuous":
            mean, sd = schema.scaling[condition.name]
            assert (part[known, 1] == 1).all()
            told = table[condition.name][known].to_numpy(float)
            np.testing.assert_allclose(part[known, 0] * sd + mean, told, atol=1e-5 * sd)
        elif condition.kind == "binary":
            told = [condition.categories[int(value > 0)] for value in part[known, 0]]
            assert told == table[condition.name][known].tolist()
        else:
            assert (part[known].sum(axis=1) == 1).all()
            told = [condition.categories[position] for position in part[known].argmax(axis=1)]
            assert told == table[condition.name][known].tolist()


@any_input
@given(tables())
def test_a_schema_out_of_json_encodes_as_before(drawn):
    conditions, table = drawn
    schema = ConditionSchema(conditions).fit(table)
    again = ConditionSchema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False)))
    assert again.conditions == schema.conditions
    np.testing.assert_array_equal(again.encode(table), schema.encode(table))
    # Row by row, as a mapping of what is known, and as encoded already.
    for row, encoded in zip(table.to_dict("records"), schema.encode(table), strict=True):
        known = {name: value for name, value in row.items() if not pd.isna(value)}
        np.testing.assert_array_equal(again.encode(known, 1)[0], encoded)
        np.testing.assert_array_equal(again.encode(encoded[None])[0], encoded)


FRACTION = st.floats(0.01, 0.49)
POSITIVE = st.floats(1e-9, 1e9)


@any_input
@given(
    base=st.sampled_from(list(PRESETS.values())),
    run=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True),
    data=st.fixed_dictionaries(
        {
            "path": st.none() | TEXT.map(Path),
            "conditions": st.lists(st.sampled_from(list(CONDITIONS)), unique=True).map(tuple),
            "validation_fraction": FRACTION,
            "test_fraction": FRACTION,
            "seed": st.integers(0, 2**64),
        }
    ),
    model=st.fixed_dictionaries(
        {
            "hidden": st.lists(st.integers(1, 999), max_size=3).map(tuple),
            "noise": st.sampled_from(["per_sample", "per_recording", "learned", "mse"]) | POSITIVE,
            "kl_weight": POSITIVE | st.just(0.0),
            "linear_path": st.booleans(),
        }
    ),
    training=st.fixed_dictionaries(
        {"learning_rate": POSITIVE, "warm_start": st.none() | TEXT.map(Path)}
    ),
)
def test_any_configuration_comes_back_out_of_json(base, run, data, model, training):
    assume(base.data.source == "synthetic" or data["path"] is not None)
    if model["noise"] != "per_sample":
        model = {**model, "deviations": "squared"}
    sections = {"data": data, "model": model, "training": training}
    config = replace(
        base,
        run=run,
        **{name: replace(getattr(base, name), **new) for name, new in sections.items()},
    )
    text = json.dumps(to_dict(config), allow_nan=False)
    assert from_dict(Config, json.loads(text)) == config
    assert from_dict(Config, {}) == Config()


# --- outcomes -------------------------------------------------------------------------------------


@st.composite
def followed(draw):
    """Log hazards, times with ties, events of which there is one at least."""
    n = draw(st.integers(2, 12))
    several = {"min_size": n, "max_size": n}
    score = draw(st.lists(st.integers(-20, 20), **several))
    time = draw(st.lists(st.integers(1, 8), **several))
    event = draw(st.lists(st.integers(0, 1), **several))
    event[draw(st.integers(0, n - 1))] = 1
    return np.array(score) / 10, np.array(time, float), np.array(event, float)


@any_input
@given(followed(), SEEDS)
def test_outcomes_are_joined_to_their_recordings_in_any_order(drawn, seed):
    _, time, event = drawn
    n = len(time)
    ids = [f"p,{number}" for number in range(n)]
    order = np.random.default_rng(seed).permutation(n)
    table = pd.DataFrame({"subject_id": ids, "time": time / 7, "event": event}).iloc[order]
    with tempfile.TemporaryDirectory() as folder:
        table.to_csv(Path(folder) / "outcomes.csv", index=False)
        made = Cohort(ecgs(n, 0), pd.DataFrame({"subject_id": ids}))
        joined = join_outcomes(made, Path(folder) / "outcomes.csv")
    np.testing.assert_allclose(joined.subjects["time"], time / 7, rtol=1e-12)
    np.testing.assert_array_equal(joined.subjects["event"], event)


def counted_concordance(score, time, event):
    """Harrell's C, pair by pair."""
    pairs = agreeing = 0.0
    for i, j in itertools.permutations(range(len(time)), 2):
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            pairs += 1
            agreeing += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
    return agreeing / pairs if pairs else math.nan


@any_input
@given(followed(), SEEDS)
def test_concordance_is_that_of_the_pairs_whatever_the_order_and_the_scale(drawn, seed):
    score, time, event = drawn
    ones, order = np.ones((1, len(time))), np.random.default_rng(seed).permutation(len(time))
    expected = counted_concordance(score, time, event)
    for value in (
        concordance(score, time, event, ones),
        concordance(np.exp(score) + 5, time, event, ones),
        concordance(score[order], time[order], event[order], ones),
        1 - concordance(-score, time, event, ones),
    ):
        np.testing.assert_allclose(value, [expected], atol=1e-6)


@any_input
@given(followed(), st.sampled_from(["efron", "breslow"]), SEEDS)
def test_the_loss_is_the_partial_likelihood_whatever_the_order_and_the_level(drawn, ties, seed):
    score, time, event = drawn
    order = np.random.default_rng(seed).permutation(len(time))
    expected = -partial_log_likelihood(score, time, event, ties)
    assert expected >= -1e-9  # each event is one of those at risk
    terms = cox_partial_likelihood(
        (score + 3)[order].astype(np.float32), time[order], event[order], ties
    )
    assert np.isclose(float(np.sum(terms)), expected, rtol=1e-4, atol=1e-4)
    moved = partial_log_likelihood(score[order] - 100, time[order], event[order], ties)
    assert np.isclose(-moved, expected, atol=1e-9)


@any_input
@given(followed())
def test_survival_falls_from_one_and_a_higher_hazard_lies_below(drawn):
    score, time, event = drawn
    times, hazard = baseline_hazard(score, time, event, "breslow")
    assert (np.diff(times) > 0).all()
    assert (np.diff(hazard, prepend=0) > 0).all()
    survival = survival_function(np.sort(score), times, hazard, np.arange(0, 10.0, 0.5))
    assert (survival[:, 0] == 1).all()
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (np.diff(survival, axis=1) <= 0).all()
    assert (np.diff(survival, axis=0) <= 0).all()
    # As many events are expected as there were.
    at_own_time = survival_function(score, times, hazard, time).diagonal()
    assert np.isclose(-np.log(at_own_time).sum(), event.sum())
    _, censoring = censoring_survival(time, event)
    assert ((censoring >= 0) & (censoring <= 1)).all()
    assert (np.diff(censoring) <= 0).all()
