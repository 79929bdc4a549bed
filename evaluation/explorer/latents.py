"""The latent dimensions as the page shows them: ordered, and each called by what it does.

Dims: N subjects, C conditions as encoded, L leads, T samples, Z latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data.rows import even_rows
from evaluation.explorer.reference import FEWEST, SHOWN, Reference, features_of
from evaluation.measures.features import CIRCULAR
from evaluation.measures.latent import kl_per_dimension
from evaluation.measures.names import feature_title
from evaluation.measures.slopes import robust_sd, unwrapped

if TYPE_CHECKING:
    from vae import VAE

ENCODED = 500  # subjects, for the KL
STEP = 0.5  # SD by which a latent is moved to see what it does
SLIGHT = 0.1  # SD of a feature; less for a move of 1 SD is not worth a name
NAMED = 2  # features that a latent is called by


def latents(
    model: VAE, encoded: np.ndarray, reference: Reference, features: pd.DataFrame | None
) -> list[dict]:
    """Each latent dimension as a slider shows it, the one of the largest KL first.

    Args:
        model: of Z latent dimensions.
        encoded: (N, C) conditions of the reference, and in the last row those of a typical subject.
        reference: for the KL.
        features: of the reference, or None.

    Returns:
        `index` in z; `kl` in nats, averaged over the reference; `centre` and `spread`, mean and SD
        of u in the prior; `moves`, what one SD of it changes most.
    """
    rows = even_rows(len(reference.ecg), ENCODED)
    kl = kl_per_dimension(*model.encode(reference.ecg[rows], encoded[rows])).mean(axis=0)
    centre, spread = model.prior.mixture.moments()
    step = STEP * np.diag(spread)
    u = np.concatenate([centre + step, centre - step])  # (2 Z, Z)
    typical = np.repeat(encoded[-1:], len(u), axis=0)
    ecg = model.decode(model.prior.place(u, typical), typical)
    moves = _moves(model, ecg, features)
    return [
        {
            "index": int(z),
            "kl": float(kl[z]),
            "centre": float(centre[z]),
            "spread": float(spread[z]),
            "moves": moves[z],
        }
        for z in np.argsort(-kl, kind="stable")
    ]


def _moves(model: VAE, ecg: np.ndarray, features: pd.DataFrame | None) -> list[str]:
    """What each latent changes most, from ECGs (2 Z, L, T) one step above and below."""
    above, below = np.split(ecg, 2)
    measured = [] if features is None else [n for n in SHOWN if features[n].count() >= FEWEST]
    if not measured:
        change = np.square(above - below).mean(axis=2)  # (Z, L)
        return [f"mostly {model.leads[lead]}" for lead in change.argmax(axis=1)]
    above, below = (features_of(model, part)[measured] for part in (above, below))
    difference = unwrapped(above - below, dict.fromkeys(CIRCULAR, 0.0)) / (2 * STEP)
    effects = difference / np.maximum(robust_sd(features[measured]), 1e-6)
    return [_named(effects.loc[z].fillna(0)) for z in range(len(effects))]


def _named(effects: pd.Series) -> str:
    """The largest effect, and the largest on another wave."""
    chosen: dict[str, str] = {}  # wave -> feature
    for name in effects.abs().sort_values(ascending=False).index:
        if abs(effects[name]) > SLIGHT and len(chosen) < NAMED:
            chosen.setdefault(name.partition("_")[0], name)
    arrows = {name: "↑" if effects[name] > 0 else "↓" for name in chosen.values()}
    return ", ".join(f"{feature_title(name)} {arrow}" for name, arrow in arrows.items()) or "little"
