"""Does the generator give its training patients away?

Two questions, each with a positive control in which copies of training beats are planted among the
generated ones. Do generated beats lie closer to training beats than to beats of other patients of
the same kind (Platzer and Reutterer 2021, doi 10.3389/fdata.2021.679939)? Can somebody who holds a
patient's beat and the generated ones tell whether that patient was trained on (membership
inference: Chen et al. 2020, doi 10.1145/3372297.3417238)?

Distances are root mean squares over leads and samples, in microvolts.

Dims: N recordings, G generated, P patients, L leads, T samples, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.cohort import UV_PER_MV
from data.leads import derive_leads, independent_leads
from data.rows import first_not_finite
from evaluation.measures.neighbours import (
    Patients,
    References,
    both_ways,
    neighbours,
    paired_distance,
    without_derived,
)
from evaluation.measures.statistics import (
    DRAWS,
    bootstrap_weights,
    weighted_auc,
    weightings,
    with_ends,
    with_interval,
)

CONTROL_SHARE = 0.1  # of the generated beats, replaced by copies of training beats
CONTROL_NOISE_UV = 5.0  # on each sample of a copy: the quietest of median beats
SMALLEST_UV = 1.0  # closer beats are the same: below the resolution of most recordings
SPREAD_DRAWS = 200  # where only the spread of the draws is used: known to 5% then
NEIGHBOURS = 24  # a bootstrap sample lacks all of 24 patients with probability 0.37^24
FIRST = 6  # of them are looked at first; few need the others

Ids = Sequence[str] | np.ndarray | None


def privacy_metrics(
    train: np.ndarray,
    holdout: np.ndarray,
    generated: np.ndarray,
    seed: int = 0,
    *,
    train_patients: Ids = None,
    holdout_patients: Ids = None,
    reconstructions: tuple[np.ndarray, np.ndarray] | None = None,
    draws: int = DRAWS,
    leads: Sequence[str] = (),
) -> dict[str, float]:
    """Distances to the nearest real beat, and attacks that tell training patients from others.

    Nearest-neighbour ratio: the distance of each generated beat to its nearest training beat over
    that to its nearest held-out beat, geometric mean over generated beats. The more beats there
    are, the closer lies the nearest. So both sides hold equally many patients: the training
    patients are divided at random into groups as large as the hold-out, and the log ratios of all
    groups are averaged. 1 without memory (the logarithm is symmetric around 0 then, unlike the
    ratio itself), below 1 where the generator copies.

    Membership: candidates are all training beats (members) and all held-out ones. The attack's
    score is minus the distance to the nearest generated beat. The calibrated attack divides that
    distance by the one to the nearest held-out beat of another patient: a rare beat is far from
    all (Watson et al. 2022, arXiv 2111.08440). It finds blurred copies that the plain attack
    misses, and on few hold-out patients it is the noisier one. With reconstructions, a third
    attack has the model itself: its error on the candidate, calibrated in the same way.

    Generated beats carry no measurement noise, real ones do. They are closer to all real beats than
    real beats are, so `nearest_train_uv` below `nearest_train_uv_real` alone proves nothing.

    Args:
        train: (N, L, T) mV, what the model was trained on. Time grows as N * G, 12 s for 4,500
            each: give a random part of the patients of a larger cohort.
        holdout: (N_holdout, L, T) mV of other patients of the same source.
        generated: (G, L, T) mV, at least as many as `train`, at the conditions of the training
            subjects; with fewer an attack has less to go by. The first tenth makes room for the
            copies of the control.
        seed: of groups, copies and bootstrap.
        train_patients: (N,) patient ids; each recording its own patient where left out.
        holdout_patients: (N_holdout,) patient ids.
        reconstructions: (N, L, T) and (N_holdout, L, T) mV, what the model gives back of `train`
            and of `holdout`; or what gives rows of that, such as `judge.Reconstruction`.
        draws: bootstrap samples of the attacks.
        leads: L names. Where some of the standard twelve follow from the others, distances take
            two thirds of the time.

    Returns:
        Flat name -> number: `nearest_train_uv` (median distance of generated beats to the nearest
        training beat) and `nearest_train_uv_p5` (5th percentile: where copies would show), both
        with `_real`, the same of held-out beats; `nearest_ratio`; `membership_auc`,
        `membership_auc_calibrated`, with reconstructions `reconstruction_auc` (0.5: the attack
        fails; 1: it always tells); `nearest_ratio_control` and `membership_auc_control` (planted
        members against held-out beats). `_low` and `_high` are 95% intervals over patients: the
        percentiles of a bootstrap for `membership_auc`; for the others, in which the held-out
        patients are what is compared with, the estimate -/+ 1.96 SD of its bootstrap, since
        bootstrap samples hold fewer different patients and thus lie elsewhere (in simulation
        they hold the truth in 92 to 99% of the cases).

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than two patients on
            one side, or a patient on both sides.
    """
    _check(train, holdout, generated, reconstructions)
    of_train, of_holdout = _patient_numbers(train, holdout, train_patients, holdout_patients)
    rng = np.random.default_rng(seed)
    copied = rng.choice(len(train), _number_of_copies(train, generated), replace=False)
    copied.sort()
    mix = without_derived(leads, train, holdout, generated)
    noise = rng.standard_normal((len(copied), *train.shape[1:]), np.float32)
    copies = np.asarray(train[copied]) + np.float32(CONTROL_NOISE_UV / UV_PER_MV) * noise
    if mix is not None:
        copies = derive_leads(independent_leads(copies))

    sets = generated[: len(copies)], generated[len(copies) :], copies
    sides = (train, of_train), (holdout, of_holdout)
    metrics, closest = _ratio(sides, mix, sets, rng, draws)
    metrics |= _membership(sides, mix, closest, copied, reconstructions, seed, draws)
    metrics |= {"members": len(train), "non_members": len(holdout), "generated": len(generated)}
    return metrics


def _ratio(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    mix: np.ndarray | None,
    sets: tuple[np.ndarray, np.ndarray, np.ndarray],
    rng: np.random.Generator,
    draws: int,
) -> tuple[dict[str, float], np.ndarray]:
    """`nearest_train_uv`, its 5th percentile, and the ratio with interval and control.

    `sides` are training and held-out beats with their patients; `sets` the generated beats that the
    control replaces, the others, and the copies. Besides, (3, N + N_holdout) distances of the real
    beats to the nearest of each set.
    """
    size = min(len(np.unique(patients)) for _, patients in sides)
    draws, copies = min(draws, SPREAD_DRAWS), len(sets[2])
    count = copies + len(sets[1])
    drawn = rng.multinomial(count, np.full(count, 1 / count), draws) / count  # generated beats
    value, control, samples = 0.0, 0.0, np.zeros(draws)
    to_train, to_sets = np.full(count, np.inf), []
    for sign, (ecg, patients) in zip((1, -1), sides, strict=True):
        groups = _groups(patients, size, rng)
        weight = sign / sum(full for _, full in groups)
        among = [Patients(patients, rows) for rows, _ in groups]
        references = References(ecg, mix)
        found = [both_ways(part, references, among, NEIGHBOURS) for part in sets]
        del references  # of a large cohort 130 MB
        to_sets.append([closest for _, closest in found])
        for (rows, full), *near in zip(groups, *(near for near, _ in found), strict=True):
            distances, ids = map(np.concatenate, zip(*near[:2], strict=True))
            if sign > 0:
                to_train = np.minimum(to_train, distances[:, 0])
            if not full:
                continue
            logs, of_copies = _logs(distances), _logs(near[2][0][:, 0])
            value += weight * logs[:, 0].mean()
            control += weight * np.concatenate([of_copies, logs[copies:, 0]]).mean()
            draw = int(rng.integers(2**32))
            samples += weight * _redrawn(logs, ids, patients[rows], drawn, draw)
    half = 1.96 * samples.std()
    return {
        "nearest_train_uv": float(np.median(to_train)),
        "nearest_train_uv_p5": float(np.percentile(to_train, 5)),
        **with_ends("nearest_ratio", *np.exp([value, value - half, value + half])),
        "nearest_ratio_control": float(np.exp(control)),
    }, np.concatenate(to_sets, axis=1)


def _groups(
    patients: np.ndarray, size: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, bool]]:
    """Rows of random groups of `size` patients each; False marks the rest, which is smaller."""
    names = rng.permutation(np.unique(patients))
    cut = [names[start : start + size] for start in range(0, len(names), size)]
    return [(np.flatnonzero(np.isin(patients, part)), len(part) == size) for part in cut]


def _redrawn(
    logs: np.ndarray, ids: np.ndarray, patients: np.ndarray, drawn: np.ndarray, seed: int
) -> np.ndarray:
    """Mean log distance to bootstrap samples of a group, for bootstrap samples of generated beats.

    Args:
        logs: (G, K) log distances to the nearest patients, ascending.
        ids: (G, K) patients.
        patients: (N,) patient of each recording of the group.
        drawn: (draws, G) weights of the generated beats.
        seed: of the patients drawn.

    Returns:
        (draws,).
    """
    names = np.unique(patients)
    position = np.searchsorted(names, ids)
    samples = []
    for weights in bootstrap_weights(names, seed, len(drawn)):
        for there, of_beats in zip(weights > 0, drawn[len(samples) :], strict=False):
            samples.append(of_beats @ _first(logs, position, there))
    return np.array(samples)


def _membership(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    mix: np.ndarray | None,
    closest: np.ndarray,
    copied: np.ndarray,
    reconstructions: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
    draws: int,
) -> dict[str, float]:
    """AUCs of the attacks, and `nearest_train_uv_real` with its 5th percentile."""
    (train, of_train), (holdout, of_holdout) = sides
    member = np.repeat([True, False], [len(train), len(holdout)])
    patients = np.concatenate([of_train, of_holdout])
    to_replaced, to_kept, to_copies = closest
    distance = np.minimum(to_kept, to_replaced)
    drawn = weightings(patients, seed, draws)
    aucs = np.concatenate([weighted_auc(weights, -distance, member) for weights in drawn])
    metrics = with_interval("membership_auc", aucs)

    # A held-out beat is compared with all held-out patients but its own. So that neither side has
    # more to choose from, one is hidden from each member too.
    names = np.unique(of_holdout)
    hidden, held_out = names[np.arange(len(train)) % len(names)], References(holdout, mix)
    [of_members], real = both_ways(train, held_out, [Patients(of_holdout)], NEIGHBOURS, hidden)
    metrics["nearest_train_uv_real"] = float(np.median(real))
    metrics["nearest_train_uv_p5_real"] = float(np.percentile(real, 5))
    of_others = neighbours(holdout, held_out, NEIGHBOURS, of_holdout, of_holdout)
    typical, ids = map(np.concatenate, zip(of_members, of_others, strict=True))
    attacks = {"membership_auc_calibrated": distance}
    if reconstructions is not None:
        pairs = zip((train, holdout), reconstructions, strict=True)
        attacks["reconstruction_auc"] = np.concatenate([paired_distance(*pair) for pair in pairs])
    for name, value in attacks.items():
        scores = _logs(typical) - _logs(value)[:, None]
        metrics |= _calibrated_auc(name, scores, ids, member, patients, seed, draws)

    chosen = np.concatenate([copied, np.arange(len(train), len(member))])
    planted = -np.minimum(to_kept, to_copies)[chosen]
    [control] = weighted_auc(np.ones((1, len(chosen))), planted, member[chosen])
    return metrics | {"membership_auc_control": float(control)}


def _calibrated_auc(
    name: str,
    scores: np.ndarray,
    ids: np.ndarray,
    member: np.ndarray,
    patients: np.ndarray,
    seed: int,
    draws: int,
) -> dict[str, float]:
    """AUC of scores that compare with held-out patients, who are drawn in both roles.

    Args:
        name: of the metric.
        scores: (N, K), the score if the k-th nearest held-out patient were the nearest.
        ids: (N, K) that patient.
        member: (N,) bool.
        patients: (N,) of the candidates.
        seed: of the bootstrap.
        draws: bootstrap samples.
    """
    [auc] = weighted_auc(np.ones((1, len(scores))), scores[:, 0], member)
    row_of = np.unique(patients, return_index=True)[1]  # patients are numbered 0, 1, ...
    position, samples = row_of[ids], []
    for chunk in bootstrap_weights(patients, seed, min(draws, SPREAD_DRAWS)):
        for weights in chunk:
            score = _first(scores, position, weights > 0)
            samples += list(weighted_auc(weights[None], score, member))
    half = 1.96 * np.nanstd(samples)
    return with_ends(name, auc, max(auc - half, 0), min(auc + half, 1))


def _first(values: np.ndarray, position: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The first of (N, K) values whose position (N, K) is `there`, or else the first: -> (N,)."""
    seen, rows = there[position[:, :FIRST]], np.arange(len(values))
    index = seen.argmax(axis=1)
    rare = np.flatnonzero(~seen[rows, index])
    index[rare] = there[position[rare]].argmax(axis=1)
    return values[rows, index]


def _logs(distances: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(distances, SMALLEST_UV))


def _number_of_copies(train: np.ndarray, generated: np.ndarray) -> int:
    return max(1, min(round(CONTROL_SHARE * len(generated)), len(train)))


def _patient_numbers(
    train: np.ndarray, holdout: np.ndarray, train_patients: Ids, holdout_patients: Ids
) -> tuple[np.ndarray, np.ndarray]:
    """Patients as integers that differ between the two sides."""
    numbers, start = [], 0
    for name, ecg, ids in (
        ("train", train, train_patients),
        ("holdout", holdout, holdout_patients),
    ):
        ids = np.arange(len(ecg)) if ids is None else np.asarray(ids)
        if len(ids) != len(ecg):
            raise ValueError(
                f"Expected one id in {name}_patients for each of {len(ecg)} recordings. "
                f"Received: {len(ids)}."
            )
        names, of = np.unique(ids, return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"Expected at least two patients in {name}. Received: {len(names)}.")
        numbers.append(of + start)
        start += len(names)
    if train_patients is not None and holdout_patients is not None:
        both = np.intersect1d(np.asarray(train_patients), np.asarray(holdout_patients))
        if len(both):
            raise ValueError(
                f"Patient {both[0]!s} is in train and in holdout: divide the cohort by patient."
            )
    return numbers[0], numbers[1]


def _check(train, holdout, generated, reconstructions) -> None:
    if train.ndim != 3 or not train.shape[1:] == holdout.shape[1:] == generated.shape[1:]:
        raise ValueError(
            "Expected train, holdout and generated of shapes (N, L, T) with the same L and T. "
            f"Received: {train.shape}, {holdout.shape} and {generated.shape}."
        )
    if len(generated) < 2:
        raise ValueError(f"Expected at least 2 generated ECGs. Received: {len(generated)}.")
    if reconstructions is not None:
        shapes = [made.shape for made in reconstructions]
        if shapes != [train.shape, holdout.shape]:
            raise ValueError(
                f"Expected reconstructions of shapes {train.shape} and {holdout.shape}. "
                f"Received: {shapes}."
            )
    for name, ecg in (("train", train), ("holdout", holdout), ("generated", generated)):
        row = first_not_finite(ecg)
        if row is not None:
            raise ValueError(f"ECG {row} of {name} has NaN or infinite values.")
