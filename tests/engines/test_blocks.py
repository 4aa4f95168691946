import pytest
from hypothesis import given
from hypothesis import strategies as st

from slosgate.engines.sim.blocks import BlockPool


def test_a_session_claims_what_it_left() -> None:
    pool = BlockPool(10)
    pool.take(4)
    pool.give(3, "chat")
    pool.give(1)
    assert (pool.free, pool.claim("chat", at_most=2)) == (10, 2)
    assert (pool.free, pool.held_for("chat")) == (8, 0)


def test_the_oldest_contents_go_first_and_from_their_end() -> None:
    pool = BlockPool(10)
    pool.take(10)
    pool.give(3, "old")
    pool.give(3)
    pool.give(3, "young")
    pool.take(2)
    assert (pool.held_for("old"), pool.held_for("young")) == (1, 3)
    pool.take(5)
    assert (pool.held_for("old"), pool.held_for("young")) == (0, 2)


def test_more_than_there_is_can_neither_be_taken_nor_given() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="2 are free"):
        pool.take(3)
    with pytest.raises(ValueError, match="only 0 are in use"):
        pool.give(1)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["", "a", "b", "c"]), st.booleans()), max_size=60))
def test_no_block_is_ever_lost(moves: list[tuple[int, str, bool]]) -> None:
    pool, used = BlockPool(40), 0
    for count, session, takes in moves:
        if takes:
            count = min(count, pool.free)
            pool.take(count)
            used += count
        elif session and count % 2:
            used += pool.claim(session, count)
        else:
            count = min(count, used)
            pool.give(count, session)
            used -= count
        assert pool.free + used == pool.total == 40
    pool.take(pool.free)
    assert all(pool.held_for(session) == 0 for session in "abc")
