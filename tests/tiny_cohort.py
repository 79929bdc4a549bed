"""ECGs (N, 12, 60) that three latent factors and age explain, and a network that learns them."""

from dataclasses import replace

import numpy as np
import pandas as pd

from config import CONFIG, TrainingConfig
from data import Cohort
from data.conditions import Condition, ConditionSchema
from data.leads import derive_leads
from training.batches import Samples

NETWORK = {"conv_filters": (2, 2), "conv_kernels": ((1, 20), (12, 1)), "hidden": (8,)}
CONFIGURED = replace(
    CONFIG,
    model=replace(
        CONFIG.model, latent_space_dim=3, noise="learned", condition_dropout=0.3, **NETWORK
    ),
    training=TrainingConfig(epochs=3, batch_size=16, kl_schedule="warm-up", kl_epochs=2, xla=False),
)


def simulated(n, seed):
    """ECGs (n, 12, 60) of three latent factors and of age."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(30, 80, n)
    scores = np.concatenate([(age - 55)[:, None] / 10, rng.normal(size=(n, 3))], axis=1)
    waves = np.random.default_rng(7).normal(0, 0.1, (4, 8, 20)).repeat(3, axis=2)
    eight = np.tensordot(scores, waves, 1) + rng.normal(0, 0.03, (n, 8, 60))
    subjects = pd.DataFrame({"subject_id": np.arange(n).astype(str), "age": age})
    return Cohort(derive_leads(eight.astype(np.float32)), subjects)


COHORT, OTHERS = simulated(40, 0), simulated(20, 1)
SCHEMA = ConditionSchema([Condition("age", unit="years")]).fit(COHORT.subjects)
TRAIN, VALIDATION = (
    Samples(cohort.ecg, SCHEMA.encode(cohort.subjects)) for cohort in (COHORT, OTHERS)
)
