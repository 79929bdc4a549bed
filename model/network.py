"""The two halves of the network: the encoder and its mirror image, the decoder.

Both are functional Keras models made from one dictionary of settings, the constructor arguments of
`vae.VAE`, which documents them. To change the network, change it here.

Dims: B batch, I leads that the network works on, T samples, C conditions, Z latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import layers

from data.conditions import ConditionSchema
from data.leads import LEADS
from data.units import UNITS
from model.blocks import Stack
from model.noise import DEVIATIONS, KINDS
from model.replicas import replicas
from model.user_keras import standard_settings
from model.warp import TimeWarp

# Under mixed precision, what leads from and to ECG and latent stays float32: rounded to bfloat16, a
# beat of 1 mV is off by 4 uV.
EXACT = {"dtype": "float32"}


class ModelError(ValueError):
    """An argument, an input or a folder that no model can be made of."""


@standard_settings()
def build_encoder(settings: dict, shape: tuple[int, int]) -> tuple[keras.Model, tuple]:
    """(ecg (B, I, T), conditions (B, C)) -> (mean, log_var); and the shape before flattening."""
    z_dim, linear = settings["latent_space_dim"], settings["linear_path"]
    ecg = keras.Input(shape, name="ecg")
    conditions = keras.Input((settings["condition_dim"],), name="conditions")
    stack = []
    for filters, kernel, padding in _convolutions(settings, shape[0]):
        stack.append(layers.Conv2D(filters, kernel, padding=padding, activation="elu"))
        stack += _normalisation(settings)
    # padding="same" keeps the last of an odd number of samples; the decoder crops its partner.
    stack.append(layers.AveragePooling2D((1, 2), padding="same"))
    x = layers.Reshape((*shape, 1))(ecg)  # (B, I, T, 1)
    x = Stack(stack, name="convolutions")(x)
    code_shape = x.shape[1:]
    x = layers.Concatenate()([layers.Flatten()(x), conditions])
    x = _normalised(x, settings)
    for width in settings["hidden"]:
        x = _normalised(layers.Dense(width, activation="elu")(x), settings)
    # float32: exp(log_var) overflows float16 above 11. Zero: with a linear path, start at PCA.
    head = {**EXACT, "kernel_initializer": "zeros" if linear else "glorot_uniform"}
    mean = layers.Dense(z_dim, name="mean", **head)(x)
    log_var = layers.Dense(z_dim, name="log_var", **head)(x)
    if linear:
        flat = layers.Concatenate(**EXACT)([layers.Flatten(**EXACT)(ecg), conditions])
        linear_mean = layers.Dense(z_dim, use_bias=False, name="linear_mean", **EXACT)(flat)
        mean = layers.Add(**EXACT)([mean, linear_mean])
    return keras.Model([ecg, conditions], [mean, log_var], name="encoder"), code_shape


@standard_settings()
def build_decoder(settings: dict, shape: tuple[int, int], code_shape: tuple) -> keras.Model:
    """Decoder (z (B, Z), conditions (B, C)) -> (B, I, T): the encoder mirrored."""
    linear = settings["linear_path"]
    convolutions = _convolutions(settings, shape[0])
    z = keras.Input((settings["latent_space_dim"],), name="z")
    conditions = keras.Input((settings["condition_dim"],), name="conditions")
    inputs = layers.Concatenate(**EXACT)([z, conditions])
    x = _normalised(inputs, settings)
    for number, width in enumerate(reversed(settings["hidden"])):
        name = "dense_of_latent" if number == 0 else None
        x = _normalised(layers.Dense(width, activation="elu", name=name)(x), settings)
    last_hidden = x
    name = None if settings["hidden"] else "dense_of_latent"
    x = layers.Dense(math.prod(code_shape), name=name)(x)
    x = layers.Reshape(code_shape)(x)
    stack = [layers.UpSampling2D((1, 2))]
    lost = sum(width - 1 for _, (_, width), padding in convolutions if padding == "valid")
    if (shape[1] - lost) % 2:
        stack.append(layers.Cropping2D(((0, 0), (0, 1))))
    # A convolution from f to g filters is mirrored by one from g to f, the first one to 1.
    mirrored = zip((1, *settings["conv_filters"]), convolutions, strict=False)
    for number, (filters, (_, kernel, padding)) in reversed(list(enumerate(mirrored))):
        last = number == 0
        plain = last and settings["output"] == "linear"
        stack.append(
            layers.Conv2DTranspose(
                filters,
                kernel,
                padding=padding,
                activation=None if plain else "elu",
                kernel_initializer="zeros" if plain and linear else "glorot_uniform",
                dtype="float32" if last else None,
            )
        )
        if not plain:
            stack += _normalisation(settings)
    x = Stack(stack, name="convolutions")(x)
    x = layers.Reshape(shape, **EXACT)(x)  # (B, I, T)
    if linear:
        ecg = layers.Dense(math.prod(shape), name="linear_ecg", **EXACT)(inputs)
        x = layers.Add(**EXACT)([x, layers.Reshape(shape, **EXACT)(ecg)])
    if settings["time_warp"]:
        speeds = layers.Dense(
            settings["time_warp"], kernel_initializer="zeros", name="speeds", **EXACT
        )(last_hidden)
        x = TimeWarp(settings["qrs_sample"], name="time_warp", **EXACT)([x, speeds])
    return keras.Model([z, conditions], x, name="decoder")


def _normalisation(settings: dict) -> list[layers.Layer]:
    """The layer after another one, if there is one."""
    if not settings["batch_normalization"]:
        return []
    # With several devices the statistics are those of the rows of all.
    return [layers.BatchNormalization(synchronized=replicas() > 1)]


def _normalised(x, settings: dict):
    for layer in _normalisation(settings):
        x = layer(x)
    return x


def _convolutions(settings: dict, n_leads: int) -> list[tuple[int, tuple[int, int], str]]:
    """(filters, kernel, padding) of each encoder convolution; full-height kernels fit the leads."""
    full = settings["input_shape"][0]
    return [
        (filters, (n_leads if height == full else height, width), padding)
        for filters, (height, width), padding in zip(
            settings["conv_filters"],
            settings["conv_kernels"],
            settings["conv_paddings"],
            strict=True,
        )
    ]


def kernel_pairs(kernels: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Kernels (leads, samples) as plain values; ModelError where they are no pairs."""
    try:
        return tuple((int(height), int(width)) for height, width in kernels)
    except TypeError as error:
        raise ModelError(
            f"Expected conv_kernels as pairs (leads, samples). Received: {kernels}."
        ) from error


def lead_names(leads: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Names of the leads; where there are none, the standard twelve for twelve leads."""
    if leads is None:
        leads = LEADS if count == len(LEADS) else [f"lead{n + 1}" for n in range(count)]
    return tuple(leads)


def check_settings(
    settings: dict, schema: ConditionSchema | None, network_leads: tuple[str, ...]
) -> None:
    """Raises ModelError where the arguments do not make a network."""
    shape = settings["input_shape"]
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)) or min(shape) < 1:
        raise ModelError(f"Expected input_shape (L, T) or (L, T, 1). Received: {shape}.")
    if len(settings["leads"]) != shape[0] or len(set(settings["leads"])) != shape[0]:
        raise ModelError(f"Expected {shape[0]} different leads. Received: {settings['leads']}.")
    if not 0 <= settings["qrs_sample"] < shape[1]:
        raise ModelError(
            f"qrs_sample: expected 0 to {shape[1] - 1}, on one of the {shape[1]} samples. "
            f"Received: {settings['qrs_sample']}."
        )
    if settings["unit"] not in UNITS:
        raise ModelError(f"Expected a unit among {list(UNITS)}. Received: {settings['unit']!r}.")
    lengths = [len(settings[f"conv_{part}"]) for part in ("filters", "kernels", "paddings")]
    if len(set(lengths)) != 1 or 0 in lengths:
        raise ModelError(
            "Expected conv_filters, conv_kernels and conv_paddings of one length, one entry per "
            f"layer. Received lengths: {lengths}."
        )
    size = [len(network_leads), shape[1]]
    for number, (filters, kernel, padding) in enumerate(_convolutions(settings, size[0])):
        if filters < 1 or min(kernel) < 1 or padding not in ("same", "valid"):
            raise ModelError(
                f"Convolution {number}: expected at least one filter, a kernel of at least (1, 1) "
                f'and padding "same" or "valid". Received: {filters}, {kernel}, {padding!r}.'
            )
        if padding == "valid":
            if kernel[0] > size[0] or kernel[1] > size[1]:
                raise ModelError(
                    f"Convolution {number}: the kernel {kernel} is larger than its input of "
                    f"{size[0]} leads x {size[1]} samples. The network works on {network_leads}."
                )
            size = [size[0] - kernel[0] + 1, size[1] - kernel[1] + 1]
    if size[1] < 2:
        raise ModelError("The convolutions leave fewer than 2 samples: use shorter kernels.")
    if settings["latent_space_dim"] < 1 or settings["condition_dim"] < 0:
        raise ModelError("Expected latent_space_dim of at least 1 and condition_dim of at least 0.")
    if min(settings["hidden"], default=1) < 1:
        raise ModelError(f"Expected hidden widths of at least 1. Received: {settings['hidden']}.")
    if schema is not None and schema.dim != settings["condition_dim"]:
        raise ModelError(
            f"The schema encodes {schema.names} in {schema.dim} columns, but condition_dim is "
            f"{settings['condition_dim']}."
        )
    if settings["output"] not in ("linear", "elu_batchnorm"):
        raise ModelError(f"output: linear or elu_batchnorm. Received: {settings['output']!r}.")
    if settings["output"] == "elu_batchnorm" and not settings["batch_normalization"]:
        raise ModelError('output="elu_batchnorm" needs batch_normalization=True.')
    knots = settings["time_warp"]
    if knots != 0 and not 2 <= knots <= shape[1]:
        raise ModelError(f"time_warp: 0, or 2 to {shape[1]} knots. Received: {knots}.")
    noise = settings["noise"]
    if noise not in KINDS and not (isinstance(noise, (int, float)) and noise > 0):
        raise ModelError(f"noise: one of {KINDS} or a number of mV above 0. Received: {noise!r}.")
    if not 0 <= settings["profile_power"] <= 1:
        raise ModelError(f"profile_power: in [0, 1]. Received: {settings['profile_power']}.")
    if settings["deviations"] not in DEVIATIONS:
        expected, received = " or ".join(DEVIATIONS), settings["deviations"]
        raise ModelError(f"deviations: {expected}. Received: {received!r}.")
    if settings["deviations"] == "absolute" and noise != "per_sample":
        raise ModelError(
            'deviations="absolute" needs noise="per_sample", which is fitted after training. '
            f"Received: noise={noise!r}."
        )
    for name, high in (("kl_weight", math.inf), ("free_bits", math.inf), ("condition_dropout", 1)):
        if not 0 <= settings[name] < high:
            raise ModelError(f"Expected {name} in [0, {high}). Received: {settings[name]}.")
    if settings["condition_dropout"] and schema is None:
        raise ModelError(
            "condition_dropout needs a schema, which says what columns belong together."
        )
    if settings["condition_dropout"] and schema.encoding == "raw":
        raise ModelError(
            "The raw encoding has no place for a hidden condition: set condition_dropout to 0, "
            'or encode conditions as "standard".'
        )
