"""Are generated ECGs of use: do they teach what real ones teach?

A regressor is trained on generated ECGs and tested on real ones (TSTR), and the same regressor is
trained on as many real ones (TRTR; Esteban, Hyland and Raetsch 2017, arXiv 1706.02633).

Dims: N recordings, B bootstrap samples.
"""

from __future__ import annotations

import numpy as np

from data.cohort import Cohort
from data.conditions import ConditionSchema
from evaluation.measures.regressor import ConditionRegressor, condition_values, scores
from evaluation.measures.statistics import DRAWS, with_interval

NO_SKILL = {"r2": 0.0, "auc": 0.5}


def utility_metrics(
    schema: ConditionSchema,
    of_generated: ConditionRegressor,
    of_real: ConditionRegressor,
    test: Cohort,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, float]:
    """Scores of a regressor trained on generated ECGs beside one trained on real ones.

    Args:
        schema: the conditions to predict.
        of_generated: trained on ECGs generated for the training subjects, one for each.
        of_real: trained on the real ECGs of these subjects.
        test: N real recordings of other patients.
        seed: of the bootstrap over patients.
        draws: B.

    Returns:
        `tstr_r2_<condition>` and `tstr_mae_<condition>` (in its unit) of a continuous condition,
        `tstr_auc_<condition>` of a binary one, the same with `trtr_`, and `tstr_over_trtr_r2_...`
        or `..._auc_...`: the skill kept, R2 over R2, or (AUC - 0.5) over (AUC - 0.5). 1 is as good
        as real ECGs, 0 of no use. Each with `_low` and `_high`. The ratio is left out where the
        interval of TRTR reaches no skill: there is nothing to keep.
    """
    predicted = [regressor.predict(test.ecg) for regressor in (of_generated, of_real)]
    metrics: dict[str, float] = {}
    for name, value in condition_values(schema, test.subjects).items():
        if any(name not in each for each in predicted):
            continue
        scored = scores(
            [each[name][None] for each in predicted],
            value,
            [regressor.readings[name].naive for regressor in (of_generated, of_real)],
            test.subjects["patient_id"].to_numpy(),
            of_real.readings[name].binary,
            seed,
            draws,
        )
        for measure, (tstr, trtr) in scored.items():
            metrics |= with_interval(f"tstr_{measure}_{name}", tstr)
            metrics |= with_interval(f"trtr_{measure}_{name}", trtr)
            none = NO_SKILL.get(measure)
            if none is not None and metrics[f"trtr_{measure}_{name}_low"] > none:
                kept = (tstr - none) / np.maximum(trtr - none, 1e-9)
                metrics |= with_interval(f"tstr_over_trtr_{measure}_{name}", kept)
    return metrics
