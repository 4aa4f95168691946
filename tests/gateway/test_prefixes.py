"""A prompt goes where its beginning has been before, unless it would wait longer there."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from slosgate.gateway.promises.completion import Kind, parse
from slosgate.gateway.replicas.prefixes import BLOCK_BYTES, MOST_BLOCKS, leading_blocks
from slosgate.planner.prefixes import Leading
from tests.gateway.conftest import Start
from tests.gateway.scripted import good
from tests.processes import Process

SYSTEM = "You are the assistant of a long and careful company. " * 120


def blocks(*parts: bytes, salt: str = "") -> tuple[int, ...]:
    return leading_blocks([salt], parts).hashes


def test_blocks_stand_for_all_the_text_before_them() -> None:
    one, other = b"a" * BLOCK_BYTES, b"b" * BLOCK_BYTES
    assert blocks(one + other)[0] == blocks(one, one)[0]
    assert blocks(one + other)[1] != blocks(other, other)[1]
    assert blocks(one) != blocks(one, salt="salt")
    assert blocks(one[1:]) == ()
    assert len(blocks(one * (MOST_BLOCKS + 9))) == MOST_BLOCKS
    assert min(blocks(one * 100)) >= 0


def shared(first: dict[str, Any], second: dict[str, Any]) -> int:
    """Leading blocks that two bodies have in common."""
    kind: Kind = "chat" if "messages" in first else "completions"
    prefixes = [parse(json.dumps({"model": "m", **body}).encode(), kind).prefix for body in (first, second)]
    return sum(a == b for a, b in zip(*(prefix.hashes for prefix in prefixes), strict=False))


def test_tools_stand_before_the_messages_and_token_ids_are_a_text_too() -> None:
    tools = [{"type": "function", "function": {"name": f"tool{n}", "description": SYSTEM}} for n in range(2)]
    hello, bye = ([{"role": "user", "content": text}] for text in ("hello", "bye"))
    assert shared({"tools": tools, "messages": hello}, {"tools": tools, "messages": bye}) > 20
    other = [{**tools[0]}, {**tools[1], "type": "other"}]
    assert 10 < shared({"tools": tools, "messages": hello}, {"tools": other, "messages": hello}) < 20
    ids = list(range(1000, 1500))
    assert shared({"prompt": ids}, {"prompt": [*ids, 1, 2]}) == len(json.dumps(ids)) // BLOCK_BYTES
    assert shared({"prompt": ids, "cache_salt": "a"}, {"prompt": ids, "cache_salt": "b"}) == 0
    assert shared({"prompt": ids}, {"prompt": ids, "model": "an-adapter"}) == 0


def test_what_bytes_dont_tell_is_not_counted_on() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2000}}
    seen = parse(json.dumps({"messages": [{"role": "user", "content": [picture]}]}).encode(), "chat").prefix
    assert seen != Leading()
    assert not seen.telling


@pytest.mark.parametrize("slo", [{}, {"x-slo-ttft-ms": "1800", "x-slo-tpot-ms": "100"}])
async def test_a_conversation_stays_where_it_began(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, slo: dict[str, str]
) -> None:
    async def ask(question: str) -> str:
        body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": question}]}
        async with client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=slo) as answer:
            return answer.headers["x-slo-replica"]

    async with replica("a", good(0.0)) as first, replica("b", good(0.0)) as second:
        first.busy_for(60)
        await first.reported()
        assert await ask(f"{SYSTEM} Who are you?") == second.name
        first.busy_for(0)
        await first.reported()
        assert await ask("Who are you?") == first.name  # what shares nothing goes to the first of two idle ones
        assert await ask(f"{SYSTEM} And who am I?") == second.name
        second.busy_for(60)
        await second.reported()
        assert await ask(f"{SYSTEM} And who is that?") == first.name
