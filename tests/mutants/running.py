"""Trying a mutant: its tests on a copy of the checkout that has the bug in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutant import Mutant, NoLongerApplies

TIMEOUT_S = 400.0  # a bug that keeps a test from ever ending was noticed, too
LEFT_OUT = (".git", ".venv*", "out", "results", "measurements", ".hypothesis", ".*_cache", "docs", "*.nbi", "*.nbc")
FAILED = 1  # pytest's exit code for tests that fail; others mean that they did not run


class Verdict(Enum):
    CAUGHT = "caught"
    SURVIVED = "survived"
    STALE = "no longer applies"
    ERROR = "tests did not run"


@dataclass(frozen=True, slots=True)
class Outcome:
    mutant: Mutant
    verdict: Verdict
    took_s: float
    said: str = ""  # the end of what pytest said

    @property
    def line(self) -> str:
        what = f"{self.verdict.value:17} {self.took_s:4.0f} s  {self.mutant.file}: {self.mutant.breaks}"
        return what if self.verdict in (Verdict.CAUGHT, Verdict.SURVIVED) else f"{what}\n{self.said}"


def sound(mutants: Sequence[Mutant], root: Path) -> str:
    """What fails of the mutants' tests without any bug; empty when all pass."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = copied(root, Path(folder))
        wanted = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
        code, said = run(place, tuple(wanted), all_of_them=True)
        return "" if code == 0 else said


def tried(mutants: Sequence[Mutant], root: Path, jobs: int) -> Iterator[Outcome]:
    """Each mutant's outcome as it comes; so many side by side, each in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as threads:
        places: SimpleQueue[Path] = SimpleQueue()
        for number in range(min(jobs, len(mutants))):
            places.put(copied(root, Path(folder) / str(number)))

        def outcome(mutant: Mutant) -> Outcome:
            place = places.get()
            try:
                return judged(mutant, place)
            finally:
                places.put(place)

        for done in as_completed([threads.submit(outcome, mutant) for mutant in mutants]):
            yield done.result()


def copied(root: Path, folder: Path) -> Path:
    """A copy of the checkout."""
    shutil.copytree(root, folder, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    return folder


def judged(mutant: Mutant, place: Path) -> Outcome:
    """Put the bug in, run the tests, and take it out again."""
    began_s = time.monotonic()
    file = place / mutant.file
    try:
        text = mutant.applied(place)
    except NoLongerApplies as stale:
        return Outcome(mutant, Verdict.STALE, 0.0, str(stale))
    before, stat = file.read_text(), file.stat()
    file.write_text(text)
    try:
        code, said = run(place, mutant.tests)
    finally:
        file.write_text(before)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    verdict = {0: Verdict.SURVIVED, FAILED: Verdict.CAUGHT}.get(code, Verdict.ERROR)
    return Outcome(mutant, verdict, time.monotonic() - began_s, said)


def run(place: Path, tests: Sequence[str], *, all_of_them: bool = False) -> tuple[int, str]:
    """Run tests in a copy until one fails: (pytest's exit code, the end of what it said). A timeout is a failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.mutants.plain",
        "--hypothesis-seed=0",
    ]
    command += [*tests] if all_of_them else ["-x", *tests]
    timeout_s = 10 * TIMEOUT_S if all_of_them else TIMEOUT_S
    env = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_DISABLE_JIT": "1"}
    # A session of its own, so that servers which a test started end with it.
    process = subprocess.Popen(
        command, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return FAILED, f"{said[-2000:]}\nnothing after {timeout_s:.0f} s"
    return process.returncode, said[-2000:]
