"""Bugs in the harness."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ATTAINED, SEARCH = "tests/bench/test_attainment.py::test_", "tests/bench/test_capacity_search.py::test_"
BOUND, CACHE = "tests/bench/test_bound.py::test_", "tests/bench/test_cache.py::test_"


def _bench(breaks: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("bench", breaks, f"bench/{file}.py", old, new, tests)


MUTANTS = (
    _bench(
        "the bound ignores the gaps between stages",
        "bound",
        "            latest_s += call.gap_s\n",
        "",
        f"{BOUND}a_call_that_comes_later_is_due_later",
    ),
    _bench(
        "the bound ignores decoding",
        "bound",
        "if call.output_tokens > 1:",
        "if False:",
        f"{BOUND}decoding_takes_time_from_a_burst",
    ),
    _bench(
        "the bound counts one replica, however many there are",
        "bound",
        "cost_s / replicas,\n",
        "cost_s,\n",
        f"{BOUND}a_burst_loses_what_no_order_can_save",
    ),
    _bench(
        "the bound leaves the shortest out instead of the longest",
        "bound",
        "heapq.heappush(taken, -cost_s[j])",
        "heapq.heappush(taken, cost_s[j])",
        f"{BOUND}no_order_of_the_prompts_beats_the_bound",
        f"{BOUND}a_burst_loses_what_no_order_can_save",
    ),
    _bench(
        "a capacity is confirmed by one rate too few",
        "capacity",
        "range(step, step - CONFIRM - 1, -1)",
        "range(step, step - CONFIRM, -1)",
        f"{SEARCH}a_rate_counts_when_the_two_below_it_hold_as_well",
    ),
    _bench(
        "a rate that just attains the target does not count",
        "capacity",
        "return counts[step].attainment >= target",
        "return counts[step].attainment > target",
        f"{SEARCH}an_attainment_that_is_just_the_target_is_enough",
    ),
    _bench(
        "an answer that did not finish counts",
        "attainment",
        "complete = (served.tokens >= served.expected) & (served.tokens > 0)",
        "complete = served.tokens > 0",
        f"{ATTAINED}one_stage",
    ),
    _bench(
        "only the first stage counts",
        "attainment",
        "np.logical_and.at(result, served.request, stages_attained(served, rule))",
        "result[served.request[::-1]] &= stages_attained(served, rule)[::-1]",
        f"{ATTAINED}every_stage_counts_and_a_stage_that_was_never_reached_is_a_miss",
    ),
    _bench(
        "the last token is not checked",
        "attainment",
        "counts = np.maximum(-(-last // rule.every), 0)",
        "counts = np.maximum(last // rule.every, 0)",
        f"{ATTAINED}one_stage",
    ),
    _bench(
        "the denominator leaves out who was refused",
        "attainment",
        'result[[e != "" for e in served.error]] = False',
        "pass",
        f"{ATTAINED}a_failed_or_rejected_request_is_a_miss",
    ),
    _bench(
        "the pace changes a token too late",
        "attainment",
        "served.switch_at[stage] - 1, np.iinfo",
        "served.switch_at[stage], np.iinfo",
        f"{ATTAINED}the_pace_changes_when_thinking_ends",
    ),
    _bench(
        "an answer that was broken off too soon is kept",
        "cache",
        "if enough(known):",
        "if True:",
        f"{CACHE}an_answer_that_was_broken_off_too_soon_is_replaced",
    ),
)
