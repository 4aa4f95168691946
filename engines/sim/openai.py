"""The OpenAI API as the simulated server speaks it: request bodies in, response bodies and stream chunks out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from slosgate.engines.messages import SloArgs, read_slo

TOKEN = " tok"  # the text of every token
DEFAULT_MAX_TOKENS = 16  # of /v1/completions
CHARACTERS_PER_TOKEN = 4  # how text prompts are counted: there is no tokenizer here


class BadRequest(Exception):
    """What the client asked for can't be served; becomes an OpenAI error body."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Body(msgspec.Struct):
    """The fields of a completion or chat completion that this server reads; others are ignored, as vLLM does."""

    model: str | None = None
    prompt: Any = None
    messages: Any = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    max_completion_tokens: int | None = None
    truncate_prompt_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    echo: bool = False
    n: int = 1
    vllm_xargs: dict[str, Any] | None = None


class SimArgs(msgspec.Struct):
    """What a client may tell the simulation about a request, in `vllm_xargs`: a real engine sees it by itself."""

    sim_session: str = ""  # requests of one session share their prompt's beginning
    sim_cached_tokens: int = 0  # how much of it
    sim_acceptance: float | None = None  # chance that a drafted token is accepted, instead of the server's own


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, understood."""

    id: str
    chat: bool
    stream: bool
    include_usage: bool
    prompt_tokens: int
    output_tokens: int  # what the simulated model will say
    max_tokens: int
    slo: SloArgs
    sim: SimArgs

    @property
    def finish_reason(self) -> str:
        return "length" if self.output_tokens == self.max_tokens else "stop"

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
        }


def understand(data: bytes, *, chat: bool, request_id: str, model: str, max_model_tokens: int, seed: int) -> Ask:
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
    if body.n != 1:
        raise BadRequest("n must be 1: this server answers with one choice", param="n")
    prompt_tokens = _chat_tokens(body.messages) if chat else _prompt_tokens(body.prompt)
    if body.truncate_prompt_tokens is not None and body.truncate_prompt_tokens > 0:
        prompt_tokens = min(prompt_tokens, body.truncate_prompt_tokens)
    max_tokens = _max_tokens(body, chat, prompt_tokens, max_model_tokens)
    xargs = body.vllm_xargs or {}
    return Ask(
        id=request_id,
        chat=chat,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        prompt_tokens=prompt_tokens,
        output_tokens=_output_tokens(body, max_tokens, seed ^ zlib.crc32(data)),
        max_tokens=max_tokens,
        slo=read_slo(xargs, request_id),
        sim=_sim_args(xargs),
    )


def _prompt_tokens(prompt: Any) -> int:
    """Tokens of a prompt: text, token ids, or a list with one of those."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return math.ceil(len(prompt) / CHARACTERS_PER_TOKEN)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return len(prompt)
    raise BadRequest("prompt must be one non-empty text or one non-empty list of token ids", param="prompt")


def _chat_tokens(messages: Any) -> int:
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("messages must be a non-empty list of objects with role and content", param="messages")
    return sum(4 + math.ceil(_characters(m.get("content")) / CHARACTERS_PER_TOKEN) for m in messages)


def _characters(content: Any) -> int:
    if isinstance(content, list):
        return sum(len(str(part.get("text", ""))) for part in content if isinstance(part, dict))
    return len(content) if isinstance(content, str) else 0


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
    if body.max_tokens is msgspec.UNSET:
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
        self._token = self._event([self._choice(TOKEN, None)])

    def opening(self) -> bytes:
        """What a stream begins with."""
        if not self._ask.chat:
            return b""
        return self._event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def tokens(self, count: int) -> bytes:
        """Events of `count` tokens, one each; none of them the last."""
        return self._token * count

    def closing(self) -> bytes:
        """The last token's event, usage if it was asked for, and the end."""
        last = self._event([self._choice(TOKEN, self._ask.finish_reason)])
        usage = self._event([], usage=self._ask.usage) if self._ask.include_usage else b""
        return last + usage + b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        text = TOKEN * self._ask.output_tokens
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._ask.finish_reason}
        choice |= {"message": {"role": "assistant", "content": text}} if self._ask.chat else {"text": text}
        return msgspec.json.encode(self._head | {"choices": [choice], "usage": self._ask.usage})

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        said = {"delta": {"content": text}} if self._ask.chat else {"text": text}
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}

    def _event(self, choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + msgspec.json.encode(self._chunk_head | {"choices": choices, **more}) + b"\n\n"
