"""Embeddings of the simulated model: each input is computed like a prompt; its vector depends on what it is alone."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from slosgate.engines.messages import read_slo
from slosgate.engines.sim.openai import Ask, BadRequest, Choice, SimArgs, decoded, prompts_of, window_problem
from slosgate.engines.sim.prompts import Prompt

DIMENSIONS = 256
MOST_DIMENSIONS = 65_536


class EmbeddingBody(msgspec.Struct):
    """The fields of /v1/embeddings that this server reads."""

    model: str | None = None
    input: Any = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingAsk:
    """A request, understood."""

    work: Ask  # what the engine computes
    inputs: tuple[Any, ...]
    dimensions: int
    base64: bool


def understand_embeddings(data: bytes, *, request_id: str, model: str, max_model_tokens: int) -> EmbeddingAsk:
    """Read a body. Raises BadRequest with a sentence that names the field."""
    body = decoded(data, EmbeddingBody, model)
    if body.encoding_format not in (None, "float", "base64"):
        message = f"encoding_format must be float or base64, not {body.encoding_format!r}"
        raise BadRequest(message, param="encoding_format")
    if body.dimensions is not None and not 1 <= body.dimensions <= MOST_DIMENSIONS:
        message = f"dimensions must be between 1 and {MOST_DIMENSIONS}, not {body.dimensions}"
        raise BadRequest(message, param="dimensions")
    prompts = prompts_of(body.input, "input", body.truncate_prompt_tokens)
    if problem := window_problem(max(prompt.tokens for prompt in prompts), max_model_tokens):
        raise BadRequest(problem, param="input")
    several = isinstance(body.input, list) and isinstance(body.input[0], str | list)
    return EmbeddingAsk(
        work=_work(request_id, prompts),
        inputs=tuple(body.input) if several else (body.input,),
        dimensions=body.dimensions or DIMENSIONS,
        base64=body.encoding_format == "base64",
    )


def _work(request_id: str, prompts: tuple[Prompt, ...]) -> Ask:
    return Ask(
        id=request_id,
        chat=False,
        stream=False,
        include_usage=False,
        choices=tuple(Choice(prompt, 1, 1) for prompt in prompts),
        prompt_tokens=sum(prompt.tokens for prompt in prompts),
        slo=read_slo({}, request_id),
        sim=SimArgs(),
    )


def embeddings(ask: EmbeddingAsk, model: str, created_s: int) -> bytes:
    """The answer's body."""
    listed = [
        {"object": "embedding", "index": index, "embedding": _written(vector(text, ask.dimensions), ask)}
        for index, text in enumerate(ask.inputs)
    ]
    tokens = ask.work.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    head = {"id": ask.work.id, "object": "list", "created": created_s, "model": model}
    return msgspec.json.encode(head | {"data": listed, "usage": usage})


def vector(text: Any, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A vector of length 1."""
    drawn = np.random.default_rng(zlib.crc32(msgspec.json.encode(text))).standard_normal(dimensions)
    return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)


def _written(values: np.ndarray[Any, np.dtype[np.float32]], ask: EmbeddingAsk) -> str | list[float]:
    return base64.b64encode(values.tobytes()).decode() if ask.base64 else values.tolist()
