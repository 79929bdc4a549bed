"""Statistics that the measures share: a bootstrap over patients, intervals, AUC.

Dims: N recordings, B bootstrap samples, M measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

DRAWS = 1000  # bootstrap samples: the 2.5% points then rest on 25 samples
WEIGHTS_PER_CHUNK = 2**23  # 32 MB


def bootstrap_weights(
    patients: Sequence[str] | np.ndarray, seed: int, draws: int = DRAWS
) -> Iterator[np.ndarray]:
    """How often each recording is drawn when patients are drawn with replacement.

    Args:
        patients: (N,) patient id of each recording.
        seed: of the draws; the same seed and patients give the same draws (paired comparisons).
        draws: number of bootstrap samples.

    Yields:
        (draws in this chunk, N) float32 whole numbers, in chunks of at most 32 MB or one draw.
    """
    _, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    count = int(patient_of.max()) + 1
    rng = np.random.default_rng(seed)
    size = max(1, WEIGHTS_PER_CHUNK // len(patient_of))
    for start in range(0, draws, size):
        drawn = np.zeros((min(size, draws - start), count), np.float32)
        for row in drawn:
            row += np.bincount(rng.integers(count, size=count), minlength=count)
        yield drawn[:, patient_of]


def weightings(
    patients: Sequence[str] | np.ndarray, seed: int, draws: int = DRAWS
) -> Iterator[np.ndarray]:
    """The sample as it is, a row of ones, then the `bootstrap_weights`: chunks of (1 + B, N)."""
    yield np.ones((1, len(patients)))
    yield from bootstrap_weights(patients, seed, draws)


def bootstrap_means(
    values: np.ndarray, patients: Sequence[str] | np.ndarray, seed: int, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray]:
    """Means over recordings and their bootstrap samples over patients.

    Args:
        values: (N, M), NaN where a recording has no value of a measure.
        patients: (N,) patient id of each recording.
        seed: of the bootstrap.
        draws: bootstrap samples.

    Returns:
        (M,) means and (draws, M) means of the bootstrap samples; NaN without any value.
    """
    known = ~np.isnan(values)
    sums = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore"):  # 0 / 0: a measure without any value is NaN
        means = np.concatenate(
            [(weights @ sums) / (weights @ known) for weights in weightings(patients, seed, draws)]
        )
    return means[0], means[1:]


def with_ends(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A metric and the ends of its interval, under their names."""
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """A metric and its percentile 95% interval, of (1 + B,): of all, then of the samples.

    Samples without a value (NaN) are left out; where none has one, neither has the interval.
    """
    known = values[1:][~np.isnan(values[1:])]
    ends = np.percentile(known, (2.5, 97.5)) if len(known) else (np.nan, np.nan)
    return with_ends(name, values[0], *ends)


def random_half(patient_of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool: the recordings of a random half of the patients, who are numbered from 0.

    Of an odd number of patients, the other half has one more.
    """
    count = int(patient_of.max()) + 1
    return (rng.permutation(count) < count // 2)[patient_of]


def weighted_auc(weights: np.ndarray, score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of a score under many weightings at once; ties count one half.

    Args:
        weights: (B, N), how often each subject counts.
        score: (N,), higher = more likely positive.
        positive: (N,) bool.

    Returns:
        (B,); NaN where a weighting leaves one class empty.
    """
    of_negative = np.flatnonzero(~positive)
    of_negative = of_negative[np.argsort(score[of_negative])]
    positives, negatives = weights[:, positive], weights[:, of_negative]
    level = np.zeros((len(weights), len(of_negative) + 1))  # weight of the k lowest negatives
    np.cumsum(negatives, axis=1, dtype=np.float64, out=level[:, 1:])
    # Each positive counts by half the negatives below it and half those that are not above it.
    below, not_above = (
        np.searchsorted(score[of_negative], score[positive], side) for side in ("left", "right")
    )
    won = np.einsum("bp,bp->b", positives, level[:, below])
    won += np.einsum("bp,bp->b", positives, level[:, not_above])
    with np.errstate(invalid="ignore"):
        return won / (2 * positives.sum(axis=1, dtype=np.float64) * level[:, -1])
