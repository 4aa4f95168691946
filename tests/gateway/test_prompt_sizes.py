"""What usage counts and the text doesn't show must not spoil what is known of plain prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from slosgate.gateway.decisions.counts import Line
from slosgate.gateway.decisions.lengths import Lengths
from slosgate.gateway.decisions.tokenizing import Tokenizers
from slosgate.gateway.promises.completion import Kind, parse
from tests.gateway.test_lengths import NONE, completion, finished, planned

TOOL = {"type": "function", "function": {"name": "f", "description": "d " * 200, "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def chat(text: Any, **more: Any) -> Any:
    return completion(messages=[{"role": "user", "content": text}], **more)


PLAIN = chat("x" * 4000)


@pytest.mark.parametrize(
    ("unlike", "counted"),
    [
        pytest.param(chat("hi", tools=[TOOL] * 40), 60_000, id="tools"),
        pytest.param(chat([{"type": "text", "text": "hi"}, IMAGE]), 2500, id="an image"),
        pytest.param(chat(["hi", {"image_url": IMAGE["image_url"]}]), 2500, id="an image without a type"),
        pytest.param(
            chat(["hi", IMAGE, {"type": None, "text": "hi"}, {"type": 5}]), 2500, id="an image among oddities"
        ),
        pytest.param(chat([IMAGE, {"type": "input_audio", "input_audio": {"data": "A"}}]), 9000, id="mixed media"),
        pytest.param(chat("hi", documents=[{"text": "d " * 500}]), 9000, id="documents"),
        pytest.param(chat("hi", chat_template="{{ long }}"), 9000, id="a template of the client's"),
        pytest.param(chat("hi"), 70, id="a long template"),
    ],
)
def test_a_plain_chat_after_an_unlike_one_is_sized_as_before(unlike: Any, counted: int) -> None:
    lengths = Lengths(NONE)
    lengths.learn(finished(unlike, prompt=counted, output=5, size=lengths.size(unlike)))
    assert 900 < planned(lengths, PLAIN) < 1200


def test_each_kind_is_learned(tmp_path: Path) -> None:
    lengths = Lengths(NONE)
    tools, image = chat("hi", tools=[TOOL] * 10), chat([IMAGE, IMAGE])
    for _ in range(10):
        for asked, counted in ((PLAIN, 1010), (tools, 3000), (image, 1500)):
            lengths.learn(finished(asked, prompt=counted, output=5, size=lengths.size(asked)))
    assert planned(lengths, PLAIN) == pytest.approx(1010, rel=0.05)
    assert planned(lengths, tools) == pytest.approx(3000, rel=0.05)
    assert planned(lengths, image) == pytest.approx(1500, rel=0.05)
    assert planned(lengths, chat([IMAGE])) == pytest.approx(750, rel=0.1)


def test_images_of_many_sizes_are_planned_for_with_care() -> None:
    lengths = Lengths(NONE)
    for counted in (250, 1100, 1500) * 12:
        lengths.learn(finished(chat([IMAGE]), prompt=counted, output=5, size=lengths.size(chat([IMAGE]))))
    assert 1100 <= planned(lengths, chat([IMAGE])) <= 2000


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_text_is_as_long_whether_its_writer_escapes_it_or_not(kind: Kind) -> None:
    told = {
        "messages": [{"role": "user", "content": "你好" * 100}],
        "prompt": "你好" * 100,
        "tools": [{"d": "你好" * 9}],
    }
    plain, escaped = (parse(json.dumps(told, ensure_ascii=escape).encode(), kind) for escape in (False, True))
    assert len(escaped.body) > 1.5 * len(plain.body)
    assert (plain.prompt_bytes, plain.tool_bytes) == (escaped.prompt_bytes, escaped.tool_bytes)


def test_a_few_odd_counts_do_not_bend_the_line() -> None:
    line = Line(base=0, base_off=1000, per_unit=0.25, per_unit_off=0.5)
    for size in range(100, 3000, 150):
        line.learn(size, 30 + size / 4)
    before = line.tokens(2000)
    for _ in range(3):
        line.learn(100, 20_000)
    assert line.tokens(2000) == pytest.approx(before, rel=0.02)
    assert line.tokens(100) == pytest.approx(55, abs=5)


def test_a_prompt_that_the_engine_puts_before_all_is_learned() -> None:
    lengths = Lengths(NONE)
    for size in (40, 400, 4000) * 8:
        asked = chat("x" * size)
        lengths.learn(finished(asked, prompt=5000 + size // 4, output=5, size=lengths.size(asked)))
    assert planned(lengths, chat("x" * 40)) == pytest.approx(5010, rel=0.05)


TEMPLATE = "{% for m in messages %}<s> {{ m.role }} {{ m.content }} {% endfor %}{{ tools | length if tools else '' }}"


def words(folder: Path, template: str = "") -> Tokenizers:
    """A tokenizer for model m whose tokens are words, and a chat template beside it."""
    tokenizer: Any = tokenizers.Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template or None}))
    return Tokenizers({"m": str(folder / "tokenizer.json")})


def test_a_chat_is_counted_exactly_by_its_template(tmp_path: Path) -> None:
    lengths = Lengths(words(tmp_path, TEMPLATE))
    assert lengths.size(chat("four words are here")) == ("exact", 6)
    assert lengths.size(chat("four words are here", tools=[TOOL])) == ("exact", 7)
    assert lengths.size(chat([{"type": "text", "text": "a part"}])).unit == "tokens"
    assert lengths.size(chat([IMAGE])).unit == "tokens"
    assert lengths.size(chat("hi", chat_template="x")).unit == "tokens"


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ strftime_now('%d') }}", ""])
def test_what_a_template_cannot_render_is_estimated(template: str, tmp_path: Path) -> None:
    assert Lengths(words(tmp_path, template)).size(chat("four words are here")) == ("tokens", 4)


def test_a_count_that_usage_contradicts_is_exact_no_longer(tmp_path: Path) -> None:
    lengths = Lengths(words(tmp_path, TEMPLATE))
    asked = chat("four words are here")
    lengths.learn(finished(asked, prompt=6, output=5, size=lengths.size(asked)))
    assert lengths.size(asked).unit == "exact"
    lengths.learn(finished(asked, prompt=36, output=5, size=lengths.size(asked)))
    assert lengths.size(asked).unit == "tokens"
    for _ in range(3):
        lengths.learn(finished(asked, prompt=36, output=5, size=lengths.size(asked)))
    assert planned(lengths, asked) == pytest.approx(36, abs=1)
