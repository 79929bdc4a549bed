"""Two processes share the tests, file by file; the longest begin, so that none ends alone."""

import gc
import os

# TensorFlow would start as many threads in each of them as there are cores, and they would wait for
# one another. Before it is imported, and for the processes that tests start, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    # Not those between operations: two devices wait for each other there.
    for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(_name, "1")

# What is imported stays: the collector of garbage needs not look through it again and again, which
# took a tenth of the time.
gc.disable()

# Beside those of end_to_end, of which two are short.
LONG = ("test_devices", "test_fit", "test_vae_prediction", "test_vae", "test_user_keras")


def pytest_collection_modifyitems(items):
    def rank(item):
        if "end_to_end" in item.path.parts:
            return 0
        return 1 + LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG) + 1

    items.sort(key=rank)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
