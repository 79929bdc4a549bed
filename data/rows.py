"""Rows of an array on disk, read from its file when they are asked for.

A memory map gives them too, but what it has touched counts as memory of the process until the
system wants it back: one pass over 9.6 GB of ECGs looks like 9.6 GB in use, and batch systems stop
a job for that. To read a batch of 64 beats from the system's cache takes 0.5 ms, 0.35 ms more than
through the map, where a training step takes 11 ms or more.

Dims: N rows, of any shape.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CHUNK = 4096  # rows that a pass over an array holds at a time: 79 MB of ECGs
# Bytes of a selection that is copied rather than read anew at each use: 26,000 ECGs.
IN_MEMORY = 2**29
ALIGNMENT = 64  # bytes: TensorFlow takes an array that starts at a multiple as it is


def even_rows(n: int, most: int) -> np.ndarray:
    """An even selection of at most `most` of N rows, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))


class Rows:
    """Some rows of a plain array in a file; a selection of them copies nothing but their numbers.

    It has what the code asks of an array: `shape`, `dtype`, `ndim`, `len`, indices along the first
    axis (which read), `np.asarray`. Threads and processes may share it.

    Args:
        path: of the file.
        offset: bytes before the first row.
        shape: (N, ...) of the array there.
        dtype: of the array there.

    Raises:
        OSError: while reading: the file is gone, cut short or another one than at the start.
    """

    def __init__(
        self, path: str | Path, offset: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.path, self.offset, self.dtype = Path(path), offset, np.dtype(dtype)
        self._row_shape = tuple(shape[1:])
        self._row_bytes = int(np.prod(self._row_shape)) * self.dtype.itemsize
        self._numbers = np.arange(shape[0], dtype=np.int64)
        self._file = _identity(os.stat(path))

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return (len(self), *self._row_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the rows if all were read."""
        return len(self) * self._row_bytes

    def take(self, rows: np.ndarray) -> Rows:
        """These rows, in this order, not read yet."""
        part = object.__new__(Rows)
        part.__dict__ |= self.__dict__ | {"_numbers": self._numbers[rows]}
        return part

    def __getitem__(self, key) -> np.ndarray:
        """Reads rows: any index of one axis, as NumPy understands it."""
        if isinstance(key, tuple):  # of which NumPy would take an Ellipsis for the first axis
            raise IndexError("Rows on disk take one index. Read them first: ecg[rows][:, 0].")
        numbers = np.asarray(self._numbers[key])
        size = numbers.size * self._row_bytes
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        found = memory[start : start + size]
        if size:
            self._read(numbers.ravel(), memoryview(found))
        return found.view(self.dtype).reshape(*numbers.shape, *self._row_shape)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("Rows on disk cannot become an array without a copy.")
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, numbers: np.ndarray, target: memoryview) -> None:
        """Fills the bytes of `target` with these rows."""
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)  # of runs, read in one go
        stops = np.append(starts[1:], len(numbers))
        places = self.offset + numbers[starts] * self._row_bytes
        order = np.argsort(places)  # a disk likes one direction
        first, last = starts[order] * self._row_bytes, stops[order] * self._row_bytes
        runs = list(zip(places[order].tolist(), first.tolist(), last.tolist(), strict=True))
        # Opened anew each time (20 us): nothing is left open, and threads share no position.
        with self.path.open("rb", buffering=0) as file:
            if _identity(os.fstat(file.fileno())) != self._file:
                raise OSError(f"{self.path} was replaced or changed while it was in use.")
            if hasattr(os, "posix_fadvise"):
                # All are asked for at once. A batch of 64 that no cache holds then takes 4 ms on a
                # disk that answers after 1 to 3 ms, instead of 60 to 180 ms one after the other.
                for place, start, stop in runs:
                    os.posix_fadvise(file.fileno(), place, stop - start, os.POSIX_FADV_WILLNEED)
            for place, start, stop in runs:
                file.seek(place)
                left = target[start:stop]
                while left:
                    count = file.readinto(left)
                    if not count:
                        raise OSError(f"{self.path} ends early: it was cut short.")
                    left = left[count:]


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    """What another file, or a file that was written to, does not share."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def stored(array: np.ndarray | Rows) -> np.ndarray | Rows:
    """A read-only memory map as `Rows` of its file; anything else as it is."""
    mapped = isinstance(array, np.memmap) and array.mode == "r" and array.filename is not None
    if not mapped or array.ndim == 0 or array.size == 0 or not array.flags.c_contiguous:
        return array
    whole = array
    while isinstance(whole.base, np.memmap):  # `array` may be a part of what was mapped
        whole = whole.base
    offset = whole.offset + array.ctypes.data - whole.ctypes.data
    try:
        rows = Rows(array.filename, offset, array.shape, array.dtype)
        # The map keeps a file alive that was replaced since; by its name another one is found.
        same = all(rows[end].tobytes() == array[end].tobytes() for end in (0, -1))
    except OSError:
        return array
    return rows if same else array


def select(
    array: np.ndarray | Rows, rows: np.ndarray, most: int | None = None
) -> np.ndarray | Rows:
    """Rows of an array, a copy; of a memory map more than `most` bytes stay on disk."""
    array = stored(array)
    if not isinstance(array, Rows):
        return array[rows]
    part = array.take(rows)
    return part if part.nbytes > (IN_MEMORY if most is None else most) else part[:]


def chunks(array: np.ndarray | Rows, size: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """A pass over an array of any size: number of the first row, and the rows, of each chunk."""
    array, size = stored(array), size or CHUNK
    for start in range(0, len(array), size):
        yield start, np.asarray(array[start : start + size])


def first_not_finite(array: np.ndarray | Rows) -> int | None:
    """Number of the first row that holds NaN or infinity; None if there is none."""
    for start, part in chunks(array):
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            return start + int(finite.argmin())
    return None


def write_array(path: Path, shape: tuple[int, ...], parts: Iterator[np.ndarray]) -> None:
    """Writes float32 rows as an `.npy` file, part by part: the bytes of `np.save` of the whole."""
    with path.open("wb") as file:
        header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=np.float32))
