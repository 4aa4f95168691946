"""vLLM's OpenAPI schema, as far as requests go: the paths and types that 0.25.1 to 0.33.0 publish in /openapi.json.

Written down by hand and without what one field may not be beside another, which that schema doesn't tell either. Sizes
are bounded, so that a simulated replica with a window of 2,048 tokens can serve whatever conforms.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "maxLength": 40}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 20}
ID: Schema = {"type": "integer", "minimum": 0, "maximum": 50_000}
IDS: Schema = {"type": "array", "items": ID, "minItems": 1, "maxItems": 30}
SIDE: Schema = {"enum": ["left", "right", None]}
PRIORITY: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
SEED: Schema = PRIORITY
CHOICES: Schema = {"type": "integer", "minimum": 1, "maximum": 3}
TRUNCATE: Schema = {"type": "integer", "minimum": -1, "maximum": 2**63 - 1}


def some(items: Schema, *, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": 4}


def mapping(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values, "maxProperties": 3}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def record(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


FUNCTION = record(("name",), name=TEXT, description=or_null(TEXT), parameters=or_null(ANYTHING))
TOOL = record(("function",), type={"const": "function"}, function=FUNCTION)
CALL = record(
    ("id", "type", "function"),
    id=TEXT, type={"const": "function"}, function=record(("name", "arguments"), name=TEXT, arguments=TEXT),
)  # fmt: skip
PART: Schema = {
    "oneOf": [
        record(("type", "text"), type={"const": "text"}, text=TEXT),
        record(("type", "image_url"), type={"const": "image_url"}, image_url=record(("url",), url=TEXT)),
        record(
            ("type", "input_audio"),
            type={"const": "input_audio"}, input_audio=record(("data", "format"), data=TEXT, format={"const": "wav"}),
        ),
    ]
}  # fmt: skip
CONTENT: Schema = {"anyOf": [TEXT, some(PART)]}
MESSAGE: Schema = {
    "anyOf": [
        record(("role", "content"), role={"enum": ["system", "developer", "user"]}, content=CONTENT, name=TEXT),
        record(
            ("role",),
            role={"const": "assistant"}, content=or_null(CONTENT), tool_calls=some(CALL), reasoning=or_null(TEXT),
        ),
        record(("role", "content", "tool_call_id"), role={"const": "tool"}, content=CONTENT, tool_call_id=TEXT),
    ]
}  # fmt: skip
RESPONSE_FORMAT: Schema = {
    "anyOf": [
        record(("type",), type={"enum": ["text", "json_object"]}),
        record(
            ("type", "json_schema"),
            type={"const": "json_schema"}, json_schema=record(("name",), name=TEXT, schema=or_null(ANYTHING)),
        ),
    ]
}  # fmt: skip
EXTRA: Schema = {"anyOf": [TEXT, INTEGER, NUMBER]}

SAMPLING: dict[str, Schema] = {
    "frequency_penalty": or_null(NUMBER),
    "logit_bias": or_null(mapping(NUMBER)),
    "presence_penalty": or_null(NUMBER),
    "seed": or_null(SEED),
    "stop": or_null({"anyOf": [TEXT, some(TEXT)]}),
    "temperature": or_null(NUMBER),
    "top_p": or_null(NUMBER),
    "user": or_null(TEXT),
    "use_beam_search": BOOLEAN,
    "top_k": or_null(INTEGER),
    "min_p": or_null(NUMBER),
    "repetition_penalty": or_null(NUMBER),
    "length_penalty": NUMBER,
    "stop_token_ids": or_null(some(INTEGER)),
    "include_stop_str_in_output": BOOLEAN,
    "ignore_eos": BOOLEAN,
    "min_tokens": {"const": 0},
    "skip_special_tokens": BOOLEAN,
    "spaces_between_special_tokens": BOOLEAN,
    "truncate_prompt_tokens": or_null(TRUNCATE),
    "truncation_side": SIDE,
    "allowed_token_ids": or_null(some(INTEGER)),
    "prompt_logprobs": or_null(COUNT),
    "response_format": or_null(RESPONSE_FORMAT),
    "structured_outputs": or_null(ANYTHING),
    "add_special_tokens": BOOLEAN,
    "priority": PRIORITY,
    "request_id": TEXT,
    "return_tokens_as_token_ids": or_null(BOOLEAN),
    "return_token_ids": or_null(BOOLEAN),
    "return_token_offsets": or_null(BOOLEAN),
    "cache_salt": or_null({"type": "string", "minLength": 1, "maxLength": 40}),
    "kv_transfer_params": or_null(ANYTHING),
    "repetition_detection": or_null(ANYTHING),
    "thinking_token_budget": or_null(COUNT),
}


def _generation(model: str, required: tuple[str, ...], **fields: Schema) -> Schema:
    """A body that streams, with or without options, or one that doesn't."""
    fields = {"model": {"enum": [model, None]}, **SAMPLING, **fields}
    options = record(include_usage=or_null(BOOLEAN), continuous_usage_stats=or_null(BOOLEAN))
    streams = record((*required, "stream"), **fields, stream={"const": True}, stream_options=or_null(options))
    return {"anyOf": [record(required, **fields, stream={"enum": [False, None]}), streams]}


def generation(model: str) -> Schema:
    """/v1/completions and /v1/chat/completions."""
    tokens = or_null({"type": "integer", "minimum": 1, "maximum": 20})
    text = {"type": "string", "minLength": 1, "maxLength": 200}
    completion = _generation(
        model, ("prompt",),
        prompt={"anyOf": [text, IDS, some(IDS, least=1), some(text, least=1)]},
        echo=or_null(BOOLEAN), logprobs=or_null(COUNT), max_tokens=tokens, n=CHOICES,
        suffix=or_null(TEXT), vllm_xargs=or_null(mapping(EXTRA)),
    )  # fmt: skip
    spoken: dict[str, Schema] = dict(
        messages=some(MESSAGE, least=1), logprobs=or_null(BOOLEAN), top_logprobs=or_null(COUNT), max_tokens=tokens,
        max_completion_tokens=tokens, n=or_null(CHOICES), parallel_tool_calls=or_null(BOOLEAN),
        include_reasoning=BOOLEAN,
        reasoning_effort={"enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max", None]},
        bad_words=some(TEXT), echo=BOOLEAN, add_generation_prompt=BOOLEAN, continue_final_message=BOOLEAN,
        documents=or_null(some(mapping(TEXT))), chat_template=or_null(TEXT), chat_template_kwargs=or_null(ANYTHING),
        media_io_kwargs=or_null(mapping(ANYTHING)), mm_processor_kwargs=or_null(ANYTHING),
        return_prompt_text=or_null(BOOLEAN), return_assistant_tokens_mask=BOOLEAN,
        vllm_xargs=or_null(mapping({"anyOf": [EXTRA, some(EXTRA)]})),
    )  # fmt: skip
    chosen = ("messages", "tools", "tool_choice")  # a choice needs tools, and names one of them
    tool: Schema = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    named: Schema = {"type": "function", "function": {"name": "look_up"}}
    free = _generation(model, ("messages",), **spoken, tools=or_null(some(TOOL)), tool_choice={"enum": ["none", None]})
    some_tool = _generation(
        model, chosen, **spoken, tools=some(TOOL, least=1), tool_choice={"enum": ["auto", "required"]}
    )
    one_tool = _generation(model, chosen, **spoken, tools={"const": [tool]}, tool_choice={"const": named})
    chat: Schema = {"anyOf": [*free["anyOf"], *some_tool["anyOf"], *one_tool["anyOf"]]}
    return _document({"/v1/completions": completion, "/v1/chat/completions": chat})


def others(model: str) -> Schema:
    """What is handed through."""
    named: dict[str, Schema] = {"model": {"enum": [model, None]}}
    pooled = named | {
        "user": or_null(TEXT), "truncate_prompt_tokens": or_null(TRUNCATE), "truncation_side": SIDE,
        "request_id": TEXT, "priority": PRIORITY, "mm_processor_kwargs": or_null(ANYTHING),
        "use_activation": or_null(BOOLEAN),
    }  # fmt: skip
    texts: Schema = {"anyOf": [TEXT, IDS, some(IDS, least=1), some(TEXT, least=1)]}
    embedding = record(
        ("input",), **pooled, input=texts, dimensions=or_null(COUNT), encoding_format={"enum": ["float", "base64"]}
    )
    score = record(
        ("text_1", "text_2"), **pooled, text_1={"anyOf": [TEXT, some(TEXT)]}, text_2={"anyOf": [TEXT, some(TEXT)]}
    )
    rerank = record(("query", "documents"), **pooled, query=TEXT, documents=some(TEXT), top_n=COUNT)
    anthropic = record(
        ("model", "messages", "max_tokens"),
        model={"const": model}, max_tokens={"type": "integer", "minimum": 1}, stream=or_null(BOOLEAN),
        messages=some(record(("role", "content"), role={"enum": ["user", "assistant"]}, content=TEXT)),
        system=or_null(TEXT), metadata=or_null(ANYTHING), stop_sequences=or_null(some(TEXT)),
        tools=or_null(some(record(("name", "input_schema"), name=TEXT, input_schema=ANYTHING))),
    )  # fmt: skip
    responses = record(
        ("input",), **named, input={"anyOf": [TEXT, some(MESSAGE)]}, instructions=or_null(TEXT),
        max_output_tokens=or_null(COUNT), stream=or_null(BOOLEAN), store=or_null(BOOLEAN),
        metadata=or_null(mapping(TEXT)),
        service_tier={"enum": ["auto", "default", "flex", "scale", "priority"]}, tools=some(ANYTHING),
        truncation={"enum": ["auto", "disabled", None]}, request_id=TEXT, priority=PRIORITY,
    )  # fmt: skip
    tokenize = record(("prompt",), **named, prompt=TEXT, add_special_tokens=BOOLEAN, return_token_strs=or_null(BOOLEAN))
    detokenize = record(("tokens",), **named, tokens=IDS)
    paths = {
        **dict.fromkeys(("/v1/embeddings", "/pooling", "/classify"), embedding),
        **dict.fromkeys(("/score", "/v1/score"), score),
        **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), rerank),
        **dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens"), anthropic),
        "/v1/responses": responses,
        "/tokenize": tokenize,
        "/detokenize": detokenize,
    }
    document = _document(paths)
    for path in ("/v1/models", "/health", "/version"):
        document["paths"][path] = {"get": {"responses": {"200": {"description": "OK"}}}}
    return document


def _document(bodies: dict[str, Schema]) -> Schema:
    answers = {"200": {"description": "OK"}}
    paths = {
        path: {"post": {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                        "responses": answers}}
        for path, body in bodies.items()
    }  # fmt: skip
    return {"openapi": "3.1.0", "info": {"title": "vLLM", "version": "0.33.0"}, "paths": paths}
