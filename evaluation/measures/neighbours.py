"""Nearest neighbours among ECGs, in blocks, so that memory does not grow with N * M.

Distances are root mean squares over leads and samples, in microvolts.

Dims: N queries, M references, L leads, T samples, K neighbours, D = L * T or fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data.cohort import UV_PER_MV
from data.leads import LEADS, einthoven_residual, isometry
from data.rows import chunks

ROWS_PER_BLOCK = 1024
THREADS = 2  # numpy lets another one run while it sorts
VALUES_PER_BLOCK = 2**23  # 32 MB
DERIVED_EXACTLY = 1e-5  # largest `einthoven_residual` of leads that were derived; in float32 1e-7


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


def without_derived(leads: Sequence[str], *parts: np.ndarray) -> np.ndarray | None:
    """(I, L) matrix for fewer leads with the same distances; None if a derived lead is not exact.

    Args:
        leads: L names.
        parts: each (N, L, T), all between which distances are taken.
    """
    if tuple(leads) != LEADS:
        return None
    exact = all(
        einthoven_residual(part).max(initial=0) < DERIVED_EXACTLY
        for ecg in parts
        for _, part in chunks(ecg, ROWS_PER_BLOCK)
    )
    return isometry(leads).astype(np.float32) if exact else None


class References:
    """ECGs that distances are taken to, ready for that.

    Args:
        ecg: (M, L, T) mV.
        mix: from `without_derived`.
    """

    def __init__(self, ecg: np.ndarray, mix: np.ndarray | None = None) -> None:
        # Distances do not change when both sides are shifted; their rounding errors shrink.
        centre = np.asarray(ecg, np.float32).mean(axis=0, dtype=np.float64)
        self._centre, self._mix = centre.astype(np.float32), mix
        self._points = self._as_points(ecg)

    def __len__(self) -> int:
        return len(self._points)

    def squared_distances(self, queries: np.ndarray) -> np.ndarray:
        """(n, L, T) mV -> (n, M) mean squares, uV^2."""
        squared = _squared_distances(self._as_points(queries), self._points)
        squared /= self._centre.size
        return squared

    def _as_points(self, ecg: np.ndarray) -> np.ndarray:
        """(N, L, T) mV -> (N, D) uV around the centre."""
        leads, samples = self._centre.shape
        leads = leads if self._mix is None else len(self._mix)
        points = np.empty((len(ecg), leads * samples), np.float32)
        for start, part in chunks(ecg, ROWS_PER_BLOCK):
            part = np.asarray(part, np.float32) - self._centre
            part *= UV_PER_MV
            part = part if self._mix is None else self._mix @ part
            points[start : start + len(part)] = part.reshape(len(part), -1)
        return points


def neighbours(
    queries: np.ndarray,
    references: References,
    count: int,
    patients: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest patients of each query, by their nearest recording.

    Args:
        queries: (N, L, T) mV.
        references: M of them.
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
    references: References,
    groups: Sequence[Patients],
    count: int,
    hidden: np.ndarray | None = None,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """What queries are near to, and what is near to the references, of distances taken once.

    Args:
        queries: (N, L, T) mV.
        references: M of them.
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
    step = max(1, min(ROWS_PER_BLOCK, VALUES_PER_BLOCK // len(references)))
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            squared = references.squared_distances(queries[rows])
            np.minimum(closest, squared.min(axis=0), out=closest)
            unseen = None if hidden is None else hidden[rows]
            nearest = [
                threads.submit(group.nearest, squared, distances.shape[1], unseen)
                for group, (distances, _) in zip(groups, found, strict=True)
            ]
            for (distances, patients), of_group in zip(found, nearest, strict=True):
                distances[rows], patients[rows] = of_group.result()
    return found, np.sqrt(closest).astype(np.float64)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Between points in float32: (n, D), (M, D) -> (n, M).

    |x|^2 + |y|^2 - 2 x y in float32 loses the digits of a difference that is small beside x and y.
    Pairs below 1% of |x|^2 + |y|^2, few unless there are copies, are therefore taken directly.
    """
    of_x, of_y = (np.einsum("nd,nd->n", part, part) for part in (x, y))
    squared = np.empty((len(x), len(y)), np.float32)
    for start in range(0, len(y), ROWS_PER_BLOCK):
        some = slice(start, start + ROWS_PER_BLOCK)
        size = of_x[:, None] + of_y[some]
        block = squared[:, some]
        product = x @ y[some].T
        product *= 2
        np.subtract(size, product, out=block)
        size *= 0.01
        for row in np.flatnonzero((block <= size).any(axis=1)):
            close = np.flatnonzero(block[row] <= size[row])
            block[row, close] = np.square(x[row] - y[some][close]).sum(axis=1)
    return squared


def paired_distance(ecg: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of pairs: (N, L, T), (N, L, T) mV -> (N,) uV."""
    means = []
    for start, part in chunks(ecg, ROWS_PER_BLOCK):
        apart = (np.asarray(part, np.float32) - other[start : start + len(part)]).astype(np.float32)
        means.append(np.einsum("nlt,nlt->n", apart, apart) / apart[0].size)
    return UV_PER_MV * np.sqrt(np.concatenate(means, dtype=np.float64))
