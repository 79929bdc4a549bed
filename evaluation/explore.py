"""Writes a model as a page in which its ECGs change as conditions and latents are moved.

    python -m evaluation.explore                 the model that comes with the code, trained/ptbxl
    python -m evaluation.explore RUN             a run, a model folder, or the name of one

A run has such a page already, `explorer.html` beside its report; this makes it anew. The page is
one file that loads nothing: it runs the decoder itself. Of subjects it holds summary figures only,
unless --subjects N asks for reconstructions of test subjects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__" and not __package__:  # as a file, python FOLDER/evaluation/...
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.cohort import Split
from evaluation.again import other_fingerprint, own_data, read_config
from training.command_line import explained, fail
from training.quiet import import_keras
from training.run_folder import TRAINED, RunError, find_run

PROGRAM = "python -m evaluation.explore"
SHIPPED = "ptbxl"


def explore(
    run: str | Path = TRAINED / SHIPPED,
    out: str | Path | None = None,
    subjects: int = 0,
    own_path: Path | None = None,
) -> Path:
    """Writes `explorer.html` for a trained model.

    Args:
        run: a run or model folder, or the name of one.
        out: folder for the page; by default the run, or for a model without its run the folder in
            which the program runs.
        subjects: test subjects of the run whose reconstructions are in the page, which then holds
            data of real people.
        own_path: where the data that the run was trained on lie now, if they were moved.

    Returns:
        The page.

    Raises:
        RunError: the run is not there, or the data that subjects are asked from.
        CohortError, ConditionError, ModelError, ExplorerError: model and data do not fit.
    """
    import_keras()
    from evaluation.explorer.page import write_explorer
    from evaluation.explorer.reference import of_training
    from vae import VAE

    folder = find_run(run)
    if folder.name == "model" and (folder.parent / "config.json").is_file():
        folder = folder.parent
    is_run = (folder / "config.json").is_file()
    if subjects and not is_run:
        raise RunError(f"{folder} has no config.json, which says where its test subjects are.")
    if subjects < 0:
        raise RunError(f"--subjects: expected 0 or more. Received: {subjects}.")
    model, reference, people = VAE.load(folder), None, None
    if is_run:
        try:
            split = _split_of(folder, own_path)
        except RunError as error:
            if subjects:
                raise
            print(f"{error}\nThe page shows ranges of ECGs that the model generates instead.")
        else:
            reference = of_training(split.train)
            people = split.test.thinned(subjects) if subjects else None
    if out is None:
        out = folder if is_run else Path()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return write_explorer(out, model, folder.resolve().name, reference, people)


def _split_of(run: Path, own_path: Path | None) -> Split:
    """The subjects of a run.

    Raises:
        RunError: they are not there, or are others by now.
    """
    cohort, split, _ = own_data(run, read_config(run), own_path)
    changed = other_fingerprint(run, cohort)
    if changed:
        raise RunError(f"The data are not those that {run} was trained on: {'; '.join(changed)}.")
    return split


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = partial(fail, PROGRAM)
    add = parser.add_argument
    add("run", nargs="?", default=TRAINED / SHIPPED, metavar="RUN")
    add("--out", type=Path, metavar="FOLDER", help="where the page goes (default: the run)")
    add(
        "--subjects",
        type=int,
        default=0,
        metavar="N",
        help="add reconstructions of N test subjects: the file then holds data of real people",
    )
    add("--own-path", type=Path, metavar="FOLDER", help="where the data lie now, if moved")
    with explained(PROGRAM, "interrupted. An earlier page is as it was."):
        options = parser.parse_args(arguments)
        page = explore(**vars(options))
        print(
            f"{page.resolve().as_uri()} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
