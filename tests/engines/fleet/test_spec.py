"""What `slosgate up` says of a file that it can't bring about."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.engines.fleet.spec import load
from slosgate.gateway.cli import app
from tests.docs.blocks import ROOT, titled

GOOD = '[models.chat]\nengine = "sim"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "models: is missing: a fleet serves at least one model"),
        ('[models.chat]\nengine = "tgi"\n', "line 2: models.chat.engine: must be one of sim, vllm, not 'tgi'"),
        ("[models.chat]\nreplicas = 2\n", "line 1: models.chat.engine: is missing"),
        (GOOD + "replica = 2\n", "line 3: models.chat.replica: unknown key; accepted: engine, model, replicas"),
        (GOOD + "replicas = -1\n", "line 3: models.chat.replicas: Expected `int` >= 0, not -1"),
        (GOOD + "replicas = {least = 3, most = 2}\n", "line 3: models.chat.replicas: least is 3, more than most, 2"),
        (GOOD + "replicas = {least = 1}\n", "line 3: models.chat.replicas"),
        (GOOD + 'replicas = "two"\n', "Expected `int | a table of least, most, down_after_s`, got `str`, not 'two'"),
        (
            GOOD + "gpus = 1\nreplicas = {most = 4}\n[machine]\ngpus = [0]\n",
            "4 GPUs are wanted, and this machine has 1",
        ),
        (GOOD + "drain_s = inf\n", "line 3: models.chat.drain_s: Expected a finite number"),
        (GOOD + 'options = ["--port=9"]\n', "line 3: models.chat.options: --port=9 is given by the fleet itself"),
        ('[models.chat]\nengine = "vllm"\n', "line 1: models.chat.model: is missing: the name or folder"),
        ('[models.gateway]\nengine = "sim"\n', "'gateway' is what gateways are called"),
        (GOOD + "gpus = 2\n[machine]\ngpus = [0]\n", "2 GPUs are wanted, and this machine has 1"),
        (GOOD + '[gateways]\nconfig = "no-such.toml"\n', "line 4: gateways.config: no such file"),
        (GOOD + '[redis]\nurl = "http://x"\n', "line 4: redis.url: no address of a Redis"),
        (GOOD + "[gateways]\nport = 0\n", "line 4: gateways.port: Expected `int` >= 1, not 0"),
        ("models = 1\n", "line 1: models: must be tables: [models.NAME]"),
        ("[models\n", "not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["up", str(file)])
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")


def test_a_gateways_configuration_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[clases]\n", encoding="utf-8")
    file = tmp_path / "fleet.toml"
    file.write_text(GOOD + '[gateways]\nconfig = "gateway.toml"\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["up", str(file)])
    assert result.exit_code == 2
    assert "clases: unknown key" in result.output


def test_a_file_that_does_not_exist_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["up", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "No such file" in result.output


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "examples").glob("*.toml")), ids=lambda f: f.name)
def test_the_examples_are_good(file: Path) -> None:
    assert load(file).name == file.stem


def test_the_file_of_the_docs_is_good(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(titled(ROOT / "docs" / "fleets.md", file.name), encoding="utf-8")
    (tmp_path / "slosgate.toml").touch()
    assert load(file).models["chat"].gpus == 2
