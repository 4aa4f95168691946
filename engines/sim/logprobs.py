"""Log probabilities as the simulated model tells them: it is always as sure, and of the same alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST = 20  # alternatives that may be asked for: vLLM's default
SAID = -0.1  # of what is said; each alternative is less likely by LESS
LESS = -1.0


def asked(body_logprobs: Any, top_logprobs: Any, *, chat: bool) -> int | None:
    """How many alternatives are wanted for each token; None: no log probabilities at all. Raises ValueError."""
    if not chat:
        return None if body_logprobs is None or body_logprobs is False else _within(body_logprobs, "logprobs")
    if not isinstance(body_logprobs, bool | None):
        raise ValueError(f"logprobs must be true or false, not {body_logprobs!r}")
    if top_logprobs is None:
        return 0 if body_logprobs else None
    if not body_logprobs and top_logprobs != 0:
        raise ValueError("top_logprobs needs logprobs to be true")
    return _within(top_logprobs, "top_logprobs") if body_logprobs else None


def _within(value: Any, name: str) -> int:
    number = int(value) if isinstance(value, int | float) and value == int(value) else -1
    if not 0 <= number <= MOST:
        raise ValueError(f"{name} must be a number from 0 to {MOST}, not {value!r}")
    return number


def of_chat(texts: Sequence[str], alternatives: int) -> dict[str, Any]:
    """The `logprobs` of a chat's choice that has these tokens."""
    return {"content": [{**_token(text, 0), "top_logprobs": _top(text, alternatives)} for text in texts]}


def _top(text: str, alternatives: int) -> list[dict[str, Any]]:
    return [_token(text if rank == 0 else f"{text}{rank}", rank) for rank in range(alternatives)]


def _token(text: str, rank: int) -> dict[str, Any]:
    return {"token": text, "logprob": SAID + rank * LESS, "bytes": list(text.encode())}


def of_completion(texts: Sequence[str], alternatives: int, offset: int) -> dict[str, Any]:
    """The `logprobs` of a completion's choice that has these tokens from `offset` characters on."""
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    tops = [
        {(text if rank == 0 else f"{text}{rank}"): SAID + rank * LESS for rank in range(max(1, alternatives))}
        for text in texts
    ]
    return {
        "tokens": list(texts),
        "token_logprobs": [SAID] * len(texts),
        "top_logprobs": tops,
        "text_offset": offsets,
    }
