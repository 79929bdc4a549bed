"""What a trained model is judged by: one module per question."""

from evaluation.judge import evaluate

__all__ = ["evaluate"]
