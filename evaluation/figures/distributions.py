"""How the values of a column are distributed: what people should see before they train."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.figures.ecg import BLUE, plain

BARS = 30  # of a histogram
MOST_CATEGORIES = 12


def plot_distribution(values: pd.Series, name: str, unit: str = "") -> Figure:
    """A histogram of numbers, or bars of categories; missing ones are counted in the title.

    Args:
        values: (N,) numbers or texts.
        name: of the column.
        unit: of the numbers.
    """
    known = values.dropna()
    figure = Figure(figsize=(4.6, 2.4), layout="constrained")
    axes = figure.subplots()
    if pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known):
        axes.hist(known.to_numpy(np.float64), bins=BARS, color=BLUE)
        axes.set_xlabel(unit, fontsize=9)
    else:
        counts = known.astype(str).value_counts()
        axes.bar(
            [str(one)[:20] for one in counts.index[:MOST_CATEGORIES]],
            counts.to_numpy()[:MOST_CATEGORIES],
            color=BLUE,
        )
    missing = len(values) - len(known)
    plain(axes, name + (f", unknown in {missing} of {len(values)}" if missing else ""))
    axes.set_ylabel("recordings", fontsize=9)
    return figure
