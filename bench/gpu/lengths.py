"""Answers whose lengths nobody knows beforehand, on a model of random weights that never ends one by itself.

The length of an answer stands in its prompt's last token id (`told`), where neither a gateway nor a scheduler looks,
and how many of its tokens are thinking in the one before (`told_thinking`). `end_as_told` makes vLLM end the answer
there, as a real model would with its end-of-sequence token, and has its scheduler see the end of thinking. It is loaded
as one of vLLM's general plug-ins, into stock vLLM as well as into ours. Requests with `ignore_eos` are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slosgate.bench.gpu.dummy_model import THINKING_ENDS

FIRST_ID = 2000  # stands for a length of 0
FIRST_THINKING_ID = 20_000  # stands for no thinking; ids below it do, too
MOST_THINKING = 12_000  # tokens
DISTRIBUTION = "slosgate_bench_lengths"


def told(output_tokens: int) -> int:
    """The last token id of a prompt whose answer is to have so many tokens."""
    return FIRST_ID + output_tokens


def told_thinking(tokens: int) -> int:
    """The token id before it, when so many of those are thinking."""
    return FIRST_THINKING_ID + min(tokens, MOST_THINKING)


def end_as_told() -> None:
    """Have vLLM's scheduler end answers as their prompts say."""
    from vllm.v1.core.sched import scheduler
    from vllm.v1.request import RequestStatus

    by_itself = scheduler.check_stop

    def check_stop(request: Any, max_model_len: int, *more: Any) -> bool:
        thinking, length = ([0, FIRST_ID, *(request.prompt_token_ids or ())])[-2:]
        length -= FIRST_ID
        if request.sampling_params.ignore_eos or length <= 0:
            return bool(by_itself(request, max_model_len, *more))
        if request.num_output_tokens == thinking - FIRST_THINKING_ID:
            request._output_token_ids[-1] = THINKING_ENDS  # clients see a word all the same
        if request.num_output_tokens < length:
            return False
        request.status = RequestStatus.FINISHED_STOPPED
        return True

    scheduler.check_stop = check_stop


def as_plugin(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment with which vLLM finds the plug-in: it looks for distributions that say they have one."""
    facts = folder / f"{DISTRIBUTION}-0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 0\n")
    (facts / "entry_points.txt").write_text(f"[vllm.general_plugins]\nlengths = {__name__}:end_as_told\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder.resolve()), environment.get("PYTHONPATH", ""))))}
