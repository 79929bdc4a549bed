"""What README.md shows of training in a notebook, as it is written there."""

import re

import numpy as np

from data.synthetic import simulate
from tests.eager import train_eagerly
from tests.places import ROOT
from vae import VAE


def test_training_and_fine_tuning_in_a_notebook_run_as_written(tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text("utf-8").split("## Train or fine-tune in a ")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data.load_cohort", lambda settings: simulate(100))
    train_eagerly(monkeypatch)
    fewer = code.replace("epochs=10", "epochs=1")
    exec(fewer, {})  # noqa: S102
    trained = VAE.load("my_model")
    assert trained.prior.fitted
    assert np.ptp(trained.noise_sd_uv) > 0
    start = re.search(r"schema = .*?\nvae\.adapt.*?\n", fewer, re.DOTALL)[0]
    exec(fewer.replace(start, 'vae = VAE.load("my_model")\n'), {})  # noqa: S102
    again = VAE.load("my_model")
    assert again.schema.scaling == trained.schema.scaling
    assert (again.noise_sd_uv != trained.noise_sd_uv).any()
