"""Every setting of a run, with its meaning, in one place.

`CONFIG` is what `python train.py` runs: edit it here, start from another entry of `PRESETS`
(`python train.py --preset quick`), or change single fields (`--training.epochs 50`).
In Python a configuration cannot be changed, but another made of it:
`replace(CONFIG, training=replace(CONFIG.training, epochs=50))`, with `dataclasses.replace`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data.conditions import Condition
from data.tasks import TASKS, kind_of

# Findings of echocardiography as EchoNext has them.
ECHO_FLAGS = (
    *("lvef_lte_45", "lvwt_gte_13", "pasp_gte_45", "tr_max_gte_32"),
    *("aortic_stenosis_moderate_or_greater", "aortic_regurgitation_moderate_or_greater"),
    *("mitral_regurgitation_moderate_or_greater", "tricuspid_regurgitation_moderate_or_greater"),
    "pulmonary_regurgitation_moderate_or_greater",
    "rv_systolic_dysfunction_moderate_or_greater",
    "pericardial_effusion_moderate_large",
)

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """A setting that makes no sense, alone or with another one."""


def _by_name(*conditions: Condition) -> dict[str, Condition]:
    names = [condition.name for condition in conditions]
    for name in names:
        _check(names.count(name) == 1, "CONDITIONS", f"one line for {name}", names.count(name))
    return dict(zip(names, conditions, strict=True))


def _check(true: bool, name: str, expected: str, received: object) -> None:
    if not true:
        raise ConfigError(f"{name}: expected {expected}. Received: {received!r}.")


# What a condition named in `data.conditions` is. To condition on another column of your table, add
# a line here, and its name to `data.conditions`.
CONDITIONS = _by_name(
    Condition("age", "continuous", "years", 0, 120),
    Condition("sex", "binary", categories=("male", "female")),
    Condition("bmi", "continuous", "kg/m2", 10, 80),
    Condition("lvef", "continuous", "%", 5, 90),
    Condition("lv_mass", "continuous", "g", 20, 500),
    Condition("lvedv", "continuous", "mL", 30, 500),
    *(Condition(name, "binary", categories=("no", "yes")) for name in ECHO_FLAGS),
    Condition("heart_angle_frontal", "continuous", "degrees", -180, 180),
    Condition("heart_angle_transverse", "continuous", "degrees", -180, 180),
)


@dataclass(frozen=True)
class DataConfig:
    """Where the ECGs come from, and how they are divided."""

    source: Literal[
        (
            *("synthetic", "recordings", "ptbxl", "code15", "ukbiobank"),
            *("challenge", "mimic", "sph", "echonext", "arrays", "prepared"),
        )
    ] = "synthetic"
    """Reader: the simulated cohort, your recordings, a data set, arrays, or a prepared cohort."""
    path: Path | None = None
    """Folder or file that the reader reads; the simulated cohort needs none."""
    cache: Path = Path("cache")
    """Folder in which median beats are kept once they are prepared."""
    sampling_rate: float = 500.0
    """Hz: which of the two versions of PTB-XL to read (100, 500); or of arrays, made 500 then."""
    qrs_sample: int | None = None
    """Sample of arrays on which the QRS is centred, to cut 400 samples around; None: cut so."""
    beats: Literal["median", "strip", "stored"] = "median"
    """Ours from the strips, or the recorder's "stored"; "median" is stored in UK Biobank only."""
    recordings: Literal["all", "first", "last"] = "all"
    """Which of several recordings of a patient are taken, of your recordings."""
    keep_ids: bool = False
    """Keep names of files and patients of your recordings, instead of keyed hashes."""
    millivolts_per_unit: float = 0.0
    """What one unit of EchoNext stands for, in mV; 0: not known, amplitudes are in such units."""
    subjects: int = 6000
    """Size of the simulated cohort."""
    seed: int = 0
    """Seed of the simulated cohort and of the division by patient."""
    outcomes: Path | None = None
    """CSV of outcomes (`subject_id` or `patient_id`, `time`, `event` ...) to join to the cohort."""
    outcome_columns: tuple[str, ...] = ("time", "event")
    """Columns of that table to join."""
    time_unit: Literal["years", "months", "days"] = "years"
    """Unit of the column `time` in your table; it is turned into years as it is read."""
    conditions: tuple[str, ...] = ("age", "sex", "bmi")
    """Names from `CONDITIONS` of what encoder and decoder are told of the subject."""
    split: Literal["random", "fold"] = "random"
    """Divide patients at random, or by the column `fold` (10 test, 9 validation)."""
    validation_fraction: float = 0.1
    """Share of the patients that early stopping watches; unused when split by fold."""
    test_fraction: float = 0.15
    """Share of the patients that all metrics are measured on; unused when split by fold."""
    workers: int = 0
    """Processes that prepare median beats; 0 is one per core."""

    def __post_init__(self) -> None:
        _check_types("data.", self)
        _check(self.source == "synthetic" or self.path is not None, "data.path", "a path", None)
        rate, sample, arrays = self.sampling_rate, self.qrs_sample, self.source == "arrays"
        known = rate == 500 or (rate == 100 and self.source == "ptbxl")
        known = 50 <= rate <= 10_000 if arrays else known
        expected = "50 to 10000 of arrays, 100 or 500 of ptbxl, 500 of any other source"
        _check(known, "data.sampling_rate", expected, rate)
        named = sample is None or (arrays and sample >= 0)
        _check(named, "data.qrs_sample", "0 or more, of arrays only", sample)
        _check(self.subjects >= 20, "data.subjects", "at least 20", self.subjects)
        _check(self.seed >= 0, "data.seed", "0 or more", self.seed)
        _check(self.workers >= 0, "data.workers", "0 or more", self.workers)
        scale = self.millivolts_per_unit
        _check(scale >= 0, "data.millivolts_per_unit", "above 0, or 0", scale)
        for name in self.conditions:
            expected = f"among {list(CONDITIONS)}, or a line of its own in CONDITIONS in config.py"
            _check(name in CONDITIONS, "data.conditions", expected, name)
        unique = len(set(self.conditions)) == len(self.conditions)
        _check(unique, "data.conditions", "each name once", self.conditions)
        shares = self.validation_fraction, self.test_fraction
        _check(min(shares) > 0 and sum(shares) < 1, "data.*_fraction", "above 0, sum < 1", shares)


@dataclass(frozen=True)
class ModelConfig:
    """The network. `vae.VAE` documents each choice."""

    conv_filters: tuple[int, ...] = (5, 5)
    """Filters of each encoder convolution; the decoder mirrors them."""
    conv_kernels: tuple[tuple[int, int], ...] = ((1, 40), (12, 1))
    """Kernels as (leads, samples); one over all leads covers all that the network works on."""
    conv_paddings: tuple[Literal["same", "valid"], ...] = ("same", "valid")
    """Padding of each convolution."""
    latent_space_dim: int = 10
    """Number of latent dimensions."""
    hidden: tuple[int, ...] = (128,)
    """Widths of dense layers before the latent heads, mirrored in the decoder."""
    independent_only: bool = True
    """Generate the independent leads and derive the others exactly."""
    batch_normalization: bool = False
    """Batch normalisation after each layer, as published."""
    output: Literal["linear", "elu_batchnorm"] = "linear"
    """Last layer of the decoder; "elu_batchnorm" as published."""
    linear_path: bool = True
    """A linear encoder and decoder beside the convolutions, started at conditional PCA."""
    time_warp: int = 0
    """Knots at which the decoder sets how fast time runs, so that waves can move; 0 is none."""
    noise: Literal["per_sample", "per_recording", "learned", "mse"] | float = "per_recording"
    """Observation noise: of each lead and sample, one for all, a level in mV, or none: "mse"."""
    profile_power: float = 0.7
    """How far training goes by the noise of each lead and sample: 0 is not, 1 gives up the QRS."""
    deviations: Literal["squared", "absolute"] = "squared"
    """What training counts of each sample of noise "per_sample": its square, or its size."""
    kl_weight: float = 1.0
    """Final weight of the KL term."""
    free_bits: float = 0.0
    """Nats per latent dimension below which the KL term does not push."""
    condition_dropout: float = 0.1
    """Probability in training that a condition is hidden, so that it can be left out later."""
    condition_encoding: Literal["standard", "raw"] = "standard"
    """Scaled with room for missing values, or the bare numbers as published."""
    task: Literal[("none", *TASKS)] = "none"
    """What a head on the latent space predicts; "cox" reads the columns `time` and `event`."""
    target: str = ""
    """Column of the subjects that the other tasks predict."""
    head_inputs: Literal["latent", "latent_and_conditions"] = "latent"
    """What the head is told."""
    task_weight: float = 1.0
    """Weight of the task's loss, per subject, against the evidence lower bound per ECG."""
    ties: Literal["efron", "breslow"] = "efron"
    """How the Cox partial likelihood treats simultaneous events."""

    def __post_init__(self) -> None:
        _check_types("model.", self)
        names = ("conv_filters", "conv_kernels", "conv_paddings")
        layers = {name: len(getattr(self, name)) for name in names}
        sizes = {*layers.values()}
        _check(len(sizes) == 1 and 0 not in sizes, "model.conv_*", "one entry per layer", layers)
        size, dropout = self.latent_space_dim, self.condition_dropout
        _check(size > 0, "model.latent_space_dim", "1 or more", size)
        _check(min(self.hidden, default=1) > 0, "model.hidden", "widths above 0", self.hidden)
        level = 1.0 if isinstance(self.noise, str) else self.noise
        _check(level > 0, "model.noise", "a number of mV above 0", self.noise)
        _check(0 <= dropout < 1, "model.condition_dropout", "in [0, 1)", dropout)
        _check(self.kl_weight >= 0, "model.kl_weight", "0 or more", self.kl_weight)
        power = self.profile_power
        _check(0 <= power <= 1, "model.profile_power", "in [0, 1]", power)
        fitted = self.deviations == "squared" or self.noise == "per_sample"
        _check(fitted, "model.deviations", 'squared, unless noise is "per_sample"', "absolute")
        knots = self.time_warp
        _check(knots == 0 or knots >= 2, "model.time_warp", "0, or 2 knots or more", knots)
        _check(self.free_bits >= 0, "model.free_bits", "0 or more", self.free_bits)
        _check(self.task_weight >= 0, "model.task_weight", "0 or more", self.task_weight)
        named = kind_of(self.task) in ("none", "survival") or self.target
        _check(bool(named), "model.target", f"a column for the task {self.task}", self.target)


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained."""

    epochs: int = 30
    """Most epochs to train."""
    batch_size: int = 64
    """ECGs per step; the last, incomplete batch of an epoch is left out."""
    learning_rate: float = 2e-3
    """Of Adam, at the start."""
    learning_rate_decay: Literal["none", "cosine"] = "cosine"
    """Constant, or a half cosine to zero over all epochs."""
    gradient_norm: float = 0.0
    """Gradients longer than this are shortened to it; 0 leaves them as they are."""
    kl_schedule: Literal["constant", "warm-up", "cyclical"] = "constant"
    """How the KL weight reaches `model.kl_weight`."""
    kl_epochs: int = 10
    """Epochs of the warm-up, or of one cycle (rising for its first half)."""
    patience: int = 10
    """Epochs without a better value of what `watch` names, to stop after; 0 never stops."""
    augmentation: float = 0.0
    """Random changes to training beats, as multiples of the SDs in `model.augment`; 0 is none."""
    watch: Literal["objective", "partial_likelihood", "c_index"] = "objective"
    """What early stopping and the best epoch go by, on the validation split."""
    warm_start: Path | None = None
    """Run or model folder whose encoder and decoder training starts from."""
    freeze: bool = False
    """Train nothing but the head after a warm start."""
    seed: int = 0
    """Of weights, shuffling, sampling, dropout and augmentation."""
    xla: bool = True
    """Compile the training step with XLA."""
    devices: Literal["auto"] | int = "auto"
    """Devices that share each batch: a number of GPUs (or CPU devices), or "auto": all GPUs."""
    tensorboard: bool = False
    """Write curves, the KL of each latent and reconstructions for TensorBoard, as it trains."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Keras's precision policy; float32 on a CPU."""

    def __post_init__(self) -> None:
        _check_types("training.", self)
        for name in ("epochs", "batch_size", "kl_epochs"):
            value = getattr(self, name)
            _check(value >= 1, f"training.{name}", "1 or more", value)
        for name in ("patience", "augmentation", "gradient_norm", "seed"):
            value = getattr(self, name)
            _check(value >= 0, f"training.{name}", "0 or more", value)
        _check(self.learning_rate > 0, "training.learning_rate", "above 0", self.learning_rate)
        one = self.devices == "auto" or self.devices >= 1
        _check(one, "training.devices", '"auto", or 1 or more', self.devices)
        started = self.warm_start is not None or not self.freeze
        _check(started, "training.warm_start", "a folder, to freeze what comes from it", None)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured and drawn at the end."""

    bootstrap: int = 1000
    """Resamples of the test patients behind each interval."""
    generated: int = 200
    """ECGs generated at each end of a condition's range, to measure its effects."""
    examples: int = 4
    """Test ECGs drawn beside their reconstructions."""
    seed: int = 0
    """Of resampling and of generated ECGs."""

    def __post_init__(self) -> None:
        _check_types("evaluation.", self)
        _check(self.bootstrap >= 100, "evaluation.bootstrap", "at least 100", self.bootstrap)
        _check(self.generated >= 2, "evaluation.generated", "2 or more", self.generated)
        _check(self.examples >= 1, "evaluation.examples", "1 or more", self.examples)
        _check(self.seed >= 0, "evaluation.seed", "0 or more", self.seed)


@dataclass(frozen=True)
class Config:
    """A run: data, network, training, evaluation."""

    run: str = "default"
    """Name of the run; its results lie in `runs/<run>/`."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _check_types("", self)
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.run) is not None
        _check(plain, "run", "a name of letters, digits, '.', '_' and '-'", self.run)
        watched = self.training.watch == "objective" or kind_of(self.model.task) == "survival"
        _check(watched, "training.watch", 'objective, unless model.task is "cox"', "another")
        headed = not self.training.freeze or self.model.task != "none"
        _check(headed, "model.task", "a task, since training.freeze leaves only the head", "none")


def _check_types(prefix: str, section: object) -> None:
    """Checks the type of each field; the command line does, an edited file does not.

    A list where a tuple is kept, and a text where a path is, are what they mean.
    """
    for setting, kind in get_type_hints(type(section)).items():
        value = _meant(kind, getattr(section, setting))
        object.__setattr__(section, setting, value)  # frozen for everybody else
        expected = f"one of {get_args(kind)}" if get_origin(kind) is Literal else _called(kind)
        _check(_fits(kind, value), prefix + setting, expected, value)


def _meant(kind: object, value: object) -> object:
    """A value as its field keeps it."""
    if isinstance(value, list):
        return tuple(_meant(None, one) for one in value)
    return Path(value) if isinstance(value, str) and Path in (kind, *get_args(kind)) else value


def _fits(kind: object, value: object) -> bool:
    """Whether a value is of the type of a field. A number is finite, and True is none."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(part, value) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(parts) and all(map(_fits, parts, value))
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return isinstance(value, kind)


def _called(kind: object) -> str:
    """A type as a message calls it."""
    plain = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}
    if get_origin(kind) is tuple:
        return f"a list in square brackets, or a tuple: {kind}"
    name = getattr(kind, "__name__", "") if get_origin(kind) is None else ""
    return plain.get(kind) or re.sub(r"pathlib\.|typing\.", "", name or str(kind))


def to_dict(config: object) -> dict:
    """A (nested) configuration as plain values, for JSON."""
    values = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            value = to_dict(value)
        values[one.name] = str(value) if isinstance(value, Path) else value
    return values


def from_dict(kind: type[Settings], values: Mapping[str, object]) -> Settings:
    """The inverse of `to_dict`, also after JSON has made lists of tuples.

    A field that is not there has its default: the version that wrote it did not know it.

    Raises:
        ConfigError: an unknown field, or a value that makes no sense.
    """
    hints = get_type_hints(kind)
    for name in values:
        _check(name in hints, kind.__name__, f"fields among {list(hints)}", name)
    try:
        return kind(
            **{
                name: from_dict(hints[name], value) if is_dataclass(hints[name]) else value
                for name, value in values.items()
            }
        )
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{kind.__name__}: a value of the wrong type ({error}).") from error


# --- edit from here -------------------------------------------------------------------------------

CONFIG = Config(
    model=ModelConfig(noise="per_sample", profile_power=0.3, time_warp=41),
    training=TrainingConfig(epochs=24, learning_rate=4e-3),
)

# Of real ECGs, as chosen on fold 9 of PTB-XL: `docs/real.md`.
REAL = ModelConfig(
    latent_space_dim=48,
    hidden=(256,),
    time_warp=41,
    noise="per_sample",
    profile_power=0.2,
    deviations="absolute",
)
REAL_TRAINING = TrainingConfig(
    epochs=120, batch_size=32, gradient_norm=2000.0, patience=50, augmentation=3.0
)

PRESETS = {
    # Simulated cohort, minutes on two CPU cores.
    "default": CONFIG,
    # The same, smaller: under a minute, for trying out.
    "quick": replace(
        CONFIG,
        run="quick",
        data=replace(CONFIG.data, subjects=1000),
        training=replace(CONFIG.training, epochs=5),
        evaluation=replace(CONFIG.evaluation, bootstrap=200),
    ),
    # The network and the objective of Sang, Beetz and Grau (2022), exactly.
    "paper": replace(
        CONFIG,
        run="paper",
        model=ModelConfig(
            hidden=(),
            independent_only=False,
            batch_normalization=True,
            output="elu_batchnorm",
            linear_path=False,
            noise="mse",
            condition_dropout=0.0,
            condition_encoding="raw",
        ),
        training=TrainingConfig(
            epochs=300, batch_size=32, learning_rate=1e-3, learning_rate_decay="none", patience=0
        ),
    ),
    # PTB-XL: python train.py --preset ptbxl --data.path FOLDER
    "ptbxl": replace(
        CONFIG,
        run="ptbxl",
        data=DataConfig(source="ptbxl", path=Path("ptb-xl"), split="fold"),
        model=REAL,
        training=REAL_TRAINING,
    ),
    # Simulated cohort with outcomes, and a Cox head on the latent space.
    "prediction": replace(
        CONFIG,
        run="prediction",
        data=replace(CONFIG.data, subjects=10000),
        model=replace(
            CONFIG.model, task="cox", head_inputs="latent_and_conditions", task_weight=300.0
        ),
        training=TrainingConfig(epochs=25),
    ),
    # CODE-15%, mortality: python train.py --preset code15_prediction --data.path FOLDER
    "code15_prediction": replace(
        CONFIG,
        run="code15_prediction",
        data=DataConfig(source="code15", path=Path("code15"), conditions=("age", "sex")),
        model=replace(REAL, task="cox", head_inputs="latent_and_conditions"),
        training=TrainingConfig(batch_size=256),
    ),
    # Your own recordings, any formats: python train.py --preset recordings --data.path FOLDER
    "recordings": replace(
        CONFIG,
        run="recordings",
        data=DataConfig(source="recordings", path=Path("recordings"), conditions=("age", "sex")),
        model=REAL,
        training=REAL_TRAINING,
    ),
    # UK Biobank, resting ECGs: python train.py --preset ukbiobank --data.path FOLDER
    "ukbiobank": replace(
        CONFIG,
        run="ukbiobank",
        data=DataConfig(source="ukbiobank", path=Path("ukbiobank")),
        model=REAL,
        training=REAL_TRAINING,
    ),
}
