"""Halves of real beats beside samples of the same pool, all random halves at once.

A pool is N real beats and, after these, samples of N generated ones each, row i of every sample at
the conditions of real beat i. In each draw a half of the real beats is compared with the other half
of one sample: sample 0 are the real beats themselves, which gives the null. What does not depend on
the draw is done once: kernels, the order of neighbours, the order of values. The figures are those
of `two_samples.py`.

Dims: N real beats, P = N * (1 + samples) pooled beats, B draws, F features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evaluation.measures.two_samples import (
    NEIGHBOURS,
    Neighbours,
    frechet_distance,
    gaussian_kernel,
    neighbours_of,
    unbiased_mmd2,
)

LISTED = 64  # nearest beats that are listed; half of them are in the half, and k + 1 are sought


def mmd2_of_halves(
    squared: np.ndarray, first: np.ndarray, sample: np.ndarray, bandwidth: float
) -> np.ndarray:
    """`two_samples.mmd2` of each draw.

    Args:
        squared: (P, P) squared distances.
        first: (B, N) bool, the half of the real beats; of the sample, the others are taken.
        sample: (B,) which sample.
        bandwidth: of the kernel.

    Returns:
        (B,).
    """
    values = np.empty(len(first))
    for draws, of_real, of_sample in _samples(first, sample):
        x, y = first[draws].astype(np.float64), 1.0 - first[draws]
        sums = []
        for one, rows, other, columns in (
            (x, of_real, x, of_real),
            (x, of_real, y, of_sample),
            (y, of_sample, y, of_sample),
        ):
            kernel = gaussian_kernel(squared[rows, columns], bandwidth).astype(np.float64)
            sums.append(((one @ kernel) * other).sum(axis=1))
        values[draws] = unbiased_mmd2(*sums, x.sum(axis=1), y.sum(axis=1))
    return values


def neighbours_of_halves(
    squared: np.ndarray, first: np.ndarray, sample: np.ndarray, k: int = NEIGHBOURS
) -> dict[str, np.ndarray]:
    """`two_samples.nearest_neighbours` of each draw: each of its figures (B,); see above."""
    found = np.empty((len(first), len(Neighbours._fields)))
    n = first.shape[1]
    near_real = _Near(squared[:n, :n], k)
    for draws, of_real, of_sample in _samples(first, sample):
        between = squared[of_real, of_sample]
        near_sample = _Near(squared[of_sample, of_sample], k) if of_sample.start else near_real
        for draw in draws:
            half = first[draw]
            distances = between[np.ix_(half, ~half)]
            radii = near_real.radii(half), near_sample.radii(~half)
            found[draw] = neighbours_of(distances, *radii, k)
    return dict(zip(Neighbours._fields, found.T, strict=True))


class _Near:
    """The nearest beats of each of N, by which the k-th among any of them is found soon."""

    def __init__(self, squared: np.ndarray, k: int) -> None:
        self._squared, self._k = squared, k
        listed = min(LISTED, len(squared))
        near = np.argpartition(squared, listed - 1, axis=1)[:, :listed]
        distances = np.take_along_axis(squared, near, axis=1)
        order = distances.argsort(axis=1)
        self._order = np.take_along_axis(near, order, axis=1)
        self._distances = np.take_along_axis(distances, order, axis=1)

    def radii(self, among: np.ndarray) -> np.ndarray:
        """Squared distance of each beat that is `among` (N,) to its k-th neighbour among them."""
        rows = np.flatnonzero(among)
        # A beat is its own nearest neighbour, at place 0.
        seen = among[self._order[rows]].cumsum(axis=1, dtype=np.int16) > self._k
        radii = self._distances[rows, seen.argmax(axis=1)]
        for row in np.flatnonzero(~seen[:, -1]):  # the list is too short
            radii[row] = np.partition(self._squared[rows[row], among], self._k)[self._k]
        return radii


def correlation_errors(
    correlations: np.ndarray, first: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """(B,): how far the mean correlations of the two sides differ, of (P, pairs)."""
    errors = np.empty(len(first))
    for draws, of_real, of_sample in _samples(first, sample):
        x, y = first[draws].astype(np.float64), 1.0 - first[draws]
        means = (
            one @ correlations[rows] / one.sum(axis=1, keepdims=True)
            for one, rows in ((x, of_real), (y, of_sample))
        )
        errors[draws] = np.abs(np.subtract(*means)).mean(axis=1)
    return errors


def wasserstein_of_halves(
    features: np.ndarray, first: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """Wasserstein distance of each feature, (P, F) with NaN where it is not known -> (B, F).

    The area between the two cumulative distributions. NaN where a side has fewer than two values.
    """
    found = np.empty((len(first), features.shape[1]))
    for draws, of_real, of_sample in _samples(first, sample):
        values = np.concatenate([features[of_real], features[of_sample]]).T  # (F, 2 N)
        order = np.argsort(values, axis=1)  # NaN comes last
        gaps = np.nan_to_num(np.diff(np.take_along_axis(values, order, axis=1), axis=1))
        known = ~np.isnan(values)
        for draw in draws:
            x, y = np.split(known * np.concatenate([first[draw], ~first[draw]]), 2, axis=1)
            counts = x.sum(axis=1), y.sum(axis=1)
            shares = [
                part / np.maximum(count, 1)[:, None]
                for part, count in zip((x, y), counts, strict=True)
            ]
            steps = np.concatenate([shares[0], -shares[1]], axis=1)
            apart = np.take_along_axis(steps, order, axis=1).cumsum(axis=1)[:, :-1]
            distance = np.einsum("fn,fn->f", np.abs(apart), gaps)
            found[draw] = np.where(np.minimum(*counts) >= 2, distance, np.nan)
    return found


def frechet_of_halves(features: np.ndarray, first: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """(B,): `two_samples.frechet_distance` of the beats with all of (P, F) features."""
    complete = ~np.isnan(features).any(axis=1)
    found = np.full(len(first), np.nan)
    for draws, of_real, of_sample in _samples(first, sample):
        x, y = features[of_real], features[of_sample]
        for draw in draws:
            sides = x[complete[of_real] & first[draw]], y[complete[of_sample] & ~first[draw]]
            if min(map(len, sides)) >= 2:
                found[draw] = frechet_distance(*sides)
    return found


def _samples(first: np.ndarray, sample: np.ndarray) -> Iterator[tuple[np.ndarray, slice, slice]]:
    """For each sample the draws that use it, and the rows in the pool of real beats and its own."""
    n = first.shape[1]
    for number in np.unique(sample):
        yield np.flatnonzero(sample == number), slice(0, n), slice(n * number, n * (number + 1))
