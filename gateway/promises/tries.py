"""The attempts at having a request answered: each at a replica, or at a provider outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Try:
    """One attempt; times are seconds of the gateway's clock."""

    kind: Literal["replica", "overflow"]
    server: str  # its name in the configuration, or in Redis
    address: str
    began_s: float
    ended_s: float = field(init=False)
    status: int = 0  # HTTP status of what it answered; 0: it answered nothing
    trouble: str = ""  # why it gave no answer, in a word of ours


@contextmanager
def trying(
    tries: list[Try], kind: Literal["replica", "overflow"], server: str, address: str, clock: Callable[[], float]
) -> Iterator[None]:
    """Note an attempt for as long as the block lasts. An exception that ends it may say in `code` what it was."""
    one = Try(kind, server, address, clock())
    tries.append(one)
    try:
        yield
    except asyncio.CancelledError:
        one.trouble = "cancelled"
        raise
    except Exception as error:
        one.trouble = getattr(error, "code", "") or type(error).__name__
        raise
    finally:
        one.ended_s = clock()
