"""What a trained model is judged by: one module per question."""

from __future__ import annotations

__all__ = ["evaluate"]


def __getattr__(name: str) -> object:
    """`evaluate`, which needs TensorFlow, when it is asked for: pages and figures need none."""
    if name == "evaluate":
        from evaluation.judge import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
