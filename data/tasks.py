"""What a head on the latent space can be trained for, one line per task.

A line here is a task everywhere: `--model.task`, the loss of `VAEPrediction`, what the column of
targets must hold, the metrics and the report, which go by its kind. Nothing is imported that reads
the command line slowly: a loss is named, and made when a head is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Kind -> what the targets are, and the output of the head.
KINDS = {
    "survival": "time and event; a log hazard, trained on the Cox partial likelihood",
    "binary": "two classes; a logit",
    "multiclass": "several classes; a logit for each",
    "regression": "numbers, compared in units of their SD; a number",
}


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        kind: of `KINDS`.
        loss: of one subject: the name of a class in `keras.losses`, or a function of targets (B, 1)
            and output (B, 1 or K) that gives (B,). None for "survival", where subjects are
            compared with each other.
        arguments: of the class in `keras.losses`.
    """

    kind: str
    loss: str | Callable | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {tuple(KINDS)}. Received: {self.kind!r}.")
        if (self.loss is None) != (self.kind == "survival"):
            raise ValueError(f"loss: one, unless the kind is survival. Received: {self}.")


# To train on another loss, add a line, such as "huber": Task("regression", "Huber").
TASKS = {
    "cox": Task("survival"),
    "binary": Task("binary", "BinaryCrossentropy", {"from_logits": True}),
    "multiclass": Task("multiclass", "SparseCategoricalCrossentropy", {"from_logits": True}),
    "regression": Task("regression", "MeanSquaredError"),
}


def kind_of(task: str | None) -> str:
    """The kind of a task; "none" without a head."""
    return "none" if task in (None, "none") else TASKS[task].kind
