"""The OpenAI API as the simulated server understands it: what a request's body asks for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import msgspec

from slosgate.engines.messages import SloArgs, read_slo
from slosgate.engines.sim import logprobs
from slosgate.engines.sim.prompts import BadPrompt, Prompt, chat_prompt, text_prompt
from slosgate.engines.sim.tools import ToolCall, tool_call

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
    min_tokens: int | None = 0
    ignore_eos: bool | None = False
    echo: bool | None = False
    n: int | None = 1
    tool_choice: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
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
    call: ToolCall | None = None  # what is called instead of saying something
    logprobs: int | None = None  # alternatives to tell of each token; None: no log probabilities
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


class _Named(Protocol):
    model: str | None


B = TypeVar("B", bound=_Named)


def decoded(data: bytes, kind: type[B], model: str) -> B:
    """A body for this model. Raises BadRequest."""
    try:
        body = msgspec.json.decode(data, type=kind, strict=False)  # as lax as vLLM: 1e3 and "1000" are numbers
    except msgspec.ValidationError as error:
        raise BadRequest(f"the request body is not valid: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request body is not valid JSON: {error}") from None
    if body.model is not None and body.model != model:
        message = f"the model `{body.model}` does not exist: this server serves `{model}`"
        raise BadRequest(message, param="model", status=404, kind="NotFoundError")
    return body


def understand(
    data: bytes, *, chat: bool, request_id: str, model: str, max_model_tokens: int, seed: int, thinking: float = 0.0
) -> Ask:
    """Read a body. Raises BadRequest with a sentence that names the field."""
    body = decoded(data, Body, model)
    try:
        call = tool_call(body.tools, body.tool_choice) if chat else None
        alternatives = logprobs.asked(body.logprobs, body.top_logprobs, chat=chat)
    except ValueError as error:
        raise BadRequest(str(error), param=str(error).split(" ", 1)[0]) from None
    if chat:
        prompts = _cut((_chat(body),), body.truncate_prompt_tokens)
    else:
        prompts = prompts_of(body.prompt, "prompt", body.truncate_prompt_tokens)
    if body.cache_salt:
        prompts = tuple(replace(prompt, salt=body.cache_salt) for prompt in prompts)
    xargs = body.vllm_xargs or {}
    sim = _sim_args(xargs)
    choices = _choices(body, chat, prompts, max_model_tokens, seed ^ zlib.crc32(data), call)
    return Ask(
        id=request_id,
        chat=chat,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        choices=tuple(
            replace(c, thinking_tokens=_thinking_tokens(body, chat, c, sim, thinking, call)) for c in choices
        ),
        prompt_tokens=sum(prompt.tokens for prompt in prompts),
        slo=read_slo(xargs, request_id),
        sim=sim,
        call=call,
        logprobs=alternatives,
        tells_ids=bool(body.return_token_ids),
    )


def _choices(
    body: Body, chat: bool, prompts: Sequence[Prompt], max_model_tokens: int, seed: int, call: ToolCall | None
) -> tuple[Choice, ...]:
    n = 1 if body.n is None else body.n
    if not 1 <= n <= MAX_CHOICES // len(prompts):
        raise BadRequest(f"n must be at least 1, and at most {MAX_CHOICES} over all prompts, not {n}", param="n")
    choices: list[Choice] = []
    for prompt in prompts:
        max_tokens = _max_tokens(body, chat, prompt.tokens, max_model_tokens)
        for _ in range(n):
            output_tokens = _output_tokens(body, max_tokens, seed + len(choices), call)
            choices.append(Choice(prompt, output_tokens, max_tokens))
    return tuple(choices)


def _chat(body: Body) -> Prompt:
    try:
        return chat_prompt(body.messages, body.tools)
    except BadPrompt as error:
        raise BadRequest(str(error), param="messages") from None


def prompts_of(prompt: Any, field: str, truncate: int | None) -> tuple[Prompt, ...]:
    """Each prompt: a text, token ids, or a list of those. Raises BadRequest."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompts = tuple(_prompt(part, field) for part in prompt)
    else:
        prompts = (_prompt(prompt if prompt else None, field),)
    return _cut(prompts, truncate)


def _cut(prompts: tuple[Prompt, ...], truncate: int | None) -> tuple[Prompt, ...]:
    return tuple(prompt.cut(truncate) for prompt in prompts) if truncate is not None and truncate > 0 else prompts


def _prompt(prompt: Any, field: str) -> Prompt:
    if isinstance(prompt, str):
        return text_prompt(prompt)
    if isinstance(prompt, list) and prompt and all(_is_id(token) for token in prompt):
        return Prompt(prompt, len(prompt))
    message = f"{field} must be a non-empty text, a non-empty list of token ids, or a list of those"
    raise BadRequest(message, param=field)


def _is_id(token: Any) -> bool:
    return type(token) is int or (type(token) is float and token.is_integer())


def _max_tokens(body: Body, chat: bool, prompt_tokens: int, max_model_tokens: int) -> int:
    room = max_model_tokens - prompt_tokens
    wanted = _asked_tokens(body, chat)
    if wanted is None:
        wanted = max(1, room)
    if wanted < 1:
        raise BadRequest(f"max_tokens must be at least 1, not {wanted}", param="max_tokens")
    if problem := window_problem(prompt_tokens, max_model_tokens):
        raise BadRequest(problem, param="prompt")
    if wanted > room:
        message = (
            f"this model's maximum context length is {max_model_tokens} tokens, but {prompt_tokens} prompt tokens and "
            f"{wanted} output tokens were asked for: shorten the prompt or lower max_tokens"
        )
        raise BadRequest(message, param="max_tokens")
    if not 0 <= (body.min_tokens or 0) <= wanted:
        raise BadRequest(f"min_tokens must be between 0 and max_tokens ({wanted})", param="min_tokens")
    return wanted


def window_problem(prompt_tokens: int, max_model_tokens: int) -> str:
    """Why a prompt is too long; empty when it is not."""
    if prompt_tokens < max_model_tokens:
        return ""
    return (
        f"this model's maximum context length is {max_model_tokens} tokens, but the prompt has {prompt_tokens}, which "
        "leaves no room for an answer: shorten it"
    )


def _asked_tokens(body: Body, chat: bool) -> int | None:
    """What the body allows; None: all that the window leaves. Only chats know max_completion_tokens, as in vLLM."""
    if chat and body.max_completion_tokens is not None:
        return body.max_completion_tokens
    if body.max_tokens is None:
        return None if chat else DEFAULT_MAX_TOKENS
    if body.max_tokens == 0 and body.echo and not chat:
        return 1  # the prompt is scored in one step; here that step's token is said, too
    return body.max_tokens


def _output_tokens(body: Body, max_tokens: int, seed: int, call: ToolCall | None) -> int:
    """All that is allowed with ignore_eos, what a tool call takes, else a length that the seed decides, the same for
    the same body."""
    if body.ignore_eos:
        return max_tokens
    least = max(1, body.min_tokens or 0)
    if call is not None:
        return min(max_tokens, max(least, call.tokens))
    return least + zlib.crc32(seed.to_bytes(8, "little", signed=True)) % (max_tokens - least + 1)


def _thinking_tokens(body: Body, chat: bool, choice: Choice, sim: SimArgs, share: float, call: ToolCall | None) -> int:
    """How much of an answer is thinking: a share of what a chat says, unless its template is told not to think. It
    leaves room for a call."""
    most = max(0, choice.output_tokens - (call.tokens if call else 0))
    if sim.sim_thinking_tokens is not None:
        return min(sim.sim_thinking_tokens, most)
    thinks = chat and (body.chat_template_kwargs or {}).get("enable_thinking", True) is not False
    return min(most, int(share * choice.output_tokens)) if thinks else 0


def _sim_args(xargs: dict[str, Any]) -> SimArgs:
    try:
        return msgspec.convert(xargs, SimArgs, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"vllm_xargs: {error}", param="vllm_xargs") from None
