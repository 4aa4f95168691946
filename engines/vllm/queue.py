"""The waiting queue: vLLM sees the requests that were chosen for this iteration, in the planner's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue


class ChosenQueue(RequestQueue):  # type: ignore[misc]  # vLLM is untyped here
    """Waiting requests, of which only the chosen ones can be peeked at and popped.

    `len` counts all of them: the engine's loop goes on as long as there is any. The truth value says whether a
    chosen one is left, which is what ends admission.
    """

    def __init__(self, requests: Iterable[Any] = ()) -> None:
        self._all: dict[str, Any] = {request.request_id: request for request in requests}
        self._chosen: list[str] = []  # next one last

    def choose(self, request_ids: Iterable[str]) -> None:
        """Offer these requests, first one first; ids that do not wait here are passed over."""
        self._chosen = [request_id for request_id in request_ids if request_id in self._all]
        self._chosen.reverse()

    def peek_request(self) -> Any:
        if not self._chosen:
            raise IndexError("no chosen request is waiting")
        return self._all[self._chosen[-1]]

    def pop_request(self) -> Any:
        request = self.peek_request()
        self._chosen.pop()
        return self._all.pop(request.request_id)

    def add_request(self, request: Any) -> None:
        self._all[request.request_id] = request

    def prepend_request(self, request: Any) -> None:
        self.add_request(request)

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: Any) -> None:
        del self._all[request.request_id]
        if request.request_id in self._chosen:
            self._chosen.remove(request.request_id)

    def remove_requests(self, requests: Iterable[Any]) -> None:
        for request in requests:
            if request.request_id in self._all:
                self.remove_request(request)

    def __contains__(self, request: Any) -> bool:
        return request.request_id in self._all

    def __bool__(self) -> bool:
        return bool(self._chosen)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._all.values()))
