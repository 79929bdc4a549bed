"""What moves when one condition of the same subject is changed, and whether it should.

Dims: N recordings, Z latent, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data.cohort import LEADS
from data.conditions import Condition, ConditionSchema
from evaluation.measures.adherence import SWEPT, decoded_features, reference_subject
from evaluation.measures.features import CIRCULAR
from evaluation.measures.slopes import (
    YEARS,
    Slopes,
    circular_medians,
    correlation_and_gain,
    robust_means,
    robust_sd,
    unwrapped,
)

if TYPE_CHECKING:
    from vae import VAE

STEPS = {"years": 10.0, "kg/m2": 5.0}  # 1 SD of the training subjects in any other unit


def specificity_metrics(
    model: VAE,
    subjects: pd.DataFrame,
    train_subjects: pd.DataFrame,
    latent: np.ndarray,
    real: pd.DataFrame,
    slopes: Slopes,
) -> dict[str, float]:
    """Mean change of each feature as one condition is changed and the latent is kept.

    The posterior means of the test recordings are decoded at their own conditions and a step
    further in one of them (`STEPS`; a step back where that would leave the plausible range, counted
    as one on), or in the other category. An unknown condition starts from the reference subject.

    Args:
        model: with standard leads; others give no features, and an empty section.
        subjects: of the N test recordings, with `patient_id` and the conditions.
        train_subjects: for medians and SDs.
        latent: (N, Z) posterior means of the test recordings.
        real: features of the test recordings, N rows, as from `measure`.
        slopes: of these, as from `adherence.slope_metrics`.

    Returns:
        `specificity_<condition>_<feature>`: the mean change (Huber's, with its 95% interval over
        patients as `_low` and `_high`) in robust SD of the feature among the real ECGs; the same
        with `_real`: the change that the slope of the real ECGs asks for; and over all pairs
        `specificity_correlation` and `specificity_gain` of the two (see `correlation_and_gain`).
    """
    if tuple(model.leads) != LEADS:
        return {}
    real = real[list(SWEPT)]
    spread = robust_sd(unwrapped(real, circular_medians(real)).to_numpy())
    spread = np.where(spread > 0, spread, np.nan)
    groups = np.unique(subjects["patient_id"], return_inverse=True)[1]
    row_of = {pair: row for row, pair in enumerate(slopes.pairs)}
    own = _known(model.schema, subjects, train_subjects)
    before = decoded_features(model, latent, own)
    metrics, compared = {}, []
    for condition in model.schema.conditions:
        for name, start, after, step in _changes(condition, own, train_subjects):
            moved = decoded_features(model, latent, after)
            moved -= before if start is None else decoded_features(model, latent, start)
            change = (
                unwrapped(moved, dict.fromkeys(CIRCULAR, 0.0)).to_numpy()
                * np.sign(step)[:, None]
                / spread
            )
            size = np.abs(step).mean() / (YEARS if condition.unit == "years" else 1) / spread
            means = robust_means(change, groups, int(groups.max()) + 1)
            rows = [row_of[name, feature] for feature in SWEPT]
            expected = [part[rows] * size for part in (slopes.value, *slopes.interval)]
            for suffix, numbers in (("", (means.value, *means.interval)), ("_real", expected)):
                for end, values in zip(("", "_low", "_high"), numbers, strict=True):
                    metrics |= {
                        f"specificity_{name}_{feature}{suffix}{end}": float(value)
                        for feature, value in zip(SWEPT, values, strict=True)
                        if np.isfinite(value)
                    }
            compared.append((means.value, expected[0], slopes.error[rows] * size))
    if compared:
        ours, theirs, error = np.concatenate(compared, axis=1)
        known = np.isfinite(ours) & np.isfinite(theirs)
        found = correlation_and_gain(ours[known], theirs[known], error[known])
        metrics |= {f"specificity_{name}": value for name, value in found.items()}
    return metrics


def _known(
    schema: ConditionSchema, subjects: pd.DataFrame, train_subjects: pd.DataFrame
) -> pd.DataFrame:
    """The conditions of the subjects, unknown ones those of the reference subject."""
    reference = reference_subject(schema, train_subjects)
    known = subjects.reindex(columns=list(schema.names))
    there = {name: value for name, value in reference.items() if pd.notna(value)}
    return known.fillna(there)


def _changes(
    condition: Condition, own: pd.DataFrame, train_subjects: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame | None, pd.DataFrame, np.ndarray]]:
    """Each change of a condition: name, subjects before and after it, and the signed step (N,).

    Before is None where it is what the subjects are.
    """
    name = condition.name
    of_train = condition.codes(train_subjects[name])
    of_train = of_train[~np.isnan(of_train)]
    if not len(of_train) or np.ptp(of_train) == 0:
        return  # never known, or never varied: nobody can say what it does
    if condition.kind == "categorical":
        first = own.assign(**{name: condition.categories[0]})
        for category in condition.categories[1:]:
            after = own.assign(**{name: category})
            yield f"{name}_{category}", first, after, np.ones(len(own))
    elif condition.kind == "binary":
        codes = condition.codes(own[name])
        other = np.array(condition.categories, dtype=object)[1 - codes.astype(int)]
        yield name, None, own.assign(**{name: other}), 1 - 2 * codes
    else:
        value = condition.codes(own[name])
        step = STEPS.get(condition.unit, float(of_train.std()))
        step = np.where(condition.out_of_range(value + step), -step, step)
        yield name, None, own.assign(**{name: value + step}), step
