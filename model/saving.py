"""Model folders: weights, JSON that describes them, and a checksum that ties the two together.

A folder may come from anyone. JSON is read as plain values, the class is one of ours or the
caller's, never one that the folder brings, and the weights file may hold numbers only: no links to
other files, nothing compressed that unpacks to more than it is, nothing that Keras would build or
call.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from pathlib import Path

import h5py
import keras
import numpy as np

from data.units import UNITS
from model.network import ModelError

# 2: checksum and prior; 3: convolutions in stacks; 4: noise per sample, warp; 5: coupled latents;
# 6: absolute deviations; 7: sizes in the prior; 8: the warp keeps the QRS where it is
FORMAT_VERSION = 8
OLDEST = 3  # that is read; what it does not know has its default
CLASSES = {"VAE": "vae", "VAEPrediction": "vae_prediction"}  # class -> module, imported on load
DESCRIPTION, WEIGHTS = "parameters.json", "model.weights.h5"
# Of single files that other programs and versions of Keras save models in; `save` writes a folder.
FILES = (".keras", ".h5", ".hdf5", ".json", ".npz", ".onnx", ".pb", ".pt", ".tflite", ".zip")
LARGEST_DESCRIPTION = 50_000_000  # bytes; a baseline hazard of a million event times fits


def write_model(model: keras.Model, folder: str | Path, overwrite: bool = True) -> None:
    """Writes `parameters.json` and `model.weights.h5`.

    Each file is written whole or not at all. If the program is killed between the two, the checksum
    does not fit, and reading the folder is an error rather than a wrong model.

    Raises:
        ModelError: a model is there already, and `overwrite` is false; the path is called as a file
            is; or the model is of a class that could not be read again.
    """
    folder = Path(folder)
    if folder.suffix.lower() in FILES:
        raise ModelError(
            f"{folder}: save writes a folder. Leave {folder.suffix} out, or write Keras's own "
            "format with .keras in small letters; save_weights writes the weights alone, to "
            ".weights.h5."
        )
    _check_class(model)
    if not overwrite and (folder / DESCRIPTION).exists():
        raise ModelError(f"{folder} holds a model already.")
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "partial.weights.h5"  # Keras insists on this ending
    model.save_weights(weights, overwrite=True)
    description = {
        "format_version": FORMAT_VERSION,
        "class": type(model).__name__,
        "keras_version": keras.__version__,
        "unit": model.settings["unit"],
        "weights_sha256": _checksum(weights),
        "config": model.get_config(),
    }
    partial = folder / f"{DESCRIPTION}.partial"
    partial.write_text(json.dumps(description) + "\n", encoding="utf-8")
    weights.replace(folder / WEIGHTS)
    partial.replace(folder / DESCRIPTION)


def _check_class(model: keras.Model) -> None:
    """Raises ModelError where the model could not be read again: a subclass of a user's own."""
    kind = type(model)
    if kind.__module__ == CLASSES.get(kind.__name__):
        return
    if kind.__name__ in CLASSES:
        raise ModelError(
            f"A subclass that is called {kind.__name__} too would be read as that one."
        )
    config = model.get_config()
    named = [
        one.name
        for one in list(inspect.signature(kind.__init__).parameters.values())[1:]
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    lost = [name for name in named if name not in config]
    advice = (
        "Return all that __init__ takes from get_config, or save the weights with save_weights."
    )
    if lost:
        raise ModelError(f"{kind.__name__}: get_config leaves out {', '.join(lost)}. {advice}")
    try:
        again = kind.from_config(config)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{kind.__name__} cannot be built from its get_config, and would not be read again: "
            f"{reason}. {advice}"
        ) from error
    pairs = zip(model.layers, again.layers, strict=False)
    unbuilt = [one.name for one, other in pairs if one.weights and not other.built]
    if unbuilt:
        raise ModelError(
            f"{kind.__name__} built from its get_config has no weights yet in "
            f"{', '.join(unbuilt)}, and those of this one could not be read. Build layers of your "
            "own in __init__: self.my_layer.build((None, number_of_inputs))."
        )
    shapes = [[tuple(weight.shape) for weight in one.weights] for one in (model, again)]
    if shapes[0] != shapes[1] or again.get_config() != config:
        raise ModelError(f"{kind.__name__} built from its get_config is another. {advice}")


def read_model(folder: str | Path, kind: type[keras.Model] | None = None) -> keras.Model:
    """Reads what `write_model` wrote, or the model of a run folder.

    Args:
        folder: the model or the run.
        kind: the class of a user's own that the model is of; ours are told from the folder.

    Returns:
        A model of the class that was saved.

    Raises:
        ModelError: no model of a known version lies there, it is of another class, or it is damaged
            or was changed.
    """
    folder = Path(folder)
    if folder.is_file():
        _refuse_file(folder)
    if not (folder / DESCRIPTION).is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / DESCRIPTION).is_file():
        raise ModelError(f"{folder} holds no model: {DESCRIPTION} is missing.")
    try:
        description = _read_description(folder / DESCRIPTION)
        version, class_name = description["format_version"], description["class"]
        if type(version) is not int or version > FORMAT_VERSION:
            raise ModelError(
                f"{folder} was saved by a newer version (format {version}, this one reads "
                f"{FORMAT_VERSION}). Update the code."
            )
        if version < OLDEST:
            raise ModelError(
                f"{folder} was saved by an earlier version (format {version}, this one reads "
                f"{FORMAT_VERSION}), whose weights are laid out in another way. Read it with that "
                "version, or train again with this one."
            )
        _check_warp(version, description["config"], folder)
        kind = _class_called(class_name, kind, folder)
        if description["unit"] not in UNITS:
            expected = " or ".join(UNITS)
            raise ModelError(f"{folder} is in {description['unit']!r}; expected {expected}.")
        _check_weights(folder / WEIGHTS)
        if description["weights_sha256"] != _checksum(folder / WEIGHTS):
            raise ModelError(
                f"{folder}: {WEIGHTS} is not the file that {DESCRIPTION} was saved with. One of "
                "them was changed, or saving was interrupted. Save the model again, or give "
                "load_weights the file if it is the right one."
            )
        model = kind.from_config(description["config"])
        if model.settings["unit"] != description["unit"]:
            raise ValueError(f"{DESCRIPTION} names two units.")
        model.load_weights(folder / WEIGHTS)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]  # Keras writes pages
        if isinstance(error, OSError) and error.errno:
            raise ModelError(f"{folder} cannot be read: {reason}") from error
        _check_keras(folder)
        raise ModelError(f"{folder} is damaged, or no model of this project: {reason}") from error
    return model


def _check_warp(version: int, config: dict, folder: Path) -> None:
    """Raises ModelError where waves were moved about another sample than they would be now."""
    samples = config["input_shape"][1]
    before = round(3 / 8 * samples)
    now = min(config.get("qrs_sample", before), samples - 1)
    if version < 8 and config.get("time_warp") and before != now:
        raise ModelError(
            f"{folder} was saved by an earlier version (format {version}), whose time_warp kept "
            f"sample {before} in place instead of that of the QRS, {now}. Read it with that "
            "version, or train again with this one."
        )


def _refuse_file(file: Path) -> None:
    """Says what to call for a model that lies in a single file."""
    call = "load reads the folder that save wrote"
    if file.suffix.lower() == ".keras":
        call = f"load reads folders; keras.saving.load_model({str(file)!r}) reads this file"
    elif file.name.endswith(".weights.h5"):
        call = "load reads folders; build the model, and call load_weights for weights alone"
    elif file.name in (DESCRIPTION, "weights.h5", "parameters.pkl"):
        call = "give the folder that it lies in (to load_published if the published code wrote it)"
    raise ModelError(f"{file} is a file: {call}.")


def _class_called(name: str, kind: type[keras.Model] | None, folder: Path) -> type[keras.Model]:
    """The class that a folder names: one of ours, or the one that the caller brings."""
    own = kind is not None and kind.__module__ != CLASSES.get(kind.__name__)
    if own and name == kind.__name__:
        return kind
    if name not in CLASSES:
        raise ModelError(
            f"{folder} holds a {name!r}, which is no class of this project. If it is a subclass of "
            f"your own, call load on it: {name}.load(folder). Ours are {list(CLASSES)}."
        )
    if own:
        raise ModelError(f"{folder} holds a {name}, not a {kind.__name__}: call {name}.load.")
    return _ours(name)


def _ours(name: str) -> type[keras.Model]:
    """A class of `CLASSES`; their modules import this one."""
    return getattr(importlib.import_module(CLASSES[name]), name)


def _check_keras(folder: Path) -> None:
    """Raises ModelError where no model could be read, whatever the folder holds."""
    try:
        _ours("VAE")((12, 40), (1,), ((1, 5),), ("same",), 1, 0, hidden=())
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{folder} was not read, and is not to blame: Keras {keras.__version__}, as it is set "
            f"up here, cannot build the smallest network: {reason}"
        ) from error


def _read_description(file: Path) -> dict:
    if file.stat().st_size > LARGEST_DESCRIPTION:
        raise ValueError(f"{file.name} is larger than any description of a model.")

    def refuse(constant: str) -> None:
        raise ValueError(f"{file.name} holds {constant}, which is no number.")

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


def _check_weights(file: Path) -> None:
    """Nothing but finite numbers that lie in this file, as large as they say.

    Raises:
        ValueError: what else there is.
    """
    if not file.is_file():
        raise ValueError(f"{file.name} is missing.")
    with h5py.File(file, "r") as content:
        _check_group(content)


def _check_group(group: h5py.Group) -> None:
    for name in group:
        path = f"{group.name.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} is a link to another place.")
        part = group[name]
        if isinstance(part, h5py.Group):
            _check_group(part)
            continue
        read_numbers(part, kinds="fiu")  # the optimizer counts its steps


def read_numbers(dataset: h5py.Dataset, kinds: str = "f") -> np.ndarray:
    """The numbers of a dataset of a file that is not trusted.

    Args:
        dataset: of an open file.
        kinds: NumPy's letters of what is allowed: "f" for floating-point, "i" and "u" for whole
            numbers.

    Raises:
        ValueError: they are something else, lie in another file, are compressed or not finite.
    """
    plain = isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in kinds
    # Storage of another size than the numbers is compressed, virtual, or was never written.
    if not plain or dataset.external or dataset.id.get_storage_size() != dataset.nbytes:
        raise ValueError(f"{dataset.name} does not hold plain numbers itself.")
    values = dataset[()]
    if not np.isfinite(values).all():
        raise ValueError(f"{dataset.name} has NaN or infinite values.")
    return values


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
