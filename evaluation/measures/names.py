"""How the names of metrics are made up, and what is read back out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from data.cohort import LEADS
from evaluation.measures.features import FEATURES

ENDS = ("_low", "_high")  # of an interval
_FEATURE = "|".join(FEATURES)


def feature_title(name: str) -> str:
    """A feature as a cardiologist writes it: "R in V5", "QRS axis"."""
    wave, _, lead = name.partition("_")
    for known in LEADS:
        if lead == known.lower():
            return f"{wave.upper()} in {known}"
    words = {"p": "P", "pr": "PR", "qrs": "QRS", "qt": "QT", "qtc": "QTc", "t": "T"}
    names = {"sokolow_lyon": "Sokolow-Lyon", "cornell": "Cornell", "qrs_t_angle": "QRS-T angle"}
    return names.get(name, " ".join(words.get(word, word) for word in name.split("_")))


def effects_in(section: Mapping[str, object], kind: str) -> dict[str, list[str]]:
    """Condition -> features of the metrics `<kind>_<condition>_<feature>` of a section."""
    found: dict[str, list[str]] = {}
    for name in section:
        if match := re.fullmatch(rf"{kind}_(.+)_({_FEATURE})", name):
            found.setdefault(match[1], []).append(match[2])
    return found


def not_recovered(section: Mapping[str, object], slope: str) -> bool:
    """Whether the interval of generated less real leaves out 0."""
    low, high = (section.get(f"{slope}_difference{end}") for end in ENDS)
    return low is not None and high is not None and bool(low > 0 or high < 0)
