"""Settings: what is valid, that each is explained, and that each is read by somebody."""

import ast
import dataclasses
import importlib
import json
import math
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import config as config_of_the_project
from config import (
    CONDITIONS,
    CONFIG,
    PRESETS,
    Config,
    ConfigError,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
    to_dict,
)
from data.conditions import ConditionSchema
from tests.places import ROOT, code_files

SECTIONS = {
    one.name: type(getattr(CONFIG, one.name))
    for one in dataclasses.fields(CONFIG)
    if dataclasses.is_dataclass(getattr(CONFIG, one.name))
}
FIELDS = [(name, one.name) for name, kind in SECTIONS.items() for one in dataclasses.fields(kind)]


# --- presets ------------------------------------------------------------------------------------


def test_the_presets_of_the_documentation_are_there_and_write_to_folders_of_their_own():
    assert {"default", "quick", "paper", "ptbxl"} <= PRESETS.keys()
    assert all(isinstance(preset, Config) for preset in PRESETS.values())
    assert {name: preset.run for name, preset in PRESETS.items()} == {
        name: name for name in PRESETS
    }
    assert PRESETS["default"] is CONFIG


def test_the_paper_preset_is_the_published_network_objective_and_training():
    from vae import PUBLISHED

    paper = PRESETS["paper"]
    assert {name: getattr(paper.model, name) for name in PUBLISHED} == PUBLISHED
    assert paper.model == ModelConfig(
        conv_filters=(5, 5),
        conv_kernels=((1, 40), (12, 1)),
        conv_paddings=("same", "valid"),
        latent_space_dim=10,
        kl_weight=1.0,
        free_bits=0.0,
        condition_encoding="raw",
        **PUBLISHED,
    )
    training = paper.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (300, 32, 1e-3)
    assert (training.learning_rate_decay, training.kl_schedule) == ("none", "constant")
    assert (training.gradient_norm, training.augmentation, training.patience) == (0, 0, 0)
    assert training.warm_start is None


def test_the_known_conditions_go_by_their_names_and_make_a_schema():
    assert {name: condition.name for name, condition in CONDITIONS.items()} == {
        name: name for name in CONDITIONS
    }
    for preset in PRESETS.values():
        ConditionSchema([CONDITIONS[name] for name in preset.data.conditions])


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_is_plain_json(name):
    plain = json.loads(json.dumps(to_dict(PRESETS[name]), allow_nan=False))
    assert plain.keys() == {one.name for one in dataclasses.fields(Config)}
    for section, kind in SECTIONS.items():
        assert plain[section].keys() == {one.name for one in dataclasses.fields(kind)}
    assert plain["data"]["path"] == (
        None if PRESETS[name].data.path is None else str(PRESETS[name].data.path)
    )


def test_a_condition_has_one_line():
    with pytest.raises(ConfigError, match="CONDITIONS: expected one line for age. Received: 2"):
        config_of_the_project._by_name(CONDITIONS["age"], CONDITIONS["sex"], CONDITIONS["age"])


def test_lists_and_texts_in_an_edited_file_are_what_they_mean():
    data = DataConfig(source="ptbxl", path="ptb-xl", conditions=["age", "sex"])
    assert data == DataConfig(source="ptbxl", path=Path("ptb-xl"), conditions=("age", "sex"))
    kernels = [[1, 5], [12, 1]]
    assert ModelConfig(conv_kernels=kernels).conv_kernels == ((1, 5), (12, 1))
    with pytest.raises(ConfigError, match="data.conditions: expected a list in square brackets"):
        DataConfig(conditions=("age"))


def test_presets_of_real_ecgs_do_not_follow_an_edited_default(tmp_path, monkeypatch):
    text = (ROOT / "config.py").read_text("utf-8")
    edited = text.replace(
        'model=ModelConfig(noise="per_sample"', 'model=ModelConfig(noise="mse", kl_weight=2.0'
    ).replace("training=TrainingConfig(epochs=24", "training=TrainingConfig(epochs=24, kl_epochs=3")
    (tmp_path / "edited_config.py").write_text(edited, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    presets = importlib.import_module("edited_config").PRESETS
    assert (presets["default"].model.noise, presets["default"].training.kl_epochs) == ("mse", 3)
    for name in ("ptbxl", "recordings", "ukbiobank", "code15_prediction"):
        assert to_dict(presets[name]) == to_dict(PRESETS[name])


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.training.epochs = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.training = TrainingConfig()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "field", "values"),
    [
        (DataConfig, "data.path", {"source": "ptbxl"}),
        (DataConfig, "data.path", {"source": "prepared", "path": None}),
        (DataConfig, "data.subjects", {"subjects": 19}),
        (DataConfig, "data.sampling_rate", {"sampling_rate": 100.0}),
        (DataConfig, "data.millivolts_per_unit", {"millivolts_per_unit": -0.2}),
        (DataConfig, "data.workers", {"workers": -1}),
        (DataConfig, "data.seed", {"seed": -1}),
        (DataConfig, "data.conditions", {"conditions": ("age", "shoe_size")}),
        (DataConfig, "data.conditions", {"conditions": ("age", "sex", "age")}),
        (DataConfig, "data.*_fraction", {"validation_fraction": 0.0}),
        (DataConfig, "data.*_fraction", {"test_fraction": -0.1}),
        (DataConfig, "data.test_fraction", {"test_fraction": math.nan}),
        (DataConfig, "data.*_fraction", {"validation_fraction": 0.5, "test_fraction": 0.5}),
        (ModelConfig, "model.conv_*", {"conv_filters": (5, 5, 5)}),
        (
            ModelConfig,
            "model.conv_*",
            {"conv_filters": (), "conv_kernels": (), "conv_paddings": ()},
        ),
        (ModelConfig, "model.conv_kernels", {"conv_kernels": ((1, 40, 1), (12, 1))}),
        (ModelConfig, "model.latent_space_dim", {"latent_space_dim": 0}),
        (ModelConfig, "model.latent_space_dim", {"latent_space_dim": True}),
        (ModelConfig, "model.hidden", {"hidden": (8, 0)}),
        (ModelConfig, "model.noise", {"noise": 0.0}),
        (ModelConfig, "model.profile_power", {"profile_power": 1.1}),
        (ModelConfig, "model.profile_power", {"profile_power": -0.1}),
        (ModelConfig, "model.time_warp", {"time_warp": 1}),
        (ModelConfig, "model.condition_dropout", {"condition_dropout": 1.0}),
        (ModelConfig, "model.condition_dropout", {"condition_dropout": -0.1}),
        (ModelConfig, "model.kl_weight", {"kl_weight": -1.0}),
        (ModelConfig, "model.kl_weight", {"kl_weight": math.nan}),
        (ModelConfig, "model.free_bits", {"free_bits": -0.5}),
        (ModelConfig, "model.task_weight", {"task_weight": -1.0}),
        (ModelConfig, "model.target", {"task": "binary"}),
        (TrainingConfig, "training.epochs", {"epochs": 0}),
        (TrainingConfig, "training.batch_size", {"batch_size": -64}),
        (TrainingConfig, "training.kl_epochs", {"kl_epochs": 0}),
        (TrainingConfig, "training.learning_rate", {"learning_rate": 0.0}),
        (TrainingConfig, "training.learning_rate", {"learning_rate": math.inf}),
        (TrainingConfig, "training.learning_rate", {"learning_rate": math.nan}),
        (TrainingConfig, "training.gradient_norm", {"gradient_norm": -1.0}),
        (TrainingConfig, "training.patience", {"patience": -1}),
        (TrainingConfig, "training.devices", {"devices": 0}),
        (TrainingConfig, "training.augmentation", {"augmentation": -0.5}),
        (TrainingConfig, "training.warm_start", {"freeze": True}),
        (TrainingConfig, "training.seed", {"seed": -1}),
        (EvaluationConfig, "evaluation.bootstrap", {"bootstrap": 99}),
        (EvaluationConfig, "evaluation.generated", {"generated": 1}),
        (EvaluationConfig, "evaluation.examples", {"examples": 0}),
        (EvaluationConfig, "evaluation.seed", {"seed": -1}),
        (Config, "run", {"run": ""}),
        (Config, "run", {"run": "../elsewhere"}),
        (Config, "run", {"run": "a/b"}),
        (Config, "run", {"run": ".hidden"}),
        (Config, "run", {"run": "two words"}),
        (Config, "run", {"run": "line\n"}),
        (Config, "training.watch", {"training": TrainingConfig(watch="c_index")}),
        (ModelConfig, "model.deviations", {"deviations": "absolute", "noise": "mse"}),
        (
            Config,
            "model.task",
            {"training": TrainingConfig(freeze=True, warm_start=Path("runs/a"))},
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_one_sentence_with_its_field(section, field, values):
    with pytest.raises(ConfigError) as caught:
        section(**values)
    pattern = rf"{re.escape(field)}: expected .+\. Received: .+\."  # "." matches no line end
    assert re.fullmatch(pattern, str(caught.value))


# What some choices ask for beside them.
COMPANIONS = {
    DataConfig: {"path": Path("somewhere")},
    ModelConfig: {"target": "diabetes", "noise": "per_sample"},
}
CHOICES = [
    (kind, name, get_args(hint))
    for kind in SECTIONS.values()
    for name, hint in get_type_hints(kind).items()
    if get_origin(hint) is Literal
]


@pytest.mark.parametrize(("section", "name", "choices"), CHOICES)
def test_a_choice_that_is_not_offered_is_refused_in_python_too(section, name, choices):
    with pytest.raises(ConfigError, match=rf"{name}: expected one of .*Received: 'nonsense'"):
        section(**{name: "nonsense"})
    for choice in choices:
        assert getattr(section(**COMPANIONS.get(section, {}), **{name: choice}), name) == choice


def test_replacing_a_field_checks_it_again():
    with pytest.raises(ConfigError, match="training.epochs"):
        dataclasses.replace(CONFIG.training, epochs=0)


# --- each field is explained and read -----------------------------------------------------------


def sentences():
    """(class, field) -> the string below the field in config.py."""
    found = {}
    for node in ast.parse((ROOT / "config.py").read_text("utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for line, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[node.name, line.target.id] = below.value.value
    return found


@pytest.mark.parametrize(("section", "name"), [(None, "run"), *FIELDS])
def test_each_field_is_explained_in_a_sentence_below_it(section, name):
    kind = "Config" if section is None else SECTIONS[section].__name__
    sentence = sentences()[kind, name]
    assert re.fullmatch(r"[A-Z].*\.", sentence)
    assert "\n" not in sentence


class Source:
    """What the project's code, apart from config.py itself, does with settings."""

    def __init__(self):
        self.reads = set()  # (section, field)
        self.passed_on = set()  # sections that are handed over field by field
        self.parameters = set()  # that some constructor reads
        for path in code_files():
            # `data` knows no configuration: what its `settings` are, only their docstring says.
            known = {"settings": "data"} if path == ROOT / "data" / "__init__.py" else {}
            if path.name != "config.py":
                for part in ast.parse(path.read_text("utf-8")).body:
                    self.scan(part, known)

    def scan(self, tree, known):
        """Collects `config.section.field`, and `name.field` where name stands for a section.

        What a name stands for holds within one function or class.
        """
        called = {"config": "config", **{section: section for section in SECTIONS}, **known}
        classes = {kind.__name__: section for section, kind in SECTIONS.items()}
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name):
                called[node.arg] = classes.get(node.annotation.id, called.get(node.arg))
            if isinstance(node, ast.Assign):
                for target, value in pairs(node.targets[0], node.value):
                    if getattr(value, "attr", None) in SECTIONS:
                        called[last_name(target)] = value.attr
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self.reads.add((called.get(last_name(node.value)), node.attr))
            elif isinstance(node, ast.Call) and last_name(node.func) in ("to_dict", "asdict"):
                # `to_dict(config.model)` goes on to a constructor; a section alone only to a file.
                parts = [given for given in node.args if isinstance(given, ast.Attribute)]
                self.passed_on.update(part.attr for part in parts)
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                loaded = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                given = {one.arg for one in [*node.args.args, *node.args.kwonlyargs]}
                self.parameters |= given & loaded

    def reads_field(self, section, name):
        """Whether the field is read by name, or arrives as an argument that is read."""
        handed_over = section in self.passed_on and name in self.parameters
        return (section, name) in self.reads or handed_over


def pairs(target, value):
    """What `a = x`, or `a, b = x, y`, gives to whom."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return zip(target.elts, value.elts, strict=True)
    return [(target, value)]


def last_name(node):
    """`c` of `a.b.c`, `a` of `a`."""
    return getattr(node, "attr", getattr(node, "id", None))


SOURCE = Source()


@pytest.mark.parametrize(("section", "name"), [("config", "run"), *FIELDS])
def test_each_field_is_read_by_the_project(section, name):
    assert SOURCE.reads_field(section, name), f"{section}.{name} is set in config.py and never read"


def test_the_search_for_readers_would_miss_a_field_that_nobody_reads():
    assert not SOURCE.reads_field("training", "momentum")
    assert not SOURCE.reads_field("evaluation", "epochs")  # others have a field of this name
    assert not SOURCE.reads_field("model", "bootstrap")
