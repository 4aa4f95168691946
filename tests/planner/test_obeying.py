"""A planned iteration held against what is there, worked by hand with blocks of 16 tokens."""

import numpy as np

from slosgate.planner.jobs import JobTable
from slosgate.planner.kernels import Load
from slosgate.planner.obeying import decoding, promised_slack_s, weigh


def jobs() -> JobTable:
    table = JobTable()
    fast = {"tpot_s": 0.05, "prompt_left": 0, "context": 32, "generated": 2, "output": 9, "due_base_s": 1.0}
    table.add("fast", deadline_s=1.0, guaranteed=True, **fast)  # type: ignore[arg-type]
    table.add("slow", deadline_s=1.0, guaranteed=False, **fast | {"tpot_s": 0.1})  # type: ignore[arg-type]
    table.add("prompt", deadline_s=1.3, tpot_s=0.1, prompt_left=40, context=10, output=9, guaranteed=True)
    return table


def test_only_named_tiers_decode_with_no_more_drafts_than_the_engine_makes() -> None:
    rows, drafts = decoding(jobs().rows, np.array([[0.05 + 1e-9, 5.0]]), 3)
    assert (rows.tolist(), drafts.tolist()) == ([0], [3])


def test_an_iteration_weighs_its_tokens_and_the_blocks_it_takes() -> None:
    weight = weigh(jobs().rows, np.array([0]), np.array([2]), np.array([2]), np.array([20]), 16, 1.0)
    assert weight.load == Load(new=3 + 20, context=35 + 30, sequences=2, drafts=2, pairs=20 * (10 + 10))
    assert weight.blocks == 1 + 1  # from 32 to 35 tokens, from 10 to 30


def test_the_first_guarantee_that_can_be_kept_says_how_long_it_may_take() -> None:
    table = jobs()
    assert np.isclose(promised_slack_s(table.rows, 1.0), 0.1)  # the third token of "fast"
    assert np.isclose(promised_slack_s(table.rows, 1.2), 0.1)  # that is late: the prompt's first token
    assert promised_slack_s(table.rows, 1.4) == np.inf
