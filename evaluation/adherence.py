"""Does a generated ECG follow the conditions that it was asked for?

Dims: N generated ECGs, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from conditions import Condition, ConditionSchema
from data.cohort import LEADS
from evaluation.features import FEATURES, measure

if TYPE_CHECKING:
    from vae import VAE

# What is known to move with age, sex or BMI (design figures: Rijnbeek 2014 and others).
SWEPT = (
    *("p_duration", "pr_interval", "qrs_duration", "qt_interval", "qrs_axis", "t_axis"),
    *("qrs_t_angle", "r_i", "r_avf", "r_v5", "s_v2", "t_v2", "t_v5", "sokolow_lyon", "cornell"),
)


def reference_subject(schema: ConditionSchema, subjects: pd.DataFrame) -> dict[str, object]:
    """Median of each continuous condition and the commonest category of each other one."""
    return {
        condition.name: (
            float(subjects[condition.name].median())
            if condition.kind == "continuous"
            else subjects[condition.name].mode().iloc[0]
        )
        for condition in schema.conditions
    }


def sweep_values(condition: Condition, subjects: pd.DataFrame, count: int = 7) -> list:
    """Values from the 5th to the 95th percentile of the subjects, or all categories."""
    if condition.kind != "continuous":
        return list(condition.categories)
    low, high = subjects[condition.name].quantile([0.05, 0.95])
    if high <= low:
        return [float(low)]
    # Two significant digits of the step: a scale of 38, 44, 51 ... reads better than 37.945 ...
    digits = 1 - int(np.floor(np.log10((high - low) / (count - 1))))
    return [float(round(value, max(digits, 0))) for value in np.linspace(low, high, count)]


def condition_effects(
    model: VAE, subjects: pd.DataFrame, n: int = 200, seed: int = 0
) -> dict[str, float]:
    """How much each feature moves when one condition changes and nothing else does.

    The same N latents of the prior are decoded at the ends of the range of a condition (its 5th and
    95th percentile in `subjects`, or its last against its first category), with all other
    conditions at those of the reference subject.

    Args:
        model: with standard leads; others give no features, and an empty section.
        subjects: training subjects, for ranges and reference.
        n: N.
        seed: of the latents.

    Returns:
        `effect_<condition>_<feature>`: mean difference per decade (age in years), per unit (other
        continuous conditions), or between the categories (sex: women minus men), in the unit of the
        feature, with the 95% interval of that mean over latents as `_low` and `_high`.
    """
    if tuple(model.leads) != LEADS:
        return {}
    reference = reference_subject(model.schema, subjects)
    metrics: dict[str, float] = {}
    for condition in model.schema.conditions:
        values = sweep_values(condition, subjects)
        if len(values) < 2:
            continue
        ends = [
            measure(model.generate(n, seed, **reference | {condition.name: value}))
            for value in (values[0], values[-1])
        ]
        difference = ends[1][list(SWEPT)] - ends[0][list(SWEPT)]
        for name in SWEPT:
            if FEATURES[name].unit == "degrees" and name != "qrs_t_angle":
                difference[name] = (difference[name] + 180) % 360 - 180
        per = 1.0 if condition.kind != "continuous" else values[-1] - values[0]
        if condition.unit == "years":
            per /= 10
        mean = difference.mean() / per
        half = 1.96 * difference.sem() / abs(per)
        for name in SWEPT:
            key = f"effect_{condition.name}_{name}"
            metrics[key] = float(mean[name])
            metrics[f"{key}_low"] = float(mean[name] - half[name])
            metrics[f"{key}_high"] = float(mean[name] + half[name])
    return metrics
