"""Bugs in the engines: the plan follower and the simulated replica."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LIMITS, FOLLOW = "tests/engines/test_follower_limits.py::test_", "tests/engines/test_follower.py::test_"
BLOCKS, KERNEL = "tests/engines/test_blocks.py::test_", "tests/engines/test_kernel.py::test_"
REPLICA = "tests/engines/test_replica.py"


def _engines(breaks: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("engines", breaks, f"engines/{file}.py", old, new, tests)


MUTANTS = (
    _engines(
        "iterations that only decode teach what prefills take, whatever those attend to",
        "calibrating",
        "prefills = report.pairs > 0.0",
        "prefills = True",
        "tests/engines/test_recalibrating.py::test_decodes_that_are_much_faster_than_the_profile_says_leave_prefills_as_they_are",
    ),
    _engines(
        "a planned iteration ignores how many blocks are free",
        "follower",
        " or weight.blocks > free_blocks:",
        ":",
        f"{LIMITS}a_planned_iteration_needs_its_blocks",
    ),
    _engines(
        "a planned iteration may make a guarantee late",
        "follower",
        "if duration_s > max(weight.slack_s, 0.0):",
        "if False:",
        f"{FOLLOW}an_entry_that_would_make_a_guarantee_late_is_not_followed",
    ),
    _engines(
        "an older plan replaces a newer one",
        "follower",
        "if self.plan and plan.epoch <= self.plan.epoch and",
        "if self.plan and plan.epoch < 0 and",
        f"{FOLLOW}a_newer_plan_replaces_what_is_left_of_an_older_one",
    ),
    _engines(
        "the follower plans for itself although plans come",
        "follower",
        "self._plan_is_news, self._planned_s = False, now_s + UNPLANNED_S",
        "self._plan_is_news = False",
        f"{LIMITS}without_a_plan_it_promotes_by_itself_and_only_then",
    ),
    _engines(
        "a pace alone is taken for a guarantee",
        "follower",
        "bool(slo.slo_guaranteed) and slo.slo_ttft_ms is not None",
        "bool(slo.slo_guaranteed)",
        f"{LIMITS}what_a_request_says_becomes_a_job",
    ),
    _engines(
        "more output is planned for than the client allows",
        "follower",
        "min(slo.slo_output_tokens or max_tokens, max_tokens)",
        "slo.slo_output_tokens or max_tokens",
        f"{LIMITS}what_a_request_says_becomes_a_job",
    ),
    _engines(
        "whoever was announced and never came is waited for for ever",
        "announced",
        "if follows.start_s > min(times.latest_s, times.ready_s + NO_SHOW_S)",
        "if False",
        f"{FOLLOW}an_announced_request_that_never_came_is_forgotten",
        f"{FOLLOW}a_request_on_its_way_is_waited_for_until_it_is_here_or_should_be",
    ),
    _engines(
        "the youngest contents of the cache go first",
        "sim/blocks",
        "oldest = next(iter(self._unused))",
        "oldest = next(reversed(self._unused))",
        f"{BLOCKS}the_oldest_contents_go_first_and_from_their_end",
    ),
    _engines(
        "a claimed prefix stays free",
        "sim/blocks",
        "        if taken:\n            self.free -= taken\n",
        "        if taken:\n",
        f"{BLOCKS}a_sequence_claims_what_one_with_the_same_beginning_left",
    ),
    _engines(
        "events of one time run in any order",
        "sim/kernel",
        "(time_s, priority, next(self._ids), event)",
        "(time_s, 0, next(self._ids), event)",
        f"{KERNEL}events_run_by_time_then_priority_then_order_of_scheduling",
    ),
    _engines(
        "the first running sequence is evicted instead of the last",
        "sim/policies/fcfs",
        "victim = int(self._running[-1])\n        self._running = self._running[:-1]",
        "victim = int(self._running[0])\n        self._running = self._running[1:]",
        f"{REPLICA}::TestVllm::test_the_last_running_sequence_is_preempted_and_computed_again",
    ),
    _engines(
        "a cancelled request keeps emitting",
        "sim/steps",
        "        if s.gone:\n            continue\n",
        "",
        f"{REPLICA}::TestAny::test_a_cancelled_request_frees_its_blocks_when_its_iteration_ends",
    ),
    _engines(
        "a session's prefix is forgotten when its stage ends",
        "sim/state",
        'self.pool.leave(slot, int(sequence["blocks"]), parts, self._computed_blocks(slot))',
        'self.pool.leave(slot, int(sequence["blocks"]))',
        f"{REPLICA}::TestAny::test_a_later_stage_finds_its_prefix",
    ),
)
