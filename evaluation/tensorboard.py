"""What TensorBoard shows of a training: the curves, the KL of each latent, reconstructions.

    python train.py --training.tensorboard True
    tensorboard --logdir runs/default/tensorboard

Dims: N recordings, Z latent.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from config import ConfigError
from data.rows import even_rows
from evaluation.figures.ecg import plot_reconstructions
from evaluation.measures.latent import kl_per_dimension
from training.batches import Samples

EVERY = 5  # epochs
RECORDINGS = 500  # of the validation split, for the KL
EXAMPLES = 3  # of these are drawn
DPI = 80


def boards(folder: Path, validation: Samples) -> list[keras.callbacks.Callback]:
    """The callbacks that write to a folder while a model is trained.

    Args:
        folder: for TensorBoard's files; an interrupted training goes on in it.
        validation: of which KL and reconstructions are; some of its real ECGs are in the pictures.

    Raises:
        ConfigError: TensorBoard, or TensorFlow which writes its files, is not installed.
    """
    needed = ("tensorboard", "tensorflow")  # JAX does without the latter
    lacking = " ".join(name for name in needed if importlib.util.find_spec(name) is None)
    if lacking:
        raise ConfigError(f"training.tensorboard: expected the package. pip install {lacking}.")
    # Loss, metrics and learning rate of each epoch.
    curves = keras.callbacks.TensorBoard(str(folder), write_graph=False)
    return [curves, Latents(folder / "latent", validation)]


class Latents(keras.callbacks.Callback):
    """Writes the KL of each latent, and ECGs under their reconstructions, each `EVERY` epochs.

    Args:
        folder: for the files.
        samples: N recordings.
    """

    def __init__(self, folder: Path, samples: Samples) -> None:
        super().__init__()
        rows = even_rows(len(samples.ecg), RECORDINGS)
        self.folder, self.ecg = folder, np.asarray(samples.ecg[rows])
        self.conditions = samples.conditions[rows]

    def on_epoch_end(self, epoch, logs=None):
        """See the class."""
        if (epoch + 1) % EVERY and epoch:
            return
        import tensorflow as tf

        mean, log_var = self.model.encode(self.ecg, self.conditions)
        kl = kl_per_dimension(mean, log_var).mean(axis=0)  # (Z,)
        figure = plot_reconstructions(
            self.ecg[:EXAMPLES],
            self.model.decode(mean[:EXAMPLES], self.conditions[:EXAMPLES]),
            leads=self.model.leads,
            sampling_rate=self.model.settings["sampling_rate"],
            unit=self.model.unit,
        )
        # Opened and closed each time: killed afterwards, nothing of it is lost.
        writer = tf.summary.create_file_writer(str(self.folder))
        with writer.as_default(step=epoch):
            for z, value in enumerate(kl):
                tf.summary.scalar(f"kl/z{z}", value)
            tf.summary.histogram("kl", kl)
            tf.summary.image("reconstructions", pixels(figure)[None])
        writer.close()


def pixels(figure: Figure) -> np.ndarray:
    """A figure as (height, width, 4) bytes."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())
