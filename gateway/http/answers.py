"""What a replica's answer means: whose fault it is, and how a client is told of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from slosgate.engines.door import UNREADABLE
from slosgate.gateway.errors import anthropic_error_body, error_body, speaks_anthropic
from slosgate.gateway.http.headers import of_answer
from slosgate.gateway.promises.completion import BOM
from slosgate.gateway.replicas.upstream import Response

# The replica is unwell, and says so; above 520 proxies of providers speak for it.
UNAVAILABLE = (502, 503, 504, *range(520, 528), 529, 530)
WITHOUT_BODY = (204, 205, 304)
QUOTED_BYTES = 200
_LOOKED_THROUGH: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
RETRIED = (408, 409, 429)  # what clients send again; other 4xx never change


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success, as it came."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def quoted(self) -> str:
        return self.body[:QUOTED_BYTES].decode(errors="replace")

    def for_client(self, path: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body as clients of this path read them: what is no JSON is quoted in an error."""
        if self.status in WITHOUT_BODY:
            return self.headers, b""
        if self.status < 400 or looks_like_json(self.body):
            return self.headers, self.body
        said = f"the replica answered HTTP {self.status}: {self.quoted}"
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        anthropic = speaks_anthropic(path)
        body = anthropic_error_body(said, self.status) if anthropic else error_body(said, kind, None, "replica_refused")
        headers = [(name, value) for name, value in self.headers if name not in (b"content-type", b"content-encoding")]
        headers.append((b"content-type", b"application/json"))
        if self.status < 500 and self.status not in RETRIED:
            headers.append((b"x-should-retry", b"false"))
        return headers, body


def sized(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers with the body's length, where one may be told (RFC 9110 8.6)."""
    return headers if status in (204, 304) else [*headers, (b"content-length", str(len(body)).encode())]


async def refusal(response: Response, now_s: float) -> Refusal:
    """Read an answer to its end. Raises UpstreamError."""
    return Refusal(response.status, of_answer(response.headers, now_s), await response.read())


def looks_like_json(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{")


def is_object(body: bytes) -> bool:
    """Whether it is one whole JSON object, also with the NaN and Infinity that Python's writers put in."""
    body = body.removeprefix(BOM)
    try:
        return isinstance(_LOOKED_THROUGH.decode(body), dict)
    except UNREADABLE:
        pass
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def is_json(response: Response) -> bool:
    """Whether it says that it is JSON."""
    return b"json" in response.headers.get(b"content-type", b"").lower()


def is_stream(response: Response) -> bool:
    return b"event-stream" in response.headers.get(b"content-type", b"").lower()
