"""Chat templates: what a model's server makes of messages and tools before it tokenizes them.

Templates are rendered as Hugging Face's transformers do: Jinja in a sandbox that changes nothing, blocks trimmed, with
`raise_exception`, `tojson` that keeps Unicode and order, and the tokenizer's special tokens by name.
"""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

TEMPLATE_FILE = "chat_template.jinja"
SETTINGS_FILE = "tokenizer_config.json"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Settings(msgspec.Struct):
    chat_template: Any = None
    bos_token: Any = None
    eos_token: Any = None
    unk_token: Any = None
    sep_token: Any = None
    pad_token: Any = None
    cls_token: Any = None
    mask_token: Any = None


class ChatTemplate:
    """One model's template, with its special tokens."""

    def __init__(self, text: str, special: dict[str, str]) -> None:
        sandbox = import_module("jinja2.sandbox").ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        sandbox.filters["tojson"] = _to_json
        sandbox.globals["raise_exception"] = _refuse
        self._template = sandbox.from_string(text)
        self._special = special

    def rendered(self, body: bytes) -> str | None:
        """The prompt of a chat request; None for contents that servers join each in a way of its own, and for what
        the template refuses."""
        fields: dict[str, Any] = msgspec.json.decode(body)
        messages = fields.get("messages")
        if not isinstance(messages, list) or not all(_is_plain(message) for message in messages):
            return None
        if fields.get("documents") or fields.get("functions") or fields.get("tool_choice") == "none":
            return None
        goes_on = bool(fields.get("continue_final_message"))
        if goes_on:
            return None
        try:
            return str(
                self._template.render(
                    messages=messages,
                    tools=fields.get("tools") or None,
                    add_generation_prompt=fields.get("add_generation_prompt", True) is not False,
                    **self._special,
                )
            )
        except Exception:  # a template may fail of anything; the replica will say of what
            return None


def beside(tokenizer: Path) -> ChatTemplate | None:
    """The template that is published beside a tokenizer.json, if there is one and the jinja2 package is there.

    One that tells the date is none: two machines may disagree about it.
    """
    settings_file, template_file = tokenizer.parent / SETTINGS_FILE, tokenizer.parent / TEMPLATE_FILE
    settings = _Settings()
    if settings_file.is_file():
        settings = msgspec.json.decode(settings_file.read_bytes(), type=_Settings)
    text = template_file.read_text(encoding="utf-8") if template_file.is_file() else settings.chat_template
    if not isinstance(text, str) or "strftime_now" in text or find_spec("jinja2") is None:
        return None
    special = {name: token for name in SPECIAL if (token := _token(getattr(settings, name)))}
    return ChatTemplate(text, special)


def _token(value: Any) -> str:
    """A special token is a text, or an object that holds one."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _is_plain(message: Any) -> bool:
    """Whether servers agree on what the template gets: arguments of calls, for one, some hand on parsed."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("content"), str)
        and not message.get("tool_calls")
        and not message.get("function_call")
    )


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ValueError(message)
