"""The OpenAI API as the simulated server speaks it: request bodies in, response bodies and stream chunks out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from slosgate.engines.messages import SloArgs, read_slo
from slosgate.engines.sim.prompts import TOKEN, TOKEN_ID, BadPrompt, Prompt, chat_prompt, text_prompt

DEFAULT_MAX_TOKENS = 16  # of /v1/completions
MAX_CHOICES = 16_384  # of one request, as in vLLM


class BadRequest(Exception):
    """What the client asked for can't be served; becomes an OpenAI error body."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class Body(msgspec.Struct):
    """The fields of a completion or chat completion that this server reads; others are ignored, as vLLM does."""

    model: str | None = None
    prompt: Any = None
    messages: Any = None
    tools: Any = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    truncate_prompt_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    echo: bool | None = False
    n: int | None = 1
    vllm_xargs: dict[str, Any] | None = None


class SimArgs(msgspec.Struct):
    """What a client may tell the simulation about a request, in `vllm_xargs`: a real engine sees it by itself."""

    sim_thinking_tokens: int | None = None  # of the output, instead of the server's own share
    sim_acceptance: float | None = None  # chance that a drafted token is accepted, instead of the server's own


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a request: each is a sequence of its own."""

    prompt: Prompt
    output_tokens: int  # what the simulated model will say
    max_tokens: int
    thinking_tokens: int = 0  # of the output, at its beginning

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.tokens

    @property
    def finish_reason(self) -> str:
        return "length" if self.output_tokens == self.max_tokens else "stop"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, understood."""

    id: str
    chat: bool
    stream: bool
    include_usage: bool
    choices: tuple[Choice, ...]  # of the first prompt, then of the second
    prompt_tokens: int  # of all prompts
    slo: SloArgs
    sim: SimArgs
    tells_ids: bool = False  # the ids of tokens are wanted with them

    def usage(self, cached_tokens: int) -> dict[str, Any]:
        """What the answer says, given how much of the prompts was cached."""
        output_tokens = sum(choice.output_tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.prompt_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }


def understand(
    data: bytes, *, chat: bool, request_id: str, model: str, max_model_tokens: int, seed: int, thinking: float = 0.0
) -> Ask:
    """Read a body. Raises BadRequest with a sentence that names the field."""
    try:
        body = msgspec.json.decode(data, type=Body, strict=False)  # as lax as vLLM: 1e3 and "1000" are numbers
    except msgspec.ValidationError as error:
        raise BadRequest(f"the request body is not valid: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request body is not valid JSON: {error}") from None
    if body.model is not None and body.model != model:
        message = f"the model `{body.model}` does not exist: this server serves `{model}`"
        raise BadRequest(message, param="model", status=404, kind="NotFoundError")
    prompts = (_chat(body),) if chat else _prompts(body.prompt)
    if body.truncate_prompt_tokens is not None and body.truncate_prompt_tokens > 0:
        prompts = tuple(prompt.cut(body.truncate_prompt_tokens) for prompt in prompts)
    if body.cache_salt:
        prompts = tuple(replace(prompt, salt=body.cache_salt) for prompt in prompts)
    xargs = body.vllm_xargs or {}
    sim = _sim_args(xargs)
    choices = _choices(body, chat, prompts, max_model_tokens, seed ^ zlib.crc32(data))
    return Ask(
        id=request_id,
        chat=chat,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        choices=tuple(replace(c, thinking_tokens=_thinking_tokens(body, chat, c, sim, thinking)) for c in choices),
        prompt_tokens=sum(prompt.tokens for prompt in prompts),
        slo=read_slo(xargs, request_id),
        sim=sim,
        tells_ids=bool(body.return_token_ids),
    )


def _choices(body: Body, chat: bool, prompts: Sequence[Prompt], max_model_tokens: int, seed: int) -> tuple[Choice, ...]:
    n = 1 if body.n is None else body.n
    if not 1 <= n <= MAX_CHOICES // len(prompts):
        raise BadRequest(f"n must be at least 1, and at most {MAX_CHOICES} over all prompts, not {n}", param="n")
    choices: list[Choice] = []
    for prompt in prompts:
        max_tokens = _max_tokens(body, chat, prompt.tokens, max_model_tokens)
        for _ in range(n):
            output_tokens = _output_tokens(body, max_tokens, seed + len(choices))
            choices.append(Choice(prompt, output_tokens, max_tokens))
    return tuple(choices)


def _chat(body: Body) -> Prompt:
    try:
        return chat_prompt(body.messages, body.tools)
    except BadPrompt as error:
        raise BadRequest(str(error), param="messages") from None


def _prompts(prompt: Any) -> tuple[Prompt, ...]:
    """A text, token ids, or a list of those."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return tuple(_prompt(part) for part in prompt)
    return (_prompt(prompt if prompt else None),)


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return text_prompt(prompt)
    if isinstance(prompt, list) and prompt and all(_is_id(token) for token in prompt):
        return Prompt(prompt, len(prompt))
    message = "prompt must be a non-empty text, a non-empty list of token ids, or a list of those"
    raise BadRequest(message, param="prompt")


def _is_id(token: Any) -> bool:
    return type(token) is int or (type(token) is float and token.is_integer())


def _max_tokens(body: Body, chat: bool, prompt_tokens: int, max_model_tokens: int) -> int:
    room = max_model_tokens - prompt_tokens
    wanted = _asked_tokens(body, chat)
    if wanted is None:
        wanted = max(1, room)
    if wanted < 1:
        raise BadRequest(f"max_tokens must be at least 1, not {wanted}", param="max_tokens")
    if wanted > room:
        message = (
            f"this model's maximum context length is {max_model_tokens} tokens, but {prompt_tokens} prompt tokens and "
            f"{wanted} output tokens were asked for: shorten the prompt or lower max_tokens"
        )
        raise BadRequest(message, param="max_tokens" if room > 0 else "prompt")
    if not 0 <= body.min_tokens <= wanted:
        raise BadRequest(f"min_tokens must be between 0 and max_tokens ({wanted})", param="min_tokens")
    return wanted


def _asked_tokens(body: Body, chat: bool) -> int | None:
    """What the body allows; None: all that the window leaves. Only chats know max_completion_tokens, as in vLLM."""
    if chat and body.max_completion_tokens is not None:
        return body.max_completion_tokens
    if body.max_tokens is None:
        return None if chat else DEFAULT_MAX_TOKENS
    if body.max_tokens == 0 and body.echo and not chat:
        return 1  # the prompt is scored in one step; here that step's token is said, too
    return body.max_tokens


def _output_tokens(body: Body, max_tokens: int, seed: int) -> int:
    """All that is allowed with ignore_eos, else a length that the seed decides, the same for the same body."""
    if body.ignore_eos:
        return max_tokens
    least = max(1, body.min_tokens)
    return least + zlib.crc32(seed.to_bytes(8, "little", signed=True)) % (max_tokens - least + 1)


def _thinking_tokens(body: Body, chat: bool, choice: Choice, sim: SimArgs, share: float) -> int:
    """How much of an answer is thinking: a share of what a chat says, unless its template is told not to think."""
    if sim.sim_thinking_tokens is not None:
        return min(sim.sim_thinking_tokens, choice.output_tokens)
    thinks = chat and (body.chat_template_kwargs or {}).get("enable_thinking", True) is not False
    return int(share * choice.output_tokens) if thinks else 0


def _sim_args(xargs: dict[str, Any]) -> SimArgs:
    try:
        return msgspec.convert(xargs, SimArgs, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"vllm_xargs: {error}", param="vllm_xargs") from None


class Completion:
    """The bytes of one answer. What is the same for every token is encoded once."""

    def __init__(self, ask: Ask, model: str, created_s: int) -> None:
        self._ask = ask
        kind = "chat.completion" if ask.chat else "text_completion"
        self._head = {"id": ask.id, "object": kind, "created": created_s, "model": model}
        self._chunk_head = self._head | ({"object": "chat.completion.chunk"} if ask.chat else {})
        self._tokens = [self._event([self._choice(index, TOKEN, None)]) for index in range(len(ask.choices))]
        self._thoughts = [self._event([self._thought(index)]) for index in range(len(ask.choices))]
        self._said = [0] * len(ask.choices)

    def opening(self) -> bytes:
        """What a stream begins with."""
        if not self._ask.chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        indices = range(len(self._ask.choices))
        return b"".join(self._event([{"index": i, "delta": delta, "finish_reason": None}]) for i in indices)

    def tokens(self, index: int, count: int) -> bytes:
        """Events of `count` more tokens of one choice, one each; none of them the last."""
        thinking = self._ask.choices[index].thinking_tokens if self._ask.chat else 0
        thoughts = min(count, max(0, thinking - self._said[index]))
        self._said[index] += count
        return self._thoughts[index] * thoughts + self._tokens[index] * (count - thoughts)

    def last(self, index: int) -> bytes:
        """The event of a choice's last token."""
        return self._event([self._choice(index, TOKEN, self._ask.choices[index].finish_reason)])

    def closing(self, cached_tokens: int) -> bytes:
        """Usage if it was asked for, and the end."""
        usage = self._event([], usage=self._ask.usage(cached_tokens)) if self._ask.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def whole(self, cached_tokens: int) -> bytes:
        """The body of an answer that is not streamed."""
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._ask.choices)]
        return msgspec.json.encode(self._head | {"choices": choices, "usage": self._ask.usage(cached_tokens)})

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        thinking = choice.thinking_tokens if self._ask.chat else 0
        text = TOKEN * (choice.output_tokens - thinking)
        said: dict[str, Any] = {"text": text}
        if self._ask.chat:
            said = {"message": {"role": "assistant", "content": text, "reasoning_content": TOKEN * thinking or None}}
        if self._ask.tells_ids:
            said["token_ids"] = [TOKEN_ID] * choice.output_tokens
        return {"index": index, "logprobs": None, "finish_reason": choice.finish_reason, **said}

    def _choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {"content": text}} if self._ask.chat else {"text": text}
        if self._ask.tells_ids:
            said["token_ids"] = [TOKEN_ID]
        return {"index": index, **said, "logprobs": None, "finish_reason": finish_reason}

    def _thought(self, index: int) -> dict[str, Any]:
        """A token of thinking, under both names that vLLM has for it."""
        said: dict[str, Any] = {"delta": {"reasoning_content": TOKEN, "reasoning": TOKEN}}
        if self._ask.tells_ids:
            said["token_ids"] = [TOKEN_ID]
        return {"index": index, **said, "logprobs": None, "finish_reason": None}

    def _event(self, choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + msgspec.json.encode(self._chunk_head | {"choices": choices, **more}) + b"\n\n"
