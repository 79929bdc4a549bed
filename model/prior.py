"""How the latents of subjects are distributed, given their conditions: to draw new ones from.

The KL term pulls each posterior towards N(0, I), yet all posteriors together, the aggregate
posterior, are no N(0, I): real cohorts have tails and groups, and latents that hang on the
conditions. Where the prior puts samples that no subject is near, generated ECGs are unlike real
ones; what it leaves out of the conditions, they follow too weakly. Fitting the density after
training puts that right and leaves the network alone (Ghosh et al. 2020, arXiv 1903.12436).

Dims: N subjects, C conditions as encoded, K components in J sizes, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from data.rows import even_rows

# On PTB-XL and the simulated cohort 2 to 4 components were alike; 1 and 8 were worse.
COMPONENTS = 4
# SD of the sizes that each comes in. Some subjects are far from the others in all latents at once:
# on PTB-XL those of subjects never seen are 4 nats likelier than with one size.
SCALES = 2.0 ** np.arange(-1.5, 2, 0.5)
# Subjects' worth of the covariance of all that each component's own is mixed with: a component of a
# few subjects must not become a copy of them (an inverse Wishart prior; Fraley and Raftery 2007).
SHRINKAGE = 20.0
OWN = 5.0  # the same of the mean of a size: so many subjects at the mean of its component
ITERATIONS = 100
MOST = 20_000  # subjects that the mixture is fitted to; 500,000 would take two minutes
PENALTY = 20.0  # of the regressions on conditions, in subjects: 243 records must not be overfitted
ROUNDS = 20  # of Fisher scoring; it converges in about 5
HALVINGS = 30  # of one step; the shortest is then none
# The same of how latents hang together, of which there are Z times as many coefficients. On fold 9
# of PTB-XL the latents of subjects never seen are 2 nats less likely with 300, and with 1,000 and
# 3,000 half a nat, no more than the random start of the mixture makes.
COUPLING_PENALTY = 1000.0


class Mixture(NamedTuple):
    """A mixture of Gaussians: K shapes, each in J sizes with means of their own.

    Sizes give heavy tails (scale mixtures of normals; Andrews and Mallows 1974), their means skew.
    """

    weights: np.ndarray  # (K, J)
    means: np.ndarray  # (K, J, Z)
    factors: np.ndarray  # (K, Z, Z), lower Cholesky factors of the covariances at size 1
    scales: np.ndarray  # (J,), SD of the sizes

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Draws (n, Z); the same seed and n give the same numbers."""
        random = np.random.default_rng(seed)
        drawn = random.standard_normal((n, self.means.shape[2]))
        shares = self.weights.ravel() / self.weights.sum()
        shape, size = np.divmod(random.choice(len(shares), size=n, p=shares), len(self.scales))
        for k, factor in enumerate(self.factors):
            drawn[shape == k] = drawn[shape == k] @ factor.T
        return self.means[shape, size] + self.scales[size, None] * drawn

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density in nats: (N, Z) -> (N,)."""
        return logsumexp(self._joint(z), axis=(1, 2))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and SD (Z,)."""
        weights = self.weights / self.weights.sum()
        mean = np.einsum("kj,kjz->z", weights, self.means)
        spread = np.einsum("kj,j,kz->z", weights, self.scales**2, (self.factors**2).sum(axis=2))
        return mean, np.sqrt(spread + np.einsum("kj,kjz->z", weights, (self.means - mean) ** 2))

    def _joint(self, z: np.ndarray) -> np.ndarray:
        """(N, Z) -> (N, K, J) log of weight times density of each component."""
        joint = np.empty((len(z), *self.weights.shape))
        for k, (weights, means, factor) in enumerate(
            zip(self.weights, self.means, self.factors, strict=True)
        ):
            inverse = np.linalg.inv(factor)
            white, centres = z @ inverse.T, means @ inverse.T
            squared = (white**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
            squared -= 2 * white @ centres.T  # (N, J)
            scaled = np.log(self.scales) + 0.5 * np.log(2 * np.pi)
            joint[:, k] = np.log(weights) - np.log(np.diag(factor)).sum() - len(factor) * scaled
            joint[:, k] -= 0.5 * squared / self.scales**2
        return joint


def fit_mixture(z: np.ndarray, components: int = COMPONENTS, seed: int = 0) -> Mixture:
    """Fits a mixture by expectation maximisation, with shrunken means and covariances.

    Args:
        z: (N, Z) latents, one row per subject, drawn from the posteriors. Above `MOST` an even
            selection is used.
        components: most shapes; with fewer than 2 (Z + 1) subjects for each there are fewer.
        seed: of the first means.

    Returns:
        Mixture.
    """
    rows = even_rows(len(z), MOST)
    z = np.asarray(z, np.float64)[rows]
    n, dimensions = z.shape
    k_max = int(np.clip(n // (2 * (dimensions + 1)), 1, components))
    # A floor keeps the factors regular where the cohort has fewer subjects than dimensions.
    pooled = z.T @ z / n - np.outer(z.mean(axis=0), z.mean(axis=0)) + 1e-6 * np.eye(dimensions)
    start = np.random.default_rng(seed).choice(n, k_max, replace=False)
    distance = ((z[:, None] - z[None, start]) ** 2).sum(axis=2)  # (N, K)
    share = np.eye(k_max)[distance.argmin(axis=1)]
    means = share.T @ z / (share.sum(axis=0)[:, None] + 1e-9)
    mixture = Mixture(
        np.full((k_max, len(SCALES)), 1 / (k_max * len(SCALES))),
        np.repeat(means[:, None], len(SCALES), axis=1),
        np.repeat(np.linalg.cholesky(pooled)[None], k_max, axis=0),
        SCALES,
    )
    for _ in range(ITERATIONS):
        joint = mixture._joint(z)
        share = np.exp(joint - logsumexp(joint, axis=(1, 2), keepdims=True))  # (N, K, J)
        mixture = _maximised(z, share, pooled)
    return mixture


def _maximised(z: np.ndarray, share: np.ndarray, pooled: np.ndarray) -> Mixture:
    """The mixture of latents (N, Z) that belong to its components by `share` (N, K, J).

    `pooled` (Z, Z) is the covariance of all, to which those of few are drawn.
    """
    size = share.sum(axis=0) + 1e-9  # (K, J)
    means, factors = np.empty((*size.shape, z.shape[1])), np.empty((len(size), *pooled.shape))
    for k, count in enumerate(size):
        precise = share[:, k] / SCALES**2  # what is near says more of where a shape lies
        middle = precise.sum(axis=1) @ z / precise.sum()
        means[k] = (share[:, k].T @ z + OWN * middle) / (count[:, None] + OWN)
        cross = (precise.T @ z).T @ means[k]
        scatter = (z * precise.sum(axis=1)[:, None]).T @ z - cross - cross.T
        scatter += (means[k] * precise.sum(axis=0)[:, None]).T @ means[k]
        covariance = (scatter + SHRINKAGE * pooled) / (count.sum() + SHRINKAGE)
        factors[k] = np.linalg.cholesky(covariance)
    return Mixture(size / size.sum(), means, factors, SCALES)


class Prior(NamedTuple):
    """z = mean(c) + sd(c) * v, where v = u + coupling(c) v, and u is from a mixture of Gaussians.

    The coupling adds to each latent a share of those before it: at some ages two latents go
    together that do not at others. It is the modified Cholesky decomposition of a covariance that
    hangs on covariates (Pourahmadi 1999, Biometrika 86:677-690).
    """

    mean: np.ndarray  # (1 + C, Z), on a constant and the conditions
    log_sd: np.ndarray  # (1 + C, Z), likewise
    coupling: np.ndarray  # (1 + C, Z, Z), likewise; strictly lower triangular
    weights: np.ndarray  # (K, J); these and what follows are those of the mixture
    means: np.ndarray  # (K, J, Z)
    factors: np.ndarray  # (K, Z, Z)
    scales: np.ndarray  # (J,)

    def sample(self, conditions: np.ndarray, seed: int = 0) -> np.ndarray:
        """Draws a latent for each row of encoded conditions: (N, C) -> (N, Z).

        The same seed and N give the same u, whatever the conditions.
        """
        return self.place(self.mixture.sample(len(conditions), seed), conditions)

    def place(self, u: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Latents z (N, Z) of what is left of them without conditions: u (N, Z) at (N, C)."""
        mean, sd = self._moments(conditions)
        v, design = np.array(u, np.float64), _with_constant(conditions)
        for number in range(1, v.shape[1]):
            shares = v[:, :number] @ self.coupling[:, number, :number].T  # (N, 1 + C)
            v[:, number] += (design * shares).sum(axis=1)
        return mean + sd * v

    def log_density(self, z: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Log density in nats: (N, Z) and (N, C) -> (N,)."""
        mean, sd = self._moments(conditions)
        u = _uncoupled((z - mean) / sd, _with_constant(conditions), self.coupling)
        return self.mixture.log_density(u) - np.log(sd).sum(axis=1)

    @property
    def fitted(self) -> bool:
        """Whether `fit_prior` found it: it is not N(0, I)."""
        return bool(self.mean.any() or self.log_sd.any())

    @property
    def mixture(self) -> Mixture:
        """That of u."""
        return Mixture(self.weights, self.means, self.factors, self.scales)

    def _moments(self, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = _with_constant(conditions)
        return design @ self.mean, np.exp(design @ self.log_sd)

    def to_dict(self) -> dict:
        """Plain lists, for JSON."""
        return {name: part.tolist() for name, part in self._asdict().items()}

    @classmethod
    def from_dict(cls, description: Mapping, latent_dim: int, condition_dim: int) -> Prior:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it describes no prior of these dimensions.
        """
        z, c = latent_dim, condition_dim
        try:
            # A model that was saved before there was a coupling has none, and those of one size.
            description = {"coupling": np.zeros((1 + c, z, z)), "scales": None, **description}
            if description["scales"] is None:
                description["scales"] = [1.0]
                for name in ("weights", "means"):
                    description[name] = np.expand_dims(description[name], 1)
            prior = cls(*(np.asarray(description[name], np.float64) for name in cls._fields))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is no description of a prior: {error!r}.") from error
        k, j = (len(part) if part.ndim else 0 for part in (prior.weights, prior.scales))
        of_mixture = (k, j), (k, j, z), (k, z, z), (j,)
        expected = ((1 + c, z), (1 + c, z), (1 + c, z, z), *of_mixture)
        shapes = tuple(part.shape for part in prior)
        finite = all(np.isfinite(part).all() for part in prior)
        ordered = shapes == expected and not np.triu(prior.coupling).any()
        positive = all((part > 0).all() for part in (prior.weights, prior.scales))
        if not (k and j and ordered and finite and positive):
            raise ValueError(
                f"Expected a prior of {z} latents on {c} conditions: finite arrays of the shapes "
                f"{expected}, weights and scales above 0. Received the shapes {shapes}."
            )
        return prior


def standard_normal(latent_dim: int, condition_dim: int) -> Prior:
    """N(0, I), whatever the conditions."""
    nothing = np.zeros((1 + condition_dim, latent_dim))
    uncoupled = np.zeros((*nothing.shape, latent_dim))
    one = Mixture(
        np.ones((1, 1)), np.zeros((1, 1, latent_dim)), np.eye(latent_dim)[None], np.ones(1)
    )
    return Prior(nothing, nothing, uncoupled, *one)


def fit_prior(z: np.ndarray, conditions: np.ndarray, seed: int = 0) -> Prior:
    """Fits mean, spread and coupling of the latent on the conditions, and a mixture to the rest.

    The mean is a ridge regression on the conditions, and so is the log of the spread, by Fisher
    scoring (Harvey 1976, Econometrica 44:461-465). Squares and products were tried: they gained
    nothing on the simulated cohort, and on PTB-XL they turned the effect of age on S in V2 around,
    since what few records with a known BMI do by chance was taken for a law.

    Args:
        z: (N, Z) latents, one row per subject, drawn from the posteriors.
        conditions: (N, C), encoded.
        seed: of the mixture.

    Returns:
        Prior.
    """
    z, design = np.asarray(z, np.float64), _with_constant(conditions)
    mean = _ridge(design, z)
    rest = z - design @ mean
    log_sd = _fit_spread(rest, design)
    v = rest / np.exp(design @ log_sd)
    coupling = _fit_coupling(v, design)
    return Prior(mean, log_sd, coupling, *fit_mixture(_uncoupled(v, design, coupling), seed=seed))


def _fit_spread(rest: np.ndarray, design: np.ndarray) -> np.ndarray:
    """(1 + C, Z): the log of the SD of (N, Z) on (N, 1 + C), the maximum of likelihood and penalty.

    One latent far out makes a full step of Fisher scoring too long. A step is halved until it is
    one uphill; since the sum is concave, the maximum is reached so.
    """

    def loss(log_sd: np.ndarray) -> np.ndarray:  # (Z,)
        with np.errstate(over="ignore"):
            nats = design @ log_sd + (rest * np.exp(-design @ log_sd)) ** 2 / 2
        return nats.sum(axis=0) + PENALTY * (log_sd[1:] ** 2).sum(axis=0)

    log_sd = np.zeros((design.shape[1], rest.shape[1]))
    log_sd[0] = 0.5 * np.log((rest**2).mean(axis=0))
    for _ in range(ROUNDS):
        u = rest / np.exp(design @ log_sd)
        step, before = _ridge(design, (u**2 - 1) / 2, log_sd), loss(log_sd)
        for _ in range(HALVINGS):
            worse = loss(log_sd + step) > before + 1e-9 * np.abs(before)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        log_sd = log_sd + step
    return log_sd


def _fit_coupling(v: np.ndarray, design: np.ndarray) -> np.ndarray:
    """How latents (N, Z) hang on those before them as conditions differ from their mean.

    Args:
        v: of mean 0 and SD 1.
        design: (N, 1 + C), a constant and the conditions.

    Returns:
        (1 + C, Z, Z), strictly lower triangular. What couples them at the mean of the conditions is
        left to the mixture.
    """
    n, n_latents = v.shape
    centre = design[:, 1:].mean(axis=0)
    x = ((design[:, 1:] - centre)[:, :, None] * v[:, None, :]).reshape(n, -1)  # (N, C x Z)
    gram, products = x.T @ x, x.T @ v
    coupling = np.zeros((design.shape[1], n_latents, n_latents))
    for number in range(1, n_latents):
        earlier = np.flatnonzero(np.arange(len(gram)) % n_latents < number)
        penalised = gram[np.ix_(earlier, earlier)] + COUPLING_PENALTY * np.eye(len(earlier))
        found = np.linalg.solve(penalised, products[earlier, number])
        coupling[1:, number, :number] = found.reshape(-1, number)
    coupling[0] -= np.einsum("c,cij->ij", centre, coupling[1:])
    return coupling


def _uncoupled(v: np.ndarray, design: np.ndarray, coupling: np.ndarray) -> np.ndarray:
    """(N, Z) latents without what each takes from those before it."""
    u = np.array(v, np.float64)
    for column, share in zip(design.T, coupling, strict=True):
        u -= column[:, None] * (v @ share.T)
    return u


def _with_constant(conditions: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, 1 + C), a constant before the conditions."""
    return np.concatenate([np.ones((len(conditions), 1)), conditions], axis=1, dtype=np.float64)


def _ridge(x: np.ndarray, y: np.ndarray, start: np.ndarray | float = 0.0) -> np.ndarray:
    """What to add to coefficients of x (N, 1 + C) so that y (N, Z) fits; the sum is penalised.

    The first column of x is constant and not penalised.
    """
    penalty = np.diag(np.r_[0.0, np.full(x.shape[1] - 1, PENALTY)])
    pull = penalty @ np.broadcast_to(start, (len(penalty), y.shape[1]))
    return np.linalg.solve(x.T @ x + penalty, x.T @ y - pull)
