"""One iteration, by rows of a JobTable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Batch(NamedTuple):
    """What one iteration runs. Rows are those of the table it was chosen from, and void once that changes shape."""

    decode: NDArray[np.int64]  # rows that decode: one token each, plus drafts
    drafts: NDArray[np.int64]  # draft tokens for each of them, zeros without speculation
    prefill: NDArray[np.int64]  # rows that prefill
    tokens: NDArray[np.int64]  # prompt tokens for each of them
    duration_s: float  # as the performance model predicts

    @property
    def empty(self) -> bool:
        return not (self.decode.size or self.prefill.size)
