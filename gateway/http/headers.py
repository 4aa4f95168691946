"""Headers between clients and replicas: what goes up, what comes down, and under which id a request is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

CLIENT_ID = b"x-request-id"
_GOOD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_RETRY_UNITS_S = {"retry-after-ms": 0.001, "retry-after": 1.0}  # what counts before what
LONGEST_RETRY_S = 86_400.0
_GOOD_ID = re.compile(rb"[\x21-\x7e]{1,256}")

# Of the client's headers, what means something to a replica. Its own request id does not go there: engines know
# requests by the gateway's.
_TRACING = (b"traceparent", b"tracestate", b"baggage")
_CONTENT = (b"content-type", b"accept", b"openai-beta", b"anthropic-version", b"anthropic-beta")
CREDENTIALS = (b"authorization", b"x-api-key")

# Of the replica's headers, what says something about its answer.
_ANSWER = frozenset({
    b"allow", b"content-disposition", b"content-encoding", b"content-language", b"content-type", b"etag",
    b"last-modified", b"location", b"retry-after", b"retry-after-ms", b"www-authenticate", b"x-should-retry",
})  # fmt: skip


def visible_id(headers: Mapping[bytes, bytes], request_id: str) -> str:
    """The id that the client is answered with: its own `x-request-id`, else the gateway's."""
    own = headers.get(CLIENT_ID, b"")
    return own.decode("ascii") if _GOOD_ID.fullmatch(own) else request_id


def tracing(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """What a replica is told of where the request comes from."""
    return _picked(headers, _TRACING)


def credentials(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The client's own credentials: for replicas that check them, where the gateway does not."""
    return _picked(headers, CREDENTIALS)


def content(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """How a replica has to read the body of a request that is handed through."""
    return _picked(headers, _CONTENT)


def of_answer(headers: Mapping[bytes, bytes], now_s: float) -> list[tuple[bytes, bytes]]:
    """What a client is told of a replica's own headers; one that nobody may send on, or that asks for a wait that is
    none, is left out."""
    told = [(name, value) for name, value in headers.items() if name in _ANSWER and _GOOD_VALUE.fullmatch(value)]
    return [(name, good) for name, value in told if (good := _bounded(name.decode(), value, now_s)) is not None]


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """For how long an answer asks its client to wait, at most a day; None when it doesn't say."""
    waits = (_wait_s(name, headers.get(name, ""), now_s) for name in _RETRY_UNITS_S)
    return next((wait_s for wait_s in waits if wait_s is not None), None)


def _bounded(name: str, value: bytes, now_s: float) -> bytes | None:
    """A header's value as a client may have it; None for a wait that is none."""
    if name not in _RETRY_UNITS_S:
        return value
    wait_s = _wait_s(name, value.decode("latin-1"), now_s)
    if wait_s == LONGEST_RETRY_S:
        return f"{LONGEST_RETRY_S / _RETRY_UNITS_S[name]:.0f}".encode()
    return None if wait_s is None else value


def _wait_s(name: str, text: str, now_s: float) -> float | None:
    """The wait that one header asks for, at most a day; None for what is no time to wait."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return min(float(text) * _RETRY_UNITS_S[name], LONGEST_RETRY_S)
    if name != "retry-after":  # only there a date may stand
        return None
    try:
        moment = parsedate_to_datetime(text)
        at_s = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, at_s - now_s), LONGEST_RETRY_S)


def _picked(headers: Mapping[bytes, bytes], names: Iterable[bytes]) -> dict[str, str]:
    return {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
