"""Nearest neighbours among ECGs, in blocks, so that memory does not grow with N * M.

Distances are root mean squares over leads and samples, in microvolts.

Dims: N queries, M references, L leads, T samples, K neighbours.
"""

from __future__ import annotations

import numpy as np

from data.cohort import UV_PER_MV

ROWS_PER_BLOCK = 1024
VALUES_PER_BLOCK = 2**23  # 32 MB


def nearest(
    queries: np.ndarray,
    references: np.ndarray,
    patients: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> np.ndarray:
    """Distance of each query to its nearest reference: (N, L, T), (M, L, T) mV -> (N,) uV.

    Args:
        queries: (N, L, T).
        references: (M, L, T).
        patients: (M,) ids of the references; needed with `hidden`.
        hidden: (N,) for each query the patient whose references it may not see.
    """
    if len(references) == 0:
        return np.full(len(queries), np.inf)
    return neighbours(queries, references, 1, patients, hidden)[0][:, 0]


def neighbours(
    queries: np.ndarray,
    references: np.ndarray,
    count: int,
    patients: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest patients of each query, by their nearest recording, in blocks.

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
    order = np.argsort(patients, kind="stable")
    names, starts = np.unique(patients[order], return_index=True)
    count = min(count, len(names))
    # Distances do not change when both sides are shifted; their rounding errors shrink.
    centre = np.asarray(references, np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
    distances, found = np.empty((len(queries), count)), np.empty((len(queries), count), int)
    step = max(1, min(ROWS_PER_BLOCK, VALUES_PER_BLOCK // len(references)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        squared = _squared_distances(queries[rows], references, centre)[:, order]
        if len(names) < len(order):
            squared = np.minimum.reduceat(squared, starts, axis=1)  # of each patient
        if hidden is not None:
            squared[hidden[rows, None] == names] = np.inf
        index = np.argpartition(squared, count - 1, axis=1)[:, :count]
        index = np.take_along_axis(
            index, np.take_along_axis(squared, index, axis=1).argsort(axis=1), axis=1
        )
        distances[rows] = np.sqrt(np.take_along_axis(squared, index, axis=1))
        found[rows] = names[index]
    return distances, found


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
        np.subtract(size, 2 * (x @ y.T), out=block)
        for row in np.flatnonzero((block <= 0.01 * size).any(axis=1)):
            close = np.flatnonzero(block[row] <= 0.01 * size[row])
            block[row, close] = np.square(x[row] - y[close]).sum(axis=1)
    return squared / x.shape[1]


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
