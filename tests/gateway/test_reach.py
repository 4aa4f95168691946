"""check-config warns of classes that no configured replica could ever serve."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from slosgate.gateway.cli import app

REPLICA = '[[replicas]]\nurl = "http://127.0.0.1:1"\n'


def checked(config: str, folder: Path, *options: str) -> str:
    file = folder / "slosgate.toml"
    file.write_text(config)
    result = CliRunner().invoke(app, ["check-config", str(file), *options])
    assert result.exit_code == 0
    return result.output


def test_an_slo_beyond_the_hardware_is_warned_of(tmp_path: Path) -> None:
    config = (
        "[classes.a]\nttft_ms = 1\n[classes.b]\ntpot_ms = 0.5\n[classes.c]\nttft_ms = 500\ntpot_ms = 50\n"
        "[classes.d]\ne2e_ms = 0.01\n[classes.e]\ntpot_ms = 50\nthink_tpot_ms = 0.01\n"
    )
    said = checked(f'{config}{REPLICA}profile = "h200-opt-13b"\n', tmp_path)
    assert "line 2: classes.a.ttft_ms: a TTFT of 1 ms can never be kept" in said
    assert "line 4: classes.b.tpot_ms: a TPOT of 0.5 ms can never be kept" in said
    assert "line 9: classes.d.e2e_ms: a whole answer of 0.01 ms can never be kept" in said
    assert "line 12: classes.e.think_tpot_ms: a TPOT of 0.01 ms can never be kept" in said
    assert said.count("warning") == 4


def test_an_address_with_the_path_that_is_added_is_warned_of(tmp_path: Path) -> None:
    said = checked('[[replicas]]\nurl = "http://127.0.0.1:1/v1/"\n', tmp_path)
    assert "line 2: replicas.0.url: paths begin with /v1 already" in said


def test_an_address_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "slosgate.toml"
    for port in ("1", "x"):
        file.write_text(f'[[replicas]]\nurl = "http://user:s3cret@127.0.0.1:{port}"\n')
        result = CliRunner().invoke(app, ["check-config", str(file)])
        assert result.exit_code == 2
        assert "line 2: replicas.0.url: an address has no user and no password: name a key's" in result.output
        assert "s3cret" not in result.output


def test_a_rejecting_class_without_a_profile_is_warned_of(tmp_path: Path) -> None:
    config = '[classes.a]\nttft_ms = 100\nwhen_full = "reject"\n[classes.b]\nttft_ms = 100\n'
    said = checked(config + REPLICA, tmp_path)
    assert "line 3: classes.a.when_full: no configured replica has a profile" in said
    assert said.count("warning") == 1


HASTY = "[classes.a]\nttft_ms = 1\n[classes.b]\nttft_ms = 500\n"


def test_what_is_not_known_while_replicas_are_yet_to_register_is_said_with_what_would_help(tmp_path: Path) -> None:
    said = checked(HASTY, tmp_path)
    assert "warning" not in said
    assert "slosgate.toml: not checked: whether a replica could keep the SLO of a, b, for no [[replicas]] has" in said
    assert "--profile NAME or FILE" in said
    assert "not checked" not in checked("", tmp_path)


def test_slos_are_held_against_the_hardware_that_replicas_register_with(tmp_path: Path) -> None:
    said = checked(HASTY, tmp_path, "--profile", "h200-opt-13b")
    assert "line 2: classes.a.ttft_ms: a TTFT of 1 ms can never be kept: the fastest replica known here (h200-o" in said
    assert said.count("warning") == 1
    assert "not checked" not in said


def test_hardware_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "slosgate.toml"
    file.write_text(HASTY)
    result = CliRunner().invoke(app, ["check-config", str(file), "--profile", "zx81"])
    assert result.exit_code == 2
    assert "unknown hardware 'zx81'" in " ".join(result.stderr.replace("│", " ").split())
