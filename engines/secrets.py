"""Keeps passwords out of the list of processes, which every local user can read."""

from __future__ import annotations

import os
import sys

from slosgate.engines.store import password_of

REDIS = "SLOSGATE_REDIS"  # environment variable that stands for --redis


def hide_password() -> None:
    """Begin this program again, with `--redis` in its environment, when the address there holds a password."""
    kept: list[str] = []
    secret = ""
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        value = next(arguments, "") if argument == "--redis" else argument.removeprefix("--redis=")
        if argument.startswith("--redis") and password_of(value):
            secret = value
        else:
            kept += [argument, value] if argument == "--redis" else [argument]
    if secret:
        command = [sys.executable, "-P", "-m", "slosgate", *kept]
        os.execve(sys.executable, command, {**os.environ, REDIS: secret})  # no shell is wanted
