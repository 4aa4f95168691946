from pathlib import Path

import pytest

from slosgate.bench import cache


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLOSBENCH_CACHE", str(tmp_path))
    return tmp_path


def test_a_question_is_answered_once(kept_here: Path) -> None:
    asked: list[int] = []

    def answer(value: int) -> int:
        def compute() -> int:
            asked.append(value)
            return value

        return int(cache.remembered({"rate": value}, ["slosgate.bench.bound"], compute))

    assert [answer(1), answer(1), answer(2)] == [1, 1, 2]
    assert asked == [1, 2]
    for file in (kept_here / "runs").iterdir():
        file.write_bytes(b"{")  # a torn file is no answer
    assert answer(1) == 1
    assert asked == [1, 2, 1]


def test_an_answer_that_was_broken_off_too_soon_is_replaced() -> None:
    def ask(value: int, at_least: int) -> int:
        return int(cache.remembered({"rate": 1}, [], lambda: value, enough=lambda known: bool(known >= at_least)))

    assert [ask(3, at_least=1), ask(5, at_least=4), ask(0, at_least=4)] == [3, 5, 5]


def test_code_counts_by_what_it_imports() -> None:
    assert cache.fingerprint(("slosgate.bench.bound",)) != cache.fingerprint(("slosgate.bench.cache",))
    assert cache.fingerprint(("slosgate.bench.bound", "slosgate.planner.profile")) == cache.fingerprint(
        ("slosgate.bench.bound",)
    )
