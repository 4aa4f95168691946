"""The same loop in LangChain, and so in LangGraph: python langchain_loop.py BASE_URL MODEL

What an agent framework needs is one thing: headers of its own for the client of each run.
"""

import os
import sys
from uuid import uuid4

from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI


def main() -> None:
    base_url, model = sys.argv[1:]
    chat = ChatOpenAI(
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        model=model,
        max_tokens=40,
        include_response_headers=True,
        default_headers={"x-slo-session": str(uuid4()), "x-slo-ttft-ms": "2000", "x-slo-tpot-ms": "100"},
    )
    messages: list = [HumanMessage("Plan a walk through Bern. " * 60)]
    for number in range(3):
        answer: AIMessage = chat.invoke(messages)
        headers = answer.response_metadata["headers"]
        print(f"call {headers['x-slo-session-calls']}: {headers['x-slo-admission']} on {headers['x-slo-replica']}")
        messages += [answer, HumanMessage(f"And then, for the {number + 1}. time?")]


if __name__ == "__main__":
    main()
