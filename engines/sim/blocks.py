"""KV blocks: how many are in use, by whom, and what the free ones still hold."""

from __future__ import annotations

from bisect import bisect_left, insort
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
        self._in_use: dict[Hashable, _Holders] = {}  # by name
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
            holders = self._in_use.get(name)
            owned = holders.blocks_of.get(owner, 0) if holders else 0
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
            owned = holders.drop(owner)
            nameless -= owned
            if not holders.blocks_of:
                del self._in_use[name]
            freed.append((name, max(0, owned - holders.most)))
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
        return holders.most if holders else 0

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
        holders = self._in_use.get(name)
        if holders is None:
            holders = self._in_use[name] = _Holders()
        if owner not in holders.blocks_of:
            self._names_of.setdefault(owner, []).append(name)
        holders.put(owner, blocks)


class _Holders:
    """Who uses the contents of one name, and how many blocks of them each. What the most is that one holds is at hand,
    however many share a system prompt."""

    def __init__(self) -> None:
        self.blocks_of: dict[int, int] = {}
        self._sizes: list[int] = []  # the same, ascending

    @property
    def most(self) -> int:
        return self._sizes[-1] if self._sizes else 0

    def put(self, owner: int, blocks: int) -> None:
        if owner in self.blocks_of:
            self.drop(owner)
        self.blocks_of[owner] = blocks
        insort(self._sizes, blocks)

    def drop(self, owner: int) -> int:
        """The owner is none any more; how many it held."""
        blocks = self.blocks_of.pop(owner)
        del self._sizes[bisect_left(self._sizes, blocks)]
        return blocks


class _Run(NamedTuple):
    """Free blocks without contents that came together."""

    number: int


def first(parts: Parts, blocks: int) -> Parts:
    """The parts of so many leading blocks."""
    found: list[Part] = []
    for part in parts:
        if blocks <= 0:
            break
        found.append(part if part.blocks <= blocks else Part(part.name, blocks))
        blocks -= part.blocks
    return tuple(found)
