import numpy as np
import pytest
from scipy.spatial.distance import cdist

from data.leads import LEADS, derive_leads
from evaluation.measures import neighbours as blocks
from evaluation.measures.neighbours import (
    Patients,
    References,
    both_ways,
    neighbours,
    paired_distance,
    without_derived,
)
from evaluation.measures.privacy import (
    CONTROL_NOISE_UV,
    _calibrated_auc,
    _first,
    _groups,
    _patient_numbers,
    privacy_metrics,
)

FIELD = np.random.default_rng(0).normal(size=(6, 8 * 25))


def beats(n, seed):
    """(n, 8, 25) mV: six independent factors and 5 uV of noise."""
    rng = np.random.default_rng(seed)
    ecg = 0.1 * rng.normal(size=(n, 6)) @ FIELD + 0.005 * rng.normal(size=(n, 8 * 25))
    return ecg.reshape(n, 8, 25).astype(np.float32)


def brute_force(queries, references):
    """(N, M) distances in uV, all pairs in float64."""
    x, y = (ecg.reshape(len(ecg), -1).astype(np.float64) for ecg in (queries, references))
    return 1000 * cdist(x, y) / np.sqrt(x.shape[1])


def nearest(queries, references, patients=None, hidden=None):
    """Distance of each query to its nearest reference."""
    return neighbours(queries, References(references), 1, patients, hidden)[0][:, 0]


def auc(members, others):
    """Of all pairs, those in which the member scores higher."""
    return (members[:, None] > others).mean() + 0.5 * (members[:, None] == others).mean()


TRAIN, HOLDOUT, GENERATED = beats(240, 1), beats(60, 2), beats(300, 3)
TRAIN_PATIENTS = np.array([f"t{number // 2}" for number in range(240)])
HOLDOUT_PATIENTS = np.array([f"h{number // 2}" for number in range(60)])
IDS = {"train_patients": TRAIN_PATIENTS, "holdout_patients": HOLDOUT_PATIENTS}
METRICS = privacy_metrics(TRAIN, HOLDOUT, GENERATED, seed=4, **IDS)


# --- nearest neighbours ---------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1024, 7])
def test_nearest_neighbours_are_those_of_all_pairs(monkeypatch, rows):
    monkeypatch.setattr(blocks, "ROWS_PER_BLOCK", rows)
    pairs = brute_force(GENERATED, TRAIN)
    distances, index = neighbours(GENERATED, References(TRAIN), 5)
    np.testing.assert_allclose(distances, np.sort(pairs, axis=1)[:, :5], rtol=1e-4)
    np.testing.assert_array_equal(index[:, 0], pairs.argmin(axis=1))
    np.testing.assert_allclose(nearest(GENERATED, TRAIN), pairs.min(axis=1), rtol=1e-4)


def test_a_large_reference_set_is_read_in_few_rows_at_a_time(monkeypatch):
    sizes = []
    whole = blocks._squared_distances

    def spy(queries, references):
        sizes.append(len(queries) * len(references))
        return whole(queries, references)

    monkeypatch.setattr(blocks, "VALUES_PER_BLOCK", 2000)
    monkeypatch.setattr(blocks, "_squared_distances", spy)
    distances = nearest(GENERATED, TRAIN)
    assert max(sizes) <= 2000
    np.testing.assert_allclose(distances, brute_force(GENERATED, TRAIN).min(axis=1), rtol=1e-4)


def test_leads_that_follow_from_others_are_left_out_of_distances_that_stay_the_same():
    rng = np.random.default_rng(8)
    real, made = (derive_leads(rng.standard_normal((n, 8, 25))).astype("f4") for n in (40, 30))
    mix = without_derived(LEADS, real, made)
    assert mix.shape == (8, 12)
    expected = np.sort(brute_force(made, real), axis=1)[:, :3]
    for given in (mix, None):
        distances, _ = neighbours(made, References(real, given), 3)
        np.testing.assert_allclose(distances, expected, rtol=1e-5)
    made[7, 3, 4] += 0.01  # no aVR of these limb leads
    assert without_derived(LEADS, real, made) is None
    assert without_derived(LEADS[::-1], real[:, ::-1], real[:, ::-1]) is None
    assert without_derived((), real) is None


def test_with_and_without_the_leads_that_follow_the_metrics_are_alike():
    rng = np.random.default_rng(9)
    train, holdout, made = (
        derive_leads(rng.standard_normal((n, 8, 25))).astype("f4") for n in (120, 60, 120)
    )
    with_leads, without = (
        privacy_metrics(train, holdout, made, draws=50, leads=leads) for leads in (LEADS, ())
    )
    assert with_leads.keys() == without.keys()
    for name, value in with_leads.items():
        # Copies of the control carry noise in the leads that were recorded alone.
        rtol = 0.05 if "control" in name else 1e-4
        assert value == pytest.approx(without[name], rel=rtol), name


def test_distances_of_near_copies_keep_their_digits_beside_large_beats():
    large = TRAIN + np.linspace(-5, 5, 25, dtype=np.float32)  # mV
    rng = np.random.default_rng(5)
    for noise_uv in (0.1, 1.0, 5.0):
        copies = large[50:60] + np.float32(noise_uv / 1000) * rng.standard_normal(
            (10, 8, 25), np.float32
        )
        np.testing.assert_allclose(
            nearest(copies, large), brute_force(copies, large).min(axis=1), rtol=0.02
        )
    np.testing.assert_array_equal(nearest(large[:3], large), 0)


def test_each_patient_counts_once_by_the_nearest_recording():
    patients = np.random.default_rng(6).integers(30, size=240)
    pairs = brute_force(GENERATED, TRAIN)
    of_patient = np.stack([pairs[:, patients == name].min(axis=1) for name in range(30)], axis=1)
    distances, found = neighbours(GENERATED, References(TRAIN), 4, patients)
    np.testing.assert_allclose(distances, np.sort(of_patient, axis=1)[:, :4], rtol=1e-4)
    np.testing.assert_array_equal(found, of_patient.argsort(axis=1)[:, :4])


def test_a_hidden_patient_is_not_seen():
    patients = np.arange(60) // 2
    pairs = brute_force(HOLDOUT, HOLDOUT)
    pairs[patients[:, None] == patients] = np.inf
    distances = nearest(HOLDOUT, HOLDOUT, patients, hidden=patients)
    np.testing.assert_allclose(distances, pairs.min(axis=1), rtol=1e-4)


@pytest.mark.parametrize("rows", [1024, 7])
def test_distances_taken_once_serve_each_group_of_references_and_the_references(monkeypatch, rows):
    monkeypatch.setattr(blocks, "ROWS_PER_BLOCK", rows)
    patients = np.random.default_rng(6).integers(30, size=240)
    parts = [np.flatnonzero(patients < 10), np.flatnonzero(patients >= 10)]
    pairs, hidden = brute_force(GENERATED, TRAIN), np.arange(300) % 10
    groups = [Patients(patients, part) for part in parts]
    found, closest = both_ways(GENERATED, References(TRAIN), groups, 4, hidden)
    np.testing.assert_allclose(closest, pairs.min(axis=0), rtol=1e-4)
    for part, (distances, ids) in zip(parts, found, strict=True):
        names = np.unique(patients[part])
        of = np.stack([pairs[:, patients == name].min(axis=1) for name in names], axis=1)
        of[hidden[:, None] == names] = np.inf
        np.testing.assert_allclose(distances, np.sort(of, axis=1)[:, :4], rtol=1e-4)
        np.testing.assert_array_equal(ids, names[of.argsort(axis=1)[:, :4]])


def test_the_first_value_that_is_there_is_found_however_far_down_it_is():
    there = np.arange(47) >= 24
    position = np.stack([np.arange(24) + shift for shift in (0, 1, 7, 18, 23)])
    values = np.arange(5 * 24.0).reshape(5, 24)
    expected = values[np.arange(5), [0, 23, 17, 6, 1]]  # none is there: the first
    np.testing.assert_array_equal(_first(values, position, there), expected)


def test_the_distance_of_a_pair_is_that_of_the_whole_table(monkeypatch):
    monkeypatch.setattr(blocks, "ROWS_PER_BLOCK", 32)
    pairs = brute_force(TRAIN, GENERATED[:240])
    np.testing.assert_allclose(paired_distance(TRAIN, GENERATED[:240]), np.diag(pairs), rtol=1e-5)


# --- what is reported -----------------------------------------------------------------------------


def test_distances_to_the_training_beats_are_those_written_out_by_hand():
    for name, queries in (("", GENERATED), ("_real", HOLDOUT)):
        closest = brute_force(queries, TRAIN).min(axis=1)
        median, tail = np.median(closest), np.percentile(closest, 5)
        assert METRICS[f"nearest_train_uv{name}"] == pytest.approx(median, rel=1e-4)
        assert METRICS[f"nearest_train_uv_p5{name}"] == pytest.approx(tail, rel=1e-4)
    counts = {"members": 240, "non_members": 60, "generated": 300}
    assert {name: METRICS[name] for name in counts} == counts


def test_the_attack_is_minus_the_distance_to_the_nearest_generated_beat():
    members, others = (-brute_force(ecg, GENERATED).min(axis=1) for ecg in (TRAIN, HOLDOUT))
    assert METRICS["membership_auc"] == pytest.approx(auc(members, others), abs=1e-3)


def test_the_calibrated_attack_divides_by_the_nearest_held_out_beat_of_somebody_else():
    to_holdout, within = brute_force(TRAIN, HOLDOUT), brute_force(HOLDOUT, HOLDOUT)
    patients = np.arange(60) // 2
    within[patients[:, None] == patients] = np.inf
    # From each member one held-out patient is hidden, in turn.
    names = np.unique(HOLDOUT_PATIENTS, return_inverse=True)[1]
    to_holdout[(np.arange(240) % 30)[:, None] == names] = np.inf
    members = to_holdout.min(axis=1) / brute_force(TRAIN, GENERATED).min(axis=1)
    others = within.min(axis=1) / brute_force(HOLDOUT, GENERATED).min(axis=1)
    expected = auc(members, others)
    assert METRICS["membership_auc_calibrated"] == pytest.approx(expected, abs=1e-3)


def test_the_ratio_compares_with_as_many_training_as_held_out_patients():
    # Where the training patients are as many as the held-out ones there is one group only.
    metrics = privacy_metrics(
        TRAIN[:60],
        HOLDOUT,
        GENERATED,
        train_patients=TRAIN_PATIENTS[:60],
        holdout_patients=HOLDOUT_PATIENTS,
    )
    to_train, to_holdout = (
        np.log(brute_force(GENERATED, ecg).min(axis=1)) for ecg in (TRAIN[:60], HOLDOUT)
    )
    expected = np.exp((to_train - to_holdout).mean())
    assert metrics["nearest_ratio"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [30, 50])
def test_groups_hold_equally_many_whole_patients_and_each_patient_is_in_one(size):
    patients = np.random.default_rng(8).integers(120, size=400)
    count = len(np.unique(patients))
    groups = _groups(patients, size, np.random.default_rng(0))
    rows = np.concatenate([rows for rows, _ in groups])
    assert sorted(rows) == list(range(400))
    held = [set(patients[rows]) for rows, _ in groups]
    assert sum(map(len, held)) == count
    assert [full for _, full in groups] == [len(each) == size for each in held]
    assert sum(full for _, full in groups) == count // size
    again = _groups(patients, size, np.random.default_rng(1))
    assert held[0] != set(patients[again[0][0]])  # at random, not in the order of their names


def test_a_patient_has_one_number_and_the_two_sides_share_none():
    ids = np.array(["b", "a", "b"]), np.array(["d", "c"])
    train, holdout = _patient_numbers(TRAIN[:3], HOLDOUT[:2], *ids)
    assert train[0] == train[2] != train[1]
    assert len(set(train) | set(holdout)) == 4
    train, holdout = _patient_numbers(TRAIN[:3], HOLDOUT[:2], None, None)
    assert len(set(train) | set(holdout)) == 5


def test_a_larger_reference_set_would_look_like_memory_and_equal_ones_do_not():
    # Independent of everything, yet nearer to the training beats: there are ten times as many.
    train, holdout, generated = beats(600, 11), beats(60, 12), beats(600, 13)
    to_train, to_holdout = (brute_force(generated, ecg).min(axis=1) for ecg in (train, holdout))
    assert np.exp(np.log(to_train / to_holdout).mean()) < 0.8
    for one, other in ((train, holdout), (holdout, train)):
        metrics = privacy_metrics(one, other, generated, draws=100)
        assert metrics["nearest_ratio_low"] < 1 < metrics["nearest_ratio_high"]
        assert metrics["nearest_ratio"] == pytest.approx(1, abs=0.06)


@pytest.fixture(scope="module")
def independent():
    """Metrics of 50 generators that never saw the members."""
    return [
        privacy_metrics(*(beats(n, [trial, n]) for n in (90, 40, 80)), trial, draws=60)
        for trial in range(50)
    ]


@pytest.mark.parametrize(
    ("name", "truth"),
    [("nearest_ratio", 1), ("membership_auc", 0.5), ("membership_auc_calibrated", 0.5)],
)
def test_intervals_hold_the_truth_for_a_generator_that_never_saw_the_members(
    independent, name, truth
):
    held = [each[f"{name}_low"] <= truth <= each[f"{name}_high"] for each in independent]
    assert np.mean(held) >= 0.86  # 95% of 50, less three standard errors
    assert np.mean([each[name] for each in independent]) == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("name", ["nearest_ratio", "membership_auc", "membership_auc_calibrated"])
def test_intervals_are_about_as_wide_as_the_estimate_varies(independent, name):
    widths = [each[f"{name}_high"] - each[f"{name}_low"] for each in independent]
    sd = np.std([each[name] for each in independent])
    # Resampling overstates the spread of nearest distances (Efron and Stein 1981), up to twofold.
    assert 0.75 < np.mean(widths) / (2 * 1.96 * sd) < 2


def test_the_interval_of_the_ratio_holds_the_chance_of_the_generated_beats():
    # All references alike: the generated beats alone are drawn at random.
    still = np.zeros((60, 8, 25), np.float32)
    far = still + np.float32(0.1)
    at = np.random.default_rng(12).uniform(0.02, 0.08, (200, 1, 1))
    generated = np.broadcast_to(at, (200, 8, 25)).astype(np.float32)
    metrics = privacy_metrics(still, far, generated)
    logs = np.log(at / (0.1 - at))
    half = np.log(metrics["nearest_ratio_high"] / metrics["nearest_ratio"])
    assert metrics["nearest_ratio"] == pytest.approx(np.exp(logs.mean()), rel=1e-3)
    assert half == pytest.approx(1.96 * logs.std() / np.sqrt(200), rel=0.15)


def test_the_calibrated_interval_holds_the_chance_of_whom_candidates_are_compared_with():
    # All are compared with patient 4. Without that one, members could be told from others.
    member = np.array([True] * 4 + [False] * 4)
    scores = np.stack([np.zeros(8), member], axis=1)
    ids = np.tile([4, 5], (8, 1))
    metrics = _calibrated_auc("auc", scores, ids, member, np.arange(8), 0, 200)
    assert metrics["auc"] == 0.5
    # Absent with probability (7 / 8)^8 = 0.34: an SD of 0.24 around 0.5.
    assert metrics["auc_high"] - 0.5 == pytest.approx(1.96 * 0.24, abs=0.1)
    told = _calibrated_auc("auc", scores[:, ::-1], ids, member, np.arange(8), 0, 200)
    assert told["auc"] == told["auc_high"] == 1  # and no higher
    assert told["auc_low"] < 0.7


def test_intervals_are_wider_where_recordings_of_a_patient_are_alike():
    train, holdout = np.repeat(TRAIN[:60], 4, axis=0), np.repeat(HOLDOUT[:30], 4, axis=0)
    noise = 0.001 * np.random.default_rng(9).standard_normal(train.shape, np.float32)
    train = train + noise
    holdout = holdout + noise[: len(holdout)]
    ids = {"train_patients": np.arange(240) // 4, "holdout_patients": 1000 + np.arange(120) // 4}
    by_patient = privacy_metrics(train, holdout, GENERATED, **ids)
    by_recording = privacy_metrics(train, holdout, GENERATED)
    widths = [
        metrics["membership_auc_high"] - metrics["membership_auc_low"]
        for metrics in (by_patient, by_recording)
    ]
    assert widths[0] > 1.6 * widths[1]  # in theory twice


def test_the_attack_finds_planted_copies_and_the_ratio_falls_with_them():
    assert METRICS["membership_auc_control"] > 0.9
    assert METRICS["nearest_ratio_control"] < METRICS["nearest_ratio_low"]
    assert METRICS["membership_auc_low"] < 0.5 < METRICS["membership_auc_high"]


def test_the_control_ratio_is_that_of_the_planted_beats():
    # Everybody at 100 uV of everybody else, but the copies: a tenth of them at 5 uV.
    side = 0.1 * np.sqrt(8 * 25 / 2)
    beat = np.zeros((120, 8 * 25), np.float32)
    beat[np.arange(120), np.arange(120)] = side
    beat = beat.reshape(120, 8, 25)
    metrics = privacy_metrics(beat[:40], beat[40:80], beat[80:], draws=100)
    assert metrics["nearest_train_uv"] == pytest.approx(100, rel=1e-4)
    assert metrics["nearest_ratio"] == pytest.approx(1, rel=1e-4)
    assert metrics["nearest_ratio_low"] == pytest.approx(1, rel=1e-4)
    expected = (CONTROL_NOISE_UV / 100) ** 0.1
    assert metrics["nearest_ratio_control"] == pytest.approx(expected, rel=0.01)
    assert metrics["membership_auc_control"] == 1


def test_a_generator_that_repeats_its_training_beats_is_caught():
    noise = 0.02 * np.random.default_rng(7).standard_normal(TRAIN.shape, np.float32)
    metrics = privacy_metrics(TRAIN, HOLDOUT, TRAIN + noise, **IDS)
    assert metrics["membership_auc_low"] > 0.95
    assert metrics["membership_auc_calibrated_low"] > 0.95
    assert metrics["nearest_ratio_high"] < 0.75  # each group holds a quarter of those copied
    assert metrics["nearest_train_uv"] < metrics["nearest_train_uv_p5_real"]


def test_exact_copies_give_finite_numbers():
    metrics = privacy_metrics(TRAIN, HOLDOUT, TRAIN, draws=100, reconstructions=(TRAIN, HOLDOUT))
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["nearest_train_uv"] == 0
    assert metrics["membership_auc"] == 1
    metrics = privacy_metrics(TRAIN[:60], HOLDOUT, TRAIN[:60], draws=100)
    to_holdout = brute_force(TRAIN[:60], HOLDOUT).min(axis=1)
    expected = np.exp(-np.log(to_holdout).mean())  # a copy counts as 1 uV away
    assert metrics["nearest_ratio"] == pytest.approx(expected, rel=1e-4)


def test_a_generator_that_repeats_a_few_training_beats_shows_in_the_tail():
    generated = GENERATED.copy()
    generated[-30:] = TRAIN[:30]
    metrics = privacy_metrics(TRAIN, HOLDOUT, generated, draws=100, **IDS)
    assert metrics["nearest_train_uv_p5"] < 1
    assert metrics["nearest_train_uv_p5_real"] == METRICS["nearest_train_uv_p5_real"]
    assert metrics["nearest_ratio_high"] < 1


def test_the_calibrated_attack_finds_blends_that_the_plain_one_hardly_does():
    # Some beats are common and some are rare: those are far from all generated ones.
    rng = np.random.default_rng(10)
    rare = np.exp(0.7 * rng.standard_normal((300, 1, 1), np.float32))
    train, holdout = TRAIN * rare[:240], HOLDOUT * rare[240:]
    one, other = rng.integers(240, size=(2, 480))
    metrics = privacy_metrics(train, holdout, 0.6 * train[one] + 0.4 * train[other], **IDS)
    assert metrics["membership_auc_calibrated"] > metrics["membership_auc"] + 0.05
    assert metrics["membership_auc_calibrated_low"] > 0.5


def test_an_attack_with_the_model_goes_by_its_error():
    rng = np.random.default_rng(11)

    def blurred(ecg, uv):
        return ecg + np.float32(uv / 1000) * rng.standard_normal(ecg.shape, np.float32)

    even = (blurred(TRAIN, 20), blurred(HOLDOUT, 20))
    overfitted = (blurred(TRAIN, 2), blurred(HOLDOUT, 40))
    metrics = privacy_metrics(TRAIN, HOLDOUT, GENERATED, reconstructions=even, **IDS)
    assert metrics["reconstruction_auc_low"] < 0.5 < metrics["reconstruction_auc_high"]
    assert metrics["membership_auc"] == pytest.approx(METRICS["membership_auc"])
    metrics = privacy_metrics(TRAIN, HOLDOUT, GENERATED, reconstructions=overfitted, **IDS)
    assert metrics["reconstruction_auc_low"] > 0.9
    assert metrics["reconstruction_auc_high"] <= 1
    assert "reconstruction_auc" not in METRICS


def test_the_same_seed_gives_the_same_and_all_are_plain_numbers():
    assert privacy_metrics(TRAIN, HOLDOUT, GENERATED, seed=4, **IDS) == METRICS
    assert privacy_metrics(TRAIN, HOLDOUT, GENERATED, seed=5, **IDS) != METRICS
    assert {type(value) for value in METRICS.values()} == {float, int}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generated": GENERATED[:, :, :20]}, r"shapes \(N, L, T\) with the same L and T"),
        ({"train": TRAIN[:, 0], "holdout": TRAIN[:, 0], "generated": TRAIN[:, 0]}, "N, L, T"),
        ({"generated": GENERATED[:1]}, "at least 2 generated ECGs. Received: 1"),
        ({"train_patients": TRAIN_PATIENTS[:9]}, "train_patients for each of 240 .* Received: 9"),
        ({"holdout_patients": ["h"] * 60}, "two patients in holdout. Received: 1"),
        ({"holdout_patients": TRAIN_PATIENTS[:60]}, "Patient t0 is in train and in holdout"),
        ({"reconstructions": (TRAIN, HOLDOUT[:5])}, r"Expected reconstructions of shapes \(240"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = {"train": TRAIN, "holdout": HOLDOUT, "generated": GENERATED, **IDS}
    with pytest.raises(ValueError, match=message):
        privacy_metrics(**(given | change))


@pytest.mark.parametrize("name", ["train", "holdout", "generated"])
def test_a_value_that_is_not_finite_is_named(name):
    given = {"train": TRAIN, "holdout": HOLDOUT, "generated": GENERATED}
    given[name] = given[name].copy()
    given[name][7, 3, 2] = np.nan
    with pytest.raises(ValueError, match=f"ECG 7 of {name} has NaN"):
        privacy_metrics(**given)
