"""What the KV blocks of simulated calls hold, by name: who shares them with whom.

A call goes on from what earlier calls of its request left behind, as far as it says (`cached_tokens`); what it adds is
its own. Where a trace tells the identity of blocks, those are their names. What the first call of a request counts as
cached without such, all requests of its class share: a system prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slosgate.engines.sim.blocks import Part, Parts, first
from slosgate.planner.prefixes import Leading

SEEN_TOKENS = 128  # of text in one of a gateway's blocks
HASHES = (1 << 61) - 1  # none is negative


class Content(Protocol):
    """What is to be known of a call."""

    @property
    def prompt_tokens(self) -> int:
        """New ones."""

    @property
    def cached_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...

    @property
    def block_ids(self) -> tuple[int, ...]:
        """Identities of the prompt's blocks."""

    @property
    def id_tokens(self) -> int:
        """Tokens of each of those."""


def contents(calls: Sequence[Content], request: str, shared: str, block_tokens: int) -> list[Parts]:
    """The parts of each call's whole context, its output included."""
    if len(calls) == 1 and not calls[0].cached_tokens and not calls[0].block_ids:
        return [()]  # nobody else will look for it
    found: list[Parts] = []
    for number, call in enumerate(calls):
        context = call.cached_tokens + call.prompt_tokens + call.output_tokens
        blocks = -(-context // block_tokens)
        if call.block_ids and call.id_tokens >= block_tokens:
            per = call.id_tokens // block_tokens
            before: Parts = tuple(Part(("id", name), per) for name in call.block_ids)
            before = first(before, (call.cached_tokens + call.prompt_tokens) // block_tokens)
        elif number == 0:
            before = first((Part(("shared", shared), blocks),), call.cached_tokens // block_tokens)
        else:
            before = first(_source(found, call.cached_tokens // block_tokens), call.cached_tokens // block_tokens)
        own = blocks - sum(part.blocks for part in before)
        found.append((*before, Part((request, number), own)) if own else before)
    return found


def _source(earlier: Sequence[Parts], blocks: int) -> Parts:
    """What a call goes on from: the latest earlier context that is long enough, or the longest."""
    lengths = [sum(part.blocks for part in parts) for parts in earlier]
    fitting = [n for n, length in enumerate(lengths) if length >= blocks]
    return earlier[fitting[-1]] if fitting else earlier[lengths.index(max(lengths))]


def leading(parts: Parts, prompt_tokens: int, block_tokens: int) -> Leading:
    """What a gateway sees of it: the identity of a prompt's leading blocks, as large as those of text are there."""
    unit = max(1, SEEN_TOKENS // block_tokens)
    names, passed = [], 0
    for name, blocks in first(parts, prompt_tokens // (unit * block_tokens) * unit):
        ends = range(unit - passed % unit, blocks + 1, unit)
        names += [hash((name, end)) & HASHES for end in ends]  # a name stands for all before it, too
        passed += blocks
    return Leading(tuple(names), unit * block_tokens / prompt_tokens)
