"""KV blocks: how many are in use, and whose old contents the free ones still hold."""

from __future__ import annotations

from collections import OrderedDict


class BlockPool:
    """Counts KV blocks; free ones are handed out least recently used first, as vLLM's prefix cache does.

    A block that a session gave back keeps its contents until it is handed out again; a later stage of the session
    claims what is left. Blocks are told apart only by session: `take`, `give` and `claim` deal in counts. Within a
    session the end of the context is handed out first, so what is left is always a prefix.
    """

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self.free = blocks
        # Oldest first. Blocks with a session hold its prefix, keyed by its name; the others are keyed by a number.
        self._unused: OrderedDict[str | int, int] = OrderedDict({0: blocks})
        self._anonymous = 0  # key of the newest run of blocks without a session

    def take(self, blocks: int) -> None:
        """Hand out free blocks. Raises ValueError when there are not that many."""
        if blocks > self.free:
            raise ValueError(f"{blocks} KV blocks were asked for, {self.free} are free")
        self.free -= blocks
        while blocks:
            oldest = next(iter(self._unused))
            had = self._unused[oldest]
            if had > blocks:
                self._unused[oldest] = had - blocks
                return
            del self._unused[oldest]
            blocks -= had

    def give(self, blocks: int, session: str = "") -> None:
        """Take blocks back; with a session they keep its prefix until they are needed."""
        if self.free + blocks > self.total:
            raise ValueError(f"{blocks} KV blocks were given back, only {self.total - self.free} are in use")
        if not blocks:
            return
        self.free += blocks
        if session:
            self._forget(session)
            self._unused[session] = blocks
        elif self._unused and next(reversed(self._unused)) == self._anonymous:
            self._unused[self._anonymous] += blocks
        else:
            self._anonymous += 1
            self._unused[self._anonymous] = blocks

    def held_for(self, session: str) -> int:
        """Blocks of the session's prefix that are still there."""
        return self._unused.get(session, 0) if session else 0

    def claim(self, session: str, at_most: int) -> int:
        """Take back at most that many blocks of the session's prefix; returns how many. The rest is forgotten."""
        claimed = min(self.held_for(session), at_most)
        if claimed:
            self._unused[session] -= claimed
            self.free -= claimed
            self._forget(session)
        return claimed

    def _forget(self, session: str) -> None:
        left = self._unused.pop(session, 0)
        if left:
            self._anonymous += 1
            self._unused[self._anonymous] = left
            # Contents that will not be claimed are the first to go.
            self._unused.move_to_end(self._anonymous, last=False)
