"""KV blocks: how many are in use, by whom, and what the free ones still hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple


class Part(NamedTuple):
    """So many blocks of a sequence hold the beginning of what has this name.

    A sequence's parts stand one after the other: a name also stands for all that comes before it.
    """

    name: Hashable
    blocks: int


Parts = tuple[Part, ...]


class BlockPool:
    """Counts KV blocks; free ones are handed out least recently used first, as vLLM's prefix cache does.

    Blocks that a sequence leaves keep their contents until they are handed out again. Others claim what is there of
    their own beginning, also what a sequence has in use that runs: both share it then. Of what was left the end is
    handed out first, so what remains is always a beginning. Contents that two sequences computed each for itself are
    there once by name; the other copy is nobody's.
    """

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self.free = blocks
        # Oldest first, and how many blocks. Contents are keyed by their name; the others by a run's number.
        self._unused: OrderedDict[Hashable, int] = OrderedDict({_Run(0): blocks})
        self._newest = _Run(0)
        self._in_use: dict[Hashable, dict[int, int]] = {}  # by name: blocks that each owner holds of it
        self._names_of: dict[int, list[Hashable]] = {}

    def take(self, blocks: int) -> None:
        """Hand out free blocks. Raises ValueError when there are not that many."""
        if blocks > self.free:
            raise ValueError(f"{blocks} KV blocks were asked for, {self.free} are free")
        self.free -= blocks
        while blocks:
            oldest = next(iter(self._unused))
            had = self._unused[oldest]
            if had > blocks:
                self._unused[oldest] = had - blocks
                return
            del self._unused[oldest]
            blocks -= had

    def give(self, blocks: int) -> None:
        """Take blocks back whose contents nobody will look for."""
        if self.free + blocks > self.total:
            raise ValueError(f"{blocks} KV blocks were given back, only {self.total - self.free} are in use")
        if not blocks:
            return
        self.free += blocks
        if self._unused and next(reversed(self._unused)) is self._newest:
            self._unused[self._newest] += blocks
        else:
            self._newest = _Run(self._newest.number + 1)
            self._unused[self._newest] = blocks

    def held(self, parts: Parts) -> int:
        """Leading blocks of a sequence's parts that are here, free or in use."""
        found = 0
        for name, blocks in parts:
            here = min(blocks, self._used(name) + self._unused.get(name, 0))
            found += here
            if here < blocks:
                break
        return found

    def claim(self, owner: int, parts: Parts, at_most: int) -> int:
        """Have an owner use what is here of its parts, at most so many blocks; returns how many."""
        left = min(at_most, self.held(parts))
        claimed = left
        for name, blocks in parts:
            if not left:
                break
            wanted = min(blocks, left)
            self._use(owner, name, wanted)
            left -= wanted
        return claimed

    def wrote(self, owner: int, parts: Parts, blocks: int) -> None:
        """An owner has computed so many blocks of its parts by now: what nobody had before is there for others."""
        for name, share in first(parts, blocks):
            owned = self._in_use.get(name, {}).get(owner, 0)
            known = self._used(name) + self._unused.get(name, 0)
            if owned == known and share > known:
                self._hold(owner, name, share)

    def leave(self, owner: int, blocks: int, parts: Parts = (), computed: int = 0) -> None:
        """An owner gives its blocks back, of which so many leading ones hold its parts. They are dropped last of all,
        and of those the end first."""
        self.wrote(owner, parts, computed)
        nameless, freed = blocks, []
        for name in self._names_of.pop(owner, ()):
            holders = self._in_use[name]
            owned = holders.pop(owner)
            nameless -= owned
            others = max(holders.values(), default=0)
            if not holders:
                del self._in_use[name]
            freed.append((name, max(0, owned - others)))
        self.give(nameless)
        for name, count in freed:
            if count:
                self.free += count
                self._unused[name] = self._unused.get(name, 0) + count
        for name, _ in reversed(parts):
            if name in self._unused:
                self._unused.move_to_end(name)

    def _used(self, name: Hashable) -> int:
        holders = self._in_use.get(name)
        return max(holders.values()) if holders else 0

    def _use(self, owner: int, name: Hashable, blocks: int) -> None:
        taken = max(0, blocks - self._used(name))
        if taken:
            self.free -= taken
            left = self._unused[name] - taken
            if left:
                self._unused[name] = left
            else:
                del self._unused[name]
        self._hold(owner, name, blocks)

    def _hold(self, owner: int, name: Hashable, blocks: int) -> None:
        holders = self._in_use.setdefault(name, {})
        if owner not in holders:
            self._names_of.setdefault(owner, []).append(name)
        holders[owner] = blocks


class _Run(NamedTuple):
    """Free blocks without contents that came together."""

    number: int


def first(parts: Parts, blocks: int) -> Parts:
    """The parts of so many leading blocks."""
    found: list[Part] = []
    for part in parts:
        if blocks <= 0:
            break
        found.append(Part(part.name, min(part.blocks, blocks)))
        blocks -= part.blocks
    return tuple(found)
