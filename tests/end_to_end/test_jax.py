"""Whole runs under JAX where TensorFlow is not installed, beside the same under TensorFlow."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from evaluation.judge import Reconstruction, measured
from tests.backends import RUNS, draw_the_same, numbers, run
from tests.eager import train_eagerly
from tests.places import ROOT
from tests.sparing import judge_sparingly
from vae import VAE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="JAX is not installed: pip install -r requirements-jax.txt",
)
# How far a history may be from TensorFlow's, with the same weights and random numbers. Nothing
# holds back the rounding of the published network, which has statistics of the batch.
APART = {"quick": 2e-3, "prediction": 2e-3, "paper": 5e-2}


def begin(function, folder, *arguments, **environment):
    """Starts a function of `tests.backends` in a process under JAX."""
    programs = {
        # Compiled in three quarters of the time; these programs run for less.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        # The same again and again.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.backends", function, str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, **programs, "KERAS_BACKEND": "jax", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def under_jax(tmp_path_factory):
    """The folder with the runs, and what they printed."""
    folder = tmp_path_factory.mktemp("jax")
    done = begin("main", folder)
    printed, complaint = done.communicate(timeout=600)
    assert done.returncode == 0, printed + complaint
    return folder / "runs", printed


@pytest.fixture(scope="module")
def under_tensorflow(under_jax, tmp_path_factory):
    """The folder with the same runs. What they measure is the model that JAX has trained."""
    folder = tmp_path_factory.mktemp("tensorflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_the_same(patch)
        judge_sparingly(patch)
        train_eagerly(patch)
        for name in RUNS:
            model = VAE.load(under_jax[0] / name)

            def judge(_, split, settings, history, model=model):
                posterior = model.encode(split.test.ecg, split.test.subjects)
                reconstruction = Reconstruction(model, posterior[0], split.test.subjects)
                return measured(model, split, settings, posterior, reconstruction), {}

            patch.setattr("evaluation.evaluate", judge)
            run(name)
            patch.setattr("evaluation.judge._generator_metrics", lambda *_: {})
        patch.undo()
    return folder / "runs"


def history(runs, name):
    return pd.read_csv(runs / name / "history.csv").drop(columns="seconds")


def metrics(runs, name):
    """(section, name) -> number."""
    found = json.loads((runs / name / "metrics.json").read_text("utf-8"))
    found.pop("training")  # seconds
    return {(section, key): value for section, part in found.items() for key, value in part.items()}


def test_whole_runs_need_no_tensorflow(under_jax):
    runs, printed = under_jax
    for name in RUNS:
        assert (runs / name / "report.html").is_file()
        assert (runs / name / "explorer.html").is_file()
        made = json.loads((runs / name / "environment.json").read_text("utf-8"))
        assert made["backend"] == "jax"
        assert len(history(runs, name)) == 2
    assert printed.count("Resuming after epoch 1 of 2.") == 2  # quick, two
    assert printed.count("Each batch is divided between cpu:0, cpu:1.") == 2


def test_a_run_that_was_killed_ends_bit_for_bit_as_one_left_alone_whose_ecgs_stay(under_jax):
    killed, alone = (VAE.load(under_jax[0] / name) for name in ("quick", "alone"))
    for one, other in zip(killed.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    one, other = (history(under_jax[0], name) for name in ("quick", "alone"))
    pd.testing.assert_frame_equal(other, one, rtol=1e-6)  # validation in one call, or in several
    training = [name for name in one if not name.startswith("val_")]
    pd.testing.assert_frame_equal(other[training], one[training], check_exact=True)


def test_a_run_on_two_devices_that_was_killed_ends_as_one_on_one_device(under_jax):
    one, two = (history(under_jax[0], name) for name in ("alone", "two"))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3)


def start_two(folder, kill=""):
    """Two processes of one run; what each returned and printed, or complained of."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    several = {
        "JAX_PLATFORMS": "cpu",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    folders = folder, folder / "other"  # the second finds no file of the first
    folders[1].mkdir(exist_ok=True)
    both = [
        begin(
            "together", where, kill * number, **several, KERAS_DISTRIBUTION_PROCESS_ID=str(number)
        )
        for number, where in enumerate(folders)
    ]
    return [(*one.communicate(timeout=300), one.returncode) for one in both]


def test_two_processes_train_as_one_and_say_when_one_has_gone_and_go_on(under_jax, tmp_path):
    (_, complaint, code), (_, _, killed) = start_two(tmp_path, kill="kill")
    assert killed == -signal.SIGKILL
    assert code == 2
    assert complaint.splitlines()[-1].startswith("train.py: process 0 of 2 lost another one (")
    (printed, complaint, code), (nothing, more, other) = start_two(tmp_path)
    assert (code, other) == (0, 0), complaint + more
    assert "Resuming after epoch 1 of 2." in printed
    assert "epoch" not in nothing
    assert not (tmp_path / "other" / "runs").exists()
    assert (tmp_path / "runs" / "together" / "report.html").is_file()
    pd.testing.assert_frame_equal(
        history(tmp_path / "runs", "together"), history(under_jax[0], "alone"), rtol=1e-3
    )


def test_what_is_not_random_is_the_same_under_both(under_jax):
    runs, _ = under_jax
    expected = numbers(runs / "quick")
    with np.load(runs.parent / "numbers.npz") as received:
        assert set(received) == set(expected)
        for name, value in expected.items():  # mV, nats
            np.testing.assert_allclose(received[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", RUNS)
def test_training_goes_as_under_tensorflow(under_jax, under_tensorflow, name):
    one, other = history(under_tensorflow, name), history(under_jax[0], name)
    pd.testing.assert_frame_equal(other, one, rtol=APART[name])


@pytest.mark.parametrize("name", RUNS)
def test_a_model_is_judged_as_under_tensorflow(under_jax, under_tensorflow, name):
    one, other = metrics(under_tensorflow, name), metrics(under_jax[0], name)
    assert list(one) == list(other)
    apart = {
        key: (value, other[key])
        for key, value in one.items()
        if other[key] != (pytest.approx(value, 1e-2, 1e-6) if isinstance(value, float) else value)
    }
    assert not apart
