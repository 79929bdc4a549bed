"""Whether two processes train one model: under JAX, on this machine, over the loopback address.

    pip install jax
    python -m benchmarks.processes

Each process holds the model and is fed its half of every batch; Keras joins the gradients. Prints
the history of one process alone and of two that share its batches. This is the route that Keras 3
has past one machine: under TensorFlow's `MultiWorkerMirroredStrategy` its `fit` ends in an error
(Keras 3.15, TensorFlow 2.21). `docs/devices.md` says how `train.py` does it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

os.environ["KERAS_BACKEND"] = "jax"

BATCH, STEPS, EPOCHS = 32, 6, 3


def train(rank: int, processes: int, address: str) -> dict:
    """Trains in this process as one of several; returns the history."""
    import jax

    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    import keras
    import numpy as np

    if processes > 1:
        keras.distribution.initialize(address, processes, rank)
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
    from benchmarks.common import ARCHITECTURE, schema_for
    from data.synthetic import simulate
    from vae import VAE

    cohort = simulate(BATCH * STEPS, 0)
    schema = schema_for(cohort.subjects)
    conditions = schema.encode(cohort.subjects)

    class Share(keras.utils.PyDataset):
        """This process's rows of each batch."""

        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> tuple:
            rows = np.arange(index * BATCH, (index + 1) * BATCH)
            rows = np.array_split(rows, processes)[rank]
            return ((cohort.ecg[rows], conditions[rows]),)

    model = VAE(*ARCHITECTURE, schema.dim, schema=schema, linear_path=False)
    model.scale.assign(0.2)  # mV
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    return model.fit(Share(), epochs=EPOCHS, shuffle=False, verbose=0).history


def run(processes: int) -> list[dict]:
    """Starts so many processes; returns the history that each one saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.processes"]
    started = [
        subprocess.Popen([*command, str(rank), str(processes), address], stdout=subprocess.PIPE)
        for rank in range(processes)
    ]
    return [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]


def main() -> None:
    if len(sys.argv) == 4:
        print(json.dumps(train(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
        return
    [alone], shared = run(1), run(2)
    for name in ("loss", "kl", "rmse_uv"):
        print(f"{name:8} one process {alone[name]}")
        for rank, history in enumerate(shared):
            print(f"{name:8} process {rank} of 2 {history[name]}")


if __name__ == "__main__":
    main()
