"""The conditional VAE with a prediction head on its latent space.

Task "cox": a linear log hazard, trained on the Cox partial likelihood beside the evidence lower
bound. Other tasks, of `data.tasks`, have a loss per subject: "binary", "multiclass", "regression".

Dims: B batch, N subjects, L leads, T samples, C conditions, Z latent, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from data.tasks import TASKS, kind_of
from model.cox import TIES, baseline_hazard, cox_partial_likelihood, survival_function
from model.inputs import Conditions, InBatches
from model.network import ModelError
from model.replicas import whole_batch
from vae import VAE, weighted_mean

__all__ = ["TASKS", "VAEPrediction", "cox_partial_likelihood"]

HEAD_INPUTS = ("latent", "latent_and_conditions")
# Of the saved baseline hazard at most: survival at log hazards up to 3 is then within 0.002 of that
# with all event times (simulated, 200,000 subjects).
BASELINE_STEPS = 4000


@keras.saving.register_keras_serializable(package="cvae_ecg")
class VAEPrediction(VAE):
    """Conditional VAE with a linear head on the posterior mean.

    Args:
        *args: as `VAE`.
        task: of `TASKS`: "cox", "binary", "multiclass", "regression", or a line that you added.
        head_inputs: "latent", or "latent_and_conditions": the head is told the encoded conditions
            too, which are strong predictors that the latent is meant to be free of.
        task_weight: of the task's loss, per subject, against the evidence lower bound per ECG.
        ties: "efron" or "breslow", for "cox".
        classes: K, for tasks of several classes.
        baseline: of a fitted Cox head, `times` and `cumulative_hazard`; see `fit_baseline`.
        **keywords: as `VAE`.

    Raises:
        ModelError: the arguments do not make a network.

    Example:
        >>> model = VAEPrediction(
        ...     (12, 400), (5, 5), ((1, 40), (12, 1)), ("same", "valid"), 10, 0, task="cox"
        ... )
        >>> model.predict_log_hazard(model.generate(n=3)).shape
        (3,)
    """

    def __init__(
        self,
        *args,
        task: str = "cox",
        head_inputs: str = "latent",
        task_weight: float = 1.0,
        ties: str = "efron",
        classes: int = 1,
        baseline: Mapping[str, Sequence[float]] | None = None,
        **keywords,
    ) -> None:
        super().__init__(*args, **{"name": "vae_prediction"} | keywords)
        _check_head(task, head_inputs, task_weight, ties, classes)
        self.settings |= {
            "task": task,
            "head_inputs": head_inputs,
            "task_weight": float(task_weight),
            "ties": ties,
            "classes": int(classes),
        }
        self.task, self.kind = task, kind_of(task)
        self._loss_of_task = _loss(task)
        self.baseline = None if baseline is None else {k: list(v) for k, v in baseline.items()}
        # Without bias: the partial likelihood does not see a constant. At zero: hazard ratios of 1.
        self.head = keras.layers.Dense(
            classes if self.kind == "multiclass" else 1,
            use_bias=self.kind != "survival",
            kernel_initializer="zeros",
            dtype="float32",
            name="head",
        )
        told = self.condition_dim if head_inputs == "latent_and_conditions" else 0
        self.head.build((None, self.latent_space_dim + told))
        # Of a regression target, whose unit may be anything; see `adapt_target`.
        self.target_mean = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="target_mean"
        )
        self.target_sd = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="target_sd"
        )
        self._head_batches = InBatches(self._outputs_of_head, self, compile=False)
        for name in ("task_loss", "task_share"):
            self.trackers[name] = keras.metrics.Mean(name=name, dtype="float32")

    def call(self, inputs, training: bool = False) -> dict:
        """As `VAE.call`, with `output` (B, 1 or K): log hazard, logits or prediction."""
        outputs = super().call(inputs, training=training)
        return outputs | {"output": self._head_of(outputs["mean"], outputs["conditions"])}

    def _head_of(self, mean, conditions):
        if self.settings["head_inputs"] == "latent_and_conditions":
            mean = ops.concatenate([mean, conditions], axis=-1)
        return self.head(mean)

    def _outputs_of_head(self, mean, conditions):
        return [self._head_of(mean, conditions)]

    def extra_loss(self, y, y_pred, weight, elbo):
        """The task's loss, averaged over B; its share of the whole loss is tracked.

        Args:
            y: (B, 2) time and event for "cox", (B,) or (B, 1) targets otherwise. A regression
                target is compared in units of the SD that `adapt_target` found.
            y_pred: of `call`.
            weight: (B,) sample weights.
            elbo: scalar, the loss of the VAE without this one.
        """
        self._require_targets(y)
        _check_shape(tuple(y.shape), self.kind)
        if self.kind == "survival":
            # The risk sets are those of the whole batch.
            output, y = whole_batch([y_pred["output"], y])
            terms = cox_partial_likelihood(output, y[:, 0], y[:, 1], self.settings["ties"], weight)
            loss = ops.sum(terms) / ops.maximum(ops.sum(weight), 1e-9)
        else:
            target = ops.cast(ops.reshape(y, (-1, 1)), "float32")
            target = (target - self.target_mean) / self.target_sd
            [losses] = whole_batch([self._loss_of_task(target, y_pred["output"])])
            loss = weighted_mean(losses, weight)
        weighted = self.settings["task_weight"] * loss
        self._track("task_loss", loss, weight)
        share = ops.abs(weighted) / (ops.abs(weighted) + ops.abs(elbo) + 1e-9)
        self._track("task_share", share, weight)
        return weighted

    def _checked_targets(self, y, n: int, training: bool):
        """As `VAE` has it; those of the task are checked, and a table of them becomes an array."""
        kind = type(self)
        ours = kind.extra_loss is VAEPrediction.extra_loss and kind.compute_loss is VAE.compute_loss
        if not ours:
            return y
        self._require_targets(y)  # Keras could not trace a step again after a refusal within it
        values = checked_targets(y, n, self.kind, self.settings["classes"], training)
        return y if isinstance(y, np.ndarray) and y.dtype.kind in "fiub" else values

    def _has_classes(self) -> bool:
        return self.kind in ("binary", "multiclass")

    def heads(self) -> list[keras.layers.Layer]:
        """The head: a log hazard, which has no bias, shifts by a constant without meaning."""
        return [self.head]

    def standardise_latent(self, ecg, conditions=None) -> VAEPrediction:
        """As `VAE.standardise_latent`; a baseline hazard is one of other log hazards afterwards."""
        self.baseline = None
        return super().standardise_latent(ecg, conditions)

    def _before_training(self) -> None:
        """As `VAE` has it; a baseline hazard is none of this model any more."""
        self.baseline = None
        super()._before_training()

    def adapt_target(self, target: np.ndarray) -> VAEPrediction:
        """Sets mean and SD of a regression target (N,) from training data. Returns itself.

        The head then starts at the mean, and its loss is of order 1 whatever the unit.

        Raises:
            ModelError: NaN or infinite values, or a head of another task.
        """
        if self.kind != "regression":
            raise ModelError(f"This model's task is {self.task!r}: its targets are not scaled.")
        target = np.asarray(target, np.float64)
        _refuse(~np.isfinite(target), target, "finite targets")
        self.target_mean.assign(target.mean())
        # The SD of equal numbers is rounding, not always 0.
        self.target_sd.assign(target.std() if np.ptp(target) else 1.0)
        return self

    def predict_head(self, ecg: np.ndarray, conditions: Conditions | None = None) -> np.ndarray:
        """Output of the head at the posterior mean: (N, L, T) mV -> (N, 1 or K).

        Log hazard for "cox", logits for "binary" and "multiclass", the value for "regression".
        """
        mean, _ = self.encode(ecg, conditions)
        encoded = self._encoded(conditions, len(mean))
        parts = [output for _, [output] in self._head_batches(mean, encoded)]
        mean, sd = (ops.convert_to_numpy(one) for one in (self.target_mean, self.target_sd))
        return mean + sd * np.concatenate(parts)

    def predict_log_hazard(
        self, ecg: np.ndarray, conditions: Conditions | None = None
    ) -> np.ndarray:
        """Log hazard relative to the baseline: (N, L, T) mV -> (N,), higher = earlier event."""
        self._require_cox()
        return self.predict_head(ecg, conditions)[:, 0]

    def fit_baseline(
        self,
        ecg: np.ndarray,
        conditions: Conditions | None,
        time: np.ndarray,
        event: np.ndarray,
    ) -> VAEPrediction:
        """Estimates the baseline hazard on the training subjects; it is saved with the model.

        Args:
            ecg: (N, L, T) mV.
            conditions: of the same subjects.
            time: (N,) years until event or censoring.
            event: (N,) 1 for an event, 0 for none until then.

        Returns:
            The model itself.
        """
        log_hazard = self.predict_log_hazard(ecg, conditions)
        times, hazard = baseline_hazard(log_hazard, time, event, self.settings["ties"])
        if len(times) > BASELINE_STEPS:
            # Half of them evenly in events, half in hazard, which rises fast where few are at risk.
            half = BASELINE_STEPS // 2
            events = np.linspace(0, len(times) - 1, half).round().astype(int)
            rises = np.searchsorted(hazard, np.linspace(hazard[0], hazard[-1], half))
            steps = np.union1d(events, rises)
            times, hazard = times[steps], hazard[steps]
        self.baseline = {"times": times.tolist(), "cumulative_hazard": hazard.tolist()}
        return self

    def predict_survival(
        self, ecg: np.ndarray, conditions: Conditions | None, times: Sequence[float]
    ) -> np.ndarray:
        """Probability of no event up to each time: (N, L, T) mV, (M,) years -> (N, M).

        Times count from the recording, in the unit that the model was trained with: years, which
        `data.outcomes` sees to. After the last event of the training subjects the curve is flat;
        a time of more than twice that is warned of, since it may be in days.

        Raises:
            ModelError: the model has no baseline hazard yet, or has been trained or standardised
                since; a time is NaN.
        """
        self._require_cox()
        if self.baseline is None:
            raise ModelError("This model has no baseline hazard yet: call fit_baseline first.")
        times = np.asarray(times, np.float64)
        if np.isnan(times).any():
            raise ModelError("Expected times to predict survival at. Received: NaN.")
        last = self.baseline["times"][-1]
        if (times > 2 * last).any():
            warnings.warn(
                f"Survival at a time of {times.max():g}: the last event of the training subjects "
                f"was at {last:g} (years, unless you fitted another unit), and after it the curve "
                "is flat.",
                stacklevel=2,
            )
        log_hazard = self.predict_log_hazard(ecg, conditions)
        baseline = (np.asarray(self.baseline[k]) for k in ("times", "cumulative_hazard"))
        return survival_function(log_hazard, *baseline, times)

    def get_config(self) -> dict:
        """Constructor arguments as plain values."""
        return super().get_config() | {"baseline": self.baseline}

    def _require_targets(self, y) -> None:
        if y is None:
            raise ModelError(f"The task {self.task!r} needs targets: fit((ecg, conditions), y).")

    def _require_cox(self) -> None:
        if self.kind != "survival":
            raise ModelError(f"This model's task is {self.task!r}: it has no hazard.")


def _loss(task: str):
    """Loss per subject of (target, output of the head); None where subjects are compared."""
    loss, arguments = TASKS[task].loss, TASKS[task].arguments
    if not isinstance(loss, str):
        return loss
    # float32 whatever `floatx` is.
    return getattr(keras.losses, loss)(**arguments, reduction=None, dtype="float32")


def checked_targets(y, n: int, kind: str, classes: int, training: bool = True) -> np.ndarray:
    """Targets of n subjects, (n, 2) or (n,) or (n, 1) float64, that a head can be trained on.

    Args:
        y: (n, 2) time and event for "survival", (n,) or (n, 1) otherwise, an array or a table.
        n: number of subjects.
        kind: of task, see `data.tasks`.
        classes: K, of "multiclass".
        training: someone must have an event.

    Raises:
        ModelError: another shape, NaN, or what is no outcome of this kind.
    """
    try:
        values = np.asarray(y, np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"Expected targets as numbers, classes as 0, 1, ... Received: {error}."
        ) from error
    _check_shape(values.shape, kind)
    if len(values) != n:
        raise ModelError(f"Expected targets of {n} subjects. Received: {len(values)}.")
    _refuse(~np.isfinite(values), values, "finite targets")
    if kind == "survival":
        time, event = values.T
        hint = " Are time and event swapped?" if np.isin(time, (0, 1)).all() else ""
        _refuse(~np.isin(event, (0, 1)), event, "an event of 0 or 1, beside the time", hint)
        _refuse(time <= 0, time, "times above 0, beside the event", hint)
        if training and not event.any():
            raise ModelError(f"Expected an event in some of {n} subjects, to learn from. Got: 0.")
    elif kind != "regression":
        last = 1 if kind == "binary" else classes - 1
        among = (values >= 0) & (values <= last)  # of two classes a probability will do
        if kind == "multiclass":
            among &= values == np.round(values)
        _refuse(~among, values, f"classes as 0 to {last}")
    return values


def _refuse(wrong: np.ndarray, values: np.ndarray, expected: str, hint: str = "") -> None:
    """Raises ModelError that names the first of the values, row by row, that are wrong."""
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise ModelError(
            f"Expected {expected}. Received: {values[place]:g} in row {place[0]}.{hint}"
        )


def _check_shape(shape: tuple, kind: str) -> None:
    if kind == "survival" and (len(shape) != 2 or shape[1] != 2):
        raise ModelError(f"Expected targets (B, 2), time and event. Received: {shape}.")
    if kind != "survival" and (not shape or shape[1:] not in ((), (1,))):
        raise ModelError(f"Expected targets (B,) or (B, 1). Received: {shape}.")


def _check_head(task: str, head_inputs: str, task_weight: float, ties: str, classes: int) -> None:
    for name, value, choices in (
        ("task", task, tuple(TASKS)),
        ("head_inputs", head_inputs, HEAD_INPUTS),
        ("ties", ties, TIES),
    ):
        if value not in choices:
            hint = " To add a task, add a line to data.tasks.TASKS." if name == "task" else ""
            raise ModelError(f"{name}: expected one of {choices}. Received: {value!r}.{hint}")
    if not task_weight >= 0:
        raise ModelError(f"task_weight: expected 0 or more. Received: {task_weight}.")
    if kind_of(task) == "multiclass" and classes < 2:
        raise ModelError(f"{task}: expected at least 2 classes. Received: {classes}.")
