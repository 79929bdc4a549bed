"""Principal components of ECGs around what their conditions explain: the start of `vae.VAE`.

Dims: N recordings, D = leads x samples, C conditions as encoded, Z components.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import svds


def weighted_pca(
    x: np.ndarray, conditions: np.ndarray, weights: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray]:
    """Ridge regression on conditions, then principal components of what remains.

    Args:
        x: (N, D).
        conditions: (N, C).
        weights: (N,), mean 1.
        count: Z.

    Returns:
        Effects (C, D), directions (Z, D), their variances (Z,), the mean variance of what is left,
        and weights (N,) for another round: inverse to what is left of each row.
    """
    # One pseudo-subject per column with no effect: columns that never vary stay at zero.
    weighted = conditions * weights[:, None]
    gram = weighted.T @ conditions + np.eye(conditions.shape[1])
    effect = np.linalg.solve(gram, weighted.T @ x)
    rest = x - conditions @ effect
    n, d = x.shape
    scaled = rest * np.sqrt(weights / n)[:, None]
    found = min(count, (n - 1) // 2, d)  # more components than that leave no noise to measure
    # A fixed start vector makes it reproducible. All singular values would take a minute.
    start = np.random.default_rng(0).standard_normal(min(n, d))
    directions = svds(scaled, k=found, v0=start)[2][::-1] if found else np.zeros((0, d))
    scores = rest @ directions.T  # (N, Z)
    rest = rest - scores @ directions
    error = (rest**2).sum(axis=1) / max(d - found, 1)
    # A row that has a component to itself leaves nothing: its weight must not become infinite.
    precision = 1 / np.maximum(error, max(0.1 * np.median(error), 1e-8))
    missing = count - found  # fewer rows than latent dimensions
    return (
        effect,
        np.concatenate([directions, np.zeros((missing, d))]),
        # Unweighted: in the prior each subject counts once.
        np.concatenate([(scores**2).mean(axis=0), np.zeros(missing)]),
        max(float(np.average(error, weights=weights)), 1e-8),
        precision / precision.mean(),
    )
