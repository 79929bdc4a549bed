"""Reads conditions from ECGs: ridge regression on the samples of the beat.

Used to judge generated ECGs. If a regressor trained on real ECGs reads a condition from generated
ones much better than from real ones, the generator has collapsed onto that condition; if much
worse, it does not follow it. `utility.py` trains one on generated ECGs instead.

Dims: N recordings, K generated ECGs for each, D inputs, B bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.cohort import LEADS, Cohort, independent_leads
from data.conditions import ConditionSchema
from data.rows import chunks
from evaluation.measures.latent import probe_targets
from evaluation.measures.statistics import DRAWS, weighted_auc, weightings, with_interval

POOLED = 4  # samples averaged: 8 ms at 500 Hz
# Training recordings, and test recordings to generate for. Ten times as many would narrow the
# intervals a little, while the ECGs generated for both took 3 GB and the distances of
# `privacy.py` an hour.
MOST = 10_000
FEWEST = 10  # recordings that know a condition, in each split; with fewer it is left out
# As shares of the largest variance of the inputs. Ridge regression shrinks the directions of small
# variance first, and these are the ones that a generator with few latent dimensions leaves empty.
PENALTIES = 10.0 ** np.arange(-7, 3)


class Reading(NamedTuple):
    """What reads one condition from the (N, D) inputs."""

    slopes: np.ndarray  # (D,)
    intercept: float
    naive: float  # mean of the training recordings
    binary: bool


class ConditionRegressor:
    """Linear regressions of the conditions on the beat, in closed form.

    Each condition has its own, fitted where it is known; the penalty is the one of least squared
    error on the validation recordings. These are real ones also where the training ECGs are
    generated: what is asked then is what generated ECGs teach, not whether they tell how much to
    trust them. A binary condition, and each category of a categorical one, counts as 0 and 1.

    Args:
        schema: the conditions.
        ecg: (N, L, T) mV, training recordings.
        subjects: N rows with the conditions.
        validation: real recordings of other patients.

    Attributes:
        readings: by name, as in `latent.probe_targets`; none of a condition that is known in fewer
            than `FEWEST` training or validation recordings or does not vary there.
    """

    def __init__(
        self, schema: ConditionSchema, ecg: np.ndarray, subjects: pd.DataFrame, validation: Cohort
    ) -> None:
        self.leads = validation.leads
        x, x_check = self._inputs(ecg), self._inputs(validation.ecg)
        targets = condition_values(schema, subjects)
        checks = condition_values(schema, validation.subjects)
        self.readings: dict[str, Reading] = {}
        solved: dict[bytes, tuple] = {}
        for name in targets:
            if name not in checks:
                continue
            known, check_known = ~np.isnan(targets[name]), ~np.isnan(checks[name])
            y, y_check = targets[name][known], checks[name][check_known]
            x_known, x_check_known = _rows(x, known), _rows(x_check, check_known)
            if min(len(y), len(y_check)) < FEWEST or np.ptp(y) == 0:
                continue
            key = known.tobytes()  # conditions known in the same recordings share the work
            if key not in solved:
                solved[key] = _spectrum(x_known)
            centre, variances, directions = solved[key]
            product = directions.T @ ((x_known - centre).T @ (y - y.mean())) / len(y)
            shrunk = product / (variances + PENALTIES[:, None] * variances[-1])  # (penalties, D)
            slopes = shrunk @ directions.T
            offset = y.mean() - slopes @ centre
            error = np.square(x_check_known @ slopes.T + offset - y_check[:, None])
            best = int(error.sum(axis=0).argmin())
            self.readings[name] = Reading(
                slopes[best], offset[best], y.mean(), len(np.unique(y)) == 2
            )

    def predict(self, ecg: np.ndarray) -> dict[str, np.ndarray]:
        """(N, L, T) mV -> (N,) of each condition: its value, or a score, higher = more likely."""
        x = self._inputs(ecg)
        return {name: x @ each.slopes + each.intercept for name, each in self.readings.items()}

    def _inputs(self, ecg: np.ndarray) -> np.ndarray:
        """(N, D): averages of `POOLED` samples of the independent leads, mV."""
        parts = []
        for _, beats in chunks(ecg, 512):
            if tuple(self.leads) == LEADS:
                beats = independent_leads(beats)
            pooled = min(POOLED, beats.shape[2])
            stop = beats.shape[2] // pooled * pooled
            mean = beats[:, :, 0:stop:pooled].astype(np.float64)
            for sample in range(1, pooled):  # faster than a mean over so short an axis
                mean += beats[:, :, sample:stop:pooled]
            parts.append((mean / pooled).reshape(len(beats), -1))
        return np.concatenate(parts)


def condition_values(schema: ConditionSchema, subjects: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each condition as (N,) numbers, NaN where unknown; see `latent.probe_targets`."""
    columns, names = probe_targets(schema, subjects)
    return dict(zip(names, columns.T, strict=True))


def recovery_metrics(
    schema: ConditionSchema,
    regressor: ConditionRegressor,
    test: Cohort,
    generated: np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, float]:
    """How well the conditions are read from generated and from real ECGs.

    Args:
        schema: of the model.
        regressor: trained on real training ECGs.
        test: N recordings.
        generated: (K * N, L, T) mV, as from `adherence.generate_like` for the test subjects.
        seed: of the bootstrap over patients.
        draws: B.

    Returns:
        `recovery_r2_<condition>` and `recovery_mae_<condition>` (in its unit) of a continuous
        condition, `recovery_auc_<condition>` of a binary one, of the generated ECGs; the same with
        `_real`, and with `_difference` (generated less real); each with `_low` and `_high`.
    """
    real, made = regressor.predict(test.ecg), regressor.predict(generated)
    metrics = {}
    for name, value in condition_values(schema, test.subjects).items():
        if name not in real:
            continue
        naive = regressor.readings[name].naive
        scored = scores(
            [made[name].reshape(-1, len(test)), real[name][None]],
            value,
            [naive, naive],
            test.subjects["patient_id"].to_numpy(),
            regressor.readings[name].binary,
            seed,
            draws,
        )
        for measure, (of_made, of_real) in scored.items():
            key = f"recovery_{measure}_{name}"
            metrics |= with_interval(key, of_made)
            metrics |= with_interval(f"{key}_real", of_real)
            metrics |= with_interval(f"{key}_difference", of_made - of_real)
    return metrics


def scores(
    predicted: Sequence[np.ndarray],
    value: np.ndarray,
    naive: Sequence[float],
    patients: np.ndarray,
    binary: bool,
    seed: int,
    draws: int,
) -> dict[str, list[np.ndarray]]:
    """Scores of several predictions of one condition, on the same bootstrap samples of patients.

    Args:
        predicted: each (K, N), K predictions for each recording.
        value: (N,), NaN where unknown.
        naive: what R2 compares each with: the mean of its training recordings.
        patients: (N,).
        binary: AUC instead of R2 and mean absolute error.
        seed: of the bootstrap.
        draws: B.

    Returns:
        "r2" and "mae", or "auc" -> (1 + B,) for each prediction: of all, then of the samples. Empty
        where fewer than `FEWEST` recordings know the condition, or it does not vary.
    """
    known = ~np.isnan(value)
    value, patients = value[known], patients[known]
    if len(value) < FEWEST or np.ptp(value) == 0:
        return {}
    drawn = list(weightings(patients, seed, draws))
    scored: dict[str, list[np.ndarray]] = {}
    for each, mean in zip(predicted, naive, strict=True):
        each = each[:, known]
        if binary:
            positive = np.tile(value > value.min(), len(each))
            parts = [
                weighted_auc(np.tile(weights, len(each)), each.ravel(), positive)
                for weights in drawn
            ]
            found = {"auc": np.concatenate(parts)}
        else:
            errors = np.stack(
                [
                    np.square(each - value).mean(axis=0),
                    np.square(value - mean),
                    np.abs(each - value).mean(axis=0),
                    np.ones(len(value)),
                ],
                axis=1,
            )
            parts = [weights @ errors for weights in drawn]
            square, spread, absolute, count = np.concatenate(parts).T
            found = {"r2": 1 - square / spread, "mae": absolute / count}
        for measure, values in found.items():
            scored.setdefault(measure, []).append(values)
    return scored


def _rows(x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Some rows of (N, D); itself rather than a copy if these are all."""
    return x if chosen.all() else x[chosen]


def _spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), variances (D,), rising, and directions (D, D) of (N, D) inputs."""
    centre = x.mean(axis=0)
    centred = x - centre
    variances, directions = np.linalg.eigh(centred.T @ centred / len(x))
    return centre, np.maximum(variances, 0), directions
