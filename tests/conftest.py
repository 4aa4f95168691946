from __future__ import annotations

import pytest

import engines.sim.warmup
import planner
from engines import profiles
from engines.sim import policies


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile all kernels before any test: the processes that tests start then find them in the cache."""
    planner.warm_up()
    for policy in ("slosgate", "vllm"):
        engines.sim.warmup.warm_up(profiles.load("h200-opt-13b"), policies.load(policy))
