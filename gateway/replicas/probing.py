"""What a server says of itself over HTTP: whether it is well, and every name that it answers to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from slosgate.engines.door import UNREADABLE
from slosgate.gateway.replicas.upstream import Upstream, UpstreamError

TIMEOUT_S = 2.0
MOST_NAMES = 4096
LONGEST_WINDOW = 1 << 31  # tokens
HIDDEN = (401, 403)  # it lists its names for those who have its key


class _Named(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1, max_length=512)]
    max_model_len: object = None


@dataclass(frozen=True, slots=True)
class _Model:
    id: str
    max_model_len: int | None


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Seen:
    """`names` is empty when the server lists none, `hidden` tells that it does for those who have its key."""

    names: tuple[str, ...] = ()
    hidden: bool = False
    max_model_tokens: int | None = None  # window of the first model


class Prober:
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def healthy(self, url: str) -> str:
        """Why a server can't be used; empty when it can."""
        try:
            status, _ = await self._upstream.fetch(url, "/health", timeout_s=TIMEOUT_S)
        except UpstreamError as error:
            return str(error)
        return f"/health gives HTTP {status}" if status >= 500 else ""

    async def seen(self, url: str, authorization: str) -> Seen | None:
        """What a server lists; None when it can't be understood."""
        headers = {"authorization": authorization} if authorization else None
        try:
            status, body = await self._upstream.fetch(url, "/v1/models", timeout_s=TIMEOUT_S, headers=headers)
            if status in HIDDEN:
                return Seen(hidden=True)
            listed = _readable(msgspec.json.decode(body, type=_Models).data) if status == 200 else []
        except (UpstreamError, *UNREADABLE):
            return None
        if not listed:
            return None
        return Seen(tuple(model.id for model in listed), max_model_tokens=listed[0].max_model_len)


def _readable(entries: list[msgspec.Raw]) -> list[_Model]:
    """What can be read; an entry that can't be costs itself alone."""
    found = []
    for entry in entries[:MOST_NAMES]:
        with suppress(*UNREADABLE):
            named = msgspec.json.decode(entry, type=_Named)
            found.append(_Model(named.id, _window(named.max_model_len)))
    return found


def _window(told: object) -> int | None:
    """None where it is not told, or can't be meant."""
    return told if isinstance(told, int) and 2 <= told <= LONGEST_WINDOW else None
