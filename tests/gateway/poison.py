"""What could stand in Redis that no gateway and no replica of ours wrote: other versions, other programs, bit rot."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from slosgate.engines.channel import Kind, key

STORED: tuple[Kind, ...] = ("replica", "rival", "plan", "ledger", "version", "log", "epoch", "gateway")
CARRIED: tuple[Kind, ...] = ("telemetry", "plan", "arrivals", "changes")
ODD: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, -1, 0, 1e308, 2**31, 2**53, 2**63, -(2**63), "", "x" * 600, "\x00", None, True,
    [], {}, [[]], b"\xff",
)  # fmt: skip

Mutation = Callable[[random.Random, bytes], bytes]


def cut(dice: random.Random, value: bytes) -> bytes:
    return value[: dice.randrange(len(value))] if value else b"\xc1"


def flipped(dice: random.Random, value: bytes) -> bytes:
    spoilt = bytearray(value or b"\x00")
    for _ in range(dice.randint(1, 4)):
        spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
    return bytes(spoilt)


def noise(dice: random.Random, value: bytes) -> bytes:
    return dice.randbytes(dice.choice((0, 1, 7, 300, 20_000)))


def odd_field(dice: random.Random, value: bytes) -> bytes:
    """A record of which one value, however deep, is another."""
    try:
        record = msgspec.msgpack.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return msgspec.msgpack.encode(dice.choice(ODD[:6]))
    return _encoded(_odd(dice, record))


def grown(dice: random.Random, value: bytes) -> bytes:
    """A record of a newer version, with a field that nobody knows."""
    try:
        record = msgspec.msgpack.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return value
    return _encoded({**record, "field_to_come": [1]} if isinstance(record, dict) else record)


MUTATIONS: tuple[Mutation, ...] = (cut, flipped, noise, odd_field, odd_field, odd_field, grown)


def _odd(dice: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value:
        name = dice.choice(sorted(value))
        if dice.random() < 0.1:
            return {other: inner for other, inner in value.items() if other != name}
        return {**value, name: _odd(dice, value[name])}
    if isinstance(value, list) and value:
        at = dice.randrange(len(value))
        return [*value[:at], _odd(dice, value[at]), *value[at + 1 :]]
    return dice.choice(ODD)


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:  # an integer beyond 64 bits
        return b"\xc1"


class Poisoner:
    """Spoils what two gateways and their replicas share, one item at a time."""

    def __init__(self, redis: Redis, replicas: tuple[str, ...], seed: int) -> None:
        self._redis = redis
        self._replicas = replicas
        self._dice = random.Random(seed)
        self._heard: dict[str, bytes] = {}  # the latest message of each channel
        self.count = 0

    async def listen(self) -> None:
        """Remember what is said on the channels, for things that resemble it."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.psubscribe("slosgate:*")
            async for message in pubsub.listen():
                self._heard[message["channel"].decode()] = message["data"]

    async def spoil(self) -> str:
        """Spoil something; what was done."""
        self.count += 1
        try:
            return await self._spoil()
        except ResponseError as error:  # a gateway has mended its type meanwhile
            return str(error)

    async def _spoil(self) -> str:
        dice = self._dice
        if dice.random() < 0.4:
            return await self._say(dice)
        kind = dice.choice(STORED)
        at = key(kind, await self._name(kind))
        way = dice.choice(("value", "value", "value", "type", "delete", "stranger"))
        if way == "stranger":  # one more of its kind, that nobody has asked for
            value = await self._value(at)
            at = key(kind, f"stranger-{dice.randrange(20)}")
            await self._redis.set(at, dice.choice(MUTATIONS)(dice, value), px=3000)
        elif way == "type":
            await self._redis.delete(at)
            await (self._redis.rpush(at, "x") if dice.random() < 0.5 else self._redis.zadd(at, {"x": math.inf}))
        elif way == "delete":
            await self._redis.delete(at)
        elif kind == "ledger":
            await self._spoil_entry(at)
        else:
            value = await self._value(at)
            await self._redis.set(at, dice.choice(MUTATIONS)(dice, value), keepttl=dice.random() < 0.5)
        return f"{way} {at}"

    async def _say(self, dice: random.Random) -> str:
        kind = dice.choice(CARRIED)
        names = [name for name in self._heard if name.startswith(key(kind, ""))]
        channel = dice.choice(sorted(names)) if names else key(kind, dice.choice(self._replicas))
        said = self._heard.get(channel, b"")
        version, mark, record = said.partition(b" ") if kind == "changes" else (b"", b"", said)
        await self._redis.publish(channel, version + mark + dice.choice(MUTATIONS)(dice, record))
        return f"say {channel}"

    async def _spoil_entry(self, at: str) -> None:
        if await self._redis.type(at) != b"hash":
            await self._redis.delete(at)
        entries = await self._redis.hgetall(at)
        name = self._dice.choice(sorted(entries)) if entries else b"req-stranger"
        entry = entries.get(name, b"")
        assert isinstance(entry, bytes)
        spoilt = self._dice.choice(MUTATIONS)(self._dice, entry)
        await self._redis.hset(at, self._dice.choice((name, b"req-other")), spoilt)

    async def _name(self, kind: Kind) -> str:
        if kind != "gateway":
            return self._dice.choice(self._replicas)
        prefix = key("gateway", "").encode()
        found = sorted([k.removeprefix(prefix).decode() async for k in self._redis.scan_iter(key("gateway", "gw-*"))])
        return self._dice.choice(found) if found else "gw-none"

    async def _value(self, at: str) -> bytes:
        value = await self._redis.get(at) if await self._redis.type(at) == b"string" else b""
        return value if isinstance(value, bytes) else b""
