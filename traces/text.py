"""Prompt text, for live runs against a model that reads it. Load tests need the length to the token; a model that
drafts or caches prefixes needs text that is not all alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traces.errors import TraceError
from traces.formats.base import CountTokens
from traces.formats.humaneval import prompts as humaneval_prompts

# Short everyday words, most of them one token in any vocabulary.
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "hand", "part", "place", "case", "week", "company", "system", "program"),
    *("question", "work", "night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact"),
    *("month", "lot", "right", "study", "book", "eye", "job", "word", "side", "kind", "head", "house", "friend"),
    *("power", "hour", "game", "line", "end", "law", "car", "city", "name", "team", "minute", "idea", "body", "back"),
    *("face", "level", "office", "door", "health", "person", "art", "war", "party", "result", "change", "morning"),
)
FILLERS = (" a", " b", ".", " to", "!", " x")  # to hit a length when a whole word would overshoot


def of_length(tokens: int, count_tokens: CountTokens, rng: np.random.Generator) -> str:
    """Text of exactly `tokens` tokens, as `count_tokens` counts them (special tokens that it adds included).

    Raises TraceError when no text of that length is found: fewer tokens than the tokenizer adds by itself, or one
    whose counts jump.
    """
    words = [WORDS[i] for i in rng.integers(len(WORDS), size=max(1, tokens))]
    low, high = 0, len(words)
    while low < high:  # the most words that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(" ".join(words[:middle])) <= tokens else (low, middle - 1)
    text = " ".join(words[:low])
    found = count_tokens(text)
    while found < tokens:
        longer = {filler: count_tokens(text + filler) for filler in FILLERS}
        fitting = {filler: count for filler, count in longer.items() if found < count <= tokens}
        if not fitting:
            break
        filler, found = max(fitting.items(), key=lambda item: item[1])
        text += filler
    if found != tokens:
        raise TraceError(f"no text of exactly {tokens} tokens with this tokenizer: the nearest has {found}")
    return text


def humaneval(path: Path) -> list[str]:
    """HumanEval's problems, as they are put to a model. Raises TraceError."""
    texts = humaneval_prompts(path)
    if not texts:
        raise TraceError(f"{path}: no HumanEval problems in this file")
    return texts


def problem_of_length(problems: list[str], tokens: int, count_tokens: CountTokens, rng: np.random.Generator) -> str:
    """A real problem, drawn among those that fit, brought to exactly `tokens` tokens by a synthetic preamble; synthetic
    text alone when no problem fits.
    """
    order: list[int] = rng.permutation(len(problems)).tolist()
    for i in order:
        text = problems[i]
        if count_tokens(text) == tokens:
            return text
        longer = _with_preamble(text, tokens, count_tokens, rng)
        if longer is not None:
            return longer
    return of_length(tokens, count_tokens, rng)


def _with_preamble(problem: str, tokens: int, count_tokens: CountTokens, rng: np.random.Generator) -> str | None:
    """None when the problem is too long, or no preamble meets the length."""

    def together(preamble: str) -> int:
        return count_tokens(f"{preamble}\n\n{problem}")

    if together("") > tokens:
        return None
    try:
        return f"{of_length(tokens, together, rng)}\n\n{problem}"
    except TraceError:
        return None
