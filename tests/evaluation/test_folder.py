"""The page about a folder of recordings."""

import re
from dataclasses import replace

import pytest

from data.synthetic import simulate
from evaluation import folder as program
from tests import recording_files as files
from tests.data.test_recordings import ONE, other, put
from tests.fresh_process import run_fresh
from tests.recording_files import SECRETS
from tests.simulated_strips import write_ptbxl


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """What the program prints and writes of a folder, and where that is; in a Python of its own."""
    place = tmp_path_factory.mktemp("looked")
    folder = place / SECRETS[0]
    for number, write in enumerate((files.muse, files.philips, files.scp, files.mfer)):
        put(folder, f"{SECRETS[1]} {number}", write(other(number, sex="FM"[number % 2])))
    put(folder, "copy", files.dicom(other(0)))
    put(folder, "short", files.scp(replace(ONE, strip=ONE.strip[:, :1000])))
    put(folder, "empty", b"")
    (folder / "subjects.csv").write_text(
        f"patient_id,date,sex,lvef\n{ONE.patient_id},2011-01-01,female,51\n"
    )
    code = (
        "import sys\nfrom evaluation import folder\n"
        f"folder.main([{str(folder)!r}, '--data.workers', '1', '--list', 'True'])\n"
        "print({'tensorflow', 'keras', 'torch'} & set(sys.modules))\n"
    )
    done = run_fresh(code, place)
    assert done.returncode == 0, done.stderr
    return done.stdout, (place / "recordings.html").read_text("utf-8"), place


def words(page):
    page = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_page_says_what_is_in_a_folder(looked):
    _, page, _ = looked
    text = words(page)
    assert "4 of 7 files can be used, of 1 patients" in text
    for row in (
        "GE MUSE XML 1 0",
        "SCP-ECG 1 1",  # one is too short
        "copy of another recording 1",
        "empty file 1",
        "shorter than 2.5 s 1",
        "age 4 years 62 62 62 62 62",
        "lvef 1 % 51",
    ):
        assert row in text, row
    assert "sex 4 female: 3, male: 1" in text  # the table has made one a woman
    assert "Copies of a recording" in text
    assert "Files against the table, which is taken" in text
    pictures = re.findall('alt="([^"]*)"', page)
    assert {"age", "sex", "lvef", "heart rate"} <= {name.replace("_", " ") for name in pictures}
    assert sum(bool(re.fullmatch("[0-9a-f]{16}", name)) for name in pictures) == 4  # beats
    assert len(re.findall("<figcaption>", page)) == 4  # a histogram says what it is of


def test_the_page_holds_no_names_and_refers_to_nothing_outside(looked):
    _, page, place = looked
    for secret in SECRETS:
        assert secret not in page
    assert "http" not in page
    assert str(place) not in page


def test_files_that_are_left_out_can_be_listed_by_name(looked):
    printed, _, _ = looked
    assert re.search("[0-9a-f]{16}  short  shorter than 2.5 s", printed)


def test_looking_needs_no_tensorflow(looked):
    printed, _, _ = looked
    assert printed.endswith("set()\n")


@pytest.mark.parametrize(
    ("given", "page"),
    [
        ("page.html", "page.html"),
        ("page.htm", "page.htm"),
        ("new", "new/recordings.html"),
        ("there.html", "there.html/recordings.html"),
    ],
)
def test_any_other_source_has_a_page_too_in_a_folder_if_one_is_given(tmp_path, given, page):
    write_ptbxl(tmp_path / "ptbxl", 3)
    (tmp_path / "there.html").mkdir()
    out = tmp_path / given
    options = {"--data.source": "ptbxl", "--data.cache": tmp_path / "cache", "--out": out}
    typed = [str(one) for pair in options.items() for one in pair]
    program.main([str(tmp_path / "ptbxl"), *typed, "--data.workers", "1"])
    text = words((tmp_path / page).read_text("utf-8"))
    assert "3 of 3 recordings can be used, of 3 patients; PTB-XL 500 Hz" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a folder first"),
        (["nowhere"], "Expected a folder of recordings. Received: nowhere"),
        (["nowhere", "--data.beats", "my"], "my"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        program.main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_beats_of_which_no_heart_rate_is_known_have_a_page_too(tmp_path, monkeypatch):
    cohort = simulate(30, 1)
    cohort.subjects = cohort.subjects[["subject_id", "patient_id", "age", "sex"]]
    cohort.save(tmp_path / "hospital")
    monkeypatch.chdir(tmp_path)
    program.main(["hospital", "--data.source", "prepared"])
    text = words((tmp_path / "recordings.html").read_text("utf-8"))
    assert len(re.findall("sim-0000[0-9]{2}", text)) == 12  # beats
    assert "heart_rate" not in text


def test_settings_are_refused_as_training_refuses_them(tmp_path, capsys):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(SystemExit):
        program.main([str(tmp_path), "--data.outcomes", str(tmp_path / "none.csv")])
    assert "none.csv is not there" in capsys.readouterr().err
