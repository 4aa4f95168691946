"""Certificates for tests that speak TLS."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest


async def self_signed(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) for localhost and 127.0.0.1, made by openssl; skips the test where there is none."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    making = await asyncio.create_subprocess_exec(
        *command, *subject, "-keyout", key, "-out", certificate, stderr=subprocess.DEVNULL
    )
    assert await asyncio.wait_for(making.wait(), 60) == 0
    return certificate, key
