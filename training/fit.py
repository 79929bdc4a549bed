"""Trains a model: schedules, what is judged after each epoch, and the fit itself.

Everything random or scheduled is a function of (seed, epoch), and what early stopping knows is the
history. A checkpoint is then only weights, optimizer and history, and a run that was interrupted
goes on exactly as if it had not been.

Dims: B batch, L leads, T samples, C encoded conditions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from config import Config, TrainingConfig
from data.tasks import kind_of
from model.cox import partial_log_likelihood
from model.replicas import replicas
from model.user_keras import standard_settings
from training import processes
from training.batches import Batches, Filled, Samples, hold
from training.calls import Calls, pipeline
from training.checkpoint import Checkpoint
from training.devices import devices_in_use
from vae import VAE

VALIDATED = 256  # ECGs at most in a batch of validation


def kl_weight_at(epoch: int, settings: TrainingConfig, final: float) -> float:
    """Weight of the KL term in this epoch (0, 1, ...).

    "warm-up" rises linearly over `kl_epochs` (Sonderby et al. 2016); "cyclical" repeats a rise over
    the first half of each cycle of `kl_epochs` (Fu et al. 2019).
    """
    if settings.kl_schedule == "warm-up":
        return final * min(1.0, (epoch + 1) / settings.kl_epochs)
    if settings.kl_schedule == "cyclical":
        return final * min(1.0, 2 * (epoch % settings.kl_epochs + 1) / settings.kl_epochs)
    return final


def learning_rate_at(epoch: int, settings: TrainingConfig, epochs: int) -> float:
    """Learning rate in this epoch (0, 1, ...)."""
    if settings.learning_rate_decay == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return settings.learning_rate


class EpochStart(keras.callbacks.Callback):
    """Sets what depends on the epoch: order, random states, learning rate, KL weight."""

    def __init__(
        self, batches: Batches, settings: TrainingConfig, final_kl: float, epochs: int
    ) -> None:
        super().__init__()
        self.batches, self.settings = batches, settings
        self.final_kl, self.epochs = final_kl, epochs

    def on_epoch_begin(self, epoch, logs=None):
        """See the class."""
        self.batches.start_epoch(epoch)
        state = np.random.SeedSequence([self.settings.seed, epoch]).generate_state(2)
        self.model.random.state.assign(state.astype(np.uint32))
        self.model.optimizer.learning_rate.assign(
            learning_rate_at(epoch, self.settings, self.epochs)
        )
        self.model.kl_weight.assign(kl_weight_at(epoch, self.settings, self.final_kl))


class FullSplit(keras.callbacks.Callback):
    """Judges a head on the whole validation split at the end of each epoch.

    Puts the task's loss per subject into `objective` and `val_objective`. A partial likelihood is a
    matter of who is compared with whom: that of a batch of 256 is not that of the split. For a Cox
    head it is therefore taken over the split, and logged as `val_partial_likelihood` (negative, per
    event) beside `val_c_index`.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self.samples = samples

    def on_epoch_end(self, epoch, logs=None):
        """See the class."""
        weight = self.model.settings["task_weight"]
        logs["objective"] += weight * logs["task_loss"]
        if kind_of(self.model.task) != "survival":
            logs["val_objective"] += weight * logs["val_task_loss"]
            return
        from lifelines.utils import concordance_index  # here: it takes a second, few runs need it

        time, event = self.samples.target.T
        log_hazard = self.model.predict_log_hazard(self.samples.ecg, self.samples.conditions)
        if not np.isfinite(log_hazard).all():
            logs["val_log_hazard"] = math.nan  # `Checkpoint` stops here, and says what is kept
            return
        negative = -partial_log_likelihood(log_hazard, time, event, self.model.settings["ties"])
        logs["val_partial_likelihood"] = negative / event.sum()
        logs["val_c_index"] = concordance_index(time, -log_hazard, event)
        logs["val_objective"] += weight * negative / len(event)


@standard_settings()
def fit(
    model: VAE,
    train: Samples,
    validation: Samples,
    config: Config,
    checkpoint: Path,
    watchers: Sequence[keras.callbacks.Callback] = (),
) -> pd.DataFrame:
    """Trains, from the checkpoint if there is one, and leaves the model at its best epoch.

    Args:
        model: built, adapted; for several devices, both it and this within
            `training.devices.open_devices`.
        train: training subjects.
        validation: others; `training.watch` on them chooses the epoch.
        config: `training` and `model.kl_weight` are read.
        checkpoint: file.
        watchers: callbacks that look on.

    Returns:
        The history: one row per epoch.

    Raises:
        TrainingError: a loss became NaN or infinite.
    """
    settings, epochs = config.training, config.training.epochs
    devices = devices_in_use()
    size = min(settings.batch_size, len(train.ecg) // devices * devices)
    jax = keras.backend.backend() == "jax"
    held = (train.ecg, validation.ecg) if jax else (train.ecg,)
    resident = devices == 1 and hold(model, *held)
    share = processes.rank(), processes.number()
    batches = Batches(
        train, size, settings.seed, settings.augmentation, resident=resident, share=share
    )
    several, on_device = devices > replicas(), resident and jax
    rows = math.ceil(len(validation.ecg) / math.ceil(len(validation.ecg) / VALIDATED))
    watched = Batches(validation, rows, shuffle=False, resident=on_device, first=len(train.ecg))
    # All batches alike, so that one program is compiled for them.
    watched = Filled(watched, math.ceil(rows / devices) * devices, share)
    if on_device:
        watched = Calls(watched, model.resident)
    elif not several:
        watched = pipeline(watched)
    if batches.batch_size < settings.batch_size:
        print(f"The batch is the whole training set: {batches.batch_size} ECGs.")
    model.compile(
        optimizer=keras.optimizers.Adam(
            settings.learning_rate, global_clipnorm=settings.gradient_norm or None
        ),
        jit_compile=settings.xla and replicas() == 1,  # replicas of TensorFlow 2.21 have no XLA
    )
    # A program that makes variables is traced twice by TensorFlow, for the same numbers.
    model.optimizer.build(model.trainable_variables)
    saver = Checkpoint(checkpoint, epochs, settings.patience, f"val_{settings.watch}")
    callbacks = [EpochStart(batches, settings, config.model.kl_weight, epochs)]
    if config.model.task != "none":
        callbacks.append(FullSplit(validation))
    done = saver.restore(model)
    if done:
        print(f"Resuming after epoch {done} of {epochs}.")
    if not saver.finished:
        model.fit(
            pipeline(batches if devices > 1 else Calls(batches, model.resident)),
            validation_data=watched,
            initial_epoch=done,
            epochs=epochs,
            shuffle=False,  # of whole batches, by Keras: `Batches` shuffles, reproducibly
            verbose=0,
            callbacks=[*callbacks, *watchers, saver],
        )
    model.resident = None
    saver.take_best(model)
    model.kl_weight.assign(model.settings["kl_weight"])  # the best epoch may be one of the warm-up
    row = saver.history[saver.best_epoch]
    print(f"Best epoch: {row['epoch']}, {settings.watch} {row[saver.watch]:.4g}.")
    if row["val_active_units"] < model.latent_space_dim / 2:
        print(
            f"Warning: posterior collapse. Only {row['val_active_units']:.1f} of "
            f"{model.latent_space_dim} latent dimensions carry more than 0.1 nat."
        )
    return pd.DataFrame(saver.history)
