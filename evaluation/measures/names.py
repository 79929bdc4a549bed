"""How the names of metrics are made up, and what is read back out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from data.cohort import LEADS
from evaluation.measures.features import FEATURES

ENDS = ("_low", "_high")  # of an interval
FEATURE = "|".join(FEATURES)  # a pattern of their names


def is_end(name: str, section: Mapping[str, object]) -> bool:
    """Whether this is one end of another metric's interval."""
    return any(name.endswith(end) and name.removesuffix(end) in section for end in ENDS)


def interval(name: str, section: Mapping[str, object]) -> tuple[object, object] | None:
    """The ends of a metric's interval; None where one is missing."""
    low, high = (section.get(f"{name}{end}") for end in ENDS)
    return None if low is None or high is None else (low, high)


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
        if match := re.fullmatch(rf"{kind}_(.+)_({FEATURE})", name):
            found.setdefault(match[1], []).append(match[2])
    return found


def not_recovered(section: Mapping[str, object], slope: str) -> bool:
    """Whether the interval of generated less real leaves out 0."""
    ends = interval(f"{slope}_difference", section)
    return ends is not None and bool(ends[0] > 0 or ends[1] < 0)
