"""Two processes share the tests, file by file; the longest begin, so that none ends alone."""

import os

# TensorFlow would start as many threads in each of them as there are cores, and they would wait for
# one another. Before it is imported, and for the processes that tests start, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    # Not those between operations: two devices wait for each other there, for ever if there is one.
    for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(_name, "1")


def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: "end_to_end" not in item.path.parts and item.path.stem != "test_devices"
    )
