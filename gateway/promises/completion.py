"""A completion request's body: read once, only what the gateway needs, and forwarded as the client wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from slosgate.engines.messages import SloArgs
from slosgate.gateway.errors import InvalidRequest
from slosgate.gateway.promises.lax import laxly
from slosgate.gateway.replicas.prefixes import leading_blocks
from slosgate.planner.prefixes import NO_BLOCKS, Leading

Kind = Literal["completions", "chat"]


class _Body(Struct, frozen=True):
    """The fields that the gateway reads; the others pass through untouched."""

    model: str | None = None
    prompt: Raw | UnsetType = UNSET
    prompt_embeds: Raw | UnsetType = UNSET
    messages: list[Raw] | UnsetType | None = UNSET
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    truncate_prompt_tokens: int | None = None
    echo: bool | None = None
    n: int | None = None
    best_of: int | None = None
    ignore_eos: bool | None = None
    service_tier: Any = None
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    vllm_xargs: Raw | UnsetType = UNSET
    # What usage counts beside the texts.
    tools: Raw | UnsetType = UNSET
    functions: Raw | UnsetType = UNSET
    documents: Raw | UnsetType = UNSET
    chat_template: Raw | UnsetType = UNSET
    chat_template_kwargs: Raw | UnsetType = UNSET
    add_special_tokens: Raw | UnsetType = UNSET
    # What only the gateway may say.
    priority: Raw | UnsetType = UNSET
    request_id: Raw | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Completion:
    """One parsed request. `prompt_tokens` is exact for token ids and None for text, whose size is `prompt_bytes`."""

    kind: Kind
    body: bytes
    model: str  # "": the body names none
    stream: bool
    prompt_tokens: int | None
    prompt_bytes: int
    longest_tokens: int | None  # of a batch of token ids, the longest prompt: each has a window of its own
    truncate_tokens: int | None  # the replica cuts longer prompts down to so many
    max_tokens: int | None
    exact_output: bool  # the output will have max_tokens tokens: the end-of-sequence token is ignored
    sequences: int  # outputs generated at once; a guarantee covers one
    service_tier: str | None  # "": the body has something else there
    says_too_much: bool  # the body has fields that only the gateway may set
    prefix: Leading = NO_BLOCKS  # the prompt's leading blocks
    tool_bytes: int = 0  # schemas of tools, and documents: the chat template writes them into the prompt
    media: tuple[str, ...] = ()  # the type of each part that is no text; their bytes are not in `prompt_bytes`
    cache_key: str | None = None  # OpenAI's name for what belongs together
    thinks: bool = True  # False: its template is told not to
    reshaped: bool = False  # the client changes how the prompt is made: its own template, a cut, embeddings


# As lax as the replicas' own reading of numbers and truth values: 1e3 and "1000" are numbers of tokens there, too.
_DECODER = msgspec.json.Decoder(_Body, strict=False)
_INTEGERS = ("max_tokens", "max_completion_tokens", "truncate_prompt_tokens", "n", "best_of")
_TRUTHS = ("stream", "echo", "ignore_eos")
_ANY = msgspec.json.Decoder(dict[str, Any])
T = TypeVar("T")

BOM = b"\xef\xbb\xbf"  # some editors' files begin with it, and Python's reader of JSON skips it
OWN_FIELDS = ("priority", "request_id")  # of a body: only the gateway sets them
DEFAULT_MAX_TOKENS = 16  # of /v1/completions, for OpenAI and vLLM
EMBEDDING_BYTES = 2048  # base64 of one token's embedding, for each byte that its text would have had: a rough guess
LARGE = 1 << 30  # beyond any window, and planning can still count with it


def parse(body: bytes, kind: Kind) -> Completion:
    """Read a body. Raises InvalidRequest naming the field that is missing or wrong."""
    body = body.removeprefix(BOM)
    fields = _decode(body)
    media, prompt = _media_and_messages(fields) if kind == "chat" else ((), _prompt(fields))
    limit = _max_tokens(fields, kind)
    says_too_much = any(x is not UNSET for x in (fields.vllm_xargs, fields.priority, fields.request_id))
    if says_too_much:
        all_fields(body)  # it will have to be written anew: now is the time to say that it can't be
    truncate = fields.truncate_prompt_tokens
    if truncate is not None and truncate > 0 and prompt.tokens is not None:
        prompt = prompt.cut(truncate)
    return Completion(
        kind=kind,
        body=body,
        model=fields.model or "",
        stream=bool(fields.stream),
        prompt_tokens=prompt.tokens,
        prompt_bytes=prompt.bytes,
        longest_tokens=prompt.longest,
        truncate_tokens=truncate if truncate is not None and truncate != 0 else None,
        max_tokens=limit,
        exact_output=bool(fields.ignore_eos) and limit is not None,
        sequences=min(LARGE, prompt.count * max(fields.n or 1, fields.best_of or 1)),
        service_tier=_tier(fields.service_tier),
        says_too_much=says_too_much,
        prefix=_prefix(fields, kind, shared=prompt.count == 1 and not media),
        tool_bytes=sum(_written(part) for part in (fields.tools, fields.functions, fields.documents)),
        media=media,
        cache_key=fields.prompt_cache_key,
        thinks=_thinks(fields),
        reshaped=_reshaped(fields),
    )


def _tier(told: object) -> str | None:
    return told if told is None or isinstance(told, str) else ""


def _reshaped(fields: _Body) -> bool:
    """Whether the client changes how the replica makes the prompt."""
    told = (fields.chat_template, fields.chat_template_kwargs, fields.prompt_embeds, fields.add_special_tokens)
    return fields.truncate_prompt_tokens is not None or any(_written(part) for part in told)


class _TemplateArguments(Struct):
    enable_thinking: bool = True


def _thinks(fields: _Body) -> bool:
    """Whether a model that thinks may do it here."""
    arguments = _told(fields.chat_template_kwargs)
    if not arguments:
        return True
    try:
        told = msgspec.json.decode(arguments, type=_TemplateArguments)
    except msgspec.ValidationError:
        return True  # of a kind that the replica will refuse
    return told.enable_thinking


_EMPTY = (b"null", b"[]", b"{}")
# What a part without a type may hold, for vLLM.
_UNTYPED = (
    "image_url", "image_pil", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "audio_url",
    "input_audio", "video_url",
)  # fmt: skip
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "reasoning")


def _written(part: Raw | UnsetType) -> int:
    """Bytes of a field that says something."""
    return _plain_bytes(_told(part))


def _plain_bytes(raw: bytes) -> int:
    """Bytes of JSON, whether its writer escapes what is not ASCII (\\u4f60, 6 bytes for 3) or not."""
    return len(raw) - 3 * min(raw.count(b"\\u"), len(raw) // 6)


def _told(part: Raw | UnsetType) -> bytes:
    """A field that says something, as it was written."""
    raw = b"" if part is UNSET else bytes(part)
    return b"" if raw in _EMPTY else raw


class _Content(Struct):
    content: Raw = Raw(b"null")


def _media(fields: _Body) -> tuple[tuple[str, ...], int]:
    """The types of the messages' parts that are no text, and their bytes."""
    found: list[str] = []
    size = 0
    for message in fields.messages or ():
        for kind, length in _media_of(bytes(message)):
            found.append(kind)
            size += length
    return tuple(found), size


def _media_of(message: bytes) -> Iterator[tuple[str, int]]:
    if b"[" not in message:
        return
    try:
        content = bytes(msgspec.json.decode(message, type=_Content).content)
    except msgspec.ValidationError:
        return  # nothing that a replica accepts: it will say so
    for part in msgspec.json.decode(content, type=list[Raw]) if content.startswith(b"[") else ():
        kind = _kind(bytes(part))
        if kind not in _TEXT_PARTS:
            yield kind, len(bytes(part))


def _kind(part: bytes) -> str:
    """The type of a message's part; what no replica accepts is taken for text."""
    try:
        fields = msgspec.json.decode(part, type=dict[str, Raw])
        told = msgspec.json.decode(fields.get("type", b"null"), type=str | None)
    except msgspec.ValidationError:
        return "text"  # a bare string, say
    return next((name for name in _UNTYPED if name in fields), "text") if told is None else told


def _max_tokens(fields: _Body, kind: Kind) -> int | None:
    """How many tokens the answer may have, as vLLM reads the body; None: as many as the window leaves.

    A chat's max_completion_tokens goes before its max_tokens; /v1/completions knows max_tokens only, and takes null
    for its default.
    """
    name, limit = "max_tokens", fields.max_tokens
    if kind == "chat" and fields.max_completion_tokens is not None:
        name, limit = "max_completion_tokens", fields.max_completion_tokens
    if limit is None:
        return None if kind == "chat" else DEFAULT_MAX_TOKENS
    if limit == 0 and kind == "completions" and fields.echo:
        return 1  # only the prompt is asked for, with its logprobs: one step all the same
    if limit < 1:
        raise InvalidRequest(f"{name} must be at least 1, not {limit}", param=name)
    return min(limit, LARGE)


def _prefix(fields: _Body, kind: Kind, *, shared: bool) -> Leading:
    """The leading blocks; what is no text, or several prompts, shows in bytes otherwise than in tokens."""
    template = (_told(part) for part in (fields.chat_template, fields.chat_template_kwargs))
    salt = (kind, fields.model, fields.cache_salt, *(part.decode(errors="replace") for part in template))
    return leading_blocks(salt, _texts(fields, kind), telling=shared and fields.truncate_prompt_tokens is None)


def _texts(fields: _Body, kind: Kind) -> Iterator[bytes]:
    """The prompt as the client wrote it, in the order in which chat templates write it."""
    if kind == "completions":
        yield b"" if fields.prompt is UNSET else bytes(fields.prompt)
    else:
        yield from (_told(part) for part in (fields.tools, fields.functions, fields.documents))
        yield from (bytes(message) for message in fields.messages or ())


def _decode(body: bytes) -> _Body:
    try:
        return _read(body, _DECODER)
    except InvalidRequest as error:
        if error.code == "invalid_json":
            raise
        fields = laxly(all_fields(body), _INTEGERS, _TRUTHS)
        if not isinstance(fields.get("prompt_cache_key"), str):
            fields.pop("prompt_cache_key", None)  # nothing to a replica
        try:
            return _DECODER.decode(msgspec.json.encode(fields))
        except msgspec.ValidationError:
            raise error from None


def all_fields(body: bytes) -> dict[str, Any]:
    """Every field of a body. Raises InvalidRequest, also for numbers beyond what JSON's readers can hold."""
    return _read(body, _ANY)


def _read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at ")
        field = path.strip("`").removeprefix("$").removeprefix(".").partition("[")[0] or _not_finite(body)
        raise InvalidRequest(f"{field or 'the body'}: {message}", param=field) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise not_json(body, exc) from None


def not_json(body: bytes, problem: Exception) -> InvalidRequest:
    """What to say of a body that is no JSON: many writers of it also write NaN and Infinity."""
    name = _not_finite(body)
    if name is None:
        return InvalidRequest(f"the body is not valid JSON: {problem}", code="invalid_json")
    said = f"{name} is NaN or infinite, or has a number that is, and JSON has none; accepted: finite numbers"
    return InvalidRequest(said, param=name, code="invalid_json")


def _not_finite(body: bytes) -> str | None:
    """The first field with such a number, for readers who know them, as Python's."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for name, value in fields.items() if isinstance(fields, dict) else ():
        try:
            json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError):
            return str(name)
    return None


@dataclass(frozen=True, slots=True)
class _Prompt:
    tokens: int | None  # in all; None for text
    bytes: int
    longest: int | None = None  # tokens of the longest
    count: int = 1

    def cut(self, most: int) -> _Prompt:
        """As the replica cuts each prompt."""
        longest = min(most, self.longest or 0)
        return replace(self, tokens=min(self.tokens or 0, longest * self.count), longest=longest)


def _media_and_messages(fields: _Body) -> tuple[tuple[str, ...], _Prompt]:
    media, media_bytes = _media(fields)
    prompt = _messages(fields)
    return media, replace(prompt, bytes=max(0, prompt.bytes - media_bytes))


def _messages(fields: _Body) -> _Prompt:
    if not fields.messages:
        raise InvalidRequest("messages is missing: give at least one message", param="messages")
    return _Prompt(None, sum(_plain_bytes(bytes(message)) for message in fields.messages))


_FIRST_ITEM = re.compile(rb"\[\s*(.)")
_INNER_LIST = re.compile(rb"\[([^\[\]]*)\]")


def _prompt(fields: _Body) -> _Prompt:
    """What is known of a prompt. Ids are counted by their commas: the JSON was already checked."""
    raw = b"" if fields.prompt is UNSET else bytes(fields.prompt).strip()
    if fields.prompt_embeds is not UNSET and raw in (b"", b"null", b"[]", b'""'):
        # Nobody knows its length before the replica has unpacked it, so that nothing can be promised.
        return _Prompt(None, len(bytes(fields.prompt_embeds)) // EMBEDDING_BYTES + 1, count=LARGE)
    if fields.prompt is UNSET:
        raise InvalidRequest("prompt is missing: give a string or a list of token ids", param="prompt")
    if raw[:1] == b'"':
        return _Prompt(None, _plain_bytes(raw) - 2)
    first = _FIRST_ITEM.match(raw)
    if raw[:1] != b"[" or first is None or first[1] == b"]":
        raise InvalidRequest(
            "prompt must be a string, a list of token ids, or a non-empty list of those", param="prompt"
        )
    if first[1] == b'"':
        return _Prompt(None, _plain_bytes(raw), count=len(msgspec.json.decode(raw, type=list[Raw])))
    if first[1] == b"[":
        sizes = [inner.count(b",") + 1 for inner in _INNER_LIST.findall(raw)]
        return _Prompt(sum(sizes), len(raw), max(sizes, default=1), max(1, len(sizes)))
    tokens = raw.count(b",") + 1
    return _Prompt(tokens, len(raw), tokens)


def with_slo_args(completion: Completion, args: SloArgs) -> bytes:
    """The client's body plus `vllm_xargs`, spliced in before its last brace: nothing else is touched."""
    if completion.says_too_much:
        fields = without_claims(all_fields(completion.body))
        fields["vllm_xargs"] = fields.get("vllm_xargs", {}) | msgspec.to_builtins(args)
        return msgspec.json.encode(fields)
    end = completion.body.rindex(b"}")
    return b'%b,"vllm_xargs":%b}' % (completion.body[:end], msgspec.json.encode(args))


def without_claims(fields: dict[str, Any]) -> dict[str, Any]:
    """A body's fields without what only the gateway may say; the client's other `vllm_xargs` stay."""
    kept = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
    if "vllm_xargs" in kept:
        own = kept["vllm_xargs"] if isinstance(kept["vllm_xargs"], dict) else {}
        kept["vllm_xargs"] = {name: value for name, value in own.items() if not name.lower().startswith("slo_")}
    return kept
