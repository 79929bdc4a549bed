"""Run folders: opened, found, compared with what they were begun with, written whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from config import Config, ConfigError, from_dict, to_dict
from data import Cohort
from training.provenance import describe

RUNS = Path("runs")
TRAINED = Path(__file__).resolve().parent.parent / "trained"  # models that come with the code
ELSEWHERE = "Choose another --run NAME, or --overwrite to replace it."


class RunError(RuntimeError):
    """A run folder that holds something else than this run may continue."""


def open_run(config: Config, overwrite: bool = False) -> Path:
    """The folder of a run that may start or go on, with `config.json` in it.

    Raises:
        RunError: it is finished, or was begun with other settings.
    """
    folder, old = RUNS / config.run, _overwritten(RUNS / config.run)
    settings = json.loads(json.dumps(to_dict(config)))
    if old.exists():
        _settle(folder)
    if overwrite and (folder / "config.json").is_file():
        # Away as a whole: half a run would block its own name. `record` deletes it.
        folder.rename(old)
    if (folder / "config.json").is_file():
        changed = differences(_settings_in(folder / "config.json"), settings)
        if changed:
            raise RunError(f"{folder} has other settings: {'; '.join(changed)}. {ELSEWHERE}")
        if (folder / "report.html").is_file():
            # Still there if the run was killed at its very end.
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            raise RunError(f"{folder} is finished. {ELSEWHERE}")
    elif folder.exists() and any(path.suffix != ".partial" for path in folder.iterdir()):
        raise RunError(f"{folder} holds something else than a run. Choose another --run NAME.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(settings, indent=2) + "\n")
    return folder


@contextlib.contextmanager
def begun_by(folder: Path) -> Iterator[None]:
    """Takes `config.json` away if settings or data are refused inside before more was kept.

    The run has not begun: with the setting that was missing, the same name is free. A run that it
    was to overwrite is there again. Likewise if the user interrupts it.
    """
    try:
        yield
    except BaseException:
        if _not_begun(folder):
            shutil.rmtree(folder)
            if _overwritten(folder).exists():
                _overwritten(folder).rename(folder)
        raise


def _not_begun(folder: Path) -> bool:
    """Whether a folder holds settings at most, not what the run is made of."""
    # Half a file is what a full disk, or a kill, left of the first that is written.
    files = folder.iterdir()
    return all(path.name == "config.json" or path.suffix == ".partial" for path in files)


def _settle(folder: Path) -> None:
    """Of a run and the one that it was to overwrite when it was killed, keeps what has results."""
    if folder.exists() and not _not_begun(folder):
        shutil.rmtree(_overwritten(folder))
        return
    shutil.rmtree(folder, ignore_errors=True)
    _overwritten(folder).rename(folder)


def _overwritten(folder: Path) -> Path:
    """Where a run is kept until the one that overwrites it has begun."""
    return folder.with_name(f".{folder.name}.overwritten")


def find_run(name: str | Path) -> Path:
    """A run or model folder by its path, a run by its name, or a model that comes with the code.

    Raises:
        RunError: there is none.
    """
    kept = ("config.json", "parameters.json", "model/parameters.json")
    for folder in (Path(name), RUNS / name, TRAINED / name):
        if any((folder / file).is_file() for file in kept):
            return folder
    there = sorted(path.parent.name for path in RUNS.glob("*/config.json"))
    shipped = sorted(path.parent.name for path in TRAINED.glob("*/parameters.json"))
    raise RunError(
        f"{name} is neither a run nor a model folder. "
        + (f"Runs in {RUNS}: {', '.join(there)}." if there else f"There is no run in {RUNS} yet.")
        + (f" Trained models that came with the code: {', '.join(shipped)}." if shipped else "")
    )


def _settings_in(file: Path) -> dict:
    """Settings of a run; one that the version which wrote them did not know has its default."""
    found = _read_json(file)
    try:
        return json.loads(json.dumps(to_dict(from_dict(Config, found))))
    except ConfigError:
        return found  # what does not fit is then told as a difference


def _read_json(file: Path) -> dict:
    """What a run wrote about itself."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged ({error}). {ELSEWHERE}") from error
    if not isinstance(found, dict):
        raise RunError(f"{file} does not describe a run. {ELSEWHERE}")
    return found


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """Fields of two nested configurations that differ, as `section.field: old -> new`."""
    found = []
    for name in {**old, **new}:
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before!r} -> {after!r}")
    return found


def record(folder: Path, cohort: Cohort, warm_start: Path | None = None) -> None:
    """Writes what the run is made of to `environment.json`, or compares it with what is there.

    Deletes the run that this one overwrites.

    Args:
        folder: of the run.
        cohort: what it is trained on.
        warm_start: run or model that it starts from.

    Raises:
        RunError: the run was begun with other data, or from another model.
    """
    file = folder / "environment.json"
    begun = _read_json(file) if file.is_file() else {}
    now = describe(cohort, begun.get("columns"))
    if warm_start is not None:
        now["data"]["warm_start"] = _mark_of(warm_start)
    if file.is_file():
        changed = differences(begun.get("data", {}), now["data"], "data.")
        if changed:
            raise RunError(f"{folder} was begun with other data: {'; '.join(changed)}. {ELSEWHERE}")
        for difference in differences(begun, now):
            print(f"Other than when the run began, so its numbers may differ: {difference}")
        return  # what it was begun with
    write_text(file, json.dumps(now, indent=2) + "\n")
    shutil.rmtree(_overwritten(folder), ignore_errors=True)


def _mark_of(folder: Path) -> str:
    """Sha256 of what describes a model: its settings, conditions, prior, checksum of weights."""
    places = (folder / "parameters.json", folder / "model" / "parameters.json")
    return hashlib.sha256(next(p for p in places if p.is_file()).read_bytes()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
