"""The GPUs of this machine, and who has which."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

ASKING_S = 20.0


class Gpus:
    """Hands GPUs out, each to one replica."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._all = tuple(ids)
        self._free = list(ids)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> tuple[str, ...]:
        """Raises ValueError when there are not so many left."""
        if count > len(self._free):
            raise ValueError(f"{count} GPUs are wanted, and {len(self._free)} of {len(self._all)} are free")
        taken, self._free = tuple(self._free[:count]), self._free[count:]
        return taken

    def give_back(self, ids: Sequence[str]) -> None:
        self._free = [gpu for gpu in self._all if gpu in self._free or gpu in ids]


def found(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Those that this process may use: CUDA_VISIBLE_DEVICES, or what nvidia-smi lists."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(gpu.strip() for gpu in visible.split(",") if gpu.strip())
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=ASKING_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(listed.split())
