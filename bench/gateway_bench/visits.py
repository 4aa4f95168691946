"""What clients of a soak do: kinds of requests that keep a gateway busy in different ways."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import msgspec

Kind = Literal["plain", "tools", "media", "long upload", "slow reader"]

SHARES: dict[Kind, float] = {"plain": 0.6, "tools": 0.1, "media": 0.1, "long upload": 0.1, "slow reader": 0.1}
MODEL = "facebook/opt-13b"
SLO = {"x-slo-ttft-ms": "2000", "x-slo-tpot-ms": "100"}
# Gateways remember beginnings of prompts and keep records, each up to a number: so few are there long before the
# second half, which a leak would outlast.
BEGINNINGS = range(1000, 1200)
IMAGE_BYTES = 100_000
UPLOAD_BYTES = 500_000
PIECES = 10  # of a long upload
UPLOAD_S = 5.0
PAUSE_S = 0.3  # of a slow reader, after each read
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"look_up_{number}",
            "description": "Looks up what is known of a place, a person or a thing. " * 3,
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
    }
    for number in range(5)
]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, and how its client behaves."""

    kind: Kind
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    patience_s: float | None = None  # the client hangs up then

    async def ask(self, session: aiohttp.ClientSession, url: str) -> tuple[aiohttp.ClientResponse, bytes]:
        """Make the request: the answer, and all of its body. Raises aiohttp.ClientError."""
        data = msgspec.json.encode(self.body)
        headers = {"content-type": "application/json", **self.headers}
        sent = _slowly(data) if self.kind == "long upload" else data
        async with session.post(url + self.path, data=sent, headers=headers) as answer:
            if self.kind != "slow reader":
                return answer, await answer.read()
            parts = []
            async for part in answer.content.iter_any():
                parts.append(part)
                await asyncio.sleep(PAUSE_S)
            return answer, b"".join(parts)

    def complete(self, answer: aiohttp.ClientResponse, text: bytes) -> bool:
        """Whether that is a whole answer."""
        whole = text.endswith(b"data: [DONE]\n\n") if self.body["stream"] else text.startswith(b"{")
        return answer.status == 200 and whole


async def _slowly(data: bytes) -> AsyncIterator[bytes]:
    size = -(-len(data) // PIECES)
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(UPLOAD_S / PIECES)


def drawn(draw: random.Random, *, hangs_up: float) -> Visit:
    """A visit by chance; `hangs_up` is how likely its client doesn't wait for the answer."""
    kind = draw.choices(list(SHARES), list(SHARES.values()))[0]
    return _made(draw, kind, draw.uniform(0.0, 1.5) if draw.random() < hangs_up else None)


def plain(draw: random.Random) -> Visit:
    """A visit that keeps nothing busy but its replica."""
    return _made(draw, "plain", None)


def _made(draw: random.Random, kind: Kind, patience_s: float | None) -> Visit:
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": draw.randint(10, 100),
        "ignore_eos": True,
        "stream": kind == "slow reader" or draw.random() < 0.7,
    }
    beginning = draw.choice(BEGINNINGS)
    if kind in ("tools", "media"):
        body |= _chat(draw, kind, beginning)
    else:
        body["prompt"] = [beginning] * draw.randint(50, 1000)
    if kind == "long upload":
        body["user"] = "x" * UPLOAD_BYTES
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return Visit(kind, path, body, SLO if draw.random() < 0.8 else {}, patience_s)


def _chat(draw: random.Random, kind: Kind, beginning: int) -> dict[str, Any]:
    text = f"{beginning} " * draw.randint(50, 500)
    if kind == "tools":
        return {"messages": [{"role": "user", "content": text}], "tools": TOOLS, "tool_choice": "auto"}
    image = "data:image/png;base64," + base64.b64encode(draw.randbytes(IMAGE_BYTES)).decode()
    content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image}}]
    return {"messages": [{"role": "user", "content": content}]}
