"""Limits on what one file may cost: files from elsewhere are taken as hostile.

A file of a few kB can ask for hours or for all the memory of a machine. Both limits are those of
the operating system; where it has none (Windows), the size of the file is the only one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.readers.kept import UNREADABLE
from data.strips import BeatError

MAX_BYTES = 64 * 2**20  # of a file; ten minutes of 12 leads at 2 kHz have 29 MB
SECONDS = 30  # of the processor, to read one; the slowest of the formats needs 0.1
# By the clock, for what waits instead of working: a busy machine is no fault of the file.
PATIENCE = 600
MEMORY = 2**30  # bytes beyond what the process had


class _TooLong(BaseException):
    """After how many seconds; no `Exception`: libraries would take it for a damaged file."""


@contextmanager
def bounded() -> Iterator[None]:
    """Ends what takes longer than `SECONDS` or `PATIENCE`, or more than `MEMORY`.

    Raises:
        BeatError: it did.
    """
    try:
        with _memory_limit(MEMORY), _time_limit():
            yield
    except _TooLong as error:
        raise BeatError(f"{UNREADABLE} within {error.args[0]:g} s") from error
    except MemoryError as error:
        raise BeatError(f"{UNREADABLE} within {MEMORY / 2**30:g} GB of memory") from error


@contextmanager
def _time_limit() -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not (main and hasattr(signal, "setitimer")):
        yield
        return
    limits = {
        signal.SIGPROF: (signal.ITIMER_PROF, SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE),
    }

    begun = time.thread_time()

    def stop(number: int, _: object) -> None:
        left = begun + SECONDS - time.thread_time()  # the timer counts other threads, too
        if number == signal.SIGPROF and left > 0:
            signal.setitimer(signal.ITIMER_PROF, left)
        else:
            raise _TooLong(limits[number][1])

    before = {number: signal.signal(number, stop) for number in limits}
    for timer, seconds in limits.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in limits.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _memory_limit(memory: int) -> Iterator[None]:
    usage = Path("/proc/self/statm")
    try:
        import resource

        pages = int(usage.read_text().split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError):
        yield
        return
    wanted = pages * resource.getpagesize() + memory
    tighter = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *tighter]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
