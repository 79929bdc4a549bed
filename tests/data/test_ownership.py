"""One owner of a folder at a time, among processes that end well, are killed or come at once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from data import CohortError
from data.ownership import InUseError, owned
from data.readers.prepare import prepare
from tests.places import ROOT
from tests.simulated_strips import rhythm_strip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="starts processes by fork")


@contextlib.contextmanager
def other(folder, shared=False):
    """Another process that has the folder until it is told to end."""
    code = (
        "import sys; from ownership import owned\n"  # alone: pandas takes a second to import
        f"with owned({str(folder)!r}, shared={shared}):\n"
        "    print('has it', flush=True); sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT / "data",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "has it\n"
        yield process
    finally:
        process.communicate("\n")


def test_the_second_is_refused_at_once_and_told_who_has_it(tmp_path):
    with other(tmp_path / "run") as process:
        with pytest.raises(InUseError) as refused, owned(tmp_path / "run"):
            pass
        said = str(refused.value)
        assert f"process {process.pid} on {socket.gethostname()}, since" in said
        with owned(tmp_path / "another"):
            pass
    with owned(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_kill_lets_go(tmp_path):
    with other(tmp_path / "run") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with owned(tmp_path / "run"):
            pass


def test_it_is_let_go_after_an_error_and_held_against_the_same_process(tmp_path):
    with owned(tmp_path / "run"), pytest.raises(InUseError), owned(tmp_path / "run"):
        pass
    with pytest.raises(KeyError), owned(tmp_path / "run"):
        raise KeyError
    with owned(tmp_path / "run"):
        pass


def test_one_who_may_wait_says_so_and_gets_it(tmp_path, capsys):
    with other(tmp_path / "run") as process:
        threading.Timer(0.5, lambda: process.stdin.write("\n") and process.stdin.flush()).start()
        with owned(tmp_path / "run", wait=True):
            process.wait()
    assert f"process {process.pid}" in capsys.readouterr().out


def test_readers_share_what_no_writer_may_have_then(tmp_path):
    with other(tmp_path / "run", shared=True):
        with owned(tmp_path / "run", shared=True):
            pass
        with pytest.raises(InUseError), owned(tmp_path / "run"):
            pass
    with other(tmp_path / "run"):
        with pytest.raises(InUseError), owned(tmp_path / "run", shared=True):
            pass


def test_of_many_at_once_only_one_has_it(tmp_path):
    inside, most, done = [], [], []

    def take():
        for _ in range(20):
            with owned(tmp_path / "run", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()
        done.append(1)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 4
    assert set(most) == {1}


def test_the_lock_of_another_user_who_lets_nobody_write_to_it_counts(tmp_path, monkeypatch):
    opened = Path.open

    def refuse(file, mode="r", **how):
        if "a" in mode:
            raise PermissionError(13, "Permission denied")
        return opened(file, mode, **how)

    with other(tmp_path / "run") as process:
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(InUseError, match=f"process {process.pid}"), owned(tmp_path / "run"):
            pass
    (tmp_path / ".run.lock").touch()  # its owner was killed
    with owned(tmp_path / "run"), pytest.raises(InUseError), owned(tmp_path / "run"):
        pass


def test_where_nothing_can_be_locked_it_is_said(tmp_path, capsys, monkeypatch):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("data.ownership._lock", unknown)
    with owned(tmp_path / "run"):
        pass
    assert "cannot be locked" in capsys.readouterr().out


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_run_in_training_is_neither_joined_nor_overwritten(
    tmp_path, monkeypatch, capsys, options
):
    from evaluation.again import judge_again  # here: two processes below import this module
    from train import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quick").mkdir(parents=True)
    (tmp_path / "runs" / "quick" / "config.json").write_text("{}")
    with other(tmp_path / "runs" / "quick") as process:
        with pytest.raises(SystemExit) as end:
            main(["--preset", "quick", *options])
        assert end.value.code == 2
        assert f"quick is in use by process {process.pid}" in capsys.readouterr().err
        for out in (None, tmp_path / "elsewhere"):
            with pytest.raises(InUseError, match="quick is in use"):
                judge_again("quick", out=out)
    assert [file.name for file in (tmp_path / "runs" / "quick").iterdir()] == ["config.json"]


# --- a cohort that two processes prepare ----------------------------------------------------------


def read_slowly(record):
    time.sleep(0.02)
    return rhythm_strip(seed=record, noise=0.01), 500.0


def prepare_it(folder, source="simulated"):
    subjects = pd.DataFrame({"subject_id": range(20)})
    settings = {"shard_size": 4, "workers": 1, "progress": False}
    return prepare(subjects, list(range(20)), read_slowly, folder, source, **settings)


def test_the_second_to_prepare_the_same_waits_for_the_first(tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.data.test_ownership import prepare_it\n"
        f"print(len(prepare_it({str(tmp_path)!r})))\n"
    )
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all(out.endswith("20\n") for out, _ in said)
    assert [path.name for path in tmp_path.glob("*/*")].count("cohort.json") == 1
    assert not list(tmp_path.glob(".*.lock"))


def test_one_who_waited_for_a_failure_tries_it(tmp_path):
    with pytest.raises(CohortError, match="None of the 1 records"):
        prepare(
            pd.DataFrame({"subject_id": ["a"]}), [0], no_strip, tmp_path, "none", progress=False
        )
    assert len(prepare_it(tmp_path)) == 20


def no_strip(record):
    raise ValueError("nothing there")
