from __future__ import annotations

import pytest

from planner.warmup import warm_up


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the planner's kernels before any test: the processes that tests start then find them in the cache."""
    warm_up()
