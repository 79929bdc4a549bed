import base64
import json
import math
from html.parser import HTMLParser

import pandas as pd
import pytest

from evaluation.report import write_report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
RECONSTRUCTION = {
    "mae_uv": 18.0,
    "mae_uv_low": 17.0,
    "mae_uv_high": 19.0,
    "pca10_mae_uv": 20.0,
    "mean_beat_mae_uv": 60.0,
    "mae_minus_pca_uv": -2.0,
    "mae_minus_pca_uv_low": -2.5,
    "mae_minus_pca_uv_high": -1.5,
    "mae_uv_V1": 21.0,
    "mae_uv_V1_low": 20.0,
    "mae_uv_V1_high": 22.0,
    "mae_uv_qrs": 31.0,
    "einthoven_residual": 1e-7,
    "patients": 400,
}
LATENT = {"kl_0": 1.5, "kl_1": 0.7, "dimensions": 2, "active_units_kl": 2, "collapsed": False}
METRICS = {
    "data": {"train": 1000, "test": 400, "excluded": {"too few beats": 3}},
    "training": {"seconds": 214.3, "device": "2 CPU cores"},
    "reconstruction": RECONSTRUCTION,
    "latent": LATENT,
}


class Page(HTMLParser):
    """What a browser makes of the page: text, tables, references, balance of the tags."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.references, self.images = [], [], []
        self.words, self.rows, self.headings, self.open = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.references += [attributes[a] for a in ("src", "href", "srcset") if a in attributes]
        if tag == "img":
            self.images.append(attributes["src"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h1", "h2"):
            self.headings.append("")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data + " "
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings[-1] += data

    def row(self, name):
        """Cells of the row whose first cell starts with this name."""
        cells = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row[1:] for row in cells if row[0].split(" ")[0] == name)


def report(folder, metrics=METRICS, config=None, history=None, figures=()):
    folder.mkdir(exist_ok=True)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if history is not None:
        history.to_csv(folder / "history.csv", index=False)
    for name in figures:
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"{name}.png").write_bytes(PNG)
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return page


def short_of(page):
    """The part of the summary that says where the model falls short."""
    return page.text.partition("Where it falls short")[2].partition("Data")[0]


def test_every_figure_is_embedded_and_nothing_outside_is_referred_to(tmp_path):
    figures = ("reconstructions", "sweep_age", "history", "something_new")
    page = report(tmp_path / "run", figures=figures)
    assert len(page.images) == 4
    for source in page.images:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG
    assert page.references == page.images
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "Other figures" in page.headings
    assert "something new" in page.text


def test_figures_stand_in_their_section_with_a_caption(tmp_path):
    page = report(tmp_path / "run", figures=("latent_kl", "latent_traversal", "sweep_age"))
    section = page.text.partition("Latent")[2]
    assert "latent kl KL of each latent dimension" in section
    assert "latent traversal What each dimension does" in section
    assert "sweep age Generated beats" in page.text.partition("Adherence")[2]
    assert "Other figures" not in page.headings


def test_names_and_values_from_outside_cannot_inject_markup(tmp_path):
    evil = "<script>alert('x')</script><img src=http://x>"
    page = report(
        tmp_path / "run<b>",
        metrics={
            "data": {"excluded": {evil: 1}, evil: 2, "list": [evil]},
            evil: {"x": evil},
            "latent": {"probe_r2_<i>_low": 0.9, "probe_r2_<i>": 1.0},
            "training": {"device": evil, "seconds": 1},
        },
        config={evil: {evil: evil}, "plain": evil},
        history=pd.DataFrame({"epoch": [1], evil: [2.0]}),
        figures=('"><b>',),
    )
    assert page.text.count(evil) >= 9
    assert not {"script", "b>", "i"} & set(page.tags)
    assert page.references == page.images
    assert page.headings[0] == "Run run<b>"


def test_heading_tells_what_when_and_how_long(tmp_path):
    page = report(tmp_path / "default")
    assert page.headings[0] == "Run default"
    assert "training took 3 min 34 s, on 2 CPU cores" in page.text
    assert "finished" in page.text


def test_a_metric_stands_beside_its_interval_its_baselines_and_how_to_read_it(tmp_path):
    page = report(tmp_path / "run")
    header = next(row for row in page.rows if "PCA-10 " in row)
    assert header[1:] == ["value, 95% interval ", "mean beat ", "PCA-10 "]
    assert page.row("mae_uv") == ["18 17 to 19", "60", "20"]
    assert "Mean absolute error of reconstructed test ECGs" in page.text
    assert page.row("V1") == ["21 20 to 22"]
    assert page.row("qrs") == ["31"]
    assert page.row("0") == ["1.5"]


def test_a_metric_stands_beside_its_null(tmp_path):
    realism = {"mmd": 0.0021, "mmd_null": 0.0005, "mmd_null_low": -0.001, "mmd_null_high": 0.003}
    page = report(tmp_path / "run", metrics={"realism": realism})
    assert page.row("mmd") == ["0.0021", "0.0005 -0.001 to 0.003"]
    assert "real against real" in page.text


def test_unknown_sections_and_metrics_are_shown(tmp_path):
    page = report(tmp_path / "run", metrics={"new_section": {"new_metric": 3.25}, "alone": 7})
    assert "New section" in page.headings
    assert page.row("new_metric") == ["3.25"]
    assert page.row("alone") == ["7"]


def test_values_are_written_for_people(tmp_path):
    values = {"a": True, "b": None, "c": math.nan, "d": 1234567, "e": [1, 2], "f": 43210.9}
    page = report(tmp_path / "run", metrics={"data": values})
    shown = [page.row(name)[0] for name in "abcdef"]
    assert shown == ["yes", "–", "–", "1,234,567", "1, 2", "43,211"]


def test_the_summary_says_that_the_model_beats_pca(tmp_path):
    page = report(tmp_path / "run")
    assert "better than PCA-10: mean absolute error 18.0 µV against 20.0 µV" in page.text
    assert "difference -2.0 µV (95% interval -2.5 to -1.5)" in page.text
    assert "All 2 latent dimensions are in use" in page.text
    assert "Where it falls short" not in page.text


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        (
            "reconstruction",
            {"mae_minus_pca_uv_low": 1, "mae_minus_pca_uv_high": 2},
            "worse than PCA-10",
        ),
        ("reconstruction", {"mae_minus_pca_uv_high": 0.5}, "No clear difference"),
        ("reconstruction", {"mean_beat_mae_uv": 18.5}, "97% of that of giving everyone the mean"),
        (
            "reconstruction",
            {"pca10_mae_uv_V1": 20.0, "pca10_mae_uv_qrs": 30.0},
            "larger than that of PCA-10 in QRS, V1",
        ),
        (
            "reconstruction",
            {"mean_beat_mae_uv_qrs": 32.0},
            "In the QRS segment the model is hardly",
        ),
        ("reconstruction", {"einthoven_residual": 0.3}, "contradict each other (by up to 0.3"),
        ("reconstruction", {"patients": 35}, "Only 35 test patients"),
        ("latent", {"active_units_kl": 0, "collapsed": True}, "has collapsed: 0 of 2 dimensions"),
        ("latent", {"active_units_kl": 1}, "1 of 2 latent dimensions"),
        ("latent", {"aggregate_sd_1": 2.0}, "standard normal prior in z1"),
        ("latent", {"aggregate_mean_0": -0.5}, "standard normal prior in z0"),
        ("latent", {"probe_r2_age": 0.4, "probe_r2_age_low": 0.3}, "still tells age"),
        ("latent", {"probe_auc_sex": 0.8, "probe_auc_sex_low": 0.7}, "still tells sex"),
    ],
)
def test_the_summary_says_where_the_model_falls_short(tmp_path, section, change, expected):
    metrics = METRICS | {section: METRICS[section] | change}
    assert expected in short_of(report(tmp_path / "run", metrics=metrics))


def test_metrics_that_came_out_as_nan_or_null_make_no_claim(tmp_path):
    empty = {name: None for name in RECONSTRUCTION} | {"mae_uv": math.nan}
    page = report(
        tmp_path / "run", metrics={"reconstruction": empty, "training": {"seconds": None}}
    )
    assert "In short" not in page.text
    assert page.row("mae_uv") == ["–", "–", "–"]


def test_the_last_epoch_and_the_configuration_are_shown(tmp_path):
    history = pd.DataFrame({"epoch": [1, 2], "loss": [5.0, 4.0], "val_loss": [6.0, 4.5]})
    config = {"run": {"seed": 0, "name": "default"}, "model": {"conv_filters": [5, 5]}}
    page = report(tmp_path / "run", config=config, history=history)
    assert page.row("loss") == ["4", "4.5"]
    assert page.row("conv_filters") == ["5, 5"]
    assert page.row("seed") == ["0"]


def test_a_run_without_metrics_still_gives_a_page(tmp_path):
    page = report(tmp_path / "run", metrics=None, figures=("history",))
    assert page.headings == ["Run run", "Training"]


def test_writing_again_replaces_the_page_and_leaves_nothing_else(tmp_path):
    report(tmp_path / "run")
    page = report(tmp_path / "run", metrics={"data": {"train": 5}})
    assert "Reconstruction" not in page.headings
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "metrics.json",
        "report.html",
    ]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is it the folder of a run"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", b'{"data": {', "metrics.json is no valid JSON"),
        ("metrics.json", b"\xff\xfe\x00", "metrics.json is no valid JSON"),
        ("metrics.json", b"[1, 2]", "metrics.json to hold named sections"),
        ("history.csv", b"", "history.csv is no table of epochs"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path)
