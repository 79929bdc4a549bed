"""A run judged a second time: the same numbers, nothing lost, and other cohorts kept apart."""

import dataclasses
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import PRESETS, Config, ConfigError, DataConfig, EvaluationConfig, from_dict, to_dict
from data import Cohort, CohortError
from data.conditions import ConditionError
from data.synthetic import simulate
from evaluation.__main__ import main, parse
from evaluation.again import judge_again
from evaluation.external import _classes
from evaluation.judge import SAME_SOURCE
from tests.eager import train_eagerly
from tests.fresh_process import run_fresh
from tests.one_line import one_line
from tests.sparing import judge_sparingly
from train import parse as parse_training
from train import train
from training.run_folder import RunError, find_run, open_run
from training.setup import build_model, counts, open_data, with_targets
from vae import VAE

SMALL = [
    *("--model.conv-filters", "2", "2", "--model.hidden", "8", "--model.latent-space-dim", "4"),
    *("--training.epochs", "2", "--training.batch-size", "16", "--training.xla", "False"),
    *("--evaluation.bootstrap", "100", "--evaluation.generated", "10"),
    *("--evaluation.examples", "1"),
]
FEW = EvaluationConfig(bootstrap=100, generated=5, examples=1, seed=1)


def sections_of(folder):
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def _sparingly():
    """Both times: what is compared is drawn from the same seed."""
    with pytest.MonkeyPatch.context() as patch:
        judge_sparingly(patch)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on data that can be moved, and one with a head."""
    folder = tmp_path_factory.mktemp("work")
    cohort = simulate(120, 0)
    cohort.subjects["smoker"] = np.where(np.arange(120) % 3 == 0, "yes", "no")
    cohort.save(folder / "hospital")
    data = ["--data.source", "prepared", "--data.path", "hospital"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_eagerly(patch)
        train(parse_training(["--run", "plain", *data, *SMALL])[0])
        task = ["--model.task", "binary", "--model.target", "smoker"]
        save_untrained(parse_training(["--run", "head", *data, *SMALL, *task])[0])
    return folder


def save_untrained(config):
    """What a finished run leaves, without its training."""
    folder = open_run(config)
    cohort, split, schema = open_data(config)
    build_model(config, schema, cohort).save(folder / "model")
    (folder / "metrics.json").write_text(json.dumps({"data": counts(split, cohort)}))


@pytest.fixture
def quickly(monkeypatch):
    """Where the numbers do not matter: what `evaluate` was called with, by call."""
    calls = []
    judged = {"reconstruction": {"mae_uv": 1.0}}, {}

    def evaluate(*call, without):
        calls.append((*call, without))
        return judged

    monkeypatch.setattr("evaluation.evaluate", evaluate)
    return calls


@pytest.fixture
def work(trained, tmp_path, monkeypatch):
    """A copy of it, to be spoilt."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def another(path, count=40, seed=5, **columns):
    """Another hospital of simulated patients."""
    cohort = simulate(count, seed)
    cohort.subjects = cohort.subjects.assign(**columns)
    cohort.save(path)
    return DataConfig(source="prepared", path=Path(path))


def edit_config(**sections):
    """Changes settings of the run on disk."""
    file = find_run("plain") / "config.json"
    config = json.loads(file.read_text("utf-8"))
    for section, values in sections.items():
        config[section] |= values
    file.write_text(json.dumps(config), "utf-8")


refused = partial(one_line, main, r"python -m evaluation( RUN)?: ")


# --- the run's own test split -------------------------------------------------------------------


def test_a_run_judged_again_has_the_numbers_that_it_had(work, capsys):
    run = Path("runs/plain")
    before, config = sections_of(run), (run / "config.json").read_bytes()
    old = files_of(run)
    (run / "figures" / "of_an_older_version.png").write_bytes(b"")
    main(["plain"])
    assert "Results: runs/plain/report.html" in capsys.readouterr().out
    after = sections_of(run)
    assert list(after) == list(before)
    for section, values in before.items():
        assert list(after[section]) == list(values)
        for name, value in values.items():
            expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert after[section][name] == expected, (section, name)
    assert (run / "config.json").read_bytes() == config
    assert files_of(run).keys() == old.keys()
    assert not list(run.rglob("*partial*"))
    assert "<title>Run plain</title>" in (run / "report.html").read_text("utf-8")


def test_other_settings_are_used_and_kept_and_the_rest_of_the_run_stays(work, quickly):
    run = find_run("plain")
    before = sections_of(run)
    main(["runs/plain", "--bootstrap", "150", "--seed", "3"])
    assert quickly[0][2] == EvaluationConfig(bootstrap=150, generated=10, examples=1, seed=3)
    after = sections_of(run)
    assert after["data"] == before["data"]
    assert after["training"] == before["training"]
    kept = json.loads((run / "config.json").read_text())
    assert kept["evaluation"] == to_dict(quickly[0][2])
    assert from_dict(Config, kept).data.path == Path("hospital")


def test_results_elsewhere_leave_the_run_as_it_is(work, quickly):
    before = files_of(work / "runs")
    assert judge_again("plain", evaluation=FEW, out="again") == Path("again")
    assert files_of(work / "runs") == before
    names = {path.name for path in Path("again").iterdir()}
    assert names == {path.name for path in Path("runs/plain").iterdir()} - {"model"}
    judge_again("plain", evaluation=dataclasses.replace(FEW, seed=2), out="again")  # its own
    with pytest.raises(RunError, match="again holds something else: .*task.*Choose another --out"):
        judge_again("head", evaluation=FEW, out="again")


@pytest.mark.parametrize("stops", ["evaluation.evaluate", "evaluation.again.write_results"])
def test_a_judgement_that_fails_midway_loses_nothing(work, quickly, monkeypatch, stops):
    before = files_of(work / "runs")

    def broken(folder, *_, **__):
        if isinstance(folder, Path):
            (folder / "figures").mkdir()
            (folder / "metrics.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(stops, broken)
    with pytest.raises(KeyboardInterrupt):
        judge_again("plain")
    assert files_of(work / "runs") == before


def test_moved_data_are_asked_for_and_found(work, capsys, quickly):
    Path("hospital").rename("archive")
    message = refused(capsys, "plain")
    assert "trained on are not at hospital" in message
    assert "--own-path FOLDER" in message
    main(["plain", "--own-path", "archive"])
    ids = Cohort.open("archive").split(0.1, 0.15, 0).test.subjects["subject_id"]
    assert quickly[0][1].test.subjects["subject_id"].tolist() == ids.tolist()
    assert sections_of(find_run("plain"))["reconstruction"] == {"mae_uv": 1.0}


def test_a_run_is_judged_in_the_precision_that_it_was_trained_in(work, quickly, monkeypatch):
    edit_config(training={"precision": "mixed_bfloat16"})
    chosen = []
    monkeypatch.setattr("keras.config.set_dtype_policy", chosen.append)
    judge_again("plain", evaluation=FEW)
    assert chosen[0] == "mixed_bfloat16"  # then those of loading


def test_outcomes_that_are_gone_are_named(work):
    edit_config(data={"outcomes": "outcomes.csv"})
    with pytest.raises(RunError, match="The outcomes .* are not at outcomes.csv. Correct data.out"):
        judge_again("plain", evaluation=FEW)


def test_after_a_warm_start_the_scaling_is_that_of_the_run_before(work, quickly):
    schema = VAE.load(find_run("plain")).schema.to_dict()
    schema["scaling"]["age"][0] += 0.01
    file = find_run("plain") / "model" / "parameters.json"
    described = json.loads(file.read_text("utf-8"))
    described["config"]["schema"] = schema
    file.write_text(json.dumps(described), "utf-8")
    with pytest.raises(RunError, match="age of the training subjects"):
        judge_again("plain", evaluation=FEW)
    edit_config(training={"warm_start": "runs/head"})
    judge_again("plain", evaluation=FEW)
    assert len(quickly) == 1


@pytest.mark.parametrize("change", ["count", "age", "ecg"])
def test_other_data_in_the_place_of_the_old_ones_are_noticed(work, change, capsys, quickly):
    cohort = simulate(121 if change == "count" else 120, 0)
    cohort.subjects["smoker"] = np.where(np.arange(len(cohort)) % 3 == 0, "yes", "no")
    if change == "age":
        cohort.subjects["age"] += 0.01
    if change == "ecg":
        cohort.ecg[5] *= 1.001
    cohort.save("hospital")
    before = files_of(work / "runs")
    said = {
        "count": "recordings: 120 -> 121",
        "age": r"age of the training subjects: .* \(SD .*\) -> ",
        "ecg": "fingerprint: [0-9a-f]{12} -> [0-9a-f]{12}",
    }[change]
    message = refused(capsys, "plain")
    assert re.search(f"not those that runs/plain was trained on: .*{said}", message)
    assert files_of(work / "runs") == before
    judge_again("plain", evaluation=FEW, out="again")
    shown = capsys.readouterr().err
    assert re.search(f"Warning: .*{said}", shown)
    assert sections_of(Path("again"))["data"]["recordings"] == len(cohort)


def test_a_column_added_to_the_table_of_subjects_is_no_other_data(work, quickly):
    cohort = Cohort.open("hospital")
    cohort = Cohort(np.array(cohort.ecg), cohort.subjects.assign(remark="seen again in May"))
    cohort.save("later")
    judge_again("plain", evaluation=FEW, own_path=Path("later"))
    assert quickly[0][1].test.subjects["remark"].nunique() == 1
    cohort.subjects = cohort.subjects.drop(columns="smoker")
    cohort.save("less")
    with pytest.raises(RunError, match="trained on: columns that are gone: smoker"):
        judge_again("plain", evaluation=FEW, own_path=Path("less"))


def test_a_run_that_is_not_finished_or_damaged_is_named(work, capsys):
    (work / "runs/plain/metrics.json").write_text("{")
    assert "metrics.json is damaged" in refused(capsys, "plain")
    (work / "runs/plain/metrics.json").unlink()
    assert "runs/plain is not finished" in refused(capsys, "plain")
    (work / "runs/plain/config.json").write_text("{")
    assert "config.json is damaged" in refused(capsys, "plain")
    (work / "runs/plain/config.json").write_text('{"colour": "red"}')
    assert "does not fit this version: Config: expected fields" in refused(capsys, "plain")


# --- another cohort -----------------------------------------------------------------------------


def test_another_cohort_is_all_test_beside_the_baselines_of_the_run(work, capsys, quickly):
    run = find_run("plain")
    before = files_of(run)
    another("clinic")
    main(["plain", "--data.source", "prepared", "--data.path", "clinic", "--bootstrap", "100"])
    folder = run / "external" / "clinic"
    assert f"Results: {folder}" in capsys.readouterr().out
    assert {path: content for path, content in files_of(run).items() if path in before} == before
    sections = sections_of(folder)
    assert sections["data"]["test_recordings"] == sections["data"]["recordings"] == 40
    assert sections["data"]["train_recordings"] == sections_of(run)["data"]["train_recordings"]
    assert sections["training"] == sections_of(run)["training"]
    split, own = quickly[0][1], Cohort.open("hospital").split(0.1, 0.15, 0)
    np.testing.assert_array_equal(split.test.ecg, Cohort.open("clinic").ecg)
    np.testing.assert_array_equal(split.train.ecg, own.train.ecg)
    assert "<title>Run plain on clinic</title>" in (folder / "report.html").read_text("utf-8")
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["path"] == "clinic"
    assert config["evaluation"]["bootstrap"] == 100


@pytest.mark.parametrize("out", ["elsewhere", "runs/plain"])
def test_results_killed_on_their_way_into_place_are_completed_by_the_same_command(
    work, quickly, out, monkeypatch
):
    replace, done = Path.replace, []

    def killed_after(count):
        def stopping(path, target):
            if "judging.partial" in path.parts and "judging.partial" not in target.parts:
                done.append(target.name)
                if len(done) > count:
                    raise KeyboardInterrupt
            return replace(path, target)

        return stopping

    for count in range(5):
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed_after(count))
            with pytest.raises(KeyboardInterrupt):
                judge_again("plain", evaluation=FEW, out=out)
    judge_again("plain", evaluation=FEW, out=out)
    assert sections_of(Path(out))["reconstruction"] == {"mae_uv": 1.0}


def test_two_cohorts_of_one_name_do_not_replace_each_other(work, quickly):
    judge_again("plain", another("a/clinic"), FEW)
    with pytest.raises(RunError, match=r"data.path: 'a/clinic' -> 'b/clinic'. Choose another"):
        judge_again("plain", another("b/clinic"), FEW)


def test_ecgs_that_were_trained_on_are_left_out_of_another_cohort(work, quickly, capsys):
    cohort = simulate(30, 5)
    ecg = np.array(cohort.ecg)
    own = Cohort.open("hospital").split(0.1, 0.15, 0)
    ecg[:4], ecg[4:6], ecg[6:9] = own.train.ecg[:4], own.validation.ecg[:2], own.test.ecg[:3]
    Cohort(ecg, cohort.subjects, "mixed").save("mixed")
    folder = judge_again("plain", DataConfig(source="prepared", path=Path("mixed")), FEW)
    assert "6 ECGs of mixed are training or validation ECGs of this run" in capsys.readouterr().out
    [(_, split, *_, without)] = quickly
    assert without == SAME_SOURCE
    assert split.test.subjects["subject_id"].tolist() == cohort.subjects["subject_id"][6:].tolist()
    data = sections_of(folder)["data"]
    assert data["test_recordings"] == 24
    assert (data["trained_on"], data["tested_on"]) == (Cohort.open("hospital").source, "mixed")
    assert data["excluded: training or validation ECG of this run"] == 6


def test_patients_of_one_id_in_two_cohorts_are_two_persons_and_it_is_said(work, capsys, quickly):
    own = Cohort.open("hospital").split(0.1, 0.15, 0)
    known = {*own.train.subjects["patient_id"], *own.validation.subjects["patient_id"]}
    first, second = (part.subjects["patient_id"][0] for part in own[:2])
    judge_again("plain", another("clinic", patient_id=[first, second, *["new"] * 38]), FEW)
    assert f"2 patient ids, such as '{first}', stand in both" in capsys.readouterr().out
    test = quickly[0][1].test.subjects["patient_id"]
    assert test.nunique() == 3
    assert not set(test) & known
    judge_again("plain", another("apart", patient_id=["new"] * 39 + ["newer"]), FEW)
    assert "patient ids" not in capsys.readouterr().out
    assert set(quickly[1][1].test.subjects["patient_id"]) == {"new", "newer"}


def test_a_condition_that_the_cohort_lacks_is_unknown_to_the_model(work, capsys):
    cohort = simulate(30, 5)
    cohort.subjects = cohort.subjects.drop(columns="bmi").assign(sex=None)
    cohort.save("clinic")
    folder = judge_again("plain", DataConfig(source="prepared", path=Path("clinic")), FEW)
    assert "has no sex, bmi: unknown to the model" in capsys.readouterr().out
    model, other = VAE.load(find_run("plain")), Cohort.open("clinic")
    mean_beat = np.asarray(Cohort.open("hospital").split(0.1, 0.15, 0).train.ecg).mean(axis=0)
    told = other.subjects[["age"]]
    error = 1000 * np.abs(model.reconstruct(other.ecg, told) - other.ecg).mean()
    sections = sections_of(folder)
    assert sections["reconstruction"]["mae_uv"] == pytest.approx(error, rel=1e-4)
    baseline = 1000 * np.abs(mean_beat - other.ecg).mean()
    assert sections["reconstruction"]["mean_beat_mae_uv"] == pytest.approx(baseline, rel=1e-4)
    assert "probe_r2_age" in sections["latent"]
    assert "probe_auc_sex" not in sections["latent"]
    # What would tell only how the cohorts differ.
    assert {"realism", "adherence"} <= sections.keys()
    assert not {"privacy", "utility"} & sections.keys()
    assert not [name for name in sections["adherence"] if name.startswith("recovery_")]


def test_conditions_leads_and_lengths_that_do_not_fit_are_named(work):
    with pytest.raises(ConditionError, match="age of record .* is 200 years, outside"):
        judge_again("plain", another("old", age=200.0), FEW)
    cohort = simulate(30, 5)
    Cohort(cohort.ecg[..., :300], cohort.subjects, "short beats").save("short")
    with pytest.raises(
        CohortError, match="short beats does not .*Expected samples 400, recei.* 300"
    ):
        judge_again("plain", DataConfig(source="prepared", path=Path("short")), FEW)
    others = (*cohort.leads[:10], "V7", "V8")
    Cohort(cohort.ecg, cohort.subjects, "posterior", leads=others).save("posterior")
    with pytest.raises(CohortError, match="posterior does not fit the model. Expected leads"):
        judge_again("plain", DataConfig(source="prepared", path=Path("posterior")), FEW)
    assert not (find_run("plain") / "external").exists()


def test_a_head_is_judged_on_the_same_classes_and_on_no_others(work, quickly):
    with pytest.raises(CohortError, match="has no column 'smoker'"):
        judge_again("head", another("none"), FEW)
    with pytest.raises(CohortError, match=r"Expected the classes \['no', 'yes'\] in 'smoker'"):
        judge_again("head", another("codes", smoker=[0, 1] * 20), FEW)
    judge_again("head", another("clinic", smoker=["yes", "no"] * 20), FEW)
    assert quickly[0][1].test.subjects["target"].tolist() == [1, 0] * 20
    own = quickly[0][1].train.subjects
    assert (own["target"] == (own["smoker"] == "yes")).all()


def test_classes_of_another_cohort_are_numbered_as_those_of_the_run():
    cohort, config = simulate(60, 0), Config()
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, task="multiclass", target="rhythm")
    )
    rhythms = np.array(["a", "b", "c", "d"] * 15, object)
    cohort.subjects = cohort.subjects.assign(rhythm=rhythms)
    own = with_targets(cohort, config.model).split(0.2, 0.3, 0)
    classes = _classes(config, own)
    assert classes == ["a", "b", "c", "d"]
    other = simulate(20, 5)
    other.subjects = other.subjects.assign(rhythm=["d", "b"] * 10)  # lacks two
    found = with_targets(other, config.model, classes).subjects["target"]
    assert found.tolist() == [3, 1] * 10
    other.subjects = other.subjects.assign(rhythm=["d", "e"] * 10)
    with pytest.raises(CohortError, match=r"Expected the classes \['a', 'b', 'c', 'd'\].*'e'"):
        with_targets(other, config.model, classes)
    assert _classes(Config(), own) is None
    other.subjects = other.subjects.assign(rhythm=[True, False] * 10)
    found = with_targets(other, config.model, [0, 1]).subjects["target"]
    assert found.tolist() == [1, 0] * 10


# --- a model without its run --------------------------------------------------------------------


def test_a_bare_model_is_judged_on_the_test_split_of_a_cohort_and_says_so(work, capsys, quickly):
    shutil.copytree("runs/plain/model", "sent")
    assert "sent has no config.json" in refused(capsys, "sent")
    data = dataclasses.replace(another("clinic"), seed=4, test_fraction=0.3)
    folder = judge_again("sent", data, FEW)
    assert folder == Path("sent/external/clinic")
    shown = capsys.readouterr().out
    assert "judged on the test split of simulated" in shown
    assert "12 recordings. Whether it was trained on some of them is not known" in shown
    assert quickly[0][-1] == ("privacy",)
    expected, received = Cohort.open("clinic").split(0.1, 0.3, 4), quickly[0][1]
    for name in ("train", "test"):
        ids = [
            getattr(split, name).subjects["subject_id"].tolist() for split in (expected, received)
        ]
        assert ids[0] == ids[1]
    sections = sections_of(folder)
    assert sections["data"]["test_recordings"] == 12
    assert "training" not in sections
    shutil.copytree("runs/head/model", "head")
    with pytest.raises(RunError, match="what the column is called that its head .binary. predicts"):
        judge_again("head/", data, FEW, out="x")


def test_a_bare_model_may_be_judged_by_fold_and_its_page_knows_no_training_subjects(
    work, quickly, monkeypatch
):
    pages = []
    monkeypatch.setattr(
        "evaluation.explorer.page.write_explorer",
        lambda folder, **given: pages.append(given["reference"]),
    )
    shutil.copytree("runs/plain/model", "sent")
    data = another("clinic", fold=[1] * 20 + [9] * 8 + [10] * 12)
    judge_again("sent", dataclasses.replace(data, split="fold"), FEW)
    judge_again("plain", data, FEW)
    assert quickly[0][1].test.subjects["fold"].tolist() == [10] * 12
    assert pages[0] is None
    own = Cohort.open("hospital").split(0.1, 0.15, 0).train
    assert set(pages[1].subjects["age"]) <= set(own.subjects["age"])


@pytest.mark.parametrize("known", [["age"], ["sex"], []])
def test_a_bare_model_is_judged_on_a_cohort_that_lacks_conditions(work, capsys, known):
    shutil.copytree("runs/plain/model", "sent")
    cohort = simulate(60, 5)
    lacking = [name for name in ("age", "sex", "bmi") if name not in known]
    cohort.subjects = cohort.subjects.drop(columns=lacking)
    cohort.save("clinic")
    data = DataConfig(source="prepared", path=Path("clinic"), test_fraction=0.4)
    folder = judge_again("sent", data, FEW)
    assert f"has no {', '.join(lacking)}: unknown to the model" in capsys.readouterr().out
    sections = sections_of(folder)
    moved = {name.split("_")[1] for name in sections["adherence"] if "specificity" in name}
    assert moved - {"correlation", "gain"} == {*known}
    assert (folder / "figures" / "generated_grid.png").exists() == bool(known)
    assert not (folder / "figures" / "sweep_bmi.png").exists()


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("nope", "nope is neither a run nor a model folder. Runs in runs: head, plain"),
        ("", "expected a run or model folder first"),
        ("--bootstrap 200 plain", "expected a run or model folder first"),
        ("plain --bootstrap 5", "evaluation.bootstrap: expected at least 100. Received: 5"),
        ("plain --bootstrap many", "--bootstrap: invalid literal.*'many'"),
        ("plain --bootstrp 200", "Unrecognized options: --bootstrp"),
        ("plain more", "Unrecognized options: more"),
        ("plain --data.path=x", "--data.path is of another cohort.*--data.source"),
        ("plain --data.source arrays", "data.path: expected a path"),
        ("plain --data.source arrays --data.path x", "data.path: x is not there"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(trained, typed, message, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    before = files_of(trained)
    assert re.search(message, refused(capsys, *typed.split()))
    assert files_of(trained) == before


def test_what_is_not_typed_is_as_in_the_run_but_for_the_cohort(trained, monkeypatch):
    monkeypatch.chdir(trained)
    run, data, evaluation, out, own_path = parse(["plain", "--examples", "2", "--out", "x"])
    assert (run, data, out, own_path) == (Path("runs/plain"), None, Path("x"), None)
    assert evaluation == EvaluationConfig(bootstrap=100, generated=10, examples=2)
    typed = ["plain", "--data.source", "synthetic", "--data.subjects", "50"]
    assert parse(typed)[1] == DataConfig(subjects=50)  # not the path of the run


def test_help_lists_every_field_and_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; from evaluation.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = run_fresh(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    fields = [one.name for one in dataclasses.fields(EvaluationConfig)]
    fields += [f"data.{one.name}" for one in dataclasses.fields(DataConfig)]
    for name in ("out", "own_path", *fields):
        assert re.search(rf"--{name.replace('_', '-')}[ │]", done.stdout), name


# --- configurations out of files ----------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_comes_back_from_its_file(name):
    config = dataclasses.replace(
        PRESETS[name], data=dataclasses.replace(PRESETS[name].data, outcomes=Path("a/b.csv"))
    )
    back = from_dict(Config, json.loads(json.dumps(to_dict(config))))
    assert back == config
    assert isinstance(back.data.cache, Path)
    assert isinstance(back.data.outcomes, Path)
    hash(back)  # tuples, not lists, at any depth


def test_fields_that_came_later_have_their_default_and_wrong_ones_are_named():
    assert from_dict(Config, {"run": "old", "data": {"seed": 3}}) == dataclasses.replace(
        Config(run="old"), data=DataConfig(seed=3)
    )
    with pytest.raises(ConfigError, match="DataConfig: expected fields among .*Received: 'sed'"):
        from_dict(Config, {"data": {"sed": 3}})
    with pytest.raises(ConfigError, match="training.epochs: expected a whole number"):
        from_dict(Config, {"training": {"epochs": "many"}})
    with pytest.raises(ConfigError, match="data.source: expected one of"):
        from_dict(Config, {"data": {"source": "tape"}})


def test_the_history_of_the_run_is_drawn_again(work, quickly):
    judge_again("plain")
    pd.testing.assert_frame_equal(quickly[0][3], pd.read_csv("runs/plain/history.csv"))
