"""How long prompts and outputs are before anyone has counted them."""

from __future__ import annotations

from slosgate.gateway.decisions.counts import Line
from slosgate.gateway.decisions.tokenizing import Tokenizers
from slosgate.gateway.promises.completion import Completion
from slosgate.gateway.promises.exchange import Exchange, Size
from slosgate.planner.lengths import USUAL_TOKENS, ClassStatistics

# What is usual before the first answer, and how far it may be off: English prose, as OpenAI's rule of thumb has it; no
# template; an image as most models take one.
TOKENS_PER_UNIT = {"bytes": 0.25, "tokens": 1.0}
TOKENS_PER_UNIT_OFF = {"bytes": 0.5, "tokens": 0.02}
TEMPLATE_TOKENS_OFF = 1000.0  # an engine may add a system prompt of its own
BARE_TOKENS_OFF = 3.0  # a text without a template may begin with a special token
TOOL_TOKENS_PER_BYTE, TOOL_TOKENS_PER_BYTE_OFF = 0.25, 0.15
MEDIUM_TOKENS, MEDIUM_TOKENS_OFF = 1000.0, 2000.0
MEDIA = (
    "image_url",
    "image",
    "image_pil",
    "image_embeds",
    "audio_embeds",
    "video_embeds",
    "prompt_embeds",
    "input_image",
    "audio_url",
    "input_audio",
    "video_url",
    "file",
)
OTHER_MEDIA = "other"  # a client that invents kinds must not fill the memory


class Lengths:
    """Token counts for planning: exact where the request says them, else learned from the answers that came before."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        self._tokenizers = tokenizers
        self._texts: dict[tuple[str, str, str, bool], Line] = {}
        self._tools: dict[str, Line] = {}
        self._media: dict[tuple[str, str], Line] = {}
        self._classes = ClassStatistics()
        self._thinking = ClassStatistics()  # of those outputs that began with thinking

    def size(self, completion: Completion) -> Size:
        """Measure a prompt, by its model's tokenizer where there is one."""
        if completion.prompt_tokens is not None and not completion.reshaped:
            return Size("exact", completion.prompt_tokens)
        if completion.prompt_tokens is not None:
            return Size("tokens", completion.prompt_tokens)
        counted = self._tokenizers.count(completion)
        if counted is None:
            return Size("bytes", completion.prompt_bytes)
        return Size("exact" if counted.exact else "tokens", counted.tokens)

    def prompt_tokens(self, completion: Completion, size: Size) -> int:
        """What to plan with: exact, or estimated by what replicas counted for prompts of this kind before."""
        if size.unit == "exact":
            return max(1, size.amount)
        tokens = self._text(completion, size).careful(size.amount)
        if completion.tool_bytes:
            tokens += self._tool(completion).careful(completion.tool_bytes)
        tokens += sum(self._medium(completion, kind).careful(1) for kind in completion.media)
        return max(1, round(tokens))

    def output_tokens(self, completion: Completion, slo_class: str, window: int) -> int:
        """The planning value; never more than `max_tokens` or what the model's window leaves."""
        limit = completion.max_tokens
        if limit is not None and completion.exact_output:
            return min(limit, window)
        usual = USUAL_TOKENS if limit is None else None
        return self._classes.planning_tokens(slo_class, min(window, limit or window), usual)

    def thinking_tokens(self, completion: Completion, slo_class: str, output_tokens: int) -> int:
        """What to plan for of an output's beginning to be thinking; 0 where the class has not been seen to think."""
        if not completion.thinks or slo_class not in self._thinking.lengths:
            return 0
        return self._thinking.planning_tokens(slo_class, output_tokens, USUAL_TOKENS)

    def learn(self, exchange: Exchange) -> None:
        """Take the counts of a finished answer."""
        completion = exchange.completion
        if exchange.counted_prompt:
            if exchange.size.unit == "exact":
                if completion.prompt_tokens is None:
                    self._tokenizers.compare(completion, exchange.size.amount, exchange.prompt_tokens)
            else:
                self._learn_prompt(completion, exchange.size, exchange.prompt_tokens)
        if exchange.outcome == "completed" and exchange.tokens and not completion.exact_output:
            self._classes = self._classes.finished(exchange.contract.slo_class, exchange.tokens)
        if exchange.outcome == "completed" and exchange.thinking_tokens:
            self._thinking = self._thinking.finished(exchange.contract.slo_class, exchange.thinking_tokens)

    def _learn_prompt(self, completion: Completion, size: Size, counted: int) -> None:
        """A count teaches about the one thing that is new in it: text alone; tools beside text; one kind of media."""
        text = self._text(completion, size)
        if not completion.tool_bytes and not completion.media:
            text.learn(size.amount, counted)
            return
        rest = counted - text.tokens(size.amount)
        if not completion.media:
            self._tool(completion).learn(completion.tool_bytes, rest)
        elif len(set(completion.media)) == 1:
            if completion.tool_bytes:
                rest -= self._tool(completion).tokens(completion.tool_bytes)
            self._medium(completion, completion.media[0]).learn(1, rest / len(completion.media))

    def _text(self, completion: Completion, size: Size) -> Line:
        name = (completion.model, completion.kind, size.unit, completion.reshaped)
        if name not in self._texts:
            template = completion.kind == "chat"
            self._texts[name] = Line(
                base=0.0,
                base_off=TEMPLATE_TOKENS_OFF if template else BARE_TOKENS_OFF,
                per_unit=TOKENS_PER_UNIT[size.unit],
                per_unit_off=TOKENS_PER_UNIT_OFF[size.unit],
            )
        return self._texts[name]

    def _tool(self, completion: Completion) -> Line:
        """What schemas and documents add, by their bytes."""
        return self._tools.setdefault(
            completion.model,
            Line(
                base=0.0,
                base_off=TEMPLATE_TOKENS_OFF,
                per_unit=TOOL_TOKENS_PER_BYTE,
                per_unit_off=TOOL_TOKENS_PER_BYTE_OFF,
            ),
        )

    def _medium(self, completion: Completion, kind: str) -> Line:
        """What one part of this kind adds."""
        known = kind if kind in MEDIA else OTHER_MEDIA
        return self._media.setdefault(
            (completion.model, known),
            Line(base=0.0, base_off=1.0, per_unit=MEDIUM_TOKENS, per_unit_off=MEDIUM_TOKENS_OFF),
        )
