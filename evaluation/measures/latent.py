"""Whether the latent space is used, and what it knows of the conditions.

A collapsed latent space looks healthy in the loss: the posterior equals the prior, the KL term is
near zero, and the decoder gives everyone the mean beat. It shows in the KL per dimension.

Dims: N recordings, Z latent dimensions, C conditions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from data.conditions import ConditionSchema
from evaluation.measures.statistics import (
    DRAWS,
    bootstrap_means,
    weighted_auc,
    weightings,
    with_interval,
)

ACTIVE_VARIANCE = 0.01  # Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519, section 4.2
ACTIVE_KL_NATS = 0.1  # a posterior mean of variance 0.01 alone is reached at a KL of 0.005 nat

FOLDS = 5
PENALTIES = 10.0 ** np.arange(6)  # of the ridge regression, for standardised dimensions


def latent_metrics(
    mean: np.ndarray,
    log_var: np.ndarray,
    conditions: np.ndarray,
    names: Sequence[str],
    seed: int = 0,
    *,
    patients: Sequence[str] | np.ndarray | None = None,
    draws: int = DRAWS,
) -> dict[str, float | int | bool]:
    """KL, active dimensions, and how well each condition can be read from the latent code.

    A dimension is active in the usual sense where its posterior mean varies by more than
    `ACTIVE_VARIANCE` over subjects (`active_units`), and in the stricter one where its KL exceeds
    `ACTIVE_KL_NATS` too (`active_units_kl`): a posterior mean can vary by 0.01 in an overly wide
    posterior that the decoder learns nothing from. `collapsed` means that fewer than half of the
    dimensions are active in the stricter sense.

    The probe of a condition is a ridge regression on the posterior mean (its penalty by
    leave-one-out error), judged on patients that it was not fitted on. A number near 0 (R2) or 0.5
    (AUC) says that the code holds nothing linear of the condition, so that changing the condition
    alone gives a clean counterfactual.

    Args:
        mean: (N, Z) posterior means.
        log_var: (N, Z) log variances of the posterior.
        conditions: (N, C) numbers, NaN where unknown; see `probe_targets`. A column of two
            different values is taken as binary and gets an AUC for the larger one.
        names: C names.
        seed: of folds and bootstrap.
        patients: (N,) patient id of each recording; each recording its own where left out.
        draws: bootstrap samples.

    Returns:
        Flat name -> number: `kl_0` .. (nats, KL to N(0, I), averaged over recordings), `kl_total`
        (summed over Z, averaged over N), `mean_variance_0` .. (variance of the posterior mean),
        `aggregate_mean_0` .., `aggregate_sd_0` .. (of the mixture of all posteriors; 0 and 1 if
        it matches the prior), `active_units`, `active_units_kl`, `dimensions`, `collapsed`,
        `probe_r2_age` or `probe_auc_sex` ...; `kl_total` and the probes with a percentile 95%
        interval of a bootstrap over patients (`_low`, `_high`).

    Raises:
        ValueError: shapes that do not fit each other.
    """
    mean, log_var = np.asarray(mean, np.float64), np.asarray(log_var, np.float64)
    conditions = np.asarray(conditions, np.float64)
    _check_shapes(mean, log_var, conditions, names, patients)
    patients = np.arange(len(mean)) if patients is None else np.asarray(patients)

    kl = kl_per_dimension(mean, log_var)
    variance = mean.var(axis=0)
    aggregate_sd = np.sqrt(variance + np.exp(log_var).mean(axis=0))  # law of total variance
    active = (variance > ACTIVE_VARIANCE) & (kl.mean(axis=0) > ACTIVE_KL_NATS)
    total, samples = bootstrap_means(kl.sum(axis=1, keepdims=True), patients, seed, draws)

    metrics = _numbered("kl", kl.mean(axis=0))
    metrics |= with_interval("kl_total", np.append(total, samples))
    metrics |= _numbered("mean_variance", variance)
    metrics |= _numbered("aggregate_mean", mean.mean(axis=0))
    metrics |= _numbered("aggregate_sd", aggregate_sd)
    metrics["dimensions"] = mean.shape[1]
    metrics["active_units"] = int((variance > ACTIVE_VARIANCE).sum())
    metrics["active_units_kl"] = int(active.sum())
    metrics["collapsed"] = bool(2 * active.sum() < mean.shape[1])
    for name, column in zip(names, conditions.T, strict=True):
        metrics |= _probe(name, mean, column, patients, seed, draws)
    return metrics


def kl_per_dimension(mean: np.ndarray, log_var: np.ndarray) -> np.ndarray:
    """KL of N(mean, exp(log_var)) from N(0, 1) in nats: (N, Z), (N, Z) -> (N, Z)."""
    return 0.5 * (np.square(mean) + np.exp(log_var) - 1 - log_var)


def probe_targets(schema: ConditionSchema, subjects: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """The conditions as one number per column, for `latent_metrics`.

    Args:
        schema: of the model.
        subjects: N rows; a column that is missing is unknown throughout.

    Returns:
        (N, C') float64, NaN where unknown, and C' names: the value of a continuous condition, the
        position of a binary one, one 0 / 1 column `name_category` per category of a categorical
        one.
    """
    columns, names = [], []
    for condition in schema.conditions:
        if condition.name not in subjects:
            continue
        codes = condition.codes(subjects[condition.name])
        if condition.kind != "categorical":
            columns.append(codes)
            names.append(condition.name)
            continue
        for position, category in enumerate(condition.categories):
            columns.append(np.where(np.isnan(codes), np.nan, codes == position))
            names.append(f"{condition.name}_{category}")
    return np.stack(columns or [np.zeros(0)], axis=1).reshape(len(subjects), -1), names


def _probe(
    name: str, mean: np.ndarray, values: np.ndarray, patients: np.ndarray, seed: int, draws: int
) -> dict[str, float]:
    """R2 or AUC of one condition read from the latent code; nothing where it does not vary."""
    known = ~np.isnan(values)
    mean, values, patients = mean[known], values[known], patients[known]
    levels = np.unique(values)
    if len(levels) < 2 or len(np.unique(patients)) < 2 * FOLDS:
        return {}
    predicted, naive = _out_of_fold(mean, values, patients, seed)
    if len(levels) == 2:
        # The mean of the other folds is low where this fold has many positives: it would bias the
        # AUC below 0.5.
        gain = predicted - naive
        measure, score = "auc", lambda weights: weighted_auc(weights, gain, values > levels[0])
    else:
        errors = np.stack([np.square(values - predicted), np.square(values - naive)], axis=1)

        def score(weights: np.ndarray) -> np.ndarray:
            model, baseline = (weights @ errors).T
            return 1 - model / baseline

        measure = "r2"
    scored = np.concatenate([score(weights) for weights in weightings(patients, seed, draws)])
    return with_interval(f"probe_{measure}_{name}", scored)


def _out_of_fold(
    mean: np.ndarray, values: np.ndarray, patients: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) ridge predictions and (N,) training means, each from folds without the patient."""
    _, patient_of = np.unique(patients, return_inverse=True)
    count = int(patient_of.max()) + 1
    fold_of = np.random.default_rng(seed).permutation(count) % FOLDS
    predicted, naive = np.empty(len(values)), np.empty(len(values))
    for fold in range(FOLDS):
        held_out = fold_of[patient_of] == fold
        x, y = mean[~held_out], values[~held_out]
        center, spread = x.mean(axis=0), x.std(axis=0)
        spread[spread == 0] = 1  # a dead dimension tells nothing and must not divide by zero
        slopes = _ridge((x - center) / spread, y - y.mean())
        naive[held_out] = y.mean()
        predicted[held_out] = y.mean() + (mean[held_out] - center) / spread @ slopes
    return predicted, naive


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(Z,) slopes of centred y on standardised x under the penalty of least leave-one-out error."""
    u, scale, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    errors = []
    for penalty in PENALTIES:
        kept = scale**2 / (scale**2 + penalty)
        leverage = np.square(u) @ kept + 1 / len(y)  # 1 / N: the mean is fitted too
        errors.append(np.square((y - u @ (kept * projected)) / (1 - leverage)).sum())
    penalty = PENALTIES[np.argmin(errors)]
    return vt.T @ (scale / (scale**2 + penalty) * projected)


def _numbered(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"{name}_{number}": float(value) for number, value in enumerate(values)}


def _check_shapes(mean, log_var, conditions, names, patients) -> None:
    if mean.ndim != 2 or mean.shape != log_var.shape or len(mean) == 0:
        raise ValueError(
            "Expected mean and log_var of the same shape (N, Z). "
            f"Received: {mean.shape} and {log_var.shape}."
        )
    if conditions.shape != (len(mean), len(names)):
        raise ValueError(
            f"Expected conditions of shape ({len(mean)}, {len(names)}), one column per name. "
            f"Received: {conditions.shape}."
        )
    if patients is not None and len(patients) != len(mean):
        raise ValueError(
            f"Expected one patient id for each of {len(mean)} rows. Received: {len(patients)}."
        )
