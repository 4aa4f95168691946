from __future__ import annotations

from tests.gateway.conftest import client

__all__ = ["client"]
