"""What Keras is asked for on top of a model, and would leave out without a word.

The model brings its own loss, metrics and targets. Keras passes weights on beside a target only,
and an argument that nothing reads is an argument that somebody believes in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from model.network import ModelError

# Argument of `compile` -> what to do instead.
INSTEAD = {
    "loss": 'noise="mse" is the mean squared error; the loss of a head goes by its task; a '
    "subclass adds to the loss in extra_loss",
    "loss_weights": "kl_weight and task_weight weigh its parts",
    "metrics": "the history shows those of the model; measure others on what predict, reconstruct "
    "or predict_head give",
    "weighted_metrics": "the metrics of the model are weighted already",
}


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


def heeded(given: dict, has_classes: bool) -> dict:
    """Arguments of `fit` and the like, so that Keras heeds the weights among them.

    Args:
        given: by name.
        has_classes: the model has classes as targets.

    Raises:
        ModelError: weights of classes, and no classes.
    """
    if given.get("class_weight") and not has_classes:
        raise ModelError(
            "class_weight: this model has no classes as targets. Weigh the subjects with "
            "sample_weight, or give a head the task binary or multiclass."
        )
    if given.get("sample_weight") is not None:
        weight = given["sample_weight"]
        given["y"] = _beside(given.get("x"), given.get("y"), weight)
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)) and len(validation) == 3:
        x, y, weight = validation
        given["validation_data"] = x, y if weight is None else _beside(x, y, weight), weight
    return given


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
