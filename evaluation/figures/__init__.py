"""Arrays in, figures out; `from evaluation.figures import plot_ecg, save` is for notebooks."""

from evaluation.figures.ecg import (
    plot_ecg,
    plot_reconstructions,
    plot_sweep,
    plot_traversal,
    save,
)

__all__ = ["plot_ecg", "plot_reconstructions", "plot_sweep", "plot_traversal", "save"]
