"""Tests against a real vLLM installation: `make test-vllm`. Without one they are not even collected."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
