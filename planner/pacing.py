"""How long an iteration may prefill: it can't be interrupted, and what arrives meanwhile waits for its end.

An iteration loses D seconds to being one: to reading the weights, to the decodes that it carries. One of tau seconds
thus loses a share D / tau of the device's time, and, of the arrivals during it, those whose patience p (how long they
can wait for their own iteration, see `planner.arrivals`) is over before it ends: a share mean((tau - p)+) / tau. With
as much to do as there is time, a share of the one is worth a share of the other, and their sum

    (D + mean((tau - p)+)) / tau        is least where        mean(p, where p < tau, else 0) = D.

Requests that wait already are known, so they come first: where such iterations are too short to keep as many prompts in
time as can be, they are longer (`planner.urgency`).
"""

from __future__ import annotations

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import PAIR, Floats

SHORTEST = 0.9  # share of the best prefill rate that an iteration reaches in any case
LONGEST = 0.98  # beyond this share longer iterations gain hardly anything


@compiled
def rated_s(coef: Floats, share: float) -> float:
    """The shortest iteration that prefills at this share of the best rate.

    In tau seconds, term i lets (tau - s_i - b_i) / (a_i + c_i) prompt tokens through. All do at a share W of the best
    rate from tau = max_i (s_i + b_i) / (1 - W f_i) on, f_i being the slope a_i + c_i relative to the steepest.
    """
    steepest = slope_of(coef, steepest_term(coef))
    if steepest == 0.0:
        return np.inf
    tau_s = 0.0
    for i in range(len(coef)):
        tau_s = max(tau_s, constant_s(coef, i) / (1.0 - share * slope_of(coef, i) / steepest))
    return tau_s


@compiled
def rate_share(coef: Floats, tau_s: float, depth: float) -> float:
    """The inverse of `rated_s`: at which share of the best rate iterations of tau prefill.

    `depth` is how many tokens each attends to, on average.
    """
    big, share = steepest_term(coef), 1.0
    steepest = slope_of(coef, big) + coef[big, PAIR] * depth
    for i in range(len(coef)):
        slope = slope_of(coef, i) + coef[i, PAIR] * depth
        if tau_s < np.inf and slope > 0.0:
            share = min(share, (tau_s - constant_s(coef, i)) / slope * steepest / tau_s)
    return share


@compiled
def balanced_s(coef: Floats, patience_s: Floats, fixed_s: float) -> float:
    """How long to prefill where an iteration loses `fixed_s` to being one; `patience_s` of arrivals, ascending."""
    shortest_s, longest_s = rated_s(coef, SHORTEST), rated_s(coef, LONGEST)
    impatient_s = 0.0
    for waits_s in patience_s:
        impatient_s += max(0.0, waits_s)
        if impatient_s > fixed_s * len(patience_s):
            return float(min(longest_s, max(shortest_s, waits_s)))
    return float(longest_s)


@compiled
def steepest_term(coef: Floats) -> int:
    """The term that bounds large prefills."""
    best = 0
    for i in range(len(coef)):
        if slope_of(coef, i) > slope_of(coef, best):
            best = i
    return best


@compiled
def slope_of(coef: Floats, term: int) -> float:
    """Seconds for each prompt token more, but for what it attends to."""
    return coef[term, 0] + coef[term, 1]  # type: ignore[no-any-return]


@compiled
def constant_s(coef: Floats, term: int) -> float:
    """Seconds for an iteration with one prefill, however short."""
    return coef[term, 2] + coef[term, 4]  # type: ignore[no-any-return]
