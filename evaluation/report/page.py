"""One self-contained page about a run, for a reader who was not there.

`template.html` lays out what is gathered here: the summary of `findings.py`, the tables of
`tables.py`, and figures with the captions of `reading.py`. Metrics and figures that those do not
know are shown all the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from tqdm import tqdm

from data.units import MV
from evaluation.figures.ecg import save
from evaluation.figures.wording import in_unit, not_real
from evaluation.report.findings import FINDINGS
from evaluation.report.reading import OF_MV, SECTIONS, place
from evaluation.report.tables import Cell, Row, Table, grid_tables, is_missing, key_tables, text
from training.run_folder import write_text

EXPLORER = "explorer.html"  # the page of `evaluation.explorer`, which this one links to
MOST = 12  # sentences in the summary
FEWEST_GOOD = 3  # of them on what works, however much falls short
PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters["text"] = text


@dataclass
class Run:
    """What a run folder holds; empty where a file is missing."""

    name: str
    finished: datetime | None
    config: dict
    environment: dict
    metrics: dict[str, dict]
    history: pd.DataFrame
    figures: list[Path]
    explorer: bool

    @property
    def simulated(self) -> bool:
        """Whether it is judged on simulated ECGs."""
        begun = self.environment.get("data", {}).get("source", "")
        source = self.metrics.get("data", {}).get("tested_on", begun)
        own = self.config.get("data", {}).get("source") == "synthetic"
        return own or str(source).startswith("simulated by")

    @property
    def unit(self) -> str:
        """Of the ECGs."""
        return self.metrics.get("data", {}).get("unit", MV)

    @property
    def known(self) -> dict[str, dict]:
        """The metrics without those that came out as NaN or null."""
        return {
            name: {key: value for key, value in section.items() if not is_missing(value)}
            for name, section in self.metrics.items()
        }


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` from the files of a run folder.

    Reads `config.json`, `environment.json`, `metrics.json`, `history.csv` and `figures/*.png`, as
    far as they are there. The page embeds its images and refers to nothing outside itself but
    `explorer.html` beside it, if that is there.

    Args:
        folder: of the run.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder holds nothing to report.
        ValueError: a file cannot be read; the message names it.
    """
    folder = Path(folder)
    run = _read(folder)
    known = run.known
    training = known.get("training", {})
    external = "trained_on" in known.get("data", {})  # the test ECGs are of another cohort
    if external:
        known.get("adherence", {}).pop("slopes_gain_train", None)
    findings = [one for section, find in FINDINGS for one in find(known.get(section, {}))]
    bad = [one for one in findings if one.short][: MOST - FEWEST_GOOD]
    good = [one for one in findings if not one.short][: MOST - len(bad)]
    page = PAGES.get_template("template.html").render(
        run=run,
        took="" if external or "seconds" not in training else _duration(training["seconds"]),
        device=training.get("device", ""),
        findings={"What works": good, "Where it falls short": bad},
        sections=_sections(run),
    )
    if run.simulated:
        page = not_real(page)
    page = in_unit(page.replace(OF_MV, ""), run.unit) if run.unit != MV else page
    path = folder / "report.html"
    write_text(path, page)
    return path


def _read(folder: Path) -> Run:
    metrics, history = folder / "metrics.json", folder / "history.csv"
    figures = sorted((folder / "figures").glob("*.png"))
    if not (metrics.is_file() or history.is_file() or figures):
        raise FileNotFoundError(
            f"{folder} holds neither metrics.json nor history.csv nor figures/*.png: is it the "
            "folder of a run?"
        )
    finished = datetime.fromtimestamp(metrics.stat().st_mtime) if metrics.is_file() else None
    try:
        epochs = pd.read_csv(history) if history.is_file() else pd.DataFrame()
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{history} is no table of epochs ({error}).") from error
    sections = {
        name: section if isinstance(section, dict) else {name: section}
        for name, section in _json(metrics).items()
    }
    config, environment = (_json(folder / f"{name}.json") for name in ("config", "environment"))
    explorer = (folder / EXPLORER).is_file()
    name = folder.resolve().name
    return Run(name, finished, config, environment, sections, epochs, figures, explorer)


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {path} to hold named sections. Received: {type(content)}.")
    return content


class Picture(NamedTuple):
    """A figure of the run."""

    name: str
    caption: str | None  # None: the figure says its name itself
    png: str  # in base64


class Section(NamedTuple):
    """A part of the page: its tables, figures, and tables below these."""

    name: str
    tables: Sequence[Table]
    figures: Sequence[Picture] = ()
    more: Sequence[Table] = ()

    @property
    def title(self) -> str:
        """Its heading."""
        words = self.name.replace("_", " ")
        return words[:1].upper() + words[1:]

    @property
    def anchor(self) -> str:
        """An id without spaces or markup."""
        return "section-" + "".join(each if each.isalnum() else "-" for each in self.name)


def _sections(run: Run) -> list[Section]:
    """Known ones in their order, unknown ones, figures that belong to none, and the settings."""
    there = [name for name, metrics in run.metrics.items() if metrics]
    there += [place(path.stem)[0] for path in run.figures]
    there += [] if run.history.empty else ["training"]
    other = [name for name in dict.fromkeys(there) if name not in (*SECTIONS, "other figures")]
    sections = []
    for name in (*SECTIONS, *other, "other figures"):
        if name in there:
            metrics = run.metrics.get(name, {})
            tables = [*key_tables(metrics), *grid_tables(metrics, shown=True)]
            tables += _last_epoch(run) if name == "training" else []
            more = grid_tables(metrics, shown=False)
            sections.append(Section(name, tables, _pictures(run, name), more))
    if run.config:
        sections.append(Section("configuration", _configuration(run)))
    if run.environment:
        made = Table(["what it was made with", ""], _rows(run.environment))
        sections.append(Section("environment", [made]))
    return sections


def _last_epoch(run: Run) -> list[Table]:
    if run.history.empty:
        return []
    last = run.history.iloc[-1].to_dict()
    rows = [
        Row(name, [Cell(last.get(name)), Cell(last.get(f"val_{name}"))])
        for name in dict.fromkeys(column.removeprefix("val_") for column in last)
    ]
    return [Table(["", "training", "validation"], rows, title="The last epoch", folded=True)]


def _pictures(run: Run, section: str) -> list[Picture]:
    chosen = [path for path in run.figures if place(path.stem)[0] == section]
    return [
        Picture(
            path.stem.replace("_", " "),
            place(path.stem)[2],
            base64.b64encode(path.read_bytes()).decode("ascii"),
        )
        for path in sorted(chosen, key=lambda path: (place(path.stem)[1], path.stem))
    ]


def _configuration(run: Run) -> list[Table]:
    groups = {name: fields for name, fields in run.config.items() if isinstance(fields, dict)}
    alone = {name: value for name, value in run.config.items() if name not in groups}
    tables = [Table(["setting", "value"], _rows(alone))] if alone else []
    return tables + [
        Table([name, "value"], _rows(fields), title=name, folded=True)
        for name, fields in groups.items()
    ]


def _rows(values: Mapping[str, object]) -> list[Row]:
    return [Row(name, [Cell(value)]) for name, value in values.items()]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def write_results(
    folder: Path,
    metrics: dict,
    figures: Mapping[str, Figure],
    write_page: Callable[[Path], object] = str,
) -> None:
    """Writes figures, metrics, the explorer and, last, `report.html`: then a run is finished.

    Args:
        folder: of the run.
        metrics: sections.
        figures: by name.
        write_page: writes `explorer.html` into the folder; by default there is none.
    """
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in tqdm(figures.items(), "Drawing", unit="figure", disable=None):
        save(figure, folder / "figures" / f"{name}.png")
    # NaN is no JSON: a number that cannot be had is null.
    plain = {
        section: {name: None if value != value else value for name, value in values.items()}
        for section, values in metrics.items()
    }
    write_text(folder / "metrics.json", json.dumps(plain, indent=2, allow_nan=False) + "\n")
    write_page(folder)
    write_report(folder)
