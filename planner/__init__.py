"""Pure planning: performance model, token budgets, admission, batch plans.

Nothing here does I/O, reads a clock or knows about Redis, HTTP or vLLM: every function takes records and
`now_s` and returns records, so the gateway, the engines and the simulator share one planner.
"""

from slosgate.planner.warmup import warm_up

__all__ = ["warm_up"]
