"""`slosbench profile run` against a live replica whose true profile is known: the simulated engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from slosgate.bench.cli import app
from slosgate.engines import profiles
from slosgate.engines.sim.realtime import faster
from slosgate.planner.profile import HardwareProfile
from tests.engines.conftest import Valkey
from tests.engines.serving import sim_engine

SPEED = 2.0
SHAPES = ((1, 500, 1), (64, 20_000, 64), (256, 80_000, 256), (400, 400, 1), (300, 6_000, 30))


@pytest.fixture(scope="module")
def state() -> Iterator[Valkey]:
    valkey = Valkey()
    yield valkey
    valkey.stop()


def test_a_live_replica_is_measured(state: Valkey, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    with sim_engine("measured", state.url, "--speed", str(SPEED), log=tmp_path / "log") as url:
        done = CliRunner().invoke(
            app, ["profile", "run", "--url", url, "--redis", state.url, "--seconds", "9", "--out", str(out)]
        )
    assert done.exit_code == 0, done.output
    found = msgspec.json.decode(out.read_bytes(), type=HardwareProfile)
    true = faster(profiles.load("h200-opt-13b"), SPEED)
    assert (found.name, found.kv_blocks, found.max_sequences) == ("mine", true.kv_blocks, true.max_sequences)
    assert "profile run against measured (sim)" in found.source
    for shape in SHAPES:
        assert found.perf.iteration_s(*shape) == pytest.approx(true.perf.iteration_s(*shape), rel=0.1)
    assert 0 <= found.request_overhead_s < 0.1


def test_a_replica_that_is_not_there_is_named(state: Valkey) -> None:
    done = CliRunner().invoke(app, ["profile", "run", "--url", "http://127.0.0.1:9", "--redis", state.url])
    assert done.exit_code == 1
    assert "--url 'http://127.0.0.1:9' is not registered in this Redis, which lists no replica" in done.output
