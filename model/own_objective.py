"""A Keras model that brings its own loss, metrics and targets, and says what it does not use.

Keras passes weights on beside a target only, and drops other arguments without a word; an argument
that nothing reads is one that somebody believes in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from model.network import ModelError
from model.steps import run_steps
from model.user_keras import standard_settings

# Argument of `compile` -> what to do instead.
INSTEAD = {
    "loss": 'noise="mse" is the mean squared error; the loss of a head goes by its task; a '
    "subclass adds to the loss in extra_loss",
    "loss_weights": "kl_weight and task_weight weigh its parts",
    "metrics": "the history shows those of the model; measure others on what predict, reconstruct "
    "or predict_head give",
    "weighted_metrics": "the metrics of the model are weighted already",
}


class OwnObjective(keras.Model):
    """A Keras model with a loss, metrics and targets of its own, and several steps to a call.

    Attributes:
        trackers: name -> `keras.metrics.Mean`, what the history shows.
        resident: ECGs on the device that batches of row numbers stand for, or None.

    A subclass says by `_has_classes` whether targets may be classes, which can be weighted, and by
    `_checked_arrays` and `_checked_inputs` what it takes.
    """

    @standard_settings()
    def compile(self, *args, **keywords) -> None:
        """As `keras.Model.compile`, without loss and metrics: the model has its own.

        Raises:
            ModelError: they are given.
        """
        given = arguments(super().compile, args, keywords)
        check_compile(given)
        super().compile(**given)

    def compile_from_config(self, config: dict) -> None:
        """What Keras does for a model of its own format, but leaves to a `compile` of our own.

        Files of earlier versions may name a loss or metrics, which were not used then either.
        """
        given = keras.saving.deserialize_keras_object(config)
        self.compile(**{name: part for name, part in given.items() if name not in INSTEAD})
        self.optimizer.build(self.trainable_variables)

    @standard_settings()
    def fit(self, *args, **keywords) -> keras.callbacks.History:
        """As `keras.Model.fit`, on arrays as they are: Keras would round them to `floatx`.

        `sample_weight` weighs the subjects in all parts of the loss, with and without a target.
        Arrays in memory are checked first, those of validation too; a data set is taken as it is.

        Raises:
            ModelError: targets or weights of classes that the model does not read, or arrays that
                it cannot be trained on.
        """
        given = self._checked_arguments(arguments(super().fit, args, keywords), training=True)
        given = heeded(given, self._has_classes())
        if given.get("epochs", 1) > given.get("initial_epoch", 0):
            self._before_training()
        return super().fit(**given)

    @standard_settings()
    def evaluate(self, *args, **keywords):
        """As `keras.Model.evaluate`; see `fit`."""
        given = arguments(super().evaluate, args, keywords)
        if not given.get("_use_cached_eval_dataset"):  # by which `fit` validates after each epoch
            given = self._checked_arguments(given)
        return super().evaluate(**heeded(given, self._has_classes()))

    @standard_settings()
    def predict(self, *args, **keywords):
        """As `keras.Model.predict`; see `fit`."""
        given = arguments(super().predict, args, keywords)
        if in_memory(given.get("x")):
            given["x"] = self._checked_inputs(given["x"])[0]
        return super().predict(**given)

    def train_on_batch(self, *args, **keywords):
        """As `keras.Model.train_on_batch`; see `fit`."""
        given = heeded(arguments(super().train_on_batch, args, keywords), self._has_classes())
        self._before_training()
        return super().train_on_batch(**given)

    def _checked_arguments(self, given: dict, training: bool = False) -> dict:
        """Arguments of `fit` or `evaluate`, by name, with arrays as `_checked_arrays` has them."""
        if in_memory(given.get("x")):
            x, y = self._checked_arrays(given["x"], given.get("y"), training)
            given = given | {"x": x, "y": y}
        validation = given.get("validation_data")
        if isinstance(validation, (tuple, list)) and validation and in_memory(validation[0]):
            x, y, *weight = (*validation, None)[: max(2, len(validation))]
            given["validation_data"] = *self._checked_arrays(x, y), *weight
        return given

    def _before_training(self) -> None:
        """Called before the network is changed, when nothing is left to be refused."""

    def _checked_arrays(self, x, y, training: bool = False) -> tuple:
        """Inputs and targets, or None, of all subjects; refused where they are none."""
        return x, y

    def _checked_inputs(self, x) -> tuple:
        """Inputs of N subjects, refused where they are none, and N."""
        return x, len(x[0] if isinstance(x, (tuple, list)) else x)

    def train_step(self, *args):
        """One step on a batch, or one for each batch of a call (see `steps`).

        Args:
            args: the data, and before it with JAX the values of all variables.
        """
        return self._steps(super().train_step, *args)

    def test_step(self, *args):
        """As `train_step`, without training."""
        return self._steps(super().test_step, *args)

    def _steps(self, step: Callable, *args):
        *state, data = args
        if not isinstance(data, dict):
            return step(*args)
        held, self.resident = self.resident, data.get("resident", self.resident)
        result = run_steps(step, data, *state)
        self.resident = held
        return self.get_metrics_result() if result is None else result

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What the history shows; reset at the start of each epoch."""
        return list(self.trackers.values())

    def _track(self, name: str, value, weight) -> None:
        self.trackers[name].update_state(value, sample_weight=ops.sum(weight))


def check_compile(given: Mapping) -> None:
    """Refuses what a model with its own loss and metrics would not use.

    Args:
        given: arguments of `compile` by name.

    Raises:
        ModelError: which it is, and what to do instead.
    """
    for name, instead in INSTEAD.items():
        value = given.get(name)
        empty = isinstance(value, (str, list, tuple, dict)) and not value
        if value is not None and not empty:
            raise ModelError(
                f"compile({name}={value!r}): the model has its own loss and metrics and would not "
                f"use it. Leave it out: {instead}."
            )


def arguments(method: Callable, args: Sequence, keywords: Mapping) -> dict:
    """The arguments of a call by name."""
    given = inspect.signature(method).bind(*args, **keywords).arguments
    return given | given.pop("kwargs", {})


def in_memory(x: object) -> bool:
    """Whether inputs are arrays, rather than a data set that gives batches."""
    first = (*x, None)[0] if isinstance(x, (tuple, list)) else x
    return hasattr(first, "__array__")


def heeded(given: dict, has_classes: bool) -> dict:
    """Arguments of `fit` and the like, so that Keras heeds the weights among them.

    Args:
        given: by name.
        has_classes: the model has classes as targets.

    Raises:
        ModelError: weights of classes, and no classes; weights of subjects below 0, or NaN.
    """
    if given.get("class_weight") and not has_classes:
        raise ModelError(
            "class_weight: this model has no classes as targets. Weigh the subjects with "
            "sample_weight, or give a head the task binary or multiclass."
        )
    if given.get("sample_weight") is not None:
        weight = given["sample_weight"]
        _check_weights(weight)
        given["y"] = _beside(given.get("x"), given.get("y"), weight)
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)) and len(validation) == 3:
        x, y, weight = validation
        if weight is not None:
            _check_weights(weight)
            y = _beside(x, y, weight)
        given["validation_data"] = x, y, weight
    return given


def _check_weights(weight: object) -> None:
    """Raises ModelError where a weight is below 0, whose loss has no bound, or NaN."""
    weight = np.asarray(weight, np.float64).ravel()
    if not (weight >= 0).all():
        row = int(np.argmin(weight >= 0))
        found = f"{weight[row]:g} in row {row}"
        raise ModelError(f"Expected sample weights of 0 or more. Received: {found}.")


def _beside(x: object, y: object, weight: object) -> object:
    """The targets; where arrays have none, targets without columns that carry the weights."""
    arrays = all(hasattr(part, "shape") for part in keras.tree.flatten(x))
    return np.zeros((np.shape(weight)[0], 0), np.float32) if y is None and arrays else y


def targets(y: object) -> object:
    """Targets as the loss is given them: None without columns, see `heeded`."""
    return None if hasattr(y, "shape") and y.shape[-1:] == (0,) else y


def check_no_targets(y: object) -> None:
    """Raises ModelError where a model without a head is given targets."""
    if y is not None:
        received = f"of shape {tuple(y.shape)}" if hasattr(y, "shape") else type(y).__name__
        raise ModelError(
            f"This model has no head: it would not read the targets it was given, {received}. "
            "Conditions belong to the inputs: fit((ecg, conditions)), with "
            "validation_data=((ecg, conditions),). To predict y, use VAEPrediction."
        )
