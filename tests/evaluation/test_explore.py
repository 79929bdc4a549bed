"""What is in the page, for every kind of model, and the command that writes it."""

import base64
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

from config import CONFIG, to_dict
from data.cohort import Cohort
from data.conditions import Condition, ConditionSchema
from data.synthetic import simulate
from evaluation import explore
from evaluation.explorer.network import ExplorerError, Numbers, operations
from evaluation.explorer.page import description, write_explorer
from evaluation.explorer.reference import (
    MIDDLE,
    SHOWN,
    conditions,
    design,
    features_of,
    of_model,
    of_training,
    quantile_regression,
    ranges,
)
from evaluation.measures.features import measure
from evaluation.measures.names import feature_title
from evaluation.measures.slopes import robust_sd
from tests import tiny_cohort
from tests.one_line import one_line
from training.provenance import fingerprint
from training.run_folder import RunError
from vae import VAE
from vae_prediction import VAEPrediction

INDEX = itemgetter("index")
COHORT = simulate(300, 0)
COHORT.subjects = COHORT.subjects.assign(side=np.resize(["low", "mid", "high"], 300))
CONDITIONS = [
    Condition("age", "continuous", "years", 0, 120),
    Condition("sex", "binary", categories=("male", "female")),
    Condition("side", "categorical", categories=("low", "mid", "high")),
]


def small(conditions=CONDITIONS, kind=VAE, encoding="standard", cohort=COHORT, **changes):
    schema = ConditionSchema(conditions, encoding).fit(cohort.subjects)
    leads, samples = cohort.ecg.shape[1:]
    size = ((leads, samples), (2, 2), ((1, 20), (leads, 1)), ("same", "valid"), 3)
    settings = {"hidden": (8,), "schema": schema, "leads": cohort.leads, "time_warp": 5} | changes
    return kind(*size, schema.dim, **settings).adapt(cohort.ecg, cohort.subjects)


@pytest.fixture(autouse=True)
def sparingly(monkeypatch):
    monkeypatch.setattr("evaluation.explorer.reference.SUBJECTS", 150)


def description_in(page):
    text = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="model">(.*?)</script>', text)
    return json.loads(found[1])


def of_kind(task):
    return small(kind=VAEPrediction, task=task, classes=3)


MODELS = {
    "categories": small,
    "no conditions": lambda: small([]),
    "raw": lambda: small(CONDITIONS[:2], encoding="raw", condition_dropout=0.0),
    "no warp, no linear path": lambda: small(time_warp=0, linear_path=False, hidden=()),
    "noise of each sample": lambda: small(noise="per_sample"),
    "a Cox head without baseline": lambda: of_kind("cox"),
    "three classes": lambda: of_kind("multiclass"),
    "two leads": lambda: small(
        cohort=Cohort(COHORT.ecg[:, 6:8], COHORT.subjects, leads=("V1", "V2"))
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_has_a_page(name, tmp_path):
    page = write_explorer(tmp_path, MODELS[name](), name)
    described = description_in(page)
    assert described["source"] == "generated"
    assert bool(described["features"]) is (len(described["leads"]) == 12)
    assert sorted(one["index"] for one in described["latent"]) == [0, 1, 2]
    kl = [one["kl"] for one in described["latent"]]
    assert kl == sorted(kl, reverse=True)
    why = "2 leads: V1, V2.</p>" in page.read_text("utf-8")
    assert why is (not described["features"])
    assert ("not corrected" in page.read_text("utf-8")) is bool(described["features"])
    assert page.stat().st_size < 6e6
    assert not re.search(r"""(src|href)=["'](?!#)""", page.read_text("utf-8"))


def test_beats_in_which_nothing_can_be_measured_have_a_page_too(tmp_path):
    model = VAE(
        *((12, 60), (2, 2), ((1, 20), (12, 1)), ("same", "valid"), 3, tiny_cohort.SCHEMA.dim),
        schema=tiny_cohort.SCHEMA,
        hidden=(8,),
        qrs_sample=22,
    )
    model.adapt(tiny_cohort.COHORT.ecg, tiny_cohort.COHORT.subjects)
    reference = of_training(tiny_cohort.COHORT)
    described = description_in(write_explorer(tmp_path, model, "tiny", reference))
    assert {one["low"] is None for one in described["features"].values()} == {True}


def test_features_are_measured_where_the_qrs_lies():
    late = Cohort(np.roll(COHORT.ecg, 60, axis=2), COHORT.subjects, qrs_sample=210)
    model = small(cohort=late, **late.timing)
    described = description(model, Numbers(), of_training(late))
    assert described["fiducial"] == 210
    expected = measure(late.ecg, qrs_sample=210)["qrs_duration"]
    found = features_of(model, late.ecg)["qrs_duration"]
    assert found.notna().mean() > 0.9
    pd.testing.assert_series_equal(found, expected)
    outside = small(cohort=COHORT)
    outside.settings["qrs_sample"] = 400  # no model can be built so
    assert features_of(outside, COHORT.ecg) is None


def test_categories_may_be_numbers_as_tables_have_them(tmp_path):
    smoking = Condition("smoking", "categorical", categories=(0, 1, 2))
    for values in ([0, 2, 1, 1, 1], [0.0, 2.0, 1.0, 1.0, 1.0]):
        cohort = Cohort(COHORT.ecg, COHORT.subjects.assign(smoking=np.resize(values, 300)))
        model = small([smoking], cohort=cohort)
        people = cohort.take(range(3))
        described = description_in(
            write_explorer(tmp_path, model, "m", of_training(cohort), people)
        )
        [one] = described["conditions"]
        assert (one["categories"], one["typical"]) == (["0", "1", "2"], "1")
        assert [each["values"]["smoking"] for each in described["subjects"]] == ["0", "2", "1"]
        assert of_model(model, model.schema).subjects["smoking"].isin([0, 1, 2]).all()


def test_a_condition_that_few_subjects_have_is_placed_by_its_mean_and_sd():
    few = COHORT.subjects["age"].where(np.arange(300) == 1)  # no one of the selection
    cohort = Cohort(COHORT.ecg, COHORT.subjects.assign(rare=few))
    model = small([*CONDITIONS, Condition("rare")], cohort=cohort)
    model.schema.scaling["rare"] = (50.0, 10.0)
    [rare] = [c for c in conditions(model.schema, of_training(cohort)) if c["name"] == "rare"]
    assert [rare["p5"], rare["p95"]] == pytest.approx([50 - 16.45, 50 + 16.45], abs=0.01)
    json.dumps(description(model, Numbers(), of_training(cohort)), allow_nan=False)


def test_most_of_the_way_of_a_slider_is_where_subjects_are():
    skewed = 5 + np.exp(np.random.default_rng(0).normal(4.5, 1, 300))
    cohort = Cohort(COHORT.ecg, COHORT.subjects.assign(bnp=skewed, free=skewed))
    bnp = Condition("bnp", "continuous", "ng/L", 5, 70_000)
    schema = ConditionSchema([*CONDITIONS, bnp, Condition("free")]).fit(cohort.subjects)
    age, _, _, bnp, free = conditions(schema, of_training(cohort))
    for one in (age, bnp, free):
        assert one["from"] / one["step"] == pytest.approx(round(one["from"] / one["step"]))
        width = one["p95"] - one["p5"]
        assert one["low"] <= one["from"] < one["p5"]
        assert one["p95"] < one["to"] <= one["high"]
        assert width / (one["to"] - one["from"]) > 0.32
        assert one["to"] == pytest.approx(one["p95"] + width, abs=one["step"]) or one is age
    assert (age["low"], age["high"]) == (0, 120)
    assert (bnp["from"], bnp["low"], bnp["high"]) == (10, 5, 70_000)
    assert (free["from"], free["to"]) == (free["low"], free["high"])


def test_nothing_of_a_single_subject_is_in_the_page(tmp_path):
    ids = [f"patient-{n:04d}-x" for n in range(300)]
    cohort = Cohort(COHORT.ecg, COHORT.subjects.assign(subject_id=ids, patient_id=ids))
    model = small()
    page = write_explorer(tmp_path, model, "m", of_training(cohort))
    text, described = page.read_text("utf-8"), description_in(page)
    assert described["source"] == "training"
    assert described["subjects"] == []
    assert not any(name in text for name in ids)
    numbers = np.frombuffer(
        base64.b64decode(re.search(r'id="numbers">([^<]*)<', text)[1]), np.float32
    )
    prior = sum(np.size(part) for part in model.prior)
    warp, beat = 5 * 400, 8 * 400
    weights = sum(int(np.prod(weight.shape)) for weight in model.decoder.weights)
    assert len(numbers) == weights + prior + warp + 2 * beat + 12 * 8


def test_subjects_are_added_when_asked_for_with_a_warning(tmp_path):
    model = small()
    page = write_explorer(tmp_path, model, "m", None, COHORT.take(range(4)))
    described = description_in(page)
    z = np.array([one["z"] for one in described["subjects"]])
    assert z == pytest.approx(model.encode(COHORT.ecg[:4], COHORT.subjects[:4])[0], abs=1e-5)
    assert described["subjects"][3]["values"] == {
        name: COHORT.subjects[name][3] for name in ("age", "sex", "side")
    }
    assert "holds data of real people" in page.read_text("utf-8")
    assert "Nothing of a single real" not in page.read_text("utf-8")


def test_ranges_hold_nine_in_ten_of_other_subjects():
    others = simulate(1500, 1)
    conditions = CONDITIONS[:2]
    model = small(conditions)
    found = ranges(model.schema, others.subjects[:1000], features_of(model, others.ecg[:1000]))
    for hidden in ([], ["age"], ["age", "sex"]):
        subjects = others.subjects[1000:].assign(**dict.fromkeys(hidden, np.nan))
        x = design(model.schema, subjects)
        measured = features_of(model, others.ecg[1000:])
        for name in ("qrs_duration", "qrs_axis", "sokolow_lyon", "r_v5"):
            low, high = (x @ np.array(found[name][end]) for end in ("low", "high"))
            inside = measured[name].between(low, high).mean()
            assert 0.85 < inside < 0.94, (name, hidden, inside)
    sokolow = np.array(found["sokolow_lyon"]["low"])
    assert sokolow[0] != pytest.approx((design(model.schema, others.subjects[:1]) @ sokolow)[0])


def test_quantile_regression_is_that_of_a_linear_program():
    random = np.random.default_rng(0)
    x = np.stack([np.ones(300), random.normal(size=300), np.zeros(300)], axis=1)
    y = (2 + 3 * x[:, 1] + random.gumbel(size=300))[:, None] * [1, 10]
    y[:5, 1] = np.nan
    for share in MIDDLE:
        found = quantile_regression(x, y, share)
        for column in range(2):
            known = np.isfinite(y[:, column])
            n, a = known.sum(), x[known][:, :2]
            cost = np.r_[np.zeros(2), np.full(n, share), np.full(n, 1 - share)]
            free = [(None, None)] * 2 + [(0, None)] * 2 * n
            solved = linprog(
                cost, A_eq=np.c_[a, np.eye(n), -np.eye(n)], b_eq=y[known, column], bounds=free
            )
            loss = y[known, column] - a @ found[:2, column]
            loss = np.maximum(share * loss, (share - 1) * loss).sum()
            assert loss == pytest.approx(solved.fun, rel=0.005)


def test_generated_subjects_are_those_of_the_scaling():
    model = small()
    reference = of_model(model, model.schema)
    mean, sd = model.schema.scaling["age"]
    assert reference.subjects["age"].mean() == pytest.approx(mean, abs=0.3 * sd)
    assert reference.subjects["age"].between(0, 120).all()
    assert set(reference.subjects["sex"]) == {"male", "female"}
    assert reference.ecg.shape == (150, 12, 400)


def test_latents_are_ordered_and_called_by_what_they_move():
    model = small()
    model.fit_prior(COHORT.ecg, COHORT.subjects)
    described = description(model, Numbers(), of_training(COHORT))
    part = COHORT.take(np.unique(np.linspace(0, 299, 150).astype(int)))
    mean, log_var = model.encode(part.ecg, part.subjects)
    kl = ((mean**2 + np.exp(log_var) - 1 - log_var) / 2).mean(axis=0)
    u = model.prior.mixture.sample(4000, 0)
    subject = {one["name"]: one["typical"] for one in described["conditions"]}
    encoded = model.schema.encode(subject, 2)
    for one in described["latent"]:
        z = one["index"]
        assert one["kl"] == pytest.approx(kl[z], rel=1e-4)
        assert one["centre"] == pytest.approx(u[:, z].mean(), abs=0.1)
        assert one["spread"] == pytest.approx(u[:, z].std(), rel=0.1)
        ends = np.array([[each["centre"] for each in sorted(described["latent"], key=INDEX)]] * 2)
        ends[:, z] += [-0.5 * one["spread"], 0.5 * one["spread"]]
        ecg = model.decode(model.prior.place(ends, encoded), encoded)
        change = features_of(model, ecg).diff().iloc[1]
        named = one["moves"].split(", ")[0]
        [feature] = [name for name in SHOWN if feature_title(name) == named[:-2]]
        assert np.sign(change[feature]) == {"↑": 1, "↓": -1}[named[-1]]
        spread = robust_sd(features_of(model, part.ecg)[list(SHOWN)])
        largest = (change[list(SHOWN)] / spread).abs().drop(index="t_axis").drop(index="qrs_axis")
        assert largest[feature] > 0.99 * largest.max() or feature.endswith("axis")


def test_a_latent_that_does_nothing_is_called_so():
    model = small()
    for name in ("dense_of_latent", "linear_ecg"):
        kernel = model.decoder.get_layer(name).kernel
        without = np.array(keras.ops.convert_to_numpy(kernel))
        without[1] = 0
        kernel.assign(without)
    described = description(model, Numbers(), of_training(COHORT))
    moves = {one["index"]: one["moves"] for one in described["latent"]}
    assert moves[1] == "little"
    assert "little" not in (moves[0], moves[2])


def test_a_layer_that_the_page_does_not_know_is_named():
    z, conditions = keras.Input((2,)), keras.Input((1,))
    x = keras.layers.Concatenate()([z, conditions])
    decoder = keras.Model([z, conditions], keras.layers.Softmax(name="odd")(x))
    with pytest.raises(ExplorerError, match="'odd' .Softmax."):
        operations(decoder, Numbers())
    dense = keras.Model([z, conditions], keras.layers.Dense(2, activation="tanh")(x))
    with pytest.raises(ExplorerError, match="linear or elu. Received: tanh"):
        operations(dense, Numbers())


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the simulated cohort, as `train.py` leaves it."""
    conditions = ("age", "sex", "bmi")
    config = replace(CONFIG, data=replace(CONFIG.data, subjects=200, conditions=conditions))
    folder = tmp_path_factory.mktemp("made") / "first"
    cohort = simulate(200, 0)
    bmi = Condition("bmi", "continuous", "kg/m2", 10, 80)
    small([*CONDITIONS[:2], bmi], cohort=cohort).save(folder / "model")
    (folder / "config.json").write_text(json.dumps(to_dict(config), default=str))
    made = {"data": {"fingerprint": fingerprint(cohort)}}
    (folder / "environment.json").write_text(json.dumps(made))
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "runs" / "first"))


refused = partial(one_line, explore.main, "python -m evaluation.explore: ")


def test_a_run_is_shown_beside_its_training_subjects(run, capsys):
    explore.main(["first"])
    assert f"file://{run}/explorer.html (" in capsys.readouterr().out
    described = description_in(run / "explorer.html")
    assert (described["title"], described["source"]) == ("first", "training")
    train = simulate(200, 0).split(0.1, 0.15, 0).train.subjects
    age = next(one for one in described["conditions"] if one["name"] == "age")
    assert [age["p5"], age["p95"]] == pytest.approx(train["age"].quantile([0.05, 0.95]).tolist())
    assert description_in(explore.explore(run / "model")) == described


def test_test_subjects_come_from_the_test_split(run):
    page = explore.explore("first", out="elsewhere", subjects=3)
    test = simulate(200, 0).split(0.1, 0.15, 0).test
    shown = [one["values"]["age"] for one in description_in(page)["subjects"]]
    assert len(shown) == 3
    assert set(shown) <= set(test.subjects["age"])


def test_without_its_data_a_run_is_shown_beside_generated_ecgs(run, capsys):
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"source": "arrays", "path": "gone"}
    (run / "config.json").write_text(json.dumps(config))
    page = explore.explore("first")
    assert description_in(page)["source"] == "generated"
    assert "not at gone" in capsys.readouterr().out
    assert "not at gone" in refused(capsys, "first", "--subjects", 2)


def test_other_data_than_those_of_the_run_are_not_called_its_own(run, capsys):
    made = {"data": {"fingerprint": "0" * 64}}
    (run / "environment.json").write_text(json.dumps(made))
    assert description_in(explore.explore("first"))["source"] == "generated"
    assert "not those that" in capsys.readouterr().out
    with pytest.raises(RunError, match="not those that"):
        explore.explore("first", subjects=1)


def test_mistakes_are_one_line(run, capsys, tmp_path):
    assert "neither a run nor a model folder" in refused(capsys, "nothing")
    assert "0 or more" in refused(capsys, "first", "--subjects", -1)
    VAE.load(run).save(tmp_path / "bare")
    assert "no config.json" in refused(capsys, "bare", "--subjects", 1)
    assert explore.explore("bare").resolve() == tmp_path / "explorer.html"
    pd.DataFrame().to_csv(tmp_path / "file")
    assert "invalid int" in refused(capsys, "first", "--subjects", "many")
