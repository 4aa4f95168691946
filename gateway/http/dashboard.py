"""`/dashboard`, one page without any resource from elsewhere, and `/admin/live`, the events that it shows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from slosgate.gateway.gateway import Gateway

EVERY_S = 1.0
_PAGE = Path(__file__).with_name("dashboard.html")


def page() -> Response:
    """It holds no figures: those come with the admin key. Nothing runs in it but its own script."""
    text = _PAGE.read_text(encoding="utf-8")
    script, style = (_digest(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
    return Response(text, headers=headers, media_type="text/html")


def _digest(text: str, tag: str) -> str:
    """What a content security policy calls the page's own script or style."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert found is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def live(gateway: Gateway, request: Request) -> Response:
    """Server-sent events, a snapshot each second, until the client leaves or the gateway stops."""

    async def events() -> AsyncIterator[bytes]:
        while not gateway.closing and not await request.is_disconnected():
            snapshot = await gateway.live.snapshot(draining=gateway.draining)
            yield b"data: " + msgspec.json.encode(snapshot) + b"\n\n"
            await asyncio.sleep(EVERY_S)

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)
