"""Figures of predicted risk: Kaplan-Meier curves by group, calibration, individual curves.

Every function gives back a `matplotlib.figure.Figure`, drawn without pyplot.

Dims: N subjects, G groups, M times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluation.figures.ecg import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, plain
from evaluation.measures.survival import logrank_p
from evaluation.measures.survival_scores import calibration_curve

RISK_COLORS = (BLUE, SKY, GREEN, ORANGE, VERMILION)  # lowest to highest risk
ROW = 0.19  # inches, a row of the table of numbers at risk
DECILES = 10
ALPHA = 0.025  # beyond either end of an interval


def plot_kaplan_meier(
    time: np.ndarray,
    event: np.ndarray,
    group: np.ndarray,
    labels: Sequence[str] | None = None,
    unit: str = "years",
    patients: np.ndarray | None = None,
) -> Figure:
    """Observed survival by risk group with 95% bands, numbers at risk below, and log-rank p.

    Of each patient the first recording counts, as in `logrank_p`.

    Args:
        time: (N,).
        event: (N,) 0 or 1.
        group: (N,) 0 (lowest risk) to G - 1, from `evaluation.measures.survival.risk_groups`.
        labels: G names, also of groups in which nobody is; by default "low" ... "high risk" for
            up to three, else numbered.
        unit: of the times.
        patients: (N,) ids; each recording its own where left out.
    """
    group = np.asarray(group)
    patients = np.arange(len(group)) if patients is None else patients
    labels = _group_labels(int(group.max()) + 1) if labels is None else list(labels)
    p = logrank_p(time, event, group, patients)
    first = np.unique(patients, return_index=True)[1]
    time, event, group = time[first], event[first], group[first]
    colors = _risk_colors(len(labels))
    table = ROW * (len(labels) + 1.5)
    figure = Figure(figsize=(6.5, 3.9 + table), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.5, table))
    for number, label in enumerate(labels):
        rows = group == number
        if rows.any():
            fitted = KaplanMeierFitter().fit(time[rows], event[rows])
            name = f"{label} ({int(event[rows].sum())} events of {int(rows.sum())})"
            _steps(axes, fitted, colors[number], name)
    shown = ", log-rank p < 0.001" if p < 0.001 else f", log-rank p = {p:.2g}"
    plain(axes, f"Kaplan-Meier by predicted risk{'' if np.isnan(p) else shown}")
    axes.set_ylabel("without event")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(0, time.max())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.tick_params(labelbottom=True)
    axes.set_xlabel(f"time ({unit})", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    _numbers_at_risk(below, axes.get_xticks(), time, group, labels, colors)
    return figure


def plot_calibration(
    probability: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    horizon: float,
    unit: str = "years",
) -> Figure:
    """Observed against predicted probability of an event up to the horizon.

    The curve is `calibration_curve`; the points are Kaplan-Meier estimates with 95% intervals in
    tenths of the predicted probability; the bars below tell how many subjects stand where.

    Args:
        probability: (N,) predicted, 1 - S(horizon).
        time: (N,).
        event: (N,) 0 or 1.
        horizon: in the unit of `time`.
        unit: of the times.
    """
    observed = calibration_curve(probability, time, event, horizon)
    ici = np.abs(observed - probability).mean()
    figure = Figure(figsize=(4.8, 5.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    order = np.argsort(probability)
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--", label="ideal")
    axes.plot(probability[order], observed[order], color=BLUE, linewidth=1.6, label="smooth")
    limits = np.quantile(probability, np.arange(1, DECILES) / DECILES)
    tenth = np.searchsorted(limits, probability, side="right")
    points = np.array(
        [
            (
                probability[tenth == number].mean(),
                *_event_probability(time, event, tenth == number, horizon),
            )
            for number in np.unique(tenth)
        ]
    )
    axes.errorbar(
        points[:, 0],
        points[:, 1],
        yerr=np.abs(points[:, 2:] - points[:, 1:2]).T,
        fmt="o",
        color=BLACK,
        markersize=4,
        linewidth=1,
        label="tenths, Kaplan-Meier",
    )
    end = min(1.0, 1.08 * max(points.max(), np.quantile(probability, 0.995)))
    axes.set(xlim=(0, end), ylim=(0, end))
    plain(axes, f"calibration at {horizon:.3g} {unit}, ICI {ici:.3f}")
    axes.set_ylabel("observed probability")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    below.hist(probability, bins=np.linspace(0, end, 41), color=GREY)
    plain(below, "")
    below.set_xlabel("predicted probability", fontsize=9)
    below.set_ylabel("subjects", fontsize=8)
    return figure


def plot_survival_curves(
    times: np.ndarray,
    survival: np.ndarray,
    labels: Sequence[str],
    time: np.ndarray | None = None,
    event: np.ndarray | None = None,
    unit: str = "years",
) -> Figure:
    """Predicted survival of single subjects, beside the Kaplan-Meier curve of all.

    Args:
        times: (M,), rising.
        survival: (G, M), a subject per row, lowest risk first.
        labels: G names.
        time: (N,) of all subjects, for the Kaplan-Meier curve.
        event: (N,) of all subjects.
        unit: of the times.
    """
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    if time is not None:
        _steps(axes, KaplanMeierFitter().fit(time, event), GREY, "all, Kaplan-Meier")
    for curve, label, color in zip(survival, labels, _risk_colors(len(labels)), strict=True):
        axes.step(times, curve, where="post", color=color, linewidth=1.6, label=label)
    plain(axes, "predicted survival of single subjects")
    axes.set_xlim(0, np.max(times))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"time ({unit})", fontsize=9)
    axes.set_ylabel("without event")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _steps(axes: Axes, fitted: KaplanMeierFitter, color: str, label: str) -> None:
    """A Kaplan-Meier curve with its 95% band."""
    curve, band = fitted.survival_function_.iloc[:, 0], fitted.confidence_interval_
    axes.step(curve.index, curve, where="post", color=color, linewidth=1.6, label=label)
    axes.fill_between(
        band.index,
        band.iloc[:, 0],
        band.iloc[:, 1],
        step="post",
        color=color,
        alpha=0.15,
        linewidth=0,
    )


def _numbers_at_risk(
    axes: Axes,
    ticks: np.ndarray,
    time: np.ndarray,
    group: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[str],
) -> None:
    """A table of how many of each group are still observed at the ticks of the axis above."""
    axes.axis("off")
    axes.set_ylim(len(labels), -1)
    data = axes.get_yaxis_transform()
    axes.text(0, -0.7, "number at risk", transform=data, fontsize=8, ha="left", va="center")
    for number, (label, color) in enumerate(zip(labels, colors, strict=True)):
        own = time[group == number]
        axes.text(
            -0.03, number, label, transform=data, fontsize=8, color=color, ha="right", va="center"
        )
        for tick in ticks[ticks <= axes.get_xlim()[1]]:
            count = int((own >= tick).sum())
            axes.text(tick, number, count, fontsize=8, ha="center", va="center")


def _event_probability(
    time: np.ndarray, event: np.ndarray, rows: np.ndarray, horizon: float
) -> tuple[float, float, float]:
    """Kaplan-Meier estimate for these rows and its 95% limits."""
    fitted = KaplanMeierFitter().fit(time[rows], event[rows])
    band = fitted.confidence_interval_
    low, high = band.loc[:horizon].iloc[-1]
    share = 1 - float(fitted.predict(horizon))
    # Greenwood's variance is 0 where nobody or everybody has the event: Clopper and Pearson's
    # limits then, of those who were observed so long or had the event.
    if share == 0:
        return share, 0.0, 1 - ALPHA ** (1 / max(int((time[rows] >= horizon).sum()), 1))
    if share == 1:
        return share, ALPHA ** (1 / int(event[rows].sum())), 1.0
    return share, 1 - float(high), 1 - float(low)


def _risk_colors(n: int) -> list[str]:
    """Colours from low to high risk; more than five groups share neighbouring colours."""
    return [RISK_COLORS[i] for i in np.linspace(0, len(RISK_COLORS) - 1, n).round().astype(int)]


def _group_labels(n: int) -> list[str]:
    if n <= 3:
        return {1: ["all"], 2: ["low", "high"], 3: ["low", "middle", "high"]}[n]
    return [f"{number} of {n}" for number in range(1, n + 1)]
