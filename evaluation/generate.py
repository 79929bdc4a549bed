"""Generates ECGs from the shell, as files that other programs read.

    python -m evaluation.generate RUN --n 100 --age 63 --sex female --format wfdb --out FOLDER

A model makes one median beat (800 ms), so a file holds one beat, not a strip: the interval to the
next beat is nothing that the model knows. `subjects.csv` lists what was written, a row per ECG: its
conditions, the seed and the model.

Dims: N ECGs, L leads, T samples.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd

if __name__ == "__main__" and not __package__:  # as a file, python FOLDER/evaluation/...
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.cohort import CohortError
from data.conditions import Condition, ConditionError, ConditionSchema
from data.export import ExportError, write_csv, write_npz, write_wfdb
from data.outcomes import read_csv
from data.ownership import owned
from training.command_line import explained, fail
from training.quiet import import_keras
from training.run_folder import find_run

PROGRAM = "python -m evaluation.generate"
FORMATS = ("wfdb", "csv", "npz", "png")
SUFFIXES = {"wfdb": (".dat", ".hea"), "csv": (".csv",), "png": (".png",)}
TABLE, ARRAYS = "subjects.csv", "ecg.npz"
OWN_FILE = re.compile(r"ecg_\d{6,}\.(hea|dat|csv|png)")
OWN_COLUMNS = {"subject_id", "file", "seed", "model"}  # of the table, beside the conditions


def generate_files(
    run: str | Path,
    out: str | Path,
    conditions: Mapping[str, object] | pd.DataFrame | None = None,
    n: int | None = None,
    seed: int = 0,
    format: str = "wfdb",
    overwrite: bool = False,
    noise: bool = False,
) -> Path:
    """Writes generated ECGs, the same as `VAE.generate` gives for this n, seed and conditions.

    Args:
        run: a run or model folder, or the name of a run.
        out: folder to write to.
        conditions: by name, scalars or N values, or a table. One left out is unknown to the model.
        n: N; by default the length of the conditions given as columns, or 1.
        seed: of the latents.
        format: "wfdb" (`ecg_000001.hea` and `.dat`), "csv", "png" (on ECG paper), each a file per
            ECG, or "npz" (`ecg.npz`, all in one).
        overwrite: replace what was generated into this folder before.
        noise: add observation noise, as `VAE.generate` does: ECGs as a machine records them.

    Returns:
        `subjects.csv` in that folder. It is written row by row, each after its ECG.

    Raises:
        RunError, ModelError: there is no such model.
        ConditionError: an unknown name or value.
        InUseError: another process is writing there.
        ExportError: files are in the way, or the format cannot hold an ECG.

    Warns:
        UserWarning: a value lies outside the plausible range of its condition.
    """
    import_keras()
    from vae import VAE

    if format not in FORMATS:
        raise ExportError(f"Expected a format among {FORMATS}. Received: {format!r}.")
    if n is not None and n < 1:
        raise ExportError(f"Expected n of 1 or more. Received: {n}.")
    folder, out = find_run(run), Path(out)
    model = VAE.load(folder)
    if model.schema is None and model.condition_dim:
        raise ConditionError(
            f"{folder} holds a model whose {model.condition_dim} encoded conditions have no names: "
            "here they cannot be given. In Python: model.decode(model.prior.sample(encoded, seed), "
            "encoded)."
        )
    if isinstance(conditions, pd.DataFrame) and n not in (None, len(conditions)):
        raise ExportError(f"The table of conditions has {len(conditions)} rows. Received: n={n}.")
    schema = model.schema or ConditionSchema([])
    conditions = {} if conditions is None else conditions
    encoded = schema.encode(conditions, n)
    n = len(encoded)
    subjects = pd.DataFrame({"subject_id": [f"ecg_{row:06d}" for row in range(1, n + 1)]})
    suffix = {"wfdb": ".hea"}.get(format, f".{format}")
    subjects["file"] = ARRAYS if format == "npz" else subjects["subject_id"] + suffix
    for name in schema.names:
        value = conditions.get(name)
        subjects[name] = value if np.ndim(value) == 0 else list(value) * (n // len(value))
    subjects["seed"] = seed
    subjects["model"] = _model_name(folder) + ", with observation noise" * noise
    chunks = model.decode_batches(model.prior.sample(encoded, seed), encoded)
    if noise:
        chunks = _sums(chunks, model.noise_batches(n, seed))
    out.mkdir(parents=True, exist_ok=True)
    with owned(out):
        _make_room(out, subjects, format, overwrite)
        (_write_arrays if format == "npz" else _write_each)(out, chunks, subjects, model, format)
    return out / TABLE


def _sums(chunks: Iterator[np.ndarray], noise: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """ECGs with noise, both in chunks, of different lengths."""
    rows = chain.from_iterable(noise)
    for chunk in chunks:
        yield chunk + np.stack(list(islice(rows, len(chunk)))).astype(np.float32)


def _model_name(folder: Path) -> str:
    """Name of the run; `model/` in it says nothing."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def _make_room(out: Path, subjects: pd.DataFrame, format: str, overwrite: bool) -> None:
    """Refuses to replace files, or removes what an earlier generation left."""
    suffixes = SUFFIXES.get(format, ())
    planned = {TABLE, *subjects["file"]}
    planned |= {name + suffix for name in subjects["subject_id"] for suffix in suffixes}
    there = sorted(planned & {path.name for path in out.iterdir()})
    if not there:
        return
    if not overwrite:
        more = f" and {len(there) - 1} more such files" if len(there) > 1 else ""
        raise ExportError(
            f"{out} holds {there[0]}{more} already. Choose another --out FOLDER, or --overwrite "
            "to replace what was generated there."
        )
    # Empty where a generation was killed before its first line.
    if (out / TABLE).is_file() and (out / TABLE).stat().st_size:
        old = pd.read_csv(out / TABLE, dtype=str)
        if not set(old) >= OWN_COLUMNS:
            raise ExportError(
                f"{out / TABLE} was not written by {PROGRAM}: it is not overwritten. Choose "
                "another --out FOLDER."
            )
        # A shorter list must not leave ECGs behind that it does not name. The table goes last: if
        # this is killed, the next try still knows them.
        # One was killed before the line of its last ECG.
        left = {path.name for path in out.iterdir() if OWN_FILE.fullmatch(path.name)}
        for name in left | {Path(file).name for file in old["file"].dropna()}:
            (out / name).unlink(missing_ok=True)
        (out / TABLE).unlink()


def _write_arrays(
    out: Path, chunks: Iterator[np.ndarray], subjects: pd.DataFrame, model, format: str
) -> None:
    """All ECGs in one file, then the table."""
    columns = {}
    for condition in model.schema.conditions if model.schema else ():
        if condition.kind == "continuous":
            columns[condition.name] = pd.to_numeric(subjects[condition.name]).to_numpy(np.float64)
        else:
            columns[condition.name] = subjects[condition.name].fillna("").to_numpy(str)
    shape = (len(subjects), *model.ecg_shape)
    bar = _progress(len(subjects))
    with bar:
        write_npz(
            out / ARRAYS,
            _counted(chunks, bar),
            shape,
            model.leads,
            model.settings["sampling_rate"],
            columns,
            model.unit,
        )
    subjects.to_csv(out / TABLE, index=False)


def _counted(chunks: Iterator[np.ndarray], bar) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk))


def _write_each(
    out: Path, chunks: Iterator[np.ndarray], subjects: pd.DataFrame, model, format: str
) -> None:
    """One file per ECG, and after each its row of the table: what is listed is whole."""
    described = model.schema.conditions if model.schema else ()
    rate, unit, row = model.settings["sampling_rate"], model.unit, 0
    with (
        (out / TABLE).open("w", encoding="utf-8", newline="") as table,
        _progress(len(subjects)) as bar,
    ):
        subjects.iloc[:0].to_csv(table, index=False)
        for chunk in chunks:
            listed = subjects.iloc[row : row + len(chunk)]
            lines = listed.to_csv(index=False, header=False, lineterminator="\n").splitlines(True)
            for ecg, subject, line in zip(chunk, listed.to_dict("records"), lines, strict=True):
                told = [f"{one.name}: {one.in_words(subject[one.name])}" for one in described]
                name = subject["subject_id"]
                if format == "wfdb":
                    made = f"model: {subject['model']}, seed: {subject['seed']}, ECG {name}"
                    head = "synthetic: one beat generated by a model, of no patient"
                    write_wfdb(out, name, ecg, model.leads, rate, [head, made, *told], unit)
                elif format == "csv":
                    write_csv(out, name, ecg, model.leads, rate)
                else:
                    _draw(out / f"{name}.png", ecg, model, told)
                table.write(line)
                table.flush()
                bar.update()
            row += len(chunk)


def _draw(path: Path, ecg: np.ndarray, model, told: list[str]) -> None:
    from evaluation.figures.ecg import plot_ecg, save

    title = ", ".join(["Synthetic ECG", *(text.replace(": ", " ") for text in told)])
    recorded = {"sampling_rate": model.settings["sampling_rate"], "unit": model.unit}
    save(plot_ecg(ecg, title=title, leads=model.leads, **recorded), path)


def _progress(total: int):
    from tqdm import tqdm

    return tqdm(total=total, desc="Generating", unit="ECG", disable=None)  # on a terminal only


# --- the command line -----------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> tuple[Path, argparse.Namespace, dict[str, object]]:
    """Command line -> model folder, options, conditions. A mistake ends in SystemExit(2)."""
    named = bool(arguments) and not arguments[0].startswith("-")
    schema = read_schema(find_run(arguments[0])) if named else ConditionSchema([])
    parser = argparse.ArgumentParser(
        PROGRAM,
        f"{PROGRAM} RUN --out FOLDER [options] [conditions]",
        __doc__.replace("\n\nDims: N ECGs, L leads, T samples.", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = partial(fail, PROGRAM)
    parser.add_argument("run", metavar="RUN", help="run or model folder, or the name of a run")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    add("--n", type=int, help="number of ECGs (default: 1, or the rows of the table)")
    add("--seed", type=int, default=0, help="the same seed gives the same ECGs (default: 0)")
    add(
        "--format",
        choices=FORMATS,
        default="wfdb",
        help="wfdb: a record per ECG, format 16, steps of 1 uV; csv: a file per ECG, time_ms and a "
        "column in mV per lead; png: a file per ECG, on ECG paper; npz: all ECGs in one file, "
        "float32 in mV (default: wfdb); of a model in standardised units, these instead",
    )
    add("--conditions", type=Path, metavar="TABLE.csv", help="a row of conditions per ECG")
    add("--noise", action="store_true", help="add noise like that of recordings")
    add("--overwrite", action="store_true", help="replace what was generated there before")
    options = {action.dest for action in parser._actions}
    group = parser.add_argument_group(
        f"conditions of {arguments[0]}" if named else "conditions",
        "One value for all ECGs; --conditions gives each its own."
        if named
        else f"They come from the model: {PROGRAM} RUN --help lists them.",
    )
    flags = {}
    for condition in schema.conditions:
        flags[condition.name] = name = (
            f"condition_{condition.name}" if condition.name in options else condition.name
        )
        names = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        group.add_argument(*names, dest=name, **_option(condition, schema.encoding))
    if not named and not {"-h", "--help"} & set(arguments):
        parser.error("expected a run or model folder first. See --help.")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"argument --seed: expected 0 or more. Received: {options.seed}.")
    typed = {name: getattr(options, flag) for name, flag in flags.items()}
    typed = {name: value for name, value in typed.items() if value is not None}
    if options.conditions is not None:
        typed = read_table(options.conditions, schema, typed)
    return find_run(options.run), options, typed


def _option(condition: Condition, encoding: str) -> dict[str, object]:
    """How argparse reads a condition, and what the help says of it."""
    left_out = "needed" if encoding == "raw" else "unknown if left out"
    if condition.kind != "continuous":
        return {"choices": condition.categories, "help": left_out}
    limits = [f"{end:g}" for end in (condition.low, condition.high) if end is not None]
    parts = [condition.unit, " to ".join(limits) if len(limits) == 2 else "", left_out]
    text = ", ".join(part for part in parts if part)
    return {"type": float, "metavar": "NUMBER", "help": text.replace("%", "%%")}


def read_schema(folder: Path) -> ConditionSchema:
    """The conditions of a saved model, without loading it.

    Raises:
        ConditionError: no description of a model lies there.
    """
    file = folder / "parameters.json"
    file = file if file.is_file() else folder / "model" / "parameters.json"
    try:
        description = json.loads(file.read_text("utf-8"))["config"]["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConditionError(f"{folder} holds no model, or a damaged one: {error}.") from error
    return ConditionSchema([]) if description is None else ConditionSchema.from_dict(description)


def read_table(
    path: Path, schema: ConditionSchema, typed: Mapping[str, object]
) -> dict[str, object]:
    """Conditions from a table, one row per ECG, and those that were typed for all.

    Raises:
        ConditionError: no such table, none of its columns is a condition, one is but for capitals
            or spaces, or one is given twice.
    """
    texts = {one.name: str for one in schema.conditions if one.kind != "continuous"}
    try:
        table = read_csv(path, dtype=texts)
    except CohortError as error:
        raise ConditionError(f"--conditions: {error}") from error
    try:
        schema.refuse_lookalikes(table.columns)
    except ConditionError as error:
        raise ConditionError(f"--conditions {path}: {error}") from error
    columns = [name for name in schema.names if name in table]
    if not columns or table.empty:
        raise ConditionError(
            f"--conditions: expected rows and columns among {schema.names} in {path}. Received: "
            f"{len(table)} rows of {list(table.columns)}."
        )
    twice = [name for name in columns if name in typed]
    if twice:
        raise ConditionError(f"{twice[0]} is in {path} and on the command line. Give it once.")
    ignored = [name for name in table.columns if name not in columns]
    if ignored:
        print(f"Columns of {path} that are no conditions of the model: {', '.join(ignored)}.")
    return {**{name: table[name].tolist() for name in columns}, **typed}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    stopped = f"interrupted. What {TABLE} lists is written; --overwrite starts again."
    with explained(PROGRAM, stopped), warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"Warning: {message}", file=sys.stderr)
        run, options, conditions = parse(arguments)
        table = generate_files(
            run,
            options.out,
            conditions,
            options.n,
            options.seed,
            options.format,
            options.overwrite,
            options.noise,
        )
        n = len(pd.read_csv(table))
        print(f"{n} ECG{'s' * (n != 1)}, {options.format}: {table.parent}")


if __name__ == "__main__":
    main(sys.argv[1:])
