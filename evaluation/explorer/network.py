"""The decoder and the head of a model as plain operations and numbers, for a page to run.

`model.js` has a function for each kind of operation that is named here.

Dims: C conditions as encoded, I leads that the network works on, L leads, T samples, Z latent.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers

from data.tasks import kind_of
from model.blocks import Stack
from model.warp import FASTEST, TimeWarp

if TYPE_CHECKING:
    from vae import VAE

STEPS = 200  # of the baseline hazard: even in time, so that no subject's own event time is told


class ExplorerError(ValueError):
    """A model that the page cannot run."""


class Numbers:
    """Arrays, one after another, as 32-bit floats."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._size = 0

    def add(self, values: object) -> list[int]:
        """Keeps an array (or tensor); returns where it begins, and its shape."""
        values = np.asarray(keras.ops.convert_to_numpy(values), "<f4")
        place = [self._size, *values.shape]
        self._parts.append(values.ravel())
        self._size += values.size
        return place

    def base64(self) -> str:
        """All of them, as text."""
        return base64.b64encode(np.concatenate(self._parts).tobytes()).decode("ascii")


def network(model: VAE, numbers: Numbers) -> dict:
    """What decodes a latent and conditions, with its weights in `numbers`.

    Returns:
        `decoder`: operations, of which each reads earlier results by number; 0 is z (Z,), 1 the
        conditions (C,), the last the deviation (I, T) from the mean beat. `unit` (I, T) mV is a
        deviation of 1, `mean_beat` (I, T) mV, and `expansion` (L, I) makes all leads, if not null.

    Raises:
        ExplorerError: a layer that the page has no function for.
    """
    expansion = model._expansion
    return {
        "decoder": operations(model.decoder, numbers),
        "unit": numbers.add(model.scale * model.profile * keras.ops.ones(model.mean_beat.shape)),
        "mean_beat": numbers.add(model.mean_beat),
        "expansion": None if expansion is None else numbers.add(expansion),
    }


def operations(decoder: keras.Model, numbers: Numbers) -> list[dict]:
    """The layers of a functional model of two inputs, in the order in which they run."""
    found = {id(tensor): number for number, tensor in enumerate(decoder.inputs)}
    listed: list[dict] = []
    for layer in decoder.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        inputs = [found[id(tensor)] for tensor in inputs]
        for part in layer.layers if isinstance(layer, Stack) else [layer]:
            listed.append({"kind": "", "inputs": inputs, **_described(part, numbers)})
            inputs = [len(listed) + 1]  # after the two inputs
        found[id(layer.output)] = inputs[0]
    return listed


def _described(layer: layers.Layer, numbers: Numbers) -> dict:
    """One layer: its kind, and what it computes with."""
    if isinstance(layer, layers.Concatenate):
        return {"kind": "concatenate"}
    if isinstance(layer, layers.Add):
        return {"kind": "add"}
    if isinstance(layer, layers.Reshape):
        return {"kind": "reshape", "shape": list(layer.target_shape)}
    if isinstance(layer, layers.Dense):
        return {"kind": "dense", **_kernel(layer, numbers)}
    if isinstance(layer, layers.BatchNormalization):
        variance = keras.ops.convert_to_numpy(layer.moving_variance).astype(np.float64)
        scale = layer.gamma / np.sqrt(variance + layer.epsilon)
        shift = layer.beta - layer.moving_mean * scale
        return {
            "kind": "normalise",
            "scale": numbers.add(scale),
            "shift": numbers.add(shift),
        }
    if isinstance(layer, layers.UpSampling2D) and layer.size == (1, 2):
        return {"kind": "repeat"}
    if isinstance(layer, layers.Cropping2D) and layer.cropping == ((0, 0), (0, 1)):
        return {"kind": "crop"}
    if isinstance(layer, layers.Conv2DTranspose) and set(layer.strides) == {1}:
        same = layer.padding == "same"
        return {"kind": "convolve", "same": same, **_kernel(layer, numbers)}
    if isinstance(layer, TimeWarp):
        return {
            "kind": "warp",
            "mean_beat": numbers.add(layer.mean_beat),
            "profile": numbers.add(layer.profile),
            "between": numbers.add(layer.between),
            "fiducial": layer.qrs_sample,
            "fastest": FASTEST,
        }
    raise ExplorerError(
        f"The page cannot run the layer {layer.name!r} ({type(layer).__name__}) of this decoder: "
        "it knows those of model/network.py."
    )


def _kernel(layer: layers.Layer, numbers: Numbers) -> dict:
    activation = layer.activation.__name__
    if activation not in ("linear", "elu"):
        raise ExplorerError(f"{layer.name!r}: expected linear or elu. Received: {activation}.")
    return {
        "kernel": numbers.add(layer.kernel),
        "bias": numbers.add(layer.bias) if layer.use_bias else None,
        "elu": activation == "elu",
    }


def head(model: VAE, numbers: Numbers) -> dict | None:
    """The head of a `VAEPrediction`; with a fitted Cox head, the baseline hazard at even times."""
    task = getattr(model, "task", "none")
    kind = kind_of(task)
    if kind == "none":
        return None
    described = {
        "task": task,
        "kind": kind,
        "told": model.settings["head_inputs"] == "latent_and_conditions",
        "mean": float(model.target_mean),
        "sd": float(model.target_sd),
        **_kernel(model.head, numbers),
    }
    if model.baseline is not None:
        times, hazard = (np.asarray(model.baseline[k]) for k in ("times", "cumulative_hazard"))
        even = np.linspace(0, np.ceil(10 * times[-1]) / 10, STEPS + 1)
        position = np.searchsorted(times, even, side="right")
        described["times"] = even.tolist()
        hazard = np.minimum(hazard, np.finfo(np.float32).max)  # infinity is no JSON
        described["hazard"] = np.concatenate([[0.0], hazard])[position].tolist()
    return described
