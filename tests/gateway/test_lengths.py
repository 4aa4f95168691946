"""What a gateway plans with before anyone has counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from slosgate.gateway.config import Config
from slosgate.gateway.decisions.lengths import Lengths
from slosgate.gateway.decisions.tokenizing import Tokenizers
from slosgate.gateway.promises.completion import Completion, Kind, parse
from slosgate.gateway.promises.contract import resolve
from slosgate.gateway.promises.exchange import UNMEASURED, Exchange, Size

WINDOW = 4096
NONE = Tokenizers({})


def completion(**fields: Any) -> Completion:
    kind: Kind = "chat" if "messages" in fields else "completions"
    return parse(json.dumps({"model": "m", **fields}).encode(), kind)


def planned(lengths: Lengths, asked: Completion) -> int:
    return lengths.prompt_tokens(asked, lengths.size(asked))


def finished(asked: Completion, *, prompt: int, output: int, size: Size = UNMEASURED) -> Exchange:
    exchange = Exchange("r", asked, resolve({}, None, Config()), 0.0, 1, 1, math.inf, size=size)
    exchange.note_whole(b'{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (prompt, output), 0.0)
    exchange.outcome = "completed"
    return exchange


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [([1, 2, 3], 3), ([7], 1), ([[1, 2], [3, 4, 5]], 5)],
)
def test_token_ids_are_counted_exactly(prompt: Any, tokens: int) -> None:
    assert planned(Lengths(NONE), completion(prompt=prompt)) == tokens


def test_text_is_estimated_and_learned_from_usage() -> None:
    lengths = Lengths(NONE)
    asked = completion(prompt="x" * 400)
    assert planned(lengths, asked) == 100
    for _ in range(5):
        lengths.learn(finished(asked, prompt=200, output=9, size=lengths.size(asked)))
    assert planned(lengths, asked) == 200


@pytest.fixture
def words(tmp_path: Path) -> Tokenizers:
    """A tokenizer for model m whose tokens are words, and which begins every text with a token of its own."""
    tokenizer: Any = tokenizers.Tokenizer(WordLevel({"[UNK]": 0, "[BOS]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return Tokenizers({"m": str(tmp_path / "tokenizer.json")})


def test_a_tokenizer_counts_texts_exactly(words: Tokenizers) -> None:
    lengths = Lengths(words)
    assert planned(lengths, completion(prompt="three little words")) == 4
    assert planned(lengths, completion(prompt=["two words", "and three more"])) == 3 + 4
    assert planned(lengths, completion(prompt="x " * 20_000)) == 10_000  # too long to count: by its bytes


def test_a_tokenizer_counts_chats_up_to_their_template_which_is_learned(words: Tokenizers) -> None:
    lengths = Lengths(words)
    asked = completion(messages=[{"role": "user", "content": "four words are here"}, {"role": "x", "content": None}])
    assert planned(lengths, asked) == 4
    for _ in range(5):
        lengths.learn(finished(asked, prompt=6, output=9, size=lengths.size(asked)))
    assert planned(lengths, asked) == 6
    parts = [{"type": "text", "text": "two words"}, {"type": "image_url", "image_url": {"url": "u"}}]
    assert planned(lengths, completion(messages=[{"role": "user", "content": parts}])) == 2 + 2 + 1000


def test_outputs_are_capped_by_what_was_asked_for_and_by_the_window() -> None:
    lengths = Lengths(NONE)
    assert lengths.output_tokens(completion(prompt="x", max_tokens=70), "c", WINDOW) == 70
    assert lengths.output_tokens(completion(prompt="x"), "c", WINDOW) == 16
    assert lengths.output_tokens(completion(messages=[{"role": "user"}], max_tokens=9000), "c", WINDOW) == WINDOW


def test_outputs_are_learned_per_class_unless_they_are_exact() -> None:
    lengths = Lengths(NONE)
    asked = completion(messages=[{"role": "user"}], max_tokens=1000)
    exact = completion(messages=[{"role": "user"}], max_tokens=1000, ignore_eos=True)
    for _ in range(30):
        lengths.learn(finished(asked, prompt=5, output=40))
        lengths.learn(finished(exact, prompt=5, output=1000))
    assert 40 <= lengths.output_tokens(asked, "default", WINDOW) < 50
    assert lengths.output_tokens(asked, "other", WINDOW) == 1000
    assert lengths.output_tokens(exact, "default", WINDOW) == 1000
