"""The table of faults in `tests/mutations.py` does not rot; trying them takes half an hour."""

import pytest

from tests.mutations import MUTATIONS, mutated
from tests.places import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.new.strip()[:50])
def test_a_fault_can_still_be_put_in_and_is_still_python(mutation):
    compile(mutated(mutation), mutation.file, "exec")
    assert mutation.old != mutation.new
    assert (ROOT / "tests" / mutation.tests).is_file()
