"""Figures of a generator: what it was told, what it makes of that, and how well it follows.

Every function gives back a `matplotlib.figure.Figure`, drawn without pyplot.

Dims: M generated ECGs, L leads, T samples, N subjects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten, wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.cohort import LEADS, SAMPLING_RATE
from data.conditions import Condition, ConditionSchema
from data.units import MV
from evaluation.figures.ecg import BLUE, GREY, VERMILION, plain
from evaluation.figures.paper import BLACK, Sheet, in_columns, lay_out
from evaluation.measures.names import effects_in, feature_title, not_recovered

BINS = 20
SLOW = 25.0  # mm/s: two sheets fit side by side
TITLE = 68  # characters on a line above a sheet
STRONG = 1.0  # SD: the deepest colour of a heat map
ACROSS = 75  # letters side by side above a heat map
CROWDED = 0.055  # of the height of a panel: labels closer than that would overlap


def plot_conditions(schema: ConditionSchema, parts: Mapping[str, pd.DataFrame]) -> Figure:
    """How each condition is distributed in two splits, and in how many recordings it is unknown.

    Args:
        schema: of the model.
        parts: "training" and "test", or other names -> subjects.
    """
    count = max(1, len(schema.conditions))
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(7.5, 0.3 + 2.6 * rows), layout="constrained")
    for number, condition in enumerate(schema.conditions):
        axes = figure.add_subplot(rows, columns, number + 1)
        codes = {name: condition.codes(table[condition.name]) for name, table in parts.items()}
        draw = _histogram if condition.kind == "continuous" else _bars
        draw(axes, condition, codes)
        unknown = "\n".join(
            f"{int(np.isnan(values).sum()):,} of {len(values):,} in {name}"
            for name, values in codes.items()
        )
        plain(axes, condition.name, room=28)
        axes.set_xlabel(f"{condition.unit}\nunknown: {unknown}".strip(), fontsize=7)
        axes.set_ylabel("% of known", fontsize=8)
    if schema.conditions:
        handles, names = figure.axes[0].get_legend_handles_labels()
        place = {"loc": "outside upper right", "ncols": len(names)}
        figure.legend(handles, names, frameon=False, fontsize=8, **place)
    return figure


def plot_beside_real(
    generated: np.ndarray,
    real: np.ndarray,
    titles: Sequence[tuple[str, str]],
    *,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    unit: str = MV,
) -> Figure:
    """Generated ECGs (left, vermilion), each beside a real one (right, black), at 25 mm/s.

    Args:
        generated: (M, L, T) in `unit`.
        real: (M, L, T) likewise.
        titles: M pairs: of the generated and of the real one; long ones take two lines.
        leads: L names.
        sampling_rate: Hz.
        unit: of the ECGs; see `data.units`.

    Returns:
        The figure; two axes per pair, the generated one first.
    """
    pairs = np.stack([generated, real], axis=1)  # (M, 2, L, T)
    sheets = [Sheet(in_columns(pair, leads), sampling_rate, SLOW, unit=unit) for pair in pairs]
    figure, papers = lay_out([[sheet, sheet] for sheet in sheets])
    for sheet, left, right, pair in zip(sheets, papers[::2], papers[1::2], titles, strict=True):
        sheet.draw(left, (VERMILION, None))
        sheet.draw(right, (None, BLACK))
        for paper, title in zip((left, right), pair, strict=True):
            lines = wrap(shorten(title, 2 * TITLE - 10, placeholder=" ..."), TITLE)
            paper.set_title("\n".join(lines), loc="left", fontsize=7.5, linespacing=1.1)
    return figure


def plot_slopes(metrics: Mapping[str, float]) -> Figure | None:
    """Slopes of features on conditions in generated against real ECGs, a panel per condition.

    Both are in SD of the feature among real ECGs per step of the condition (see
    `counterfactuals.STEPS`), with 95% intervals. On the dashed line they are alike. Those whose
    difference is clear, the slopes that are not recovered, are vermilion and named.

    Args:
        metrics: section `adherence`.

    Returns:
        The figure; None where the metrics hold no slopes.
    """
    found = {
        condition: points
        for condition, features in effects_in(metrics, "slope").items()
        if (points := _slope_points(metrics, condition, features))
    }
    if not found:
        return None
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(7.5, 3.7 * rows), layout="constrained")
    for number, (condition, points) in enumerate(found.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw_slopes(axes, points)
        lost = sum(point["lost"] for point in points.values())
        plain(axes, f"{condition}: {len(points) - lost} of {len(points)} recovered", room=42)
        axes.set_xlabel("slope in real ECGs (SD per step)", fontsize=8)
        axes.set_ylabel("slope in generated ECGs (SD per step)", fontsize=8)
    return figure


def plot_specificity(metrics: Mapping[str, float]) -> Figure | None:
    """What moves as one condition of the same subjects is changed, beside what should.

    Two columns per condition: the mean change of each feature, and the change that its slope in
    real ECGs asks for, in SD of the feature.

    Args:
        metrics: section `adherence`.

    Returns:
        The figure; None where the metrics hold no such changes.
    """
    found = effects_in(metrics, "specificity")
    if not found:
        return None
    features = list(dict.fromkeys(name for names in found.values() for name in names))
    columns = [
        (condition, of)
        for condition, names in found.items()
        for of in ("", "_real")
        if any(f"specificity_{condition}_{name}{of}" in metrics for name in names)
    ]
    values = np.array(
        [
            [
                metrics.get(f"specificity_{condition}_{name}{of}", np.nan)
                for condition, of in columns
            ]
            for name in features
        ]
    )
    longest = max(len(name) for name in ("generated", *found))
    upright = longest * len(columns) > ACROSS
    head = 0.08 * longest if upright else 0.0
    height = 1.1 + 0.24 * len(features) + head
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="RdBu_r", vmin=-STRONG, vmax=STRONG, aspect="auto")
    small = 8 if len(columns) <= 12 else 5
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        color = "white" if abs(value) > 0.7 * STRONG else "black"
        text = f"{value:+.2f}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=small)
    names = [f"{condition}\n{'asked for' if of else 'generated'}" for condition, of in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=small, rotation=90 * upright)
    axes.set_yticks(range(len(features)), [feature_title(name) for name in features], fontsize=8)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    for edge in range(1, len(columns)):
        if columns[edge][0] != columns[edge - 1][0]:
            axes.axvline(edge - 0.5, color="white", linewidth=4)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, extend="both")
    bar.set_label("change (SD of the feature)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _histogram(axes: Axes, condition: Condition, codes: Mapping[str, np.ndarray]) -> None:
    """The first split filled, the others as lines, over the same bins."""
    known = {name: values[~np.isnan(values)] for name, values in codes.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), BINS)
    styles = [{"histtype": "stepfilled", "color": BLUE, "alpha": 0.35}]
    styles += [{"histtype": "step", "color": VERMILION, "linewidth": 1.4}] * (len(known) - 1)
    for (name, values), style in zip(known.items(), styles, strict=True):
        weights = np.full(len(values), 100 / max(len(values), 1))
        axes.hist(values, edges, weights=weights, label=name, **style)


def _bars(axes: Axes, condition: Condition, codes: Mapping[str, np.ndarray]) -> None:
    """A bar per category and split."""
    place = np.arange(len(condition.categories))
    width = 0.8 / len(codes)
    for number, (name, values) in enumerate(codes.items()):
        known = values[~np.isnan(values)].astype(int)
        share = 100 * np.bincount(known, minlength=len(place)) / max(len(known), 1)
        color = VERMILION if number else BLUE
        left = place + (number - (len(codes) - 1) / 2) * width
        axes.bar(left, share, 0.9 * width, color=color, alpha=0.6, label=name)
    crowded = sum(map(len, condition.categories)) > 20
    axes.set_xticks(
        place,
        condition.categories,
        rotation=30 if crowded else 0,
        ha="right" if crowded else "center",
    )


def _slope_points(
    metrics: Mapping[str, float], condition: str, features: Sequence[str]
) -> dict[str, dict]:
    """Feature -> `real` and `generated` (value, low, high) in SD per step, and whether `lost`."""
    points = {}
    for name in features:
        key, ends = f"slope_{condition}_{name}", ("", "_low", "_high")
        asked = f"specificity_{condition}_{name}_real"
        needed = [f"{key}{of}{end}" for of in ("", "_real", "_difference") for end in ends]
        if not metrics.keys() >= {*needed, f"{asked}_low", f"{asked}_high"}:
            continue
        # The change that real slopes ask for is the real slope in other units.
        length = metrics[f"{key}_real_high"] - metrics[f"{key}_real_low"]
        unit = (metrics[f"{asked}_high"] - metrics[f"{asked}_low"]) / length if length else 0.0
        points[name] = {
            "generated": unit * np.array([metrics[f"{key}{end}"] for end in ends]),
            "real": unit * np.array([metrics[f"{key}_real{end}"] for end in ends]),
            "lost": not_recovered(metrics, key),
        }
    return points


def _draw_slopes(axes: Axes, points: Mapping[str, dict]) -> None:
    values = np.array([[point["real"], point["generated"]] for point in points.values()])
    low, high = min(values.min(), 0), max(values.max(), 0)
    room = 0.05 * (high - low) or 1.0
    axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--")
    axes.axhline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
    for point in points.values():
        (x, *x_ends), (y, *y_ends) = point["real"], point["generated"]
        axes.errorbar(
            x,
            y,
            xerr=np.abs(np.array(x_ends) - x)[:, None],
            yerr=np.abs(np.array(y_ends) - y)[:, None],
            fmt="D" if point["lost"] else "o",
            color=VERMILION if point["lost"] else BLUE,
            markersize=4,
            linewidth=0.8,
        )
    lost = {name: point for name, point in points.items() if point["lost"]}
    _label_right(
        axes, {feature_title(n): (p["real"][0], p["generated"][0]) for n, p in lost.items()}
    )


def _label_right(axes: Axes, places: Mapping[str, tuple[float, float]]) -> None:
    """Names right of the panel, spread so that none covers another, with lines to their points."""
    low, high = axes.get_ylim()
    names = sorted(places, key=lambda name: places[name][1])
    heights = [(places[name][1] - low) / (high - low) for name in names]  # share of the panel
    for number in range(1, len(heights)):
        heights[number] = max(heights[number], heights[number - 1] + CROWDED)
    limit = 1.0
    for number in reversed(range(len(heights))):
        heights[number] = min(heights[number], limit)
        limit = heights[number] - CROWDED
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            name,
            places[name],
            xytext=(1.03, height),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": VERMILION, "linewidth": 0.4, "alpha": 0.7},
        )
