"""A prompt's leading blocks, by which a gateway tells what replicas have seen of it before (`planner.prefixes`).

Hashes of the prompt as the client wrote it, tools and documents first, since chat templates write them first. They are
the same in every gateway.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from slosgate.planner.prefixes import NO_BLOCKS, Leading

BLOCK_BYTES = 512  # some 128 tokens of text
MOST_BLOCKS = 4096  # of one prompt: more than any window holds
HASH_BYTES = 7  # so that none is negative


def leading_blocks(salt: Iterable[str | None], parts: Iterable[bytes], *, telling: bool = True) -> Leading:
    """The whole leading blocks; each stands for all the text before it, too.

    `salt` is what else must be equal for KV blocks to be shared. Not `telling`: bytes say nothing of tokens.
    """
    text = b"".join(parts)
    if len(text) < BLOCK_BYTES:
        return NO_BLOCKS
    chain = blake2b(repr(tuple(salt)).encode(), digest_size=HASH_BYTES).digest()
    found = []
    for start in range(0, min(len(text), MOST_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = blake2b(text[start : start + BLOCK_BYTES], key=chain, digest_size=HASH_BYTES).digest()
        found.append(int.from_bytes(chain))
    return Leading(tuple(found), BLOCK_BYTES / len(text), telling)
