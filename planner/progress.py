"""What an iteration did, written into a table of jobs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.compiling import compiled
from slosgate.planner.dues import gain
from slosgate.planner.jobs import Jobs, JobTable
from slosgate.planner.kernels import Ints


@dataclass(frozen=True, slots=True)
class Progress:
    """What one iteration did to rows of the table; arrays of one length, and no row twice."""

    rows: NDArray[np.int64]
    computed: NDArray[np.int64]  # tokens of context gained
    prompt: NDArray[np.int64]  # prompt tokens among them
    emitted: NDArray[np.int64]  # output tokens

    def apply(self, table: JobTable, end_s: float) -> None:
        """Write it into a table; the iteration ended at `end_s`."""
        advance(table.rows, self.rows, self.computed, self.prompt, self.emitted, end_s)


@compiled
def advance(jobs: Jobs, rows: Ints, computed: Ints, prompt: Ints, emitted: Ints, end_s: float) -> None:
    """The same, on arrays."""
    for i in range(len(rows)):
        gain(jobs[rows[i]], computed[i], prompt[i], emitted[i], end_s)
