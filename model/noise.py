"""How an observed ECG differs from the decoded one: the observation noise.

    per_sample     a level for each lead and sample, and one factor for each recording, integrated
                   out: a multivariate Student t. Few recordings that fit badly do not rule the rest
    per_recording  the same with one level for all leads and samples
    learned        Gaussian, one trained level
    a number       Gaussian of this standard deviation in mV
    mse            no noise model: the published mean squared error, which is not in nats

Where ECGs are hard to tell (QRS) a deviation counts less than where they are not (P, ST). With the
full standard deviation of what is left, though, a network gives up the QRS: what is left at one
sample is left at its neighbours too, and twenty of them count as twenty witnesses for P where QRS
has three. So the network is trained in units of a `profile`: the SD that factor analysis leaves at
each lead and sample to a power below 1 (`profile_power`; 0 weighs all alike). When it is trained,
the noise is fitted to what it does leave (`fit`), without that power.

In training, deviations count by their squares, as the Student t has it, or by their sizes: a
Laplace distribution whose rate varies over recordings (a Gamma variable of mean 1). Squares go by
the largest deviations, sizes less so. What each does to real and to simulated ECGs: `docs/real.md`.

Dims: N ECGs, B batch, I leads that the network works on, T samples, D = I x T.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from keras import ops
from scipy import ndimage, optimize

KINDS = ("per_sample", "per_recording", "learned", "mse")
DEVIATIONS = ("squared", "absolute")
ROUNDED = 0.014  # of the SD: sizes well below it count by their squares, a fraction of a uV
FREEDOM = 4.0  # of the Student t: 90% of the noise levels lie within a factor of 2.4
QUIETEST = 0.005  # of the SD of all ECGs: no lead and sample has less noise, 1 uV or so
CHUNK = 1024  # ECGs whose noise is drawn at a time: 26 MB
ROUNDS = 8  # of fitting levels and recordings in turn; they settle in about 5
SMOOTHING = 0.00625  # of T, SD of a Gaussian, 5 ms of 800: a level is that of its surroundings


def negative_log_likelihood(rest, log_sd, kind: str | float, deviations: str = "squared"):
    """Loss of the reconstruction of each ECG, in nats but for "mse".

    Args:
        rest: (B, I, T) ECG less decoded ECG.
        log_sd: (I, T) or scalar log scale of the noise, in the same units: its SD at the typical
            recording.
        kind: see the module.
        deviations: "squared" or "absolute", see the module.

    Returns:
        (B,): summed over leads and samples ("mse": averaged).
    """
    if kind == "mse":
        return ops.mean(ops.square(rest), axis=(1, 2))
    d = rest.shape[1] * rest.shape[2]
    if deviations == "absolute":
        # Laplace, whose rate is gamma-distributed over recordings; sqrt(2) scales are its SD.
        size = ops.sqrt(ops.square(rest * ops.exp(-log_sd)) + ROUNDED**2) - ROUNDED
        distance = math.sqrt(2) * ops.sum(size, axis=(1, 2))
        constant = math.lgamma(FREEDOM) - math.lgamma(FREEDOM + d)
        constant += d * math.log(math.sqrt(2) * FREEDOM)
        return (FREEDOM + d) * ops.log1p(distance / FREEDOM) + d * ops.mean(log_sd) + constant
    distance = ops.sum(ops.square(rest) * ops.exp(-2 * log_sd), axis=(1, 2))
    log_sd = ops.mean(log_sd)
    if kind not in ("per_sample", "per_recording"):
        return 0.5 * distance + d * (log_sd + 0.5 * math.log(2 * math.pi))
    # Multivariate t: a Gaussian whose variance is inverse-gamma distributed over recordings.
    half = 0.5 * (FREEDOM + d)
    constant = math.lgamma(0.5 * FREEDOM) - math.lgamma(half)
    constant += 0.5 * d * math.log(FREEDOM * math.pi)
    return half * ops.log1p(distance / FREEDOM) + d * log_sd + constant


class Fitted(NamedTuple):
    """The noise of trained models: its size, and how it hangs together over leads and time.

    Attributes:
        log_sd: (I, T) log scale, in the units of what it was fitted to.
        leads: (I, I) lower Cholesky factor of the correlation between leads.
        time: (T, T) the same between samples.
    """

    log_sd: np.ndarray
    leads: np.ndarray
    time: np.ndarray


def fit(rest: np.ndarray, quietest: np.ndarray) -> Fitted:
    """Fits the noise to what a model leaves of ECGs, by maximum likelihood under the Student t.

    Args:
        rest: (N, I, T) ECGs less a decoded sample of their posterior.
        quietest: (I, T) least SD, in the same units.
    """
    n, n_leads, n_samples = rest.shape
    size = n_leads * n_samples
    squared, weight = np.square(rest, dtype=np.float64), np.ones(n)
    for _ in range(ROUNDS):  # expectation and maximisation (Lange, Little and Taylor 1989)
        variance = np.tensordot(weight, squared, 1) / n
        variance = ndimage.gaussian_filter1d(variance, SMOOTHING * n_samples, axis=1)
        variance = np.maximum(variance, quietest**2)
        # Their common level would take hundreds of rounds: it is solved for.
        variance *= _level((squared / variance).sum(axis=(1, 2)), size)
        variance = np.maximum(variance, quietest**2)
        weight = (FREEDOM + size) / (FREEDOM + (squared / variance).sum(axis=(1, 2)))
    alike = rest * np.sqrt(weight)[:, None, None] / np.sqrt(variance)
    return Fitted(
        0.5 * np.log(variance),
        _factor(np.tensordot(alike, alike, ((0, 2), (0, 2))), n * n_samples),
        _factor(np.tensordot(alike, alike, ((0, 1), (0, 1))), n * n_leads),
    )


def log_level(rest: np.ndarray, log_sd: np.ndarray) -> float:
    """What to add to all log scales (I, T), so that the Student t fits rests (N, I, T) best."""
    distance = np.square(rest / np.exp(log_sd), dtype=np.float64).sum(axis=(1, 2))
    return 0.5 * math.log(_level(distance, log_sd.size))


def _level(distance: np.ndarray, size: int) -> float:
    """By what to multiply all variances, for the likeliest Student t.

    Args:
        distance: (N,) sums of squares over variances; those that are 0 say nothing of the level.
        size: D, how many squares each is a sum of.
    """
    distance = distance[distance > 0]

    def excess(log_level: float) -> float:
        scaled = distance * math.exp(-log_level)
        return float(((FREEDOM + size) * scaled / (FREEDOM + scaled)).mean()) - size

    return math.exp(optimize.brentq(excess, -80, 80)) if len(distance) else 1.0


def _factor(scatter: np.ndarray, count: int) -> np.ndarray:
    """Cholesky factor of the correlation in a (K, K) scatter of `count` rows, drawn to none."""
    sd = np.sqrt(np.maximum(np.diag(scatter), 1e-12 * np.trace(scatter) + 1e-300))
    correlation = scatter / np.outer(sd, sd)
    np.fill_diagonal(correlation, 1.0)
    own = max(0.01, len(sd) / (len(sd) + count))
    return np.linalg.cholesky((1 - own) * correlation + own * np.eye(len(sd)))


def draws(fitted: Fitted, n: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Noise as in recordings: correlated, with a level of its own in each.

    Args:
        fitted: `leads` and `time` give what goes together (Kronecker), `log_sd` the scale.
        n: number of ECGs.
        seed: of the draws.

    Yields:
        Rows, and their noise (B, I, T).
    """
    random = np.random.default_rng([seed, 1])  # not the numbers that the latents came from
    for start in range(0, n, CHUNK):
        rows = slice(start, min(start + CHUNK, n))
        white = random.standard_normal((rows.stop - start, *fitted.log_sd.shape))
        level = np.sqrt(FREEDOM / random.chisquare(FREEDOM, len(white)))  # of each recording
        together = fitted.leads @ white @ fitted.time.T
        yield rows, level[:, None, None] * np.exp(fitted.log_sd) * together
