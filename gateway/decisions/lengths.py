"""How long prompts and outputs are before anyone has counted them."""

from __future__ import annotations

from slosgate.gateway.decisions.tokenizing import Tokenizers
from slosgate.gateway.promises.completion import Completion
from slosgate.gateway.promises.exchange import Exchange, Size
from slosgate.planner.lengths import USUAL_TOKENS, ClassStatistics

# Tokens per unit of size before the first answer: English prose, as OpenAI's rule of thumb has it, and no template.
UNKNOWN_RATIOS = {"bytes": 0.25, "tokens": 1.0}
LEARNING_RATE = 0.05
CAUTION = 1.0  # mean absolute deviations added to a text's estimate: too short an estimate breaks promises
COMPLETIONS_DEFAULT_TOKENS = 16  # OpenAI's and vLLM's max_tokens when /v1/completions gets none


class Lengths:
    """Token counts for planning: exact where the request says them, else learned from the answers that came before."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        self._tokenizers = tokenizers
        self._texts: dict[tuple[str, str, str], _Ratio] = {}
        self._classes = ClassStatistics()

    def size(self, completion: Completion) -> Size:
        """Measure a prompt, by its model's tokenizer where there is one."""
        if completion.prompt_tokens is not None:
            return Size("exact", completion.prompt_tokens)
        counted = self._tokenizers.count(completion)
        if counted is None:
            return Size("bytes", completion.prompt_bytes)
        return Size("exact" if completion.kind == "completions" else "tokens", counted)

    def prompt_tokens(self, completion: Completion, size: Size) -> int:
        """What to plan with: exact, or estimated by what replicas counted for sizes of this unit before."""
        if size.unit == "exact":
            return max(1, size.amount)
        ratio = self._texts.get((completion.model, completion.kind, size.unit))
        return max(1, (ratio or _Ratio(UNKNOWN_RATIOS[size.unit])).tokens(size.amount))

    def output_tokens(self, completion: Completion, slo_class: str, window: int) -> int:
        """The planning value; never more than `max_tokens` or what the model's window leaves."""
        limit = completion.max_tokens
        if limit is None and completion.kind == "completions":
            limit = COMPLETIONS_DEFAULT_TOKENS
        if limit is not None and completion.exact_output:
            return min(limit, window)
        usual = USUAL_TOKENS if limit is None else None
        return self._classes.planning_tokens(slo_class, min(window, limit or window), usual)

    def learn(self, exchange: Exchange) -> None:
        """Take the counts of a finished answer."""
        completion = exchange.completion
        size = exchange.size
        if size.unit != "exact" and exchange.counted_prompt and size.amount:
            unknown = _Ratio(UNKNOWN_RATIOS[size.unit])
            ratio = self._texts.setdefault((completion.model, completion.kind, size.unit), unknown)
            ratio.learn(exchange.prompt_tokens / size.amount)
        if exchange.outcome == "completed" and exchange.tokens and not completion.exact_output:
            self._classes = self._classes.finished(exchange.contract.slo_class, exchange.tokens)


class _Ratio:
    """Tokens per unit of size: exponentially weighted mean, and mean absolute deviation."""

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self.deviation = 0.0
        self.observed = False

    def learn(self, tokens_per_unit: float) -> None:
        if not self.observed:
            self.mean, self.observed = tokens_per_unit, True
        error = tokens_per_unit - self.mean
        self.mean += LEARNING_RATE * error
        self.deviation += LEARNING_RATE * (abs(error) - self.deviation)

    def tokens(self, size: int) -> int:
        return round((self.mean + CAUTION * self.deviation) * size)
