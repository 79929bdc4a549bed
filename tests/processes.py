"""Processes that begin without the seconds in which TensorFlow is imported.

Each is forked from one that has imported it, and done nothing else: no tensor, no thread, no module
of the project. Where Python cannot fork (Windows), each imports it for itself.
"""

import gc
import multiprocessing
import os
import sys
from pathlib import Path

_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
_CONTEXT.set_forkserver_preload(
    ["tensorflow", "keras", "pandas", "scipy.stats", "matplotlib.pyplot", "lifelines", "h5py"]
)


def begin(folder, function, *arguments):
    """Starts a function of a module in a process with `folder` as its working directory.

    Returns a `multiprocessing.Process`: it can be waited for (`join`), killed (`kill`), and has an
    `exitcode`. What it prints, be it from C++, is added to `log.txt` of the folder.
    """
    process = _CONTEXT.Process(target=_run, args=(str(folder), function, arguments))
    process.start()
    return process


def finish(folder, function, *arguments, timeout=600):
    """Runs a function in a process to its end; returns what it printed."""
    process = begin(folder, function, *arguments)
    process.join(timeout)
    log = (Path(folder) / "log.txt").read_text("utf-8")
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(log)
    assert process.exitcode == 0, log
    return log


def _run(folder, function, arguments):
    gc.freeze()  # what was imported stays, and needs not be looked through
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    function(*arguments)
