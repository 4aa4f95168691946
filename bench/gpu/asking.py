"""How clients of the GPU measurements ask: with a cap instead of a length, and without usage in every event."""

from __future__ import annotations

import re
import time
from typing import Any

from slosgate.bench.gpu.dummy_model import WORD_CHARACTERS, word_ids
from slosgate.bench.gpu.lengths import told, told_thinking
from slosgate.bench.live import Asking
from slosgate.engines.sim.systems import Call, Offered

_TEXT = re.compile(rb'"text":\s*"(\w*)"')
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')
_ENDS = re.compile(rb'"finish_reason":\s*"')


class Capped(Asking):
    """`max_tokens` is one cap for all; how long answer and thinking get is told to the engine alone (`lengths.py`).

    Every token of the dummy tokenizer is so many letters, so an event's text says how many tokens it holds, also where
    the server has put several into one; the last token of an answer has no text. Usage comes once, at the end.
    """

    def __init__(self, cap: int, *, by_deadline: bool = False) -> None:
        self._cap = cap
        self._by_deadline = by_deadline

    def body(self, request: Offered, call: Call, prompt: list[int]) -> dict[str, Any]:
        prompt[-1] = told(min(call.output_tokens, self._cap))
        if call.switch_at and len(prompt) > 1:
            prompt[-2] = told_thinking(call.switch_at)
        body = {"prompt": prompt, "max_tokens": self._cap, "stream_options": {"include_usage": True}}
        if self._by_deadline:  # vLLM's own priorities, at their best: the earliest deadline first
            body["priority"] = int((time.monotonic() + call.ttft_slo_s) * 1000)
        return body

    def tokens_so_far(self, event: bytes, before: int) -> int:
        if counted := _USAGE.search(event):
            return max(before, int(counted.group(1)))
        return before + len(_text(event)) // WORD_CHARACTERS + bool(_ENDS.search(event))

    def token_ids(self, event: bytes) -> list[int]:
        return word_ids(_text(event).decode())


def _text(event: bytes) -> bytes:
    found = _TEXT.search(event)
    return found.group(1) if found else b""
