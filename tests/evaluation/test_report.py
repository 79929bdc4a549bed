import base64
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks import results
from evaluation.figures import plot_reconstructions
from evaluation.figures.wording import call_simulated, not_real
from evaluation.measures.features import FEATURES
from evaluation.measures.names import effects_in, feature_title
from evaluation.report import reading
from evaluation.report.findings import Finding
from evaluation.report.page import PAGES, write_report, write_results
from evaluation.report.tables import text

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
        self.ids, self.folded, self.attributes = set(), [], set()
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.attributes |= attributes.keys()
        self.ids.add(attributes.get("id"))
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
        if "details" in self.open:
            self.folded.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data + " "
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings[-1] += data

    def row(self, name):
        """Cells of the row whose first cell starts with this name."""
        cells = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row[1:] for row in cells if f"{row[0]} ".startswith(f"{name} "))

    def outside(self):
        """References that leave the page."""
        links = {f"#{each}" for each in self.ids}
        return [each for each in self.references if each not in links]


def report(folder, metrics=METRICS, config=None, history=None, figures=(), environment=None):
    folder.mkdir(exist_ok=True)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
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
    assert page.outside() == page.images
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


EVIL = "<script>alert('x')</script><img src=http://x>"


@pytest.mark.parametrize(
    "evil", [EVIL, '"><script>', "'&lt;b&gt;&amp;", "two\nlines", "{{ 7 * 7 }}{% raw %}", "{0}{x}"]
)
def test_names_and_values_from_outside_cannot_inject_markup(tmp_path, evil):
    page = report(
        tmp_path / "run<b>",
        metrics={
            "data": {"excluded": {evil: 1}, evil: 2, "list": [evil], f"excluded: {evil}": 3},
            evil: {"x": evil},
            f"alone {evil}": evil,
            "reconstruction": {f"{evil}_V1": 1.0, "pca10_mae_uv": 1.0, f"pca10_{evil}": 2.0},
            "adherence": {
                **slope(evil, "qrs_axis", (1, 1, 1), (9, 9, 9), (-8, -9, -7)),
                f"recovery_r2_{evil}_difference": 0.0,
                "slopes": evil,
                "slopes_recovered": 1.0,
                "mean_beat_slopes_recovered": 0.0,
            },
            "latent": {
                "probe_r2_<i>_low": 0.9,
                "probe_r2_<i>": 1.0,
                f"{evil}_0": 1,
                f"{evil}_1": 2,
            },
            "training": {"device": evil, "seconds": 1},
        },
        config={evil: {evil: evil}, "plain": evil},
        environment={evil: {evil: evil}},
        history=pd.DataFrame({"epoch": [1], evil: [2.0]}),
        figures=(evil.replace("/", "|"),),
    )
    assert page.text.count(" ".join(evil.split())) >= 20
    assert not {"script", "b>", "i"} & set(page.tags)
    assert page.outside() == page.images
    assert page.headings[0] == "Run run<b>"
    assert all(re.fullmatch(r"[\w-]+", each) for each in page.ids if each is not None)


def test_a_hostile_name_of_a_run_or_a_figure_stays_text(tmp_path):
    folder = tmp_path / "x\" onload='y'><title><script>&amp;\n"
    page = report(folder, figures=('"><b> onerror=z',))
    assert page.headings[0] == f"Run {folder.name}"
    assert page.tags.count("title") == page.tags.count("img") == 1
    assert "script" not in page.tags
    assert {"onload", "onerror"} & page.attributes == set()


def test_the_template_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PAGES.cache.clear()
    assert report(tmp_path / "run").headings[0] == "Run run"


def test_a_name_that_the_page_is_not_given_is_an_error(tmp_path):
    with pytest.raises(UndefinedError):
        PAGES.from_string("{{ run.nme }}").render(run={"name": "x"})


def test_heading_tells_what_when_and_how_long(tmp_path):
    page = report(tmp_path / "default")
    assert page.headings[0] == "Run default"
    assert "training and evaluation took 3 min 34 s, on 2 CPU cores" in page.text
    assert "finished" in page.text


@pytest.mark.parametrize(
    ("seconds", "words"), [(42, "42 s"), (61.2, "1 min 1 s"), (3725, "1 h 2 min")]
)
def test_the_time_of_the_training_is_said_in_words(tmp_path, seconds, words):
    page = report(tmp_path / "run", metrics={"training": {"seconds": seconds}})
    assert f"training and evaluation took {words}." in page.text


def test_results_are_written_with_what_cannot_be_had_as_null(tmp_path):
    write_results(
        tmp_path, {"latent": {"kl_total": math.nan, "dimensions": 2}}, {"sweep": Figure()}
    )
    written = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert written == {"latent": {"kl_total": None, "dimensions": 2}}
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.row("kl_total") == ["–"]
    assert len(page.images) == 1


def test_the_explorer_is_linked_where_there_is_one(tmp_path):
    assert "explorer.html" not in report(tmp_path / "run").references
    (tmp_path / "run" / "explorer.html").write_text("", encoding="utf-8")
    assert "explorer.html" in report(tmp_path / "run").references


def test_of_many_features_the_first_are_named(tmp_path):
    far = {f"wasserstein_{name}": 2 - n / 10 for n, name in enumerate(list(FEATURES)[:7])}
    null = {f"{name}_null_high": 0.1 for name in far}
    page = report(tmp_path / "run", metrics={"realism": far | null})
    assert "(1.70 SD) and 3 more distributed otherwise" in short_of(page)


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


def test_a_section_without_metrics_has_no_heading(tmp_path):
    page = report(tmp_path / "run", metrics={"latent": {}, "new_section": {}, "data": {"train": 9}})
    assert page.headings[1:] == ["Data"]


def test_values_are_written_for_people(tmp_path):
    values = {"a": True, "b": None, "c": math.nan, "d": 1234567, "e": [1, 2], "f": 43210.9}
    page = report(tmp_path / "run", metrics={"data": values})
    shown = [page.row(name)[0] for name in "abcdef"]
    assert shown == ["yes", "–", "–", "1,234,567", "1, 2", "43,211"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((None, "–"), (math.nan, "–"), (True, "yes"), (False, "no"), ("median", "median")),
        *((12345, "12,345"), (12345.6, "12,346"), (-12345.6, "-12,346"), (2e9, "2e+09")),
        *((1234.56, "1235"), (0.0123456, "0.01235"), (10.0, "10")),
    ],
)
def test_a_number_of_any_size_is_written_for_people(value, written):
    assert text(value) == written


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
            "larger than that of PCA-10 in QRS and V1",
        ),
        (
            "reconstruction",
            {"mean_beat_mae_uv_qrs": 32.0},
            "hardly below that of the mean beat in QRS",
        ),
        ("reconstruction", {"einthoven_residual": 0.3}, "contradict each other (by up to 0.3"),
        ("reconstruction", {"patients": 35}, "Only 35 test patients"),
        ("latent", {"active_units_kl": 0, "collapsed": True}, "has collapsed: 0 of 2 dimensions"),
        ("latent", {"active_units_kl": 1}, "1 of 2 latent dimensions"),
        ("latent", {"aggregate_sd_1": 2.0}, "mean 0 and SD 1 in z1"),
        ("latent", {"aggregate_mean_0": -0.5}, "mean 0 and SD 1 in z0"),
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
    config["model"]["conv_kernels"] = [[1, 40], [12, 1]]
    page = report(tmp_path / "run", config=config, history=history)
    assert page.row("conv_kernels") == ["(1, 40), (12, 1)"]
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


def slope(condition, feature, generated, real, difference):
    """The metrics of one slope; each argument is (value, low, high)."""
    key = f"slope_{condition}_{feature}"
    of = {"": generated, "_real": real, "_difference": difference}
    return {
        f"{key}{suffix}{end}": number
        for suffix, numbers in of.items()
        for end, number in zip(("", "_low", "_high"), numbers, strict=True)
    }


ADHERENCE = {
    **slope("age", "qrs_axis", (-6, -7, -5), (-9, -12, -6), (3, 0.5, 5.5)),
    **slope("age", "r_v5", (0.1, 0, 0.2), (0.2, 0, 0.4), (-0.1, -0.3, 0.1)),
    **slope("lv_mass", "qrs_t_angle", (2, 1, 3), (2, 1, 3), (0, -1, 1)),
    "slope_age_qrs_axis_train": -8.0,
    "specificity_age_qrs_axis": -0.3,
    "specificity_age_qrs_axis_real": -0.5,
    "effect_age_qrs_axis": -5.0,
    "slopes": 3,
    "slopes_clear": 2,
    "slopes_recovered": 0.9,
    "slopes_recovered_null": 0.97,
    "slopes_recovered_clear": 0.85,
    "mean_beat_slopes_recovered": 0.4,
    "slopes_gain": 0.95,
    "recovery_r2_age": 0.4,
    "recovery_r2_age_real": 0.42,
    "recovery_r2_age_difference": -0.02,
    "recovery_r2_age_difference_low": -0.04,
    "recovery_r2_age_difference_high": 0.0,
}
REALISM = {
    "mmd2": 0.001,
    "mmd2_null_p95": 0.01,
    "mmd2_p_value": 0.4,
    "coverage": 0.95,
    "coverage_null": 0.96,
    "coverage_null_p05": 0.9,
    "recall": 0.9,
    "recall_null": 0.92,
    "recall_null_low": 0.85,
    "wasserstein": 0.2,
    "wasserstein_qrs_axis": 0.2,
    "wasserstein_qrs_axis_null_high": 0.3,
    "p_wave_missing": 0.03,
    "p_wave_missing_null": 0.02,
}
PRIVACY = {
    "membership_auc": 0.51,
    "membership_auc_low": 0.48,
    "membership_auc_high": 0.54,
    "membership_auc_control": 1.0,
    "nearest_ratio": 0.99,
    "nearest_ratio_high": 1.02,
}
SURVIVAL = {
    "model_c_harrell": 0.78,
    "conditions_c_harrell": 0.70,
    "model_minus_conditions_c_harrell": 0.08,
    "model_minus_conditions_c_harrell_low": 0.06,
    "model_minus_conditions_c_harrell_high": 0.10,
    "model_calibration_slope": 0.95,
    "model_calibration_slope_low": 0.9,
    "model_calibration_slope_high": 1.05,
}
GENERATOR = {
    "realism": REALISM,
    "adherence": ADHERENCE,
    "utility": {
        "tstr_over_trtr_r2_age": 0.9,
        "tstr_over_trtr_r2_age_low": 0.85,
        "tstr_r2_age": 0.36,
        "trtr_r2_age": 0.4,
    },
    "privacy": PRIVACY,
    "survival": SURVIVAL,
    "prediction": {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9},
}


@pytest.mark.parametrize(
    "expected",
    [
        "Generated ECGs cannot be told from real ones",
        "as varied as real ones: coverage 0.95 (real halves 0.96)",
        "clinical features of generated ECGs are distributed as real ones",
        "90% of 3 slopes of features on conditions are those of real test ECGs, 85% of the 2 clear "
        "ones (halves of these agree in 97%, a generator without conditions in 40%); furthest off: "
        "QRS axis by age.",
        "from generated ECGs about as well as from real ones: age (R² 0.40, real 0.42)",
        "keeps most of its skill: age 90%",
        "No sign that generated ECGs give training patients away",
        "The ECG tells risk that the conditions do not: Harrell's C 0.780 against 0.700",
        "predicts better than chance: AUC 0.80 (95% interval 0.70 to 0.90), knowing nothing 0.50",
    ],
)
def test_the_summary_says_that_the_generator_works(tmp_path, expected):
    page = report(tmp_path / "run", metrics=GENERATOR)
    assert expected in page.text
    assert "Where it falls short" not in page.text


def test_on_another_cohort_conditions_act_as_its_ecgs_ask_for_not_as_those_of_training(tmp_path):
    slopes = GENERATOR["adherence"] | {"slopes_gain": 0.5, "slopes_gain_train": 1.0}
    own = report(tmp_path / "own", metrics=GENERATOR | {"adherence": slopes})
    assert "times as in real" not in own.text
    data = {"trained_on": "simulated", "tested_on": "PTB-XL"}
    other = report(tmp_path / "other", metrics=GENERATOR | {"adherence": slopes, "data": data})
    assert "act too weakly, 0.50 times as in real" in other.text


def test_a_judgement_on_another_cohort_does_not_say_how_long_the_training_took(tmp_path):
    seconds = {"training": {"seconds": 75.0}}
    assert "evaluation took 1 min 15 s" in report(tmp_path / "own", metrics=seconds).text
    other = seconds | {"data": {"trained_on": "simulated", "tested_on": "PTB-XL"}}
    assert "took 1 min" not in report(tmp_path / "other", metrics=other).text


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("realism", {"mmd2_p_value": 0.01}, "differ no more than halves of the real patients"),
        ("realism", {"mmd2_p_value": 0.01, "mmd2": 0.02}, "distributed otherwise than real"),
        ("realism", {"coverage": 0.8}, "less varied than real ones: coverage 0.80"),
        ("realism", {"recall": 0.8}, "less varied than real ones"),
        ("realism", {"wasserstein_qrs_axis": 0.5}, "QRS axis (0.50 SD) distributed otherwise"),
        ("realism", {"p_wave_missing": 0.2}, "no P wave that can be measured in 20% (2% of real"),
        ("adherence", {"slopes_recovered_clear": 0.5}, "50% of the 2 clear ones"),
        ("adherence", {"slopes_gain_train": 0.5}, "act too weakly, 0.50 times as in real"),
        ("adherence", {"slopes_gain": 1.5}, "act too strongly, 1.50 times as in real"),
        ("adherence", {"recovery_r2_age_difference_low": 0.2}, "far better than from real ones"),
        ("adherence", {"recovery_r2_age_difference_high": -0.1}, "worse than from real ones: age"),
        ("utility", {"tstr_over_trtr_r2_age": 0.5}, "keeps only part of its skill: age 50%"),
        ("privacy", {"membership_auc_control": 0.6}, "misses planted copies"),
        ("privacy", {"membership_auc_low": 0.505}, "give away something of training patients"),
        ("privacy", {"nearest_ratio_high": 0.98}, "give away something of training patients"),
        (
            "privacy",
            {"membership_auc_calibrated": 0.6, "membership_auc_calibrated_low": 0.55},
            "inference AUC 0.60",
        ),
        (
            "privacy",
            {"reconstruction_auc": 0.7, "reconstruction_auc_low": 0.6},
            "Whoever has the model itself can tell training patients",
        ),
        (
            "survival",
            {"model_minus_conditions_c_harrell_low": -0.01},
            "no more of the risk than the conditions",
        ),
        (
            "survival",
            {
                "model_minus_conditions_c_harrell_low": -0.09,
                "model_minus_conditions_c_harrell_high": -0.01,
            },
            "worse than the conditions alone",
        ),
        ("survival", {"model_calibration_slope_high": 0.99}, "too extreme: calibration slope 0.95"),
        ("survival", {"model_calibration_slope_low": 1.01}, "risks are too moderate"),
        (
            "survival",
            {"model_calibration_slope_high": 0.99, "tied_share": 0.2},
            "so coarsely rounded that even true risks look too extreme",
        ),
        ("prediction", {"auc_low": 0.45}, "no better than chance: AUC 0.80"),
    ],
)
def test_the_summary_says_where_the_generator_falls_short(tmp_path, section, change, expected):
    metrics = GENERATOR | {section: GENERATOR[section] | change}
    assert expected in short_of(report(tmp_path / "run", metrics=metrics))


def test_a_reconstruction_attack_that_may_be_chance_is_nothing_to_warn_of(tmp_path):
    attack = {"reconstruction_auc": 0.55, "reconstruction_auc_low": 0.45}
    page = report(tmp_path / "run", metrics={"privacy": PRIVACY | attack})
    assert "No sign that generated ECGs give training patients away" in page.text
    assert "Where it falls short" not in page.text


def test_findings_that_say_the_same_of_several_conditions_are_one_sentence(tmp_path):
    probes = {f"probe_r2_{name}{end}": 0.5 for name in ("age", "bmi") for end in ("", "_low")}
    page = report(tmp_path / "run", metrics={"latent": probes})
    assert page.text.count("The latent code still tells") == 1
    assert "age (R² 0.50) and bmi (R² 0.50)" in page.text


def test_the_summary_is_short_however_much_falls_short(tmp_path, monkeypatch):
    bad = [("data", lambda section, n=n: [Finding(f"Bad {n}.", True)]) for n in range(30)]
    good = [("data", lambda section, n=n: [Finding(f"Good {n}.")]) for n in range(30)]
    monkeypatch.setattr("evaluation.report.page.FINDINGS", (*bad, *good))
    page = report(tmp_path / "run")
    assert page.text.count("Good ") == 3
    assert page.text.count("Bad ") == 9


def test_slopes_are_a_table_for_each_condition_with_one_sentence_and_marks(tmp_path):
    page = report(tmp_path / "run", metrics={"adherence": ADHERENCE})
    header = next(row for row in page.rows if "generated " in row)
    assert header[1:] == ["generated ", "real ", "generated less real ", "training "]
    lost = page.row("QRS axis (degrees): not recovered")
    assert lost == ["-6 -7 to -5", "-9 -12 to -6", "3 0.5 to 5.5", "-8"]
    assert page.row("R in V5 (mV)")[0] == "0.1 0 to 0.2"
    assert page.row("QRS-T angle (degrees)")[0] == "2 1 to 3"
    assert page.text.count("Recovered if the interval of generated less real holds 0") == 2
    assert [row for row in page.rows if row[0].startswith("slope_")] == []
    assert "generated: " not in page.text
    titles = [text for text in page.folded if text.startswith("Slopes on")]
    assert titles == ["Slopes on age", "Slopes on lv_mass"]


def test_changes_and_effects_are_tables_with_a_column_for_each_condition(tmp_path):
    page = report(tmp_path / "run", metrics={"adherence": ADHERENCE})
    headers = [row for row in page.rows if row[0] == "" and row[1].startswith("age")]
    assert headers == [["", "age ", "age, real "], ["", "age "]]


def test_long_tables_are_folded_and_key_figures_are_not(tmp_path):
    history = pd.DataFrame({"epoch": [1], "loss": [2.0]})
    page = report(tmp_path / "run", metrics=METRICS | GENERATOR, history=history)
    folded = " ".join(page.folded)
    for long in ("V1", "qrs", "Slopes on age", "Effects at", "Distance of each", "epoch 1"):
        assert long in folded
    for key in (
        "mae_uv Mean",
        "slopes_recovered",
        "nearest_ratio",
        "Models of risk",
        "calibration_slope",
    ):
        assert key not in folded
        assert key in " ".join(page.text.split())


def test_metrics_with_the_same_companions_share_a_table(tmp_path):
    page = report(tmp_path / "run", metrics={"adherence": ADHERENCE})
    assert page.row("slopes_recovered") == ["0.9", "0.97", "0.4"]
    assert page.row("recovery_r2_age") == ["0.4", "0.42", "-0.02 -0.04 to 0"]
    assert page.row("slopes") == ["3", "", ""]
    assert [row for row in page.rows if row[0].startswith(("slopes_recovered_n", "mean"))] == []


def test_a_number_at_the_end_of_a_name_makes_no_dimension_of_it(tmp_path):
    page = report(tmp_path / "run", metrics={"survival": SURVIVAL | {"horizon_1": 2.5}})
    assert page.row("horizon_1 Time (years) up to which events are judged.") == ["2.5"]


def test_rows_stand_in_the_order_of_their_sentences_and_unknown_ones_last(tmp_path):
    names = ("own", "patients", "pearson_r", "rmse_uv", "mae_uv")
    page = report(tmp_path / "run", metrics={"reconstruction": dict.fromkeys(names, 1)})
    assert [row[0].split()[0] for row in page.rows[1:]] == [
        *("mae_uv", "rmse_uv", "pearson_r", "patients", "own")
    ]


def test_the_slopes_furthest_off_are_named_the_worst_first(tmp_path):
    lost = slope("age", "t_axis", (1, 0, 2), (9, 8, 10), (-8, -9, -7))
    page = report(tmp_path / "run", metrics={"adherence": ADHERENCE | lost})
    assert "furthest off: T axis by age and QRS axis by age" in page.text


def test_models_of_risk_stand_side_by_side(tmp_path):
    page = report(tmp_path / "run", metrics={"survival": SURVIVAL})
    header = next(row for row in page.rows if "model " in row)
    values = dict(zip(header[1:], page.row("c_harrell"), strict=True))
    assert values == {"model ": "0.78", "conditions ": "0.7"}
    assert "Share of pairs of subjects that are put in the right order" in page.text
    assert ["", "model less conditions "] in page.rows


def test_sections_stand_in_the_order_of_the_questions_and_are_linked(tmp_path):
    names = ("survival", "own", "privacy", "utility", "adherence", "realism", "latent", "data")
    page = report(
        tmp_path / "run",
        metrics={name: {"x": 1} for name in names},
        history=pd.DataFrame({"epoch": [1], "loss": [2.0]}),
        config={"seed": 0},
        environment={"python": "3.11"},
    )
    order = "Data Training Latent Realism Adherence Utility Privacy Survival Own"
    assert page.headings[1:] == [*order.split(), "Configuration", "Environment"]
    links = [each.removeprefix("#") for each in page.references]
    assert len(links) == 11
    assert set(links) <= page.ids


def test_splits_and_reasons_of_exclusion_are_small_tables(tmp_path):
    data = {"train_recordings": 100, "train_patients": 90, "excluded: too few beats": 3}
    page = report(tmp_path / "run", metrics={"data": data})
    assert page.row("train") == ["100", "90"]
    assert page.row("too few beats") == ["3"]


def test_what_it_was_made_with_is_shown(tmp_path):
    made = {
        "data": {"source": "simulated", "recordings": 6000, "fingerprint": "0a1b"},
        "commit": "2e512b2-dirty",
        "packages": {"keras": "3.15.1"},
    }
    page = report(tmp_path / "run", environment=made)
    assert page.headings[-1] == "Environment"
    assert page.row("data") == ["source: simulated recordings: 6,000 fingerprint: 0a1b"]
    assert page.row("commit") == ["2e512b2-dirty"]
    assert page.row("packages") == ["keras: 3.15.1"]


def test_a_damaged_environment_is_named(tmp_path):
    (tmp_path / "environment.json").write_text("{", encoding="utf-8")
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"environment.json is no valid JSON"):
        write_report(tmp_path)


def test_figures_stand_in_the_order_of_their_captions(tmp_path):
    order = ["conditions", "reconstructions", "error by lead", "generated grid", "slopes"]
    order += ["specificity", "sweep age", "sweep bmi"]
    names = [name.replace(" ", "_") for name in order]
    page = report(tmp_path / "run", metrics={}, figures=names)
    places = [page.text.index(f" {name} ") for name in order]
    assert places == sorted(places)
    assert "Other figures" not in page.headings


def test_missing_ends_of_an_interval_are_no_verdict(tmp_path):
    metrics = {"slope_age_qrs_axis": 1.0, "slope_age_qrs_axis_difference_low": None}
    page = report(tmp_path / "run", metrics={"adherence": metrics})
    assert "not recovered" not in page.text


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("adherence", {"slopes_clear": None}),
        ("privacy", {"membership_auc_calibrated_low": 0.6}),
        ("privacy", {"reconstruction_auc_low": 0.6}),
        ("survival", {"model_calibration_slope": None, "model_calibration_slope_high": 0.5}),
        ("prediction", {"auc": None}),
    ],
)
def test_the_summary_makes_no_claim_of_a_number_that_is_not_there(tmp_path, section, change):
    metrics = GENERATOR | {section: GENERATOR[section] | change}
    page = report(tmp_path / "run", metrics=metrics)
    assert "In short" in page.text
    assert "Where it falls short" not in page.text


@pytest.mark.parametrize(
    ("name", "label", "number"),
    [
        ("mae_uv", "MAE", ".1f"),
        ("pca10_mae_uv", "MAE", ".1f"),
        ("mean_beat_slopes_recovered", "slopes whose difference from real ones may be 0", ".0%"),
        ("model_minus_conditions_c_harrell", "Harrell's C", ".3f"),
        ("coverage_null", "coverage", ".2f"),
        ("recovery_auc_lv_mass", "lv_mass read from generated ECGs, AUC", ".2f"),
        ("tstr_r2_age", "trained on generated: age, R2", ".2f"),
        ("trtr_auc_{x}", "trained on real: {x}, AUC", ".2f"),
        ("membership_auc_control", "its control of planted copies", ".2f"),
        ("own\nmetric", "", ""),
    ],
)
def test_a_metric_and_what_stands_beside_it_are_written_alike(name, label, number):
    assert reading.metric(name)[1:3] == (label, number)


def test_no_sentence_stands_twice():
    captions = [text for section in reading.SECTIONS.values() for text in section.values()]
    captions += [grid.caption for grid in reading.GRIDS if grid.caption]
    sentences = [text for text in reading.METRICS.values() if text and text != reading._BASIS]
    assert len({*sentences, *captions}) == len(sentences) + len(captions)


def test_what_stands_beside_a_metric_has_no_sentence_of_its_own():
    assert reading.reading("mae_uv")
    for name in ("pca10_mae_uv", "model_c_harrell", "coverage_null", "unknown"):
        assert reading.reading(name) == ""


def test_the_tables_of_the_readme_are_of_the_same_names(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RUNS", tmp_path)
    values = {
        section: {name: 0.25 for name in names} | {f"{name}_real": 0.5 for name in names}
        for section, names in results.GENERATOR.items()
    }
    for run, scale in zip((*results.DEFAULT, "paper", "ptbxl_seed0"), (1, 2, 3, 1, 1), strict=True):
        (tmp_path / run).mkdir()
        metrics = {
            section: {name: value * scale for name, value in all.items()}
            for section, all in values.items()
        }
        (tmp_path / run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in results.generator().splitlines()[2:]]
    assert all(row[0] for row in rows)
    table = {row[0]: row[1:] for row in rows}
    assert len(table) == sum(map(len, results.GENERATOR.values()))
    assert table["coverage"] == ["0.25", "0.50 ± 0.25", "0.50", "0.25", "0.50"]
    assert table["beats without measurable P"] == [
        "25.0%",
        "50.0% ± 25.0%",
        "50.0%",
        "25.0%",
        "50.0%",
    ]
    assert table["Einthoven residual"][1] == "5e-01"
    assert table["sex read from generated ECGs, AUC"][2] == "0.50"


def test_the_table_of_real_ecgs_has_means_ranges_and_what_they_stand_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RUNS", tmp_path)
    for seed, scale in enumerate((1, 2, 3)):
        metrics = {"latent": {"dimensions": 7}}
        for _, place, _, _, other, _ in results.REAL_ROWS:
            section, name = place.split(".")
            metrics.setdefault(section, {})[name] = 0.1 * scale
            if other:
                metrics[section][other.format(7, name)] = 0.2
        (tmp_path / f"ptbxl_seed{seed}").mkdir()
        file = tmp_path / f"ptbxl_seed{seed}" / "metrics.json"
        file.write_text(json.dumps(metrics), encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in results.real_table().splitlines()[2:]]
    table = {row[0]: row[1:] for row in rows}
    assert table["recall"] == ["0.20 (0.10 to 0.30)", "real 0.20", "1.00 (0.50 to 1.50)"]
    assert table["MAE, uV"][1] == "PCA-7 0.2"
    assert table["reconstruction attack, AUC"][0] == "0.20 (0.10 to 0.30)"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("r_v5", "R in V5"),
        ("s_avf", "S in aVF"),
        ("qrs_t_angle", "QRS-T angle"),
        ("pr_interval", "PR interval"),
        ("sokolow_lyon", "Sokolow-Lyon"),
    ],
)
def test_features_are_called_as_a_cardiologist_does(name, title):
    assert feature_title(name) == title


def test_every_feature_is_told_from_the_condition_before_it():
    names = {f"slope_lv_t_{name}": 1.0 for name in FEATURES}
    found = effects_in(names, "slope")
    assert found.keys() == {"lv_t"}
    assert found["lv_t"] == list(FEATURES)


SIMULATED = {"data": {"source": "simulated by a dipole model: 20 subjects, seed 0"}}


@pytest.mark.parametrize(
    ("config", "environment", "tested_on", "simulated"),
    [
        ({"data": {"source": "synthetic"}}, None, None, True),
        ({"data": {"source": "prepared"}}, SIMULATED, None, True),
        ({"data": {"source": "prepared"}}, SIMULATED, "PTB-XL 500 Hz", False),
        ({"data": {"source": "prepared"}}, None, SIMULATED["data"]["source"], True),
        ({"data": {"source": "ptbxl"}}, {"data": {"source": "PTB-XL 500 Hz"}}, None, False),
    ],
)
def test_no_simulated_ecg_is_called_real(tmp_path, config, environment, tested_on, simulated):
    metrics = METRICS | {"data": METRICS.get("data", {})}
    if tested_on:
        metrics = METRICS | {"data": {**metrics["data"], "tested_on": tested_on}}
    page = report(tmp_path / "run", metrics, config, figures=("slopes",), environment=environment)
    words = set(re.findall(r"\w+", page.text.lower()))
    assert ("real" in words) == (not simulated)
    assert "generated" in words
    assert base64.b64decode(page.images[0].removeprefix("data:image/png;base64,")) == PNG


def test_figures_of_a_simulated_cohort_do_not_say_real_and_pictures_stay():
    ecg = np.zeros((1, 12, 400), np.float32)
    figure = plot_reconstructions(ecg, ecg, ["Real, test subject 1"])
    call_simulated([figure])
    said = [text.get_text() for text in figure.findobj(Text)]
    assert "Simulated, test subject 1" in said
    assert {"simulated", "reconstructed"} <= set(said)
    picture = '<img src="data:image/png;base64,ab/real+real/"> real'
    assert not_real(picture) == picture[:-4] + "simulated"
