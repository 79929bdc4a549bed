"""Distances between two samples of beats: are they distributed alike?

`halves.py` has the same figures of many parts of one pool of beats.

Dims: N beats of the first sample, M of the second, P pooled beats, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NEIGHBOURS = 5  # k, as in Naeem et al. 2020
SWAPS = 999  # of the permutation test: the smallest p is 0.001


class Neighbours(NamedTuple):
    """Figures of nearest neighbours; see `nearest_neighbours`."""

    density: float
    coverage: float
    precision: float
    recall: float


def squared_distances(beats: np.ndarray) -> np.ndarray:
    """Euclidean, between all pairs: (P, ...) -> (P, P) float32, 0 on the diagonal."""
    flat = np.asarray(beats, np.float32).reshape(len(beats), -1)
    # Distances do not change, but float32 holds more digits of the products of centred beats.
    flat = flat - flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    length = np.square(flat).sum(axis=1)
    squared = flat @ flat.T
    squared *= -2
    squared += length
    squared += length[:, None]
    np.maximum(squared, 0, out=squared)
    np.fill_diagonal(squared, 0)
    return squared


def mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Squared maximum mean discrepancy, unbiased: 0 on average if x and y are distributed alike.

    Gretton et al. 2012 (JMLR 13:723-773), equation 3, with the kernel exp(-d^2 / (2 h^2)) of the
    Euclidean distance d.

    Args:
        x: (N, ...).
        y: (M, ...).
        bandwidth: h, in the unit of x and y.

    Returns:
        At most 2; may be below 0.
    """
    sums = [gaussian_kernel(part, bandwidth).sum(dtype=np.float64) for part in _distances(x, y)]
    return float(unbiased_mmd2(*sums, len(x), len(y)))


def unbiased_mmd2(within_x, between, within_y, n, m):
    """MMD^2 from the sums of the kernel within and between samples of n and m beats."""
    # A beat's kernel with itself is 1 and does not count: that is what makes it unbiased.
    return (within_x - n) / (n * (n - 1)) + (within_y - m) / (m * (m - 1)) - 2 * between / (n * m)


def mmd2_p_value(
    real: np.ndarray,
    generated: np.ndarray,
    bandwidth: float,
    patients: Sequence[str] | np.ndarray,
    seed: int = 0,
) -> float:
    """Permutation p of `mmd2`: how often chance makes two paired samples differ as much.

    If real and generated ECGs of the same conditions are distributed alike, they can be exchanged.
    So the pairs of a patient are swapped with probability 1/2, all recordings of the patient
    together, since those of one person are alike.

    Args:
        real: (N, ...).
        generated: (N, ...), row i at the conditions of row i of `real`.
        bandwidth: see `mmd2`.
        patients: (N,) patient id of each row.
        seed: of the swaps.

    Returns:
        Share of `SWAPS` random swaps, and of the order observed, with an MMD^2 at least as large.
    """
    _, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    squared = squared_distances(np.concatenate([real, generated]))
    return swap_test(squared, bandwidth, patient_of, np.random.default_rng(seed))[1]


def swap_test(
    squared: np.ndarray, bandwidth: float, patient_of: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """MMD^2 and its p, of (2N, 2N) squared distances of N real beats and their N generated ones."""
    n = len(patient_of)
    kernel = gaussian_kernel(squared, bandwidth)
    signs = rng.choice(np.array([-1, 1], np.float32), (SWAPS + 1, int(patient_of.max()) + 1))
    signs[0] = 1  # as observed
    signs = np.concatenate([signs[:, patient_of], -signs[:, patient_of]], axis=1)
    # +1 for a beat in the first sample, -1 in the second: sums within less sums between them.
    contrast = ((signs @ kernel) * signs).sum(axis=1, dtype=np.float64)
    total = kernel.sum(dtype=np.float64)
    within, between = (total + contrast) / 2, (total - contrast) / 2
    values = (within - 2 * n) / (n * (n - 1)) - between / n**2
    # Swaps that only exchange the names of the samples give the same up to rounding.
    return float(values[0]), float(np.mean(values >= values[0] - 1e-7))


def nearest_neighbours(real: np.ndarray, generated: np.ndarray, k: int = NEIGHBOURS) -> Neighbours:
    """Density, coverage, precision and recall, by Euclidean balls around each beat.

    The ball of a beat reaches to its k-th neighbour among the beats of its own sample. Precision is
    the share of generated beats in any ball of a real one, recall the reverse (Kynkaanniemi et al.
    2019, arXiv 1904.06991); density counts the real balls that a generated beat is in, over k, and
    coverage is the share of real balls with a generated beat in them (Naeem et al. 2020, arXiv
    2002.09797). For two samples of N beats of one distribution density is 1 on average, coverage
    1 - (N - 1)! (2N - k - 1)! / ((N - k - 1)! (2N - 1)!), which is 0.97 for k = 5 and large N.

    Args:
        real: (N, ...), more than k of them.
        generated: (M, ...), more than k of them.
        k: neighbours.
    """
    within_x, between, within_y = _distances(real, generated)
    # A beat is its own nearest neighbour, at place 0.
    radii = (np.partition(part, k, axis=1)[:, k] for part in (within_x, within_y))
    return neighbours_of(between, *radii, k)


def neighbours_of(
    between: np.ndarray, radius_x: np.ndarray, radius_y: np.ndarray, k: int
) -> Neighbours:
    """`nearest_neighbours` by squared distances (N, M) and the squared radii of the balls."""
    inside_x, inside_y = between <= radius_x[:, None], between <= radius_y
    return Neighbours(
        density=float(inside_x.sum() / (k * len(radius_y))),
        coverage=float(inside_x.any(axis=1).mean()),
        precision=float(inside_x.any(axis=0).mean()),
        recall=float(inside_y.any(axis=1).mean()),
    )


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians with the means and covariances of two samples.

    |mean difference|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)) (Dowson and Landau 1982,
    doi 10.1016/0047-259X(82)90077-X), as in the Frechet inception distance. Samples need not be
    larger than F. It is above 0 for samples of one distribution, the more the smaller they are.

    Args:
        x: (N, F), N at least 2.
        y: (M, F), M at least 2.
    """
    of_x, of_y = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (x, y))
    variances, axes = np.linalg.eigh(of_x)
    root = (axes * np.sqrt(np.maximum(variances, 0))) @ axes.T
    # Cx Cy has the eigenvalues of this symmetric matrix, which cannot come out complex.
    product = np.maximum(np.linalg.eigvalsh(root @ of_y @ root), 0)
    distance = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    distance += np.trace(of_x) + np.trace(of_y) - 2 * np.sqrt(product).sum()
    return float(max(distance, 0.0))


def gaussian_kernel(squared: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-d^2 / (2 h^2)) of squared distances."""
    return np.exp(squared * np.float32(-0.5 / bandwidth**2))


def _distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared distances within x (N, N), between (N, M), and within y (M, M)."""
    squared, n = squared_distances(np.concatenate([x, y])), len(x)
    return squared[:n, :n], squared[:n, n:], squared[n:, n:]
