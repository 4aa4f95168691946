"""Where the thinking of vLLM's requests ends: there the pace of their SLO changes (`planner.pace`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slosgate.engines.follower import PlanFollower
from slosgate.engines.vllm.tracker import Tracker
from slosgate.planner.pace import NOT_YET

LAST_OF_PROMPT = 8  # tokens: the end of thinking, and the line breaks behind it


class Thinking:
    """Watches the output of requests whose pace is to change. `ends` finds the end in token ids; None: nothing thinks.

    A prompt that ends with the end of thinking, as templates write it for `enable_thinking: false`, has nothing to
    think about.
    """

    def __init__(self, follower: PlanFollower, tracker: Tracker, ends: Callable[[Sequence[int]], int] | None) -> None:
        self._follower = follower
        self._tracker = tracker
        self._ends = ends
        self._watched: dict[str, tuple[Any, int]] = {}  # requests, and how much of their output has been looked at

    def begin(self, request: Any) -> None:
        """A request has come."""
        job_id = self._tracker.job_of(request)
        if job_id is None or self._follower.table[job_id]["switch_at"] != NOT_YET:
            return
        if self._ends is None or self._ends(list(request.prompt_token_ids or ())[-LAST_OF_PROMPT:]):
            self._follower.thought(job_id, 0)
        else:
            self._watched[request.request_id] = request, 0

    def look(self) -> None:
        """Output has come."""
        for request_id, (request, looked) in list(self._watched.items()):
            job_id = self._tracker.job_of(request)
            if job_id is None or self._ends is None:
                del self._watched[request_id]
                continue
            ids = request.output_token_ids
            ended = self._ends(ids[looked:])
            if ended:
                self._follower.thought(job_id, looked + ended)
                del self._watched[request_id]
            else:
                self._watched[request_id] = request, len(ids)
