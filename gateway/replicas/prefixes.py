"""Which replica has seen the beginning of a prompt before, and so may still hold its KV blocks.

A gateway knows what it has sent where: chained hashes of a prompt's leading blocks of text, the least recently sent
forgotten first. That is a guess, since a replica drops what it needs room for: it counts in routing, and never in what
is promised.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

BLOCK_BYTES = 1024  # some 256 tokens of text
MOST_BLOCKS = 64  # of one prompt: what comes later is as good as never shared
REMEMBERED = 20_000  # blocks per replica: five million tokens, more than any replica holds

Hashes = tuple[int, ...]


def leading_blocks(salt: object, parts: Iterable[bytes]) -> Hashes:
    """Hashes of a prompt's leading whole blocks; each stands for all the text before it too.

    `salt` is what else must be equal for KV blocks to be shared.
    """
    text = b"".join(parts)
    found, chain = [], hash(salt)
    for start in range(0, min(len(text), MOST_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = hash((chain, text[start : start + BLOCK_BYTES]))
        found.append(chain)
    return tuple(found)


class Prefixes:
    """What one replica has been sent."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._limit = limit

    def note(self, blocks: Hashes) -> None:
        # The first block last, so that of one prompt the end is forgotten first.
        for block in reversed(blocks):
            self._seen[block] = None
            self._seen.move_to_end(block)
        while len(self._seen) > self._limit:
            self._seen.popitem(last=False)

    def shared(self, blocks: Hashes) -> int:
        """How many of a prompt's leading blocks were sent there before."""
        for count, block in enumerate(blocks):
            if block not in self._seen:
                return count
        return len(blocks)
