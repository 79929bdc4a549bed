"""The latents of all subjects together as a mixture of Gaussians, to draw new ones from.

The KL term pulls each posterior towards N(0, I), yet all posteriors together, the aggregate
posterior, are no N(0, I): real cohorts have tails and groups, and where the prior puts samples that
no subject is near, generated ECGs are unlike real ones. Fitting the density after training puts
that right and leaves the network alone (Ghosh et al. 2020, arXiv 1903.12436).

Dims: N subjects, K components, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

# On PTB-XL and the simulated cohort 2 to 4 components were alike; 1 and 8 were worse.
COMPONENTS = 4
# Subjects' worth of the covariance of all that each component's own is mixed with: a component of a
# few subjects must not become a copy of them (an inverse Wishart prior; Fraley and Raftery 2007).
SHRINKAGE = 20.0
ITERATIONS = 100


class Mixture(NamedTuple):
    """A mixture of Gaussians."""

    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, Z)
    factors: np.ndarray  # (K, Z, Z), lower Cholesky factors of the covariances

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Draws (n, Z); the same seed and n give the same numbers."""
        random = np.random.default_rng(seed)
        noise = random.standard_normal((n, self.means.shape[1]))
        shares = self.weights / self.weights.sum()
        component = random.choice(len(shares), size=n, p=shares)
        return self.means[component] + np.einsum("nij,nj->ni", self.factors[component], noise)

    def to_dict(self) -> dict:
        """Plain lists, for JSON."""
        return {name: part.tolist() for name, part in self._asdict().items()}

    @classmethod
    def from_dict(cls, description: Mapping, dimensions: int) -> Mixture:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it describes no mixture over so many dimensions.
        """
        try:
            mixture = cls(*(np.asarray(description[name], np.float64) for name in cls._fields))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is no description of a mixture: {error!r}.") from error
        shapes = tuple(part.shape for part in mixture)
        k = len(mixture.weights) if mixture.weights.ndim else 0
        expected = ((k,), (k, dimensions), (k, dimensions, dimensions))
        finite = all(np.isfinite(part).all() for part in mixture)
        if not k or shapes != expected or not finite or not (mixture.weights > 0).all():
            raise ValueError(
                f"Expected a mixture over {dimensions} dimensions: finite arrays (K,), (K, Z) and "
                f"(K, Z, Z), weights above 0. Received the shapes {shapes}."
            )
        return mixture

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density in nats: (N, Z) -> (N,)."""
        return logsumexp(self._joint(z), axis=1)

    def _joint(self, z: np.ndarray) -> np.ndarray:
        """(N, Z) -> (N, K) log of weight times density of each component."""
        joint = np.empty((len(z), len(self.weights)))
        for k, (weight, mean, factor) in enumerate(zip(*self, strict=True)):
            white = solve_triangular(factor, (z - mean).T, lower=True)  # (Z, N)
            joint[:, k] = np.log(weight) - np.log(np.diag(factor)).sum()
            joint[:, k] -= 0.5 * (white**2).sum(axis=0) + 0.5 * len(mean) * np.log(2 * np.pi)
        return joint


def standard_normal(dimensions: int) -> Mixture:
    """N(0, I) as a mixture of one."""
    return Mixture(np.ones(1), np.zeros((1, dimensions)), np.eye(dimensions)[None])


def fit_mixture(z: np.ndarray, components: int = COMPONENTS, seed: int = 0) -> Mixture:
    """Fits a mixture by expectation maximisation, with shrunken covariances.

    Args:
        z: (N, Z) latents, one row per subject, drawn from the posteriors.
        components: most components; with fewer than 2 (Z + 1) subjects for each there are fewer.
        seed: of the first means.

    Returns:
        Mixture.
    """
    z = np.asarray(z, np.float64)
    n, dimensions = z.shape
    k_max = int(np.clip(n // (2 * (dimensions + 1)), 1, components))
    # A floor keeps the factors regular where the cohort has fewer subjects than dimensions.
    pooled = z.T @ z / n - np.outer(z.mean(axis=0), z.mean(axis=0)) + 1e-6 * np.eye(dimensions)
    start = np.random.default_rng(seed).choice(n, k_max, replace=False)
    distance = ((z[:, None] - z[None, start]) ** 2).sum(axis=2)  # (N, K)
    share = np.eye(k_max)[distance.argmin(axis=1)]
    for _ in range(ITERATIONS):
        size = share.sum(axis=0) + 1e-9
        means = share.T @ z / size[:, None]
        factors = np.empty((k_max, dimensions, dimensions))
        for k in range(k_max):
            centred = z - means[k]
            scatter = (share[:, k, None] * centred).T @ centred
            covariance = (scatter + SHRINKAGE * pooled) / (size[k] + SHRINKAGE)
            factors[k] = np.linalg.cholesky(covariance)
        mixture = Mixture(size / size.sum(), means, factors)
        joint = mixture._joint(z)
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    return mixture
