"""What the amplitudes of ECGs are in, and what that is called wherever one stands."""

from __future__ import annotations

import re
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit of amplitude.

    Attributes:
        name: in files and settings.
        amplitude: as it stands behind a number or at an axis.
        thousandth: the same of what is a thousandth of it, as metrics called `..._uv` are.
        mv: mV of one, by which limits in mV and the scale of ECG paper are carried over. No
            amplitude is.
    """

    name: str
    amplitude: str
    thousandth: str
    mv: float

    def words(self, text: str) -> str:
        """A text that is written for mV, in this unit."""
        if self.name == MV:
            return text
        return re.sub(r"\b[uµ]V\b", self.thousandth, re.sub(r"\bmV\b", self.amplitude, text))

    def small(self, amplitude: float) -> str:
        """A small amplitude in a line that has little room."""
        return f"{1000 * amplitude:.0f} uV" if self.name == MV else f"{amplitude:.3f} units"

    def scale(self, gain: float) -> str:
        """What paper of a gain in mm/mV says of its scale; its pulse is as high as 1 mV."""
        if self.name == MV:
            return f"{gain:g} mm/mV, pulse 1 mV"
        return f"{gain * self.mv:g} mm per standardised unit, pulse {1 / self.mv:g} units"


MV = "mV"
STANDARDISED = "standardised"
# A standardised ECG was divided by the standard deviation of all samples of a data set, which is
# not published. Of 350 ECGs of PTB-XL it is 0.23 mV; with 0.2, 10 mm/mV are 2 mm per unit.
UNITS = {
    MV: Unit(MV, "mV", "µV", 1.0),
    STANDARDISED: Unit(STANDARDISED, "standardised units", "thousandths of a unit", 0.2),
}
