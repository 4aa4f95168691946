"""How vLLM is started: with graphs large enough for iterations that are chosen late, unless somebody knows better."""

import pytest

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
