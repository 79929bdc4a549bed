"""Imports run one way, and no two files import each other."""

import ast
from typing import NamedTuple

import pytest

from tests.places import ROOT, code_files

# A file may import what stands before its own place, and its own place; `train` is last, so that
# nothing imports it.
ORDER = [
    *("data", "config", "model", "vae", "vae_prediction", "training"),
    *("evaluation.measures", "evaluation.figures", "evaluation.report", "evaluation", "train"),
]
# What a place must not know, though it stands before it.
FOREIGN = {"model": ("config", "data.cohort", "data.outcomes", "data.readers", "data.synthetic")}
# `VAE.load_published` builds models of the classes above it, inside a function.
ALLOWED = {("model.published", "vae"), ("model.published", "vae_prediction")}


class Import(NamedTuple):
    source: str
    target: str
    within: bool  # a function


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path, modules):
    """All imports of the project's own modules, wherever they stand in the file."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    within = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            known = name if name in modules else name.rpartition(".")[0]
            if known in modules and known != module_of(path):
                yield Import(module_of(path), known, id(node) in within)


def found():
    modules = {module_of(path) for path in code_files()}
    return {one for path in code_files() for one in imports_of(path, modules)}


def place(module):
    """The longest entry of `ORDER` that the module lies in."""
    lies_in = [one for one in ORDER if module == one or module.startswith(f"{one}.")]
    return max(lies_in, key=len)


def against_the_arrows(imports):
    for one in imports:
        source, target = place(one.source), place(one.target)
        foreign = [
            name
            for name in FOREIGN.get(source, ())
            if one.target == name or one.target.startswith(f"{name}.")
        ]
        if ORDER.index(target) > ORDER.index(source) or foreign:
            if (one.source, one.target) in ALLOWED and one.within:
                continue
            yield f"{one.source} imports {one.target}"


def circles(imports):
    """Modules that import each other, over however many others."""
    graph = {}
    for one in imports:
        if (one.source, one.target) not in ALLOWED:
            graph.setdefault(one.source, set()).add(one.target)

    def reached(start):
        seen, waiting = set(), list(graph.get(start, ()))
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        return seen

    return sorted(module for module in graph if module in reached(module))


def test_no_import_runs_against_the_arrows():
    assert sorted(against_the_arrows(found())) == []


def test_no_files_import_each_other():
    assert circles(found()) == []


def test_the_root_holds_what_people_run():
    names = {path.name for path in ROOT.glob("*.py")}
    assert names == {"config.py", "train.py", "vae.py", "vae_prediction.py"}


@pytest.mark.parametrize(
    ("source", "target", "within", "wrong"),
    [
        ("model.network", "vae", True, True),
        ("model.published", "vae", False, True),
        ("model.published", "vae", True, False),
        ("model.cox", "config", False, True),
        ("model.inputs", "data.rows", False, False),
        ("data.cohort", "config", False, True),
        ("training.fit", "evaluation.judge", True, True),
        ("evaluation.measures.latent", "evaluation.figures.ecg", False, True),
        ("evaluation.again", "train", True, True),
        ("train", "evaluation.judge", True, False),
    ],
)
def test_an_import_against_the_arrows_would_be_seen(source, target, within, wrong):
    assert bool(list(against_the_arrows([Import(source, target, within)]))) is wrong


def test_circles_would_be_seen():
    around = [Import("a", "b", False), Import("b", "c", True), Import("c", "a", False)]
    assert circles([*around, Import("d", "a", False)]) == ["a", "b", "c"]
