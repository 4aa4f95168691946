"""Which requests got the latency they were promised: pure functions over compact arrays.

The denominator is every *offered* request: one that was rejected, failed or did not finish is a miss, and so is
one of which a single stage missed. Two rules are reported:

    paper   TTFT <= 1.05 x SLO, and at every 20th token and the last
            time <= max(arrival + TTFT SLO, first token) + 1.05 x k x TPOT SLO
    strict  the same at every token, without the tolerance

where k counts the tokens after the first; without a TTFT SLO the first token alone is the base. Times are seconds on
one clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.dues import TOLERANCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ROUNDING_S = 1e-9  # sums of iteration times differ from deadlines by floating-point dust
GUARANTEED, BEST_EFFORT, REJECTED, UNSAID = "guaranteed", "best-effort", "rejected", ""


@dataclass(frozen=True, slots=True)
class Rule:
    tolerance: float
    every: int


PAPER = Rule(tolerance=1.0 + TOLERANCE, every=20)
STRICT = Rule(tolerance=1.0, every=1)


@dataclass(slots=True)
class StageOutcome:
    """One stage as it was served. `token_s` holds the time of each token that arrived, in order.

    After `switch_at` output tokens (0: never) the pace is `next_tpot_slo_s`: a model that thinks, then responds.
    """

    arrival_s: float
    ttft_slo_s: float  # inf without an SLO
    tpot_slo_s: float
    output_tokens: int  # how many were asked for
    token_s: Sequence[float] | Floats = ()
    switch_at: int = 0
    next_tpot_slo_s: float = math.inf
    prompt_tokens: int = 0
    known_tokens: int = 0  # of the prompt, those that earlier calls had computed
    cached_tokens: int | None = None  # of the prompt, those that the server had cached; None: it didn't tell
    e2e_slo_s: float = math.inf  # of the last token, from the arrival
    replica: str = ""  # which served it, where that is told
    admission: str = UNSAID
    predicted_ttft_s: float = math.nan  # as the answer told it


@dataclass(slots=True)
class RequestOutcome:
    """One offered request: all its stages, also those that were never reached."""

    slo_class: str
    arrival_s: float
    stages: list[StageOutcome] = field(default_factory=list)
    admission: str = UNSAID
    error: str = ""  # kind of failure, "" when there was none
    said: str = ""  # by the server, of that failure
    told_after_s: float = math.inf  # how long after its arrival each stage knew that it is guaranteed, at most


@dataclass(frozen=True, slots=True)
class Served:
    """Every offered request, as arrays: n requests, m stages in the requests' order, t tokens in the stages' order."""

    slo_class: tuple[str, ...]  # n
    offered_s: Floats  # n, arrival of the first stage
    admission: tuple[str, ...]  # n
    error: tuple[str, ...]  # n
    request: Ints  # m, index of the stage's request
    arrival_s: Floats  # m
    ttft_slo_s: Floats  # m
    tpot_slo_s: Floats  # m
    switch_at: Ints  # m
    next_tpot_slo_s: Floats  # m
    e2e_slo_s: Floats  # m
    expected: Ints  # m, output tokens asked for
    tokens: Ints  # m, output tokens that came
    token_s: Floats  # t

    @property
    def stage_start(self) -> Ints:
        """Where each stage's tokens begin in `token_s`."""
        return np.concatenate([[0], np.cumsum(self.tokens)[:-1]]).astype(np.int64)


def collect(outcomes: Iterable[RequestOutcome]) -> Served:
    """Outcomes as arrays."""
    requests = list(outcomes)
    stages = [(n, s) for n, r in enumerate(requests) for s in r.stages]
    times = [np.asarray(s.token_s, dtype=np.float64) for _, s in stages]
    return Served(
        slo_class=tuple(r.slo_class for r in requests),
        offered_s=np.array([r.arrival_s for r in requests], dtype=np.float64),
        admission=tuple(r.admission for r in requests),
        error=tuple(r.error for r in requests),
        request=np.array([n for n, _ in stages], dtype=np.int64),
        arrival_s=np.array([s.arrival_s for _, s in stages], dtype=np.float64),
        ttft_slo_s=np.array([s.ttft_slo_s for _, s in stages], dtype=np.float64),
        tpot_slo_s=np.array([s.tpot_slo_s for _, s in stages], dtype=np.float64),
        switch_at=np.array([s.switch_at for _, s in stages], dtype=np.int64),
        next_tpot_slo_s=np.array([s.next_tpot_slo_s for _, s in stages], dtype=np.float64),
        e2e_slo_s=np.array([s.e2e_slo_s for _, s in stages], dtype=np.float64),
        expected=np.array([s.output_tokens for _, s in stages], dtype=np.int64),
        tokens=np.array([len(t) for t in times], dtype=np.int64),
        token_s=np.concatenate(times) if times else np.zeros(0),
    )


def attained(served: Served, rule: Rule) -> Bools:
    """Per request: did every stage keep its SLO under `rule`?"""
    result = np.ones(len(served.slo_class), dtype=np.bool_)
    result[[e != "" for e in served.error]] = False
    reached = np.zeros(len(result), dtype=np.bool_)
    reached[served.request] = True
    np.logical_and.at(result, served.request, stages_attained(served, rule))
    return result & reached


def stages_attained(served: Served, rule: Rule) -> Bools:
    """Per stage: complete, first token in time, every checked token in time, and the last one of the whole call."""
    complete = (served.tokens >= served.expected) & (served.tokens > 0)
    ttft_s = first_token_s(served) - served.arrival_s
    result = complete & (ttft_s <= rule.tolerance * served.ttft_slo_s + ROUNDING_S)
    result &= last_token_s(served) - served.arrival_s <= rule.tolerance * served.e2e_slo_s + ROUNDING_S

    stage, k = _checked(served, rule)
    due_s = _base_s(served)[stage] + rule.tolerance * _pace_s(served, stage, k)
    late = served.token_s[served.stage_start[stage] + k] > due_s + ROUNDING_S
    result[stage[late]] = False
    return result


def _base_s(served: Served) -> Floats:
    """Per stage: when its first token was due, or came if that was later; nan when none came."""
    due_s = served.arrival_s + np.where(np.isfinite(served.ttft_slo_s), served.ttft_slo_s, 0.0)
    base_s: Floats = np.maximum(due_s, first_token_s(served))
    return base_s


def judged(served: Served, rule: Rule) -> Ints:
    """Where in `token_s` the tokens stand by which the rule judges; no other counts."""
    stage, k = _checked(served, rule)
    first: Ints = served.stage_start[served.tokens > 0]
    return np.concatenate([first, served.stage_start[stage] + k])


def _checked(served: Served, rule: Rule) -> tuple[Ints, Ints]:
    """Stage and number k > 0 of every token that the rule looks at: each of so many, and the last."""
    last = served.tokens - 1
    counts = np.maximum(-(-last // rule.every), 0)
    stage = np.repeat(np.arange(len(counts)), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    k = (np.arange(len(stage)) - before + 1) * rule.every
    return stage, np.minimum(k, last[stage])


def _pace_s(served: Served, stage: Ints, k: Ints) -> Floats:
    """How long after the base token k > 0 is due, with the switch of pace in it."""
    last_before = np.where(served.switch_at[stage] > 0, served.switch_at[stage] - 1, np.iinfo(np.int64).max)
    before = np.minimum(k, last_before)
    after = k - before
    pace_s = np.zeros(len(k))
    counted, switched = before > 0, after > 0  # inf x 0 is not a number
    pace_s[counted] = before[counted] * served.tpot_slo_s[stage[counted]]
    pace_s[switched] += after[switched] * served.next_tpot_slo_s[stage[switched]]
    return pace_s


def first_token_s(served: Served) -> Floats:
    """Per stage, shape (m,): when the first token came; nan when none did."""
    first_s = np.full(len(served.tokens), np.nan)
    begun = served.tokens > 0
    first_s[begun] = served.token_s[served.stage_start[begun]]
    return first_s


def last_token_s(served: Served) -> Floats:
    """Per stage, shape (m,): when the last token so far came; nan when none did."""
    last_s = np.full(len(served.tokens), np.nan)
    begun = served.tokens > 0
    last_s[begun] = served.token_s[(served.stage_start + served.tokens - 1)[begun]]
    return last_s


def ttft_s(served: Served) -> Floats:
    """Per stage that got a first token: time to it."""
    waits: Floats = first_token_s(served) - served.arrival_s
    return waits[~np.isnan(waits)]


def tpot_s(served: Served) -> Floats:
    """Per stage with two tokens or more: mean time per token after the first."""
    long = served.tokens > 1
    start = served.stage_start[long]
    last = start + served.tokens[long] - 1
    mean_s: Floats = (served.token_s[last] - served.token_s[start]) / (served.tokens[long] - 1)
    return mean_s


def ttft_share(served: Served) -> Floats:
    """TTFT over its SLO, per stage that has one; a stage that never got a first token counts as inf."""
    share = (first_token_s(served) - served.arrival_s) / served.ttft_slo_s
    share[np.isnan(share)] = np.inf
    return share[np.isfinite(served.ttft_slo_s)]


def tpot_share(served: Served) -> Floats:
    """Mean time per token after the first over its SLO, per stage; a stage that did not finish counts as inf.

    A stage without an SLO, or with a single token, is left out.
    """
    share = np.full(len(served.tokens), np.inf)
    done = np.flatnonzero((served.tokens > 1) & (served.tokens >= served.expected))
    start = served.stage_start[done]
    last = served.tokens[done] - 1
    share[done] = (served.token_s[start + last] - served.token_s[start]) / _pace_s(served, done, last)
    return share[np.isfinite(served.tpot_slo_s) & (served.expected > 1)]


def pace_share(served: Served, rule: Rule) -> Floats:
    """By what the pace of a stage is judged: of the tokens that the rule checks, the latest one's time since the first
    was due or came, over what the TPOT SLO gives it. In time is what is at most the rule's tolerance.

    A stage that did not finish counts as inf; one without an SLO, or with a single token, is left out.
    """
    stage, k = _checked(served, rule)
    since_s = served.token_s[served.stage_start[stage] + k] - _base_s(served)[stage]
    share = np.full(len(served.tokens), -np.inf)
    np.maximum.at(share, stage, since_s / _pace_s(served, stage, k))
    share = np.where(served.tokens < served.expected, np.inf, np.maximum(share, 0.0))
    return share[np.isfinite(served.tpot_slo_s) & (served.expected > 1)]


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `hits` in `n`; (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
