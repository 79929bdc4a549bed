"""Writes `explorer.html`: a model, what is known of its subjects in summary, and the page for both.

The page is `template.html` with `style.css` and the scripts, one story each; it loads nothing. What
runs in it is checked against the model in `tests/evaluation/test_explorer.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data.cohort import Cohort
from data.conditions import Condition, ConditionSchema
from data.units import UNITS
from evaluation.explorer.latents import latents
from evaluation.explorer.network import Numbers, head, network
from evaluation.explorer.reference import (
    WHOLE,
    Reference,
    conditions,
    features_of,
    of_model,
    ranges,
    schema_of,
    typical_of,
)
from evaluation.figures.paper import GAIN
from evaluation.measures.features import KORS
from evaluation.report.page import EXPLORER
from training.run_folder import write_text

if TYPE_CHECKING:
    from vae import VAE

HERE = Path(__file__).parent
SCRIPTS = (
    *("model", "waves", "features", "state"),
    *("elements", "paper", "readouts", "export", "controls", "explorer"),
)
PAGES = Environment(
    loader=FileSystemLoader(HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_explorer(
    folder: Path,
    model: VAE,
    title: str,
    reference: Reference | None = None,
    subjects: Cohort | None = None,
) -> Path:
    """Writes the page of a model, `explorer.html`.

    Args:
        folder: which is there.
        model: as loaded from its folder.
        title: what the page calls the model.
        reference: subjects whose summary figures stand beside an ECG, see `reference.of_training`;
            by default ECGs that the model generates.
        subjects: recordings whose reconstructions the page shows. Their latents and conditions are
            then in the file: it is no longer free of data of real subjects.

    Returns:
        The page.

    Raises:
        ExplorerError: the decoder has a layer that the page cannot run.
    """
    numbers = Numbers()
    described = {"title": title, **description(model, numbers, reference)}
    described["subjects"] = [] if subjects is None else people(model, subjects)
    page = PAGES.get_template("template.html").render(
        title=title,
        model=described,
        description=_json(described),
        numbers=numbers.base64(),
        style=Markup((HERE / "style.css").read_text("utf-8")),
        scripts=Markup(scripts()),
    )
    write_text(folder / EXPLORER, page)
    return folder / EXPLORER


def scripts() -> str:
    """The scripts as one, in the order in which they need each other."""
    texts = [(HERE / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    return "\n".join(['"use strict";', *texts])


def description(model: VAE, numbers: Numbers, reference: Reference | None = None) -> dict:
    """All that the scripts read, its arrays in `numbers`."""
    schema = schema_of(model)
    reference = reference or of_model(model, schema)
    described = conditions(schema, reference)
    typical = pd.DataFrame(
        {c.name: [typical_of(c, one)] for c, one in zip(schema.conditions, described, strict=True)},
        index=[0],
    )
    encoded = np.concatenate([schema.encode(part) for part in (reference.subjects, typical)])
    features, unit = features_of(model, reference.ecg), UNITS[model.unit]
    known = ranges(schema, reference.subjects, features, unit.name) if features is not None else {}
    prior = model.prior._replace(weights=model.prior.weights / model.prior.weights.sum())
    return {
        "leads": list(model.leads),
        "samples": model.ecg_shape[1],
        "sampling_rate": model.settings["sampling_rate"],
        "fiducial": int(model.timing["qrs_sample"]),
        "amplitude": {"unit": unit.amplitude, "mv": unit.mv, "paper": unit.scale(GAIN)},
        "kors": KORS.tolist(),
        "source": reference.source,
        "count": len(reference.ecg),
        "encoding": schema.encoding,
        "conditions": described,
        "whole": list(WHOLE),
        "features": known,
        **network(model, numbers),
        "prior": {name: numbers.add(part) for name, part in prior._asdict().items()},
        "latent": latents(model, encoded, reference, features),
        "head": head(model, numbers),
    }


def people(model: VAE, cohort: Cohort) -> list[dict]:
    """Latent and conditions of real subjects, without their names."""
    mean, _ = model.encode(cohort.ecg, cohort.subjects)
    schema: ConditionSchema = model.schema
    return [
        {"z": z.tolist(), "values": {c.name: _plain(c, row[c.name]) for c in schema.conditions}}
        for z, (_, row) in zip(mean, cohort.subjects.iterrows(), strict=True)
    ]


def _plain(condition: Condition, value: object) -> object:
    """A value as the page has it; 1.0 may be the category 1, which is called "1" there."""
    if pd.isna(value):
        return None
    if condition.kind == "continuous":
        return float(value)
    return str(condition.categories[condition.categories.index(value)])


def _json(description: Mapping) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(description, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
