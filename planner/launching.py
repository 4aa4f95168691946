"""What launching an iteration costs, and which sizes are worth it.

An engine's host needs time to give the device an iteration: by kind, and whatever the size. An iteration that follows
on another is launched while that one runs, so it has to be chosen so long before its end; what arrives after that waits
for the one behind it, and where the one in flight is shorter than the launch, the device waits.

CUDA graphs of whole iterations are captured for sizes up to `captured_tokens`. A prefill is not worth going beyond them
for fewer tokens than take as long to compute as its launch takes longer: it stays within them, and what is left goes
along with the next one.
"""

from __future__ import annotations

from typing import NamedTuple

from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import PAIR, Floats, Ints, Load
from slosgate.planner.pacing import slope_of, steepest_term
from slosgate.planner.profile import Launches

DECODES, CAPTURED, BEYOND = 0, 1, 2  # kinds of iterations: decodes alone; prefill, too, within the graphs; beyond them
KINDS = 3
MARGIN_S = 0.001  # by which an iteration is chosen earlier than its launch takes, as its beginning is only expected


class Sizes(NamedTuple):
    """Which numbers of new tokens launch fast, for compiled kernels."""

    captured_tokens: int  # 0: it makes no difference
    extra_s: float  # how much longer a launch beyond takes


def sizes_of(launches: Launches | None) -> Sizes:
    """The sizes of an engine; without launches it makes no difference."""
    if launches is None or launches.captured_tokens == 0:
        return Sizes(0, 0.0)
    return Sizes(launches.captured_tokens, max(0.0, launches.beyond_s - launches.captured_s))


@compiled
def prefill_kind(new_tokens: int, captured_tokens: int) -> int:
    """The kind of an iteration with prefill that computes so many tokens."""
    return BEYOND if 0 < captured_tokens < new_tokens else CAPTURED


@compiled
def kind_of(decode: Ints, drafts: Ints, tokens: Ints, captured_tokens: int) -> int:
    """The kind of an iteration with these decodes, their drafts, and so many tokens of each prompt."""
    if len(tokens) == 0:
        return DECODES
    new = len(decode)
    for count in drafts:
        new += count
    for count in tokens:
        new += count
    return int(prefill_kind(new, captured_tokens))


@compiled
def goes_just_beyond(load: Load, decodes: int, sizes: Sizes, coef: Floats) -> bool:
    """Whether an iteration is larger than the captured sizes, by less than its launch is worth.

    `decodes` of its tokens are no prompt's, and can't be left out.
    """
    beyond = load.new - sizes.captured_tokens
    if sizes.captured_tokens == 0 or beyond <= 0 or decodes >= sizes.captured_tokens:
        return False
    big = steepest_term(coef)
    return bool(beyond * (slope_of(coef, big) + coef[big, PAIR] * load.pairs / load.new) < sizes.extra_s)
