"""ECG paper: beats in millimetres, on the grid that a cardiologist knows.

Sheets follow the recommendations for standardisation (Kligfield et al. 2007,
doi 10.1161/CIRCULATIONAHA.106.180200): 10 mm/mV, 1 mm and 5 mm lines, a 1 mV calibration pulse, the
twelve leads in three rows and four columns. One millimetre of paper is one millimetre of the
figure.

Dims: M overlaid beats, L leads, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, islice

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data.units import MV, UNITS

SPEED = 50.0  # mm/s
GAIN = 10.0  # mm/mV

BLACK = "#000000"
PAPER, FINE_LINE, BOLD_LINE = "#FFFAFA", "#F8DCDC", "#EFB8B8"

MM = 1 / 25.4  # inches
MARGIN = 10.0  # mm, left of the first column: holds the calibration pulse
GAP = 5.0  # mm, between columns: the lead's name stands there
REACH = 100.0  # mm, farthest that a row makes room for, up or down
HEADER, FOOTER = 9.0, 7.0  # mm, above and below the paper
SCALE = 52.0  # mm, that speed and gain take below the paper


class Sheet:
    """A sheet of ECG paper: rows of named panels, in millimetres.

    Args:
        rows: of (name, (M, T) in `unit`).
        sampling_rate: Hz.
        speed: mm/s.
        gain: mm/mV; another unit stands as high as it usually is in mV.
        notes: one text per row, written under its first name.
        unit: of the beats; see `data.units`.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[tuple[str, np.ndarray]]],
        sampling_rate: float,
        speed: float = SPEED,
        gain: float = GAIN,
        notes: Sequence[str] = (),
        unit: str = MV,
    ) -> None:
        self.rows, self.speed, self.notes = rows, speed, notes
        self.gain = gain * UNITS[unit].mv  # mm per unit
        self.pulse, self.scale = gain, UNITS[unit].scale(gain)
        self.sampling_rate = sampling_rate
        samples = rows[0][0][1].shape[-1]
        self.panel = _whole_squares(samples / sampling_rate * speed) + GAP
        self.width = MARGIN + max(len(row) for row in rows) * self.panel
        self.baselines, depth = [], 0.0
        for row in rows:
            values = np.concatenate([beats.ravel() for _, beats in row])
            values = self.gain * values[np.isfinite(values)]
            up = max(values.max(initial=0) + 1, gain + 1)  # the pulse has to fit
            down = max(-values.min(initial=0) + 1, 4)
            self.baselines.append(-(depth + _whole_squares(min(up, REACH))))
            depth = -self.baselines[-1] + _whole_squares(min(down, REACH))
        self.height = depth
        self.baselines = [depth + baseline for baseline in self.baselines]  # from the bottom up

    def draw(self, paper: Axes, colors: Sequence, widths: Sequence[float] = (1.1,)) -> None:
        """Draws grid, calibration pulses, names and beats.

        A colour that is None leaves its beat out: sheets of the same beats have the same rows, of
        which each may show another beat.
        """
        paper.set(xlim=(0, self.width), ylim=(0, self.height), aspect="equal", facecolor=PAPER)
        paper.set(xticks=[], yticks=[])
        paper.spines[:].set_color(BOLD_LINE)
        for step, color, width in ((1, FINE_LINE, 0.4), (5, BOLD_LINE, 0.6)):
            style = {"colors": color, "linewidths": width, "zorder": 0}
            paper.vlines(np.arange(0, self.width + step, step), 0, self.height, **style)
            paper.hlines(np.arange(0, self.height + step, step), 0, self.width, **style)
        for number, (row, baseline) in enumerate(zip(self.rows, self.baselines, strict=True)):
            self._draw_pulse(paper, baseline)
            for column, (name, beats) in enumerate(row):
                left = MARGIN + column * self.panel
                paper.text(left - 2, baseline + 6, name, weight="bold", fontsize=9)
                if column == 0 and self.notes:
                    paper.text(left - 2, baseline + 3.5, self.notes[number], fontsize=7)
                x = left + np.arange(beats.shape[-1]) / self.sampling_rate * self.speed
                for beat, color, width in zip(beats, colors, cycle(widths), strict=False):
                    if color is None:
                        continue
                    y = baseline + self.gain * beat
                    paper.plot(x, y, color=color, linewidth=width, gid=name)
        paper.annotate(
            f"{self.speed:g} mm/s, {self.scale}",
            xy=(0, 0),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            fontsize=8,
        )

    def _draw_pulse(self, paper: Axes, baseline: float) -> None:
        x = np.array([0.5, 1.5, 1.5, 6.5, 6.5, 7.5])
        y = baseline + self.pulse * np.array([0, 0, 1, 1, 0, 0])
        paper.plot(x, y, color=BLACK, linewidth=0.9, gid="calibration")


def in_columns(beats: np.ndarray, leads: Sequence[str]) -> list[list[tuple[str, np.ndarray]]]:
    """(M, L, T) as rows of four panels, the leads running down the columns."""
    if beats.ndim != 3 or beats.shape[1] != len(leads):
        raise ValueError(
            f"Expected beats of shape (M, {len(leads)}, T) or ({len(leads)}, T) for the leads "
            f"{tuple(leads)}. Received: {beats.shape}."
        )
    rows = -(-len(leads) // 4)
    return [
        [(leads[lead], beats[:, lead]) for lead in range(row, len(leads), rows)]
        for row in range(rows)
    ]


def lay_out(rows: Sequence[Sequence[Sheet]], footer: float = FOOTER) -> tuple[Figure, list[Axes]]:
    """A figure at true scale with one axes per sheet: rows of sheets, one above the other."""
    width = max(sum(sheet.width + 2 for sheet in row) for row in rows)
    heights = [max(sheet.height for sheet in row) for row in rows]
    height = sum(HEADER + part + footer for part in heights)
    figure = Figure(figsize=(width * MM, height * MM), facecolor="white")
    papers, top = [], height
    for row, part in zip(rows, heights, strict=True):
        left, top = 1.0, top - HEADER
        for sheet in row:
            box = (left, top - sheet.height, sheet.width, sheet.height)
            papers.append(figure.add_axes(np.divide(box, (width, height, width, height))))
            left += sheet.width + 2
        top -= part + footer
    return figure, papers


def heading(paper: Axes, title: str, labels: Iterable[str], colors: Iterable) -> None:
    """A title on the left and a legend on the right, above the paper; a long one below it."""
    written = paper.set_title(title, loc="left", fontsize=10)
    labels = list(labels)
    if not labels:
        return
    lines = [
        Line2D([], [], color=color, linewidth=2, label=label)
        for label, color in zip(labels, cycled(colors, len(labels)), strict=True)
    ]
    style = {"handles": lines, "ncols": len(lines), "frameon": False, "borderaxespad": 0.2}
    style |= {"handlelength": 1.2, "columnspacing": 1.0}
    above = paper.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, **style)
    place = above.get_window_extent()
    if place.x0 < written.get_window_extent().x1:
        width = paper.get_xlim()[1]  # mm
        room = paper.get_window_extent().width * (1 - SCALE / width)
        size = 9 * min(1, room / place.width)
        paper.legend(loc="upper right", bbox_to_anchor=(1, 0), fontsize=size, **style)


def cycled(colors: Iterable, count: int) -> list:
    """The first colours, from the start again where there are too few."""
    return list(islice(cycle(colors), count))


def _whole_squares(mm: float) -> float:
    """Rounded up to whole 5 mm squares."""
    return 5 * np.ceil(mm / 5 - 1e-9)
