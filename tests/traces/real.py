"""The real traces, for tests that need them: $SLOSBENCH_TRACES, else shared/traces beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slosgate.traces.sources import FOLDER_VARIABLE, Places


def real_places(cache: Path) -> Places:
    """Skips the test when there are no real traces."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "traces"
    folder = Path(os.environ.get(FOLDER_VARIABLE) or beside)
    if not folder.is_dir():
        pytest.skip(f"needs real traces: set {FOLDER_VARIABLE} to their folder")
    return Places(folder=folder, cache=cache, offline=True)


def no_places(cache: Path) -> Places:
    """A machine without any trace, and without a network."""
    return Places(folder=None, cache=cache, offline=True)
