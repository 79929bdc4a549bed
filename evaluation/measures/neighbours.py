"""Nearest neighbours among ECGs, in blocks, so that memory does not grow with N * M.

Distances are root mean squares over leads and samples, in microvolts.

Dims: N queries, M references, L leads, T samples, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.cohort import UV_PER_MV

ROWS_PER_BLOCK = 1024
VALUES_PER_BLOCK = 2**23  # 32 MB


class Patients:
    """Of whom references are: each patient counts once, by the nearest recording.

    Args:
        of: (M,) integer id of each reference.
        rows: of the references that count; all where left out.
    """

    def __init__(self, of: np.ndarray, rows: np.ndarray | None = None) -> None:
        rows = np.arange(len(of)) if rows is None else rows
        self._columns = rows[np.argsort(of[rows], kind="stable")]
        self._names, self._starts = np.unique(of[self._columns], return_index=True)

    def __len__(self) -> int:
        return len(self._names)

    def nearest(
        self, squared: np.ndarray, count: int, hidden: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, M) squared distances -> those of the nearest patients (n, K), and who these are."""
        squared = squared[:, self._columns]
        if len(self._names) < len(self._columns):
            squared = np.minimum.reduceat(squared, self._starts, axis=1)  # of each patient
        if hidden is not None:
            squared[hidden[:, None] == self._names] = np.inf
        index = np.argpartition(squared, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(squared, index, axis=1)
        order = near.argsort(axis=1)
        index = np.take_along_axis(index, order, axis=1)
        return np.sqrt(np.take_along_axis(near, order, axis=1)), self._names[index]


def neighbours(
    queries: np.ndarray,
    references: np.ndarray,
    count: int,
    patients: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest patients of each query, by their nearest recording.

    Args:
        queries: (N, L, T) mV.
        references: (M, L, T) mV.
        count: K; at most as many as there are patients.
        patients: (M,) integer ids of the references; each its own patient where left out.
        hidden: (N,) for each query a patient that it may not see.

    Returns:
        (N, K) distances in uV, ascending, and (N, K) patients.
    """
    patients = np.arange(len(references)) if patients is None else patients
    [found], _ = both_ways(queries, references, [Patients(patients)], count, hidden)
    return found


def both_ways(
    queries: np.ndarray,
    references: np.ndarray,
    groups: Sequence[Patients],
    count: int,
    hidden: np.ndarray | None = None,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """What queries are near to, and what is near to the references, of distances taken once.

    Args:
        queries: (N, L, T) mV.
        references: (M, L, T) mV.
        groups: of the references.
        count: K; at most as many as there are patients in a group.
        hidden: (N,) for each query a patient that it may not see.

    Returns:
        For each group (N, K) distances in uV, ascending, and (N, K) patients; and for each
        reference the distance (M,) to the nearest query, which hides nobody.
    """
    shapes = [(len(queries), min(count, len(group))) for group in groups]
    found = [(np.empty(shape), np.empty(shape, int)) for shape in shapes]
    closest = np.full(len(references), np.inf, np.float32)
    # Distances do not change when both sides are shifted; their rounding errors shrink.
    centre = np.asarray(references, np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
    step = max(1, min(ROWS_PER_BLOCK, VALUES_PER_BLOCK // len(references)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        squared = _squared_distances(queries[rows], references, centre)
        np.minimum(closest, squared.min(axis=0), out=closest)
        unseen = None if hidden is None else hidden[rows]
        for group, (distances, patients) in zip(groups, found, strict=True):
            nearest = group.nearest(squared, distances.shape[1], unseen)
            distances[rows], patients[rows] = nearest
    return found, np.sqrt(closest).astype(np.float64)


def _squared_distances(
    queries: np.ndarray, references: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """Mean squared differences in uV^2: (n, L, T), (M, L, T) mV -> (n, M) float32.

    |x|^2 + |y|^2 - 2 x y in float32 loses the digits of a difference that is small beside x and y.
    Pairs below 1% of |x|^2 + |y|^2, few unless there are copies, are therefore taken directly.
    """
    x = _flat(queries, centre)
    of_x = np.einsum("nd,nd->n", x, x)
    squared = np.empty((len(x), len(references)), np.float32)
    for start in range(0, len(references), ROWS_PER_BLOCK):
        y = _flat(references[start : start + ROWS_PER_BLOCK], centre)
        size = of_x[:, None] + np.einsum("nd,nd->n", y, y)
        block = squared[:, start : start + ROWS_PER_BLOCK]
        product = x @ y.T
        product *= 2
        np.subtract(size, product, out=block)
        size *= 0.01
        for row in np.flatnonzero((block <= size).any(axis=1)):
            close = np.flatnonzero(block[row] <= size[row])
            block[row, close] = np.square(x[row] - y[close]).sum(axis=1)
    squared /= x.shape[1]
    return squared


def _flat(ecg: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(N, L, T) mV -> (N, L * T) uV around `centre`."""
    ecg = (np.asarray(ecg, np.float32) - centre).reshape(len(ecg), -1)
    return np.float32(UV_PER_MV) * ecg


def paired_distance(ecg: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of pairs: (N, L, T), (N, L, T) mV -> (N,) uV."""
    squares = [
        np.square(_flat(ecg[start : start + ROWS_PER_BLOCK], other[start : start + ROWS_PER_BLOCK]))
        for start in range(0, len(ecg), ROWS_PER_BLOCK)
    ]
    return np.sqrt(np.concatenate([block.mean(axis=1, dtype=np.float64) for block in squares]))
