"""What is installed: a small wheel with one top-level package, also from the sdist, beside whatever lies around."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate import __version__
from slosgate.bench import cli as slosbench
from slosgate.bench.gateway_bench.backend import MODEL, Connection, Ticker
from slosgate.engines import profiles
from slosgate.engines.channel import ReplicaInfo, registered
from slosgate.engines.door import Door
from slosgate.engines.store import connect
from slosgate.engines.vllm.link import Link
from slosgate.gateway import cli as slosgate
from tests.processes import free_port, running_valkey

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def built_wheel(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    return file


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_a_wheel_is_small_and_holds_one_package(wheel: Path) -> None:
    names = names_in(wheel)
    assert wheel.stat().st_size < 1_000_000
    assert {name.partition("/")[0] for name in names} == {"slosgate", f"slosgate-{__version__}.dist-info"}


def test_a_wheel_holds_code_types_and_settings_but_nothing_measured(wheel: Path) -> None:
    names = names_in(wheel)
    assert {"slosgate/py.typed", "slosgate/bench/scenarios.toml", "slosgate/planner/profile.py"} <= set(names)
    assert "slosgate/bench/results.py" in names
    measured = [name for name in names if "/results/" in name or "/measurements/" in name]
    assert not measured
    assert not [name for name in names if name.endswith((".jsonl", ".gz", ".pyc"))]


def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert sorted(names_in(built_wheel(sdist, tmp_path))) == sorted(names_in(wheel))


def test_both_commands_say_their_version() -> None:
    assert CliRunner().invoke(slosgate.app, ["--version"]).output == f"slosgate {__version__}\n"
    assert CliRunner().invoke(slosbench.app, ["--version"]).output == f"slosbench {__version__}\n"


async def test_the_courier_starts_among_folders_named_like_our_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vLLM is started where its user stands: the folders there are not what the courier imports."""
    for name in ("bench", "engines", "slosgate", "traces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of the working directory')")
    monkeypatch.chdir(tmp_path)
    port = free_port()
    healthy = await asyncio.get_running_loop().create_server(lambda: Connection(Ticker(1.0)), "127.0.0.1", port)
    with running_valkey() as server:
        async with healthy, connect(server.url) as redis, asyncio.timeout(30):
            link = Link(server.url, replica_at(port))
            try:
                while not (await registered(redis, Door())).infos:  # noqa: ASYNC110  # another process, no event to wait for
                    await asyncio.sleep(0.05)
            finally:
                await asyncio.to_thread(link.close)


def replica_at(port: int) -> ReplicaInfo:
    return ReplicaInfo(
        name="among-folders", url=f"http://127.0.0.1:{port}", model=MODEL, profile=profiles.load("h200-opt-13b"),
        engine="vllm", policy="slosgate", started_at_s=time.time(), supports_plans=True,
    )  # fmt: skip
