"""Figures that a cardiologist can read: ECGs on paper, and how a model was trained and judged.

ECGs stand on the paper of `paper.py`, in three rows and four columns. Paper speed is 50 mm/s, the
faster of the two usual ones, because a median beat lasts 800 ms.

Every function gives back a `matplotlib.figure.Figure`, drawn without pyplot: no window, no global
state. Colours are those of Okabe and Ito, told apart with any colour vision.

Dims: M overlaid beats, L leads, T samples, Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.cohort import LEADS, SAMPLING_RATE
from data.units import MV, UNITS
from evaluation.figures.paper import (
    BLACK,
    GAIN,
    MM,
    SPEED,
    Sheet,
    cycled,
    heading,
    in_columns,
    lay_out,
)
from evaluation.measures.latent import ACTIVE_KL_NATS, kl_per_dimension

DPI = 135  # a 12-lead figure of 190 mm is 1010 pixels wide

VERMILION, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"
ORANGE, SKY, PURPLE, GREY = "#E69F00", "#56B4E9", "#CC79A7", "#7F7F7F"
PALETTE = (BLACK, VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY, GREY)
TRAVERSAL = {-2: BLUE, -1: SKY, 0: BLACK, 1: ORANGE, 2: VERMILION}  # SD -> colour

ENDS = ("", "_low", "_high")  # a metric and its interval
LABELLED = 20  # bars of a figure that have room for a number each


def plot_ecg(
    ecg: np.ndarray,
    labels: Sequence[str] = (),
    title: str = "",
    *,
    colors: Sequence[str] = PALETTE,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    speed: float = SPEED,
    gain: float = GAIN,
    unit: str = MV,
) -> Figure:
    """One ECG, or several overlaid, on ECG paper.

    Args:
        ecg: (L, T) or (M, L, T) in `unit`.
        labels: M names for the legend; none where left out.
        title: above the paper.
        colors: of the beats, reused in turn.
        leads: L names. Twelve stand in three rows and four columns, column by column (I, II, III;
            aVR, aVL, aVF; V1-V3; V4-V6); any other number in four columns too.
        sampling_rate: Hz.
        speed: mm/s.
        gain: mm/mV.
        unit: of the ECGs; see `data.units`.

    Returns:
        The figure; its first axes is the paper, in millimetres.
    """
    beats = ecg[None] if ecg.ndim == 2 else ecg
    sheet = Sheet(in_columns(beats, leads), sampling_rate, speed, gain, unit=unit)
    figure, (paper,) = lay_out([[sheet]])
    sheet.draw(paper, cycled(colors, len(beats)))
    heading(paper, title, labels, colors)
    return figure


def plot_reconstructions(
    real: np.ndarray,
    reconstructed: np.ndarray,
    titles: Sequence[str] = (),
    *,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    unit: str = MV,
) -> Figure:
    """Real ECGs (black) under their reconstructions (vermilion), one sheet of paper each.

    Args:
        real: (M, L, T) in `unit`.
        reconstructed: (M, L, T) likewise.
        titles: M lines, such as age, sex and error; none where left out.
        leads: L names.
        sampling_rate: Hz.
        unit: of the ECGs; see `data.units`.

    Returns:
        The figure; one axes per ECG.
    """
    colors = (BLACK, VERMILION)
    pairs = np.stack([real, reconstructed], axis=1)  # (M, 2, L, T)
    sheets = [Sheet(in_columns(pair, leads), sampling_rate, unit=unit) for pair in pairs]
    figure, papers = lay_out([[sheet] for sheet in sheets])
    for sheet, paper, title in zip(sheets, papers, titles or [""] * len(sheets), strict=True):
        sheet.draw(paper, colors, widths=(1.6, 0.8))  # the real one shows on both sides
        heading(paper, title, ("real", "reconstructed"), colors)
    return figure


def plot_sweep(
    ecgs: np.ndarray,
    values: Sequence[float | str],
    name: str,
    unit: str = "",
    *,
    leads: Sequence[str] = LEADS,
    sampling_rate: float = SAMPLING_RATE,
    amplitude: str = MV,
) -> Figure:
    """Generated beats as one condition is changed and everything else is kept.

    Args:
        ecgs: (M, L, T) in `amplitude`, one beat per value.
        values: M numbers (drawn with a colour scale) or M categories (drawn with a legend).
        name: of the condition.
        unit: of the condition.
        leads: L names.
        sampling_rate: Hz.
        amplitude: unit of the ECGs; see `data.units`.

    Returns:
        The figure; its first axes is the paper.
    """
    title = f"Generated beat by {name}" + (f" ({unit})" if unit else "")
    apart = np.ptp(ecgs, axis=0).max(axis=1)  # (L,); small ones hide each other
    title += f": {UNITS[amplitude].small(apart.max())} apart at most, in {leads[apart.argmax()]}"
    if any(isinstance(value, str) for value in values):
        labels = [str(value) for value in values]
        recorded = {"leads": leads, "sampling_rate": sampling_rate, "unit": amplitude}
        return plot_ecg(ecgs, labels, title, **recorded)
    order = np.argsort(values)
    values = np.asarray(values, np.float64)[order]
    # The bright end of viridis is left out: it is lost on pale paper.
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(values)))
    sheet = Sheet(in_columns(ecgs[order], leads), sampling_rate, unit=amplitude)
    figure, (paper,) = lay_out([[sheet]], footer=16.0)
    sheet.draw(paper, colors)
    heading(paper, title, (), colors)
    _color_scale(figure, values, colors, f"{name} ({unit})" if unit else name)
    return figure


def plot_traversal(
    model,
    mean: np.ndarray,
    log_var: np.ndarray,
    conditions: Mapping[str, object],
    dims: int = 5,
    *,
    leads: Sequence[str] = LEADS,
    shown: Sequence[str] = ("II", "V1", "V5"),
    sampling_rate: float = SAMPLING_RATE,
    unit: str = MV,
) -> Figure:
    """What each latent dimension does to the beat of one kind of subject.

    A row per dimension, the most informative (largest KL) first: that dimension moves from -2 to
    +2 SD of the posterior means around their average, the others stay there.

    Args:
        model: with `schema` and `decode(z, conditions)`.
        mean: (N, Z) posterior means.
        log_var: (N, Z) log variances.
        conditions: name -> value of the subject.
        dims: number of rows.
        leads: names of the model's leads.
        shown: leads to draw; the first, the middle and the last where the model has none of them.
        sampling_rate: Hz.
        unit: of the ECGs; see `data.units`.

    Returns:
        The figure; its first axes is the paper.
    """
    kl = kl_per_dimension(mean, log_var).mean(axis=0)
    chosen = np.argsort(-kl, kind="stable")[:dims]
    steps = np.array(list(TRAVERSAL), np.float64)
    z = np.tile(mean.mean(axis=0), (len(chosen), len(steps), 1))
    for row, dim in enumerate(chosen):
        z[row, :, dim] += steps * mean[:, dim].std()
    z = z.reshape(-1, mean.shape[1]).astype(np.float32)
    encoded = model.schema.encode(conditions, n=len(z))
    ecg = np.asarray(model.decode(z, encoded)).reshape(len(chosen), len(steps), len(leads), -1)

    picked = [lead for lead in shown if lead in leads]
    picked = picked or [leads[i] for i in sorted({0, len(leads) // 2, len(leads) - 1})]
    rows = [
        [(f"z{dim} {lead}", ecg[row, :, list(leads).index(lead)]) for lead in picked]
        for row, dim in enumerate(chosen)
    ]
    notes = [f"KL {kl[dim]:.2g} nat" for dim in chosen]
    sheet = Sheet(rows, sampling_rate, notes=notes, unit=unit)
    figure, (paper,) = lay_out([[sheet]])
    sheet.draw(paper, list(TRAVERSAL.values()))
    heading(
        paper,
        "Latent traversal",
        [f"{step:+d} SD" if step else "mean" for step in TRAVERSAL],
        TRAVERSAL.values(),
    )
    return figure


def plot_history(history: pd.DataFrame) -> Figure:
    """Loss curves: one panel per quantity, training beside validation.

    The axis ends at the largest value after the first tenth of the epochs: the fall from the
    untrained network would flatten the rest.

    Args:
        history: a row per epoch. `val_x` is drawn beside `x`; `epoch` is the horizontal axis where
            it is there.
    """
    epochs = history["epoch"] if "epoch" in history else pd.Series(range(1, len(history) + 1))
    numbers = history.select_dtypes("number").drop(columns="epoch", errors="ignore")
    numbers = numbers.dropna(axis=1, how="all")
    names = list(dict.fromkeys(column.removeprefix("val_") for column in numbers))
    columns = min(3, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(7.5, 0.4 + 2.1 * rows), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        for column, label, color, style in (
            (name, "training", BLUE, "-"),
            (f"val_{name}", "validation", VERMILION, "--"),
        ):
            if column in numbers:
                axes.plot(epochs, numbers[column], style, color=color, label=label, linewidth=1.3)
        plain(axes, name.replace("_", " "))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        _cut_start(axes, numbers[[c for c in (name, f"val_{name}") if c in numbers]].to_numpy())
        if number == 0:
            axes.legend(frameon=False, fontsize=8)
    return figure


def plot_latent(kl: Sequence[float]) -> Figure:
    """KL of each latent dimension in nats, the largest first; the dead ones grey.

    Args:
        kl: (Z,) nats, averaged over subjects.
    """
    kl = np.asarray(kl, np.float64)
    order = np.argsort(-kl, kind="stable")
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.add_subplot()
    colors = [BLUE if value > ACTIVE_KL_NATS else GREY for value in kl[order]]
    bars = axes.bar(range(len(kl)), kl[order], color=colors)
    axes.axhline(ACTIVE_KL_NATS, color=VERMILION, linewidth=1, linestyle="--")
    if len(kl) <= LABELLED:
        axes.bar_label(bars, [f"{value:.2g}" for value in kl[order]], fontsize=8, padding=1)
        axes.set_xticks(range(len(kl)), [f"z{number}" for number in order])
    else:
        numbers = [str(number) for number in order]
        axes.set_xticks(range(len(kl)), numbers, fontsize=6, rotation=90)
        axes.set_xlabel("latent dimension, by its number in z")
    active = int((kl > ACTIVE_KL_NATS).sum())
    plain(axes, f"{active} of {len(kl)} dimensions above {ACTIVE_KL_NATS} nat (dashed line)")
    axes.set_ylabel("KL (nat)")
    axes.margins(y=0.12)
    return figure


def plot_noise(
    mean_beat: np.ndarray,
    sd: np.ndarray,
    leads: Sequence[str],
    sampling_rate: float = SAMPLING_RATE,
    unit: str = MV,
) -> Figure:
    """The mean beat of each lead, and below it the observation noise on a scale of its own.

    Args:
        mean_beat: (I, T) in `unit`.
        sd: (I, T) likewise, scale of the noise.
        leads: I names.
        sampling_rate: Hz.
        unit: see `data.units`.
    """
    columns = min(4, len(leads))
    rows = -(-len(leads) // columns)
    figure = Figure(figsize=(7.5, 0.4 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    ms = np.arange(mean_beat.shape[1]) * 1000 / sampling_rate
    low, high = float(mean_beat.min()), float(mean_beat.max())
    panels[0].set_ylim(low - 0.5 * (high - low), high + 0.1 * (high - low))
    for number, (axes, beat, noise, lead) in enumerate(
        zip(panels, mean_beat, sd, leads, strict=False)
    ):
        axes.plot(ms, beat, color=BLACK, linewidth=1)
        plain(axes, lead)
        below = axes.twinx()
        below.fill_between(ms, 0, 1000 * noise, color=SKY, linewidth=0)
        below.set_ylim(0, 4 * 1000 * float(sd.max()))
        top, last = float(f"{1000 * sd.max():.1g}"), number % columns == columns - 1
        below.spines[["top", "left", "right"]].set_visible(False)
        below.tick_params(right=last)
        below.set_yticks([0, top], [f"{0:.0f}", f"{top:.3g}"] if last else ["", ""])
        if last:
            below.set_ylabel(f"noise ({UNITS[unit].thousandth})", y=0.15)
    for axes in panels[len(leads) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(leads) - columns) : len(leads)]:
        axes.set_xlabel("ms")
        axes.tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel(UNITS[unit].amplitude)
    return figure


def plot_error_by_lead(
    metrics: Mapping[str, float], leads: Sequence[str] = LEADS, unit: str = MV
) -> Figure:
    """Mean absolute error per lead and per segment with 95% intervals, beside the baselines.

    Args:
        metrics: of `measures.reconstruction.reconstruction_metrics`.
        leads: names of the leads.
        unit: of the ECGs; see `data.units`.
    """
    prefixes = [name.removesuffix("mae_uv") for name in metrics if name.endswith("mae_uv")]
    marks = dict(zip(prefixes, ((VERMILION, "o"), (BLUE, "s"), (GREY, "^")), strict=False))
    segments = [name for name in ("p", "qrs", "st", "t") if f"mae_uv_{name}" in metrics]
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(len(leads), max(1, len(segments))))
    for axes, parts, title in zip(panels, (leads, segments), ("lead", "segment"), strict=True):
        for number, (prefix, (color, marker)) in enumerate(marks.items()):
            values = np.array(
                [[metrics[f"{prefix}mae_uv_{part}{end}"] for end in ENDS] for part in parts]
            ).reshape(-1, 3)
            axes.errorbar(
                np.arange(len(parts)) + 0.2 * (number - 1),
                values[:, 0],
                yerr=np.abs(values[:, 1:] - values[:, :1]).T,
                label=_baseline_name(prefix),
                color=color,
                fmt=marker,
                markersize=4,
                linewidth=1.2,
            )
        names = [part.upper() for part in parts] if title == "segment" else parts
        axes.set_xticks(range(len(parts)), names)
        plain(axes, f"by {title}")
        axes.grid(axis="y", color="#E5E5E5")
        axes.set_axisbelow(True)
    panels[0].set_ylabel(f"mean absolute error ({UNITS[unit].thousandth})")
    panels[0].margins(y=0.2)  # room for the legend
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    return figure


def save(figure: Figure, path: str | Path, dpi: int = DPI) -> None:
    """Writes a PNG whole or not at all; the same figure gives the same bytes."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": None})
    partial.replace(path)


def _color_scale(figure: Figure, values: np.ndarray, colors: np.ndarray, label: str) -> None:
    """A horizontal scale with one field per value, in the footer."""
    fields = np.arange(len(values))
    scale = ScalarMappable(Normalize(-0.5, len(values) - 0.5), ListedColormap(colors))
    height = figure.get_figheight() / MM
    axes = figure.add_axes((0.45, 8 / height, 0.53, 3 / height))
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal")
    bar.set_ticks(fields, labels=[f"{value:g}" for value in values])
    bar.ax.tick_params(labelsize=8, length=0, pad=2)
    axes.text(-0.02, 0.5, label, transform=axes.transAxes, ha="right", va="center", fontsize=9)


def plain(axes: Axes, title: str, room: int = 80) -> None:
    """A title on the left, smaller if its letters have no room; a frame at the left and below."""
    axes.set_title(title, fontsize=10 * min(1, room / max(len(title), 1)), loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _cut_start(axes: Axes, curves: np.ndarray) -> None:
    """Ends the vertical axis of (epochs, curves) at the largest value after the first tenth."""
    curves = np.where(np.isfinite(curves), curves, np.nan)
    settled = curves[len(curves) // 10 :]
    if not np.isnan(settled).all():
        low, high = np.nanmin(curves), np.nanmax(settled)
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


def _baseline_name(prefix: str) -> str:
    """What a figure calls the model (no prefix) and its baselines, such as `pca10_`."""
    if not prefix:
        return "model"
    return prefix.rstrip("_").replace("pca", "PCA-").replace("_", " ")
