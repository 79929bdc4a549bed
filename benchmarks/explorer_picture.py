"""Makes `docs/explorer.gif`: the explorer of the shipped model as age is moved.

    python -m benchmarks.explorer_picture

It needs Chromium, and the file stays below 500 kB.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

from evaluation.explore import explore
from tests.browser import CHROMIUM, QUIET
from tests.places import ROOT

WINDOW, WIDTH = (1280, 810), 900  # pixels, of the browser and of the picture
AGES = range(30, 86, 5)
SUBJECT = {"c.sex": "female", "c.bmi": "unknown", "person": 0}
MS = 160  # a frame; the first and the last stay longer


def main() -> None:
    """The command line."""
    out = ROOT / "docs" / "explorer.gif"
    with tempfile.TemporaryDirectory() as folder:
        page = explore(out=folder).as_uri()
        pinned = urlencode(SUBJECT | {"c.age": AGES[0]})
        frames = []
        for age in AGES:
            fragment = urlencode(SUBJECT | {"c.age": age, "speed": 50, "pin": pinned})
            shot = Path(folder) / "shot.png"
            command = [CHROMIUM, *QUIET, f"--user-data-dir={folder}/profile", "--hide-scrollbars"]
            command += [f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--screenshot={shot}"]
            command += ["--virtual-time-budget=2000", f"{page}#{fragment}"]
            subprocess.run(command, check=True, capture_output=True)
            height = WIDTH * WINDOW[1] // WINDOW[0]
            image = Image.open(shot).convert("RGB").resize((WIDTH, height), Image.LANCZOS)
            frames.append(image)
    # One palette, so that what stays is not told again.
    palette = frames[-1].quantize(96, dither=Image.Dither.NONE)
    frames = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in frames]
    there_and_back = [*frames, *frames[-2:0:-1]]
    times = [MS] * len(there_and_back)
    times[0] = times[len(frames) - 1] = 6 * MS
    there_and_back[0].save(
        out, save_all=True, append_images=there_and_back[1:], duration=times, loop=0, optimize=True
    )
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
