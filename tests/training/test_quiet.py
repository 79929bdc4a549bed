"""What is kept off the screen as TensorFlow starts, and what is not."""

import os
import subprocess
import sys

import pytest

from tests.places import ROOT


def run(arguments, folder=ROOT, **env):
    """A Python that is not told what TensorFlow may write: its exit code, and what it wrote."""
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def stderr_of(code, **env):
    return run(["-c", "import os\nfrom training import quiet\n" + code], **env)


WRITE = "os.write(2, b'I0000 00:00:17 port.cc:153] note\\nsome warning\\nW0000 another note\\n')\n"


def test_notes_are_dropped_and_all_else_is_shown():
    assert stderr_of(f"with quiet._held_back():\n  {WRITE}") == (0, "some warning\n")


def test_after_an_error_everything_is_shown():
    code, said = stderr_of(f"with quiet._held_back():\n  {WRITE}  raise OSError('broken')\n")
    assert code == 1
    assert said.startswith("I0000 00:00:17 port.cc:153] note\nsome warning\nW0000 another note\n")
    assert said.endswith("OSError: broken\n")


def test_a_command_says_nothing_of_tensorflow(tmp_path):
    (tmp_path / "parameters.json").write_text("{}")
    code, said = run([ROOT / "evaluation" / "explore.py", "."], tmp_path)
    assert code == 2
    assert said.startswith("python -m evaluation.explore: ")
    assert said.count("\n") == 1


def test_keras_is_heard_if_that_is_asked_for():
    code, said = stderr_of("quiet.import_keras()\nimport keras", TF_CPP_MIN_LOG_LEVEL="0")
    assert code == 0
    assert said


def test_garbage_is_searched_for_again_after_the_start_but_not_in_tensorflow():
    code, said = stderr_of(
        "import gc\nquiet.import_keras()\nassert gc.isenabled()\n"
        "frozen = gc.get_freeze_count()\nassert frozen > 10 * len(gc.get_objects())\n"
        "later = [0]\nlater.append(later)\nquiet.import_keras()\n"
        "assert gc.get_freeze_count() <= frozen"
    )
    assert (code, said) == (0, "")


@pytest.mark.parametrize(
    "file",
    [
        "train.py",
        "evaluation",
        *(f"evaluation/{name}.py" for name in ("generate", "explore", "folder")),
    ],
)
def test_a_command_runs_as_a_file_from_any_folder(tmp_path, file):
    (tmp_path / "data").mkdir()  # the names of folders there mean nothing
    (tmp_path / "config.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [sys.executable, str(ROOT / file), "--help"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert done.stderr == ""
