"""Names of the ECG leads and the equations between them.

Six of the standard twelve leads are limb leads, and only two of those are independent: the other
four follow from I and II (Einthoven's law and Goldberger's augmented leads).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

CHUNK = 256  # ECGs that are checked at a time, in the cache of the processor
FRANK = ("VX", "VY", "VZ")  # orthogonal leads, recorded beside the standard ones

_PREFIX = re.compile(r"(MDC_ECG_LEAD_|(ECG|EKG|LEAD)[ _-]*)*")
_KNOWN = {lead.upper(): lead for lead in LEADS}
_KNOWN |= {f"D{lead}": lead for lead in LEADS[:3]}
_KNOWN |= {f"C{number}": f"V{number}" for number in range(1, 7)}  # IEC 60601-2-25

# Coefficients of (I, II).
DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def lead_name(name: str) -> str | None:
    """A lead as `LEADS` writes it; None if it is none of them.

    Args:
        name: as recorders and formats write it: "AVR", "DI", "Lead II", "ECG V1", "C1",
            "MDC_ECG_LEAD_I".
    """
    return _KNOWN.get(_PREFIX.sub("", name.strip().upper(), count=1))


def independent_among(leads: Sequence[str]) -> tuple[str, ...]:
    """The leads that do not follow from the others, in their order.

    Args:
        leads: names, e.g. `LEADS`. Without both I and II nothing can be derived.
    """
    if not {"I", "II"} <= set(leads):
        return tuple(leads)
    return tuple(lead for lead in leads if lead not in DERIVED)


def expansion_matrix(leads: Sequence[str]) -> np.ndarray:
    """(L, I) matrix that makes all `leads` from `independent_among(leads)`; exact in float."""
    independent = independent_among(leads)
    matrix = np.zeros((len(leads), len(independent)), dtype=np.float32)
    for row, lead in enumerate(leads):
        if lead in independent:
            matrix[row, independent.index(lead)] = 1
        else:
            matrix[row, independent.index("I")], matrix[row, independent.index("II")] = DERIVED[
                lead
            ]
    return matrix


def isometry(leads: Sequence[str]) -> np.ndarray:
    """(I, L) matrix that makes as many leads as are independent, of the same length as all `leads`.

    What is left out follows from I and II, so these count more: sums of squares over the I leads
    are those over all L, as long as these obey the equations.
    """
    expansion, independent = expansion_matrix(leads).astype(np.float64), independent_among(leads)
    matrix = np.zeros((len(independent), len(leads)))
    columns = [list(leads).index(lead) for lead in independent]
    matrix[:, columns] = np.linalg.cholesky(expansion.T @ expansion).T
    return matrix


def derive_leads(independent: np.ndarray) -> np.ndarray:
    """Expands the 8 independent leads to the standard 12.

    Args:
        independent: (..., 8, T), leads in the order of `INDEPENDENT_LEADS`.

    Returns:
        (..., 12, T) in the order of `LEADS`, same unit and dtype; integers become floats, since
        aVR, aVL and aVF are halves.
    """
    dtype = np.result_type(independent.dtype, np.float32)
    return np.matmul(expansion_matrix(LEADS).astype(dtype), independent)


def independent_leads(ecg: np.ndarray) -> np.ndarray:
    """Picks the 8 independent leads out of the standard 12: (..., 12, T) -> (..., 8, T)."""
    return ecg[..., [LEADS.index(lead) for lead in INDEPENDENT_LEADS], :]


def einthoven_residual(ecg: np.ndarray) -> np.ndarray:
    """Largest violation of the limb-lead equations, relative to the largest limb-lead amplitude.

    Args:
        ecg: (N, 12, T), standard leads, in any unit.

    Returns:
        (N,) max |lead - lead derived from I and II| / max |limb lead|; 0 for an exact ECG.
    """
    residual, expansion = np.empty(len(ecg)), expansion_matrix(LEADS[:6]).astype(np.float64)
    for start in range(0, len(ecg), CHUNK):
        limb = ecg[start : start + CHUNK, :6].astype(np.float64)
        scale = np.abs(limb).max(axis=(1, 2))
        limb -= np.matmul(expansion, limb[:, :2])
        error = np.abs(limb).max(axis=(1, 2))
        residual[start : start + CHUNK] = error / np.where(scale > 0, scale, 1.0)
    return residual
