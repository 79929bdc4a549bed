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
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from conditions import ConditionSchema
from config import Config, TrainingConfig, to_dict
from data.augment import augment
from data.cohort import Cohort
from data.synthetic import simulate
from vae import VAE

WATCHED = "val_objective"


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says what was kept."""


class Batches(keras.utils.PyDataset):
    """Shuffled batches (ECG (B, L, T), conditions (B, C)); the order depends on (seed, epoch).

    Args:
        ecg: (N, L, T) mV, an array or a memory map, of which only the rows of a batch are read.
        conditions: (N, C), encoded.
        batch_size: B. The rows that do not fill a last batch wait for another epoch, unless there
            are fewer than B in all.
        seed: of shuffling and augmentation.
        augmentation: strength of `data.augment.augment`.
        shuffle: False for validation: in order, with the incomplete last batch.
    """

    def __init__(
        self,
        ecg: np.ndarray,
        conditions: np.ndarray,
        batch_size: int,
        seed: int = 0,
        augmentation: float = 0.0,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        self.ecg, self.conditions = ecg, conditions
        self.batch_size = min(batch_size, len(ecg))
        self.seed, self.augmentation, self.shuffle = seed, augmentation, shuffle
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draws the order of this epoch."""
        self.epoch = epoch
        self.order = np.arange(len(self.ecg))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(self.order)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.ecg), self.batch_size)
        return whole if self.shuffle or not rest else whole + 1

    def __getitem__(self, index: int) -> tuple:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        ecg = np.asarray(self.ecg[rows], dtype=np.float32)
        if self.augmentation:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            ecg = augment(ecg, self.augmentation, rng)
        return ((ecg, self.conditions[rows]),)


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


class Checkpoint(keras.callbacks.Callback):
    """After each epoch: a line on the screen, and a file from which training continues.

    The file holds the last and the best weights, the optimizer and the history, and is replaced as
    a whole, so that a run killed at any moment finds the last finished epoch in it.

    Args:
        path: of the file.
        epochs: of the whole training.
        patience: epochs without a better validation objective before it stops; 0 never.
    """

    def __init__(self, path: Path, epochs: int, patience: int) -> None:
        super().__init__()
        self.path, self.epochs, self.patience = path, epochs, patience
        self.history: list[dict] = []
        self.best: list[np.ndarray] | None = None

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def restore(self, model: VAE) -> int:
        """Puts the model where the file left it; returns the number of finished epochs."""
        if not self.path.is_file():
            return 0
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        with np.load(self.path, allow_pickle=False) as saved:
            self.history = json.loads(str(saved["history"]))
            self.best = [saved[f"best{number}"] for number in range(len(model.weights))]
            for number, variable in enumerate(self._variables()):
                variable.assign(saved[f"last{number}"])
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """Epoch (0, 1, ...) with the best validation objective."""
        return int(np.argmin([row[WATCHED] for row in self.history]))

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
            kept = f"Epoch {self.best_epoch + 1} is kept in {self.path}." if self.history else ""
            raise TrainingError(
                f"{', '.join(bad)} became NaN or infinite in epoch {epoch + 1}. {kept} "
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
            f"objective {row['objective']:10.2f}  validation {row[WATCHED]:10.2f}"
            f"{' *' if self.best_epoch == len(self.history) - 1 else '  '}  "
            f"error {row['val_rmse_uv']:5.1f} uV  KL {row['val_kl']:6.2f} nat  "
            f"active {row['val_active_units']:4.1f}/{units}",
            flush=True,
        )

    def take_best(self, model: VAE) -> None:
        """Gives the model the weights of the best epoch."""
        for variable, value in zip(model.weights, self.best, strict=True):
            variable.assign(value)


def build_model(config: Config, schema: ConditionSchema, cohort: Cohort) -> VAE:
    """The network of a configuration, for ECGs and conditions like these."""
    settings = to_dict(config.model)
    settings.pop("condition_encoding")
    return VAE(
        input_shape=cohort.ecg.shape[1:],
        condition_dim=schema.dim,
        schema=schema,
        leads=cohort.leads,
        sampling_rate=cohort.sampling_rate,
        seed=config.training.seed,
        **settings,
    )


def pretrain(model: VAE, config: Config, checkpoint: Path) -> None:
    """Trains on simulated beats first: where real ones are few, they teach what beats can do.

    Conditions are encoded with the model's own scaling, so that an age is an age in both.
    """
    settings = config.training
    cohort = simulate(settings.pretraining_subjects, settings.seed)
    split = cohort.split(0.1, 0.01, settings.seed)
    arrays = [(part.ecg, model.schema.encode(part.subjects)) for part in split]
    print(f"Pretraining on {len(split.train)} simulated subjects.")
    if config.model.linear_path:
        model.adapt(*arrays[0])
    fit(model, *arrays[:2], config, checkpoint, settings.pretraining_epochs)


def fit(
    model: VAE,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    config: Config,
    checkpoint: Path,
    epochs: int | None = None,
) -> pd.DataFrame:
    """Trains, from the checkpoint if there is one, and leaves the model at its best epoch.

    Args:
        model: built, adapted.
        train: ECGs (N, L, T) mV and encoded conditions (N, C).
        validation: the same; the objective on it, at the final KL weight, chooses the epoch.
        config: `training` and `model.kl_weight` are read.
        checkpoint: file.
        epochs: instead of `config.training.epochs`.

    Returns:
        The history: one row per epoch.

    Raises:
        TrainingError: a loss became NaN or infinite.
    """
    settings = config.training
    epochs = epochs or settings.epochs
    batches = Batches(*train, settings.batch_size, settings.seed, settings.augmentation)
    if batches.batch_size < settings.batch_size:
        print(f"The batch is the whole training set: {batches.batch_size} ECGs.")
    model.compile(
        optimizer=keras.optimizers.Adam(
            settings.learning_rate, global_clipnorm=settings.gradient_norm or None
        ),
        jit_compile=settings.xla,
    )
    saver = Checkpoint(checkpoint, epochs, settings.patience)
    done = saver.restore(model)
    if done:
        print(f"Resuming after epoch {done} of {epochs}.")
    if not saver.finished:
        model.fit(
            batches,
            validation_data=Batches(*validation, 256, shuffle=False),
            initial_epoch=done,
            epochs=epochs,
            verbose=0,
            callbacks=[EpochStart(batches, settings, config.model.kl_weight, epochs), saver],
        )
    saver.take_best(model)
    row = saver.history[saver.best_epoch]
    print(f"Best epoch: {row['epoch']}, validation objective {row[WATCHED]:.2f}.")
    if row["val_active_units"] < model.latent_space_dim / 2:
        print(
            f"Warning: posterior collapse. Only {row['val_active_units']:.1f} of "
            f"{model.latent_space_dim} latent dimensions carry more than 0.1 nat."
        )
    return pd.DataFrame(saver.history)
