"""TensorFlow's start: faster, and without the notes that it writes for its own developers."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Written by C++ before it reads the level: notes, and complaints about what is registered twice.
_NOTE = re.compile(rb"(WARNING: All log messages before absl|[IWE]0000 |To enable the following)")


def import_keras() -> None:
    """Imports Keras and its backend. What is no such note, and all if it fails, is still shown.

    Whoever sets TF_CPP_MIN_LOG_LEVEL sees what it lets through.
    """
    if "keras" in sys.modules:
        return
    if LEVEL in os.environ:
        _import()
        return
    os.environ[LEVEL] = "3"
    with _held_back():
        _import()


def _import() -> None:
    """Without searches for garbage: 2 s, with those at the end; see `benchmarks.start`."""
    searches = gc.isenabled()
    gc.disable()
    try:
        import keras  # noqa: F401
    finally:
        if searches:
            gc.enable()
    gc.freeze()  # later searches leave out what there is now


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Standard error, that of C++ too, goes to a file and then on without the notes."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        screen, notes = os.dup(2), _NOTE
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            notes = None
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            file.seek(0)
            for line in file:
                if notes is None or not notes.match(line):
                    os.write(2, line)
