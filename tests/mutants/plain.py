"""A pytest plugin that runs the kernels as plain Python: compiling them anew for every bug would take minutes.

With `NUMBA_DISABLE_JIT=1` a kernel is the function that it was compiled from. It divides as numpy does, silently.
"""

from __future__ import annotations

import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    np.seterr(all="ignore")
