"""What happens in an epoch: batches, schedules, and a checkpoint from which a run continues.

Everything random or scheduled is a function of (seed, epoch), and what early stopping knows is the
history. A checkpoint is then only weights, optimizer and history, and a run that was interrupted
goes on exactly as if it had not been.

Dims: B batch, L leads, T samples, C encoded conditions.
"""

from __future__ import annotations

import json
import math
import time
from copy import copy
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np
import pandas as pd
from lifelines.utils import concordance_index

from batches import Batches, Filled, Samples, hold, pipeline
from calls import Calls
from conditions import ConditionSchema
from config import Config, ModelConfig, TrainingConfig, to_dict
from cox import partial_log_likelihood
from data.cohort import Cohort, CohortError, Split
from data.outcomes import with_outcomes
from devices import devices_in_use, replicas
from vae import VAE
from vae_prediction import VAEPrediction

# Settings in which a model may differ from the one that it takes encoder and decoder from.
NOT_OF_THE_NETWORK = (
    *("task", "head_inputs", "task_weight", "ties", "classes", "name", "seed"),
    *("kl_weight", "free_bits", "condition_dropout"),
)


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says what was kept."""


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

    Puts the task's loss per subject into `val_objective`. A partial likelihood is a matter of who
    is compared with whom: that of a batch of 256 is not that of the split. For a Cox head it is
    therefore taken over the split, and logged as `val_partial_likelihood` (negative, per event)
    beside `val_c_index`.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self.samples = samples

    def on_epoch_end(self, epoch, logs=None):
        """See the class."""
        weight = self.model.settings["task_weight"]
        if self.model.task != "cox":
            logs["val_objective"] += weight * logs["val_task_loss"]
            return
        time, event = self.samples.target.T
        log_hazard = self.model.predict_log_hazard(self.samples.ecg, self.samples.conditions)
        if not np.isfinite(log_hazard).all():
            logs["val_log_hazard"] = math.nan  # `Checkpoint` stops here, and says what is kept
            return
        negative = -partial_log_likelihood(log_hazard, time, event, self.model.settings["ties"])
        logs["val_partial_likelihood"] = negative / event.sum()
        logs["val_c_index"] = concordance_index(time, -log_hazard, event)
        logs["val_objective"] += weight * negative / len(event)


def best_epoch(history: list[dict], watch: str) -> int:
    """Epoch (0, 1, ...) with the lowest value of a column, or the highest `val_c_index`."""
    sign = -1 if watch == "val_c_index" else 1
    return int(np.argmin([sign * row[watch] for row in history]))


class Checkpoint(keras.callbacks.Callback):
    """After each epoch: a line on the screen, and a file from which training continues.

    The file holds the last and the best weights, the optimizer and the history, and is replaced as
    a whole, so that a run killed at any moment finds the last finished epoch in it.

    Args:
        path: of the file.
        epochs: of the whole training.
        watch: what is best when it is lowest: a column of the history, `val_c_index` the highest.
        patience: epochs without a better validation objective before it stops; 0 never.
    """

    def __init__(self, path: Path, epochs: int, patience: int, watch: str) -> None:
        super().__init__()
        self.path, self.epochs, self.patience, self.watch = path, epochs, patience, watch
        self.history: list[dict] = []
        self.best: list[np.ndarray] | None = None

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def restore(self, model: VAE) -> int:
        """Puts the model where the file left it; returns the number of finished epochs.

        Raises:
            TrainingError: the file is damaged.
        """
        if not self.path.is_file():
            return 0
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                history = json.loads(str(saved["history"]))
                best = [saved[f"best{number}"] for number in range(len(model.weights))]
                last = [saved[f"last{number}"] for number in range(len(self._variables()))]
            for variable, value in zip(self._variables(), last, strict=True):
                variable.assign(value)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise TrainingError(
                f"{self.path} is damaged, or of another network: {error}. Delete it to train from "
                "the start."
            ) from error
        self.history, self.best = history, best
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """Epoch (0, 1, ...) that is best by what is watched."""
        return best_epoch(self.history, self.watch)

    @property
    def finished(self) -> bool:
        """All epochs are done, or none of the last `patience` was better."""
        waited = len(self.history) - 1 - self.best_epoch if self.history else 0
        return len(self.history) >= self.epochs or bool(self.patience and waited >= self.patience)

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """See the class."""
        row = {name: float(value) for name, value in (logs or {}).items()}
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad:
            kept = f" Epoch {self.best_epoch + 1} is kept in {self.path}." if self.history else ""
            raise TrainingError(
                f"{', '.join(bad)} became NaN or infinite in epoch {epoch + 1}.{kept} "
                "Try a lower training.learning_rate or training.gradient_norm 100."
            )
        row["seconds"] = time.perf_counter() - self.started
        self.history.append({"epoch": epoch + 1, **row})
        if self.best_epoch == len(self.history) - 1:
            self.best = [keras.ops.convert_to_numpy(weight) for weight in self.model.weights]
        self._write()
        self._show(self.history[-1])
        if self.finished:
            self.model.stop_training = True

    def _write(self) -> None:
        arrays = {
            f"last{number}": keras.ops.convert_to_numpy(variable)
            for number, variable in enumerate(self._variables())
        }
        arrays |= {f"best{number}": weight for number, weight in enumerate(self.best)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name("partial.npz")
        np.savez(partial, history=json.dumps(self.history), **arrays)
        partial.replace(self.path)

    def _show(self, row: dict) -> None:
        units = self.model.latent_space_dim
        print(
            f"epoch {row['epoch']:3d}/{self.epochs}  {row['seconds']:5.1f} s  "
            f"objective {row['objective']:10.2f}  validation {row['val_objective']:10.2f}"
            f"{' *' if self.best_epoch == len(self.history) - 1 else '  '}  "
            f"error {row['val_rmse_uv']:5.1f} uV  KL {row['val_kl']:6.2f} nat  "
            f"active {row['val_active_units']:4.1f}/{units}"
            + (f"  C {row['val_c_index']:.3f}" if "val_c_index" in row else ""),
            flush=True,
        )

    def take_best(self, model: VAE) -> None:
        """Gives the model the weights of the best epoch."""
        for variable, value in zip(model.weights, self.best, strict=True):
            variable.assign(value)


def build_model(config: Config, schema: ConditionSchema, cohort: Cohort) -> VAE:
    """The network of a configuration, for ECGs, conditions and targets like these."""
    settings = to_dict(config.model)
    head = {name: settings.pop(name) for name in ("task", "head_inputs", "task_weight", "ties")}
    for name in ("condition_encoding", "target"):
        settings.pop(name)
    if head["task"] != "none":
        settings |= head
        if head["task"] == "multiclass":
            settings["classes"] = int(cohort.subjects["target"].nunique())
    return (VAE if head["task"] == "none" else VAEPrediction)(
        input_shape=cohort.ecg.shape[1:],
        condition_dim=schema.dim,
        schema=schema,
        leads=cohort.leads,
        sampling_rate=cohort.sampling_rate,
        seed=config.training.seed,
        **settings,
    )


def with_targets(cohort: Cohort, settings: ModelConfig) -> Cohort:
    """The recordings whose target is known, with classes as numbers in a column `target`.

    The others go to `excluded`, as `data.outcomes.with_outcomes` has it.

    Raises:
        CohortError: the target is not there, or has no events or a single class.
    """
    if settings.task == "none":
        return cohort
    if settings.task == "cox":
        return with_outcomes(cohort)
    if settings.target not in cohort.subjects:
        raise CohortError(
            f"model.target: the cohort has no column {settings.target!r}. It has: "
            f"{list(cohort.subjects.columns)}. Give another, or a table with data.outcomes."
        )
    cohort = copy(cohort)  # the ECGs are shared
    cohort.subjects = cohort.subjects.assign(target=cohort.subjects[settings.target])
    cohort = with_outcomes(cohort, ["target"])
    values = cohort.subjects["target"]
    if settings.task == "regression":
        numbers = pd.to_numeric(values, errors="coerce")
        if not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers)))
            raise CohortError(
                f"{settings.target} of record {cohort.subjects['subject_id'][row]!r} is no number: "
                f"{values.tolist()[row]!r}. Correct it, or make it missing."
            )
        cohort.subjects["target"] = numbers
        return cohort
    codes, classes = pd.factorize(values, sort=True)
    if len(classes) < 2 or (settings.task == "binary" and len(classes) != 2):
        raise CohortError(
            f"The task {settings.task} needs {'two' if settings.task == 'binary' else 'several'} "
            f"classes. {settings.target} has: {list(classes)}."
        )
    cohort.subjects["target"] = codes
    return cohort


def check_split(split: Split, settings: ModelConfig) -> None:
    """Checks before hours of training that a head can be trained and judged on each part.

    Raises:
        CohortError: a part has no event that others outlive, or only one class.
    """
    if settings.task in ("none", "regression"):
        return
    for name, part in split._asdict().items():
        if settings.task == "cox":
            time, event = part.subjects["time"], part.subjects["event"] > 0
            good, lacks = time[event].min() < time.max(), "has no event that another outlives"
        else:
            good, lacks = part.subjects["target"].nunique() > 1, "has only one class"
        if not good:
            raise CohortError(
                f"The {name} part of the split, {len(part)} recordings, {lacks}: a head cannot be "
                "trained and judged. Give more recordings or larger data.*_fraction, or divide "
                "with another data.seed."
            )


def samples_of(cohort: Cohort, model: VAE, settings: ModelConfig) -> Samples:
    """What a model is trained on, out of (a part of) a cohort `with_targets`."""
    conditions = model.schema.encode(cohort.subjects)
    if settings.task == "none":
        return Samples(cohort.ecg, conditions)
    columns = ["time", "event"] if settings.task == "cox" else "target"
    return Samples(cohort.ecg, conditions, cohort.subjects[columns].to_numpy(np.float32))


def warm_start(model: VAE, folder: Path, freeze: bool) -> None:
    """Takes encoder, decoder and noise from a trained model, and freezes them if asked to.

    Raises:
        ModelError: no model lies there.
        TrainingError: its network or its conditions are not the same.
    """
    other = VAE.load(folder)
    same = {name: (value, other.settings.get(name)) for name, value in model.settings.items()}
    for name in NOT_OF_THE_NETWORK:
        same.pop(name, None)
    changed = [f"{name}: {old!r} -> {new!r}" for name, (new, old) in same.items() if new != old]
    names, other_names = (None if m.schema is None else m.schema.names for m in (model, other))
    if names != other_names:
        changed.append(f"conditions: {other_names} -> {names}")
    if changed:
        raise TrainingError(f"{folder} holds another network: {'; '.join(changed)}.")
    # A mean or SD of age that differs a little between two cohorts would shift what was learned.
    model.schema = other.schema
    for part in ("encoder", "decoder"):
        getattr(model, part).set_weights(getattr(other, part).get_weights())
        getattr(model, part).trainable = not freeze
    for part in ("mean_beat", "scale", "log_noise"):
        getattr(model, part).assign(getattr(other, part))
    model.log_noise.trainable = model.log_noise.trainable and not freeze


def fit(
    model: VAE, train: Samples, validation: Samples, config: Config, checkpoint: Path
) -> pd.DataFrame:
    """Trains, from the checkpoint if there is one, and leaves the model at its best epoch.

    Args:
        model: built, adapted; both it and this within `devices.open_devices` for several devices.
        train: training subjects.
        validation: others; `training.watch` on them chooses the epoch.
        config: `training` and `model.kl_weight` are read.
        checkpoint: file.

    Returns:
        The history: one row per epoch.

    Raises:
        TrainingError: a loss became NaN or infinite.
    """
    settings, epochs = config.training, config.training.epochs
    devices = devices_in_use()
    size = min(settings.batch_size, len(train.ecg) // devices * devices)
    resident = devices == 1 and hold(model, train.ecg, settings)
    batches = Batches(train, size, settings.seed, settings.augmentation, resident=resident)
    watched = Batches(validation, 256, shuffle=False)
    watched = Filled(watched, devices) if devices > replicas() else pipeline(watched)
    if batches.batch_size < settings.batch_size:
        print(f"The batch is the whole training set: {batches.batch_size} ECGs.")
    model.compile(
        optimizer=keras.optimizers.Adam(
            settings.learning_rate, global_clipnorm=settings.gradient_norm or None
        ),
        jit_compile=settings.xla and replicas() == 1,  # replicas of TensorFlow 2.21 have no XLA
    )
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
            callbacks=[*callbacks, saver],
        )
    model.resident = None
    saver.take_best(model)
    row = saver.history[saver.best_epoch]
    print(f"Best epoch: {row['epoch']}, {settings.watch} {row[saver.watch]:.4g}.")
    if row["val_active_units"] < model.latent_space_dim / 2:
        print(
            f"Warning: posterior collapse. Only {row['val_active_units']:.1f} of "
            f"{model.latent_space_dim} latent dimensions carry more than 0.1 nat."
        )
    return pd.DataFrame(saver.history)
