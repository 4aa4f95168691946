"""Prompts as the simulated server reads them: how many tokens they have, and what their KV blocks hold.

There is no tokenizer: a token is four characters of text, so that a text's beginning is also its tokens' beginning. A
chat's template writes the tools first, then each message behind four tokens of its role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from slosgate.engines.sim.blocks import Part, Parts

TOKEN = " tok"  # the text of every token of an answer
TOKEN_ID = 1000  # and its id
CHARACTERS_PER_TOKEN = 4
ROLE_TOKENS = 4


class BadPrompt(ValueError):
    """No messages."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, or a text of `CHARACTERS_PER_TOKEN` for each token."""

    said: Sequence[int] | str
    tokens: int
    salt: str = ""  # prompts of another one share no KV
    goes_on: bool = True  # an answer follows at once; False: a template writes something between

    def cut(self, most: int) -> Prompt:
        """The end of it, as vLLM truncates."""
        if self.tokens <= most:
            return self
        kept = most * (CHARACTERS_PER_TOKEN if isinstance(self.said, str) else 1)
        return replace(self, said=self.said[len(self.said) - kept :], tokens=most)

    def parts(self, block_tokens: int, output_tokens: int) -> Parts:
        """The whole blocks of it, and of its answer."""
        more = output_tokens if self.goes_on else 0
        said: Sequence[Any]
        if isinstance(self.said, str):
            said, size = self.said + TOKEN * more, block_tokens * CHARACTERS_PER_TOKEN
        else:
            said, size = (*self.said, *(TOKEN_ID,) * more), block_tokens
        chain, found = hash(self.salt), []
        for start in range(0, len(said) - size + 1, size):
            chain = hash((chain, said[start : start + size]))
            found.append(Part(chain, 1))
        return tuple(found)


def text_prompt(text: str) -> Prompt:
    whole = _whole(text)
    return Prompt(whole, max(1, len(whole) // CHARACTERS_PER_TOKEN))


def chat_prompt(messages: Any, tools: Any) -> Prompt:
    """What the template makes of a chat. Raises BadPrompt."""
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadPrompt("messages must be a non-empty list of objects with role and content")
    text = _whole(_json(tools)) if tools else ""
    for message in messages:
        role = str(message.get("role", ""))[: ROLE_TOKENS * CHARACTERS_PER_TOKEN]
        calls = _json(message["tool_calls"]) if message.get("tool_calls") else ""
        text += role.ljust(ROLE_TOKENS * CHARACTERS_PER_TOKEN) + _whole(_text(message.get("content")) + calls)
    return Prompt(text, len(text) // CHARACTERS_PER_TOKEN, goes_on=False)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _whole(text: str) -> str:
    """A text filled up to whole tokens."""
    return text.ljust(-(-len(text) // CHARACTERS_PER_TOKEN) * CHARACTERS_PER_TOKEN)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
