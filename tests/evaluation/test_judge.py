"""What of a large split the figures of the generator are made of."""

import numpy as np

from config import EvaluationConfig
from evaluation import judge
from tests.tiny_cohort import CONFIGURED, SCHEMA, simulated
from training.setup import build_model


def test_of_a_large_split_everything_is_of_the_same_even_selection(monkeypatch):
    cohort = simulated(60, 0)
    split = cohort.split(0.2, 0.3)
    model = build_model(CONFIGURED, SCHEMA, cohort).adapt(split.train.ecg, split.train.subjects)
    latent, _ = model.encode(split.test.ecg, split.test.subjects)
    seen, checked = {}, []

    def specificity(model, subjects, train, latent, *_):
        seen.update(subjects=subjects, latent=latent)
        return {}

    def privacy(train, holdout, made, seed, **given):
        seen.update(holdout=holdout, reconstructed=given["reconstructions"][1])
        return {}

    for name in ("MOST", "GENERATED"):
        monkeypatch.setattr(judge, name, 7)
    for name in ("condition_effects", "recovery_metrics", "realism_metrics", "utility_metrics"):
        monkeypatch.setattr(judge, name, lambda *_, **__: {})
    for name in ("measure", "references_of"):
        monkeypatch.setattr(judge, name, lambda *_, **__: None)
    monkeypatch.setattr(judge, "slope_metrics", lambda *_: ({}, None))
    monkeypatch.setattr(judge, "specificity_metrics", specificity)
    monkeypatch.setattr(judge, "privacy_metrics", privacy)
    monkeypatch.setattr(judge, "ConditionRegressor", lambda *given: checked.append(given[3]))
    whole = judge.Reconstruction(model, latent, split.test.subjects)
    judge._generator_metrics(model, split, latent, whole, EvaluationConfig(), str, ())

    test, validation = split.test.thinned(7), split.validation.thinned(7)
    assert len(test) == 7 < len(split.test)
    assert seen["subjects"]["subject_id"].tolist() == test.subjects["subject_id"].tolist()
    expected, _ = model.encode(test.ecg, test.subjects)
    np.testing.assert_allclose(seen["latent"], expected, atol=1e-5)
    np.testing.assert_array_equal(seen["holdout"], test.ecg)
    assert seen["reconstructed"].shape == test.ecg.shape
    expected = model.reconstruct(test.ecg, test.subjects)
    np.testing.assert_allclose(seen["reconstructed"][:], expected, atol=1e-5)
    assert len(checked) == 2
    for part in checked:
        assert part.subjects["subject_id"].tolist() == validation.subjects["subject_id"].tolist()


def test_patients_are_numbered_as_they_come_whatever_the_key_of_their_hashes():
    cohort = simulated(30, 0)
    before = cohort.subjects["patient_id"].to_numpy()
    cohort.subjects["patient_id"] = before[np.arange(30) // 2]
    found = []
    for key in (7, 8):
        hashed = cohort.take(np.arange(30))
        codes = np.random.default_rng(key).permutation(30)
        names = dict(zip(before, [f"{code:x}" for code in codes], strict=True))
        hashed.subjects["patient_id"] = hashed.subjects["patient_id"].map(names)
        hashed.source = "recordings"
        found.append(judge.in_order(hashed.split(0.2, 0.3)))
    for one, other in zip(*found, strict=True):
        assert one.subjects["patient_id"].tolist() == other.subjects["patient_id"].tolist()
        assert one.subjects["patient_id"].is_monotonic_increasing
        assert one.subjects["patient_id"].nunique() == len(one) / 2
    assert set(found[0].train.subjects["patient_id"]).isdisjoint(
        found[0].test.subjects["patient_id"]
    )
    plain = cohort.split(0.2, 0.3)
    assert judge.in_order(plain) is plain
