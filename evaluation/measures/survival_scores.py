"""Measures of predicted risk for outcomes that are partly censored, and what they rest on.

Each takes weights (W, N), so that a sample and all its bootstrap draws are measured at once.
lifelines, where it has the same quantity, is what the tests compare with.

Dims: N subjects, W weightings, M times, P covariates.
"""

from __future__ import annotations

import numpy as np

PAIRS_PER_CHUNK = 2**24  # 64 MB in float32
STEPS = 40  # of Newton's method; it converges in about 6
FAR = 1e-2  # SD of x: a step as long after all these leads to no maximum


def concordance(
    score: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    weights: np.ndarray,
    importance: np.ndarray | None = None,
) -> np.ndarray:
    """Share of comparable pairs in which the earlier event has the higher score; ties count 1/2.

    A pair is comparable if the earlier time is an event, or if of two equal times one is.

    Args:
        score: (N,), higher = earlier event.
        time: (N,).
        event: (N,) 0 or 1.
        weights: (W, N), how often each subject counts.
        importance: (N,) of the pairs in which this subject has the earlier event: 1 for Harrell's
            C (the default), 1 / G(time)^2 up to a horizon for Uno's.

    Returns:
        (W,); NaN where no pair is comparable.
    """
    importance = np.ones(len(time)) if importance is None else importance
    cases = np.flatnonzero((event > 0) & (importance > 0))
    weights = weights.astype(np.float32)
    pairs, agreeing = np.zeros((2, len(weights)))
    size = max(1, PAIRS_PER_CHUNK // len(time))
    for rows in (cases[start : start + size] for start in range(0, len(cases), size)):
        first = time[rows, None]
        comparable = (time > first) | (time == first) & (event == 0)  # (rows, N)
        right = comparable * ((score < score[rows, None]) + 0.5 * (score == score[rows, None]))
        drawn = weights[:, rows] * importance[rows].astype(np.float32)
        pairs += (drawn @ comparable.astype(np.float32) * weights).sum(axis=1, dtype=np.float64)
        agreeing += (drawn @ right.astype(np.float32) * weights).sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return agreeing / pairs


def censoring_survival(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier estimate of the probability G of not being censored yet.

    Where events and censoring share a time, the events come first: lifelines, given the complement
    of the events, would leave them at risk of being censored.

    Returns:
        The distinct times (M,) and G from each of them on (M,).
    """
    times, inverse = np.unique(time, return_inverse=True)
    leaving, events = np.bincount(inverse), np.bincount(inverse, weights=event)
    at_risk = leaving[::-1].cumsum()[::-1] - events
    censored = leaving - events
    return times, np.cumprod(1 - censored / np.maximum(at_risk, 1))


def brier_scores(
    survival: np.ndarray,
    times: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    censoring: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Each subject's part of the IPCW Brier score (Graf 1999); the mean over subjects is the score.

    Args:
        survival: (N, M) or (M,) predicted probability of no event up to these times.
        times: (M,).
        time: (N,).
        event: (N,) 0 or 1.
        censoring: what `censoring_survival` gives.

    Returns:
        (N, M).
    """
    died = (time[:, None] <= times) & (event[:, None] > 0)
    alive = time[:, None] > times
    before_event = step_function(*censoring, time, start=1.0, side="left")[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        died = np.where(died, survival**2 / before_event, 0)
        return died + np.where(
            alive, (1 - survival) ** 2 / step_function(*censoring, times, start=1.0), 0
        )


def calibration_curve(
    probability: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    horizon: float,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Observed probability of an event up to the horizon, as a smooth function of the predicted.

    A Cox regression on a restricted cubic spline (knots at the 10th, 50th and 90th percentile) of
    log(-log(1 - predicted)): Austin, Harrell and van Klaveren 2020, doi 10.1002/sim.8570.

    Args:
        probability: (N,) predicted probability of an event up to the horizon.
        time: (N,).
        event: (N,) 0 or 1.
        horizon: in the unit of `time`.
        weights: (W, N); by default one row of ones.

    Returns:
        (N,), or (W, N) if weights are given.
    """
    probability = np.clip(probability, 1e-10, 1 - 1e-10)
    x = _spline(np.log(-np.log1p(-probability)))
    rows = np.ones((1, len(x))) if weights is None else weights
    coefficients, hazard = weighted_cox(x, time, event, rows, horizon)
    observed = -np.expm1(-hazard[:, None] * np.exp(coefficients @ (x - x.mean(axis=0)).T))
    return observed[0] if weights is None else observed


def weighted_cox(
    x: np.ndarray, time: np.ndarray, event: np.ndarray, weights: np.ndarray, horizon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cox regressions with Efron's ties under many weightings at once, by Newton's method.

    lifelines fits one weighting in 30 ms; this fits a bootstrap of 300 in less than a second.

    Args:
        x: (N, P).
        time: (N,).
        event: (N,) 0 or 1.
        weights: (W, N), not negative.
        horizon: of the baseline hazard.

    Returns:
        Coefficients (W, P), and the cumulative hazard (W,) up to the horizon of a subject at the
        (unweighted) mean of x. A coefficient is 0 where x does not vary, NaN without an event or
        where there is no maximum: x tells all events from those who outlive them. Ties, with
        weights, are those of `model.cox.cox_partial_likelihood` and R's `coxph`.
    """
    order = np.argsort(-time, kind="stable")
    time, died, weights = time[order], event[order] > 0, weights[:, order]
    spread = x.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    x = ((x - x.mean(axis=0)) / spread)[order]
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    columns = np.concatenate([np.ones((len(x), 1)), x, products], axis=1)
    last_at_risk = np.searchsorted(-time, -time[died], side="right") - 1
    first = np.flatnonzero(np.diff(time[died], prepend=np.inf))  # event of each event time
    size = max(1, 2**20 // len(x))
    fits = [
        _newton(columns, x.shape[1], died, last_at_risk, first, weights[start : start + size])
        for start in range(0, len(weights), size)
    ]
    coefficients = np.concatenate([fit[0] for fit in fits])
    increments = np.concatenate([fit[1] for fit in fits])
    return coefficients / spread, increments[:, time[died] <= horizon].sum(axis=1)


def tied_share(time: np.ndarray, event: np.ndarray) -> float:
    """Share of those at risk who have the event at one time, averaged over events; 0 without ties.

    It says how coarsely times were rounded. Efron's ties are an approximation, which shrinks log
    hazards where it is large: at 0.11, 0.20 and 0.35 the true ones (SD 1, 6,000
    subjects) have a calibration slope of 0.97, 0.94 and 0.85 (Breslow's: 0.88, 0.78 and 0.64).

    Args:
        time: (N,).
        event: (N,) 0 or 1.
    """
    times, deaths = np.unique(time[event > 0], return_counts=True)
    if not (deaths > 1).any():
        return 0.0
    at_risk = len(time) - np.searchsorted(np.sort(time), times)
    return float((deaths * (deaths / at_risk)).sum() / deaths.sum())


def step_function(
    times: np.ndarray, values: np.ndarray, at: np.ndarray, start: float, side: str = "right"
) -> np.ndarray:
    """The step function that takes each value from its time on, at other times.

    Args:
        times: (M,), rising.
        values: (M,).
        at: times of any shape.
        start: value before the first time.
        side: "right", or "left" for the limit just before each time.

    Returns:
        An array of the shape of `at`.
    """
    return np.concatenate([[start], values])[np.searchsorted(times, at, side=side)]


def _newton(
    columns: np.ndarray,
    p: int,
    died: np.ndarray,
    last_at_risk: np.ndarray,
    first: np.ndarray,
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (W, P) and the step of the baseline hazard at each event (W, events).

    `columns` (N, 1 + P + P * P) holds 1, x and the products of x, latest time first; `first` the
    number of the first event of each group of ties.
    """
    x, drawn = columns[:, 1 : 1 + p], weights[:, died]
    ties = _Ties(first, drawn) if len(first) < drawn.shape[1] else None
    beta, best = np.zeros((len(weights), p)), np.full(len(weights), -np.inf)
    step = np.zeros_like(beta)
    ridge = 1e-9 * drawn.sum(axis=1)[:, None, None] * np.eye(p) + 1e-12 * np.eye(p)
    for number in range(STEPS):
        tried = beta + step
        hazard = weights * np.exp(tried @ x.T)
        sums = np.cumsum(hazard[:, :, None] * columns, axis=1)[:, last_at_risk]
        if ties:
            sums = sums - ties.gone(hazard[:, died, None] * columns[died])
        total = np.where(sums[:, :, 0] > 0, sums[:, :, 0], 1)  # 0: a draw without them
        at_risk = ties.mean(np.log(total)) if ties else np.log(total)
        value = (drawn * (tried @ x[died].T - at_risk)).sum(axis=1)  # log partial likelihood
        uphill = value >= best - 1e-9 * np.abs(value)
        beta, best = np.where(uphill[:, None], tried, beta), np.where(uphill, value, best)
        if number and np.abs(step).max() < 1e-7:
            break
        mean = sums[:, :, 1 : 1 + p] / total[:, :, None]
        second = (sums[:, :, 1 + p :] / total[:, :, None]).reshape(*mean.shape, p)
        variance = second - mean[:, :, :, None] * mean[:, :, None, :]
        if ties:
            mean, variance = ties.mean(mean), ties.mean(variance)
        score = np.einsum("we,wep->wp", drawn, x[died] - mean)
        information = np.einsum("we,wepq->wpq", drawn, variance) + ridge
        # At most one SD of x at a time, and half of a step that led downhill: far from the maximum,
        # or with one subject far out, a full step overshoots.
        newton = np.clip(np.linalg.solve(information, score[:, :, None])[:, :, 0], -1, 1)
        step = np.where(uphill[:, None], newton, step / 2)
    found = (np.abs(step).max(axis=1) < FAR) & drawn.any(axis=1)
    beta = np.where(found[:, None], beta, np.nan)
    return beta, drawn * ties.mean(1 / total) if ties else drawn / total


class _Ties:
    """Efron's ties: of d simultaneous events the risk set of number l = 0 .. d - 1 lacks l / d.

    Args:
        first: number of the first event of each group of simultaneous events.
        drawn: (W, events) weights; an event of weight 0 is none.
    """

    def __init__(self, first: np.ndarray, drawn: np.ndarray) -> None:
        self._first = first
        self._group = np.repeat(np.arange(len(first)), np.diff(first, append=drawn.shape[1]))
        self._counted = (drawn > 0).astype(np.float64)
        self._deaths = np.maximum(self._of_group(self._counted), 1)
        earlier = np.cumsum(self._counted, axis=1) - self._counted
        self._share = (earlier - earlier[:, first][:, self._group]) / self._deaths

    def gone(self, values: np.ndarray) -> np.ndarray:
        """What (W, events, columns) lack of the sums over the risk set."""
        return self._share[:, :, None] * self._of_group(values)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(W, events, ...) averaged over simultaneous events."""
        counted, deaths = (
            part.reshape(*part.shape, *(1,) * (values.ndim - 2))
            for part in (self._counted, self._deaths)
        )
        return self._of_group(values * counted) / deaths

    def _of_group(self, values: np.ndarray) -> np.ndarray:
        """The sum over simultaneous events, at each of them."""
        return np.add.reduceat(values, self._first, axis=1)[:, self._group]


def _spline(x: np.ndarray) -> np.ndarray:
    """(N,) -> (N, 2): x and a restricted cubic spline of three knots; (N, 1) if knots coincide."""
    low, middle, high = np.quantile(x, (0.1, 0.5, 0.9))
    if not low < middle < high:
        return x[:, None]
    cubes = [np.maximum(x - knot, 0) ** 3 for knot in (low, middle, high)]
    bend = cubes[0] - (cubes[1] * (high - low) - cubes[2] * (middle - low)) / (high - middle)
    return np.stack([x, bend / (high - low) ** 2], axis=1)
