"""LangChain as a client: python -m tests.gateway.clients.langchain_sdk URL MODEL"""

from __future__ import annotations

import json
import sys
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

QUESTION = "What is the weather in Bern?"


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def main(url: str, model: str) -> dict[str, Any]:
    ours: dict[str, Any] = {"model": model, "base_url": url, "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(default_headers={"x-slo-ttft-ms": "5000"}, **ours)
    with_tools = chat.bind_tools([weather])
    # Without `check_embedding_ctx_length` it counts tokens by a table of OpenAI's models, which it downloads.
    embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **ours)
    return {
        "calls": _calls(with_tools.invoke(QUESTION)),
        "streamed_calls": _calls(reduce(add, with_tools.stream(QUESTION))),
        "streamed": "".join(str(part.content) for part in chat.stream(QUESTION)),
        "embeddings": embeddings.embed_documents(["a", "b"]),
    }


def _calls(message: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for call in message.tool_calls]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
