"""How well a model gives back the ECG it was shown, beside baselines and with intervals.

An error in microvolts means little alone: the mean beat of the training subjects is already close
to everyone's beat, and a principal component analysis (PCA) with as many components as the model
has latent dimensions is the best linear code of that size. Both are fitted on the training split
and judged on the same test recordings.

Dims: N recordings, L leads, T samples, P patients, D = L * T, K components, M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data.cohort import LEADS, QRS_SAMPLE, SAMPLING_RATE, UV_PER_MV, einthoven_residual
from evaluation.measures.statistics import DRAWS, bootstrap_means, with_ends

# Windows in ms from the QRS centre, fixed for every beat: they hold the wave of nearly all resting
# adults (PR up to 240 ms, QRS up to 120 ms, QT up to 480 ms), not its exact limits.
SEGMENTS_MS = {"p": (-300, -60), "qrs": (-60, 60), "st": (60, 140), "t": (140, 420)}

MEASURES = ("mae_uv", "rmse_uv", "pearson_r")
RECORDINGS_PER_CHUNK = 512  # 20 MB in float64 at 12 x 400


def reconstruction_metrics(
    ecg: np.ndarray,
    reconstruction: np.ndarray,
    train_ecg: np.ndarray,
    patients: Sequence[str] | np.ndarray,
    k: int,
    seed: int = 0,
    *,
    draws: int = DRAWS,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    qrs_sample: int = QRS_SAMPLE,
) -> dict[str, float]:
    """Errors of reconstructed ECGs, overall, per lead and per segment.

    Every measure is taken of each recording and averaged over recordings: the mean absolute error
    (MAE), the mean squared error (its average's root is the RMSE) and the Pearson correlation over
    samples (r; over leads and samples together, except per lead). Baselines are called
    `pca{k}_...` and `mean_beat_...`; `mae_minus_pca_uv` is the paired difference, below 0 where the
    model is better. Each has a `_low` and `_high`: the percentile 95% interval of a bootstrap over
    patients, with all recordings of a patient drawn together (Field and Welsh 2007,
    doi 10.1111/j.1467-9868.2007.00593.x).

    Args:
        ecg: (N, L, T) mV, test recordings.
        reconstruction: (N, L, T) mV, what the model made of them; or something of this `shape`
            that gives rows when it is indexed, such as `judge.Reconstruction`.
        train_ecg: (N_train, L, T) mV, what the baselines are fitted on.
        patients: (N,) patient id of each test recording.
        k: components of the PCA, the number of latent dimensions.
        seed: of the bootstrap.
        draws: bootstrap samples.
        leads: L names, the suffixes of the measures per lead.
        sampling_rate: Hz.
        qrs_sample: sample on which the QRS complex is centred.

    Returns:
        Flat name -> number: `mae_uv`, `rmse_uv`, `pearson_r`, the same with a suffix such as `_V1`
        or `_qrs` (see `SEGMENTS_MS`), the baselines' `..._mae_uv` with the same suffixes and their
        overall `..._rmse_uv` and `..._pearson_r`, `mae_minus_pca_uv`, `einthoven_residual` (the
        largest of the reconstructions, where `leads` are the twelve), `recordings`, `patients`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    _check_shapes(ecg, reconstruction, train_ecg, patients, leads)
    parts = _parts(leads, ecg.shape[2], sampling_rate, qrs_sample)
    mean, components = fit_pca(train_ecg, k)
    residuals = []

    def given_back(rows: slice) -> np.ndarray:
        made = reconstruction[rows]  # decoded once: it may not be in memory
        if tuple(leads) == LEADS:
            residuals.append(float(einthoven_residual(made).max()))
        return made

    of_model = _measures(ecg, given_back, parts)
    of_pca = _measures(ecg, lambda rows: project(ecg[rows], mean, components), parts)
    of_mean = _measures(ecg, lambda rows: np.broadcast_to(mean, ecg[rows].shape), parts)

    values = dict(of_model)
    for baseline, measures in ((f"pca{k}", of_pca), ("mean_beat", of_mean)):
        for name, value in measures.items():
            if name.startswith("mae_uv") or name in ("rmse_uv", "pearson_r"):
                values[f"{baseline}_{name}"] = value
    values["mae_minus_pca_uv"] = of_model["mae_uv"] - of_pca["mae_uv"]

    metrics = _with_intervals(values, patients, seed, draws)
    if residuals:
        metrics["einthoven_residual"] = max(residuals)
    metrics["recordings"] = len(ecg)
    metrics["patients"] = len(np.unique(np.asarray(patients)))
    return metrics


def fit_pca(train_ecg: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean beat and the leading principal components of the training ECGs.

    Block subspace iteration on the covariance, which is never formed: each pass reads the training
    ECGs once, in chunks, so that a memory-mapped cohort of any size stays on disk. A block three
    times wider than k makes the k leading components converge in a few passes (Halko, Martinsson
    and Tropp 2011, doi 10.1137/090771806, section 4.5). Deterministic.

    Args:
        train_ecg: (N, L, T) mV.
        k: number of components; at most N - 1 are given back.

    Returns:
        mean (L, T) and components (K, L, T), orthonormal, by falling variance; float64.
    """
    n, *shape = train_ecg.shape
    dim = int(np.prod(shape))
    k = max(0, min(k, n - 1, dim))
    mean = sum(train_ecg[rows].sum(axis=0, dtype=np.float64) for rows in _chunks(n)) / n

    def scatter(block: np.ndarray) -> np.ndarray:  # (D, W) -> centred X'X block, (D, W)
        product = np.zeros_like(block)
        for rows in _chunks(n):
            centred = (train_ecg[rows] - mean).reshape(-1, dim)
            product += centred.T @ (centred @ block)
        return product

    width = min(3 * k + 10, n, dim)
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, width)))
    before = np.zeros(k)
    for _ in range(100):
        product = scatter(basis)
        variances, rotation = np.linalg.eigh(basis.T @ product)  # ascending
        variances = variances[::-1][:k]
        components = basis @ rotation[:, ::-1][:, :k]
        if np.allclose(variances, before, rtol=0, atol=1e-9 * variances.max(initial=0)):
            break
        before = variances
        basis, _ = np.linalg.qr(product)
    return mean, components.T.reshape(k, *shape)


def project(ecg: np.ndarray, mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    """What a PCA gives back of ECGs: (N, L, T) -> (N, L, T), both mV."""
    flat = components.reshape(len(components), mean.size)
    scores = (ecg - mean).reshape(len(ecg), -1) @ flat.T  # (N, K)
    return mean + (scores @ flat).reshape(ecg.shape)


def _parts(
    leads: Sequence[str], samples: int, sampling_rate: float, qrs_sample: int
) -> dict[str, tuple[slice, slice]]:
    """Suffix -> (leads, samples) of each part that is judged; windows outside the beat left out."""
    parts = {"": (slice(None), slice(None))}
    parts |= {f"_{lead}": (slice(i, i + 1), slice(None)) for i, lead in enumerate(leads)}
    for name, limits_ms in SEGMENTS_MS.items():
        first, last = (qrs_sample + round(ms * sampling_rate / 1000) for ms in limits_ms)
        first, last = max(first, 0), min(last, samples)
        if first < last:
            parts[f"_{name}"] = (slice(None), slice(first, last))
    return parts


def _measures(
    ecg: np.ndarray, reconstruct: Callable[[slice], np.ndarray], parts: dict
) -> dict[str, np.ndarray]:
    """Name -> (N,) measure of each recording; `rmse_uv` holds the mean square until averaged."""
    values = {f"{name}{part}": np.empty(len(ecg)) for part in parts for name in MEASURES}
    for rows in _chunks(len(ecg)):
        real = np.asarray(ecg[rows], np.float64) * UV_PER_MV
        made = np.asarray(reconstruct(rows), np.float64) * UV_PER_MV
        for part, (of_leads, of_samples) in parts.items():
            x = real[:, of_leads, of_samples].reshape(len(real), -1)
            y = made[:, of_leads, of_samples].reshape(len(real), -1)
            values[f"mae_uv{part}"][rows] = np.abs(y - x).mean(axis=1)
            values[f"rmse_uv{part}"][rows] = np.square(y - x).mean(axis=1)
            values[f"pearson_r{part}"][rows] = _pearson_r(x, y)
    return values


def _pearson_r(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of the rows of two (N, T) arrays; NaN where one of them is flat."""
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(axis=1) / scale, np.nan)


def _with_intervals(
    values: dict[str, np.ndarray], patients: Sequence[str] | np.ndarray, seed: int, draws: int
) -> dict[str, float]:
    """Averages each measure over recordings and adds its 95% interval."""
    table = np.stack(list(values.values()), axis=1)  # (N, M)
    means, samples = bootstrap_means(table, patients, seed, draws)
    lows, highs = np.percentile(samples, (2.5, 97.5), axis=0)
    metrics = {}
    for name, *numbers in zip(values, means, lows, highs, strict=True):
        if "rmse" in name:
            numbers = np.sqrt(numbers)
        metrics |= with_ends(name, *numbers)
    return metrics


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, RECORDINGS_PER_CHUNK):
        yield slice(start, min(start + RECORDINGS_PER_CHUNK, n))


def _check_shapes(ecg, reconstruction, train_ecg, patients, leads) -> None:
    if ecg.ndim != 3 or len(ecg) == 0 or ecg.shape[1] != len(leads):
        raise ValueError(f"Expected ecg of shape (N, {len(leads)}, T). Received: {ecg.shape}.")
    if reconstruction.shape != ecg.shape:
        raise ValueError(
            f"Expected a reconstruction of shape {ecg.shape}, that of the ECGs. "
            f"Received: {reconstruction.shape}."
        )
    if train_ecg.shape[1:] != ecg.shape[1:] or len(train_ecg) == 0:
        raise ValueError(
            f"Expected training ECGs of shape (N, {ecg.shape[1]}, {ecg.shape[2]}). "
            f"Received: {train_ecg.shape}."
        )
    if len(patients) != len(ecg):
        raise ValueError(
            f"Expected one patient id for each of {len(ecg)} recordings. Received: {len(patients)}."
        )
