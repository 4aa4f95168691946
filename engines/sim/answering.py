"""The bytes of the simulated server's answers to completions and chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from slosgate.engines.sim import logprobs
from slosgate.engines.sim.openai import Ask, Choice
from slosgate.engines.sim.prompts import TOKEN, TOKEN_ID
from slosgate.engines.sim.tools import ToolCall


class Completion:
    """One answer. What is the same for every token is encoded once."""

    def __init__(self, ask: Ask, model: str, created_s: int) -> None:
        self._ask = ask
        kind = "chat.completion" if ask.chat else "text_completion"
        self._head = {"id": ask.id, "object": kind, "created": created_s, "model": model}
        self._chunk_head = self._head | ({"object": "chat.completion.chunk"} if ask.chat else {})
        self._said = [0] * len(ask.choices)  # tokens of each choice that were streamed
        self._same: list[bytes] = []  # each choice's token, where one is like the other
        self._thoughts: list[bytes] = []  # and each choice's token of thinking
        if ask.call is None and ask.logprobs is None:
            numbers = range(len(ask.choices))
            self._same = [self._event([self._token(index, self._thinking(index), None)]) for index in numbers]
            self._thoughts = [self._event([self._thought(index)]) for index in numbers]

    def opening(self) -> bytes:
        """What a stream begins with."""
        if not self._ask.chat:
            return b""
        delta = {"role": "assistant", "content": None if self._ask.call else ""}
        indices = range(len(self._ask.choices))
        return b"".join(self._event([{"index": i, "delta": delta, "finish_reason": None}]) for i in indices)

    def tokens(self, index: int, count: int) -> bytes:
        """Events of `count` more tokens of one choice, one each; none of them the last."""
        first = self._said[index]
        self._said[index] += count
        if self._same:
            thoughts = min(count, max(0, self._thinking(index) - first))
            return self._thoughts[index] * thoughts + self._same[index] * (count - thoughts)
        return b"".join(self._event([self._token(index, first + n, None)]) for n in range(count))

    def last(self, index: int) -> bytes:
        """The event of a choice's last token."""
        return self._event([self._token(index, self._said[index], self._finish_reason(self._ask.choices[index]))])

    def closing(self, cached_tokens: int) -> bytes:
        """Usage if it was asked for, and the end."""
        usage = self._event([], usage=self._ask.usage(cached_tokens)) if self._ask.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def whole(self, cached_tokens: int) -> bytes:
        """The body of an answer that is not streamed."""
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._ask.choices)]
        return msgspec.json.encode(self._head | {"choices": choices, "usage": self._ask.usage(cached_tokens)})

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        thinking = self._thinking(index)
        texts = [self._text(number) for number in range(choice.output_tokens - thinking)]
        said: dict[str, Any] = {"text": "".join(texts)}
        if self._ask.chat:
            content = self._content("".join(texts), index)
            said = {"message": {"role": "assistant", **content, "reasoning_content": TOKEN * thinking or None}}
        if self._ask.tells_ids:
            said["token_ids"] = [TOKEN_ID] * choice.output_tokens
        reason = self._finish_reason(choice)
        return {"index": index, "logprobs": self._logprobs(texts, 0), "finish_reason": reason, **said}

    def _content(self, text: str, index: int) -> dict[str, Any]:
        call = self._ask.call
        if call is None:
            return {"content": text}
        function = {"name": call.name, "arguments": text}
        return {"content": None, "tool_calls": [{"id": self._call_id(index), "type": "function", "function": function}]}

    def _token(self, index: int, number: int, finish_reason: str | None) -> dict[str, Any]:
        """One token in a stream."""
        number -= self._thinking(index)
        if number < 0 and finish_reason is None:
            return self._thought(index)
        number = max(0, number)
        text, call = self._text(number), self._ask.call
        said: dict[str, Any] = {"text": text}
        if self._ask.chat:
            said = {"delta": {"content": text} if call is None else self._called(call, index, number)}
        if self._ask.tells_ids:
            said["token_ids"] = [TOKEN_ID]
        return {
            "index": index,
            **said,
            "logprobs": self._logprobs([text], number * len(TOKEN)),
            "finish_reason": finish_reason,
        }

    def _thinking(self, index: int) -> int:
        return self._ask.choices[index].thinking_tokens if self._ask.chat else 0

    def _thought(self, index: int) -> dict[str, Any]:
        """A token of thinking, under both names that vLLM has for it."""
        said: dict[str, Any] = {"delta": {"reasoning_content": TOKEN, "reasoning": TOKEN}}
        if self._ask.tells_ids:
            said["token_ids"] = [TOKEN_ID]
        return {"index": index, **said, "logprobs": None, "finish_reason": None}

    def _called(self, call: ToolCall, index: int, number: int) -> dict[str, Any]:
        part: dict[str, Any] = {"index": 0, "function": {"arguments": call.part(number)}}
        if number == 0:
            part = {"id": self._call_id(index), "type": "function", **part}
            part["function"]["name"] = call.name
        return {"tool_calls": [part]}

    def _call_id(self, index: int) -> str:
        return f"call-{self._ask.id}-{index}"

    def _text(self, number: int) -> str:
        return TOKEN if self._ask.call is None else self._ask.call.part(number)

    def _finish_reason(self, choice: Choice) -> str:
        call = self._ask.call
        return choice.finish_reason if call is None else call.finish_reason(choice.finish_reason)

    def _logprobs(self, texts: Sequence[str], offset: int) -> dict[str, Any] | None:
        if self._ask.logprobs is None:
            return None
        if self._ask.chat:
            return logprobs.of_chat(texts, self._ask.logprobs)
        return logprobs.of_completion(texts, self._ask.logprobs, offset)

    def _event(self, choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + msgspec.json.encode(self._chunk_head | {"choices": choices, **more}) + b"\n\n"
