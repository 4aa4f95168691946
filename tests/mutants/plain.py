"""A pytest plugin that runs the kernels as plain Python: compiling them anew for every bug would take minutes.

With `NUMBA_DISABLE_JIT=1` a kernel is the function that it was compiled from. It reads a row's fields as attributes,
which numpy allows for rows of type `record`, and divides as numpy does.
"""

from __future__ import annotations

import numpy as np
import pytest

from slosgate.planner import jobs

jobs.JOB = np.dtype((np.record, jobs.JOB))  # before anybody imports it by name

from slosgate.engines.sim import state  # noqa: E402

state.SEQUENCE = np.dtype((np.record, state.SEQUENCE))


def pytest_configure(config: pytest.Config) -> None:
    np.seterr(all="ignore")
