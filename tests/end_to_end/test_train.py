"""A whole run, from nothing to the report."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.synthetic import simulate
from tests.eager import train_eagerly
from tests.one_line import one_line
from tests.sparing import judge_sparingly
from train import main, parse, train
from training.provenance import fingerprint
from training.run_folder import RunError, record
from vae import VAE

ARGUMENTS = [
    *("--data.subjects", "200", "--data.conditions", "age", "sex", "bmi", "lv_mass"),
    *("--model.conv-filters", "2", "2", "--model.hidden", "8", "--model.latent-space-dim", "4"),
    *("--training.epochs", "8", "--training.batch-size", "16", "--training.xla", "False"),
    *("--training.tensorboard", "True"),
    *("--evaluation.bootstrap", "100", "--evaluation.generated", "20"),
    *("--evaluation.examples", "1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of this module lie; the first one is finished."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config, _ = parse(["--run", "first", *ARGUMENTS])
        assert train(config) == Path("runs/first")
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder / "runs" / "first"


def metrics_of(run):
    def refuse(constant):
        raise AssertionError(constant)  # NaN and Infinity are no JSON

    return json.loads((run / "metrics.json").read_text("utf-8"), parse_constant=refuse)


def test_a_run_leaves_every_file_and_no_checkpoint(run):
    names = {path.name for path in run.iterdir()}
    files = {"config.json", "environment.json", "history.csv", "metrics.json", "report.html"}
    assert names == files | {"model", "figures", "explorer.html", "tensorboard"}
    assert 'href="explorer.html"' in (run / "report.html").read_text("utf-8")
    figures = {path.stem for path in (run / "figures").iterdir()}
    assert {f"sweep_{name}" for name in ("age", "sex", "bmi", "lv_mass")} <= figures
    assert {"history", "reconstructions", "latent_traversal", "latent_kl"} <= figures
    for path in (run / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(run.rglob("*partial*"))


def test_the_metrics_are_flat_sections_of_plain_numbers(run):
    metrics = metrics_of(run)
    sections = {"reconstruction", "latent", "realism", "adherence", "utility", "privacy"}
    assert {"data", "training"} | sections <= set(metrics)
    for section, values in metrics.items():
        for name, value in values.items():
            assert value is None or isinstance(value, (int, float, str)), (section, name)
            if isinstance(value, float):
                assert math.isfinite(value)
    assert metrics["data"]["recordings"] == 200
    parts = [metrics["data"][f"{part}_recordings"] for part in ("train", "validation", "test")]
    assert parts == [150, 20, 30]
    assert metrics["training"]["epochs"] == 8
    assert metrics["training"]["ecgs_per_second"] > 1


def test_the_model_of_a_run_is_the_one_that_the_metrics_describe(run):
    model = VAE.load(run)
    cohort = simulate(200, 0)
    test = cohort.split(0.1, 0.15, 0).test
    error = 1000 * np.abs(model.reconstruct(test.ecg, test.subjects) - test.ecg).mean()
    metrics = metrics_of(run)
    assert metrics["reconstruction"]["mae_uv"] == pytest.approx(error, rel=1e-4)
    assert metrics["latent"]["noise_uv"] == pytest.approx(model.noise_uv)
    assert model.schema.names == ("age", "sex", "bmi", "lv_mass")
    age = cohort.split(0.1, 0.15, 0).train.subjects["age"]
    assert model.schema.scaling["age"] == pytest.approx((age.mean(), age.std(ddof=0)))
    ecg = model.generate(n=3, seed=1, age=63, sex="female", bmi=31, lv_mass=140)
    limb = ecg[:, :3].astype(np.float64)
    assert np.abs(limb[:, 0] + limb[:, 2] - limb[:, 1]).max() < 1e-6 * np.abs(limb).max()


def test_after_training_the_latent_is_standardised_and_the_noise_has_the_level_of_validation(run):
    split = simulate(200, 0).split(0.1, 0.15, 0)
    ecg, subjects = split.train.ecg, split.train.subjects
    model, again, own = (VAE.load(run) for _ in range(3))
    mean, log_var = model.encode(ecg, subjects)
    np.testing.assert_allclose(mean.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(mean.var(axis=0) + np.exp(log_var).mean(axis=0), 1, atol=1e-3)
    again.fit_noise(ecg, subjects, (split.validation.ecg, split.validation.subjects))
    np.testing.assert_allclose(model.noise_sd_uv, again.noise_sd_uv, rtol=1e-3)
    own.fit_noise(ecg, subjects, (ecg, subjects))
    assert np.abs(np.log(own.noise_sd_uv / model.noise_sd_uv)).max() > 0.01


def test_the_history_has_a_row_per_epoch_and_the_config_every_setting(run):
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == list(range(1, 9))
    assert {"objective", "val_objective", "val_kl", "val_rmse_uv", "seconds"} <= set(history)
    best = metrics_of(run)["training"]["best_epoch"]
    assert history["val_objective"].idxmin() + 1 == best
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert config["data"]["conditions"] == ["age", "sex", "bmi", "lv_mass"]
    assert config["training"]["batch_size"] == 16


def test_the_run_says_what_it_was_made_of(run):
    made = json.loads((run / "environment.json").read_text("utf-8"))
    assert made["packages"]["numpy"] == np.__version__
    assert made["data"]["fingerprint"] == fingerprint(simulate(200, 0))
    assert {"commit", "device", "backend", "python", "platform"} <= set(made)


def test_a_run_does_not_go_on_with_other_data(run, tmp_path, capsys):
    record(tmp_path, simulate(200, 0))
    before = (tmp_path / "environment.json").read_text("utf-8")
    record(tmp_path, simulate(200, 0))
    assert capsys.readouterr().out == ""
    with pytest.raises(RunError, match=r"begun with other data: data.recordings: 200 -> 199;"):
        record(tmp_path, simulate(200, 0).take(np.arange(199)))
    other = simulate(200, 0)
    other.subjects.loc[3, "age"] += 1
    with pytest.raises(RunError, match=r"begun with other data: data.fingerprint"):
        record(tmp_path, other)
    older = json.loads(before) | {"python": "3.1"}
    (tmp_path / "environment.json").write_text(json.dumps(older), "utf-8")
    record(tmp_path, simulate(200, 0))
    assert "python: '3.1' ->" in capsys.readouterr().out


def test_a_simulated_image_derived_condition_moves_the_voltage(run):
    effects = metrics_of(run)["adherence"]
    assert effects["effect_lv_mass_sokolow_lyon_low"] > 0
    assert effects["effect_lv_mass_r_v5_low"] > 0
    model = VAE.load(run)
    light, heavy = (
        model.generate(n=5, seed=0, age=60, sex="male", bmi=27, lv_mass=mass) for mass in (90, 200)
    )
    change = (heavy[:, 10].max(axis=1) - light[:, 10].max(axis=1)) / 110  # V5, mV per g
    assert effects["effect_lv_mass_r_v5"] == pytest.approx(change.mean(), rel=0.3)


def test_a_finished_run_is_not_overwritten(run, capsys):
    before = (run / "metrics.json").stat().st_mtime_ns
    config, _ = parse(["--run", "first", *ARGUMENTS])
    with pytest.raises(RunError, match=r"runs/first is finished.*--overwrite"):
        train(config)
    one_line(main, "train.py: ", capsys, "--run", "first", *ARGUMENTS)
    assert (run / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["first", "new"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--model.conv-kernels 1 401 12 1 --model.conv-paddings valid valid", "larger than its in"),
        ("--data.seed 1", "pip install tensorboard"),
    ],
)
def test_what_cannot_be_trained_costs_neither_the_name_nor_the_run_to_overwrite(
    run, name, changed, message, capsys, monkeypatch
):
    if "tensorboard" in message:
        monkeypatch.setattr("evaluation.tensorboard.importlib.util.find_spec", lambda name: None)
    before = sorted(path.relative_to(run.parent) for path in run.parent.rglob("*"))
    with pytest.raises(SystemExit):
        main(["--run", name, *ARGUMENTS, *changed.split(), "--overwrite"])
    assert message in capsys.readouterr().err
    assert sorted(path.relative_to(run.parent) for path in run.parent.rglob("*")) == before


def test_a_model_of_no_conditions_is_trained_and_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_eagerly(monkeypatch)
    judge_sparingly(monkeypatch)
    few = ("--training.epochs", "1", "--data.conditions", "--training.tensorboard", "False")
    run = train(parse(["--run", "none", *ARGUMENTS, *few])[0])
    assert VAE.load(run).schema.names == ()
    assert VAE.load(run).generate(3).shape == (3, 12, 400)
    assert metrics_of(run)["realism"]["coverage"] > 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(("noise", "adapted"), [("learned", True), ("mse", False)])
def test_all_but_the_published_objective_work_around_the_mean_beat(
    tmp_path, monkeypatch, noise, adapted
):
    monkeypatch.chdir(tmp_path)
    if adapted:
        train_eagerly(monkeypatch)
    monkeypatch.setattr("evaluation.evaluate", lambda *_: ({}, {}))  # judged once is enough
    plain = ("--training.epochs", "1", "--model.linear-path", "False", "--model.noise", noise)
    plain += ("--training.augmentation", "1")
    # The other one is compiled by XLA, as runs are unless they are told otherwise.
    config, _ = parse(["--run", "plain", *ARGUMENTS, *plain, "--training.xla", str(not adapted)])
    model = VAE.load(train(config))
    assert bool(np.abs(model.mean_beat).max() > 0) == adapted
