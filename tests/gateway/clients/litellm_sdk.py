"""The litellm package as a client: python -m tests.gateway.clients.litellm_sdk URL MODEL"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the internet at import

import litellm

ASK = [{"role": "user", "content": "What is the weather in Bern?"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def main(url: str, model: str) -> dict[str, Any]:
    ours: dict[str, Any] = {"model": f"openai/{model}", "api_base": url, "api_key": "none", "max_retries": 0}
    whole = litellm.completion(messages=ASK, tools=[WEATHER], **ours)
    stream = litellm.completion(messages=ASK, stream=True, stream_options={"include_usage": True}, **ours)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    made = litellm.embedding(input=["a"], encoding_format="float", **ours)
    try:
        litellm.completion(messages=ASK, extra_headers={"x-slo-class": "gold"}, **ours)
        refusal = ""
    except litellm.BadRequestError as error:
        refusal = type(error).__name__
    return {
        "arguments": json.loads(whole.choices[0].message.tool_calls[0].function.arguments),
        "streamed": said,
        "embedding": made.data[0]["embedding"],
        "refusal": refusal,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
