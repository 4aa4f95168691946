import math
import random

import numpy as np
import pytest

from slosgate.bench.attainment import (
    PAPER,
    STRICT,
    RequestOutcome,
    Rule,
    StageOutcome,
    attained,
    collect,
    pace_share,
    tpot_share,
    wilson,
)
from slosgate.bench.summary import summarize

TTFT_SLO, TPOT_SLO = 1.0, 0.1


def stage(first_s: float, *gaps_s: float, arrival_s: float = 0.0, output: int = 0) -> StageOutcome:
    times = np.cumsum([first_s, *gaps_s])
    return StageOutcome(arrival_s, TTFT_SLO, TPOT_SLO, output or len(times), times)


def kept(rule: Rule, *stages: StageOutcome, error: str = "") -> bool:
    served = collect([RequestOutcome("c", 0.0, list(stages), error=error)])
    return bool(attained(served, rule)[0])


# Due times of tokens after the first: max(1.0, first) + k x 0.1, k x 0.105 by the paper's rule.
@pytest.mark.parametrize(
    ("served", "paper", "strict"),
    [
        (stage(1.0), True, True),
        (stage(1.05), True, False),
        (stage(1.06), False, False),
        (stage(1.0, 0.1, 0.1), True, True),
        (stage(1.0, 0.1, 0.11), True, False),
        (stage(1.0, 0.1, 0.12), False, False),
        (stage(0.2, 0.9, 0.1), True, True),
        (stage(1.04, 0.1, 0.1), True, False),
        (stage(1.0, 0.5, *[0.05] * 19), True, False),
        (stage(1.0, *[0.1] * 19, 0.25, *[0.01] * 10), False, False),
        (stage(1.0, *[0.1] * 20, 0.25, *[0.01] * 10), True, False),
        (stage(1.0, 0.1, output=3), False, False),
    ],
    ids=[
        "first token on time",
        "first token within the tolerance",
        "first token late",
        "steady pace",
        "last token within the tolerance",
        "last token late",
        "an early first token buys slack",
        "a late first token moves the due base",
        "a token between the checks is late",
        "the 20th token is late",
        "the 21st token is late",
        "unfinished",
    ],
)
def test_one_stage(served: StageOutcome, paper: bool, strict: bool) -> None:
    assert (kept(PAPER, served), kept(STRICT, served)) == (paper, strict)


def test_every_stage_counts_and_a_stage_that_was_never_reached_is_a_miss() -> None:
    good, late = stage(3.5, arrival_s=3.0), stage(9.0, arrival_s=3.0)
    assert kept(PAPER, stage(0.5), good)
    assert not kept(PAPER, stage(0.5), late)
    assert not kept(PAPER, stage(0.5), StageOutcome(3.0, TTFT_SLO, TPOT_SLO, 5))


def test_a_failed_or_rejected_request_is_a_miss() -> None:
    assert not kept(PAPER, stage(0.5), error="http 429")
    assert not kept(PAPER)


def test_without_an_slo_finishing_is_enough() -> None:
    assert kept(STRICT, StageOutcome(0.0, math.inf, math.inf, 2, [100.0, 900.0]))
    assert not kept(STRICT, StageOutcome(0.0, math.inf, math.inf, 3, [100.0, 900.0]))


def test_without_a_ttft_slo_the_pace_counts_from_the_first_token() -> None:
    assert kept(STRICT, StageOutcome(0.0, math.inf, 0.1, 2, [9.0, 9.1]))
    assert not kept(STRICT, StageOutcome(0.0, math.inf, 0.1, 2, [9.0, 9.2]))


def test_the_pace_changes_when_thinking_ends() -> None:
    def thinks(last_s: float) -> StageOutcome:
        return StageOutcome(0.0, 1.0, 0.1, 4, [1.0, 1.1, 1.3, last_s], switch_at=2, next_tpot_slo_s=0.2)

    assert kept(STRICT, thinks(1.5))
    assert not kept(STRICT, thinks(1.51))
    assert tpot_share(collect([RequestOutcome("c", 0.0, [thinks(1.5)])])) == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (90, 100, 0.8256, 0.9448)],
)
def test_wilson_against_tabled_values(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_a_row_counts_offered_requests_by_class_and_fate() -> None:
    served = collect(
        [
            RequestOutcome("coder", 0.0, [stage(0.5, 0.1)], "guaranteed"),
            RequestOutcome("coder", 1.0, [stage(9.0, 0.1, arrival_s=1.0)], "best-effort"),
            RequestOutcome("chatbot", 9.9, [StageOutcome(9.9, 1.0, 0.1, 5)], "rejected", error="http 429"),
        ]
    )
    row = summarize(served, seconds=10.0)
    assert (row["offered"], row["attainment"], row["goodput_rps"]) == (3, pytest.approx(1 / 3, abs=1e-6), 0.1)
    assert (row["guaranteed"], row["best_effort"], row["rejected"], row["unfinished"]) == (1, 1, 1, 1)
    assert row["errors"] == {"http 429": 1}
    assert [(c["slo_class"], c["attainment"]) for c in row["classes"]] == [("chatbot", 0.0), ("coder", 0.5)]
    assert row["ttft_p50_s"] == pytest.approx(4.25)
    assert row["curves"]["ttft_share"][0] == 0.5
    assert row["curves"]["ttft_share"][-1] is None  # one never got a first token
    assert sum(row["timeline"]["offered"]) == 3
    assert [share for share in row["timeline"]["ttft_share_p99"] if share is not None] == [0.5]  # of guarantees


@pytest.mark.parametrize("seed", range(5))
def test_the_pace_that_is_drawn_is_the_pace_that_is_judged(seed: int) -> None:
    draw = random.Random(seed)
    stages = []
    for _ in range(60):
        times = [draw.uniform(0.1, 1.0)]
        for _ in range(draw.randint(1, 70)):
            times.append(times[-1] + draw.choice((0.05, 0.1, 0.15, 0.9)) * draw.uniform(0.5, 1.1))
        stages.append(StageOutcome(0.0, 1.0, 0.1, len(times), times))
    served = collect(RequestOutcome("c", 0.0, [one]) for one in stages)
    judged = pace_share(served, PAPER) <= PAPER.tolerance
    assert judged.tolist() == attained(served, PAPER).tolist()
    assert 0 < judged.sum() < len(stages)
