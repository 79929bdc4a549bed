"""What the ECGs of a simulated cohort are called: simulated, not real."""

from __future__ import annotations

import re
from collections.abc import Iterable

from matplotlib.figure import Figure
from matplotlib.text import Text

_REAL = re.compile(r'("data:[^"]*")|\b(R|r)eal\b')  # pictures within a page stay as they are


def not_real(text: str) -> str:
    """A text about a simulated cohort: "simulated" in place of "real"."""
    return _REAL.sub(lambda found: found[1] or ("Simulated", "simulated")[found[2] == "r"], text)


def call_simulated(figures: Iterable[Figure]) -> None:
    """The same in every text of figures."""
    for figure in figures:
        for text in figure.findobj(Text):
            text.set_text(not_real(text.get_text()))
