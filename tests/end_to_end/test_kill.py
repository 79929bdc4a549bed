"""A run that is killed again and again ends as one that was left alone.

`python -m tests.end_to_end.test_kill 20` kills more often than the tests do.
"""

import json
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from evaluation.figures.ecg import plot_latent
from tests import processes
from tests.backends import Killed
from tests.eager import train_eagerly
from train import main
from vae import VAE

EPOCHS = 6
COMMAND = ["--preset", "quick", "--data.subjects", "100", "--model.conv-filters", "2", "2"]
COMMAND += ["--model.hidden", "8", "--training.epochs", str(EPOCHS), "--training.batch-size", "16"]
COMMAND += [
    "--training.xla",
    "False",
    "--evaluation.bootstrap",
    "100",
    "--evaluation.generated",
    "5",
]
COMMAND += ["--evaluation.examples", "1"]


def judged(model, split, settings, history):
    """In place of `evaluate`: what tells one model from another, in less than a second."""
    error = np.abs(model.reconstruct(split.test.ecg, split.test.subjects) - split.test.ecg)
    return {"reconstruction": {"mae_uv": float(error.mean())}}, {"kl": plot_latent([1.0, 0.5])}


def run_briefly_judged(command):
    with mock.patch("evaluation.evaluate", judged):
        main(command)


def begin(folder, run):
    folder.mkdir(exist_ok=True)
    return processes.begin(folder, run, COMMAND)


def finish(folder, run):
    """Runs to the end; returns the seconds that took."""
    process = begin(folder, run)
    started = time.monotonic()
    process.join(600)
    assert process.exitcode == 0, (folder / "log.txt").read_text()
    return time.monotonic() - started


def wait(process, log, chance, seconds):
    """Until a random moment: of the start, after an epoch, or of what follows the last of them."""
    epoch = chance.randrange(EPOCHS + 1)
    line = f"epoch {epoch:3d}/{EPOCHS}"
    while epoch and process.exitcode is None and not (log.is_file() and line in log.read_text()):
        time.sleep(0.01)
    process.join(chance.uniform(0, seconds if epoch in (0, EPOCHS) else seconds / EPOCHS / 10))


def result(folder):
    """Everything a run gives, without times."""
    run = folder / "runs" / "quick"
    history = pd.read_csv(run / "history.csv").drop(columns="seconds")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["training"] = {
        name: value for name, value in metrics["training"].items() if "second" not in name
    }
    model = VAE.load(run)
    weights = [weight.numpy() for weight in model.weights]
    return weights, model.get_config(), history.to_csv(index=False), metrics


def assert_same(received, expected):
    for one, other in zip(received[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert received[1:] == expected[1:]


def epochs_in(log):
    """What a log says of epochs, in its order: (those trained, those after which it went on)."""
    trained = [int(number) for number in re.findall(r"^epoch +(\d+)/", log, re.MULTILINE)]
    resumed = [int(number) for number in re.findall(r"Resuming after epoch (\d+) of", log)]
    return trained, resumed


def kill_and_compare(root, kills, seed, run=main):
    """Kills runs at random moments, one run as often as it takes until it comes to its end."""
    seconds = finish(root / "alone", run)
    expected = result(root / "alone")
    chance, done, number = random.Random(seed), 0, 0
    while done < kills:
        folder = root / f"killed{number}"
        number += 1
        while done < kills and not (folder / "runs" / "quick" / "report.html").is_file():
            process = begin(folder, run)
            wait(process, folder / "log.txt", chance, seconds)
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:  # it had not come to its end
                done += 1
                left = sorted(path.name for path in folder.glob("runs/quick/*"))
                print(f"kill {done}: {folder.name} with {left}", flush=True)
                continue
            assert process.exitcode == 0, (folder / "log.txt").read_text()
            break
        if not (folder / "runs" / "quick" / "report.html").is_file():
            finish(folder, run)
        assert_same(result(folder), expected)


def test_a_run_killed_at_a_random_moment_ends_bit_for_bit_as_one_left_alone(tmp_path):
    # One kill, soon after the epoch that the seed chooses, 2. More take minutes: see above.
    kill_and_compare(tmp_path, kills=1, seed=7, run=run_briefly_judged)
    trained, [resumed] = epochs_in((tmp_path / "killed0" / "log.txt").read_text())
    assert 1 <= resumed < EPOCHS
    assert trained[resumed - EPOCHS :] == [*range(resumed + 1, EPOCHS + 1)]


def die_once_at_each_write(patch, died):
    """The first time that a file is about to take its place, half of it is there, and that is all.

    Each file of `died` is spared; the checkpoint dies in two epochs.
    """
    replace = Path.replace

    def stopping(partial, target):
        name = target.name
        if name == "training.npz" and name in died:
            name += " again"
        if name in died:
            return replace(partial, target)
        died.append(name)
        partial.write_bytes(partial.read_bytes()[: partial.stat().st_size // 2])
        raise Killed

    patch.setattr(Path, "replace", stopping)


def test_a_run_killed_within_each_of_its_writes_in_turn_ends_as_one_left_alone(
    tmp_path, monkeypatch
):
    train_eagerly(monkeypatch)
    monkeypatch.setattr("evaluation.evaluate", judged)
    command = ["--preset", "quick", "--data.subjects", "60", "--training.epochs", "3"]
    command += ["--training.batch-size", "20", "--model.hidden", "4"]
    command += ["--model.conv-filters", "2", "2", "--model.latent-space-dim", "3"]
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    main(command)
    monkeypatch.chdir(tmp_path / "killed")
    died = []
    for _ in range(20):
        with monkeypatch.context() as patch:
            die_once_at_each_write(patch, died)
            try:
                main(command)
                break
            except Killed:
                continue
    assert died == [
        *("config.json", "environment.json", "training.npz", "training.npz again", "history.csv"),
        *("model.weights.h5", "parameters.json", "kl.png", "metrics.json"),
        *("explorer.html", "report.html"),
    ]
    assert_same(result(tmp_path / "killed"), result(tmp_path / "alone"))
    left = [
        sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*"))
        for name in ("alone", "killed")
    ]
    assert left[0] == left[1]
    with pytest.raises(SystemExit):  # it is finished, and says so
        main(command)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        kill_and_compare(Path(scratch), kills=int(sys.argv[1]), seed=1)
    print("The same weights, history and metrics as left alone.")
