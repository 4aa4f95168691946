"""LiteLLM's proxy on both sides, as the docs say to set it up: in front of the gateway, and as its way out.

Needs the proxy of the environment that `make test-litellm` builds, or one on the PATH (pip install 'litellm[proxy]').
1.83 tells clients nothing of a refusal's headers; 1.108 does, as `llm_provider-*`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.docs.blocks import blocks
from tests.gateway.conftest import until_known
from tests.gateway.scripted import good, scripted_replica
from tests.processes import answers, free_port, running_engine, running_gateway, running_valkey, wait_for

RIVALS = Path(__file__).parents[2] / ".venv-rivals" / "bin"
STOP_S = 20.0


def _program() -> str | None:
    """The first that is more than the library's stub."""
    found = (shutil.which("litellm", path=folder) for folder in (str(RIVALS), *os.get_exec_path()))
    return next(
        (one for one in found if one and not subprocess.run([one, "--version"], capture_output=True).returncode), None
    )


PROGRAM = _program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no LiteLLM proxy: make test-litellm installs one")

KEY = f"sk-{secrets.token_hex(32)}"  # without one, or with a guessable one, the proxy doesn't start
PAGE = Path(__file__).parents[2] / "docs" / "in-front-of-vllm.md"
BEHIND = """
model_list:
  - model_name: NAME
    litellm_params: {{model: openai/elsewhere, api_base: "{provider}/v1", api_key: none}}
"""
STRICT = """
[classes.strict]
ttft_ms = 400
when_full = "reject"
"""


def from_docs(first_line: str) -> str:
    """The block of the page that begins so."""
    (found,) = (block.text for block in blocks(PAGE) if block.text.startswith(first_line))
    return found


@contextmanager
def proxy(folder: Path, config: str) -> Iterator[str]:
    """A LiteLLM proxy with this configuration: its address."""
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    port = free_port()
    command = [str(PROGRAM), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--telemetry", "False"], stdout=log, stderr=log, cwd=folder,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY},
        )  # fmt: skip
        try:
            wait_for(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}/health/liveliness"))
            assert process.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.timeout(600)
async def test_the_proxy_stands_on_both_sides(
    tmp_path: Path, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_front, overflow = from_docs("model_list:"), from_docs("[classes.interactive]")
    monkeypatch.setenv("LITELLM_KEY", KEY)
    with ExitStack() as stack:
        urls = [stack.enter_context(running_valkey()).url for _ in range(2)]
        provider = stack.enter_context(running_engine(urls[1], "elsewhere", "--model", "elsewhere", "--policy", "vllm"))
        behind = stack.enter_context(proxy(tmp_path / "behind", BEHIND.format(provider=provider.url)))
        gateway = stack.enter_context(
            running_gateway(urls[0], overflow.replace("http://litellm:4000", behind) + STRICT)
        )
        front = stack.enter_context(proxy(tmp_path / "front", in_front.replace("http://slosgate:8000", gateway.url)))
        async with scripted_replica(urls[0], "local", good()) as replica:
            await until_known(client, gateway.url, "local")
            status, headers, text = await _ask(client, front, "interactive", stream=False)
            assert (status, headers["llm_provider-x-slo-admission"]) == (200, "guaranteed"), text
            assert headers["llm_provider-x-slo-replica"] == "local"
            assert "t0 t1 t2 " in text
            status, _, text = await _ask(client, front, "interactive", stream=True)
            assert (status, text.count("t1 "), text.endswith("data: [DONE]\n\n")) == (200, 1, True)
            replica.busy_for(600)
            await replica.reported()
            # What can't be guaranteed goes out through the other proxy, streamed or not.
            for stream in (False, True):
                status, headers, text = await _ask(client, front, "interactive", stream=stream)
                assert (status, headers["llm_provider-x-slo-replica"]) == (200, "overflow:cloud"), text
                assert " tok" in text
            status, headers, text = await _ask(client, front, "strict", stream=False)
            assert status == 429, text
            assert "can't be guaranteed now" in text
            assert int(headers["llm_provider-retry-after-ms"]) > 1000


async def _ask(
    client: aiohttp.ClientSession, url: str, slo_class: str, *, stream: bool
) -> tuple[int, dict[str, str], str]:
    body = {"model": "code", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 3, "stream": stream}
    headers = {"x-slo-class": slo_class, "authorization": f"Bearer {KEY}"}
    async with client.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.text()
