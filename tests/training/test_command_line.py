"""The command line of train.py, and the folder that a run may write to."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

import train
from config import CONFIG, PRESETS, DataConfig, to_dict
from data import CohortError
from data.conditions import ConditionError
from tests.fresh_process import run_fresh
from tests.one_line import one_line
from tests.places import ROOT
from tests.test_config import sentences
from train import main, parse
from training.run_folder import (
    RunError,
    begun_by,
    differences,
    open_run,
    record,
    write_text,
)


def leaves(config, prefix=""):
    """(name, value) of each field that is no section, e.g. ("training.epochs", 60)."""
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{one.name}.")
        else:
            yield prefix + one.name, value


def words(value):
    """A value as it is typed."""
    if isinstance(value, tuple):
        return [word for part in value for word in words(part)]
    return [str(value)]


# --- what is understood -------------------------------------------------------------------------


def test_no_arguments_are_config_and_a_preset_is_itself():
    assert parse([]) == (CONFIG, False)
    for name, preset in PRESETS.items():
        assert parse(["--preset", name]) == (preset, False)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("style", ["--{}", "--{}="])
def test_any_configuration_can_be_typed_field_by_field(name, style):
    typed = []
    for field, value in leaves(PRESETS[name]):
        plain = words(value)
        if style.endswith("=") and len(plain) == 1 and not isinstance(value, tuple):
            typed.append(f"--{field.replace('_', '-')}={plain[0]}")
        else:
            typed += [f"--{field}", *plain]
    assert parse(typed) == (PRESETS[name], False)


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        ("--training.epochs 50", "training.epochs", 50),
        ("--training.learning-rate 3e-4", "training.learning_rate", 3e-4),
        ("--model.independent_only False", "model.independent_only", False),
        ("--model.batch-normalization True", "model.batch_normalization", True),
        ("--model.hidden 64 32", "model.hidden", (64, 32)),
        ("--model.hidden", "model.hidden", ()),
        ("--model.conv_kernels 1 20 12 3", "model.conv_kernels", ((1, 20), (12, 3))),
        ("--model.noise 0.02", "model.noise", 0.02),
        ("--model.noise mse", "model.noise", "mse"),
        ("--data.conditions age lvef", "data.conditions", ("age", "lvef")),
        ("--data.conditions", "data.conditions", ()),
        ("--data.path some/folder", "data.path", Path("some/folder")),
        ("--run second.try-2", "run", "second.try-2"),
    ],
)
def test_a_typed_field_changes_only_itself(typed, field, value):
    for preset in ("default", "quick"):
        config, overwrite = parse(["--preset", preset, *typed.split()])
        assert dict(leaves(config)) == dict(leaves(PRESETS[preset])) | {field: value}
        assert type(dict(leaves(config))[field]) is type(value)
        assert not overwrite


def test_the_order_of_preset_overwrite_and_fields_does_not_matter():
    expected = parse(["--preset", "quick", "--overwrite", "--training.epochs", "2"])
    assert parse(["--training.epochs", "2", "--overwrite", "--preset=quick"]) == expected
    assert expected[1] is True
    assert expected[0].training.epochs == 2


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--training.epoch 3", "Unrecognized options: --training.epoch"),
        ("--trainig.epochs 3", "Unrecognized options: --trainig.epochs"),
        ("--momentum 0.9", "Unrecognized options: --momentum"),
        ("epochs", "Unrecognized options: epochs"),
        ("--training.epochs many", "--training.epochs: invalid literal.*'many'"),
        ("--training.epochs 5.5", "--training.epochs: .*'5.5'"),
        ("--training.epochs", "Missing value for argument '--training.epochs'"),
        ("--training.xla maybe", "'maybe' for argument '--training.xla'.*'True', 'False'"),
        ("--model.noise quiet", "--model.noise: .*quiet"),
        ("--model.conv_kernels 1 20 12", "--model.conv-kernels: .*'12'"),
        ("--data.source csv", "'csv' for argument '--data.source'.*'synthetic'"),
        ("--preset nope", "--preset: invalid choice: 'nope'.*'quick'"),
        ("--preset", "--preset: expected one argument"),
        ("--overwrite=yes", "--overwrite: .*'yes'"),
        ("--training.batch_size 0", "training.batch_size: expected 1 or more. Received: 0"),
        ("--data.source ptbxl", "data.path: expected a path. Received: None"),
        ("--data.conditions age shoes", "data.conditions: expected among.*Received: 'shoes'"),
        ("--run ../elsewhere", "run: expected a name.*Received: '../elsewhere'"),
        ("--model.conv_filters 5 5 5", "conv_.: expected one entry per layer.*'conv_filters': 3"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(typed, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(typed.split())
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.out == ""
    assert re.search(message, shown.err)
    assert shown.err.startswith("train.py: ")
    assert shown.err.count("\n") == 1
    assert not re.search("[│╭╰─]", shown.err)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_mistake_ends_the_program_before_anything_is_written(tmp_path, encoding):
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--training.epoch", "3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "train.py: Unrecognized options: --training.epoch, 3\n"
    assert list(tmp_path.iterdir()) == []


def test_importing_train_starts_nothing_and_needs_no_tensorflow(tmp_path):
    code = "import sys, train; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    done = run_fresh(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert list(tmp_path.iterdir()) == []


# --- help ---------------------------------------------------------------------------------------


def help_text(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parse([*arguments, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def squeezed(text):
    """Without the blanks and borders that depend on the width of the screen."""
    return re.sub(r"[\s│]", "", text)


def test_help_lists_every_field_with_its_sentence(capsys):
    shown = help_text(capsys)
    names = [field for field, _ in leaves(CONFIG)]
    for field in names:
        assert re.search(rf"--{re.escape(field.replace('_', '-'))}[ │]", shown), field
    assert len(sentences()) == len(names)
    for (kind, field), sentence in sentences().items():
        assert squeezed(sentence) in squeezed(shown), f"{kind}.{field}"


def test_a_mistake_in_the_edited_file_is_one_line(tmp_path):
    for name in ("config.py", "train.py"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    with (tmp_path / "config.py").open("a", encoding="utf-8") as file:
        file.write('CONFIG = replace(CONFIG, run=f"a/{CONFIG.run}")\n')
    done = run_fresh("import runpy; runpy.run_path('train.py', run_name='__main__')", tmp_path)
    assert done.returncode == 2
    expected = "train.py: config.py: run: expected a name of letters, digits, '.', '_' and '-'. "
    assert done.stderr == expected + "Received: 'a/default'.\n"


def test_help_names_the_presets_and_how_to_overwrite(capsys):
    shown = help_text(capsys)
    assert f"--preset {{{','.join(PRESETS)}}}" in shown
    assert "--overwrite" in shown


def test_help_shows_the_values_of_the_chosen_preset(capsys):
    assert "(default:300)" in squeezed(help_text(capsys, "--preset", "paper"))


# --- errors of a run ----------------------------------------------------------------------------


class TrainingError(RuntimeError):
    """Of the name by which `main` knows the one of training.py without importing Keras."""


@pytest.mark.parametrize(
    "error",
    [
        RunError("runs/x is finished."),
        CohortError("ECG 'a' has NaN."),
        ConditionError("age is missing."),
        TrainingError("loss became NaN."),
        PermissionError(13, "Permission denied", "runs/x"),
        OSError(28, "No space left on device"),
    ],
)
def test_an_error_about_data_or_settings_is_one_line_and_exit_code_2(error, monkeypatch, capsys):
    def broken(config, overwrite):
        raise error

    monkeypatch.setattr(train, "train", broken)
    assert one_line(main, "train.py: ", capsys) == f"train.py: {error}\n"


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x")])
def test_an_error_that_is_not_expected_keeps_its_traceback(error, monkeypatch):
    def broken(config, overwrite):
        raise error

    monkeypatch.setattr(train, "train", broken)
    with pytest.raises(type(error), match="x"):
        main([])


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(config, overwrite):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    with pytest.raises(SystemExit):
        main([])
    assert "The same command goes on" in capsys.readouterr().err


# --- the run folder -----------------------------------------------------------------------------

SHORT = dataclasses.replace(CONFIG, run="short")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("training.run_folder.RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def with_epochs(epochs):
    return dataclasses.replace(
        SHORT, training=dataclasses.replace(SHORT.training, epochs=epochs, batch_size=7)
    )


def test_a_new_run_gets_a_folder_with_all_its_settings(runs):
    folder = open_run(PRESETS["ptbxl"])
    assert folder == runs / "ptbxl"
    written = json.loads((folder / "config.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(to_dict(PRESETS["ptbxl"])))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_an_unfinished_run_goes_on_where_it_is(runs):
    folder = open_run(SHORT)
    write_text(folder / "history.csv", "epoch\n1\n")
    assert open_run(SHORT) == folder
    assert (folder / "history.csv").read_text() == "epoch\n1\n"


def test_a_run_of_a_version_that_knew_fewer_settings_goes_on_with_their_defaults(runs):
    folder = open_run(SHORT)
    written = json.loads((folder / "config.json").read_text("utf-8"))
    del written["data"]["time_unit"]
    (folder / "config.json").write_text(json.dumps(written), "utf-8")
    other = dataclasses.replace(SHORT, data=dataclasses.replace(SHORT.data, time_unit="days"))
    with pytest.raises(RunError, match="data.time_unit: 'years' -> 'days'"):
        open_run(other)
    assert open_run(SHORT) == folder


def test_a_run_killed_at_its_first_write_can_start_again(runs):
    (runs / "short").mkdir(parents=True)
    (runs / "short" / "config.json.partial").write_text('{"run"')
    assert open_run(SHORT) == runs / "short"


def test_a_finished_run_is_not_overwritten(runs):
    folder = open_run(SHORT)
    write_text(folder / "report.html", "results")
    with pytest.raises(RunError, match="short is finished. Choose another --run NAME, or --overwr"):
        open_run(SHORT)
    assert (folder / "report.html").read_text() == "results"


def test_other_settings_are_refused_with_the_fields_that_differ(runs):
    folder = open_run(SHORT)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(RunError) as caught:
        open_run(with_epochs(5))
    epochs, batch = SHORT.training.epochs, SHORT.training.batch_size
    assert str(caught.value) == (
        f"{folder} has other settings: training.epochs: {epochs} -> 5; "
        f"training.batch_size: {batch} -> 7. Choose another --run NAME, or --overwrite to "
        "replace it."
    )
    assert (folder / "config.json").read_bytes() == before


def test_another_name_is_another_run(runs):
    write_text(open_run(SHORT) / "report.html", "results")
    assert open_run(dataclasses.replace(SHORT, run="other")) == runs / "other"


def test_overwriting_starts_from_an_empty_folder_with_the_new_settings(runs):
    folder = open_run(SHORT)
    (folder / "model").mkdir()
    write_text(folder / "report.html", "results")
    assert open_run(with_epochs(5), overwrite=True) == folder
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert json.loads((folder / "config.json").read_text())["training"]["epochs"] == 5


def test_a_run_killed_while_it_overwrites_an_older_one_starts_with_the_same_command(
    runs, monkeypatch
):
    monkeypatch.setattr("training.run_folder.describe", lambda *_: {})
    folder = open_run(SHORT)
    (folder / "model").mkdir()
    write_text(folder / "report.html", "results")

    def killed(folder, **options):
        (Path(folder) / "config.json").unlink(missing_ok=True)
        if (Path(folder) / "model").is_dir():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            record(open_run(with_epochs(5), overwrite=True), None)
    assert open_run(with_epochs(5), overwrite=True) == folder
    record(folder, None)
    left = sorted(path.name for path in runs.rglob("*"))
    assert left == ["config.json", "environment.json", "short"]


def test_what_a_run_killed_at_its_very_end_left_goes_when_it_is_asked_for_again(runs):
    folder = open_run(SHORT)
    (folder / "checkpoint").mkdir()
    write_text(folder / "report.html", "results")
    with pytest.raises(RunError, match="short is finished"):
        open_run(SHORT)
    assert not (folder / "checkpoint").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(runs):
    (runs / "short").mkdir(parents=True)
    (runs / "short" / "thesis.tex").write_text("chapter 1")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="short holds something else than a run"):
            open_run(SHORT, overwrite)
    assert [path.name for path in (runs / "short").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "content", [b"", b'{"run": ', b"\xff", b"[]", b"3", pytest.param(b"[" * 100_000, id="deep")]
)
def test_a_damaged_config_file_is_named(runs, content):
    folder = open_run(SHORT)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RunError, match="config.json (is damaged|does not describe).*Choose anoth"):
        open_run(SHORT)


def test_a_name_taken_by_a_file_is_one_line_and_exit_code_2(runs, capsys):
    runs.mkdir()
    (runs / "default").write_text("a file")
    one_line(main, "train.py: .*default'\n$", capsys)


def test_differences_are_found_at_any_depth_with_fields_that_came_or_went():
    old = {"run": "a", "model": {"hidden": [128], "old": 1, "same": 2}}
    new = {"run": "a", "model": {"hidden": [64], "new": 3, "same": 2}, "added": {"x": 1}}
    assert differences(old, new) == [
        "model.hidden: [128] -> [64]",
        "model.old: 1 -> None",
        "model.new: None -> 3",
        "added: None -> {'x': 1}",
    ]
    assert differences(new, new) == []


@pytest.mark.parametrize("name", PRESETS)
def test_two_presets_differ_in_the_fields_that_were_set_differently(name):
    one, other = (json.loads(json.dumps(to_dict(config))) for config in (CONFIG, PRESETS[name]))
    defaults = dict(leaves(CONFIG))
    expected = {field for field, value in leaves(PRESETS[name]) if value != defaults[field]}
    assert {line.split(":")[0] for line in differences(one, other)} == expected


def test_a_text_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "metrics.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "metrics.json", "new \ud800")
    assert (tmp_path / "metrics.json").read_text() == "old"
    write_text(tmp_path / "metrics.json", "new µV")
    assert (tmp_path / "metrics.json").read_text("utf-8") == "new µV"


def test_train_takes_a_configuration_and_whether_to_overwrite():
    defaults = {name: one.default for name, one in signature(train.train).parameters.items()}
    assert defaults == {"config": CONFIG, "overwrite": False}


def test_a_run_whose_data_were_refused_has_not_begun(tmp_path):
    folder = tmp_path / "run"
    for more in ([], ["history.csv"]):
        folder.mkdir(exist_ok=True)
        for name in ("config.json", *more):
            (folder / name).write_text("")
        with pytest.raises(CohortError), begun_by(folder):
            raise CohortError("not these")
        assert folder.exists() == bool(more)


def test_a_run_is_overwritten_only_once_the_new_one_has_begun(runs, monkeypatch):
    monkeypatch.setattr("training.run_folder.describe", lambda *_: {})
    folder = open_run(SHORT)
    (folder / "metrics.json").write_text("old")
    for error in (CohortError("not these"), KeyboardInterrupt(), OSError("No space left")):
        open_run(SHORT, overwrite=True)
        if isinstance(error, OSError):
            (folder / "environment.json.partial").write_text('{"data"')
        with pytest.raises(type(error)), begun_by(folder):
            raise error
        assert (folder / "metrics.json").read_text() == "old"
    open_run(SHORT, overwrite=True)  # and is killed then
    assert not (folder / "metrics.json").exists()
    with pytest.raises(RunError, match="other settings"):
        open_run(dataclasses.replace(SHORT, data=DataConfig(seed=5)))
    assert (folder / "metrics.json").read_text() == "old"
    with begun_by(open_run(SHORT, overwrite=True)):
        record(folder, None)
    left = sorted(path.name for path in runs.rglob("*"))
    assert left == ["config.json", "environment.json", "short"]
    (runs / ".short.overwritten").mkdir()  # as if killed before this was deleted
    open_run(SHORT)
    assert sorted(path.name for path in runs.rglob("*")) == left
