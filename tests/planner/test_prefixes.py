"""What is guessed of a replica's prefix cache, and how its own counts correct the guess."""

from __future__ import annotations

from slosgate.planner.prefixes import Cached, Leading, Prefixes


def blocks(*hashes: int, of_tokens: int = 100) -> Leading:
    """Blocks of 100 tokens, at the beginning of a prompt of so many."""
    return Leading(hashes, 100 / of_tokens)


def trusted(limit_tokens: int = 10_000) -> Prefixes:
    known = Prefixes(limit_tokens)
    for _ in range(3):
        known.counted(100, 100)
    return known


def test_what_was_sent_is_likely_there_and_what_was_computed_is_there_for_sure() -> None:
    known = trusted()
    prompt = blocks(1, 2, of_tokens=250)
    known.sent(prompt, 250)
    assert known.cached(prompt, 250) == Cached(likely=200, sure=0)
    known.computed(prompt, 250)
    longer = blocks(1, 2, 3, 4, of_tokens=400)
    assert known.cached(longer, 400)[:2] == (200, 200)
    assert known.cached(blocks(2, of_tokens=100), 100)[:2] == (99, 99)  # the last token is always computed
    assert known.cached(blocks(9, 1), 100) == Cached()


def test_nothing_is_sure_until_the_replica_has_told_what_it_had_cached() -> None:
    known, prompt = Prefixes(1000), blocks(1, of_tokens=200)
    known.computed(prompt, 200)
    assert known.cached(prompt, 200) == Cached(likely=100, sure=0, guessed=100)
    for _ in range(3):
        known.counted(100, 90)
    assert known.cached(prompt, 200).sure == 90


def test_a_replica_that_has_less_than_was_guessed_is_believed_less() -> None:
    known, prompt = trusted(), blocks(1, of_tokens=200)
    known.computed(prompt, 200)
    known.counted(100, 0)
    assert known.cached(prompt, 200).sure == 0
    for _ in range(28):  # one in sixteen may be that bad
        known.counted(100, 100)
    assert known.cached(prompt, 200).sure == 100


def test_what_was_used_least_recently_is_dropped_once_the_room_is_taken() -> None:
    known = trusted(limit_tokens=500)
    old, young = blocks(1, 2, of_tokens=200), blocks(3, of_tokens=150)
    known.ended(old, 200, output_tokens=0)
    known.ended(young, 150, output_tokens=50)
    assert known.cached(old, 200).likely == 199
    known.others(150)
    assert (known.cached(old, 200).likely, known.cached(young, 150).likely) == (100, 100)  # of a prompt, its end first
    known.sent(old, 200)
    known.others(300)
    assert known.cached(young, 150).likely == 0


def test_of_pictures_nothing_is_sure() -> None:
    known, prompt = trusted(), Leading((1, 2), 0.4, telling=False)
    known.computed(prompt, 100)
    assert known.cached(prompt, 100) == Cached(likely=80)
