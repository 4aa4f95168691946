"""OpenTelemetry spans of GenAI calls: what an instrumented agent has recorded of its own calls to a model.

JSON lines, each a span, or an export in OTLP's JSON form (`resourceSpans`), as the collector's file exporter writes.
Read are startTimeUnixNano, endTimeUnixNano and the attributes gen_ai.usage.input_tokens and .output_tokens (or
prompt_tokens and completion_tokens, as older conventions call them), gen_ai.usage.cache_read.input_tokens,
and gen_ai.conversation.id (or session.id, or else the trace's id), by which calls are one session. Other spans are left
out. Where a call doesn't say how much of its prompt was cached, it is all of the prompt before, if it is longer than
that. The gap is the time between the end of a call and the start of the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from slosgate.traces.errors import malformed
from slosgate.traces.formats.base import Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import json_lines, number, tokens

INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
CACHED = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens")
SESSION = ("gen_ai.conversation.id", "session.id")


class _Attribute(msgspec.Struct):
    key: str = ""
    value: dict[str, Any] | None = None


class _Span(msgspec.Struct, rename="camel"):
    attributes: dict[str, Any] | list[_Attribute] | None = None
    trace_id: str = ""
    start_time_unix_nano: Any = None
    end_time_unix_nano: Any = None


class _Scope(msgspec.Struct):
    spans: list[_Span] | None = None


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope] | None = None


class _Export(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource] | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    session: str
    start_s: float
    end_s: float
    prompt: int
    output: int
    cached: int | None


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """A request for each session, at the time of its first call; the first of all is at 0 s."""
    calls = sorted(_calls(path, reading), key=lambda call: call.start_s)
    sessions: dict[str, list[_Call]] = {}
    for call in calls:
        sessions.setdefault(call.session, []).append(call)
    for session in sessions.values():
        yield TraceRequest(arrival_s=session[0].start_s - calls[0].start_s, stages=tuple(_stages(session)))


def is_span(row: Mapping[str, Any]) -> bool:
    """Whether an object is a span, or an export of them."""
    return "resourceSpans" in row or "startTimeUnixNano" in row


def _calls(path: Path, reading: Reading) -> Iterator[_Call]:
    for line, row in json_lines(path):
        for span in _spans(row, path, line):
            found = _attributes(span)
            prompt, output = _first(found, INPUT), _first(found, OUTPUT)
            if prompt is None or output is None:
                reading.dropped["no call of a model"] += 1
                continue
            counts = tokens(prompt, INPUT[0], path, line), tokens(output, OUTPUT[0], path, line)
            if 0 in counts:
                reading.dropped["no prompt or no output tokens"] += 1
                continue
            start_s, end_s = (number(told) / 1e9 for told in (span.start_time_unix_nano, span.end_time_unix_nano))
            if not 0 <= start_s <= end_s < math.inf:
                raise malformed(path, line, "a span needs startTimeUnixNano, and endTimeUnixNano not before that")
            cached = _first(found, CACHED)
            session = str(_first(found, SESSION) or span.trace_id)
            yield _Call(
                session, start_s, end_s, *counts, None if cached is None else tokens(cached, CACHED[0], path, line)
            )


def _spans(row: Mapping[str, Any], path: Path, line: int) -> Iterator[_Span]:
    """Raises TraceError."""
    try:
        if "resourceSpans" not in row:
            yield msgspec.convert(row, _Span)
            return
        export = msgspec.convert(row, _Export)
    except msgspec.ValidationError as error:
        raise malformed(path, line, f"not a span of OpenTelemetry: {error}") from None
    for resource in export.resource_spans or ():
        for scope in resource.scope_spans or ():
            yield from scope.spans or ()


def _attributes(span: _Span) -> dict[str, Any]:
    """By name; OTLP wraps each value in its type, other exporters give plain objects."""
    told = span.attributes or {}
    if isinstance(told, dict):
        return told
    return {each.key: next(iter((each.value or {}).values()), None) for each in told}


def _first(found: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((found[name] for name in names if found.get(name) is not None), None)


def _stages(calls: list[_Call]) -> Iterator[Stage]:
    before = 0
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        cached = before if call.cached is None and call.prompt > before else call.cached or 0
        cached = min(cached, call.prompt - 1)
        gap_s = max(0.0, following.start_s - call.end_s) if following else 0.0
        yield Stage(prompt_tokens=call.prompt - cached, cached_tokens=cached, output_tokens=call.output, gap_s=gap_s)
        before = call.prompt


FORMAT = Format(
    name="otel-genai",
    columns="spans with startTimeUnixNano, endTimeUnixNano, attributes gen_ai.usage.*, gen_ai.conversation.id",
    timed=True,
    licence="",
    citation="OpenTelemetry semantic conventions for generative AI",
    read=read,
)
