"""Headers between clients and replicas: what goes up, what comes down, and under which id a request is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

CLIENT_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[\x21-\x7e]{1,256}")

# Of the client's headers, what means something to a replica. Its own request id does not go there: engines know
# requests by the gateway's.
_TRACING = (b"traceparent", b"tracestate", b"baggage")
_CONTENT = (b"content-type", b"accept", b"openai-beta", b"anthropic-version", b"anthropic-beta")
_CREDENTIALS = (b"authorization", b"x-api-key")

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
    return _picked(headers, _CREDENTIALS)


def content(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """How a replica has to read the body of a request that is handed through."""
    return _picked(headers, _CONTENT)


def of_answer(headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """What a client is told of a replica's own headers."""
    return [(name, value) for name, value in headers.items() if name in _ANSWER]


def _picked(headers: Mapping[bytes, bytes], names: Iterable[bytes]) -> dict[str, str]:
    return {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
