"""What TensorBoard reads back is what was trained."""

from dataclasses import replace

import numpy as np
import pytest

from config import ConfigError
from evaluation import tensorboard
from tests.eager import train_eagerly
from tests.tiny_cohort import CONFIGURED, SCHEMA, TRAIN, VALIDATION
from training.fit import fit
from vae import VAE, gaussian_kl

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: {event.step: event.tensor_proto for event in found.Tensors(tag)}
        for tag in found.Tags()["tensors"]
    }


def test_curves_kl_and_reconstructions_are_written(tmp_path, monkeypatch):
    from tensorflow import make_ndarray

    train_eagerly(monkeypatch)
    monkeypatch.setattr(tensorboard, "EVERY", 2)
    settings = CONFIGURED.model
    model = VAE(
        (12, 60),
        *(settings.conv_filters, settings.conv_kernels, settings.conv_paddings, 3, SCHEMA.dim),
        schema=SCHEMA,
        hidden=settings.hidden,
        noise="learned",
    )
    config = replace(CONFIGURED, training=replace(CONFIGURED.training, epochs=2))
    seen = {}

    class Remember(tensorboard.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = model.encode(VALIDATION.ecg, VALIDATION.conditions)

    watchers = [Remember(), *tensorboard.boards(tmp_path / "logs", VALIDATION)]
    history = fit(model, TRAIN, VALIDATION, config, tmp_path / "training.npz", watchers)
    curves = read(tmp_path / "logs" / "validation")["epoch_loss"]
    assert [float(make_ndarray(one)) for one in curves.values()] == pytest.approx(
        history["val_loss"].tolist()
    )
    latent = read(tmp_path / "logs" / "latent")
    for z in range(3):
        for epoch, value in latent[f"kl/z{z}"].items():
            expected = np.asarray(gaussian_kl(*seen[epoch])).mean(axis=0)[z]
            assert float(make_ndarray(value)) == pytest.approx(expected, rel=1e-4)
    assert list(latent["kl/z0"]) == [0, 1]
    width, height, picture = make_ndarray(latent["reconstructions"][1])[:3]
    assert picture.startswith(b"\x89PNG")
    assert (int(width), int(height)) > (100, 100)


@pytest.mark.parametrize("lacking", ["tensorboard", "tensorflow"])
def test_without_what_it_needs_it_says_what_to_install(tmp_path, monkeypatch, lacking):
    monkeypatch.setattr(
        tensorboard.importlib.util, "find_spec", lambda name: name != lacking or None
    )
    with pytest.raises(ConfigError, match=f"pip install {lacking}\\."):
        tensorboard.boards(tmp_path, VALIDATION)
