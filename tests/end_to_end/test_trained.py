"""The models that come with the project."""

import shutil

import numpy as np
import pytest

from evaluation import generate
from evaluation.measures.features import measure
from tests.places import ROOT
from training import run_folder
from training.run_folder import RunError, find_run
from vae import VAE

FOLDERS = sorted(path.parent for path in (ROOT / "trained").glob("*/parameters.json"))


def test_there_is_one_of_real_ecgs():
    assert [folder.name for folder in FOLDERS] == ["ptbxl"]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_it_generates_the_beats_that_are_kept_beside_it(folder):
    kept = np.load(folder / "generated.npz")["ecg"]
    found = VAE.load(folder).generate(n=4, seed=0, age=63, sex="female", bmi=31)
    np.testing.assert_allclose(found, kept, atol=1e-3)  # mV; processors round in their own ways


def test_its_beats_are_ecgs(folder):
    vae = VAE.load(folder)
    ecg = vae.generate(n=300, seed=1, age=np.linspace(30, 85, 300), sex="male")
    features = measure(ecg)
    assert features["failed"].mean() < 0.03
    assert features["p_duration"].isna().mean() < 0.2  # 10% of real ones, many in fibrillation
    assert features["p_duration"].median() == pytest.approx(105, abs=15)
    assert features["qrs_duration"].median() == pytest.approx(92, abs=10)
    assert features["pr_interval"].median() == pytest.approx(160, abs=20)
    axis = features["qrs_axis"].to_numpy()
    assert np.median(axis[:100]) > np.median(axis[-100:]) + 15  # turns left with age
    noise = vae.generate(2, noise=True) - vae.generate(2)
    assert 2 < 1000 * np.median(np.abs(noise)) < 40


def test_it_is_small_and_says_what_it_is(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    card = (folder / "CARD.md").read_text("utf-8")
    for part in ("CC BY 4.0", "10.1038/s41597-020-0495-6", "must not be used", "python train.py"):
        assert part in card


def test_its_name_is_enough_from_anywhere_and_a_run_comes_first(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run(folder.name) == folder
    out = tmp_path / "out"
    generate.main([folder.name, "--n", "2", "--format", "npz", "--out", str(out)])
    assert np.load(out / "ecg.npz")["ecg"].shape == (2, 12, 400)
    with pytest.raises(RunError, match=f"came with the code: .*{folder.name}"):
        find_run("nothing of that name")
    shutil.copytree(folder, tmp_path / run_folder.RUNS / folder.name / "model")
    assert find_run(folder.name) == run_folder.RUNS / folder.name
