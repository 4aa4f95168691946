"""Where messages of other processes come in: bytes become checked records here, or nothing.

What can't be read, is out of range or comes from a version that knows other fields costs that one item. It is logged
with its key, once in a while however often it comes, and of many keys only the first ones. Fields that a reader doesn't
know are ignored, so that versions can be replaced one process at a time.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

# What reading others' JSON or MessagePack raises.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
SILENCE_S = 600.0  # until the same key is complained of again
REMEMBERED = 1024  # keys that are complained of in that time

T = TypeVar("T")

_log = logging.getLogger("slosgate")


class Door:
    """Reads messages, and says of which keys it could not."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._said: OrderedDict[str, float] = OrderedDict()
        self._decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}  # one for each kind: making one takes longest

    def read(self, key: str, value: object, kind: type[T]) -> T | None:
        """The record that a key holds, or a channel of that name carried; None for what is none."""
        if not isinstance(value, bytes):
            self.refuse(key, f"holds no string of bytes but {type(value).__name__}")
            return None
        try:
            return self._decoder(kind).decode(value)
        except UNREADABLE as error:
            self.refuse(key, str(error))
            return None

    def _decoder(self, kind: type[T]) -> msgspec.msgpack.Decoder[T]:
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.msgpack.Decoder(kind)
        return decoder

    def refuse(self, key: str, problem: str) -> None:
        """Say that what a key holds is ignored, and why."""
        key, now_s = shown(key), self._monotonic()
        if now_s - self._said.get(key, float("-inf")) < SILENCE_S:
            return
        self._said.pop(key, None)
        while self._said and now_s - next(iter(self._said.values())) >= SILENCE_S:
            self._said.popitem(last=False)
        if len(self._said) >= REMEMBERED:
            return
        self._said[key] = now_s
        more = "; so are more keys, which are not named" if len(self._said) == REMEMBERED else ""
        _log.warning("%s is ignored: %s%s", key, shown(problem), more)


def shown(text: str, longest: int = 300) -> str:
    """Someone else's text as it may stand in a log: on one line, and not for ever."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= longest else line[:longest] + "..."
