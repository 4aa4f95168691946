"""Jobs: the requests on one replica, as the planner sees them.

A job is one stage of one request on one replica. Jobs are rows of a numpy structured array (`JOB`), so that
the hot loops of the planner (compiled by numba) and its plain references read the same fields by name.
`JobTable` owns such an array and keeps ids beside it.

Times are absolute seconds on one clock (whatever clock `now_s` is read from); tokens are counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Required, TypeAlias, TypedDict, Unpack, get_type_hints

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.compiling import readable


class JobFields(TypedDict, total=False):
    """The fields of a job; what is left out is as in `LEFT_OUT`."""

    deadline_s: Required[float]  # when the first token is due: arrival + TTFT SLO; inf without an SLO
    tpot_s: Required[float]  # TPOT SLO of the current stage: the job's tier; inf without an SLO
    due_base_s: float  # token k after the first is due at due_base_s + k * tpot_s; the deadline by default
    weight: float  # what an attained SLO is worth to the operator
    acceptance: float  # alpha: chance that a drafted token is accepted
    prompt_left: Required[int]  # prompt tokens still to be computed; 0 means the job decodes
    context: int  # tokens whose KV is on the replica (a cached prefix counts)
    generated: int  # output tokens emitted so far in this stage
    output: Required[int]  # output tokens expected in all in this stage (a planning value, not a promise)
    switch_at: int  # after this many output tokens the tier becomes next_tpot_s; 0 means never
    next_tpot_s: float  # tier after the switch (reasoning: think, then respond)
    guaranteed: Required[bool]  # an admitted SLO: never dropped; False means best effort
    held: bool  # best effort that must not run now
    arrival_s: float  # when it reached the replica; -inf when that is long ago
    has_slo: bool  # False: its deadline only says until when others may go first, and nothing is promised


KINDS = {float: "f8", int: "i8", bool: "?"}
JOB = readable(np.dtype([(name, KINDS[kind]) for name, kind in get_type_hints(JobFields).items()], align=True))
LEFT_OUT = dict.fromkeys(JOB.names or (), 0) | {
    "weight": 1.0,
    "next_tpot_s": np.inf,
    "arrival_s": -np.inf,
    "has_slo": True,
}

Jobs: TypeAlias = NDArray[np.void]  # one-dimensional, dtype JOB


class JobTable:
    """Jobs with ids, dense rows and O(1) add, look-up and remove.

    `rows` is a live view of dtype `JOB`: writing to it changes the table. `remove` moves the last row into the
    gap, so row numbers and views taken before an `add` or a `remove` are void after it.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._rows: Jobs = np.zeros(max(1, capacity), dtype=JOB)
        self.ids: list[str] = []
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._row_of

    @property
    def rows(self) -> Jobs:
        return self._rows[: len(self.ids)]

    def row_of(self, job_id: str) -> int:
        """The row of a job now. Raises KeyError for an unknown id."""
        return self._row_of[job_id]

    def __getitem__(self, job_id: str) -> Any:
        """The job's record, a live view. Raises KeyError for an unknown id."""
        return self._rows[self._row_of[job_id]]

    def add(self, job_id: str, **fields: Unpack[JobFields]) -> int:
        """Add a job and return its row. Raises ValueError for an id that is already here."""
        if job_id in self._row_of:
            raise ValueError(f"job {job_id!r} is already in the table")
        row = len(self.ids)
        if row == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(len(self._rows), dtype=JOB)])
        describe(self._rows, row, **fields)
        self.ids.append(job_id)
        self._row_of[job_id] = row
        return row

    def remove(self, job_id: str) -> None:
        """Remove a job. Raises KeyError for an unknown id."""
        row = self._row_of.pop(job_id)
        last = len(self.ids) - 1
        if row != last:
            self._rows[row] = self._rows[last]
            self.ids[row] = self.ids[last]
            self._row_of[self.ids[row]] = row
        self.ids.pop()

    def copy(self) -> JobTable:
        """An independent table with the same jobs in the same rows."""
        twin = JobTable(0)
        twin._rows = self._rows.copy()
        twin.ids = list(self.ids)
        twin._row_of = dict(self._row_of)
        return twin


def describe(jobs: Jobs, row: int, **fields: Unpack[JobFields]) -> None:
    """Write a job into a row."""
    jobs[row] = tuple((LEFT_OUT | {"due_base_s": fields["deadline_s"]} | fields).values())
