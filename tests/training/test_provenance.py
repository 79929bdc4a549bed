"""Tests of what a run records about itself."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from config import PRESETS
from data import load_cohort
from data.cohort import Cohort
from training import provenance


def cohort():
    return load_cohort(replace(PRESETS["quick"].data, subjects=30))


def test_the_description_is_plain_json_and_names_versions_device_and_data():
    described = provenance.describe(cohort())
    assert json.loads(json.dumps(described)) == described
    assert described["packages"]["numpy"] == np.__version__
    assert described["data"]["recordings"] == 30
    assert "cpu" in described["device"].lower() or "gpu" in described["device"].lower()


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    one = cohort()
    mark = provenance.fingerprint(one)
    assert provenance.fingerprint(cohort()) == mark
    one.save(tmp_path / "cohort")
    opened = Cohort.open(tmp_path / "cohort")
    again = Cohort.open(tmp_path / "cohort")
    assert provenance.fingerprint(opened) == provenance.fingerprint(again)


def test_a_column_that_is_added_later_is_no_change_but_one_that_goes_is():
    one = cohort()
    begun = provenance.describe(one)
    one.subjects["remark"] = "x"
    assert provenance.fingerprint(one) != begun["data"]["fingerprint"]
    assert provenance.describe(one, begun["columns"]) == begun
    one.subjects = one.subjects.drop(columns="bmi")
    assert provenance.describe(one, begun["columns"]) != begun


def change_ecg(one):
    one.ecg[29, 11, 399] += 1e-3


def change_age(one):
    one.subjects.loc[29, "age"] += 1


def change_rate(one):
    one.sampling_rate = 250.0


def change_order(one):
    one.ecg[[0, 1]] = one.ecg[[1, 0]]


@pytest.mark.parametrize("change", [change_ecg, change_age, change_rate, change_order])
def test_any_change_of_the_data_changes_the_fingerprint(change, monkeypatch):
    monkeypatch.setattr(provenance, "CHUNK", 7)
    one = cohort()
    before = provenance.fingerprint(one)
    change(one)
    assert provenance.fingerprint(one) != before


def test_the_commit_is_that_of_git_and_says_if_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "training" / "provenance.py"))
    assert provenance.commit() is None

    def git(*arguments):
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    assert provenance.commit() == git("rev-parse", "HEAD")
    (tmp_path / "code.py").write_text("2")
    assert provenance.commit() == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr(
        provenance, "__file__", str(tmp_path / "inner" / "training" / "provenance.py")
    )
    assert provenance.commit() is None  # part of another project's checkout
