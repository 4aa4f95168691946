"""Reading a configuration's file with everything it names, and taking a changed one over while the gateway runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from slosgate.engines import profiles
from slosgate.gateway.config import Config, ConfigError, load, problem_at
from slosgate.gateway.decisions import tokenizing
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.http import overflow
from slosgate.gateway.replicas import credentials
from slosgate.gateway.reports import events, tracing

# What takes effect without a restart.
LIVE = frozenset({"classes", "keys", "admission.default_class", "server.max_body_bytes", "server.body_timeout_s"})


def checked(path: Path) -> Config:
    """The configuration in a file, with what it names looked up. Raises ConfigError with all that is wrong,
    OSError, and ValueError for what is no text."""
    set_in_environment = partial(credentials.problems, environment=os.environ)
    return load(path, (_profiles, overflow.problems, tokenizing.problems, set_in_environment, tracing.problems))


def _profiles(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    for number, replica in enumerate(config.replicas):
        try:
            if replica.profile:
                profiles.load(replica.profile)
        except profiles.UnknownProfile as error:
            yield ("replicas", str(number), "profile"), str(error)


def differing(old: Config, new: Config) -> frozenset[str]:
    """The keys whose values differ, dotted; tables of names, as [classes], are compared as a whole."""
    found: set[str] = set()
    for table in Config.__struct_fields__:
        before, after = getattr(old, table), getattr(new, table)
        if isinstance(before, msgspec.Struct):
            fields = before.__struct_fields__
            found.update(f"{table}.{name}" for name in fields if getattr(before, name) != getattr(after, name))
        elif before != after:
            found.add(table)
    return frozenset(found)


def taken_over(running: Config, read: Config) -> Config:
    """The running configuration with what can be changed without a restart as it was read."""
    changed: dict[str, object] = {}
    for name in LIVE:
        table, _, key = name.partition(".")
        value = getattr(read, table)
        if key:
            kept = changed.get(table, getattr(running, table))
            value = msgspec.structs.replace(kept, **{key: getattr(value, key)})  # type: ignore[type-var]
        changed[table] = value
    return msgspec.structs.replace(running, **changed)


class Reloading:
    """What SIGHUP does. `started` is the file's configuration as the gateway began with it, options not applied."""

    def __init__(self, path: Path | None, started: Config) -> None:
        self._path = path
        self._started = started

    def __call__(self, gateway: Gateway) -> None:
        """Read the file again and take over what can be; a bad file changes nothing. Says in the log which it was."""
        if self._path is None:
            events.say(events.NothingToReload())
            return
        try:
            read = checked(self._path)
            _check_overflow(self._path, read, gateway.overflow.known)
        except (ConfigError, OSError, ValueError) as error:
            why = "; ".join(f"{self._path}: {line}" for line in str(error).splitlines())
            events.say(events.ConfigRefused(why=why))
            return
        config = taken_over(gateway.config, read)
        taken, waiting = differing(gateway.config, config), differing(self._started, read) - LIVE
        gateway.reconfigure(config)
        file = str(self._path)
        events.say(events.ConfigReloaded(file=file, taken=tuple(sorted(taken)), waiting=tuple(sorted(waiting))))


def _check_overflow(path: Path, read: Config, known: frozenset[str]) -> None:
    """A class may only overflow to where the gateway already knows the way. Raises ConfigError."""
    text = path.read_text(encoding="utf-8")
    found = [
        problem_at(text, ("classes", name, "overflow"), f"[overflow.{c.overflow}] takes a restart of the gateway")
        for name, c in read.classes.items()
        if c.when_full == "overflow" and c.overflow not in known
    ]
    if found:
        raise ConfigError(found)
