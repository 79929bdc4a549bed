"""Reads models that the published code saved: `parameters.pkl` and `weights.h5`.

A pickle can run any program when it is read in the usual way, and such files are handed around. The
reader here knows numbers, strings, lists and tuples, and refuses everything else before anything
is built from the file. Weights are read by name, each with the shape that the parameters ask for;
no Keras loader sees the file.

What the files do not say, and what is therefore assumed: the twelve leads in the standard order,
500 Hz, millivolts, conditions as bare numbers in an order that only the author knows.

Dims: L leads, T samples, C conditions, Z latent.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import h5py
import keras
import numpy as np

from data.conditions import ConditionSchema
from model.blocks import Stack
from model.network import ModelError
from model.saving import read_numbers

# Keyword arguments with which `vae.VAE` is the published network and objective.
PUBLISHED = {
    "independent_only": False,
    "batch_normalization": True,
    "output": "elu_batchnorm",
    "hidden": (),
    "linear_path": False,
    "noise": "mse",
    "condition_dropout": 0.0,
}
LARGEST_PICKLE = 2**16  # bytes; six values take 66
LARGEST_SIZE = 100_000  # of any of those values
LARGEST_WEIGHTS = 5 * 10**7  # numbers, 200 MB; the published model has 39,224

# What a pickle of plain values is made of. Nothing here names, calls or imports anything.
PLAIN_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
}
NORMALISATION = ("gamma", "beta", "moving_mean", "moving_variance")

# (part, layer) -> weight -> shape; part is "encoder", "decoder" or "classifier".
Layout = dict[tuple[str, str], dict[str, tuple[int, ...]]]


def load_published(
    folder: str | Path,
    *,
    task: str = "binary",
    schema: ConditionSchema | None = None,
    leads: Sequence[str] | None = None,
    sampling_rate: float = 500.0,
    unit_mv: float = 1.0,
) -> keras.Model:
    """Builds our model with published weights; `save` then writes it in our format.

    Posterior mean, log variance and decoded ECG are those of the published network in inference.
    The published encoder draws z at random; here `encode` gives the mean.

    The published prediction variant ends in sigmoid(z w + b) and uses that as its log hazard, so
    that no hazard ratio exceeds e. With task "binary" the head's output is the logit z w + b: the
    published risk is exactly `1 / (1 + exp(-model.predict_head(ecg, conditions)))`, and is no
    probability. With task "cox" the head is a linear log hazard z w. It ranks subjects as the
    published risk does and thus has the same C-index, but its scale was never fitted to survival
    times: fit it on before reading hazard ratios from it.

    Args:
        folder: with `parameters.pkl` and `weights.h5`.
        task: of the head of a prediction model, "binary" or "cox"; see above.
        schema: names of the C conditions in the "raw" encoding, if known, so that `generate` takes
            them by name. Without it conditions are given as arrays (N, C).
        leads: names of the L leads; by default the standard twelve if L is 12.
        sampling_rate: Hz.
        unit_mv: the unit in which the published model was given its ECGs, in mV: 0.001 if that was
            uV. Our model takes and gives mV.

    Returns:
        A `vae.VAE`, or a `vae_prediction.VAEPrediction` where there is a head.

    Raises:
        ModelError: the files are not there, not of that kind, do not fit each other, or ask for
            more than plain values.
    """
    folder = Path(folder)
    parameters = read_parameters(folder / "parameters.pkl")
    weights = read_weights(folder / "weights.h5", parameters)
    if not unit_mv > 0:
        raise ModelError(f"unit_mv: expected a number of mV above 0. Received: {unit_mv!r}.")

    from vae import VAE  # here, since vae.py imports this module for load_published

    known = {"schema": schema, "leads": leads, "sampling_rate": sampling_rate}
    if ("classifier", "dense") not in weights:
        model = VAE(**parameters, **PUBLISHED, **known)
    else:
        from vae_prediction import VAEPrediction

        if task not in ("binary", "cox"):
            raise ModelError(f'task: expected "binary" or "cox". Received: {task!r}.')
        model = VAEPrediction(**parameters, **PUBLISHED, **known, task=task)
        head = weights.pop(("classifier", "dense"))
        model.head.set_weights([head["kernel"], head["bias"]][: len(model.head.weights)])
    for (part, name), layer in _layers(model).items():
        for weight, value in weights[part, name].items():
            getattr(layer, weight).assign(value)
    model.scale.assign(unit_mv)
    return model


def read_parameters(file: str | Path) -> dict:
    """The six constructor arguments of a published model, from a pickle that is not trusted.

    Raises:
        ModelError: the file holds anything else.
    """
    file = Path(file)
    if not file.is_file():
        raise ModelError(f"{file} is missing: expected the folder of a published model.")
    if file.stat().st_size > LARGEST_PICKLE:
        raise ModelError(f"{file} is too large for six parameters; it was not read.")
    values = _plain_pickle(file)
    if not (_is_sequence(values) and len(values) == 6):
        _not_parameters(file, "six values")
    shape, filters, kernels, paddings, latent_space_dim, condition_dim = values
    layers = len(filters) if _is_sequence(filters) else 0
    for name, true in (
        ("an input shape (L, T) or (L, T, 1)", _are_sizes(shape) and len(shape) in (2, 3)),
        ("filters of each layer", layers > 0 and _are_sizes(filters)),
        (
            "a kernel (leads, samples) for each layer",
            _is_sequence(kernels)
            and len(kernels) == layers
            and all(_are_sizes(kernel) and len(kernel) == 2 for kernel in kernels),
        ),
        (
            'a padding "same" or "valid" for each layer',
            _is_sequence(paddings)
            and len(paddings) == layers
            and all(isinstance(each, str) and each in ("same", "valid") for each in paddings),
        ),
        ("a latent dimension", _are_sizes((latent_space_dim,))),
        ("a number of conditions", condition_dim == 0 or _are_sizes((condition_dim,))),
    ):
        if not true:
            _not_parameters(file, name)
    return {
        "input_shape": tuple(shape),
        "conv_filters": tuple(filters),
        "conv_kernels": tuple(tuple(kernel) for kernel in kernels),
        "conv_paddings": tuple(paddings),
        "latent_space_dim": latent_space_dim,
        "condition_dim": int(condition_dim),
    }


class _PlainUnpickler(pickle.Unpickler):
    """Knows no names (nor, as its parent, persistent ids): a second lock after `PLAIN_OPCODES`."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError("a name")


def _plain_pickle(file: Path) -> object:
    """Numbers, strings, None, and lists and tuples of them."""
    content = file.read_bytes()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in PLAIN_OPCODES:
                raise ModelError(
                    f"{file} holds more than plain values (pickle opcode {opcode.name}) and could "
                    "run a program when read: refused, and nothing of it was run."
                )
            # The unpickler makes room for as many objects as the largest number asks for.
            if "PUT" in opcode.name and argument > LARGEST_PICKLE:
                raise ValueError("a memo index beyond the size of the file")
        return _PlainUnpickler(io.BytesIO(content)).load()
    except ModelError:
        raise
    except (pickle.UnpicklingError, ValueError, LookupError, TypeError, EOFError) as error:
        raise ModelError(f"{file} is no pickle, or is cut short. Copy it again.") from error


def _is_sequence(value: object) -> bool:
    return type(value) in (list, tuple)


def _are_sizes(values: object) -> bool:
    return _is_sequence(values) and all(
        type(value) is int and 0 < value <= LARGEST_SIZE for value in values
    )


def _not_parameters(file: Path, expected: str) -> NoReturn:
    # Without the value: it may be huge, or refer to itself.
    raise ModelError(
        f"{file} does not hold the parameters of a published model: expected {expected} (input "
        "shape, filters, kernels, paddings, latent dimension, number of conditions)."
    )


def read_weights(file: str | Path, parameters: Mapping) -> dict[tuple, dict[str, np.ndarray]]:
    """The weights of a published model by layer, each checked for its shape before it is read.

    Args:
        file: HDF5, in the layout of Keras 2.
        parameters: as from `read_parameters`.

    Returns:
        (part, layer) -> weight -> float32 array.

    Raises:
        ModelError: a weight is missing, has another shape, is no number, or has no place.
    """
    file = Path(file)
    if not file.is_file():
        raise ModelError(f"{file} is missing: expected the folder of a published model.")
    try:
        with h5py.File(file, "r") as content:
            datasets = _datasets(file, content)
            has_head = any(part == "classifier" for part, *_ in datasets)
            layout = published_layout(parameters, has_head)
            expected = {
                (*layer, weight): shape
                for layer, weights in layout.items()
                for weight, shape in weights.items()
            }
            _compare(file, {place: found.shape for place, found in datasets.items()}, expected)
            return {
                layer: {name: _numbers(file, datasets[(*layer, name)]) for name in weights}
                for layer, weights in layout.items()
            }
    except ModelError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(f"{file} is no HDF5 file, or is damaged. Copy it again.") from error


def _datasets(file: Path, content: h5py.File) -> dict[tuple[str, str, str], h5py.Dataset]:
    """(part, layer, weight) -> dataset."""
    found = {}

    def collect(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        names = path.split("/")
        place = _place(names[0], names[-2] if len(names) > 2 else "", names[-1])
        if place in found:
            raise ModelError(f"{file} holds {'/'.join(place)} twice.")
        found[place] = item

    content.visititems(collect)  # which follows no link to another file
    if sum(item.size or 0 for item in found.values()) > LARGEST_WEIGHTS:
        raise ModelError(f"{file} holds more than {LARGEST_WEIGHTS:,} numbers; it was not read.")
    return found


def _place(part: str, layer: str, weight: str) -> tuple[str, str, str]:
    """Without the numbers that Keras gives: batch_normalization_7 / gamma:0 -> its plain name."""
    for plain in ("batch_normalization", "dense"):
        if layer.startswith(f"{plain}_") and layer.removeprefix(f"{plain}_").isdigit():
            layer = plain
    return part, layer, weight.partition(":")[0]


def published_layout(parameters: Mapping, has_head: bool) -> Layout:
    """Names and shapes of all weights, as the published code names them and our network needs them.

    The published decoder has other filters than ours where those of the layers differ (it does not
    mirror the encoder then): such weights do not fit.
    """
    z, c = parameters["latent_space_dim"], parameters["condition_dim"]
    height, width = parameters["input_shape"][:2]
    layout: Layout = {}
    channels = [1, *parameters["conv_filters"]]
    kernels = parameters["conv_kernels"]
    for number, (kernel, padding) in enumerate(
        zip(kernels, parameters["conv_paddings"], strict=True), 1
    ):
        inputs, outputs = channels[number - 1], channels[number]
        layout["encoder", f"encoder_conv_layer_{number}"] = {
            "kernel": (*kernel, inputs, outputs),
            "bias": (outputs,),
        }
        layout["encoder", f"encoder_bn_{number}"] = dict.fromkeys(NORMALISATION, (outputs,))
        if padding == "valid":
            height, width = height - kernel[0] + 1, width - kernel[1] + 1
    code = max(height, 0) * -(-max(width, 0) // 2) * channels[-1]
    layout["encoder", "batch_normalization"] = dict.fromkeys(NORMALISATION, (code + c,))
    for name in ("mu", "log_variance"):
        layout["encoder", name] = {"kernel": (code + c, z), "bias": (z,)}

    layout["decoder", "batch_normalization"] = dict.fromkeys(NORMALISATION, (z + c,))
    layout["decoder", "decoder_dense"] = {"kernel": (z + c, code), "bias": (code,)}
    for number, kernel in enumerate(reversed(kernels), 1):
        inputs, outputs = channels[len(kernels) + 1 - number], channels[len(kernels) - number]
        layout["decoder", f"decoder_conv_transpose_layer_{number}"] = {
            "kernel": (*kernel, outputs, inputs),
            "bias": (outputs,),
        }
        layout["decoder", f"decoder_bn_{number}"] = dict.fromkeys(NORMALISATION, (outputs,))
    if has_head:
        layout["classifier", "dense"] = {"kernel": (z, 1), "bias": (1,)}
    return layout


def _compare(file: Path, found: dict, expected: dict) -> None:
    for place in (*expected, *found):
        name = "/".join(place)
        if place not in found:
            raise ModelError(f"{file} has no weight {name}: is it that of a published model?")
        if place not in expected:
            raise ModelError(f"{file} holds {name}, which the network has no place for.")
        if found[place] != expected[place]:
            hint = ""
            if name.startswith("decoder/decoder_"):
                hint = " Layers of different filters are not mirrored in published decoders."
            raise ModelError(
                f"{file}: expected {name} of shape {expected[place]}, as parameters.pkl asks for. "
                f"Received: {found[place]}.{hint}"
            )


def _numbers(file: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A dataset of this very file as float32."""
    try:
        return read_numbers(dataset).astype(np.float32)
    except ValueError as error:
        raise ModelError(f"{file}: {error}") from error


def _layers(model: keras.Model) -> dict[tuple[str, str], object]:
    """Our layers by their published names."""
    named = {
        ("encoder", "mu"): model.encoder.get_layer("mean"),
        ("encoder", "log_variance"): model.encoder.get_layer("log_var"),
        ("decoder", "decoder_dense"): model.decoder.get_layer("dense_of_latent"),
    }
    for part, convolution in (("encoder", "conv_layer"), ("decoder", "conv_transpose_layer")):
        layers = [
            inner
            for layer in getattr(model, part).layers
            for inner in (layer.layers if isinstance(layer, Stack) else [layer])
        ]
        convolutions = [layer for layer in layers if hasattr(layer, "kernel_size")]
        # One after each convolution, and one of the code: last in the encoder, first in the
        # decoder.
        normalisations = [layer for layer in layers if hasattr(layer, "moving_mean")]
        of_code = normalisations.pop(-1 if part == "encoder" else 0)
        named[part, "batch_normalization"] = of_code
        pairs = zip(convolutions, normalisations, strict=True)
        for number, (layer, normalisation) in enumerate(pairs, 1):
            named[part, f"{part}_{convolution}_{number}"] = layer
            named[part, f"{part}_bn_{number}"] = normalisation
    return named
