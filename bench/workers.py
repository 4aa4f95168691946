"""Simulations on all cores: a pool of processes, each call made once however often it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from threading import Lock
from types import TracebackType
from typing import Any

from slosgate.bench import counts
from slosgate.bench.capacity import Count
from slosgate.bench.questions import Question


def _cores() -> int:
    """Those this process may use, where that can be asked; else those there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that run simulations, one per core. Searches run in threads here and wait for them."""

    def __init__(self, processes: int | None = None) -> None:
        self._size = processes or _cores()
        self.searches = 2 * self._size  # to have under way: enough that no process waits, few enough that some end
        # Spawned, not forked: the parent has threads.
        self._pool = ProcessPoolExecutor(self._size, mp_context=get_context("spawn"))
        self._asked: dict[tuple[Any, ...], Future[Any]] = {}
        self._one_asks = Lock()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., Any], *arguments: Hashable) -> Future[Any]:
        """Have a process call the function; the same call is made once."""
        with self._one_asks:
            asked = (function, *arguments)
            if asked not in self._asked:
                self._asked[asked] = self._pool.submit(function, *arguments)
            return self._asked[asked]

    def count(self, question: Question, rate_rps: float, target: float) -> Count:
        """Attained and offered, as far as it takes to tell on which side of `target` that is."""
        counted: Count = self.submit(counts.count, question, rate_rps, target).result()
        return counted
