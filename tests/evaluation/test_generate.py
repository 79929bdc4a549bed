"""ECGs from the shell: the files hold what the model generates, and mistakes are one line."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from matplotlib.image import imread

from data.conditions import Condition, ConditionError, ConditionSchema
from data.export import ExportError
from data.synthetic import simulate
from evaluation import generate
from evaluation.generate import generate_files, main, parse
from model.inputs import PREDICT_BATCH
from tests.fresh_process import run_fresh
from tests.one_line import one_line
from training.run_folder import RunError
from vae import VAE

CONDITIONS = [
    Condition("age", "continuous", "years", 0, 120),
    Condition("sex", "binary", categories=("male", "female")),
    Condition("lvef", "continuous", "%", 5, 90),
    Condition("lv_side", "categorical", categories=("low", "mid", "high")),
]


def model(encoding="standard", conditions=CONDITIONS):
    cohort = simulate(40, 0)
    subjects = cohort.subjects[["age", "sex"]].assign(lvef=np.linspace(30, 70, 40), lv_side="mid")
    schema = ConditionSchema(conditions, encoding).fit(subjects)
    vae = VAE(
        *((12, 400, 1), (2, 2), ((1, 40), (8, 1)), ("same", "valid"), 3, schema.dim),
        schema=schema,
        hidden=(8,),
    )
    return vae.adapt(cohort.ecg, subjects)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which a run called `small` lies."""
    folder = tmp_path_factory.mktemp("work")
    model().save(folder / "runs" / "small" / "model")
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


def table_of(out):
    return pd.read_csv(out / "subjects.csv")


refused = partial(one_line, main, "python -m evaluation.generate: ")


# --- what is written ----------------------------------------------------------------------------


def test_noise_is_that_of_the_model_and_is_said(tmp_path, here, capsys, monkeypatch):
    cohort = simulate(60, 0)
    vae = VAE(
        *((12, 400, 1), (2, 2), ((1, 40), (8, 1)), ("same", "valid"), 3, 5),
        schema=ConditionSchema(CONDITIONS[:2] + [Condition("bmi", "continuous")]).fit(
            cohort.subjects
        ),
        hidden=(8,),
        noise="per_sample",
    )
    vae.adapt(cohort.ecg, cohort.subjects).fit_noise(cohort.ecg, cohort.subjects)
    vae.save(tmp_path / "noisy")
    monkeypatch.setattr("model.noise.CHUNK", 7)  # other chunks than those of the ECGs
    arguments = ["--n", "600", "--age", "60", "--sex", "male", "--bmi", "25", "--format", "npz"]
    main([str(tmp_path / "noisy"), "--out", str(tmp_path / "out"), "--noise", *arguments])
    with np.load(tmp_path / "out" / "ecg.npz") as arrays:
        expected = vae.generate(600, noise=True, age=60, sex="male", bmi=25)
        np.testing.assert_allclose(arrays["ecg"], expected, atol=1e-5)
    assert set(table_of(tmp_path / "out")["model"]) == {"noisy, with observation noise"}
    assert "noise='" in refused(capsys, "small", "--out", "none", "--noise")
    assert not Path("none").exists()


AT = {"age": 63.0, "sex": "female", "lvef": 45.0, "lv_side": "high"}
TYPED = ("--age", "63", "--sex", "female", "--lvef", "45", "--lv-side", "high")


def written(out, format):
    """(N, 12, 400) as another program reads it, and the error that the format allows in mV."""
    names = table_of(out)["subject_id"]
    if format == "wfdb":
        records = [wfdb.rdrecord(str(out / name)) for name in names]
        return np.stack([record.p_signal.T for record in records]), 0.501e-3
    if format == "csv":
        tables = [pd.read_csv(out / f"{name}.csv") for name in names]
        return np.stack([table.to_numpy()[:, 1:].T for table in tables]), 0.051e-3
    with np.load(out / "ecg.npz") as file:
        return file["ecg"], 0


@pytest.mark.parametrize("format", ["wfdb", "csv", "npz"])
def test_the_files_hold_what_the_model_generates(here, tmp_path, format, capsys):
    out = tmp_path / "new" / "folder"
    main(["small", *TYPED, "--n", "5", "--seed", "7", "--format", format, "--out", str(out)])
    assert capsys.readouterr().out == f"5 ECGs, {format}: {out}\n"
    expected = VAE.load("runs/small").generate(n=5, seed=7, **AT)
    received, error = written(out, format)
    assert np.abs(received - expected).max() <= error
    assert np.ptp(expected, axis=0).max() > 0.01  # five different ECGs
    table = table_of(out)
    assert table["subject_id"].tolist() == [f"ecg_{row:06d}" for row in range(1, 6)]
    assert (table["seed"] == 7).all()
    assert (table["model"] == "small").all()
    for name, value in AT.items():
        assert (table[name] == value).all()
    assert all((out / file).is_file() for file in table["file"])
    assert not list(out.glob("*partial*"))


def test_more_ecgs_than_a_batch_are_those_of_one_call(here, tmp_path):
    n = PREDICT_BATCH + 3
    each = AT | {"age": np.linspace(20, 80, n)}
    generate_files("small", tmp_path, each, n, 1, "npz")
    expected = VAE.load("runs/small").generate(n=n, seed=1, **each)
    np.testing.assert_array_equal(written(tmp_path, "npz")[0], expected)
    np.testing.assert_allclose(table_of(tmp_path)["age"], each["age"])


def test_the_files_of_a_second_batch_have_the_conditions_of_their_ecgs(here, tmp_path):
    n = PREDICT_BATCH + 2
    generate_files("small", tmp_path, {"age": np.arange(n) / 8}, n)
    comments = wfdb.rdheader(str(tmp_path / f"ecg_{n:06d}")).comments
    assert f"age: {(n - 1) / 8:g} years" in comments
    table = table_of(tmp_path)
    assert table["subject_id"].is_unique
    assert table["age"].tolist() == (np.arange(n) / 8).tolist()


def test_a_record_says_that_it_is_synthetic_and_of_whom(here, tmp_path):
    conditions = {"age": 63, "sex": "female", "lvef": 45.5}
    generate_files("small", tmp_path, conditions, seed=3)
    comments = wfdb.rdheader(str(tmp_path / "ecg_000001")).comments
    assert comments[0].startswith("synthetic: ")
    assert comments[1:] == [
        "model: small, seed: 3, ECG ecg_000001",
        *("age: 63 years", "sex: female", "lvef: 45.5 %", "lv_side: unknown"),
    ]
    assert table_of(tmp_path)["lv_side"].isna().all()


def test_a_picture_is_the_ecg_on_paper_under_its_conditions(here, tmp_path, monkeypatch):
    drawn = []
    from evaluation.figures import ecg as figures

    original = figures.plot_ecg
    monkeypatch.setattr(
        figures,
        "plot_ecg",
        lambda *args, **more: drawn.append((args, more)) or original(*args, **more),
    )
    generate_files("small", tmp_path, {"age": 63, "sex": "male"}, 2, 0, "png")
    expected = VAE.load("runs/small").generate(n=2, seed=0, age=63, sex="male")
    for number, ((ecg,), more) in enumerate(drawn):
        np.testing.assert_allclose(ecg, expected[number])
        title = "Synthetic ECG, age 63 years, sex male, lvef unknown, lv_side unknown"
        assert more["title"] == title
    picture = imread(tmp_path / "ecg_000002.png")
    assert picture.shape[1] > 900
    assert table_of(tmp_path)["file"].tolist() == ["ecg_000001.png", "ecg_000002.png"]


def test_npz_tells_the_conditions_by_column(here, tmp_path):
    generate_files("small", tmp_path, {"age": [50, np.nan], "sex": ["male", None]}, format="npz")
    with np.load(tmp_path / "ecg.npz") as file:
        assert file["conditions"].tolist() == ["age", "sex", "lvef", "lv_side"]
        np.testing.assert_array_equal(file["age"], [50, np.nan])
        assert file["sex"].tolist() == ["male", ""]
        assert np.isnan(file["lvef"]).all()


def test_a_table_gives_each_ecg_its_own_conditions(here, tmp_path, capsys):
    table = tmp_path / "wanted.csv"
    table.write_text("name,age,sex\na,40,male\nb,,female\nc,80,\n")
    out = tmp_path / "out"
    main(
        ["small", "--conditions", str(table), "--lvef", "50", "--format", "npz", "--out", str(out)]
    )
    assert "no conditions of the model: name." in capsys.readouterr().out
    expected = VAE.load("runs/small").generate(
        seed=0, age=[40, None, 80], sex=["male", "female", None], lvef=50
    )
    np.testing.assert_array_equal(written(out, "npz")[0], expected)
    received = table_of(out)
    assert received["age"].fillna(-1).tolist() == [40, -1, 80]
    assert received["sex"].fillna("-").tolist() == ["male", "female", "-"]
    assert received["lvef"].tolist() == [50, 50, 50]


def test_the_names_of_categories_may_look_like_numbers(tmp_path):
    grades = [Condition("grade", "categorical", categories=("1", "2", "3"))]
    schema = ConditionSchema(grades)
    table = tmp_path / "wanted.csv"
    table.write_text("grade\n2\n3\n")
    assert schema.encode(generate.read_table(table, schema, {})).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_model_without_conditions_generates_too(tmp_path):
    plain = VAE((12, 400), (2, 2), ((1, 40), (8, 1)), ("same", "valid"), 3, 0, hidden=(8,))
    plain.save(tmp_path / "plain")
    generate_files(tmp_path / "plain", tmp_path / "out", n=2, seed=4, format="npz")
    with np.load(tmp_path / "out" / "ecg.npz") as file:
        np.testing.assert_array_equal(file["ecg"], plain.generate(n=2, seed=4))
    assert table_of(tmp_path / "out")["model"].tolist() == ["plain", "plain"]


def test_conditions_without_names_are_not_taken_as_zero(tmp_path):
    VAE((12, 400), (2, 2), ((1, 40), (8, 1)), ("same", "valid"), 3, 2).save(tmp_path / "plain")
    with pytest.raises(ConditionError, match="2 encoded conditions have no names"):
        generate_files(tmp_path / "plain", tmp_path / "out", n=2)
    assert not (tmp_path / "out").exists()


# --- files that are there -----------------------------------------------------------------------


def test_existing_files_are_not_overwritten_unasked(here, tmp_path, capsys):
    generate_files("small", tmp_path, AT, 4)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for format in generate.FORMATS:
        message = refused(capsys, "small", "--format", format, "--out", tmp_path)
        assert re.search("already. Choose another --out FOLDER, or --overwrite", message)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_file_in_the_way_is_enough_to_refuse(here, tmp_path):
    (tmp_path / "ecg_000002.dat").write_bytes(b"someone else's")
    with pytest.raises(ExportError, match="holds ecg_000002.dat already"):
        generate_files("small", tmp_path, AT, 2)
    assert len(list(tmp_path.iterdir())) == 1


def test_overwriting_leaves_nothing_of_the_longer_list_and_nothing_else_is_touched(here, tmp_path):
    generate_files("small", tmp_path, AT, 4)
    (tmp_path / "notes.txt").write_text("mine")
    generate_files("small", tmp_path, AT, 2, 1, "csv", overwrite=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"ecg_000001.csv", "ecg_000002.csv", "subjects.csv", "notes.txt"}


def test_a_generation_killed_before_its_first_line_or_while_it_makes_room_starts_again(
    here, tmp_path, monkeypatch
):
    generate_files("small", tmp_path, AT, 4)
    unlink = Path.unlink

    def killed(path, **options):
        if path.name == "ecg_000003.hea":
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            generate_files("small", tmp_path, AT, 2, overwrite=True)
    generate_files("small", tmp_path, AT, 2, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 5
    (tmp_path / "subjects.csv").write_text("")
    generate_files("small", tmp_path, AT, 2, overwrite=True)
    assert len(table_of(tmp_path)) == 2


def test_an_ecg_without_its_line_goes_with_the_others(here, tmp_path):
    generate_files("small", tmp_path, AT, 3, 0, "csv")
    lines = (tmp_path / "subjects.csv").read_text().splitlines(keepends=True)
    (tmp_path / "subjects.csv").write_text("".join(lines[:-1]))  # killed before the last one
    generate_files("small", tmp_path, AT, 1, 0, "csv", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"ecg_000001.csv", "subjects.csv"}


def test_a_table_has_a_row_for_each_ecg(here, tmp_path):
    table = pd.DataFrame({"age": [50, 60]})
    with pytest.raises(ExportError, match="table of conditions has 2 rows. Received: n=5"):
        generate_files("small", tmp_path, table, 5)


def test_a_table_of_real_subjects_is_never_overwritten(here, tmp_path):
    (tmp_path / "subjects.csv").write_text("subject_id,age\n1,50\n")
    with pytest.raises(ExportError, match="was not written by.*not overwritten"):
        generate_files("small", tmp_path, AT, overwrite=True)
    assert (tmp_path / "subjects.csv").read_text() == "subject_id,age\n1,50\n"


@pytest.mark.parametrize("format", ["wfdb", "csv"])
def test_what_an_interrupted_generation_lists_is_whole(here, tmp_path, format, monkeypatch, capsys):
    original = getattr(generate, f"write_{format}")

    def stopping(folder, name, *rest):
        if name == "ecg_000003":
            raise KeyboardInterrupt
        original(folder, name, *rest)

    monkeypatch.setattr(generate, f"write_{format}", stopping)
    message = refused(capsys, "small", *TYPED, "--n", 9, "--format", format, "--out", tmp_path)
    assert "interrupted. What subjects.csv lists is written" in message
    expected = VAE.load("runs/small").generate(n=9, seed=0, **AT)
    received, error = written(tmp_path, format)
    assert len(received) == 2
    assert np.abs(received - expected[:2]).max() <= error


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("small --out x --sex woman", "--sex: invalid choice: 'woman'.*male.*female"),
        ("small --out x --age old", "--age: invalid float value: 'old'"),
        ("small --out x --age inf", "age: expected a number of years. Received inf"),
        ("small --out x --shoes 43", "unrecognized arguments: --shoes 43"),
        ("small --out x --ag 43", "unrecognized arguments: --ag 43"),
        ("small --out x --n 0", "Expected n of 1 or more. Received: 0"),
        ("small --out x --n many", "--n: invalid int value: 'many'"),
        ("small --out x --seed -1", "--seed: expected 0 or more. Received: -1"),
        ("small --out x --format edf", "--format: invalid choice: 'edf'"),
        ("small --out x --conditions none.csv", "none.csv cannot be read"),
        ("small", "required: --out"),
        ("--out x small", "expected a run or model folder first"),
        ("", "expected a run or model folder first"),
        ("large --out x", "large is neither a run nor a model folder. Runs in runs"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(here, typed, message, capsys, monkeypatch):
    (here / "runs" / "small" / "config.json").write_text("{}")  # a run of this name is listed
    before = sorted(here.rglob("*"))
    assert re.search(message, refused(capsys, *typed.split()))
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("age\n", (), "expected rows and columns among.*0 rows of"),
        ("Age\n50\n", (), "Expected a column 'age'. Received 'Age'"),
        ("age\nold\n", (), "age: expected a number of years. Received 'old'"),
        ("sex\nwoman\n", (), "sex: expected one of .*Received 'woman' in row 0"),
        ("age\n50\n60\n", ("--age", 70), "age is in .*wanted.csv and on the command line"),
        ("age\n50\n60\n", ("--n", 3), "age 2, n = 3"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(here, tmp_path, content, more, message, capsys):
    (tmp_path / "wanted.csv").write_text(content)
    table, out = tmp_path / "wanted.csv", tmp_path / "out"
    shown = refused(capsys, "small", "--conditions", table, "--out", out, *more)
    assert re.search(message, shown)
    assert not out.exists()


def test_a_value_out_of_range_warns_once_and_is_generated(here, tmp_path, capsys):
    main(["small", "--age", "150", "--n", "300", "--format", "npz", "--out", str(tmp_path)])
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("Warning: age = 150 years is outside [0, 120]")
    assert len(table_of(tmp_path)) == 300


def test_a_model_that_has_to_be_told_everything_says_so(tmp_path, capsys):
    model("raw", CONDITIONS[:2]).save(tmp_path / "raw")
    assert "age is missing" in refused(capsys, tmp_path / "raw", "--sex", "male", "--out", "x")
    with pytest.raises(SystemExit):
        parse([str(tmp_path / "raw"), "--help"])
    assert re.search("--age NUMBER +years, 0 to 120, needed", capsys.readouterr().out)


def test_a_folder_without_a_model_and_a_damaged_one_are_named(tmp_path):
    with pytest.raises(RunError, match="neither a run nor a model folder"):
        parse([str(tmp_path)])
    (tmp_path / "parameters.json").write_text("{}")
    with pytest.raises(ConditionError, match="holds no model, or a damaged one"):
        parse([str(tmp_path)])


# --- help ---------------------------------------------------------------------------------------


def test_help_of_a_run_lists_its_conditions_with_units_and_ranges(here, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["small", "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--age NUMBER years, 0 to 120, unknown if left out" in shown
    assert "--lvef NUMBER %, 5 to 90, unknown if left out" in shown
    assert "--sex {male,female} unknown if left out" in shown
    assert "--lv-side {low,mid,high}, --lv_side {low,mid,high}" in shown


def test_a_condition_called_like_an_option_has_a_longer_flag(tmp_path, monkeypatch):
    columns = pd.DataFrame({"seed": [1.0, 2.0], "n": [3.0, 4.0]})
    schema = ConditionSchema([Condition("seed"), Condition("n")]).fit(columns)
    monkeypatch.setattr(generate, "read_schema", lambda folder: schema)
    monkeypatch.setattr(generate, "find_run", lambda name: name)
    arguments = "x --out y --seed 3 --n 4 --condition-seed 1.5 --condition_n 2"
    _, options, typed = parse(arguments.split())
    assert (options.seed, options.n) == (3, 4)
    assert typed == {"seed": 1.5, "n": 2}


def test_help_without_a_run_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; from evaluation.generate import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = run_fresh(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("--out", "--n", "--seed", "--format", "--conditions", "--overwrite", "one beat"):
        assert name in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Sex", "SEX ", "\ufeffsex"])
def test_a_table_with_a_look_alike_is_refused_before_any_ecg(here, tmp_path, capsys, name):
    (tmp_path / "table.csv").write_text(f"age,{name}\n50,female\n", "utf-8")
    out = tmp_path / "out"
    shown = refused(capsys, "small", "--out", out, "--conditions", tmp_path / "table.csv")
    assert "Expected a column 'sex'. Received" in shown
    assert not out.exists()


def test_spaces_around_a_name_are_taken_and_said_and_a_table_in_python_is_taken_too(
    here, tmp_path, capsys
):
    (tmp_path / "table.csv").write_text("age,sex \n50,female\n60,male\n")
    main(["small", "--out", str(tmp_path / "a"), "--conditions", str(tmp_path / "table.csv")])
    assert "the column 'sex ' is taken as 'sex'" in capsys.readouterr().out
    table = pd.DataFrame({"age": [50, 60], "sex": ["female", "male"]})
    generate_files("small", tmp_path / "b", table)
    for out in ("a", "b"):
        assert table_of(tmp_path / out)["sex"].tolist() == ["female", "male"]
    np.testing.assert_array_equal(*(written(tmp_path / out, "wfdb")[0] for out in ("a", "b")))
