"""What a training step is given: batches.

Dims: B batch, L leads, T samples, C encoded conditions.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from config import TrainingConfig
from data.augment import augment
from data.cohort import QRS_SAMPLE
from data.rows import Rows
from model.cox import batch_rows
from vae import VAE

RESIDENT = 2**33  # bytes of training ECGs at most that are kept on a GPU: 440,000 ECGs


class Samples(NamedTuple):
    """What a model is trained on: N subjects.

    Attributes:
        ecg: (N, L, T) mV, an array, a memory map or `Rows` on disk.
        conditions: (N, C), encoded.
        target: (N, 2) time and event for the task "cox", (N,) otherwise; None without a head.
    """

    ecg: np.ndarray | Rows
    conditions: np.ndarray
    target: np.ndarray | None = None

    @property
    def event(self) -> np.ndarray:
        """(N,) 1 where a subject has an event; all 0 where there is no such thing."""
        if self.target is None or self.target.ndim == 1:
            return np.zeros(len(self.ecg))
        return self.target[:, 1]


class Batches(keras.utils.PyDataset):
    """Shuffled batches (ECG (B, L, T), conditions (B, C)), target; a function of (seed, epoch).

    `model.cox.batch_rows` deals the rows, so that with rare events each batch has one if possible.
    The rows that do not fill a last batch are left out, others in each epoch.

    Args:
        samples: N subjects; of a memory map or `Rows` only the rows of a batch are read.
        batch_size: B, or N if there are fewer.
        seed: of shuffling and augmentation.
        augmentation: strength of `data.augment.augment`.
        shuffle: False for validation: in order, with the incomplete last batch.
        resident: hand out the numbers (B,) of the rows for the ECGs, which the model has at hand
            (see `hold`).
        qrs_sample: around which augmentation changes the timing.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        seed: int = 0,
        augmentation: float = 0.0,
        shuffle: bool = True,
        resident: bool = False,
        qrs_sample: int = QRS_SAMPLE,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.batch_size = min(batch_size, len(samples.ecg))
        self.seed, self.augmentation, self.shuffle = seed, augmentation, shuffle
        self.resident, self.qrs_sample = resident, qrs_sample
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Deals the rows of this epoch."""
        self.epoch = epoch
        n = len(self.samples.ecg)
        if self.shuffle:
            self.rows = batch_rows(self.samples.event, self.batch_size, self.seed, epoch)
        else:
            self.rows = np.split(np.arange(n), range(self.batch_size, n, self.batch_size))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | np.ndarray) -> tuple:
        """A batch; of numbers (K,) of batches that are equally long, their stack (K, B, ...)."""
        rows = self.rows[index]
        if self.resident:
            ecg = rows.astype(np.int32)
        else:
            ecg = np.asarray(self.samples.ecg[rows], dtype=np.float32)
        if self.augmentation:
            each = ecg.reshape(-1, *ecg.shape[-3:])
            for number, batch in zip(np.atleast_1d(index), each, strict=True):
                rng = np.random.default_rng([self.seed, self.epoch, number])
                batch[:] = augment(batch, self.augmentation, rng, self.qrs_sample)
        inputs = (ecg, self.samples.conditions[rows])
        target = self.samples.target
        return (inputs,) if target is None else (inputs, target[rows])


def hold(model: VAE, ecg: np.ndarray | Rows, settings: TrainingConfig) -> bool:
    """Puts training ECGs where the model is, if that is a GPU with room for them.

    A step is then sent nothing but row numbers. On a CPU a batch is copied either way.
    Augmentation changes ECGs before that.
    """
    fits = isinstance(ecg, np.ndarray) and ecg.nbytes <= RESIDENT and not settings.augmentation
    on_gpu = not keras.distribution.list_devices()[0].startswith("cpu")
    if not (fits and on_gpu):
        return False
    model.resident = keras.ops.convert_to_tensor(ecg, "float32")
    return True


class Filled(keras.utils.PyDataset):
    """The same batches, with rows of weight 0 up to a multiple of some number, as JAX needs it."""

    def __init__(self, batches: Batches, multiple: int) -> None:
        super().__init__()
        self.batches, self.multiple = batches, multiple

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple:
        inputs, target = (*self.batches[index], None)[:2]
        rows = np.arange(-(-len(inputs[0]) // self.multiple) * self.multiple)
        weight = (rows < len(inputs[0])).astype(np.float32)
        rows = np.minimum(rows, len(inputs[0]) - 1)
        inputs = tuple(part[rows] for part in inputs)
        return inputs, None if target is None else target[rows], weight
