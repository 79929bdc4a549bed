"""What a trained model is judged by: one module per question, arrays in, numbers and figures out."""

from evaluation.judge import evaluate

__all__ = ["evaluate"]
