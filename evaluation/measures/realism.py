"""Are generated ECGs distributed as real ones?

No figure here means much alone: two samples of real patients differ too, the more the fewer they
are. So every figure stands beside its real-vs-real null. The test patients are divided at random in
halves A and B, many times over, and A is compared with B (the null) and with what the model makes
of the conditions of B: the same sizes, the same conditions, the same beats to compare with.

Generated beats are the mean of the decoder. Real ones carry 5 to 15 uV of noise besides, which is
part of the difference.

Dims: N real beats, M generated or other beats, P pooled beats, L leads, T samples, D = L * T,
F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from data.cohort import LEADS, QRS_SAMPLE, SAMPLING_RATE, einthoven_residual
from data.leads import independent_among
from data.rows import chunks, first_not_finite
from data.units import MV
from evaluation.measures.features import CIRCULAR, measure, short_way
from evaluation.measures.halves import (
    correlation_errors,
    frechet_of_halves,
    mmd2_of_halves,
    neighbours_of_halves,
    wasserstein_of_halves,
)
from evaluation.measures.neighbours import without_derived
from evaluation.measures.statistics import random_half, with_ends
from evaluation.measures.two_samples import squared_distances, swap_test

DRAWS = 200  # random halves: the 2.5% points then rest on 5 of them
FEWEST_PATIENTS = 20  # halves of 10, above k neighbours

# What is used of larger samples: the distances between all beats are kept in memory.
REAL_BEATS, POOLED_BEATS = 2000, 4000

# Nearly always found (P waves are missing in 5% of real records, in atrial fibrillation all), and
# no sums of one another, which would count what they share twice.
FRECHET_FEATURES = (
    *("qrs_duration", "qt_interval", "qrs_axis", "qrs_t_angle"),
    *(f"{wave}_{lead}" for wave in "rsjt" for lead in ("i", "avf", "v2", "v5")),
)
PRINCIPAL_FEATURES = (
    *("p_duration", "pr_interval", "qrs_duration", "qt_interval", "qrs_axis", "qrs_t_angle"),
    *("r_v5", "t_v5", "sokolow_lyon", "cornell"),
)
COMPARED_FEATURES = tuple(dict.fromkeys(PRINCIPAL_FEATURES + FRECHET_FEATURES))


class RealismError(ValueError):
    """ECGs that cannot be compared. The message says which and what to do."""


def realism_metrics(
    real: np.ndarray,
    generated: np.ndarray,
    train: np.ndarray,
    patients: Sequence[str] | np.ndarray,
    seed: int = 0,
    *,
    draws: int = DRAWS,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    qrs_sample: int = QRS_SAMPLE,
    unit: str = MV,
    features: Sequence[pd.DataFrame] | None = None,
) -> dict[str, float]:
    """Compares generated with real test ECGs, beside real with real ones.

    A figure X is the mean over `draws` random halves of the patients of comparing half A with the
    beats generated at the conditions of half B; `X_low` and `X_high` are its 2.5% and 97.5% points
    over the halves, which hold the chance of dividing these patients, not that of drawing others.
    `X_null` (`X_null_low`, `X_null_high`) is the same of comparing A with the real half B. All
    recordings of a patient are in the same half.

    Of more than `REAL_BEATS` test beats that many are used, drawn at random; the same of the
    training beats.

    Args:
        real: (N, L, T) mV, test ECGs; may be a memory map.
        generated: (N, L, T) mV, row i at the conditions of row i of `real`; or (c * N, L, T), c
            such samples one after the other, of which the halves take turns.
        train: (N_train, L, T) mV, fixes bandwidth, mean and SD of the features; may be a memory
            map.
        patients: (N,) patient id of each test ECG.
        seed: of the halves, the permutations, and what is used of a larger sample.
        draws: random halves.
        leads: L names. Clinical features and the Einthoven residual need the standard twelve.
        sampling_rate: Hz.
        qrs_sample: sample on which the QRS complex is centred.
        unit: of the ECGs; see `data.units`.
        features: of `real`, `generated` and `train`, as from `features.measure`; measured here
            where left out.

    Returns:
        Flat name -> number. With `_low`, `_high` and a null: `mmd2` (unbiased, Gaussian kernel,
        bandwidth the median distance of training beats), `density`, `coverage`, `precision`,
        `recall` (k = 5), `lead_correlation_error`, `frechet_distance` (squared, of standardised
        features), `wasserstein` (mean over `COMPARED_FEATURES`, in SD of the training beats) and
        `wasserstein_<feature>` for `PRINCIPAL_FEATURES`. Besides: `mmd2_null_p95` and
        `coverage_null_p05` (a figure beyond them is rare among real halves), `mmd2_all` (all test
        beats used against the first sample generated) with the permutation p `mmd2_p_value`;
        `features_failed` and `p_wave_missing` (shares of the generated) and `einthoven_residual`
        (the largest of the generated), each with the same of the real ones as null; `recordings`
        and `patients`. Beats without a feature are left out of that feature's distance, those
        without one of `FRECHET_FEATURES` of the Frechet distance; a half with fewer than two beats
        left has no value then, nor a mean over features, and if all halves are so it is NaN. With
        fewer than `FEWEST_PATIENTS` patients halves would be too small for k neighbours: only
        failures, residual and counts are given.

    Raises:
        RealismError: shapes that do not fit, generated values that are not finite, or fewer than
            two different training ECGs.
    """
    leads = tuple(leads)
    _check(real, generated, train, patients, leads)
    rng = np.random.default_rng(seed)
    rows = _some(len(real), rng)
    train_rows = _some(len(train), np.random.default_rng(0))
    train = np.asarray(train[train_rows], np.float32)
    copies = min(len(generated) // len(real), max(1, POOLED_BEATS // len(rows) - 1))
    made_rows = np.concatenate([copy * len(real) + rows for copy in range(copies)])
    pool = np.concatenate([real[rows], generated[made_rows]], dtype=np.float32)
    _, patient_of = np.unique(np.asarray(patients)[rows], return_inverse=True)

    metrics = {"recordings": len(rows), "patients": int(patient_of.max()) + 1}
    standardised = None
    if leads == LEADS:
        if features is None:
            recorded = {"sampling_rate": sampling_rate, "qrs_sample": qrs_sample, "unit": unit}
            table, of_train = measure(pool, **recorded), measure(train, **recorded)
        else:
            of_real, of_made, of_train = (
                part.iloc[part_rows]
                for part, part_rows in zip(features, (rows, made_rows, train_rows), strict=True)
            )
            table = pd.concat([of_real, of_made], ignore_index=True)
        standardised = _standardised(table, of_train)
        metrics |= _impossible(pool, table, len(rows))
    if metrics["patients"] < FEWEST_PATIENTS:
        return metrics

    mix = without_derived(leads, pool, train)
    bandwidth = median_distance(train if mix is None else mix @ train)
    squared = squared_distances(pool if mix is None else mix @ pool)
    first = squared[: 2 * len(rows), : 2 * len(rows)]
    metrics["mmd2_all"], metrics["mmd2_p_value"] = swap_test(first, bandwidth, patient_of, rng)
    correlations = lead_correlations(pool, leads)
    halves = np.stack([random_half(patient_of, rng) for _ in range(draws)])
    for suffix, sample in (("", 1 + np.arange(draws) % copies), ("_null", np.zeros(draws, int))):
        found = _figures(squared, halves, sample, bandwidth)
        if correlations.shape[1]:
            found["lead_correlation_error"] = correlation_errors(correlations, halves, sample)
        if standardised is not None:
            found |= _feature_figures(standardised, halves, sample)
        metrics |= _over_halves({f"{name}{suffix}": values for name, values in found.items()})
    return metrics


# ---- the figures ---------------------------------------------------------------------------------


def median_distance(beats: np.ndarray) -> float:
    """Median Euclidean distance between pairs of beats, (N, ...), the usual bandwidth.

    Raises:
        RealismError: it is 0, or there is no pair.
    """
    squared = squared_distances(beats)
    pairs = squared[np.tri(len(squared), k=-1, dtype=bool)]
    median = np.median(pairs) if len(pairs) else 0
    if median == 0:
        raise RealismError(
            f"Expected training ECGs that differ from each other. Received: {len(beats)} with a "
            "median distance of 0. Check the training split."
        )
    return float(np.sqrt(median))


def lead_correlations(ecg: np.ndarray, leads: Sequence[str] = LEADS) -> np.ndarray:
    """Correlation over samples of each pair of independent leads, beat by beat.

    Of each beat alone, so that it tells how leads go together within a beat, and large beats count
    no more than small ones. Derived leads are left out: their correlations follow from the others.

    Args:
        ecg: (N, L, T).
        leads: L names.

    Returns:
        (N, pairs); 0 where a lead is flat.
    """
    independent = [list(leads).index(lead) for lead in independent_among(leads)]
    first, second = np.triu_indices(len(independent), 1)
    found = np.empty((len(ecg), len(first)))
    for start, part in chunks(ecg, 512):
        part = part.astype(np.float32, copy=False)[:, independent]
        part -= part.mean(axis=2, keepdims=True)
        length = np.linalg.norm(part, axis=2, keepdims=True)
        # Rounding leaves a flat lead with up to 1e-6 mV in each sample, which is no signal.
        part = np.where(length > 1e-6 * np.sqrt(part.shape[2]), part, 0)
        part /= np.maximum(length, 1e-12)
        products = (part @ part.transpose(0, 2, 1))[:, first, second]
        found[start : start + len(part)] = products
    return found


# ---- how they are put together -------------------------------------------------------------------


def _some(n: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers in order: all, or `REAL_BEATS` of them drawn at random."""
    return np.arange(n) if n <= REAL_BEATS else np.sort(rng.choice(n, REAL_BEATS, replace=False))


def _impossible(pool: np.ndarray, table: pd.DataFrame, n: int) -> dict[str, float]:
    """What no or few real beats have, of the generated ones and, as null, of the first n."""
    residual = einthoven_residual(pool)
    failed, no_p = table["failed"].to_numpy(), table["p_duration"].isna().to_numpy()
    metrics = {}
    for suffix, rows in (("", slice(n, None)), ("_null", slice(n))):
        metrics[f"einthoven_residual{suffix}"] = float(residual[rows].max())
        metrics[f"features_failed{suffix}"] = float(failed[rows].mean())
        metrics[f"p_wave_missing{suffix}"] = float(no_p[rows].mean())
    return metrics


def _figures(
    squared: np.ndarray, halves: np.ndarray, sample: np.ndarray, bandwidth: float
) -> dict[str, np.ndarray]:
    """What rests on the distances between beats, of each draw; see `halves.py`."""
    mmd2 = mmd2_of_halves(squared, halves, sample, bandwidth)
    return {"mmd2": mmd2, **neighbours_of_halves(squared, halves, sample)}


def _standardised(table: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """(P, F) features in SD of the training beats from their mean; NaN where not found."""
    table, train = table[list(COMPARED_FEATURES)].copy(), train[list(COMPARED_FEATURES)].copy()
    for name in train.columns.intersection(CIRCULAR):
        # Axes are counted from the mean one, or -179 and 179 degrees would be far apart.
        radians = np.radians(train[name].dropna())
        centre = np.degrees(np.arctan2(np.sin(radians).sum(), np.cos(radians).sum()))
        for part in (table, train):
            part[name] = short_way(part[name] - centre)
    scale = train.std()
    return (table - train.mean()) / scale.where(scale > 0, 1.0)


def _feature_figures(
    features: pd.DataFrame, halves: np.ndarray, sample: np.ndarray
) -> dict[str, np.ndarray]:
    """Frechet and Wasserstein distances of standardised features, of each draw."""
    complete = features[list(FRECHET_FEATURES)].to_numpy()
    distances = wasserstein_of_halves(features.to_numpy(), halves, sample)  # (draws, F)
    values = {
        "frechet_distance": frechet_of_halves(complete, halves, sample),
        "wasserstein": distances.mean(axis=1),
    }
    named = dict(zip(features, distances.T, strict=True))
    return values | {f"wasserstein_{name}": named[name] for name in PRINCIPAL_FEATURES}


def _over_halves(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean and percentiles over the halves; halves without a value are left out."""
    metrics = {}
    for name, values in found.items():
        known = values[~np.isnan(values)] if not np.isnan(values).all() else [np.nan]
        metrics |= with_ends(name, np.mean(known), *np.percentile(known, (2.5, 97.5)))
        if name == "mmd2_null":
            metrics["mmd2_null_p95"] = float(np.percentile(known, 95))
        if name == "coverage_null":
            metrics["coverage_null_p05"] = float(np.percentile(known, 5))
    return metrics


def _check(real, generated, train, patients, leads) -> None:
    if real.ndim != 3 or len(real) == 0 or real.shape[1] != len(leads):
        raise RealismError(
            f"Expected real ECGs of shape (N, {len(leads)}, T). Received: {real.shape}."
        )
    n, *shape = real.shape
    if generated.shape[1:] != real.shape[1:] or len(generated) == 0 or len(generated) % n:
        raise RealismError(
            f"Expected generated ECGs of shape ({n}, {shape[0]}, {shape[1]}), one for each real "
            f"one, or several times as many. Received: {generated.shape}."
        )
    if train.shape[1:] != real.shape[1:] or len(train) < 2:
        raise RealismError(
            f"Expected two or more training ECGs of shape (N, {shape[0]}, {shape[1]}). "
            f"Received: {train.shape}."
        )
    if len(patients) != n:
        raise RealismError(
            f"Expected one patient id for each of {n} real ECGs. Received: {len(patients)}."
        )
    row = first_not_finite(generated)
    if row is not None:
        raise RealismError(
            f"Expected finite generated ECGs. Received: NaN or infinite values in number {row}. "
            "The model is broken: see its loss curves, or train it again with a lower learning "
            "rate."
        )
