"""What the log says, how often, and that what `serve` prints works as it stands."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slosgate.gateway.cli import app
from slosgate.gateway.reports import events
from slosgate.gateway.reports.logs import JsonLines, Sparing
from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import good
from tests.processes import Process, free_port, wait_for


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.lines]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """What is left of the log of this test, with windows of 0.4 s."""
    with keeping(window_s=0.4) as handler:
        yield handler


@contextmanager
def keeping(*, window_s: float) -> Iterator[Kept]:
    handler, logger = Kept(), logging.getLogger("slosgate")
    sparing = Sparing(handler, window_s=window_s)
    before, logger.level = logger.level, logging.INFO
    logger.addHandler(sparing)
    yield handler
    logger.removeHandler(sparing)
    logger.setLevel(before)


async def test_a_replica_that_comes_and_goes_fills_no_log(kept: Kept) -> None:
    """Each thing is said twice, then once a window with how often it was; the last state is always told."""
    for number in range(50):
        events.say(events.ReplicaLost(replica="flaps", why=f"lost {number}", under_way=0))
    events.say(events.ReplicaLost(replica="other", why="once", under_way=0))
    assert [m.partition(";")[0].rpartition(": ")[2] for m in kept.messages] == ["lost 0", "lost 1", "once"]
    await eventually(lambda: len(kept.lines) == 4)
    assert "lost 49" in kept.messages[3]
    assert kept.messages[3].endswith("(the last of 48 more)")
    for number in range(3):  # the next window is twice as long
        events.say(events.ReplicaLost(replica="flaps", why=f"again {number}", under_way=0))
    await asyncio.sleep(0.5)
    assert len(kept.lines) == 4
    await eventually(lambda: len(kept.lines) == 5)


async def test_what_no_longer_repeats_is_told_at_once_again(kept: Kept) -> None:
    for _ in range(2):
        events.say(events.RedisAway(why="gone"))
    await asyncio.sleep(0.5)
    events.say(events.RedisAway(why="gone again"))
    assert len(kept.lines) == 3


def test_a_failure_hides_no_other_under_the_same_heading() -> None:
    """What tells them apart is their type and where they come from, also within a group; not what they say."""
    with keeping(window_s=600) as kept:
        for number in range(3):
            for failing in (ask_for_nothing, divide, divide_elsewhere, fail_in_a_group):
                try:
                    failing(number)
                except Exception:
                    logging.getLogger("slosgate").exception("it failed")
        traces = [json.loads(line)["traceback"] for line in kept.lines]
    for failing in (ask_for_nothing, divide, divide_elsewhere, fail_in_a_group):
        assert sum(f"in {failing.__name__}\n" in trace for trace in traces) == 2  # the third is held back


def ask_for_nothing(number: int) -> None:
    raise LookupError(f"number {number}")


def divide(number: int) -> None:
    raise ZeroDivisionError(f"number {number}")


def divide_elsewhere(number: int) -> None:
    raise ZeroDivisionError(f"number {number}")


def fail_in_a_group(number: int) -> None:
    try:
        raise KeyError(number)
    except KeyError as error:
        raise ExceptionGroup("several", [error]) from None


def test_json_has_the_fields_of_an_event_and_the_traceback_of_a_failure(kept: Kept) -> None:
    events.say(events.RedisBack(away_s=2.5))
    try:
        raise ValueError("told")
    except ValueError:
        logging.getLogger("slosgate").exception("%s failed", "it")
    event, failure = (json.loads(line) for line in kept.lines)
    assert (event["level"], event["event"], event["away_s"]) == ("info", "redis_back", 2.5)
    assert event["time"].endswith("Z")
    assert (failure["event"], failure["message"]) == ("log", "it failed")
    assert "ValueError: told" in failure["traceback"]


async def test_a_replica_that_plans_do_not_reach_is_told(gateway: Process, replica: Start) -> None:
    """Its reports name a plan that is no newer than before."""
    async with replica("deaf", good()) as deaf:
        deaf.deaf = True
        await eventually(lambda: f"{deaf.name} has had no new plan for" in gateway.log.read_text())
        deaf.deaf = False
        await eventually(lambda: f"{deaf.name} gets plans again" in gateway.log.read_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--log-format", "xml"], "must be one of text, json, not 'xml'"),
        (["--log-level", "loud"], "must be one of info, warning, error, not 'loud'"),
    ],
)
def test_unknown_options_of_the_log_are_refused(options: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["serve", *options])
    assert found.exit_code == 2
    assert said in " ".join(found.output.replace("│", " ").split())


@contextmanager
def ran(command: list[str], folder: Path, name: str) -> Iterator[Path]:
    """A program, as long as the block lasts, and where its output is."""
    log = folder / name
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(30)


def told(said: Path, event: str) -> list[dict[str, Any]]:
    """Events of one kind in a log in JSON."""
    return [line for line in map(json.loads, said.read_text().splitlines()) if line["event"] == event]


def valkey_of(said: Path) -> int:
    """The process of the Valkey whose socket the start names."""
    socket = told(said, "started")[0]["redis"].removeprefix("unix://").encode()
    return next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if socket in p.read_bytes())


def printed(said: Path) -> tuple[str, str]:
    """The commands in the output of `serve`: one that adds a replica, one that asks."""
    lines = [line.strip() for line in said.read_text().splitlines()]
    engine, ask = (next(line for line in lines if line.startswith(word)) for word in ("slosgate engine", "curl"))
    return engine, ask


def in_fields(said: Path) -> tuple[str, str]:
    """The same from a log in JSON."""
    event = told(said, "started")[0]
    assert event["address"] in event["ask"]
    return event["add_replica"], event["ask"]


@pytest.mark.parametrize(("form", "commands"), [("text", printed), ("json", in_fields)])
def test_what_serve_prints_works_as_it_stands(
    form: str, commands: Callable[[Path], tuple[str, str]], tmp_path: Path
) -> None:
    """Both commands are taken from the output and run."""
    serve = [sys.executable, "-m", "slosgate", "serve", "--port", str(free_port()), "--log-format", form]
    with ran(serve, tmp_path, "gateway") as said:
        wait_for(lambda: "curl" in said.read_text())
        engine, ask = commands(said)
        command = [sys.executable, "-m", *shlex.split(engine)]
        with ran(command, tmp_path, "one"), ran(command, tmp_path, "two"):  # twice: their ports don't collide
            wait_for(lambda: said.read_text().count("follows plans") == 2)
            environment = {**os.environ, "no_proxy": "*"}
            answer = subprocess.run(
                ["sh", "-c", ask], check=True, capture_output=True, timeout=60, env=environment
            ).stdout
    assert json.loads(answer)["choices"][0]["text"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_private_valkey_that_is_started_again_is_told(tmp_path: Path) -> None:
    serve = [sys.executable, "-m", "slosgate", "serve", "--port", "0", "--log-format", "json"]
    with ran(serve, tmp_path, "gateway") as said:
        wait_for(lambda: bool(told(said, "started")))
        os.kill(valkey_of(said), signal.SIGKILL)
        wait_for(lambda: bool(told(said, "valkey_restarted")))
        event = told(said, "valkey_restarted")[0]
    assert (event["level"], event["exit_code"]) == ("warning", -signal.SIGKILL)
    assert event["message"] == "the private Valkey ended with exit code -9 and is started again, empty"
