"""What is kept off the screen as TensorFlow starts, and what is not."""

import os
import subprocess
import sys

import pytest

from tests.places import ROOT


def stderr_of(code, **env):
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", "import os\nfrom training import quiet\n" + code]
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, **env}, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


WRITE = "os.write(2, b'I0000 00:00:17 port.cc:153] note\\nsome warning\\nW0000 another note\\n')\n"


def test_notes_are_dropped_and_all_else_is_shown():
    assert stderr_of(f"with quiet._held_back():\n  {WRITE}") == (0, "some warning\n")


def test_after_an_error_everything_is_shown():
    code, said = stderr_of(f"with quiet._held_back():\n  {WRITE}  raise OSError('broken')\n")
    assert code == 1
    assert said.startswith("I0000 00:00:17 port.cc:153] note\nsome warning\nW0000 another note\n")
    assert said.endswith("OSError: broken\n")


@pytest.mark.parametrize("level", [None, "0"])
def test_keras_starts_without_a_word_unless_words_are_asked_for(level):
    env = {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    code, said = stderr_of("quiet.import_keras()\nimport keras", **env)
    assert code == 0
    assert (said == "") == (level is None)


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
