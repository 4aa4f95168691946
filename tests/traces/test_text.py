import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.traces.real import real_places
from traces import fetch, text
from traces.errors import TraceError
from traces.manifest import dataset


def pieces(prompt: str) -> int:
    """Stands for a tokenizer: up to four letters with the blank before them, other characters alone, a first mark."""
    return 1 + len(re.findall(r" ?[a-z]{1,4}|[^a-z]", prompt))


@pytest.mark.parametrize("tokens", [1, 2, 3, 50, 763, 2010])
def test_synthetic_text_has_the_length_to_the_token(tokens: int) -> None:
    prompt = text.of_length(tokens, pieces, np.random.default_rng(tokens))
    assert pieces(prompt) == tokens


def test_it_differs_by_seed() -> None:
    first, again, other = (text.of_length(40, pieces, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_length_that_no_text_has_is_refused() -> None:
    with pytest.raises(TraceError, match="no text of exactly 0 tokens with this tokenizer: the nearest has 1"):
        text.of_length(0, pieces, np.random.default_rng(0))
    with pytest.raises(TraceError, match="no text of exactly 41 tokens"):
        text.of_length(41, lambda prompt: 2 * pieces(prompt), np.random.default_rng(0))


def test_problems_are_brought_to_length(tmp_path: Path) -> None:
    path = tmp_path / "HumanEval.jsonl"
    path.write_text(json.dumps({"prompt": "def add(a, b):\n"}) + "\n", encoding="utf-8")
    problems = text.humaneval(path)
    for tokens in (pieces(problems[0]), 120):
        prompt = text.problem_of_length(problems, tokens, pieces, np.random.default_rng(0))
        assert pieces(prompt) == tokens
        assert prompt.endswith(problems[0])
    short = text.problem_of_length(problems, 4, pieces, np.random.default_rng(0))
    assert pieces(short) == 4


def test_the_real_problems_are_there(tmp_path: Path) -> None:
    folder = real_places(tmp_path).folder
    assert folder is not None
    path = fetch.locate(dataset("humaneval"), folder)
    assert path is not None
    problems = text.humaneval(path)
    assert len(problems) == 164
    assert "def has_close_elements" in problems[0]
