"""What a training step is given: batches.

Dims: B batch, L leads, T samples, C encoded conditions.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from data.rows import Rows
from model.augment import draw
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

    With augmentation, (B, 7) numbers follow the conditions: what is done to each ECG.

    `model.cox.batch_rows` deals the rows, so that with rare events each batch has one if possible.
    The rows that do not fill a last batch are left out, others in each epoch.

    Args:
        samples: N subjects; of a memory map or `Rows` only the rows of a batch are read.
        batch_size: B, or N if there are fewer.
        seed: of shuffling and augmentation.
        augmentation: strength of `model.augment.draw`.
        shuffle: False for validation: in order, with the incomplete last batch.
        resident: hand out the numbers (B,) of the rows for the ECGs, which the model has at hand
            (see `hold`).
        first: of these numbers.
        share: (number, of how many) parts of the rows of each batch that are handed out.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        seed: int = 0,
        augmentation: float = 0.0,
        shuffle: bool = True,
        resident: bool = False,
        first: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.samples = samples
        self.batch_size = min(batch_size, len(samples.ecg))
        self.seed, self.augmentation, self.shuffle = seed, augmentation, shuffle
        self.resident, self.first, self.share = resident, first, share
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
        ours = _part(rows.shape[-1], self.share)
        rows = rows[..., ours]
        if self.resident:
            ecg = (rows + self.first).astype(np.int32)
        else:
            ecg = np.asarray(self.samples.ecg[rows], dtype=np.float32)
        inputs = (ecg, self.samples.conditions[rows])
        if self.augmentation:
            drawn = [self._drawn(number) for number in np.atleast_1d(index)]
            inputs += (np.reshape([one[ours] for one in drawn], (*rows.shape, -1)),)
        target = self.samples.target
        return (inputs,) if target is None else (inputs, target[rows])

    def _drawn(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.epoch, number])
        return draw(len(self.rows[number]), self.augmentation, rng)


def _part(rows: int, share: tuple[int, int]) -> slice:
    number, parts = share
    return slice(number * rows // parts, (number + 1) * rows // parts)


def hold(model: VAE, *parts: np.ndarray | Rows) -> bool:
    """Puts ECGs, one part behind the other, where the model is, if that is a GPU with room.

    A step is then sent nothing but row numbers. On a CPU a batch is copied either way.
    """
    in_memory = all(isinstance(ecg, np.ndarray) for ecg in parts)
    fits = in_memory and sum(ecg.nbytes for ecg in parts) <= RESIDENT
    on_gpu = not keras.distribution.list_devices()[0].startswith("cpu")
    if not (fits and on_gpu):
        return False
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    model.resident = keras.ops.convert_to_tensor(whole, "float32")
    return True


class Filled(keras.utils.PyDataset):
    """The same batches, with rows of weight 0 up to a multiple of some number, as JAX needs it.

    Of each, the part `share` is handed out.
    """

    def __init__(self, batches: Batches, multiple: int, share: tuple[int, int] = (0, 1)) -> None:
        super().__init__()
        self.batches, self.multiple, self.share = batches, multiple, share

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int | np.ndarray) -> tuple:
        """A batch; of numbers (K,) of batches that are equally long, their stack (K, B, ...)."""
        if np.ndim(index):
            return _stacked([self[number] for number in index])
        inputs, target = (*self.batches[index], None)[:2]
        rows = np.arange(-(-len(inputs[0]) // self.multiple) * self.multiple)
        weight = (rows < len(inputs[0])).astype(np.float32)
        ours = _part(len(rows), self.share)
        rows, weight = np.minimum(rows, len(inputs[0]) - 1)[ours], weight[ours]
        inputs = tuple(part[rows] for part in inputs)
        return inputs, None if target is None else target[rows], weight


def _stacked(batches: list[tuple]) -> tuple:
    inputs, targets, weights = zip(*batches, strict=True)
    inputs = tuple(np.stack(part) for part in zip(*inputs, strict=True))
    return inputs, None if targets[0] is None else np.stack(targets), np.stack(weights)
