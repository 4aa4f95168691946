"""What an answer says about itself: how many tokens its events carry, its usage, and whether it is a failure.

Most events are not parsed: their bytes show that they carry a token. Parsed are those that may be something else: the
role that opens a chat, usage, an error (vLLM sends one as an event of its own, before [DONE], under HTTP 200).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from slosgate.engines.door import UNREADABLE
from slosgate.gateway.promises.completion import BOM

DONE = b"[DONE]"
QUOTED_BYTES = 200
FAILED_REASONS = ("error", "abort")
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_DATA = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)
_ERROR = re.compile(rb"^event:[ ]?error\s*$", re.MULTILINE)
_THOUGHT = re.compile(rb'"reasoning(?:_content)?":\s*"[^"]')
_TOLD = re.compile(rb'event:|data: ?\n|"(?:error|abort|role|prompt_tokens|completion_tokens)"|"choices"\s*:\s*\[\s*\]')
# What of a chat's delta is generated; role and the like are not.
_GENERATED = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal", "audio")


# A replica that tells nonsense is not believed, and harms nobody's counters.
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: Count | None = None


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    object: Any = None
    message: Any = None
    code: Any = None


@dataclass(slots=True)
class Seen:
    """Of some events, or of a whole answer."""

    tokens: int = 0
    thoughts: int = 0  # of the tokens, those of thinking
    usage: Usage | None = None
    error: str = ""  # why it failed; empty when it did not
    client_fault: bool = False  # the error is a 4xx: another replica would say the same


# The event of one token: what stands before its text, the text, and what stands behind it. No text with an escape.
_TOKEN = re.compile(
    rb"""(data: ?\{[^\r\n]*"(?:content|text|reasoning_content|reasoning)":\s*")([^"\\\r\n]+)("[^\r\n]*\n\n)"""
)
_PLAIN = re.compile(rb"""[^"\\\r\n]+""")
_DECODER = msgspec.json.Decoder(_Answer)
_USAGE: msgspec.json.Decoder[Usage | None] = msgspec.json.Decoder(Usage | None)


class Events:
    """Reads one stream. Tokens' events mostly differ in their text alone: such a one says what the last one said, and
    is looked at no further."""

    def __init__(self) -> None:
        self._before = self._behind = b""  # the text of the last token
        self._thoughts = 0

    def seen(self, events: bytes) -> Seen:
        """What more whole events say; the same as `in_events`."""
        if self._before and (tokens := self._alike(events)):
            return Seen(tokens, self._thoughts * tokens)
        seen = in_events(events)
        token = _TOKEN.fullmatch(events) if _TOLD.search(events) is None else None
        if token and b'"choices"' in token[1]:
            self._before, self._behind, self._thoughts = token[1], token[3], seen.thoughts
        return seen

    def _alike(self, events: bytes) -> int:
        """How many these are, if each is a token's and differs from the last one's in its text alone; else 0."""
        before, behind, at, count = self._before, self._behind, 0, 0
        while at < len(events):
            text = _PLAIN.match(events, at + len(before)) if events.startswith(before, at) else None
            if text is None or not events.startswith(behind, text.end()):
                return 0
            at, count = text.end() + len(behind), count + 1
        return count


def in_events(events: bytes) -> Seen:
    """What whole events of a stream say."""
    lines = events.count(b"\ndata:") + events.startswith(b"data:")
    if b"\r" not in events and lines <= events.count(b"\n\n") and _TOLD.search(events) is None:
        tokens = lines - (DONE in events and _ends(events))
        if tokens <= events.count(b'"choices"'):  # the most of a stream: every event is a token, but for the last
            return Seen(tokens, _thoughts(events))
    seen = Seen()
    for event, data in _events(events):
        if data.strip() in (DONE, b""):  # or something to keep the connection alive
            continue
        before = seen.tokens
        _take(data, seen)
        if _ERROR.search(event) is not None:
            seen.error = seen.error or data[:QUOTED_BYTES].decode(errors="replace")
            seen.tokens = before
        seen.thoughts += seen.tokens > before and _THOUGHT.search(data) is not None
    return seen


def in_whole(body: bytes) -> Seen:
    """What an answer in one piece says; how many tokens it has, its usage alone tells."""
    seen = Seen()
    answer = _take(body.removeprefix(BOM), seen)
    if answer is not None and not (answer.choices or seen.error):
        seen.error = "it has no choices"
    seen.tokens = 0
    return seen


def _thoughts(events: bytes) -> int:
    """How many of these events carry thinking."""
    if b'"reasoning' not in events:
        return 0
    return sum(_THOUGHT.search(data) is not None for _, data in _events(events))


def _ends(events: bytes) -> int:
    return sum(data.strip() == DONE for _, data in _events(events))


def _events(events: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(the event, its data) for each that has some."""
    for event in _EVENT_END.split(events):
        if lines := _DATA.findall(event):
            yield event, b"\n".join(lines)


def _take(data: bytes, seen: Seen) -> _Answer | None:
    """Add what one event, or a whole answer, says; None for a form that this doesn't know."""
    answer = _read(data)
    if answer is None:
        seen.tokens += 1
        return None
    seen.usage = _usage(answer.usage) or seen.usage
    if _is_error(answer):
        seen.error, seen.client_fault = _error(answer)
        return answer
    for choice in answer.choices or ():
        if choice.finish_reason in FAILED_REASONS:
            seen.error = seen.error or f"its finish_reason is {choice.finish_reason!r}"
    seen.tokens += any(_carries(choice) for choice in answer.choices or ())
    return answer


def _read(data: bytes) -> _Answer | None:
    try:
        return _DECODER.decode(data)
    except UNREADABLE:
        pass
    try:
        # Python's writers also put NaN and Infinity in, which its own reader knows; they are null from here on.
        return _DECODER.decode(msgspec.json.encode(json.loads(data)))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


def _is_error(answer: _Answer) -> bool:
    """Some servers have an empty error beside every token."""
    return bool(answer.error) or answer.object == "error" or (answer.error is not None and not answer.choices)


def _usage(raw: msgspec.Raw) -> Usage | None:
    """None where it is not told, or can't be meant."""
    try:
        return _USAGE.decode(raw)
    except msgspec.ValidationError:
        return None


def _carries(choice: _Choice) -> bool:
    """A chat's first event has the role and no content; a token may well have no text, as the last."""
    delta = choice.delta
    if delta is None or "role" not in delta or choice.finish_reason is not None:
        return True
    return any(delta.get(name) for name in _GENERATED)


def _error(answer: _Answer) -> tuple[str, bool]:
    fields = answer.error if isinstance(answer.error, dict) else {"message": answer.error or answer.message}
    status, said = _status(fields.get("code", answer.code)), fields.get("message")
    fault = 400 <= status < 500 and status not in (408, 429)
    return (said if said and isinstance(said, str) else "it reports an error")[:QUOTED_BYTES], fault


def _status(code: object) -> int:
    """The HTTP status that an error's code is; 0 for what is none."""
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        return int(code)
    return code if isinstance(code, int) and 100 <= code <= 599 else 0
