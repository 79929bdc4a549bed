"""Code in a Python of its own: what a user's first import or `--help` costs and prints."""

import os
import subprocess
import sys

from tests.places import ROOT


def run_fresh(code, folder, timeout=120):
    """Runs a text of code in a new process with `folder` as its working directory."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
