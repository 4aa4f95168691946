"""Exact token counts by the model's own tokenizer file, through the tokenizers package (extra `tokenizers`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from slosgate.gateway.config import Config
from slosgate.gateway.promises.completion import Completion

LONGEST_BYTES = 32_768  # longer texts are estimated: counting them would hold up every stream for milliseconds


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct):
    prompt: str | list[str] = ""
    messages: list[_Message] = []


class Tokenizers:
    """Tokenizers by model, from their files. Imports the tokenizers package if there are any."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._tokenizers = {model: _load(file) for model, file in files.items()}

    def count(self, completion: Completion) -> int | None:
        """Tokens of the texts in a body, without what a chat template adds; None where they can't be counted."""
        tokenizer = self._tokenizers.get(completion.model)
        if tokenizer is None or completion.prompt_bytes > LONGEST_BYTES:
            return None
        try:
            body = msgspec.json.decode(completion.body, type=_Body)
        except msgspec.ValidationError:
            return None  # content of a kind that this doesn't know: the replica will
        special = completion.kind == "completions"  # chat templates bring their own
        return sum(len(tokenizer.encode(text, add_special_tokens=special).ids) for text in _texts(body))


def files(config: Config) -> dict[str, str]:
    """The files that a configuration names, by model."""
    return {name: model.tokenizer for name, model in config.models.items() if model.tokenizer}


def problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the tokenizer files that a configuration names, as (path, message)."""
    named = files(config)
    if named and find_spec("tokenizers") is None:
        yield ("models",), "tokenizer needs the tokenizers package: pip install 'slosgate[tokenizers]'"
        return
    for name, file in named.items():
        try:
            _load(file)
        except Exception as exc:  # the package raises nothing more special
            yield ("models", name, "tokenizer"), f"{file!r} is no tokenizer.json: {exc}"


def _load(file: str) -> Any:
    tokenizer = import_module("tokenizers").Tokenizer.from_file(file)
    # A file may carry the settings of someone's training run.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _texts(body: _Body) -> Iterator[str]:
    yield from [body.prompt] if isinstance(body.prompt, str) else body.prompt
    for message in body.messages:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content or ())
