from __future__ import annotations

import os

import pytest

from slosgate import planner
from slosgate.engines import profiles
from slosgate.engines.sim import policies, warmup


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile all kernels before any test: the processes that tests start then find them in the cache."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return  # nothing is compiled (see `tests.mutants.plain`)
    planner.warm_up()
    for policy in ("slosgate", "vllm"):
        warmup.warm_up(profiles.load("h200-opt-13b"), policies.load(policy))
