"""Recordings that a source leaves out after their beats were made."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.cohort import Cohort, CohortError


def leave_out(cohort: Cohort, reasons: pd.Series, details: pd.Series | None = None) -> Cohort:
    """The cohort without some recordings, which go to `excluded`.

    Args:
        cohort: N recordings.
        reasons: (N,) why they are left out; "" for those that are not.
        details: (N,) what else is known of that.

    Raises:
        CohortError: nothing would be left.
    """
    gone = (reasons != "").to_numpy()
    if not gone.any():
        return cohort
    if gone.all():
        raise CohortError(
            f"None of the {len(cohort)} recordings is left. Most common reason: "
            f"{reasons.value_counts().index[0]}."
        )
    part = cohort.take(~gone)
    listed = {
        "subject_id": cohort.subjects["subject_id"][gone],
        "reason": reasons[gone],
        "detail": "" if details is None else details[gone],
    }
    part.excluded = pd.concat([cohort.excluded, pd.DataFrame(listed)], ignore_index=True).fillna("")
    return part


def by_reason(excluded: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of `Cohort.excluded` by their reason, the most common first."""
    groups = list(excluded.groupby("reason", sort=True))
    return sorted(groups, key=lambda group: -len(group[1]))


def none_of(cohort: Cohort) -> pd.Series:
    """(N,) of "": no reason yet."""
    return pd.Series(np.full(len(cohort), ""), dtype=object)
