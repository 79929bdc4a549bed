"""Where the project lies, and beside it the real recordings that some tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
WINGS = ("data", "model", "training", "evaluation")


def code_files():
    """The Python files that the project is made of, without tests and benchmarks."""
    return sorted([*ROOT.glob("*.py"), *(p for wing in WINGS for p in (ROOT / wing).rglob("*.py"))])
