"""What of a prompt a replica has cached, as far as whoever sends it there can know.

A prompt is told by chained hashes of its leading blocks: each stands for all the text before it, too. A replica drops
what was used least recently once it needs the room, and so does this. It answers two questions:

    likely   what was sent there and is not dropped: counts where a request is routed, and in what is out of reach
    sure     of that, what has been computed, as far as the replica's own counts have borne such guesses out: counts in
             what is promised

A replica that never says how much of a prompt it had cached is believed to have nothing for sure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

Hashes = tuple[int, ...]  # none of them negative

LATEST = 32  # counts of a replica that tell how good guesses are,
FEW = 3  # once there are so many,
WORST = 16  # and one in so many may be worse than what is planned with


@dataclass(frozen=True, slots=True)
class Leading:
    """The leading blocks of a prompt."""

    hashes: Hashes = ()
    share: float = 0.0  # of the prompt's tokens that are in one of them
    telling: bool = True  # False: shares of the text say nothing of tokens (images), so nothing is sure

    def tokens(self, blocks: int, prompt_tokens: int) -> int:
        """About how many tokens of the prompt so many blocks hold."""
        return int(prompt_tokens * min(1.0, blocks * self.share))


NO_BLOCKS = Leading()


class Cached(NamedTuple):
    """Tokens of a prompt that a replica may have cached."""

    likely: int = 0
    sure: int = 0
    guessed: int = 0  # what would be sure if every guess came true


NOT_CACHED = Cached()


class _Block(NamedTuple):
    tokens: int
    computed: bool


@dataclass(slots=True)
class Prefixes:
    """What one replica has been sent, of the latest `limit_tokens`."""

    limit_tokens: int
    _blocks: OrderedDict[int, _Block] = field(default_factory=OrderedDict)  # least recently used first
    _held: int = 0
    _borne_out: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    _fillers: int = 0

    def cached(self, leading: Leading, prompt_tokens: int) -> Cached:
        """What may be there of a prompt; never all of it, since its last token is always computed."""
        if not leading.hashes or leading.hashes[0] not in self._blocks:
            return NOT_CACHED
        here = self._leading(leading.hashes, computed=False)
        computed = self._leading(leading.hashes[:here], computed=True) if leading.telling else 0
        most = max(0, prompt_tokens - 1)
        likely, guessed = (min(most, leading.tokens(blocks, prompt_tokens)) for blocks in (here, computed))
        return Cached(likely, int(guessed * self.trust), guessed)

    def _leading(self, hashes: Hashes, *, computed: bool) -> int:
        """How many of these blocks are here, or have been computed here."""
        for count, name in enumerate(hashes):
            block = self._blocks.get(name)
            if block is None or (computed and not block.computed):
                return count
        return len(hashes)

    @property
    def trust(self) -> float:
        """The share of a guess that has been there, but for the worst."""
        if len(self._borne_out) < FEW:
            return 0.0
        return sorted(self._borne_out)[len(self._borne_out) // WORST]

    def sent(self, leading: Leading, prompt_tokens: int) -> None:
        """A prompt is on its way there."""
        self._use(leading, prompt_tokens, computed=False)

    def computed(self, leading: Leading, prompt_tokens: int) -> None:
        """The first token has come: all of the prompt has been computed there."""
        self._use(leading, prompt_tokens, computed=True)

    def told(self, leading: Leading, blocks: int, prompt_tokens: int) -> None:
        """Someone else has had so many leading blocks of a prompt computed there."""
        if self._leading(leading.hashes[:blocks], computed=True) < blocks:
            self._use(Leading(leading.hashes[:blocks], leading.share), prompt_tokens, computed=True)

    def ended(self, leading: Leading, prompt_tokens: int, output_tokens: int) -> None:
        """The answer is complete. Its tokens, and the prompt's behind the leading blocks, take room, too."""
        self.others(prompt_tokens - leading.tokens(len(leading.hashes), prompt_tokens) + output_tokens)
        self._use(leading, prompt_tokens, computed=True)

    def others(self, tokens: int) -> None:
        """So many tokens were computed there that nobody will look for."""
        self._fillers += 1
        self._put(-self._fillers, _Block(tokens, computed=True))  # hashes are not negative
        self._drop()

    def counted(self, expected_tokens: int, cached_tokens: int) -> None:
        """The replica had so many tokens of a prompt cached of which so many were expected."""
        if expected_tokens > 0:
            self._borne_out.append(min(1.0, cached_tokens / expected_tokens))

    def _use(self, leading: Leading, prompt_tokens: int, *, computed: bool) -> None:
        tokens = leading.tokens(1, prompt_tokens)
        # The first block last, so that of one prompt the end is dropped first.
        for name in reversed(leading.hashes):
            known = self._blocks.get(name)
            self._put(name, _Block(tokens, computed or (known is not None and known.computed)))
        self._drop()

    def _drop(self) -> None:
        while self._held > self.limit_tokens and self._blocks:
            _, dropped = self._blocks.popitem(last=False)
            self._held -= dropped.tokens

    def _put(self, name: int, block: _Block) -> None:
        known = self._blocks.pop(name, None)
        self._held += block.tokens - (known.tokens if known else 0)
        self._blocks[name] = block
