"""Overflow: what can't be guaranteed here goes to a provider outside, through the litellm package (extra `litellm`).

litellm knows the providers' dialects; what comes back has OpenAI's shape again. It takes seconds to import, so that
happens when a gateway starts whose classes overflow, and never otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec
from starlette.types import Send

from slosgate.gateway.config import Config, OverflowConfig
from slosgate.gateway.errors import GatewayError, InvalidRequest, RateLimited, Unavailable, error_event
from slosgate.gateway.http.headers import retry_after_s
from slosgate.gateway.promises.completion import Completion, all_fields
from slosgate.gateway.promises.contract import Contract
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.promises.tries import trying

LATER_S = 1.0  # what a client waits when the provider is full and doesn't say for how long
REFUSED = (400, 413, 422)  # the request itself can't be served there

# What a client's body may say to a provider. litellm takes more from its caller, where requests go and with which
# credentials among it: none of that may come from a client, and vLLM's own fields mean nothing elsewhere.
_COMMON = {
    "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop", "stream",
    "stream_options", "temperature", "top_p", "user",
}  # fmt: skip
_FIELDS = {
    "completions": _COMMON | {"best_of", "echo", "prompt", "suffix"},
    "chat": _COMMON | {
        "audio", "function_call", "functions", "max_completion_tokens", "messages", "modalities", "parallel_tool_calls",
        "prediction", "reasoning_effort", "response_format", "tool_choice", "tools", "top_logprobs", "verbosity",
        "web_search_options",
    },
}  # fmt: skip


class Overflow:
    """The providers that a configuration's classes overflow to. Imports litellm if there are any."""

    def __init__(self, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        self._providers = _used(config)
        self._litellm = load_litellm() if self._providers else None
        self._clock = clock

    @property
    def known(self) -> frozenset[str]:
        return frozenset(self._providers)

    def applied(self, contract: Contract, completion: Completion) -> Contract:
        """The contract as it holds for this request: token ids mean nothing to a provider with another tokenizer."""
        provider = self._providers.get(contract.overflow)
        if provider is None or provider.token_ids or completion.prompt_tokens is None:
            return contract
        return replace(contract, when_full="best-effort")

    async def answer(self, exchange: Exchange, send: Send) -> None:
        """Have a provider answer. Raises GatewayError while the client has seen nothing."""
        provider = self._providers[exchange.overflow]
        answered = self._stream if exchange.completion.stream else self._whole
        try:
            with trying(exchange.tries, "overflow", exchange.overflow, provider.api_base, self._clock):
                await answered(exchange, await self._ask(exchange, provider), send)
        except ProviderFailed as failure:
            exchange.outcome = "overflow-failed"
            if not exchange.begun:
                raise failure.error from failure
            exchange.failure = exchange.failure or failure.error.message
            await send({"type": "http.response.body", "body": error_event(failure.error), "more_body": False})

    async def _ask(self, exchange: Exchange, provider: OverflowConfig) -> Any:
        fields = all_fields(exchange.completion.body)
        kept = {name: value for name, value in fields.items() if name in _FIELDS[exchange.completion.kind]}
        function = "acompletion" if exchange.completion.kind == "chat" else "atext_completion"
        try:
            return await getattr(self._litellm, function)(
                **kept,
                model=provider.model,
                api_base=provider.api_base or None,
                api_key=os.environ[provider.api_key_env] if provider.api_key_env else None,
                timeout=provider.timeout_s,
                drop_params=True,  # what a provider has no word for is left out
                num_retries=0,
                max_retries=0,
            )
        except Exception as exc:  # litellm wraps most of what can happen under it, but not all
            raise ProviderFailed(_translated(exc, exchange.overflow, self._clock())) from exc

    async def _whole(self, exchange: Exchange, answer: Any, send: Send) -> None:
        body = _with_tier(answer.model_dump_json(exclude_none=True).encode(), exchange)
        seen = exchange.note_whole(body, self._clock())
        exchange.outcome = "failed" if seen.error else "completed"
        await _begin(exchange, send, b"application/json", str(len(body)).encode())
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, exchange: Exchange, chunks: Any, send: Send) -> None:
        try:
            async for chunk in _translating(chunks, exchange.overflow, self._clock):
                event = chunk.model_dump_json(exclude_none=True, exclude_unset=True).encode()
                exchange.note_events(b"data: %b\n\n" % event, self._clock())
                if not exchange.begun:
                    event = _with_tier(event, exchange)
                    await _begin(exchange, send, b"text/event-stream")
                await send({"type": "http.response.body", "body": b"data: %b\n\n" % event, "more_body": True})
        finally:
            await _close(chunks)
        if not exchange.begun:
            raise ProviderFailed(_unavailable(exchange.overflow, "its stream was empty"))
        exchange.end(self._clock())
        exchange.outcome = "failed" if exchange.failure else "completed"
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


class ProviderFailed(Exception):
    """The provider did not answer; `error` is what the client is told."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(error.message)
        self.error = error
        self.code = error.code


def problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the providers that classes overflow to, as (path, message): litellm knows its own."""
    used = _used(config)
    if used and find_spec("litellm") is None:
        yield ("overflow",), "overflow needs the litellm package: pip install 'slosgate[litellm]'"
        return
    litellm = load_litellm() if used else None
    for name, provider in used.items():
        if provider.api_key_env and provider.api_key_env not in os.environ:
            yield ("overflow", name, "api_key_env"), f"the environment has no variable {provider.api_key_env}"
        try:
            getattr(litellm, "get_llm_provider")(provider.model, api_base=provider.api_base or None)  # noqa: B009
        except Exception:  # litellm raises what its lookup of the provider raises
            yield (
                ("overflow", name, "model"),
                f"litellm knows no such provider: {provider.model!r}; accepted: PROVIDER/MODEL, as openai/gpt-4.1-mini",
            )


def _used(config: Config) -> dict[str, OverflowConfig]:
    names = {c.overflow for c in config.classes.values() if c.when_full == "overflow"}
    return {name: provider for name, provider in config.overflow.items() if name in names}


def load_litellm() -> Any:
    # Without this the import waits for a price list from the network, which nobody here asks for.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm: Any = import_module("litellm")
    litellm.suppress_debug_info = True  # it prints hints to stdout at every error
    litellm.telemetry = False
    return litellm


async def _translating(chunks: Any, name: str, clock: Callable[[], float]) -> AsyncIterator[Any]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as exc:
        raise ProviderFailed(_translated(exc, name, clock())) from exc


def _translated(exc: Exception, name: str, now_s: float) -> GatewayError:
    """One of litellm's exceptions as ours. What the operator must mend (401, 403, 404) is no client's fault."""
    status = getattr(exc, "status_code", 500)
    message = str(getattr(exc, "message", exc))
    if status in REFUSED:
        return InvalidRequest(f"overflow provider {name!r} refused the request: {message}", code="overflow_refused")
    if status == 429:
        return RateLimited(
            f"overflow provider {name!r} is full: {message}",
            retry_after_s=_retry_after_s(exc, now_s),
            code="overflow_rate_limited",
        )
    if status in (401, 403, 404):
        return _unavailable(name, f"it answered HTTP {status}; its configuration must be mended")
    return _unavailable(name, type(exc).__name__)


def _unavailable(name: str, reason: str) -> Unavailable:
    return Unavailable(f"overflow provider {name!r} failed: {reason}", code="overflow_unavailable")


def _retry_after_s(exc: Exception, now_s: float) -> float:
    headers = getattr(getattr(exc, "response", None), "headers", None) or {}
    told = retry_after_s({str(name).lower(): str(value) for name, value in headers.items()}, now_s)
    return LATER_S if told is None else told


def _with_tier(body: bytes, exchange: Exchange) -> bytes:
    """The tier that was served, if the client asked for one, in place of what the provider says about its own."""
    if exchange.completion.service_tier is None:
        return body
    fields = msgspec.json.decode(body)
    return msgspec.json.encode({**fields, "service_tier": exchange.contract.served_tier(guaranteed=False)})


async def _close(chunks: Any) -> None:
    """A client that hangs up must not leave the provider generating."""
    # litellm's wrapper for text completions can't be closed itself, only what it wraps.
    await (chunks if hasattr(chunks, "aclose") else chunks.completion_stream).aclose()


async def _begin(exchange: Exchange, send: Send, kind: bytes, length: bytes = b"") -> None:
    exchange.begun = True
    exchange.status = 200
    headers = [(b"content-type", kind), *exchange.answer_headers()]
    headers.append((b"content-length", length) if length else (b"cache-control", b"no-cache"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
