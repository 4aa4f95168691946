"""A logits processor for tests: a model of random weights ends its thinking after as many tokens as a request says."""

from __future__ import annotations

from typing import Any

import torch  # type: ignore[import-not-found]  # comes with vLLM
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from slosgate.bench.gpu.dummy_model import THINKING_ENDS


class EndsThinking(AdapterLogitsProcessor):  # type: ignore[misc]
    """For requests with `thinking_tokens` in their `vllm_xargs`; the last of those is the end of thinking."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        wanted = (params.extra_args or {}).get("thinking_tokens")
        if wanted is None:
            return None

        def end(output_ids: list[int], logits: Any) -> Any:
            mask = torch.zeros_like(logits)
            if len(output_ids) + 1 == wanted:
                mask += float("-inf")
                mask[THINKING_ENDS] = 0.0
            else:
                mask[THINKING_ENDS] = float("-inf")
            return logits + mask

        return end
