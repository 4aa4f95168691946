"""The vLLM versions that the plug-in was tested with. Importing this does not import vLLM."""

from __future__ import annotations

import os

SUPPORTED = ("0.25.1", "0.32.0", "0.33.0")
ANY_VERSION = "SLOSGATE_ANY_VLLM"


class UnsupportedVllm(RuntimeError):
    """This vLLM, or the way it is configured, is not one that the plug-in was tested with."""


def require_supported(version: str) -> None:
    """Raises UnsupportedVllm for a vLLM version that was not tested, unless the environment overrides it."""
    release = version.partition("+")[0]
    if release not in SUPPORTED and os.environ.get(ANY_VERSION) != "1":
        raise UnsupportedVllm(
            f"slosgate's scheduler was tested with vLLM {', '.join(SUPPORTED[:-1])} and {SUPPORTED[-1]}, and this is "
            f"{release}: install one of those (pip install 'vllm=={SUPPORTED[-1]}'), "
            f"or set {ANY_VERSION}=1 to try this one"
        )
