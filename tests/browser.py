"""Opens a page in headless Chromium, and gives back what a script in it finds out."""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = (  # and nothing of this user's, or from elsewhere
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)} is installed"
)


def run_in(page, script, folder):
    """What `script` returns, plain values, run at the end of a page; its own script has run then.

    The script is the body of an asynchronous function.
    """
    end = (
        "<script>(async () => {" + script + "})()"
        ".catch((error) => ({ error: `${error.stack}` }))"
        ".then((found) => { const result = document.createElement('pre');"
        " result.id = 'found'; result.textContent = JSON.stringify(found ?? null);"
        " document.body.append(result); });</script></body>"
    )
    # Nothing is shown, so that no frame would come.
    frames = (
        "<script>window.requestAnimationFrame = (draw) =>"
        " setTimeout(() => draw(performance.now()), 16);</script>"
    )
    path = folder / "tested.html"
    path.write_text(
        page.replace("<head>", f"<head>{frames}", 1).replace("</body>", end), encoding="utf-8"
    )
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as profile:
        shown = subprocess.run(
            [
                *(CHROMIUM, *QUIET, f"--user-data-dir={profile}"),
                *("--window-size=1300,900", "--virtual-time-budget=10000"),
                *("--dump-dom", path.as_uri()),
            ],
            env={**os.environ, "HOME": profile},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        ).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    assert found, f"the page did not finish: {shown[-2000:]}"
    result = json.loads(html.unescape(found[1]))
    assert not (isinstance(result, dict) and "error" in result), result["error"]
    return result
