"""The live page in Debian's Chromium: it shows what /metrics counts, and outlives the gateway."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.gateway.conftest import CONFIG
from tests.processes import Process, free_port, running_engine, running_gateway, running_valkey

KEPT, UNMET = 30, 4
HOPELESS = "\n[classes.hopeless]\nttft_ms = 1\n"
MODEL = "facebook/opt-13b"
# What a page must hold for people who can't see it, or use no mouse.
NAMED = (
    "e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.closest('label') || e.textContent.trim()"
)
NAMELESS = f"""[...document.querySelectorAll('button, input:not([hidden]), svg[role=img], summary')]
  .filter((e) => !({NAMED})).length"""


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_valkey() as server, running_engine(server.url, "one"), running_engine(server.url, "two"):
        yield server.url


@contextmanager
def asked_gateway(redis_url: str, port: int) -> Iterator[Process]:
    """A gateway on this port that knows both replicas."""
    with running_gateway(redis_url, CONFIG + HOPELESS, options=["--port", str(port)], wait=False) as started:
        gateway = Process(started.popen, f"http://127.0.0.1:{port}", started.log)
        gateway.wait_until_up("/ready", ["one", "two"])
        yield gateway


def ask(url: str, count: int, slo_class: str = "interactive") -> None:
    body = {"model": MODEL, "prompt": [1] * 100, "max_tokens": 20, "stream": True}
    for _ in range(count):
        httpx.post(f"{url}/v1/completions", json=body, headers={"x-slo-class": slo_class}, trust_env=False)


def counted(url: str, metric: str, **labels: str) -> int:
    """The sum of a metric's samples that have these labels."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    found = [line for line in lines if line.startswith(metric + "{") and all(w in line for w in wanted)]
    return sum(int(float(line.rpartition(" ")[2])) for line in found)


def opened(browser: Browser, url: str, *, width: int = 1400, scheme: Any = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page.goto(f"{url}/dashboard")
    page.get_by_label("Admin key").fill("admin")
    page.keyboard.press("Enter")
    page.wait_for_selector("#figures dd")
    return page


def figure(page: Page, name: str) -> str:
    return page.locator(f'[data-figure="{name}"]').inner_text().split("\n")[0]


def test_the_page_shows_what_the_metrics_count_and_survives_a_restart(browser: Browser, redis_url: str) -> None:
    port = free_port()
    with asked_gateway(redis_url, port) as gateway:
        ask(gateway.url, KEPT)
        ask(gateway.url, UNMET, "hopeless")
        page = opened(browser, gateway.url)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        expect(page.locator('[data-figure="Offered"]')).to_contain_text(str(KEPT + UNMET))
        for name, metric, labels in (
            ("Offered", "slosgate_slo_offered_total", {}),
            ("Guaranteed", "slosgate_slo_offered_total", {"admission": "guaranteed"}),
            ("Best effort", "slosgate_slo_offered_total", {"admission": "best-effort"}),
            ("Refused", "slosgate_slo_offered_total", {"admission": "refused"}),
        ):
            assert figure(page, name) == str(counted(gateway.url, metric, **labels)), name
        kept, broken = (counted(gateway.url, "slosgate_guarantees_total", result=r) for r in ("kept", "broken"))
        attained = counted(gateway.url, "slosgate_slo_attained_total")
        expect(page.locator('[data-figure="Guarantees kept"] small')).to_have_text(f"{kept} of {kept + broken}")
        expect(page.locator('[data-figure="SLOs attained"] small')).to_have_text(f"{attained} of {KEPT + UNMET}")
        reasons = page.locator("#reasons").inner_text()
        unmet = counted(gateway.url, "slosgate_slo_unmet_total")
        assert sum(int(number) for number in re.findall(r"\d+$", reasons, re.MULTILINE)) == unmet == UNMET
        assert page.locator("[data-replica]").count() == 2
        assert problems == []
    expect(page.locator("#connection")).to_contain_text("Connection lost")
    with asked_gateway(redis_url, port) as gateway:
        expect(page.locator("#connection")).to_have_text("Live", timeout=20_000)
        expect(page.locator('[data-figure="Offered"]')).to_contain_text("0")
        ask(gateway.url, 3)
        expect(page.locator('[data-figure="Guaranteed"]')).to_contain_text("3")
    page.close()


@pytest.fixture(scope="module")
def gateway(redis_url: str) -> Iterator[Process]:
    with asked_gateway(redis_url, free_port()) as process:
        ask(process.url, KEPT)
        ask(process.url, UNMET, "hopeless")
        yield process


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_everything_has_a_name(
    browser: Browser, gateway: Process, pictures: Path, width: int, scheme: str
) -> None:
    page = opened(browser, gateway.url, width=width, scheme=scheme)
    page.wait_for_timeout(1500)
    page.screenshot(path=pictures / f"dashboard-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = "(e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display === 'block'"
    assert page.evaluate(f"[...document.querySelectorAll('main *')].filter({cut}).length") == 0
    assert page.evaluate(NAMELESS) == 0
    page.locator("#slowest summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#slowest details[open] dl")).to_be_visible()
    page.wait_for_timeout(2200)  # two more snapshots leave it open
    expect(page.locator("#slowest details[open] dl")).to_be_visible()
    page.close()


def test_a_wrong_key_shows_nothing(browser: Browser, gateway: Process) -> None:
    page = browser.new_page()
    page.goto(f"{gateway.url}/dashboard")
    page.get_by_label("Admin key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="That is not the admin key.")).to_be_visible()
    expect(page.locator("#page")).to_be_hidden()
    page.close()
