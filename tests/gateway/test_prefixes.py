"""A prompt goes where its beginning has been before, unless it would wait longer there."""

from __future__ import annotations

import aiohttp
import pytest

from slosgate.gateway.replicas.prefixes import BLOCK_BYTES, MOST_BLOCKS, Prefixes, leading_blocks
from tests.gateway.conftest import Start
from tests.gateway.scripted import good
from tests.processes import Process

SYSTEM = "You are the assistant of a long and careful company. " * 120


def test_blocks_stand_for_all_the_text_before_them() -> None:
    one, other = b"a" * BLOCK_BYTES, b"b" * BLOCK_BYTES
    assert leading_blocks("", [one + other])[0] == leading_blocks("", [one, one])[0]
    assert leading_blocks("", [one + other])[1] != leading_blocks("", [other, other])[1]
    assert leading_blocks("", [one]) != leading_blocks("salt", [one])
    assert leading_blocks("", [one[1:]]) == ()
    assert len(leading_blocks("", [one * (MOST_BLOCKS + 9)])) == MOST_BLOCKS


def test_of_what_was_sent_the_least_recent_is_forgotten_first_and_of_a_prompt_its_end() -> None:
    seen = Prefixes(limit=4)
    seen.note((1, 2, 3))
    seen.note((7, 8))
    assert seen.shared((1, 2, 3)) == 2
    assert seen.shared((7, 8, 9)) == 2
    seen.note((11, 12, 13))
    assert (seen.shared((1, 2)), seen.shared((7, 8)), seen.shared((11, 12, 13))) == (0, 1, 3)


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
