"""How well a head predicts a class or a number, with bootstrap intervals.

Dims: N test recordings, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, log_softmax

from data.tasks import kind_of
from evaluation.measures.statistics import DRAWS, weighted_auc, weightings, with_interval


def prediction_metrics(
    task: str,
    output: np.ndarray,
    target: np.ndarray,
    patients: Sequence[str] | np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, float]:
    """Metrics of a head on the test split, beside what knowing nothing of the ECG would give.

    Args:
        task: of `data.tasks.TASKS`, of any kind but "survival".
        output: (N, 1 or K) logits, or predicted values.
        target: (N,) class numbers 0, 1, ... or values.
        patients: (N,) ids; recordings of one patient are drawn together.
        seed: of the bootstrap.
        draws: bootstrap samples.

    Returns:
        By the kind of the task, "binary": `auc` and `brier`; "multiclass": `accuracy` and
        `log_loss`; "regression": `mae`, `rmse` and `r2`; each with the percentile 95% interval
        (`_low`, `_high`). `brier_null`, `accuracy_null`, `log_loss_null` are of the shares in the
        test split, `mae_null` of its mean.
    """
    target = np.asarray(target)
    measure = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[
        kind_of(task)
    ]
    rows = (row for weights in weightings(patients, seed, draws) for row in weights)
    measured = pd.DataFrame([measure(output, target, row) for row in rows])
    metrics = {}
    for name, values in measured.items():
        if name.endswith("_null"):
            metrics[name] = float(values[0])
        else:
            metrics |= with_interval(name, values.to_numpy())
    return metrics | {"recordings": len(target)}


def _binary(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    score = logits[:, 0]
    share = np.average(target, weights=weights)
    return {
        "auc": weighted_auc(weights[None], score, target == 1)[0],
        "brier": np.average((expit(score) - target) ** 2, weights=weights),
        "brier_null": share * (1 - share),
    }


def _multiclass(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    log_probability = log_softmax(logits.astype(np.float64), axis=1)
    shares = np.bincount(target, weights, minlength=logits.shape[1]) / weights.sum()
    known = shares[shares > 0]
    chosen = log_probability[np.arange(len(target)), target]
    return {
        "accuracy": np.average(logits.argmax(axis=1) == target, weights=weights),
        "log_loss": -np.average(chosen, weights=weights),
        "accuracy_null": shares.max(),
        "log_loss_null": -(known * np.log(known)).sum(),
    }


def _regression(output: np.ndarray, target: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    error = output[:, 0] - target
    centred = target - np.average(target, weights=weights)
    variance = np.average(centred**2, weights=weights)
    return {
        "mae": np.average(np.abs(error), weights=weights),
        "rmse": np.sqrt(np.average(error**2, weights=weights)),
        "r2": 1 - np.average(error**2, weights=weights) / variance if variance else np.nan,
        "mae_null": np.average(np.abs(centred), weights=weights),
    }
