"""What is set in closed form, before training and after it.

Before: the conditional probabilistic PCA of the training data (Tipping and Bishop 1999), at which
the linear path of the network starts. After: a latent of mean 0 and SD 1 that is free of the
conditions, and the prior that new latents are drawn from.

Dims: N recordings, D = leads x samples, C conditions as encoded, Z latent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from scipy import ndimage
from scipy.sparse.linalg import eigsh

from data.rows import Rows, even_rows
from model import noise, prior
from model.network import ModelError

MOST = 2000  # beats that the start is fitted to
REWEIGHTINGS = 4  # rounds of the closed-form start; more change nothing that shows


def adapt(model: keras.Model, ecg: np.ndarray | Rows, conditions: np.ndarray) -> None:
    """Sets mean beat, scale and, with a linear path, encoder, decoder and noise from training data.

    Args:
        model: a `vae.VAE`.
        ecg: (N, L, T) mV. Above `MOST` beats an even selection is used.
        conditions: (N, C), of the same subjects.
    """
    rows = even_rows(len(ecg), MOST)
    x = np.asarray(ecg[rows], dtype=np.float64)[:, model.picked]
    mean_beat = x.mean(axis=0)
    x = (x - mean_beat).reshape(len(x), -1)
    scale = float(np.sqrt((x**2).mean()))
    if scale == 0:
        raise ModelError("All ECGs are the same: nothing to adapt to.")
    model.mean_beat.assign(mean_beat)
    model.scale.assign(scale)
    kind, encoded = model.settings["noise"], conditions[rows].astype(np.float64)
    x /= scale
    if kind == "per_sample":
        sd = what_is_left(x, encoded, model.latent_space_dim, model.mean_beat.shape)
        profile = sd ** model.settings["profile_power"]
        model.profile.assign(profile)
        x /= profile.ravel()
        forget_noise(model)
    if model.settings["time_warp"]:
        layer = model.decoder.get_layer("time_warp")
        layer.mean_beat.assign(mean_beat / scale)
        layer.profile.assign(model.profile * np.ones(mean_beat.shape))
    if not model.settings["linear_path"]:
        return
    rounds = REWEIGHTINGS if kind in ("per_sample", "per_recording") else 1
    start = linear_start(x, encoded, model.latent_space_dim, rounds)
    model.encoder.get_layer("linear_mean").kernel.assign(start.encoder)
    model.encoder.get_layer("log_var").bias.assign(start.log_var)
    model.decoder.get_layer("linear_ecg").kernel.assign(start.decoder)
    if isinstance(kind, str):
        model.log_noise.assign(0.5 * math.log(start.noise))


def what_is_left(
    x: np.ndarray, conditions: np.ndarray, count: int, shape: tuple[int, int]
) -> np.ndarray:
    """SD of what conditional PCA leaves at each lead and sample: one round of factor analysis.

    Args:
        x: (N, D), standardised ECGs.
        conditions: (N, C).
        count: Z.
        shape: (I, T), of which D is the product.

    Returns:
        (I, T) of geometric mean 1.
    """
    found = weighted_pca(x, conditions, count, REWEIGHTINGS)
    rest = x - conditions @ found.effect
    rest -= (rest @ found.directions.T) @ found.directions
    variance = np.average(rest**2, axis=0, weights=found.weights).reshape(shape)
    variance = ndimage.gaussian_filter1d(variance, noise.SMOOTHING * shape[1], axis=1)
    log_sd = 0.5 * np.log(np.maximum(variance, noise.QUIETEST**2))
    return np.exp(log_sd - log_sd.mean())


class LinearStart(NamedTuple):
    """A linear encoder and decoder, and what they leave.

    Attributes:
        encoder: (D + C, Z), from ECG and conditions to the posterior mean.
        log_var: (Z,) of the posterior.
        decoder: (Z + C, D), from latent and conditions to the ECG.
        noise: variance of what is left.
    """

    encoder: np.ndarray
    log_var: np.ndarray
    decoder: np.ndarray
    noise: float


def linear_start(x: np.ndarray, conditions: np.ndarray, count: int, rounds: int) -> LinearStart:
    """The maximum-likelihood solution of conditional probabilistic PCA.

    A ridge regression of the beat on the conditions, then principal components of what remains.

    Args:
        x: (N, D), standardised ECGs.
        conditions: (N, C).
        count: Z.
        rounds: from the second on recordings count by how well they fit, as a Student t asks for
            (Archambeau, Delannay and Verleysen 2006).
    """
    found = weighted_pca(x, conditions, count, rounds)
    # Posterior of probabilistic PCA: z = M^-1 W^T (x - mean), covariance noise^2 M^-1.
    residual = found.residual
    signal = np.sqrt(np.maximum(found.variances - residual, 1e-3 * residual))
    loadings = found.directions * signal[:, None]  # (Z, D)
    encode = loadings / (signal**2 + residual)[:, None]
    return LinearStart(
        encoder=np.concatenate([encode, -encode @ found.effect.T], axis=1).T,
        log_var=np.log(residual / (signal**2 + residual)),
        decoder=np.concatenate([loadings, found.effect]),
        noise=residual,
    )


class Components(NamedTuple):
    """What `weighted_pca` finds.

    Attributes:
        effect: (C, D) of the conditions.
        directions: (Z, D), orthonormal; zeros where there are too few rows for so many.
        variances: (Z,) of the rows along them, each row counted once.
        residual: mean variance of what is left.
        weights: (N,) that the rows had in the last round, mean 1.
    """

    effect: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    residual: float
    weights: np.ndarray


def weighted_pca(x: np.ndarray, conditions: np.ndarray, count: int, rounds: int) -> Components:
    """Ridge regression on conditions, then principal components of what remains, repeatedly.

    All rounds but for the result take place in the products of rows with each other, (N, N): x is
    multiplied by itself once.

    Args:
        x: (N, D).
        conditions: (N, C).
        count: Z.
        rounds: in the first each row counts once, in the others inversely to what was left of it.
    """
    n, d = x.shape
    found = min(count, (n - 1) // 2, d)  # more components than that leave no noise to measure
    missing = count - found  # fewer rows than latent dimensions
    products, precision = x @ x.T, np.ones(n)
    for _ in range(rounds):
        weights = precision / precision.mean()
        # One pseudo-subject per column with no effect: columns that never vary stay at zero.
        weighted = conditions * weights[:, None]
        gram = weighted.T @ conditions + np.eye(conditions.shape[1])
        regression = np.linalg.solve(gram, weighted.T)  # (C, N): effect = regression @ x
        of_rest = products - conditions @ (regression @ products)
        of_rest -= (of_rest @ regression.T) @ conditions.T  # rest @ rest.T
        root = np.sqrt(weights / n)
        values, vectors = largest(root[:, None] * of_rest * root, found)
        mixed = root[:, None] * vectors  # directions = mixed.T @ rest, but for their length
        scores = of_rest @ mixed / np.sqrt(np.maximum(values, 1e-16 * values.max(initial=1e-8)))
        left = np.diagonal(of_rest) - (scores**2).sum(axis=1)
        error = np.maximum(left, 0) / max(d - found, 1)
        # A row that has a component to itself leaves nothing: its weight must not be infinite.
        precision = 1 / np.maximum(error, max(0.1 * np.median(error), 1e-8))
    effect = regression @ x
    # Orthonormal also where variances are 0, whose directions the rows do not say.
    directions = np.linalg.qr((x - conditions @ effect).T @ mixed)[0].T
    return Components(
        effect,
        np.concatenate([directions, np.zeros((missing, d))]),
        # Unweighted: in the prior each subject counts once.
        np.concatenate([(scores**2).mean(axis=0), np.zeros(missing)]),
        max(float(np.average(error, weights=weights)), 1e-8),
        weights,
    )


def largest(symmetric: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The K largest eigenvalues (K,) of (N, N), falling, and their eigenvectors (N, K)."""
    if not count:
        return np.zeros(0), np.zeros((len(symmetric), 0))
    start = np.random.default_rng(0).standard_normal(len(symmetric))  # fixed: reproducible
    values, vectors = eigsh(symmetric, k=count, v0=start)
    return values[::-1], vectors[:, ::-1]


def standardise_latent(model: keras.Model, ecg: np.ndarray, conditions: np.ndarray) -> None:
    """Frees the latent of the conditions and scales it to mean 0 and SD 1 over subjects.

    Training leaves both nearly open: the KL term that should see to them is small beside the
    reconstruction. Then the prior does not cover the subjects, and a counterfactual keeps in z a
    part of what the changed condition does. What is taken from z is its linear regression on the
    conditions. Encoder and decoder are changed together, so that reconstructions stay what they
    are. A model without a linear path has no way to take conditions from z, and one with a head
    keeps what the head was trained on: they are shifted and scaled only.

    Args:
        model: a `vae.VAE` without batch normalisation, which has its own scales.
        ecg: (N, L, T) mV, training subjects.
        conditions: (N, C), of the same subjects.
    """
    encoded = conditions.astype(np.float64)
    mean, log_var = model.encode(ecg, encoded)
    n_conditions, linear_path = encoded.shape[1], model.settings["linear_path"]
    effect = np.zeros((n_conditions, mean.shape[1]))
    if linear_path and not model.heads():
        # One pseudo-subject per column with no effect: columns that never vary stay at zero.
        gram = encoded.T @ encoded + np.eye(n_conditions)
        centred = mean - mean.mean(axis=0)
        effect = np.linalg.solve(gram, encoded.T @ centred)
    mean = mean - encoded @ effect
    # With the average posterior variance, so that the mixture of all posteriors has SD 1.
    sd = np.sqrt(mean.var(axis=0) + np.exp(log_var).mean(axis=0))
    centre = mean.mean(axis=0)
    if linear_path:
        layer = model.encoder.get_layer("linear_mean")
        kernel = ops.convert_to_numpy(layer.kernel).astype(np.float64)
        kernel[len(kernel) - n_conditions :] -= effect
        layer.kernel.assign(kernel / sd)
    layer = model.encoder.get_layer("mean")
    layer.kernel.assign(layer.kernel / sd)
    layer.bias.assign((layer.bias - centre) / sd)
    bias = model.encoder.get_layer("log_var").bias
    bias.assign(bias - 2 * np.log(sd))
    # What reads z: in the decoder, which reads conditions after it, and the head if there is one.
    readers = [model.decoder.get_layer("dense_of_latent"), *model.heads()]
    if model.settings["time_warp"] and not model.settings["hidden"]:
        readers.append(model.decoder.get_layer("speeds"))
    if linear_path:
        readers.append(model.decoder.get_layer("linear_ecg"))
    for layer in readers:
        _absorb(layer, effect, centre, sd)
    before = model.prior
    if before.fitted:  # it stays that of the same ECGs
        shift = np.concatenate([centre[None], effect])
        log_sd = before.log_sd - np.concatenate([np.log(sd)[None], np.zeros_like(effect)])
        model.prior = before._replace(mean=(before.mean - shift) / sd, log_sd=log_sd)


def _absorb(
    layer: keras.layers.Layer, effect: np.ndarray, centre: np.ndarray, sd: np.ndarray
) -> None:
    """Makes a layer that read z = sd z' + centre + conditions @ effect read z' instead."""
    kernel = ops.convert_to_numpy(layer.kernel).astype(np.float64)
    if layer.use_bias:
        layer.bias.assign(layer.bias + centre @ kernel[: len(sd)])
    if effect.any():
        kernel[len(sd) :] += effect @ kernel[: len(sd)]
    kernel[: len(sd)] *= sd[:, None]
    layer.kernel.assign(kernel)


def fit_prior(
    model: keras.Model, ecg: np.ndarray, conditions: np.ndarray, seed: int
) -> prior.Prior:
    """Distribution of latents given conditions, fitted to draws from the posteriors of subjects.

    Args:
        model: a `vae.VAE`.
        ecg: (N, L, T) mV, training subjects.
        conditions: (N, C), of the same subjects.
        seed: of the draws and the mixture.
    """
    mean, log_var = model.encode(ecg, conditions)
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    return prior.fit_prior(mean + np.exp(0.5 * log_var) * noise, conditions, seed)


def fit_noise(
    model: keras.Model,
    ecg: np.ndarray,
    conditions: np.ndarray,
    others: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
) -> None:
    """Sets the noise of each lead and sample to what a trained model leaves of ECGs.

    Args:
        model: a `vae.VAE` of noise "per_sample".
        ecg: (N, L, T) mV, training subjects. Above `MOST` beats an even selection is used.
        conditions: (N, C), of the same subjects.
        others: the same of subjects that it was not trained on: the level of all noise is theirs.
        seed: of the sample of the posterior that is decoded.
    """
    scale, unit = map(ops.convert_to_numpy, (model.scale, model.scale * model.profile))

    def rest(ecg: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        rows = even_rows(len(ecg), MOST)
        ecg, conditions = np.asarray(ecg[rows], dtype=np.float32), conditions[rows]
        ecg = ecg.reshape(len(rows), *model.ecg_shape)  # (N, L, T, 1) is taken too
        return (ecg - model.reconstruct(ecg, conditions, seed))[:, model.picked] / unit

    fitted = noise.fit(rest(ecg, conditions), noise.QUIETEST * float(scale) / unit)
    log_sd = fitted.log_sd
    if others is not None:
        log_sd = log_sd + noise.log_level(rest(*others), log_sd)
    model.log_noise.assign(log_sd.mean())
    model.noise_shape.assign(log_sd - log_sd.mean())
    model.noise_leads.assign(fitted.leads)
    model.noise_time.assign(fitted.time)


def forget_noise(model: keras.Model) -> None:
    """The noise as before it was fitted: training goes by the profile alone."""
    n_leads, n_samples = model.noise_shape.shape
    model.noise_shape.assign(np.zeros((n_leads, n_samples)))
    model.noise_leads.assign(np.eye(n_leads))
    model.noise_time.assign(np.eye(n_samples))
