"""What is said of ECGs that are not recorded ones in mV: simulated, not real; in another unit."""

from __future__ import annotations

import re
from collections.abc import Iterable

from matplotlib.figure import Figure
from matplotlib.text import Text

from data.units import UNITS

_REAL = re.compile(r'("data:[^"]*")|\b(R|r)eal\b')  # pictures within a page stay as they are


def not_real(text: str) -> str:
    """A text about a simulated cohort: "simulated" in place of "real"."""
    return _REAL.sub(lambda found: found[1] or ("Simulated", "simulated")[found[2] == "r"], text)


def in_unit(page: str, unit: str) -> str:
    """A page that is written for ECGs in mV, for those in another unit of `data.units`."""
    texts = re.split(r'("data:[^"]*")', page)  # pictures, at odd places, stay as they are
    texts[::2] = map(UNITS[unit].words, texts[::2])
    return "".join(texts)


def call_simulated(figures: Iterable[Figure]) -> None:
    """The same in every text of figures."""
    for figure in figures:
        for text in figure.findobj(Text):
            text.set_text(not_real(text.get_text()))
