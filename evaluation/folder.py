"""Reads a folder of recordings and says what is in it, without training.

    python -m evaluation.folder FOLDER                                  writes recordings.html
    python -m evaluation.folder FOLDER --out page.html --data.beats stored
    python -m evaluation.folder FOLDER --out OUT                        writes OUT/recordings.html
    python -m evaluation.folder FOLDER --data.source ptbxl              any other source

The page has counts by format and by reason, distributions of conditions and heart rate, twelve
beats, duplicates, and conflicts between files and table. What is prepared is kept in the cache:
train.py with the same --data settings reads no file again. --list prints which files were left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

if __name__ == "__main__" and not __package__:  # as a file, python FOLDER/evaluation/...
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from config import CONDITIONS, PRESETS, DataConfig
from data import check_settings, load_cohort
from data.units import UNITS
from training.command_line import explained, fail, read_settings

PROGRAM = "python -m evaluation.folder"
IN = {"heart_rate": "per minute", "beat_noise_uv": "µV", "height": "cm", "weight": "kg"}


@dataclass(frozen=True)
class Settings:
    """What is read, and where the page goes."""

    out: Path = Path("recordings.html")
    """The page, or a folder for it: then it is called recordings.html."""
    list: bool = False
    """Print each file that is left out, with its reason and its name in the cohort."""
    data: DataConfig = field(default_factory=lambda: PRESETS["recordings"].data)


def look(settings: Settings) -> Path:
    """Reads the recordings and writes the page.

    Returns:
        The page.

    Raises:
        CohortError: there is nothing that can be read.
    """
    from data.readers.recordings import read_folder
    from evaluation.report.recordings import write_page

    data, file_of = settings.data, {}
    check_settings(data)
    conflicts = pd.DataFrame()
    if data.source == "recordings":
        kept = data.recordings, data.keep_ids
        found = read_folder(data.path, data.cache, data.beats, *kept, data.workers or None)
        cohort, conflicts, file_of = found
    else:
        cohort = load_cohort(data)
    if settings.list:
        for one in cohort.excluded.itertuples():
            print(f"{one.subject_id}  {file_of.get(one.subject_id, '')}  {one.reason}")
    units = IN | {name: one.unit for name, one in CONDITIONS.items() if one.unit}
    units = {name: UNITS[cohort.unit].words(unit) for name, unit in units.items()}
    out = settings.out
    if out.is_dir() or not (out.is_file() or out.suffix.lower() in (".html", ".htm")):
        out /= "recordings.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, cohort, conflicts, units)
    return out


# --- the command line -----------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> Settings:
    """Command line -> settings. A mistake ends in SystemExit(2)."""
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and not {"-h", "--help"} & set(arguments):
        fail(PROGRAM, "expected a folder first. See --help.")
    default = Settings()
    if named:
        default = replace(default, data=replace(default.data, path=Path(arguments[0])))
    rest = list(arguments[named:])
    return read_settings(Settings, rest, f"{PROGRAM} FOLDER", __doc__, default)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    with explained(PROGRAM, "interrupted. The same command goes on where it stopped."):
        print(f"Written: {look(parse(arguments))}")


if __name__ == "__main__":
    main(sys.argv[1:])
