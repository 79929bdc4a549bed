"""A judgement with fewer of all that is drawn at random: every section and figure, sooner."""

from functools import partial
from pathlib import Path

from PIL import Image

from evaluation.figures.ecg import save
from evaluation.measures.realism import realism_metrics


def judge_sparingly(patch, rendered=()):
    """For tests of what becomes of the numbers, not of what they are. `patch` undoes it.

    All figures are drawn, but only those named in `rendered` become pictures.
    """

    def save_some(figure, path):
        if Path(path).stem in rendered:
            save(figure, path)
        else:
            Image.new("L", (1, 1)).save(path)

    patch.setattr("evaluation.judge.GENERATED", 60)  # of thousands
    patch.setattr("evaluation.judge.realism_metrics", partial(realism_metrics, draws=4))
    patch.setattr("evaluation.measures.adherence.HALVINGS", 2)
    patch.setattr("evaluation.measures.two_samples.SWAPS", 19)
    patch.setattr("evaluation.report.page.save", save_some)
