"""What is said of values in Redis that can't be used: enough, and no more."""

from __future__ import annotations

import logging

import pytest

from slosgate.engines.door import REMEMBERED, SILENCE_S, Door


def test_many_unreadable_keys_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    door = Door(lambda: clock[0])
    with caplog.at_level(logging.WARNING, "slosgate"):
        for clock[0] in (0.0, 1.0, 2.0):
            for number in range(5 * REMEMBERED):
                assert door.read(f"key-{number}", b"\xc1", int) is None
        assert len(caplog.messages) == REMEMBERED
        assert caplog.messages[0].startswith("key-0 is ignored: ")
        assert "more keys" in caplog.messages[-1]
        clock[0] += SILENCE_S
        door.read("key-0", b"\xc1", int)
        door.read("key-0", b"\xc1", int)
    assert len(caplog.messages) == REMEMBERED + 1
