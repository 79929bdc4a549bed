"""A file after each epoch, from which a run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import json
import math
import time
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np

from data.units import UNITS
from training import processes
from vae import VAE


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says what was kept."""


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
            TrainingError: the file is damaged, or conditions were coded otherwise then.
        """
        there = self.path.is_file()
        if not processes.told(b"yes" if there else b""):
            return 0
        kept = processes.told(self.path.read_bytes() if there else b"")
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        try:
            with np.load(BytesIO(kept), allow_pickle=False) as saved:
                # Of the settings these alone are not in `config.json`.
                before, now = str(saved.get("conditions", "")), _conditions_of(model)
                if before not in ("", now):
                    raise TrainingError(
                        f"{self.path} was written with other config.CONDITIONS: {before} -> {now}. "
                        "Put them back, or choose another --run NAME, or --overwrite."
                    )
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
        if processes.rank() == 0:
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
        history, conditions = json.dumps(self.history), _conditions_of(self.model)
        np.savez(partial, history=history, conditions=conditions, **arrays)
        partial.replace(self.path)

    def _show(self, row: dict) -> None:
        units, unit = self.model.latent_space_dim, UNITS[self.model.unit].words("uV")
        print(
            f"epoch {row['epoch']:3d}/{self.epochs}  {row['seconds']:5.1f} s  "
            f"objective {row['objective']:10.2f}  validation {row['val_objective']:10.2f}"
            f"{' *' if self.best_epoch == len(self.history) - 1 else '  '}  "
            f"RMSE {row['val_rmse_uv']:5.1f} {unit}  KL {row['val_kl']:6.2f} nat  "
            f"active {row['val_active_units']:4.1f}/{units}"
            + (f"  C {row['val_c_index']:.3f}" if "val_c_index" in row else ""),
            flush=True,
        )

    def take_best(self, model: VAE) -> None:
        """Gives the model the weights of the best epoch."""
        for variable, value in zip(model.weights, self.best, strict=True):
            variable.assign(value)


def _conditions_of(model: VAE) -> str:
    """How the conditions are coded, but for their scaling, which follows from the data."""
    conditions = () if model.schema is None else model.schema.conditions
    return json.dumps([[one.name, one.kind, *one.categories] for one in conditions], default=str)
