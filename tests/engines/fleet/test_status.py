"""The table of `slosgate status` where it has much to say."""

from __future__ import annotations

from rich.console import Console

from slosgate.engines.fleet.status import Group, MemberStatus, Status, table


def shown(*groups: Group) -> list[str]:
    """Its lines in a terminal of 80 columns."""
    console = Console(width=80)
    status = Status(name="local", address="http://127.0.0.1:8000", busy=False, stuck="", groups=groups)
    with console.capture() as capture:
        console.print(table(status))
    return capture.get().splitlines()


def member(name: str, state: str = "ready", retry_in_s: float = 0.0) -> MemberStatus:
    return MemberStatus(
        name=name,
        state=state,
        gpus=("0", "1"),
        failures=0,
        looping=False,
        why="",
        retry_in_s=retry_in_s,
        load=12,
        pid=1,
    )


def test_a_model_that_needs_more_replicas_cuts_no_figure() -> None:
    members = (member("local-chat-1"), member("local-chat-2", "waiting", retry_in_s=60.0))
    lines = shown(
        Group(
            name="chat", wanted=12, members=members, model="meta-llama/Llama-3.1-8B-Instruct", needed=140,
            headroom=120, attained=1.0, kept=1.0,
        )
    )  # fmt: skip
    assert all(len(line) <= 80 for line in lines)
    words = " ".join(" ".join(lines).split())
    for whole in ("GPUs load headroom attained kept", "1 of 12 ready, 120 100.0 % 100.0 %", "140 needed"):
        assert whole in words
    assert "ended, again in" in words
    assert words.count("…") == 1  # the model's name
