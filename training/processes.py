"""Several processes that train one model, with JAX: each is fed its share of every batch.

The variables of `keras.distribution.initialize` say which they are, for each process:
KERAS_DISTRIBUTION_JOB_ADDRESSES (host:port of process 0), KERAS_DISTRIBUTION_NUM_PROCESSES and
KERAS_DISTRIBUTION_PROCESS_ID. Process 0 writes the run; the others write nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from config import ConfigError

PREFIX = "KERAS_DISTRIBUTION_"
PATIENCE = 60  # seconds until a process that does not come, or does not answer, is given up
# How XLA, Gloo and JAX's coordinator begin when another process has gone.
_LOST = re.compile(
    r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|coordination|heartbeat|Connection", re.I
)


class ProcessError(RuntimeError):
    """Another process of the run that does not come, has gone, or trains on something else."""


def number() -> int:
    """How many processes train together."""
    return _whole("NUM_PROCESSES", 1)


def rank() -> int:
    """Number (0, 1, ...) of this process."""
    return _whole("PROCESS_ID", 0) if number() > 1 else 0


def _whole(name: str, default: int) -> int:
    text = os.environ.get(PREFIX + name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{PREFIX}{name}: expected a whole number. Received: {text!r}.")
    return int(text)


def join() -> None:
    """Waits until all processes are there. Before anything is computed.

    Raises:
        ConfigError: the variables do not fit, or the backend is not JAX.
        ProcessError: another process did not come.
    """
    if number() == 1:
        return
    import keras

    if keras.backend.backend() != "jax":
        raise ConfigError(f"{PREFIX}NUM_PROCESSES: expected KERAS_BACKEND=jax, or one process.")
    address = os.environ.get(f"{PREFIX}JOB_ADDRESSES", "").split(",")[0]
    if not re.fullmatch(r".+:\d+", address) or rank() >= number():
        raise ConfigError(
            f"{PREFIX}JOB_ADDRESSES: expected host:port of process 0, and {PREFIX}PROCESS_ID "
            f"below {number()}. Received: {address!r} and {rank()}."
        )
    import jax

    if jax.config.jax_platforms == "cpu":
        # Here Gloo tells that a process has gone. On GPUs nothing else than JAX does, and ends us.
        jax.config.update("jax_enable_recoverability", True)
    if rank():
        _await_first(address)
    else:
        print(f"Up to {PATIENCE} s for all {number()} processes at {address}.", flush=True)
    with connected():
        jax.distributed.initialize(
            address,
            number(),
            rank(),
            initialization_timeout=PATIENCE,
            heartbeat_timeout_seconds=PATIENCE,
        )


def _await_first(address: str) -> None:
    """Until process 0 listens: JAX would abort without a word that helps."""
    end = time.monotonic() + PATIENCE
    host, port = address.rsplit(":", 1)
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ProcessError(f"process 0 is not at {address}: {error}.") from error
            time.sleep(0.2)


def leave() -> None:
    """Ends what binds the processes; each goes on alone."""
    if number() == 1:
        return
    import jax
    from jax.experimental.multihost_utils import sync_global_devices

    sync_global_devices("trained")
    if rank() or not jax.config.jax_enable_recoverability:  # the first, whom the others call, last
        jax.distributed.shutdown()


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """What is computed together. If another process goes, one line says so.

    Raises:
        ProcessError: it went.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if number() == 1 or not _LOST.search(str(error)):
            raise
        atexit.register(_end)  # before JAX's own, which would wait for who has gone, and abort
        first = str(error).splitlines()[0][:200]
        raise ProcessError(
            f"process {rank()} of {number()} lost another one ({first}). Start them all again: "
            "they go on after the last finished epoch."
        ) from error


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def check_alike(given: str) -> None:
    """Raises ProcessError unless process 0 was given the same."""
    mine = hashlib.sha256(given.encode()).digest()
    if told(mine) != mine:
        atexit.register(_end)  # before JAX's own, which would wait for process 0
        raise ProcessError(
            f"process {rank()} of {number()} has other settings or data than process 0. Start all "
            "with the same settings, and the same data beside each."
        )


def told(content: bytes) -> bytes:
    """What process 0 has, in all of them."""
    if number() == 1:
        return content
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.int32(len(content))))
    mine = np.zeros(size, np.uint8) if rank() else np.frombuffer(content, np.uint8)
    return np.asarray(broadcast_one_to_all(mine), np.uint8).tobytes()


def on_this(model, build: Callable):
    """The model on this process alone, when training has ended; itself if it always was."""
    if number() == 1:
        return model
    import keras

    weights = model.get_weights()
    leave()
    keras.distribution.set_distribution(None)
    alone = build()
    alone.schema, alone.prior = model.schema, model.prior
    alone.set_weights(weights)
    return alone


def quietly() -> contextlib.AbstractContextManager:
    """Where a process prints nothing, unless it is the first."""
    if rank() == 0:
        return contextlib.nullcontext()
    return contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
