"""What a user hands over: ECGs and conditions are checked here, and run through a model in batches.

Dims: N subjects, B batch, L leads, T samples, C conditions as encoded, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from keras import ops

from data.conditions import ConditionSchema, finite_numbers
from data.rows import Rows, chunks, stored
from data.units import MV, UNITS
from model.network import ModelError

PREDICT_BATCH = 512
FEW = 16  # the other length that is compiled with JAX
TYPICAL = 2.0  # mV from peak to peak; a resting ECG has 0.2 to 10 in its largest lead
# ECGs this many times larger or smaller than the model's are in another unit: the units in use are
# 1000 apart, and this is half of that on a logarithmic scale.
OTHER_UNIT = 1000**0.5

Conditions = pd.DataFrame | Mapping[str, object] | np.ndarray
NAMED = pd.DataFrame, pd.Series, Mapping  # what has names


def typical_of(unit: str) -> float:
    """Peak-to-peak amplitude of a resting ECG in this unit."""
    return TYPICAL / UNITS[unit].mv


def checked_ecg(
    ecg: np.ndarray | Rows, shape: tuple[int, int], typical: float = TYPICAL, unit: str = MV
) -> np.ndarray | Rows:
    """ECGs (N, L, T) that are finite and in `unit`; a memory map comes back as `Rows` of its file.

    Args:
        ecg: (N, L, T) or (N, L, T, 1), in `unit`.
        shape: (L, T) that the model works on.
        typical: peak-to-peak amplitude of ECGs in the right unit.
        unit: which that is; see `data.units`.

    Raises:
        ModelError: another shape or unit, NaN, infinite values, or no numbers at all.
    """
    called = UNITS[unit].amplitude
    ecg = ecg if isinstance(ecg, (np.ndarray, Rows)) else np.asarray(ecg)
    if ecg.dtype.kind not in "fiu":
        raise ModelError(f"Expected ecg as numbers in {called}. Received: {ecg.dtype}.")
    if ecg.ndim == 4 and ecg.shape[-1] == 1:
        ecg = ecg[..., 0]
    if ecg.ndim != 3 or ecg.shape[1:] != shape or len(ecg) == 0:
        hint = ""
        if ecg.ndim == 3 and ecg.shape[1:] == shape[::-1]:
            hint = " Are leads and samples swapped?"
        if ecg.shape == shape:
            hint = " For one ECG give ecg[None]."
        raise ModelError(
            f"Expected ecg of shape (N, {shape[0]}, {shape[1]}) in {called}. "
            f"Received: {ecg.shape}.{hint}"
        )
    ecg = stored(ecg)
    _check_unit(_peak_to_peak(ecg), typical, unit)
    return ecg


def _peak_to_peak(ecg: np.ndarray | Rows) -> float:
    """Of the largest lead of each ECG (N, L, T), the median; no more than a chunk is in memory.

    Raises:
        ModelError: NaN or infinite values.
    """
    found = np.empty(len(ecg))
    for start, chunk in chunks(ecg):
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            chunk = chunk.astype(np.float32, copy=False)
        finite = np.isfinite(chunk).all(axis=(1, 2))
        if not finite.all():
            raise ModelError(f"ECG {start + int(np.argmin(finite))} has NaN or infinite values.")
        found[start : start + len(chunk)] = np.ptp(chunk, axis=2).max(axis=1)
    return float(np.median(found))


def _check_unit(received: float, expected: float, unit: str) -> None:
    """Refuses ECGs whose typical peak-to-peak amplitude is that of another unit."""
    if expected / OTHER_UNIT < received < expected * OTHER_UNIT:
        return
    called = UNITS[unit].amplitude
    like = "microvolts or raw units" if received > expected else "volts, or flat"
    if unit != MV:
        like = "another unit" if received > expected else "another unit, or flat"
    raise ModelError(
        f"Expected ECGs in {called}, with a peak-to-peak amplitude of about {expected:.2g} "
        f"(median). Received: {received:.4g}: these look like {like}. Convert them to {called}."
    )


def encoded_conditions(
    conditions: Conditions | None, n: int | None, schema: ConditionSchema | None, condition_dim: int
) -> np.ndarray:
    """Conditions in any form -> (N, C) float32; None or {} is all unknown to a schema.

    Without one nobody knows what 0 means: of bare values it is age 0 and the first sex.

    Args:
        conditions: a table, a mapping, or an encoded array.
        n: number of subjects, where it is known.
        schema: of the model, if it has one.
        condition_dim: C.

    Raises:
        ModelError: another shape or number of subjects, or a model without schema and no array.
        ConditionError: an unknown name or value.
    """
    row = isinstance(conditions, pd.Series)
    if row or isinstance(conditions, (list, tuple)):
        instead = "table.iloc[[0]] for a row" if row else "pandas.DataFrame(rows) for rows as dicts"
        raise ModelError(
            "Expected conditions as a table, a mapping of columns or an encoded array. Received a "
            f"{type(conditions).__name__}: give a table, {instead}."
        )
    if hasattr(conditions, "__array__") and not isinstance(conditions, NAMED):
        conditions = np.asarray(conditions)  # a tensor
    if isinstance(conditions, np.ndarray) or schema is None:
        nothing = conditions is None or (isinstance(conditions, Mapping) and not conditions)
        if nothing and condition_dim == 0:
            conditions = np.zeros((n or 1, 0), np.float32)
        if not isinstance(conditions, np.ndarray):
            raise ModelError(
                "This model has no schema: give conditions as an encoded array "
                f"(N, {condition_dim}), to `decode` with latents where you would generate."
            )
        if conditions.ndim != 2 or conditions.shape[1] != condition_dim:
            raise ModelError(
                f"Expected conditions of shape (N, {condition_dim}). Got: {conditions.shape}."
            )
        encoded = finite_numbers(conditions)
    else:
        encoded = schema.encode({} if conditions is None else conditions, n)
    if n is not None and len(encoded) != n:
        raise ModelError(f"Expected conditions of {n} subjects. Received: {len(encoded)}.")
    return encoded


def check_unknown(schema: ConditionSchema | None, condition_dim: int) -> None:
    """Refuses to leave out conditions where 0 is a value."""
    if condition_dim and (schema is None or schema.encoding == "raw"):
        raise ModelError(
            f"Expected (ecg, conditions), the latter (N, {condition_dim}). Received no "
            "conditions: in this model 0 is a value, not an unknown one."
        )


def group_matrix(widths: Sequence[int]) -> np.ndarray:
    """(conditions, C) matrix of 0 and 1: which encoded columns belong to which condition."""
    return np.repeat(np.eye(len(widths), dtype=np.float32), widths, axis=1)


def checked_latent(z: np.ndarray, latent_space_dim: int) -> np.ndarray:
    """Latents (N, Z), finite, as float32.

    Raises:
        ModelError: another shape, NaN or infinite values.
    """
    z = np.asarray(z, dtype=np.float32)
    if z.ndim != 2 or z.shape[1] != latent_space_dim:
        raise ModelError(f"Expected z of shape (N, {latent_space_dim}). Got: {z.shape}.")
    if not np.isfinite(z).all():
        row = int(np.argmin(np.isfinite(z).all(axis=1)))
        raise ModelError(f"Row {row} of z has NaN or infinite values.")
    return z


def check_draws(n: object, seed: object) -> None:
    """Raises ModelError where a number of draws or their seed is none."""
    if not (isinstance(n, (int, np.integer)) and n >= 1):
        raise ModelError(f"Expected n of 1 or more. Received: {n!r}.")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise ModelError(f"Expected a seed of 0 or more. Received: {seed!r}.")


class InBatches:
    """A function of tensors that takes arrays of any length, batch by batch.

    Args:
        function: from tensors (B, ...) to a list of tensors (B, ...).
        model: whose weights the function reads.
        compile: with XLA where there are several batches: in a fifth of a second, and then twice as
            fast as one operation at a time. JAX compiles each operation for each length otherwise,
            thousands in an evaluation, so with it this is always done, for two lengths.
    """

    def __init__(self, function: Callable, model: keras.Model, compile: bool = True) -> None:
        self._function, self._model, self._compile = function, model, compile
        self._compiled = None

    def __call__(self, *parts: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Yields rows, and what the function gives for these rows of its arguments (N, ...)."""
        length = self._length(len(parts[0]))
        if length:
            function = self._compiled = self._compiled or compiled(self._function, self._model)
        else:
            function = _of_arrays(self._function)
        for start in range(0, len(parts[0]), PREDICT_BATCH):
            batch = [np.asarray(part[start : start + PREDICT_BATCH], np.float32) for part in parts]
            n = len(batch[0])
            if n < length:  # another shape would be compiled anew
                batch = [np.resize(part, (length, *part.shape[1:])) for part in batch]
            outputs = function(*batch)
            yield slice(start, start + n), [ops.convert_to_numpy(one)[:n] for one in outputs]

    def _length(self, n: int) -> int:
        """Rows to which each batch of N is filled for the compiled function; 0: not compiled."""
        if keras.backend.backend() == "jax":
            return FEW if n <= FEW else PREDICT_BATCH
        return PREDICT_BATCH if self._compile and n > PREDICT_BATCH else 0


def compiled(function: Callable, model: keras.Model) -> Callable:
    """A function of tensors and of the weights of a model, compiled with XLA; one of arrays.

    Not compiled where the backend is neither TensorFlow nor JAX.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return _of_arrays(tf.function(function, jit_compile=True, autograph=False))
    if keras.backend.backend() != "jax":
        return _of_arrays(function)
    import jax

    @jax.jit
    def stateless(values, *inputs):  # weights as constants of the program would stay as they were
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*inputs)

    return lambda *inputs: stateless([one.value for one in model.variables], *inputs)


def _of_arrays(function: Callable) -> Callable:
    return lambda *inputs: function(*map(ops.convert_to_tensor, inputs))
