"""The page does what the model does: in a browser, against Python."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from config import CONDITIONS, CONFIG, to_dict
from data.conditions import ConditionSchema
from data.leads import LEADS
from data.synthetic import simulate
from evaluation.explorer.network import Numbers
from evaluation.explorer.page import HERE, SCRIPTS, description, scripts, write_explorer
from evaluation.explorer.reference import design, of_training
from evaluation.figures import paper
from evaluation.measures.features import FEATURES, measure
from model.cox import survival_function
from model.published import PUBLISHED
from tests.browser import needs_chromium, run_in
from tests.places import ROOT
from training.run_folder import TRAINED
from vae import VAE
from vae_prediction import VAEPrediction

COHORT = simulate(300, 0)
SCHEMA = ConditionSchema([CONDITIONS[name] for name in ("age", "sex", "bmi")])
SCHEMA.fit(COHORT.subjects)
CASES = 20
PERSONS = 3000  # drawn


def configured(kind=VAE, **changes):
    """The default model, adapted, with weights that are nowhere zero."""
    settings = to_dict(CONFIG.model) | changes
    for name in ("condition_encoding", "target", "task", "head_inputs", "task_weight", "ties"):
        if kind is VAE or name in ("condition_encoding", "target"):
            settings.pop(name)
    model = kind((12, 400), condition_dim=SCHEMA.dim, schema=SCHEMA, **settings)
    model.adapt(COHORT.ecg, COHORT.subjects)
    disturb(model.decoder, 0.02)
    return model


def disturb(network, size):
    random = np.random.default_rng(3)
    for weight in network.trainable_weights:
        weight.assign_add(random.normal(0, size, weight.shape))


def cox():
    model = configured(VAEPrediction, task="cox", head_inputs="latent_and_conditions")
    disturb(model.head, 0.3)
    model.fit_prior(COHORT.ecg, COHORT.subjects)
    time = np.random.default_rng(0).uniform(0, 12, 300)
    return model.fit_baseline(COHORT.ecg, COHORT.subjects, time, COHORT.subjects["age"] > 60)


def published():
    """The published network, with statistics as training leaves them."""
    model = VAE((12, 400), (5, 5), ((1, 40), (12, 1)), ("same", "valid"), 10, 3, **PUBLISHED)
    random = np.random.default_rng(5)
    for layer in model.decoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight, low in zip(layer.weights, (0.5, -0.5, -0.5, 0.5), strict=True):
                weight.assign(random.uniform(low, low + 1, weight.shape))
    return model


MODELS = {
    "default": configured,
    "shipped": lambda: VAE.load(TRAINED / "ptbxl"),
    "published": published,
    "cox": cox,
}


def cases_of(model):
    """Latents and conditions at random, some of these unknown."""
    random = np.random.default_rng(11)
    z = random.normal(size=(CASES, model.latent_space_dim)).astype(np.float32)
    if model.schema is None:
        columns = {f"condition {n + 1}": random.normal(size=CASES) for n in range(3)}
        return z, pd.DataFrame(columns)
    columns = {
        "age": random.uniform(20, 90, CASES),
        "sex": random.choice(["male", "female"], CASES),
        "bmi": random.uniform(17, 40, CASES),
    }
    table = pd.DataFrame(columns)
    return z, table.mask(random.random(table.shape) < 0.3)


def encoded_by(model, table):
    return table.to_numpy(np.float32) if model.schema is None else model.schema.encode(table)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def tried(tmp_path_factory, patch):
    """Each model, its cases, and what the page makes of them, all in one go of the browser."""
    folder = tmp_path_factory.mktemp("explorer")
    tried, given = {}, []
    patch.setattr("evaluation.explorer.reference.SUBJECTS", 300)
    for name, make in MODELS.items():
        model = make()
        z, table = cases_of(model)
        tried[name] = SimpleNamespace(model=model, z=z, table=table)
        numbers = Numbers()
        reference = None if name == "published" else of_training(COHORT)
        described = description(model, numbers, reference)
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        given.append([described, numbers.base64(), z.tolist(), rows])
    page = write_explorer(
        folder, tried["cox"].model, "a <b> model", of_training(COHORT), COHORT.take(range(3))
    )
    script = (
        f"const PERSONS = {PERSONS}, given = {json.dumps(given)};"
        + """
        return given.map(([described, numbers, latents, rows]) => {
            const model = openModel(described, numbers);
            return latents.map((z, row) => {
                const encoded = encodeConditions(model, rows[row]);
                const ecg = decode(model, Float64Array.from(z), encoded);
                const [output] = model.head ? headOutput(model, z, encoded) : [null];
                return {
                    ecg: ecg.map((lead) => [...lead]),
                    features: measure(ecg, model),
                    standardised: measure(
                        ecg.map((lead) => lead.map((value) => 5 * value)),
                        { ...model, amplitude: { mv: 0.2 } },
                    ),
                    output,
                    survival: model.head ? survivalCurve(model, output) : null,
                    placed: [...latentAt(model, encoded, z)],
                    drawn: row ? null : Array.from({ length: PERSONS }, (_, person) =>
                        [...drawPerson(model, person + 1)]),
                    ranges: Object.values(model.features).map((feature) =>
                        middleRange(model, feature, rows[row])),
                };
            });
        });"""
    )
    found = run_in(page.read_text("utf-8"), script, folder)
    for one, results, (described, *_) in zip(tried.values(), found, given, strict=True):
        one.results, one.described = results, described
        one.ecg = np.array([result["ecg"] for result in results])
    tried["cox"].page = page
    return tried


@needs_chromium
@pytest.mark.parametrize("name", MODELS)
def test_the_page_decodes_what_the_model_decodes(tried, name):
    one = tried[name]
    expected = one.model.decode(one.z, encoded_by(one.model, one.table))
    assert np.ptp(expected) > 0.4
    assert np.abs(one.ecg - expected).max() < 1e-3  # mV
    if one.model.schema is not None:
        assert one.table.isna().any().all()


@needs_chromium
@pytest.mark.parametrize("name", MODELS)
def test_the_page_measures_what_measure_finds(tried, name):
    one = tried[name]
    expected = measure(one.ecg.astype(np.float32))
    found = pd.DataFrame([result["features"] for result in one.results])
    found = found.drop(columns="ends").astype(np.float64)
    shared = [feature for feature in expected if feature in found]
    assert set(one.described["features"]) <= set(shared)
    for feature in shared:
        close = np.isclose(found[feature], expected[feature], rtol=0.01, atol=1e-3, equal_nan=True)
        assert close.all(), (feature, found[feature][~close], expected[feature][~close])
    assert name == "published" or expected["qt_interval"].notna().sum() > CASES / 2


@needs_chromium
def test_the_page_measures_standardised_ecgs_as_those_in_millivolts(tried):
    for result in tried["cox"].results:
        ends, found = result["features"].pop("ends"), result["standardised"]
        assert found.pop("ends") == pytest.approx(ends, nan_ok=True)
        for name, value in result["features"].items():
            larger = 5 if name in FEATURES and FEATURES[name].unit == "mV" else 1
            expected = np.nan if value is None else larger * value
            given = np.nan if found[name] is None else found[name]
            assert given == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True), name
        result["features"]["ends"] = ends


@needs_chromium
def test_the_page_tells_the_risk_that_the_model_tells(tried):
    one = tried["cox"]
    encoded = encoded_by(one.model, one.table)
    expected = np.asarray(one.model.head(np.concatenate([one.z, encoded], axis=1)))[:, 0]
    found = np.array([result["output"] for result in one.results])
    assert np.ptp(expected) > 1
    assert found == pytest.approx(expected, abs=1e-4)
    baseline = one.model.baseline["times"], one.model.baseline["cumulative_hazard"]
    times = one.described["head"]["times"]
    curves = survival_function(expected, *baseline, times)
    found = np.array([result["survival"] for result in one.results])
    assert curves[:, -1].min() < 0.5
    assert found == pytest.approx(curves, abs=1e-4)
    assert not set(times) & set(baseline[0]), "an event time of a subject is in the page"


@needs_chromium
@pytest.mark.parametrize("name", ["shipped", "cox"])
def test_the_page_places_a_person_where_the_prior_does(tried, name):
    one = tried[name]
    expected = one.model.prior.place(one.z, encoded_by(one.model, one.table))
    found = np.array([result["placed"] for result in one.results])
    assert found == pytest.approx(expected, abs=1e-5)


@needs_chromium
@pytest.mark.parametrize("name", ["shipped", "cox"])
def test_the_page_draws_persons_as_the_prior_does(tried, name):
    one = tried[name]
    mixture, drawn = one.model.prior.mixture, np.array(one.results[0]["drawn"])
    mean, sd = mixture.moments()
    assert (drawn.mean(axis=0) - mean) / sd == pytest.approx(0, abs=5 / PERSONS**0.5)
    expected = np.linalg.norm(mixture.sample(20_000), axis=1)
    for percentile in (5, 50, 95):  # the sizes: without them the middle half alone would fit
        found = np.percentile(np.linalg.norm(drawn, axis=1), percentile)
        assert found == pytest.approx(np.percentile(expected, percentile), rel=0.08)


@needs_chromium
@pytest.mark.parametrize("name", ["default", "shipped"])
def test_the_page_has_the_ranges_of_the_regression(tried, name):
    one = tried[name]
    x = design(one.model.schema, one.table)
    features = one.described["features"].values()
    assert all(feature["low"] for feature in features)
    ends = [[x @ feature[end] for end in ("low", "high")] for feature in features]
    ends = np.moveaxis(np.array(ends), 2, 0)  # (cases, features, 2)
    crossed = ends[..., 0] > ends[..., 1]
    assert 0 < crossed.mean() < 0.1
    ends[crossed] = np.nan  # none is given
    least, most = (
        np.array([np.nan if feature[end] is None else feature[end] for feature in features])
        for end in ("least", "most")
    )
    possible = np.fmin(np.fmax(ends, least[:, None]), most[:, None])
    possible[crossed] = np.nan
    assert (possible < ends).any() or (possible > ends).any()
    ends = possible
    found = [[each or [np.nan] * 2 for each in result["ranges"]] for result in one.results]
    assert np.array(found) == pytest.approx(ends, nan_ok=True)


def test_a_range_holds_nothing_that_a_feature_cannot_be(tried):
    limits = {"qrs_t_angle": (0, 180), "r_iii": (0, None), "s_v6": (0, None), "t_v1": (None, None)}
    limits |= {"qrs_axis": (None, None), "p_duration": (0, None), "p_ii": (None, None)}
    described = tried["default"].described["features"]
    assert {name: (described[name]["least"], described[name]["most"]) for name in limits} == limits


# --- what a visitor does --------------------------------------------------------------------------

VISIT = """
    const frame = async () => {
        for (let n = 0; n < 2; n++) await new Promise(requestAnimationFrame);
    };
    const drawn = () => [...document.querySelectorAll("#paper > path")].at(-1).getAttribute("d");
    const text = (selector) => document.querySelector(selector).textContent;
    const move = async (selector, value) => {
        const slider = document.querySelector(selector);
        slider.value = value;
        slider.dispatchEvent(new Event("input"));
        await frame();
    };
    const click = async (selector) => {
        const target = document.querySelector(selector);
        if (target.click) target.click(); else target.dispatchEvent(new Event("click"));
        await frame();
    };
"""


@pytest.fixture(scope="module")
def visit(tried, tmp_path_factory):
    """What was seen on a visit to the page of the Cox model."""
    steps = """
        const seen = { start: [drawn(), text("#features")], title: text("h1 span") };
        await move("#condition-age", 79);
        seen.aged = [drawn(), text("#features"), text("#conditions .warning")];
        await move("#condition-age", 110);
        seen.warned = text("#conditions .warning");
        await click("#condition-age-unknown");
        seen.unknown = [drawn(), text("output[for=condition-age]")];
        seen.bmi = ["min", "max"].map((end) =>
            Number(document.querySelector("#condition-bmi").getAttribute(end)));
        await move("#condition-age", 50);
        await click("#pin");
        await click("#another");
        await move(`#${document.querySelector("#latents input").id}`, 1.5);
        seen.pinned = [document.querySelectorAll("#paper > path[stroke='#8a8a8a']").length,
            text("#features tbody tr td.change"), text("#risk p"),
            document.querySelectorAll("#risk polyline").length];
        const fan = document.querySelector("#fan");
        fan.value = "age";
        fan.dispatchEvent(new Event("change"));
        await frame();
        seen.fan = text("#fanned");
        document.querySelectorAll("#paper .hit")[7].dispatchEvent(
            new KeyboardEvent("keydown", { key: "Enter" }));
        await frame();
        seen.lead = [...document.querySelectorAll("#paper > text")].map((one) => one.textContent);
        await new Promise((done) => setTimeout(done, 1000));
        seen.link = location.hash;
        seen.spoken = text("#spoken");
        seen.last = drawn();
        const model = openModel(JSON.parse(text("#model")), text("#numbers"));
        const shown = ecgOf(model, fromLink(model, location.hash.slice(1)));
        seen.csv = toCsv(model, [["", shown.ecg]]);
        seen.png = (await toPng(document.querySelector("#paper"), 900, [[[null, "a"]]])).size;
        const subject = fromLink(model, "person=s2");
        Object.assign(subject.values, model.subjects[1].values);
        seen.subject = ecgOf(model, subject).ecg.map((lead) => [...lead]);
        const nonsense = "c.age=x&c.sex=no&c.bmi=1e9&person=s99&z=7:9,a:b&speed=9&lead=%3Cb&fan=q";
        seen.states = [startState(model), fromLink(model, nonsense)];
        const sex = { ...model.conditions[1], kind: "categorical", categories: ["f", "unknown"] };
        const other = { ...model, conditions: [sex] };
        seen.linked = [null, "unknown", "f"].map((value) =>
            fromLink(other, toLink(other, { ...startState(other), values: { sex: value } }))
                .values.sex);
        const [made, show] = buttonsOf(model, sex, () => {});
        show("unknown");
        seen.buttons = [...made.querySelectorAll("label")].map((label) =>
            [label.textContent, label.control.checked]);
        seen.notGiven = subjectPieces(other, { ...startState(other), values: { sex: null } })[0];
        seen.certain = survivalCurve(model, 1e4);
        await click("#restart");
        await new Promise((done) => setTimeout(done, 1000));
        seen.restarted = drawn();
        location.hash = seen.link;
        await new Promise((done) => setTimeout(done, 100));
        seen.again = [drawn(), text("#fanned")];
        const ages = () => Number.parseFloat(text("output[for=condition-age]"));
        document.querySelector("[aria-label='Play age']").click();
        seen.played = [];
        for (let n = 0; n < 3; n++) {
            await new Promise((done) => setTimeout(done, 300));
            seen.played.push(ages());
        }
        location.hash = "c.age=95&lead=V1";
        await new Promise((done) => setTimeout(done, 300));
        seen.linkedTo = text("output[for=condition-age]");
        document.querySelector("#restart").focus();
        await click("#restart");
        seen.focused = document.activeElement.id;
        seen.unnamed = [...document.querySelectorAll("input, select, button")].filter(
            (one) => !one.hidden && !one.labels?.length && !one.textContent.trim()).length;
        seen.loaded = performance.getEntriesByType("resource")
            .filter((one) => !one.name.startsWith("data:")).length;
        return seen;"""
    folder = tmp_path_factory.mktemp("visit")
    return run_in(tried["cox"].page.read_text("utf-8"), VISIT + steps, folder)


@needs_chromium
def test_a_slider_draws_the_ecg_and_its_numbers_anew(visit):
    assert visit["title"] == "a <b> model"
    assert visit["start"][0] != visit["aged"][0]
    assert visit["start"][1] != visit["aged"][1]
    assert visit["unknown"][1] == "unknown"
    assert visit["unknown"][0] not in (visit["start"][0], visit["aged"][0])
    assert "nan" not in "".join(map(str, visit.values())).lower()


@needs_chromium
def test_beyond_the_training_subjects_it_warns(visit):
    age = COHORT.subjects["age"].quantile([0.05, 0.95]).round()
    assert visit["aged"][2] == ("" if age[0.95] >= 79 else visit["warned"])
    assert f"({age[0.05]:.0f} to {age[0.95]:.0f} years)" in visit["warned"]


@needs_chromium
def test_a_slider_goes_where_subjects_are_and_a_link_beyond(visit, tried):
    [bmi] = (one for one in tried["cox"].described["conditions"] if one["name"] == "bmi")
    assert visit["bmi"] == [bmi["from"], bmi["to"]]
    assert bmi["to"] < visit["states"][1]["values"]["bmi"] == 80


@needs_chromium
def test_what_is_pinned_stays_for_comparison(visit):
    grey, change, risk, curves = visit["pinned"]
    assert (grey, curves) == (1, 2)
    assert change.endswith(" ms")
    assert "hazard ratio to what is pinned" in risk
    assert visit["fan"].startswith("Age: ")
    assert visit["fan"].count("years") == 7
    assert visit["lead"] == ["V2"]
    assert "years" in visit["spoken"]
    assert "QRS axis" in visit["spoken"]


@needs_chromium
def test_a_link_opens_the_same_view(visit):
    assert visit["restarted"] == visit["start"][0]
    assert visit["again"] == [visit["last"], visit["fan"]]
    assert visit["linkedTo"] == "95 years", "what was playing goes on"
    start, odd = visit["states"]
    assert odd == start | {"values": start["values"] | {"bmi": 80}}


@needs_chromium
def test_a_category_may_be_called_unknown(visit):
    assert visit["linked"] == [None, "unknown", "f"]
    assert visit["buttons"] == [["f", False], ["unknown", True], ["not given", False]]
    assert visit["notGiven"] == "sex not given"


@needs_chromium
def test_a_button_keeps_the_focus_as_all_leads_come_back(visit):
    assert visit["focused"] == "restart"


@needs_chromium
def test_nobody_has_an_event_before_the_first_however_large_the_hazard(visit):
    assert (visit["certain"][0], visit["certain"][-1]) == (1, 0)


@needs_chromium
def test_a_condition_runs_through_the_middle_of_the_subjects(visit):
    low, high = COHORT.subjects["age"].quantile([0.05, 0.95])
    assert len(set(visit["played"])) == 3
    assert all(low - 1 <= age <= high + 1 for age in visit["played"])


@needs_chromium
def test_files_hold_what_is_shown(visit, tried):
    table = pd.read_csv(io.StringIO(visit["csv"]), index_col="time_ms")
    assert list(table) == list(LEADS)
    assert table.index[1] == 2
    assert len(table) == 400
    assert np.abs(table["I"] + table["III"] - table["II"]).max() < 2e-4
    assert visit["png"] > 5000
    assert visit["unnamed"] == 0, "a control has no name"
    assert visit["loaded"] == 0


@needs_chromium
def test_test_subjects_are_reconstructed_as_the_model_does(visit, tried):
    expected = tried["cox"].model.reconstruct(COHORT.ecg[:3], COHORT.subjects[:3])[1]
    assert np.abs(np.array(visit["subject"]) - expected).max() < 1e-3


# --- what is saved --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tried, tmp_path_factory):
    """What the legend and the files say of what is drawn, on a second visit."""
    steps = """
        const seen = {};
        let picture;
        const { fillText, fillRect } = CanvasRenderingContext2D.prototype;
        Object.assign(CanvasRenderingContext2D.prototype, {
            fillText(word, x, y) {
                const { width, height } = this.canvas;
                const right = x + this.measureText(word).width;
                picture.words.push({ word, y, inside: right <= width && y < height });
                fillText.call(this, word, x, y);
            },
            fillRect(...place) {
                picture.colors.push(this.fillStyle);
                fillRect.apply(this, place);
            },
        });
        window.download = (file, name) => Object.assign(picture, { size: file.size, name });
        const pictureOf = async (make) => {
            picture = { words: [], colors: [] };
            await make();
            for (let n = 0; n < 50 && !picture.size; n++) {
                await new Promise((done) => setTimeout(done, 20));
            }
            return picture;
        };
        const entries = () =>
            [...document.querySelectorAll("#legend .entry")].map((one) => one.textContent);
        const sliders = [...document.querySelectorAll("#latents input, #more input")];
        seen.latents = sliders.map((one) => one.id.replace("latent-", "z"));
        await click("#another");
        await click("#pin");
        await move(`#${sliders[0].id}`, 2.5);
        seen.moved = entries();
        seen.csv = (await pictureOf(() => click("#csv"))).name;
        for (const slider of sliders.slice(1, 6)) await move(`#${slider.id}`, -1);
        seen.many = entries();
        const fan = document.querySelector("#fan");
        fan.value = "age";
        fan.dispatchEvent(new Event("change"));
        await frame();
        seen.legend = [...entries(), ...text("#fanned").split(/(?<=:|years)/), text("#scale")];
        seen.strokes = [...document.querySelectorAll("#paper > path[stroke-width]")]
            .map((one) => one.getAttribute("stroke"));
        seen.png = await pictureOf(() => click("#png"));
        const long = [["#000000", "of many words ".repeat(40).trim()]];
        seen.long = await pictureOf(async () =>
            download(await toPng(document.querySelector("#paper"), 900, [long, [[null, "end"]]])));
        const model = openModel(JSON.parse(text("#model")), text("#numbers"));
        seen.years = [...document.querySelectorAll("#risk svg text[y='150']")].map((one) => {
            const { x, width } = one.getBBox();
            return [one.textContent, x, x + width];
        });
        document.querySelector("#more-latents").open = true;
        const controls = document.querySelector("#controls");
        seen.controls = [controls.clientHeight, innerHeight, controls.scrollHeight];
        for (const { media } of document.styleSheets[0].cssRules) {
            if (media?.mediaText.includes("500px")) media.mediaText = "all";
        }
        seen.columns = ["thead tr", "tbody tr"].map((row) =>
            [...document.querySelector(`#features ${row}`).children].slice(-3).map((cell) =>
                cell.getBoundingClientRect().right));
        const title = "é".repeat(70);
        const person = { ...startState(model), person: "s2", shifts: { 1: -0.5 } };
        seen.names = [fileName(model, person, "csv"), fileName({ ...model, title }, person, "csv")];
        return seen;"""
    folder = tmp_path_factory.mktemp("saved")
    return run_in(tried["cox"].page.read_text("utf-8"), VISIT + steps, folder)


@needs_chromium
def test_moved_latents_are_named_where_the_subject_is(saved):
    now, pinned = saved["moved"]
    first, *others = saved["latents"]
    assert now[1:] == pinned.removeprefix("Pinned: a") + f", {first} +2.5 SD"
    named = ", ".join(f"{name} −1.0 SD" for name in others[:3])
    assert saved["many"][0] == f"{now}, {named}, 2 more latents moved"


@needs_chromium
def test_a_picture_has_the_whole_legend(saved):
    words = [each["word"] for each in saved["png"]["words"]]
    assert words[:6] == "Generated by the model a <b>".split()
    assert words[7:] == " ".join(saved["legend"]).split()
    fanned = saved["strokes"][-8:-1]
    assert len(set(fanned)) == 7
    assert saved["png"]["colors"][1:] == ["#000000", "#8a8a8a", *fanned]


@needs_chromium
def test_a_long_caption_goes_on_in_the_next_line(saved):
    assert all(each["inside"] for each in (*saved["png"]["words"], *saved["long"]["words"]))
    rows = [each["y"] for each in saved["long"]["words"]]
    assert len(set(rows)) > 3
    assert rows[-1] > rows[-2]


@needs_chromium
def test_a_file_is_named_after_what_it_holds(saved):
    pinned = saved["moved"][1].removeprefix("Pinned: ")
    *conditions, person = (re.sub("[ /]", "-", piece) for piece in pinned.split(", "))
    told = "_".join(conditions)
    assert saved["csv"] == (
        f"synthetic-ecg_a-b-model_{person}_{saved['latents'][0]}-+2.5-SD_{told}"
        f"_pinned_{person}_{told}.csv"
    )
    real, long = saved["names"]
    assert real.startswith("reconstructed-ecg_a-b-model_test-subject-2_z1-−0.5-SD_age-")
    assert long.endswith("-years_and-2-more.csv")
    assert len(long.encode()) < 255


@needs_chromium
def test_the_years_below_a_survival_curve_stand_apart(saved):
    names, left, right = zip(*saved["years"], strict=True)
    assert names[-2:] == ("10", "12")
    assert all(end < start for end, start in zip(right, left[1:], strict=False))


@needs_chromium
def test_on_a_wide_screen_many_controls_scroll_beside_the_ecg(saved):
    height, window, whole = saved["controls"]
    assert height <= window < whole


@needs_chromium
def test_on_a_narrow_screen_each_column_is_below_its_head(saved):
    head, body = saved["columns"]
    assert head == body


@pytest.fixture(scope="module")
def numbers(tried, tmp_path_factory):
    """What functions of the page of the Cox model give, and what it shows of a pinned person."""
    steps = """
        const model = openModel(JSON.parse(text("#model")), text("#numbers"));
        const start = startState(model);
        const [{ index }] = model.latent;
        const at = (parts) => [...ecgOf(model, { ...start, ...parts }).z];
        const moved = (parts) => [at(parts), at({ ...parts, shifts: { [index]: 2 } })];
        const real = { person: "s2", values: model.subjects[1].values };
        const encoded = [start, real].map(({ values }) => [...encodeConditions(model, values)]);
        const found = { index, encoded, typical: moved({}), real: moved(real) };
        const scaled = { ...model, head: { ...model.head, mean: 3, sd: 2 } };
        found.head = [model, scaled].map((one) => headOutput(one, at({}), encoded[0])[0]);
        found.binary = headInWords({ kind: "binary" }, [2]);
        found.number = headInWords({ kind: "regression", task: "lv" }, [-1234.5]);
        found.swept = sweepValues({ kind: "continuous", p5: 10, p95: 40, step: 1 }, 4);
        found.sides = [165, 170, -165, 160, -160].map((value) =>
            outside({ centre: 175 }, value, [165, 195]));
        const angle = (low, high) => ({ low: [low], high: [high], least: 0, most: 180 });
        found.possible = [[-5, 190], [190, 200], [-9, -1], [20, 10]].map((ends) =>
            middleRange(model, angle(...ends), start.values));
        drawSurvival(model, [[0, "was"], [1, "now"]]);
        found.heights = [...document.querySelectorAll("#risk polyline")].map((line) =>
            line.getAttribute("points").split(" ").map((point) => Number(point.split(",")[1])));
        let file = null;
        window.download = (blob) => { file = blob; };
        await click("#pin");
        await move("#condition-age", 79);
        await move(`#${document.querySelector("#latents input").id}`, 2);
        const other = { values: { ...start.values, age: 79 }, shifts: { [index]: 2 } };
        found.hazards = [{}, other].map((parts) => {
            const { z, encoded } = ecgOf(model, { ...start, ...parts });
            return headOutput(model, z, encoded)[0];
        });
        found.risk = text("#risk p");
        await click("#csv");
        found.csv = await file.text();
        found.pinned = [...ecgOf(model, start).ecg[0]];
        return found;"""
    folder = tmp_path_factory.mktemp("numbers")
    return run_in(tried["cox"].page.read_text("utf-8"), VISIT + steps, folder)


@needs_chromium
def test_a_latent_moves_a_drawn_person_before_the_prior_and_a_real_one_after_it(tried, numbers):
    model = tried["cox"].model
    mean, spread = model.prior.mixture.moments()
    step = 2 * spread * (np.arange(len(mean)) == numbers["index"])
    encoded = np.array(numbers["encoded"])
    for u, z in zip((mean, mean + step), numbers["typical"], strict=True):
        assert z == pytest.approx(model.prior.place(u[None], encoded[:1])[0], abs=1e-4)
    before, after = np.array(numbers["real"])
    expected, _ = model.encode(COHORT.ecg[:3], COHORT.subjects[:3])
    assert before == pytest.approx(expected[1], abs=1e-4)
    _, sd = model.prior._moments(encoded[1:])
    assert after - before == pytest.approx(step * sd[0], abs=1e-4)


@needs_chromium
def test_the_head_is_told_in_its_own_unit_and_as_a_ratio_to_what_is_pinned(numbers):
    plain, scaled = numbers["head"]
    assert scaled == pytest.approx(3 + 2 * plain)
    assert numbers["binary"] == "Probability 0.88"
    assert numbers["number"] == "Prediction (lv) −1230"
    before, now = numbers["hazards"]
    assert abs(now - before) > 0.05
    ratio = float(numbers["risk"].rsplit(" ", 1)[1].rstrip("."))
    assert ratio == pytest.approx(np.exp(now - before), rel=0.01)


@needs_chromium
def test_ends_of_ranges_belong_to_them_and_angles_turn(numbers):
    assert numbers["swept"] == [10, 20, 30, 40]
    assert numbers["sides"] == [0, 0, 0, -1, 1]
    assert numbers["possible"] == [[0, 180], None, None, None]


@needs_chromium
def test_survival_falls_on_the_page(numbers):
    assert len(numbers["heights"]) == 2
    for heights in numbers["heights"]:  # from above
        assert heights[0] < heights[-1]


@needs_chromium
def test_a_file_holds_what_is_pinned_beside_what_is_shown(numbers):
    table = pd.read_csv(io.StringIO(numbers["csv"]))
    assert table["pinned_I"].to_numpy() == pytest.approx(np.array(numbers["pinned"]), abs=1e-4)
    assert np.abs(table["I"] - table["pinned_I"]).max() > 0.01


# --- without a browser ----------------------------------------------------------------------------


def test_the_page_lays_out_paper_as_figures_do():
    script = (HERE / "paper.js").read_text("utf-8")
    for name in ("MARGIN", "GAP", "REACH"):
        assert f"const {name} = {getattr(paper, name):g};" in script


def test_the_scripts_are_clean(tmp_path):
    (tmp_path / "all.js").write_text(scripts(), encoding="utf-8")
    linter = shutil.which("oxlint", path=Path(sys.executable).parent)
    assert linter, "oxlint, which requirements.txt names, is not installed"
    settings = ROOT / "tests" / "oxlint.json"
    done = subprocess.run(
        [linter, "-c", settings, "all.js"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for name in SCRIPTS:
        lines = (HERE / f"{name}.js").read_text("utf-8").splitlines()
        assert max(map(len, lines)) <= 100, name
