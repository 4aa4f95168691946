"""KV blocks of a simulated replica: counted, left, claimed and shared."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slosgate.engines.sim.blocks import BlockPool, Part, Parts


def chat(blocks: int, name: str = "chat") -> Parts:
    return (Part(name, blocks),)


def test_a_sequence_claims_what_one_with_the_same_beginning_left() -> None:
    pool = BlockPool(10)
    pool.take(4)
    pool.leave(1, 4, chat(4), computed=3)
    assert (pool.free, pool.held(chat(9))) == (10, 3)
    assert (pool.claim(2, chat(9), at_most=2), pool.free) == (2, 8)
    assert pool.held(chat(9)) == 3  # of which one is free


def test_what_runs_is_shared_and_freed_with_the_last_who_uses_it() -> None:
    pool, system = BlockPool(10), chat(3, "system")
    pool.take(4)
    pool.wrote(1, (*system, Part("a", 1)), 4)
    assert (pool.claim(2, (*system, Part("b", 2)), at_most=9), pool.free) == (3, 6)
    pool.leave(1, 4, (*system, Part("a", 1)), computed=4)
    assert pool.free == 7  # the system's are still in use
    pool.leave(2, 3)
    assert (pool.free, pool.held(system)) == (10, 3)


def test_what_two_computed_each_for_itself_is_there_once() -> None:
    pool = BlockPool(10)
    pool.take(6)
    pool.leave(1, 3, chat(3), computed=3)
    pool.leave(2, 3, chat(3), computed=3)
    assert (pool.free, pool.held(chat(3))) == (10, 3)
    pool.take(7)
    assert pool.held(chat(3)) == 3


def test_a_part_that_is_not_whole_hides_what_stands_behind_it() -> None:
    pool, parts = BlockPool(10), (Part("a", 2), Part("b", 2))
    pool.take(4)
    pool.leave(1, 4, parts, computed=4)
    pool.take(6)
    assert pool.held(parts) == 4
    pool.take(1)
    assert pool.held(parts) == 3
    assert pool.held((Part("a", 1), Part("c", 1))) == 1


def test_the_oldest_contents_go_first_and_from_their_end() -> None:
    pool = BlockPool(10)
    pool.take(10)
    pool.leave(1, 3, chat(3, "old"), computed=3)
    pool.give(4)
    pool.leave(2, 3, chat(3, "young"), computed=3)
    pool.take(2)
    assert (pool.held(chat(3, "old")), pool.held(chat(3, "young"))) == (1, 3)
    pool.take(6)
    assert (pool.held(chat(3, "old")), pool.held(chat(3, "young"))) == (0, 2)


def test_more_than_there_is_can_neither_be_taken_nor_given() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="2 are free"):
        pool.take(3)
    with pytest.raises(ValueError, match="only 0 are in use"):
        pool.give(1)


MOVES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), st.sampled_from("abcx")), max_size=60)


@given(MOVES)
def test_no_block_is_ever_lost(moves: list[tuple[int, int, str]]) -> None:
    """Six owners come, claim what is there of their beginning, take more, and leave."""
    pool = BlockPool(40)
    owned: dict[int, tuple[int, Parts]] = {}
    for owner, count, name in moves:
        if owner in owned:
            blocks, parts = owned.pop(owner)
            pool.leave(owner, blocks, parts, computed=min(blocks, count))
            continue
        parts = (Part("shared", 4), Part(name, 20)) if count % 2 else chat(20, name)
        had = pool.claim(owner, parts, at_most=count)
        more = min(count, pool.free)
        pool.take(more)
        owned[owner] = had + more, parts
        pool.wrote(owner, parts, had + more // 2)
        assert 40 - pool.free <= sum(blocks for blocks, _ in owned.values())
    for owner, (blocks, parts) in owned.items():
        pool.leave(owner, blocks, parts)
    assert pool.free == 40
    pool.take(40)
    assert all(pool.held(chat(1, name)) == 0 for name in ("a", "b", "c", "x", "shared"))


class PlainPool:
    """The same rules with one entry per free block and no sums kept."""

    def __init__(self, blocks: int) -> None:
        self.unused: list[Hashable] = [None] * blocks  # next to be handed out first; None: no contents
        self.used: dict[tuple[int, Hashable], int] = {}  # by owner and name, in the order in which they were taken

    @property
    def free(self) -> int:
        return len(self.unused)

    def here(self, name: Hashable) -> int:
        return self.most(name) + self.unused.count(name)

    def most(self, name: Hashable) -> int:
        return max((blocks for (_, named), blocks in self.used.items() if named == name), default=0)

    def held(self, parts: Parts) -> int:
        found = 0
        for name, blocks in parts:
            found += min(blocks, self.here(name))
            if self.here(name) < blocks:
                break
        return found

    def take(self, blocks: int) -> None:
        del self.unused[:blocks]

    def claim(self, owner: int, parts: Parts, at_most: int) -> int:
        claimed = left = min(at_most, self.held(parts))
        for name, blocks in parts:
            wanted = min(blocks, left)
            left -= wanted
            for _ in range(wanted - self.most(name)):
                self.unused.remove(name)
            if wanted:
                self.used[owner, name] = wanted
        return claimed

    def wrote(self, owner: int, parts: Parts, blocks: int) -> None:
        for name, size in parts:
            share, blocks = min(size, blocks), max(0, blocks - size)
            if self.used.get((owner, name), 0) == self.here(name) < share:
                self.used[owner, name] = share

    def leave(self, owner: int, blocks: int, parts: Parts, computed: int) -> None:
        self.wrote(owner, parts, computed)
        freed: list[Hashable] = []
        for name in [name for who, name in self.used if who == owner]:
            owned = self.used.pop((owner, name))
            blocks -= owned
            freed += [name] * max(0, owned - self.most(name))
        self.unused += [None] * blocks
        for name in dict.fromkeys(freed):
            at = self.unused.index(name) if name in self.unused else len(self.unused)
            self.unused[at:at] = [name] * freed.count(name)
        for name, _ in reversed(parts):
            count = self.unused.count(name)
            self.unused = [one for one in self.unused if one != name] + [name] * count


BEGINNINGS = [
    (Part("system", 3), Part("a", 2), Part("b", 9)),
    (Part("system", 3), Part("a", 2), Part("c", 9)),
    (Part("system", 3), Part("d", 9)),
    (Part("e", 14),),
    (Part("system", 2), Part("f", 1), Part("e", 9)),
]
STEPS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 12), st.sampled_from(BEGINNINGS)), max_size=80)


@given(STEPS)
def test_all_is_as_in_a_plain_pool(steps: list[tuple[int, int, Parts]]) -> None:
    """Eight owners come, claim, compute some of what they took, and leave in any order: what is here is the same."""
    pool, plain = BlockPool(30), PlainPool(30)
    owned: dict[int, tuple[int, Parts]] = {}
    for owner, count, parts in steps:
        if owner in owned and count % 3:
            blocks, own = owned[owner]
            for each in (pool, plain):
                each.wrote(owner, own, min(blocks, count))
        elif owner in owned:
            blocks, own = owned.pop(owner)
            for each in (pool, plain):
                each.leave(owner, blocks, own, computed=min(blocks, count))
        else:
            had = {each.claim(owner, parts, count) for each in (pool, plain)}
            assert len(had) == 1
            more = min(count, pool.free)
            pool.take(more)
            plain.take(more)
            owned[owner] = had.pop() + more, parts
        assert pool.free == plain.free
        assert [pool.held(parts) for parts in BEGINNINGS] == [plain.held(parts) for parts in BEGINNINGS]
