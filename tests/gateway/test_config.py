from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from slosgate.gateway.cli import app
from slosgate.gateway.config import ConfigError, parse


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


def test_an_empty_file_is_a_configuration() -> None:
    config = parse("")
    assert not config.classes["default"].promises
    assert config.class_of_tier("flex") == "default"


def test_reads_classes_and_keys() -> None:
    digest = "ab" * 32
    config = parse(
        f"""
        [classes.interactive]
        ttft_ms = 500
        service_tiers = ["priority"]
        [keys.team-a]
        sha256 = "{digest}"
        classes = ["interactive"]
        """
    )
    assert config.classes["interactive"].ttft_ms == 500
    assert config.class_of_tier("priority") == "interactive"
    assert config.keys["team-a"].sha256 == digest


def test_names_every_problem_with_its_line() -> None:
    text = '[server]\nport = "x"\nprt = 1\n\n[classes.a]\nttft_ms = -4\n\n[[replicas]]\nmodel = "m"\n[nonsense]\n'
    found = problems(text)
    assert found[0] == "line 2: server.port: Expected `int`, got `str`, not 'x'"
    assert found[1].startswith("line 3: server.prt: unknown key; accepted: host, port")
    assert found[2] == "line 6: classes.a.ttft_ms: Expected `float` >= 0.001, not -4"
    assert found[3] == "line 8: replicas.0.url: is missing"
    assert found[4].startswith("line 10: nonsense: unknown key; accepted: server,")


def test_what_only_shows_across_tables_is_named_beside_what_is_wrong_in_one() -> None:
    """And nothing that only follows from it."""
    text = (
        "[server]\nport = 'x'\n[admission]\ndefault_class = 'gold'\n[keys.a]\nsha256 = 'x'\nclasses = ['silver']\n"
        "[keys.b]\nsha256 = 'y'\n[[replicas]]\nurl = 'a'\n[[replicas]]\nurl = 'b'\n[admin]\naddress = 'h:99999'\n"
    )
    assert [line.split(": ")[1] for line in problems(text)] == [
        "server.port", "admission.default_class", "keys.a.sha256", "keys.a.classes", "keys.b.sha256",
        "replicas.0.url", "replicas.1.url", "admin.address",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = = 3", "line 1: not TOML"),
        ("[admission]\ndefault_class = 'gold'", "line 2: admission.default_class: no such class: 'gold'"),
        ("[classes.a]\nservice_tiers = ['gold']", "line 2: classes.a.service_tiers: unknown tier 'gold'"),
        ("[classes.a]\nservice_tiers = ['fast']\n[classes.b]\nservice_tiers = ['fast']", "already stands for class a"),
        ("[classes.a]\nttft_ms = 5\nttft_slowdown = 3.0", "line 3: classes.a.ttft_slowdown: give ttft_ms or"),
        ("[classes.a]\nwhen_full = 'overflow'", "line 1: classes.a.overflow: is missing: name where to overflow to"),
        ("[classes.a]\noverflow = 'x'", "line 2: classes.a.overflow: no such table: [overflow.x]; accepted: none"),
        ("[overflow.x]\nmodel = 'a/b'\n[classes.a]\noverflow = 'x'", "line 4: classes.a.overflow: is only for classes"),
        ("[overflow.x]\napi_base = 'h'", "line 1: overflow.x.model: is missing"),
        ("[classes.a]\nttft_ms = inf", "line 2: classes.a.ttft_ms: Expected `float` <= 1000000000.0, not inf"),
        ("[classes.a]\ntpot_ms = 0.0009", "line 2: classes.a.tpot_ms: Expected `float` >= 0.001, not 0.0009"),
        ("[classes.a]\nthink_tpot_ms = nan", "line 2: classes.a.think_tpot_ms: Expected `float` >= 0.001, not nan"),
        ("[classes.a]\ne2e_ms = 1e10", "line 2: classes.a.e2e_ms: Expected `float` <= 1000000000.0"),
        ("[classes.a]\nttft_slowdown = inf", "line 2: classes.a.ttft_slowdown: Expected a finite number"),
        ("[admission]\nrouter = 'lest-loss'", "line 2: admission.router: must be one of soonest, "),
        ("[keys.k]\nsha256 = 'abc'", "line 2: keys.k.sha256: Expected `str` matching regex"),
        (f"[keys.k]\nsha256 = '{'0' * 64}'\n[keys.l]\nsha256 = '{'0' * 64}'", "line 4: keys.l.sha256: this key is k's"),
        (f"[keys.k]\nsha256 = '{'0' * 64}'\nclasses = ['x']", "line 3: keys.k.classes: no such class: 'x'"),
        ("classes = 3", "line 1: classes: must be tables"),
        ("[classes]\na = 3", "line 2: classes.a: must be a table"),
        ("replicas = 3", "line 1: replicas: must be an array of tables"),
    ],
)
def test_refuses(text: str, said: str) -> None:
    assert said in problems(text)[0]


def test_check_config_explains_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text('[classes.interactive]\nttft_ms = 500\ntpot_ms = 50\nwhen_full = "reject"\n')
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert result.exit_code == 0
    assert "class interactive: TTFT 500 ms, TPOT 50 ms, else reject" in result.stdout


def test_check_config_says_who_may_ask_for_what_and_within_which_limits(tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text(
        f"""
        [server]
        max_body_bytes = 1000
        request_timeout_s = 30
        [classes.interactive]
        ttft_ms = 500
        [keys.team-a]
        sha256 = "{"0" * 64}"
        classes = ["interactive"]
        may_set_slo = true
        requests_per_minute = 600
        [keys.team-b]
        sha256 = "{"1" * 64}"
        max_concurrent = 3
        [[replicas]]
        url = "http://10.0.0.7:8000"
        profile = "h200-opt-13b"
        [admin]
        address = "127.0.0.1:9000"
        """
    )
    said = CliRunner().invoke(app, ["check-config", str(file)]).stdout.splitlines()
    for line in (
        "key team-a: classes interactive, by default interactive, SLOs of its own, but none tighter than its class, "
        "600 requests a minute, any number at once",
        "key team-b: classes interactive, default, by default default, no SLOs of its own, any number of requests a "
        "minute, 3 at once",
        "requests: headers of 65536 bytes within 20 s, bodies of 1000 bytes within 30 s and a second for each "
        "10000 bytes",
        "answers: begin within 60 s and 0.25 s a token of max_tokens if not streamed, never pause for 30 s, end within "
        "268435456 bytes",
        "replica 10.0.0.7:8000: http://10.0.0.7:8000, the model that it lists, profile h200-opt-13b",
        "operators: /metrics with an API key, /ready for everybody, /admin for nobody, on 127.0.0.1:9000",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprt = 1", "line 2: server.prt: unknown key"),
        ('[[replicas]]\nurl = "http://h"\nprofile = "zx81"', "zx81"),
        ('[models."m-1.3b"]\ntokenizer = "nowhere.json"', "line 2: models.m-1.3b.tokenizer: 'nowhere.json' is no"),
    ],
)
def test_check_config_ends_with_2_for_a_bad_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert result.exit_code == 2
    assert said in result.stderr


def test_check_config_tells_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    """Words, what they name in the file, and what that names outside it."""
    file = tmp_path / "bad.toml"
    file.write_text(
        '[server]\nprt = 1\n[admission]\ndefault_class = "gold"\n[models.m]\ntokenizer = "nowhere.json"\n'
        '[[replicas]]\nurl = "http://h"\nprofile = "zx81"\n[[replicas]]\nurl = "http://i"\napi_key_env = "UNSET_KEY"\n'
    )
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert result.exit_code == 2
    assert [line.split(": ")[1:3] for line in result.stderr.splitlines()] == [
        ["line 2", "server.prt"],
        ["line 4", "admission.default_class"],
        ["line 6", "models.m.tokenizer"],
        ["line 9", "replicas.0.profile"],
        ["line 12", "replicas.1.api_key_env"],
    ]


def test_check_config_names_a_missing_file() -> None:
    result = CliRunner().invoke(app, ["check-config", "nowhere.toml"])
    assert result.exit_code == 2
    assert "nowhere.toml" in result.stderr
