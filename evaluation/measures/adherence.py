"""Does a generated ECG follow the conditions that it was asked for?

Two answers: how far each feature moves along the range of a condition (`condition_effects`), and
whether features depend on conditions as in real ECGs (`slope_metrics`). Two more lie beside: what
moves when a condition of the same subject is changed (`counterfactuals.py`), and whether the
conditions can be read back from generated ECGs (`regressor.py`).

Dims: N recordings, K generated ECGs for each, M slopes, pairs of contrast and feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data.cohort import LEADS
from data.conditions import Condition, ConditionSchema
from evaluation.measures.features import CIRCULAR, FEATURES, measure
from evaluation.measures.slopes import (
    Slopes,
    adjusted_slopes,
    circular_medians,
    contrasts,
    correlation_and_gain,
    robust_sd,
    unwrapped,
)
from evaluation.measures.statistics import random_half, with_ends

if TYPE_CHECKING:
    from data.cohort import Split
    from vae import VAE

# What is known to move with age, sex or BMI (design figures: Rijnbeek 2014 and others).
SWEPT = (
    *("p_duration", "pr_interval", "qrs_duration", "qt_interval", "qrs_axis", "t_axis"),
    *("qrs_t_angle", "r_i", "r_avf", "r_v5", "s_v2", "t_v2", "t_v5", "sokolow_lyon", "cornell"),
)
# The simulator reads these off the noiseless beat as `measure` does; it places the ends of waves by
# formulas of its own, and takes the QRS-T angle in its own vector.
TRUE = tuple(name for name in SWEPT if FEATURES[name].unit == "mV" or name in CIRCULAR)

SOME = 2048  # ECGs that are decoded and measured at a time: 40 MB
GENERATED = 4500  # ECGs in all: their noise is then well below that of the test recordings
HALVINGS = 20  # of the test patients, at random, for the null


def reference_subject(schema: ConditionSchema, subjects: pd.DataFrame) -> dict[str, object]:
    """Median of each continuous condition and the commonest category of each other one.

    What is known of nobody is NaN, unknown.
    """
    reference = {}
    for condition in schema.conditions:
        known = subjects[condition.name].dropna()
        if not len(known):
            reference[condition.name] = np.nan
        elif condition.kind == "continuous":
            reference[condition.name] = float(known.median())
        else:
            reference[condition.name] = known.mode().iloc[0]
    return reference


def sweep_values(condition: Condition, subjects: pd.DataFrame, count: int = 7) -> list:
    """Values from the 5th to the 95th percentile of the subjects, or the categories among them.

    None of a condition that is known of nobody. Of a category of nobody the model knows nothing.
    """
    known = subjects[condition.name].dropna()
    if condition.kind != "continuous":
        return [name for name in condition.categories if (known == name).any()]
    if not len(known):
        return []
    low, high = known.quantile([0.05, 0.95])
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
    ends = {
        condition: (values[0], values[-1])
        for condition in model.schema.conditions
        if len(values := sweep_values(condition, subjects)) >= 2
    }
    if not ends:
        return {}
    encoded = [
        model.schema.encode(reference | {condition.name: value}, n)
        for condition, pair in ends.items()
        for value in pair
    ]
    latent = [model.prior.sample(each, seed) for each in encoded]
    table = decoded_features(model, np.concatenate(latent), np.concatenate(encoded))
    metrics: dict[str, float] = {}
    for number, (condition, (low, high)) in enumerate(ends.items()):
        first, last = (
            table.iloc[start : start + n].reset_index(drop=True)
            for start in (2 * n * number, 2 * n * number + n)
        )
        difference = last - first
        difference = unwrapped(difference, dict.fromkeys(CIRCULAR, 0.0))
        per = 1.0 if condition.kind != "continuous" else high - low
        if condition.unit == "years":
            per /= 10
        mean = difference.mean() / per
        half = 1.96 * difference.sem() / abs(per)
        for name in SWEPT:
            interval = mean[name] - half[name], mean[name] + half[name]
            metrics |= with_ends(f"effect_{condition.name}_{name}", mean[name], *interval)
    return metrics


def decoded_features(
    model: VAE, latent: np.ndarray, conditions: pd.DataFrame | np.ndarray
) -> pd.DataFrame:
    """The features `SWEPT` of ECGs decoded from (N, Z), of which some are in memory at a time."""
    tables = []
    for start in range(0, len(latent), SOME):
        rows = slice(start, start + SOME)
        ecg = model.decode(latent[rows], conditions[rows])
        tables.append(measure(ecg, **model.timing, unit=model.unit)[list(SWEPT)])
    return pd.concat(tables, ignore_index=True)


def generate_like(model: VAE, subjects: pd.DataFrame, copies: int, seed: int = 0) -> np.ndarray:
    """New ECGs at the conditions of real subjects, latents from the prior.

    Args:
        model: any.
        subjects: N rows; a condition that is missing stays unknown to the model.
        copies: K, ECGs for each subject.
        seed: of the latents.

    Returns:
        (K * N, L, T) mV, without observation noise: all subjects in order, K times over.
    """
    columns = {
        name: np.tile(subjects[name].to_numpy(), copies)
        for name in model.schema.names
        if name in subjects
    }
    return model.generate(copies * len(subjects), seed, **columns)


def references_of(
    split: Split, features: pd.DataFrame, subjects: pd.DataFrame
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """What the slopes of generated ECGs are compared with beside the test recordings.

    Args:
        split: of the cohort.
        features: of training recordings.
        subjects: of these.

    Returns:
        "train": these features and subjects, which tell what the generator was shown. "true", of a
        simulated cohort: true features (those in `TRUE`) and subjects of all its recordings.
    """
    references = {"train": (features, subjects)}
    if all(part.truth is not None for part in split):
        truth = pd.concat([part.truth for part in split], ignore_index=True)
        subjects = pd.concat([part.subjects for part in split], ignore_index=True)
        references["true"] = (truth[truth.columns.intersection(TRUE)], subjects)
    return references


def slope_metrics(
    schema: ConditionSchema,
    subjects: pd.DataFrame,
    real: pd.DataFrame,
    generated: pd.DataFrame,
    references: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]] | None = None,
    seed: int = 0,
) -> tuple[dict[str, float], Slopes]:
    """Whether features depend on conditions in generated ECGs as they do in real ones.

    The slope of a feature on a condition (see `adjusted_slopes`) is recovered where the 95%
    interval of its difference, generated less real, holds 0. That interval counts the chance of the
    test subjects and of the latents, not that of the training sample or of the initial weights.
    Where test recordings are few it is wide, and a generator that ignores the conditions recovers
    much, too: `mean_beat_slopes_recovered` says how much. `slopes_recovered_clear` counts the
    slopes alone that the real ECGs tell from 0.

    The null is one random half of the test patients against the other: the median over `HALVINGS`
    halvings, and where 95% of them lie.

    Args:
        schema: of the model.
        subjects: of the N test recordings, with `patient_id` and the conditions.
        real: their features, N rows, as from `measure`.
        generated: features of K * N ECGs, as from `generate_like` for these subjects.
        references: features and subjects of other recordings to compare with, by name; see
            `references_of`.
        seed: of the halvings.

    Returns:
        The metrics, and the slopes of the real ECGs. `slope_<condition>_<feature>` is the generated
        slope per decade (years), unit or category (sex: women less men), the same with `_real`,
        `_difference` (generated less real) and the names of the references; each with `_low` and
        `_high`. Overall: `slopes` (pairs), `slopes_clear` (those whose real interval leaves out 0),
        the shares `slopes_agree` (the two intervals overlap, the more lenient of the two),
        `slopes_recovered` and `slopes_recovered_clear`, `slopes_correlation` and `slopes_gain` (see
        `correlation_and_gain`; in robust SD of the feature per SD of the condition), these five
        with `_null`, `_null_low` and `_null_high`, and with the names of the references.

    Raises:
        ValueError: the numbers of rows do not fit.
    """
    copies, rest = divmod(len(generated), max(len(subjects), 1))
    if len(real) != len(subjects) or rest or not copies:
        raise ValueError(
            f"Expected features of {len(subjects)} real ECGs, one per subject, and of K generated "
            f"ones for each. Received: {len(real)} and {len(generated)} rows."
        )
    real, generated = real[list(SWEPT)], generated[list(SWEPT)]
    centre = circular_medians(real)
    real, generated = unwrapped(real, centre), unwrapped(generated, centre)
    _, groups = np.unique(subjects["patient_id"], return_inverse=True)
    count = int(groups.max()) + 1
    of_real = adjusted_slopes(real, subjects, schema, groups, count)
    repeated = pd.concat([subjects] * copies, ignore_index=True)
    of_generated = adjusted_slopes(generated, repeated, schema, np.tile(groups, copies), count)

    metrics = _with_intervals(of_generated)
    metrics |= _with_intervals(of_real, "_real")
    metrics |= _with_intervals(of_generated.minus(of_real), "_difference")
    known = np.isfinite(of_real.value) & np.isfinite(of_generated.value)
    metrics["slopes"] = int(known.sum())
    metrics["slopes_clear"] = int((known & of_real.clear).sum())
    if not known.any():
        return metrics, of_real

    unit = _comparable(schema, subjects, real)
    metrics |= agreement(of_generated, of_real, unit)
    metrics["mean_beat_slopes_recovered"] = float(1 - of_real.clear[known].mean())
    metrics |= _between_halves(real, subjects, schema, groups, unit, seed)
    for name, (features, others) in (references or {}).items():
        features = unwrapped(features, centre).reindex(columns=SWEPT)
        _, numbers = np.unique(others["patient_id"], return_inverse=True)
        # As other patients: what generated ECGs owe to the test subjects, these do not share.
        of_others = adjusted_slopes(
            features, others, schema, count + numbers, count + int(numbers.max()) + 1
        )
        padding = ((0, len(of_others.influence) - count), (0, 0))
        ours = of_generated._replace(influence=np.pad(of_generated.influence, padding))
        found = agreement(ours, of_others, unit)
        metrics |= {f"{key}_{name}": value for key, value in found.items()}
        metrics |= _with_intervals(of_others, f"_{name}")
    return metrics, of_real


def agreement(slopes: Slopes, reference: Slopes, unit: np.ndarray) -> dict[str, float]:
    """Share of slopes that agree with a reference, their correlation, and their size beside it.

    Args:
        slopes: M.
        reference: M slopes of the same pairs.
        unit: (M,), what makes slopes comparable with each other.

    Returns:
        `slopes_agree`, `slopes_recovered`, `slopes_recovered_clear`, `slopes_correlation`,
        `slopes_gain`; see `slope_metrics`. What cannot be had (no pair, no clear pair) is left out.
    """
    low, high = slopes.minus(reference).interval
    known, holds = np.isfinite(low), (low <= 0) & (high >= 0)
    found = {}
    if known.any():
        (low, high), (other_low, other_high) = slopes.interval, reference.interval
        found["slopes_agree"] = float(((low <= other_high) & (other_low <= high))[known].mean())
    for name, pairs in (("", known), ("_clear", known & reference.clear)):
        if pairs.any():
            found[f"slopes_recovered{name}"] = float(holds[pairs].mean())
    ours, theirs, error = (part * unit for part in (slopes.value, reference.value, reference.error))
    return found | {
        f"slopes_{name}": value
        for name, value in correlation_and_gain(ours[known], theirs[known], error[known]).items()
    }


def _between_halves(
    real: pd.DataFrame,
    subjects: pd.DataFrame,
    schema: ConditionSchema,
    groups: np.ndarray,
    unit: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """The agreement of one half of the patients with the other, over many random halvings."""
    rng, count, found = np.random.default_rng(seed), int(groups.max()) + 1, []
    for _ in range(HALVINGS):
        first = random_half(groups, rng)
        halves = [
            adjusted_slopes(
                real[rows].reset_index(drop=True),
                subjects[rows].reset_index(drop=True),
                schema,
                groups[rows],
                count,
            )
            for rows in (first, ~first)
        ]
        found.append(agreement(*halves, unit))
    table = pd.DataFrame(found)
    ends = table.quantile([0.025, 0.975])
    metrics = {}
    for name in table:
        metrics |= with_ends(f"{name}_null", table[name].median(), *ends[name])
    return metrics


def _comparable(schema: ConditionSchema, subjects: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """(M,): SD of the condition over robust SD of the feature, NaN where one of them is 0."""
    sd = pd.DataFrame(contrasts(schema, subjects)[1]).std(ddof=0).to_numpy()  # of what is known
    spread = robust_sd(real.to_numpy())
    return np.outer(sd, 1 / np.where(spread > 0, spread, np.nan)).ravel()


def _with_intervals(slopes: Slopes, suffix: str = "") -> dict[str, float]:
    """The slopes that are known, by name, each with the ends of its interval."""
    metrics = {}
    for (contrast, feature), *numbers in zip(
        slopes.pairs, slopes.value, *slopes.interval, strict=True
    ):
        if np.isfinite(numbers[0]):
            metrics |= with_ends(f"slope_{contrast}_{feature}{suffix}", *numbers)
    return metrics
