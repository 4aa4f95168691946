"""A completion request's body: read once, only what the gateway needs, and forwarded as the client wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from slosgate.engines.messages import SloArgs
from slosgate.gateway.errors import InvalidRequest
from slosgate.gateway.replicas.prefixes import Hashes, leading_blocks

Kind = Literal["completions", "chat"]


class _Body(Struct, frozen=True):
    """The fields that the gateway reads; the others pass through untouched."""

    model: str | None = None
    prompt: Raw | UnsetType = UNSET
    messages: list[Raw] | UnsetType | None = UNSET
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    ignore_eos: bool | None = None
    service_tier: str | None = None
    cache_salt: str | None = None
    vllm_xargs: Raw | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Completion:
    """One parsed request. `prompt_tokens` is exact for token ids and None for text, whose size is `prompt_bytes`."""

    kind: Kind
    body: bytes
    model: str
    stream: bool
    prompt_tokens: int | None
    prompt_bytes: int
    max_tokens: int | None
    exact_output: bool  # the output will have max_tokens tokens: the end-of-sequence token is ignored
    sequences: int  # outputs generated at once; a guarantee covers one
    service_tier: str | None
    has_xargs: bool
    prefix: Hashes = ()  # the prompt's leading blocks


_DECODER = msgspec.json.Decoder(_Body)


def parse(body: bytes, kind: Kind) -> Completion:
    """Read a body. Raises InvalidRequest naming the field that is missing or wrong."""
    fields = _decode(body)
    if not fields.model:
        raise InvalidRequest("model is missing: name the model to use", param="model")
    if kind == "chat":
        prompt_tokens, prompt_bytes, prompts = _messages(fields)
    else:
        prompt_tokens, prompt_bytes, prompts = _prompt(fields)
    limit = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
    if limit is not None and limit < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, not {limit}", param="max_tokens")
    return Completion(
        kind=kind,
        body=body,
        model=fields.model,
        stream=bool(fields.stream),
        prompt_tokens=prompt_tokens,
        prompt_bytes=prompt_bytes,
        max_tokens=limit,
        exact_output=bool(fields.ignore_eos) and limit is not None,
        sequences=prompts * max(fields.n or 1, fields.best_of or 1),
        service_tier=fields.service_tier,
        has_xargs=fields.vllm_xargs is not UNSET,
        prefix=leading_blocks((kind, fields.cache_salt), _texts(fields, kind)),
    )


def _texts(fields: _Body, kind: Kind) -> Iterator[bytes]:
    """The prompt as the client wrote it."""
    if kind == "completions":
        yield bytes(fields.prompt or b"")
    else:
        yield from (bytes(message) for message in fields.messages or ())


def _decode(body: bytes) -> _Body:
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at ")
        field = path.strip("`").removeprefix("$").removeprefix(".") or None
        raise InvalidRequest(f"{field or 'the body'}: {message}", param=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}", code="invalid_json") from None


def _messages(fields: _Body) -> tuple[None, int, int]:
    if not fields.messages:
        raise InvalidRequest("messages is missing: give at least one message", param="messages")
    return None, sum(len(bytes(message)) for message in fields.messages), 1


_FIRST_ITEM = re.compile(rb"\[\s*(.)")


def _prompt(fields: _Body) -> tuple[int | None, int, int]:
    """(tokens if they are ids, bytes, prompts). Ids are counted by their commas: the JSON was already checked."""
    if fields.prompt is UNSET:
        raise InvalidRequest("prompt is missing: give a string or a list of token ids", param="prompt")
    raw = bytes(fields.prompt).strip()
    if raw[:1] == b'"':
        return None, len(raw) - 2, 1
    first = _FIRST_ITEM.match(raw)
    if raw[:1] != b"[" or first is None or first[1] == b"]":
        raise InvalidRequest(
            "prompt must be a string, a list of token ids, or a non-empty list of those", param="prompt"
        )
    if first[1] == b'"':
        return None, len(raw), len(msgspec.json.decode(raw, type=list[Raw]))
    if first[1] == b"[":
        return raw.count(b",") + 1, len(raw), raw.count(b"[") - 1
    return raw.count(b",") + 1, len(raw), 1


def with_slo_args(completion: Completion, args: SloArgs) -> bytes:
    """The client's body plus `vllm_xargs`, spliced in before its last brace: nothing else is touched."""
    if completion.has_xargs:
        return _merged(completion.body, args)
    end = completion.body.rindex(b"}")
    return b'%b,"vllm_xargs":%b}' % (completion.body[:end], msgspec.json.encode(args))


def _merged(body: bytes, args: SloArgs) -> bytes:
    """For a client with `vllm_xargs` of its own: they stay, except that only the gateway may set slo_* ones."""
    fields: dict[str, Any] = msgspec.json.decode(body)
    own = fields["vllm_xargs"] if isinstance(fields["vllm_xargs"], dict) else {}
    kept = {name: value for name, value in own.items() if not name.startswith("slo_")}
    fields["vllm_xargs"] = kept | msgspec.to_builtins(args)
    return msgspec.json.encode(fields)
