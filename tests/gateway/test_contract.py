from __future__ import annotations

import math

import pytest

from slosgate.gateway.config import parse
from slosgate.gateway.errors import Forbidden, InvalidRequest
from slosgate.gateway.promises.contract import Contract, ignored, resolve

CONFIG = parse(
    f"""
    [classes.interactive]
    ttft_ms = 500
    tpot_ms = 50
    weight = 2.0
    when_full = "reject"
    service_tiers = ["priority"]
    [classes.coder]
    ttft_slowdown = 5.0
    tpot_ms = 50
    [keys.plain]
    sha256 = "{"0" * 64}"
    classes = ["interactive", "default"]
    default_class = "interactive"
    weight = 3.0
    [keys.trusted]
    sha256 = "{"1" * 64}"
    may_set_slo = true
    """
)


def contract(tier: str | None = None, key: str | None = None, **headers: str) -> Contract:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return resolve(raw, tier, CONFIG, CONFIG.keys[key] if key else None)


def test_without_a_word_nothing_is_promised() -> None:
    found = contract()
    assert (found.slo_class, found.ttft_s, found.tpot_s, found.has_slo) == ("default", math.inf, math.inf, False)


def test_headers_state_an_slo() -> None:
    found = contract(x_slo_ttft_ms="250", x_slo_tpot_ms="12.5")
    assert (found.ttft_s, found.tpot_s, found.has_slo) == (0.25, 0.0125, True)


def test_headers_of_llm_d_are_understood() -> None:
    found = contract(x_llm_d_slo_ttft_ms="250", x_llm_d_slo_tpot_ms="50")
    assert (found.ttft_s, found.tpot_s) == (0.25, 0.05)


def test_a_class_brings_its_slo_and_headers_replace_parts_of_it() -> None:
    found = contract(x_slo_class="interactive", x_slo_ttft_ms="900")
    assert (found.ttft_s, found.tpot_s, found.weight, found.when_full) == (0.9, 0.05, 2.0, "reject")


def test_a_slowdown_is_replaced_by_a_stated_ttft() -> None:
    assert contract(x_slo_class="coder").ttft_slowdown == 5.0
    assert contract(x_slo_class="coder", x_slo_ttft_ms="100").ttft_slowdown == 0


@pytest.mark.parametrize(
    ("tier", "slo_class", "kept", "downgraded"),
    [
        ("priority", "interactive", "priority", "flex"),
        ("auto", "default", "default", "default"),
        ("flex", "default", "flex", "flex"),
        ("scale", "default", "default", "default"),  # no class claims it: the default class, and the echo says so
        ("gold", "default", "default", "default"),  # of another provider
        ("", "default", "default", "default"),
    ],
)
def test_service_tiers_are_classes_and_echoed_as_served(tier: str, slo_class: str, kept: str, downgraded: str) -> None:
    found = contract(tier)
    assert found.slo_class == slo_class
    assert (found.served_tier(True), found.served_tier(False)) == (kept, downgraded)


def test_the_tier_default_is_the_class_that_is_the_default_whatever_its_name() -> None:
    config = parse('admission = {default_class = "slow"}\n[classes.slow]\nttft_ms = 3000')
    asked = {tier: resolve({}, tier, config).slo_class for tier in ("auto", "default", "scale", "flex")}
    assert asked == {"auto": "slow", "default": "slow", "scale": "slow", "flex": "default"}


@pytest.mark.parametrize("value", ["-1", "0", "abc", "nan", "inf", "", "1e400", "1e300", "1e10", "1e-300", "5e-324"])
def test_refuses_an_slo_that_is_no_positive_number(value: str) -> None:
    with pytest.raises(InvalidRequest, match="x-slo-ttft-ms must be a positive number of milliseconds"):
        contract(x_slo_ttft_ms=value)


def test_refuses_unknown_classes() -> None:
    with pytest.raises(InvalidRequest, match="x-slo-class must be one of interactive, coder, default"):
        contract(x_slo_class="gold")


def test_a_key_has_classes_a_default_and_a_weight() -> None:
    found = contract(key="plain")
    assert (found.slo_class, found.weight) == ("interactive", 6.0)
    with pytest.raises(Forbidden, match="this API key may use interactive, default"):
        contract(key="plain", x_slo_class="coder")


def test_a_key_strips_the_clients_own_numbers() -> None:
    assert contract(key="plain", x_slo_ttft_ms="9000").ttft_s == 0.5


def test_a_trusted_key_may_loosen_but_not_tighten_its_class() -> None:
    assert contract(key="trusted", x_slo_class="interactive", x_slo_ttft_ms="900").ttft_s == 0.9
    assert contract(key="trusted", x_slo_class="interactive", x_slo_ttft_ms="100").ttft_s == 0.5
    assert contract(key="trusted", x_slo_class="interactive", x_slo_tpot_ms="80").tpot_s == 0.08
    assert contract(key="trusted", x_slo_class="interactive", x_slo_tpot_ms="10").tpot_s == 0.05
    both = contract(key="trusted", x_slo_class="coder", x_slo_ttft_ms="9000")  # which is looser shows with the prompt
    assert (both.ttft_slowdown, both.ttft_s) == (5.0, 9.0)
    assert contract(key="trusted", x_slo_ttft_ms="100").ttft_s == 0.1


@pytest.mark.parametrize(
    ("key", "slo_class", "sent", "named"),
    [
        ("plain", "interactive", {"x_slo_ttft_ms": "900"}, b"x-slo-ttft-ms"),  # it may state none
        ("trusted", "interactive", {"x_slo_ttft_ms": "100", "x_slo_tpot_ms": "80"}, b"x-slo-ttft-ms"),
        ("trusted", "interactive", {"x_slo_e2e_ms": "9000"}, b"x-slo-e2e-ms"),  # the class promises no such thing
        ("trusted", "interactive", {"x_llm_d_slo_tpot_ms": "1"}, b"x-llm-d-slo-tpot-ms"),
        ("trusted", "default", {"x_slo_e2e_ms": "9000"}, b""),
        (None, "interactive", {"x_slo_ttft_ms": "100", "x_slo_e2e_ms": "9000"}, b""),
    ],
)
def test_a_number_that_does_not_hold_is_named(
    key: str | None, slo_class: str, sent: dict[str, str], named: bytes
) -> None:
    found = contract(key=key, x_slo_class=slo_class, **sent)
    headers = [name.replace("_", "-").encode() for name in sent]
    assert b", ".join(ignored(headers, found, None, found.ttft_s, math.inf)) == named


def test_what_a_session_is_not_held_to_is_named() -> None:
    sent, whole = contract(x_slo_session_e2e_ms="9000"), b"x-slo-session-e2e-ms"
    assert ignored([whole], sent, None, math.inf, 109.0) == ()
    assert ignored([whole], sent, None, math.inf, math.inf) == (
        whole,
    )  # it names no session, or one that began without
