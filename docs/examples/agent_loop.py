"""An agent's loop with guarantees, by plain openai calls: python agent_loop.py BASE_URL MODEL

Every call names its session, and states what the loop needs of it. What was promised stands in the answer's headers.
A gateway with API keys finds one in OPENAI_API_KEY.
"""

import os
import sys
from uuid import uuid4

from openai import OpenAI

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "The text of a file.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
]
MOST_CALLS = 5


def time_left(headers) -> str:
    """How long the loop has left; none is told where the key may not set it."""
    left_ms = headers.get("x-slo-session-left-ms")
    if left_ms is None:
        return f"no limit on the loop (the gateway ignored {headers.get('x-slo-ignored', 'nothing')})"
    return f"{float(left_ms) / 1000:.0f} s left"


def main() -> None:
    base_url, model = sys.argv[1:]
    client = OpenAI(
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        default_headers={
            "x-slo-session": str(uuid4()),  # these calls belong together
            "x-slo-session-e2e-ms": "120000",  # all of them are to be over in two minutes
            "x-slo-ttft-ms": "2000",
            "x-slo-tpot-ms": "100",
        },
    )
    messages = [
        {"role": "system", "content": "You fix bugs. Read before you write. " * 40},
        {"role": "user", "content": "The tests of this repository fail. Find out why."},
    ]
    for number in range(MOST_CALLS):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=messages, tools=TOOLS, max_tokens=60
        )
        answer = raw.parse()
        details = answer.usage.prompt_tokens_details
        print(
            f"call {number + 1}: {raw.headers['x-slo-admission']} on {raw.headers['x-slo-replica']}, "
            f"{details.cached_tokens if details else 0} of {answer.usage.prompt_tokens} prompt tokens cached, "
            f"{time_left(raw.headers)}"
        )
        said = answer.choices[0].message
        messages.append(said.model_dump(exclude_none=True))
        for call in said.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}: done"})
        if not said.tool_calls:  # a model that calls no tool is asked to go on
            messages.append({"role": "user", "content": "Go on."})


if __name__ == "__main__":
    main()
