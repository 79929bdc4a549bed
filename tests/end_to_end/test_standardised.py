"""ECGs whose millivolts are lost, from the archive to the report: no amplitude is called mV."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from data import Cohort, CohortError
from evaluation.again import judge_again
from evaluation.external import fitting
from evaluation.folder import look
from evaluation.folder import parse as parse_folder
from evaluation.generate import generate_files
from tests.eager import train_eagerly
from tests.echonext_files import SD, write_echonext
from tests.sparing import judge_sparingly
from train import parse, train
from vae import VAE, ModelError

SPLITS = ("train",) * 40 + ("val",) * 12 + ("test",) * 24
READ = [
    *("--data.source", "echonext", "--data.path", "echonext", "--data.split", "fold"),
    *("--data.conditions", "age", "sex", "lvef_lte_45", "--data.workers", "1"),
]
ARGUMENTS = [
    *("--model.conv-filters", "2", "2", "--model.hidden", "8", "--model.latent-space-dim", "3"),
    *("--training.epochs", "2", "--training.batch-size", "16", "--training.xla", "False"),
    *("--evaluation.bootstrap", "100", "--evaluation.generated", "20"),
    *("--evaluation.examples", "1"),
]
MILLIVOLTS = re.compile(r"\b[muµμ]V\b")
PICTURES = re.compile(r'"data:[^"]*"|<script.*?</script>', re.DOTALL)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A finished run, and the texts of its figures."""
    folder = tmp_path_factory.mktemp("standardised")
    texts = {}

    def note(figure, path):
        texts[Path(path).stem] = [text.get_text() for text in figure.findobj(Text)]
        Image.new("L", (1, 1)).save(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_echonext(folder / "echonext", SPLITS)
        train_eagerly(patch)
        judge_sparingly(patch)
        patch.setattr("evaluation.report.page.save", note)
        train(parse(["--run", "first", *READ, *ARGUMENTS])[0])
    return folder, texts


@pytest.fixture
def run(work, monkeypatch):
    monkeypatch.chdir(work[0])
    return work[0] / "runs" / "first"


def words_of(page):
    return PICTURES.sub("", page.read_text("utf-8"))


def test_no_page_speaks_of_millivolts(run):
    report, explorer = words_of(run / "report.html"), words_of(run / "explorer.html")
    assert MILLIVOLTS.findall(report + explorer) == []
    for said in ("thousandths of a unit", "(standardised units)", "EchoNext, standardised"):
        assert said in report
    assert "mean absolute error" in report
    assert "5-15" not in report  # the noise of median beats is known in uV only
    assert "in each lead, standardised units" in explorer
    described = re.search(r'id="model">(.*?)</script>', (run / "explorer.html").read_text("utf-8"))
    model = json.loads(described[1].replace("\\u003c", "<"))
    assert {one["unit"] for one in model["features"].values()} == {
        *("ms", "degrees", "standardised units")
    }
    assert model["amplitude"]["paper"] == "2 mm per standardised unit, pulse 5 units"


def test_no_figure_speaks_of_millivolts(work):
    _, texts = work
    assert {"reconstructions", "noise", "error_by_lead", "latent_traversal"} <= set(texts)
    assert {"sweep_age", "generated_grid"} <= set(texts)
    assert [t for found in texts.values() for t in found if MILLIVOLTS.search(t)] == []
    paper = "2 mm per standardised unit, pulse 5 units"
    for name in ("reconstructions", "latent_traversal", "sweep_age", "sweep_sex", "generated_grid"):
        assert any(text.endswith(paper) for text in texts[name]), name
    assert "standardised units" in texts["noise"]
    assert "mean absolute error (thousandths of a unit)" in texts["error_by_lead"]


def test_the_metrics_keep_their_names_and_hold_thousandths_of_a_unit(run):
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["data"]["unit"] == "standardised"
    model, cohort = VAE.load(run), cohort_of(run)
    test = cohort.split(by_fold=True).test
    error = 1000 * np.abs(model.reconstruct(test.ecg, test.subjects) - test.ecg).mean()
    assert metrics["reconstruction"]["mae_uv"] == pytest.approx(error, rel=1e-4)


def cohort_of(run):
    [folder] = [path.parent for path in (run.parents[1] / "cache").glob("*/cohort.json")]
    return Cohort.open(folder)


def test_the_model_is_in_the_unit_of_the_cohort(run):
    model = VAE.load(run)
    assert model.unit == "standardised"
    described = json.loads((run / "model" / "parameters.json").read_text("utf-8"))
    assert described["unit"] == described["config"]["unit"] == "standardised"
    with pytest.raises(ModelError, match="in standardised units, .*like another unit"):
        model.encode(1000 * np.asarray(cohort_of(run).ecg), cohort_of(run).subjects)


def test_a_cohort_in_millivolts_is_not_judged(run):
    cohort = cohort_of(run)
    in_mv = Cohort(SD * np.asarray(cohort.ecg), cohort.subjects, "others")
    with pytest.raises(CohortError, match="Expected unit standardised, received mV"):
        fitting(VAE.load(run), in_mv)
    in_mv.save(run.parent / "in_mv")
    data = parse(
        ["--data.source", "prepared", "--data.path", "runs/in_mv", "--data.conditions", "age"]
    )[0].data
    with pytest.raises(CohortError, match="Expected unit standardised, received mV"):
        judge_again(run, data)
    fitting(VAE.load(run), cohort)


def test_generated_ecgs_say_what_they_are_in(run, tmp_path):
    told = {"age": 60, "sex": "male", "lvef_lte_45": "no"}
    generate_files(run, tmp_path / "wfdb", told, 1)
    [header] = (tmp_path / "wfdb").glob("*.hea")
    assert header.read_text().count("/standardised 16 ") == 12
    generate_files(run, tmp_path / "npz", told, 1, format="npz")
    [file] = (tmp_path / "npz").glob("*.npz")
    assert str(np.load(file)["unit"]) == "standardised"


def test_the_page_of_the_folder_does_not_speak_of_millivolts(run, tmp_path, monkeypatch):
    texts = []

    def note(name, caption, figure, dpi=0):
        from evaluation.report.page import Picture

        texts.extend(text.get_text() for text in figure.findobj(Text))
        return Picture(name, caption, "")

    monkeypatch.setattr("evaluation.report.recordings._picture", note)
    page = tmp_path / "recordings.html"
    look(parse_folder(["echonext", "--out", str(page), *READ[:2], "--data.workers", "1"]))
    assert MILLIVOLTS.findall(words_of(page) + " ".join(texts)) == []
    assert any("2 mm per standardised unit" in text for text in texts)
    assert "thousandths of a unit" in page.read_text("utf-8")
