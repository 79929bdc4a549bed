"""The notebooks run as they are committed, and their outputs are whole, small and anonymous.

`python -m tests.end_to_end.test_notebooks` runs them anew and keeps the outputs.
"""

import base64
import io
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.places import ROOT, code_files

PICTURES = {"explore": 7, "risk": 4, "bring_your_own_data": 2}
NOTEBOOKS = tuple(PICTURES)
RUN = "prediction_quick"  # what `risk` trains
PAGES = (".html", ".js", ".css")
LARGEST = 400_000  # bytes of a notebook
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'(=,>])(?:/\w|~/|[A-Za-z]:\\)""", re.MULTILINE)


# Added to a copy of train.py: what a notebook trains is trained less, and judged by less.
LESS = """

_train = train


def train(config):
    from dataclasses import replace
    from unittest import mock

    from vae import VAE

    compiled = VAE.compile

    def compile_eagerly(self, jit_compile=False, **arguments):  # a few steps are done sooner so
        compiled(self, run_eagerly=True, **arguments)

    training = replace(config.training, epochs=2, batch_size=512, xla=False)
    evaluation = replace(config.evaluation, bootstrap=100, examples=1)
    with (
        mock.patch.object(VAE, "compile", compile_eagerly),
        mock.patch("evaluation.judge._generator_metrics", return_value={}),
        mock.patch("evaluation.judge.draw", return_value={}),
        mock.patch("evaluation.explorer.page.write_explorer"),
    ):
        return _train(replace(config, training=training, evaluation=evaluation))
"""


def path_of(name):
    return ROOT / "notebooks" / f"{name}.ipynb"


def execute(name, folder, start=".", added="", until=""):
    """Runs a notebook with a kernel of its own in a copy of the code, so that the checkout stays as
    it is. `start` is the working directory within the copy; `added` ends the copy of train.py;
    the last cell to be run is the first that holds `until`, if that is given."""
    code = Path(folder) / "code"
    pages = [path for path in ROOT.glob("evaluation/*/*") if path.suffix in PAGES]
    resources = [*pages, *ROOT.glob("trained/*/*")]
    for source in [*code_files(), *resources]:
        target = code / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    with (code / "train.py").open("a", encoding="utf-8") as file:
        file.write(added)
    (code / "notebooks").mkdir(exist_ok=True)
    notebook = nbformat.read(path_of(name), as_version=4)
    if until:
        last = next(n for n, cell in enumerate(notebook.cells) if until in cell.source)
        del notebook.cells[last + 1 :]
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        # TensorFlow's start-up notes, which no setting silences (its issue 100442), are written by
        # C++: they stay out of the notebook, what Python writes to stderr does not.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        resources={"metadata": {"path": str(code / start)}},
    )
    with pytest.MonkeyPatch.context() as patch:  # nobody's own start-up files, no traces at home
        patch.setenv("IPYTHONDIR", str(Path(folder) / "ipython"))
        patch.setenv("JUPYTER_CONFIG_DIR", str(Path(folder) / "jupyter"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(Path(folder) / "runtime"))
        client.execute()
    return notebook, code


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def kinds(notebook):
    """What each cell gives: streams by name, displays by their formats."""
    return [
        [output.get("name") or sorted(output.get("data", ["error"])) for output in cell.outputs]
        for cell in code_cells(notebook)
    ]


def text_of(output):
    """What can be read in an output: all but pictures."""
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(data[k] for k in data if k.startswith("text/"))])


@pytest.fixture(params=NOTEBOOKS)
def committed(request):
    return nbformat.read(path_of(request.param), as_version=4)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Notebooks run where nothing is trained yet, one from either working directory."""
    folder = tmp_path_factory.mktemp("notebooks")
    starts = dict.fromkeys(NOTEBOOKS, ".") | {"explore": "notebooks"}
    return folder, {name: execute(name, folder / name, starts[name], LESS) for name in NOTEBOOKS}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_nothing_and_gives_what_is_committed(fresh, name):
    notebook, code = fresh[1][name]
    assert [text_of(o) for o in outputs_of(notebook) if o.get("name") == "stderr"] == []
    assert kinds(notebook) == kinds(nbformat.read(path_of(name), as_version=4))
    assert not (code / "notebooks" / "runs").exists()


def test_a_saved_model_gives_the_same_ecgs_after_loading(fresh):
    last = outputs_of(fresh[1]["explore"][0])[-1]
    assert "largest difference 0 mV" in text_of(last)


def test_a_notebook_run_again_loads_what_it_trained(fresh):
    notebook, code = fresh[1]["risk"]
    assert "epoch   1/" in "".join(text_of(output) for output in outputs_of(notebook))
    assert (code / "runs" / RUN / "report.html").is_file()
    again, _ = execute("risk", fresh[0] / "risk", added=LESS, until="VAE.load")
    assert "epoch   1/" not in "".join(text_of(output) for output in outputs_of(again))
    assert code_cells(again)[-1].execution_count == 3


def test_every_notebook_is_tested():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


def test_committed_outputs_are_of_one_run_from_top_to_bottom(committed):
    nbformat.validate(committed)
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1))


def test_committed_outputs_hold_no_errors_and_no_warnings(committed):
    outputs = outputs_of(committed)
    assert {output.output_type for output in outputs} <= {
        *("stream", "execute_result", "display_data")
    }
    assert "stderr" not in {output.get("name") for output in outputs}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_committed_notebook_has_all_its_pictures(name):
    outputs = outputs_of(nbformat.read(path_of(name), as_version=4))
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]


def test_committed_notebooks_tell_nothing_of_the_machine(committed):
    assert committed.metadata == METADATA
    assert all(cell.metadata == {} for cell in committed.cells)
    for output in outputs_of(committed):
        assert not ABSOLUTE_PATH.search(text_of(output)), text_of(output)
        if platform.node():
            assert not re.search(rf"\b{re.escape(platform.node())}\b", text_of(output))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_committed_notebook_is_small(name):
    assert path_of(name).stat().st_size < LARGEST, "run this file as a script, see its first lines"


def compact(png):
    """Base64 of a PNG -> the same with a palette of 64 colours, a quarter of the size."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main():
    for name in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook, _ = execute(name, folder)
        notebook.metadata = nbformat.from_dict(METADATA)
        for output in outputs_of(notebook):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = compact(output.data["image/png"])
        partial = path_of(name).with_suffix(".partial")
        nbformat.write(notebook, partial)
        os.replace(partial, path_of(name))
        print(f"{name}: {path_of(name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
