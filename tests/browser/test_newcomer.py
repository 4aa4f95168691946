"""A newcomer's hour: the wheel, what `serve` prints, an openai client, keys and classes, and a replica that dies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.deploy.prometheus import RULES, firing, running_prometheus, total
from tests.docs.blocks import ROOT, blocks
from tests.docs.playing import Player
from tests.processes import wait_for
from tests.test_packaging import built_wheel

DOCS = ROOT / "docs"
KERNELS = ("planner", "engines/sim", "engines/sim/policies")  # folders with compiled code

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `slosgate` and `python` are once the wheel is installed: in an environment that has its dependencies."""
    folder = tmp_path_factory.mktemp("newcomer")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--force-reinstall", str(built_wheel(ROOT, folder))], check=True)
    for package in KERNELS:
        take_compiled(ROOT / package, site / "slosgate" / package)
    return python.parent


def take_compiled(source: Path, target: Path) -> None:
    """Spare the minutes of compiling: machine code of the same source does, if the source is as old."""
    newest = max(file.stat().st_mtime for file in source.glob("*.py"))
    for file in target.glob("*.py"):
        os.utime(file, (newest, newest))
    (target / "__pycache__").mkdir(exist_ok=True)
    for file in (source / "__pycache__").glob("*.nb[ic]"):
        shutil.copy2(file, target / "__pycache__")


def test_what_is_installed_is_the_wheel(programs: Path, tmp_path: Path) -> None:
    with Player(tmp_path, programs) as terminal:
        where = terminal.run("python -c 'import slosgate; print(slosgate.__file__)'")
        assert Path(where.strip()).is_relative_to(programs.parent)
        assert terminal.run("slosgate --version") == terminal.run("slosbench --version").replace("bench", "gate")


def test_five_minutes(programs: Path, tmp_path: Path) -> None:
    """docs/start.md, with both commands that `serve` prints pasted as they are."""
    page = list(blocks(DOCS / "start.md"))
    serve, *rest = [block for block in page if block.file or (block.language == "sh" and not block.needs)]
    (shown,) = (block.text for block in page if block.text.startswith("HTTP/1.1 200 OK"))
    with Player(tmp_path, programs) as terminal:
        terminal.play([serve])
        printed = [line.strip() for line in terminal.servers[0].log.read_text().splitlines() if line.startswith("    ")]
        engine, ask = printed
        terminal.run(engine)
        assert '"text"' in terminal.run(ask)
        said = terminal.play(rest)
    for line in shown.splitlines():  # how long it takes is this machine's
        assert (line.partition(": ")[0] if "-predicted-" in line else line) in said, line


@pytest.fixture
def terminal(programs: Path, tmp_path: Path) -> Iterator[Player]:
    """A gateway with the classes and keys of docs/classes.md, the admin key of docs/operate.md, and one replica."""
    (admin,) = (block.text for block in blocks(DOCS / "operate.md") if block.text.startswith("[admin]"))
    with Player(tmp_path, programs) as player:
        for block in blocks(DOCS / "classes.md"):
            player.play([block])
            if block.file == "slosgate.toml":
                with (tmp_path / block.file).open("a") as file:
                    file.write(admin)
        yield player


def test_a_replica_dies_and_the_runbook_helps(terminal: Player, tmp_path: Path, browser: Browser) -> None:
    gateway, replica = terminal.servers
    rules = tmp_path / "rules.yml"
    rules.write_text(re.sub(r"for: \d+[ms]", "for: 1s", RULES.read_text()))
    with running_prometheus(gateway.url, tmp_path, rules, key="test-key") as prometheus:
        page = live_page(browser, gateway.url)
        expect(page.locator("[data-replica]")).to_have_count(1)
        wait_for(lambda: total(prometheus, "slosgate_replicas") == 1)
        assert not firing(prometheus) & {"SlosgateReplicaLost", "SlosgateNoReplica"}
        replica.kill()
        wait_for(lambda: {"SlosgateReplicaLost", "SlosgateNoReplica"} <= firing(prometheus))
        expect(page.get_by_text("No replica is registered: every request is answered with 503.").first).to_be_visible()
        assert " is lost: its heartbeat has ended" in gateway.log.read_text()
        assert "Start it\nagain: it registers by itself." in runbook("SlosgateReplicaLost")
        (engine,) = (c for block in blocks(DOCS / "classes.md") for c in block.commands if "slosgate engine" in c)
        terminal.type(engine)
        wait_for(lambda: "SlosgateNoReplica" not in firing(prometheus))
        expect(page.locator("[data-replica]")).to_have_count(1)
        assert terminal.run("python tiers.py") == "priority\n"
        page.close()


def live_page(browser: Browser, url: str) -> Page:
    page = browser.new_page()
    page.goto(f"{url}/dashboard")
    page.get_by_label("Admin key").fill("admin-key")
    page.keyboard.press("Enter")
    return page


def runbook(alert: str) -> str:
    """What docs/operate.md says to do, found as the alert's own link does."""
    (link,) = re.findall(rf"runbook: docs/operate.md#({alert.lower()})$", RULES.read_text(), re.MULTILINE)
    sections = re.split(r"^### ", (DOCS / "operate.md").read_text(), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.lower().startswith(f"{link}\n"))
    return section
