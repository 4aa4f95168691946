"""A reasoning model that thinks fast and answers at reading speed: python thinking.py BASE_URL MODEL"""

import os
import sys
import time

from openai import OpenAI


def main() -> None:
    base_url, model = sys.argv[1:]
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    began = time.monotonic()
    thought, said = [], []
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "How many primes are there below 100?"}],
        max_tokens=80,
        stream=True,
        extra_headers={"x-slo-ttft-ms": "2000", "x-slo-think-tpot-ms": "30", "x-slo-tpot-ms": "100"},
    )
    for chunk in stream:
        delta = chunk.choices[0].delta if chunk.choices else None
        if delta is None:
            continue
        now = time.monotonic() - began
        # vLLM calls it `reasoning`, older versions and other servers `reasoning_content`.
        if getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None):
            thought.append(now)
        elif delta.content:
            said.append(now)
    print(f"{stream.response.headers['x-slo-admission']}: {len(thought)} tokens of thinking, {len(said)} of the answer")


if __name__ == "__main__":
    main()
