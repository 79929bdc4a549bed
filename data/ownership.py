"""One owner at a time of a folder that is written to.

The operating system holds the lock, and lets go of it when the process ends, however that ends: no
kill leaves a folder locked. The file that is locked lies beside the folder, which may be replaced
as a whole, and says who has it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
BEYOND = 2**30  # byte that Windows locks: what it locks nobody else can read


class InUseError(RuntimeError):
    """A folder that another process has. The message names it."""


@contextlib.contextmanager
def owned(folder: str | Path, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Has a folder to itself for as long as the block lasts.

    Where the file system knows no locks, or the lock cannot be written, a line says so.

    Args:
        folder: it need not be there.
        wait: for its owner to end, and say so, instead of raising.
        shared: among others who only read it (not on Windows, where this does nothing).

    Raises:
        InUseError: another process has it.
    """
    folder = Path(folder)
    file = folder.resolve().with_name(f".{folder.resolve().name}.lock")
    if shared and fcntl is None:
        yield
        return
    new = not file.parent.exists()
    try:
        opened = _taken(file, folder, wait, shared)
    except OSError as error:
        if not shared:
            print(f"{folder} cannot be locked ({error}): let no other process write there.")
        yield
        return
    try:
        yield
    finally:
        _release(file, opened)
        if new:
            with contextlib.suppress(OSError):  # not empty
                file.parent.rmdir()


def _taken(file: Path, folder: Path, wait: bool, shared: bool) -> TextIO:
    """The lock file, open and locked."""
    told = False
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = file.open("a+", encoding="utf-8")
        except PermissionError:
            if not file.exists():
                raise
            # Of another user; to lock it, it need not be written.
            opened = file.open(encoding="utf-8")
        try:
            taken = _lock(opened, shared)
            if taken and _still_there(file, opened) and not opened.writable():
                return opened
            if taken and _still_there(file, opened):
                opened.truncate(0)
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                opened.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}")
                opened.flush()
                return opened
            opened.seek(0)
            owner = opened.read(1000).strip() or "another process"
        except BaseException:
            opened.close()
            raise
        opened.close()  # and with it the lock of a file that its owner has just removed
        if taken:
            continue
        if not wait:
            raise InUseError(f"{folder} is in use by {owner}. Wait for its end, or choose another.")
        if not told:
            print(f"{folder} is in use by {owner}. Waiting for its end.", flush=True)
            told = True
        time.sleep(0.2)


def _lock(opened: TextIO, shared: bool = False) -> bool:
    """Whether the file could be locked.

    Raises:
        OSError: the file system knows no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            os.lseek(opened.fileno(), BEYOND, os.SEEK_SET)
            msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


def _still_there(file: Path, opened: TextIO) -> bool:
    """Whether the file that is locked is the one that others find by its name."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(opened.fileno()))
    except FileNotFoundError:
        return False


def _release(file: Path, opened: TextIO) -> None:
    with contextlib.suppress(OSError):
        if fcntl is not None and _lock(opened) and _still_there(file, opened):
            file.unlink()  # by its only holder: others may share it
    opened.close()
    if fcntl is None:
        with contextlib.suppress(OSError):  # another process may have it open
            file.unlink()
