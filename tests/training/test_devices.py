"""What is asked of several devices, and what two of them compute."""

import importlib
import json
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from config import TrainingConfig
from tests import processes
from tests.tiny_cohort import CONFIGURED, SCHEMA, simulated
from training import devices
from training.batches import Batches, Filled
from training.devices import DeviceError, open_devices
from training.setup import build_model, samples_of


@pytest.fixture
def opened(monkeypatch):
    """Opens what a machine with these devices has; returns those that share a batch."""

    def open_on(names, **settings):
        taken = []
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: names)
        strategy = type("Strategy", (), {"scope": lambda self: None})()
        monkeypatch.setattr(devices, "_mirrored", lambda names: taken.extend(names) or strategy)
        open_devices(TrainingConfig(**settings))
        return taken

    return open_on


GPUS = ["gpu:0", "gpu:1", "gpu:2"]


def test_auto_takes_all_gpus_that_can_share_a_batch_and_no_cpus(opened):
    assert opened(GPUS, batch_size=48) == GPUS
    assert opened(GPUS, batch_size=64) == GPUS[:2]
    assert opened(GPUS, batch_size=64, gradient_norm=1.0) == []
    assert opened(GPUS[:1]) == opened(["cpu:0", "cpu:1"]) == []


def test_a_number_takes_that_many(opened):
    assert opened(GPUS, devices=2) == GPUS[:2]
    assert opened(["cpu:0", "cpu:1"], devices=2) == ["cpu:0", "cpu:1"]
    assert opened(GPUS, devices=1) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"devices": 4}, r"at most 3 \(gpu:0, gpu:1, gpu:2\)"),
        ({"devices": 3}, "a divisor of training.batch_size, 64"),
        ({"devices": 2, "gradient_norm": 1.0}, "1 with training.gradient_norm above 0"),
    ],
)
def test_what_devices_cannot_do_is_said_before_training(opened, settings, expected):
    message = f"training.devices: expected {expected}.* Received: {settings['devices']}"
    with pytest.raises(DeviceError, match=message):
        opened(GPUS, **settings)


def test_rows_that_fill_a_batch_change_no_number():
    config = replace(CONFIGURED, model=replace(CONFIGURED.model, task="cox", free_bits=1.0))
    cohort = simulated(11, 0)
    cohort.subjects["time"] = np.arange(11.0, 0, -1)
    cohort.subjects["event"] = 1
    model = build_model(config, SCHEMA, cohort)
    model.adapt(cohort.ecg, cohort.subjects)
    model.compile(run_eagerly=True)
    batches = Batches(samples_of(cohort, model, config.model), 7, shuffle=False)
    filled = Filled(batches, 6)
    assert [len(filled[number][0][0]) for number in range(len(filled))] == [12, 6]
    expected = model.evaluate(batches, return_dict=True, verbose=0)
    received = model.evaluate(filled, return_dict=True, verbose=0)
    assert received == pytest.approx(expected, rel=1e-5)


# --- two devices, in a process of their own -------------------------------------------------------


def call(module, name):
    """Imported there alone: `two_devices` divides the processor as it is imported."""
    getattr(importlib.import_module(module), name)()


def test_a_step_on_two_devices_is_that_of_one_on_the_whole_batch(tmp_path):
    """Sampled, with conditions dropped, with statistics of the batch, with its risk sets."""
    printed = processes.finish(tmp_path, call, "tests.two_devices", "main")
    found = {}
    for line in printed.splitlines():
        found |= json.loads(line) if line.startswith("{") else {}
    assert set(found) == {"default, with risk", "published"}
    for name, found_of in found.items():
        assert found_of["moved"] > 15, name
        assert found_of["weights"] < 2e-3, (name, found_of)
        assert found_of["history"] < 1e-4, (name, found_of)


def test_a_run_on_two_devices_that_was_interrupted_ends_as_one_on_one_device(tmp_path):
    printed = processes.finish(tmp_path, call, "tests.two_devices", "one_run_on_each")
    assert "Each batch is divided between cpu:0, cpu:1." in printed
    assert "Resuming after epoch 2 of 3." in printed
    one, two = (
        pd.read_csv(tmp_path / "runs" / run / "history.csv").drop(columns="seconds")
        for run in ("one", "two")
    )
    pd.testing.assert_frame_equal(two, one, rtol=1e-3)
    assert (tmp_path / "runs" / "two" / "report.html").is_file()
