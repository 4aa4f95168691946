"""One spelling for every path: what is decided about a path must hold for whatever a replica makes of it.

Percent-encoding, double slashes, dot segments, a trailing slash and the case of the words that name a route are gone
before anything looks at the path, and replicas get it in the same spelling.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

# What can be asked for of replicas, by the first word after /v1. Everything else there is management, which is the
# operator's: loading adapters, sleeping, resetting caches.
RESOURCES = frozenset({
    "audio", "batches", "chat", "classify", "completions", "conversations", "detokenize", "embeddings", "files",
    "images", "messages", "moderations", "pooling", "realtime", "rerank", "responses", "score", "tokenize", "uploads",
    "vector_stores", "videos",
})  # fmt: skip
# vLLM serves these without /v1, too.
BARE = frozenset({"classify", "detokenize", "pooling", "rerank", "score", "tokenize"})
OPERATORS = frozenset({"admin", "dashboard", "metrics", "ready"})
LOOKED_UP = frozenset({"version"})  # with GET
_WORDS = RESOURCES | LOOKED_UP | OPERATORS | {"models", "v1", "v2", "requests", "health", "adapters", "render"}


def canonical(path: str) -> str:
    """The decoded `path` in its one spelling."""
    segments: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    for number, segment in enumerate(segments):
        if segment.lower() not in _WORDS:
            break  # from here on it is an id
        segments[number] = segment.lower()
        if segments[number] == "models":
            break
    return "/" + "/".join(segments)


def upstream_path(path: str, query: bytes) -> str:
    """A canonical path as replicas get it."""
    return quote(path, safe="/-._~:@") + (f"?{query.decode('latin-1')}" if query else "")


class CanonicalPaths:
    """Middleware that gives each request's path its one spelling.

    Operators' pages have no other: a proxy in front that closes /metrics must not be passed by with /Metrics.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = canonical(scope["path"])
            if path.split("/", 2)[1] in OPERATORS and scope["raw_path"].decode("latin-1") != quote(path):
                raise HTTPException(404)
            scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        await self._app(scope, receive, send)
