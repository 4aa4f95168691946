"""API keys: who asks, what they may ask for, and how much of it.

Keys are stored as SHA-256 digests. They are random strings, not passwords, so a plain digest does: nobody can guess
2^128 of them, and a request need not pay for a slow hash. Digests are compared in constant time, all of them each time.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from slosgate.gateway.config import KeyConfig
from slosgate.gateway.errors import RateLimited, Unauthorized


class Holder:
    """The holder of one key: its contract, and what it uses now."""

    def __init__(self, name: str, config: KeyConfig) -> None:
        self.name = name
        self.config = config
        self.in_flight = 0
        self._tokens = float(config.requests_per_minute or 0)
        self._filled_s = 0.0

    def enter(self, now_s: float) -> None:
        """Begin a request; `leave` must follow. Raises RateLimited, which says when to come back."""
        limit = self.config.max_concurrent
        if limit is not None and self.in_flight >= limit:
            raise RateLimited(f"key {self.name!r} has {limit} requests under way, as many as it may", retry_after_s=1.0)
        self._take(now_s)
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def _take(self, now_s: float) -> None:
        """A token bucket that holds one minute's requests."""
        rate = self.config.requests_per_minute
        if rate is None:
            return
        self._tokens = min(rate, self._tokens + max(0.0, now_s - self._filled_s) * rate / 60)
        self._filled_s = now_s
        if self._tokens < 1:
            raise RateLimited(
                f"key {self.name!r} may make {rate} requests a minute", retry_after_s=(1 - self._tokens) * 60 / rate
            )
        self._tokens -= 1


class Keys:
    """Without configured keys everybody may ask for everything."""

    def __init__(self, keys: Mapping[str, KeyConfig], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._holders: list[tuple[bytes, Holder]] = []
        self._clock = clock
        self.change(keys)

    def change(self, keys: Mapping[str, KeyConfig]) -> None:
        """These keys hold from now on. What the holder of one that stays has used still counts."""
        known = {(digest, holder.name): holder for digest, holder in self._holders}
        self._holders = []
        for name, key in keys.items():
            digest = bytes.fromhex(key.sha256)
            holder = known.get((digest, name)) or Holder(name, key)
            holder.config = key
            self._holders.append((digest, holder))

    def holder(self, headers: Mapping[bytes, bytes]) -> Holder | None:
        """Who asks. Raises Unauthorized for a missing or unknown key."""
        if not self._holders:
            return None
        digest = hashlib.sha256(bearer(headers)).digest()
        found = None
        for known, holder in self._holders:
            if hmac.compare_digest(known, digest):
                found = holder
        if found is None:
            raise Unauthorized(
                "the API key is missing or unknown: send authorization: Bearer KEY", param="authorization"
            )
        return found

    def enter(self, holder: Holder | None) -> None:
        """Count a request of this holder. Raises RateLimited."""
        if holder is not None:
            holder.enter(self._clock())


def bearer(headers: Mapping[bytes, bytes]) -> bytes:
    """The key in an Authorization header, or in Anthropic's x-api-key; empty without one."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


def matches(digest: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the request carries the key with this SHA-256 digest."""
    return hmac.compare_digest(bytes.fromhex(digest), hashlib.sha256(bearer(headers)).digest())
