"""How vLLM is started: with graphs large enough for iterations that are chosen late, unless somebody knows better."""

import pytest

from slosgate.engines import addresses
from slosgate.engines.vllm import launch


def options(*given: str) -> list[str]:
    command = launch.command("model", "127.0.0.1", 8001, given)
    return command[command.index(launch.SCHEDULER) + 1 :]


def test_graphs_reach_as_far_as_iterations_do() -> None:
    assert options("--dtype", "float16") == ["--max-cudagraph-capture-size", "1024", "--dtype", "float16"]


@pytest.mark.parametrize(
    "given",
    [
        "--enforce-eager",
        "--max_cudagraph_capture_size=512",
        "--cudagraph-capture-sizes",
        "--compilation-config={}",
        "-O3",
    ],
)
def test_options_that_speak_of_graphs_are_left_alone(given: str) -> None:
    assert options(given) == [given]


@pytest.mark.parametrize(
    ("given", "environment", "key"),
    [
        (("--api-key", "abc"), {}, "abc"),
        (("--api_key=abc", "--port", "1"), {"VLLM_API_KEY": "other"}, "abc"),
        ((), {"VLLM_API_KEY": "abc"}, "abc"),
    ],
)
def test_a_replica_that_asks_for_a_key_is_measured_with_it(
    given: tuple[str, ...], environment: dict[str, str], key: str
) -> None:
    assert launch.authorization(given, environment) == {"Authorization": f"Bearer {key}"}
    assert launch.authorization((), {}) == {}


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8001"), ("::", "http://[::1]:8001"), ("10.0.0.5", "http://10.0.0.5:8001")],
)
def test_a_replica_is_measured_where_this_machine_reaches_it(host: str, url: str) -> None:
    assert addresses.local_url(host, 8001) == url
