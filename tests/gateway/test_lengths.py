"""What a gateway plans with before anyone has counted."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from gateway.completion import Completion, Kind, parse
from gateway.config import Config
from gateway.contract import resolve
from gateway.exchange import Exchange
from gateway.lengths import Lengths

WINDOW = 4096


def completion(**fields: Any) -> Completion:
    kind: Kind = "chat" if "messages" in fields else "completions"
    return parse(json.dumps({"model": "m", **fields}).encode(), kind)


def finished(asked: Completion, *, prompt: int, output: int) -> Exchange:
    exchange = Exchange("r", asked, resolve({}, None, Config()), 0.0, 1, 1, math.inf)
    exchange.note_usage(b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (prompt, output))
    exchange.outcome = "completed"
    return exchange


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [([1, 2, 3], 3), ([7], 1), ([[1, 2], [3, 4, 5]], 5)],
)
def test_token_ids_are_counted_exactly(prompt: Any, tokens: int) -> None:
    assert Lengths().prompt_tokens(completion(prompt=prompt)) == tokens


def test_text_is_estimated_and_learned_from_usage() -> None:
    lengths = Lengths()
    asked = completion(prompt="x" * 400)
    assert lengths.prompt_tokens(asked) == 100
    for _ in range(5):
        lengths.learn(finished(asked, prompt=200, output=9))
    assert lengths.prompt_tokens(asked) == 200


def test_outputs_are_capped_by_what_was_asked_for_and_by_the_window() -> None:
    lengths = Lengths()
    assert lengths.output_tokens(completion(prompt="x", max_tokens=70), "c", WINDOW) == 70
    assert lengths.output_tokens(completion(prompt="x"), "c", WINDOW) == 16
    assert lengths.output_tokens(completion(messages=[{"role": "user"}], max_tokens=9000), "c", WINDOW) == WINDOW


def test_outputs_are_learned_per_class_unless_they_are_exact() -> None:
    lengths = Lengths()
    asked = completion(messages=[{"role": "user"}], max_tokens=1000)
    exact = completion(messages=[{"role": "user"}], max_tokens=1000, ignore_eos=True)
    for _ in range(30):
        lengths.learn(finished(asked, prompt=5, output=40))
        lengths.learn(finished(exact, prompt=5, output=1000))
    assert 40 <= lengths.output_tokens(asked, "default", WINDOW) < 50
    assert lengths.output_tokens(asked, "other", WINDOW) == 1000
    assert lengths.output_tokens(exact, "default", WINDOW) == 1000
