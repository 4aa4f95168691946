from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from slosgate.engines import profiles
from slosgate.gateway.cli import app

CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}  # fmt: skip


def test_a_folder_and_a_gpu_make_a_profile_that_every_command_takes(tmp_path: Path) -> None:
    (tmp_path / "my-llama").mkdir()
    (tmp_path / "my-llama" / "config.json").write_text(json.dumps(CONFIG))
    out = tmp_path / "mine.json"
    command = ["profile", "derive", "--model", str(tmp_path / "my-llama"), "--gpu", "NVIDIA H200", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    derived, shipped = profiles.load(str(out)), profiles.load("h200-llama-3.1-8b")
    assert (derived.name, derived.model) == ("mine", "my-llama")
    assert derived.perf.iteration_s(512, 9000, 20) == pytest.approx(shipped.perf.iteration_s(512, 9000, 20), rel=0.01)
    assert derived.kv_blocks == pytest.approx(shipped.kv_blocks, rel=0.01)


def test_without_a_file_the_profile_is_printed() -> None:
    result = CliRunner().invoke(app, ["profile", "derive", "--model", "qwen3-32b", "--gpu", "h200", "--tp", "2"])
    assert result.exit_code == 0
    printed = json.loads(result.output)
    assert (printed["name"], printed["gpus"]) == ("h200-qwen3-32b-tp2", 2)


@pytest.mark.parametrize(
    ("model", "gpu", "message"),
    [
        ("qwen3-32b", "h300", "unknown GPU 'h300': choose one of"),
        ("gpt-9", "h200", "unknown model 'gpt-9': name a folder"),
        ("qwen3-32b", "l4", "65.5 GB of weights"),
    ],
)
def test_what_is_unknown_or_too_large_is_said_in_a_sentence(model: str, gpu: str, message: str) -> None:
    result = CliRunner().invoke(app, ["profile", "derive", "--model", model, "--gpu", gpu])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_blocks": 0}, r"Expected `int` >= 1 - at `\$.kv_blocks`"),
        ({"kv_blocks": "many"}, r"Expected `int`, got `str` - at `\$.kv_blocks`"),
        ({"perf": {"terms": []}}, r"length >= 1 - at `\$.perf.terms`"),
        ({"perf": {"terms": [{"per_new_token_s": 1e-9}]}}, "its iterations take no time; accepted: at least"),
        ({"perf": {"terms": [{}]}}, "its iterations take no time"),
        ({"perf": {"terms": [{"constant_ms": 3}]}}, "unknown field 'constant_ms'"),
        ({"max_drafts": 10**9}, "<= 64"),
        ({"block_tokens": 0}, ">= 1"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_a_file_that_holds_no_profile_is_refused_with_the_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good = msgspec.to_builtins(profiles.load("h200-opt-13b"))
    file = tmp_path / "p.json"
    file.write_text(json.dumps({**good, **change}))
    with pytest.raises(profiles.UnknownProfile, match=message):
        profiles.load(str(file))


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(profiles.UnknownProfile, match=r"nowhere\.json: No such file"):
        profiles.load(str(tmp_path / "nowhere.json"))
