"""Hardware profiles as files: what is misspelt or absurd is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from slosgate.engines import profiles


def _file(folder: Path, **changed: Any) -> str:
    path = folder / "p.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(profiles.load("h200-opt-13b")) | changed))
    return str(path)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert profiles.find(_file(tmp_path)) == profiles.load("h200-opt-13b")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kv_block": 3}, "unknown field 'kv_block'"),
        ({"perf": {"terms": [{"constant_ms": 3}]}}, "unknown field 'constant_ms'"),
        ({"perf": {"terms": [{}]}}, "its iterations take no time"),
        ({"perf": {"terms": []}}, "length >= 1"),
        ({"max_drafts": 10**9}, "<= 64"),
        ({"block_tokens": 0}, ">= 1"),
        ({"kv_blocks": -5}, ">= 1"),
    ],
)
def test_what_is_misspelt_or_absurd_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        profiles.find(_file(tmp_path, **changed))
