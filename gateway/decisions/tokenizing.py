"""Token counts by the model's own tokenizer file, through the tokenizers package (extra `tokenizers`).

A chat is counted exactly where its template is known, too: beside tokenizer.json as chat_template.jinja or in
tokenizer_config.json, as models are published. A count that an answer's usage contradicts is exact no longer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from slosgate.gateway.config import Config
from slosgate.gateway.decisions.templates import beside
from slosgate.gateway.promises.completion import Completion

LONGEST_BYTES = 32_768  # longer texts are estimated: counting them would hold up every stream for milliseconds

_log = logging.getLogger("slosgate")


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct):
    prompt: str | list[str] = ""
    messages: list[_Message] = []


class Counted(NamedTuple):
    """Tokens of a prompt; not `exact`: without what a chat template adds."""

    tokens: int
    exact: bool


class Tokenizers:
    """Tokenizers and chat templates by model, from their files. Imports the tokenizers package if there are any."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._tokenizers = {model: _load(file) for model, file in files.items()}
        self._templates = {model: template for model, file in files.items() if (template := beside(Path(file)))}
        self._contradicted: set[tuple[str, str]] = set()

    def count(self, completion: Completion) -> Counted | None:
        """Tokens of a body's prompt, or of its texts alone; None where they can't be counted."""
        tokenizer = self._tokenizers.get(completion.model)
        if tokenizer is None or completion.prompt_bytes + completion.tool_bytes > LONGEST_BYTES:
            return None
        trusted = not completion.reshaped and (completion.model, completion.kind) not in self._contradicted
        if completion.kind == "chat":
            rendered = self._rendered(completion) if trusted else None
            if rendered is not None:
                return Counted(len(tokenizer.encode(rendered, add_special_tokens=False).ids), exact=True)
        try:
            body = msgspec.json.decode(completion.body, type=_Body)
        except msgspec.ValidationError:
            return None  # content of a kind that this doesn't know: the replica will
        special = completion.kind == "completions"  # chat templates bring their own
        tokens = sum(len(tokenizer.encode(text, add_special_tokens=special).ids) for text in _texts(body))
        return Counted(tokens, exact=special and trusted)

    def compare(self, completion: Completion, counted: int, usage: int) -> None:
        """Hold a count against the replica's own: a file that counts otherwise is another model's."""
        name = (completion.model, completion.kind)
        if counted != usage and name not in self._contradicted:
            self._contradicted.add(name)
            _log.warning(
                "%s: by the tokenizer's files a prompt has %d tokens, by its replica's usage %d; prompts of %s are "
                "estimated from now on",
                completion.model,
                counted,
                usage,
                completion.kind,
            )

    def _rendered(self, completion: Completion) -> str | None:
        template = self._templates.get(completion.model)
        if template is None or completion.media:
            return None
        return template.rendered(completion.body)


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
