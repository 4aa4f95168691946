"""A user's own policy, named `module:Name` on the command line: a class or function that builds a system to simulate.

# mine.py
class SmallSteps(RoundRobin):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, partial(VllmPolicy, budget=256))

slosbench run --scenario coder --system mine:SmallSteps --rate 2
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from inspect import signature

from slosgate.bench.errors import InputError
from slosgate.engines.sim.systems import Settings, System, SystemFactory


def is_own(system: str) -> bool:
    """Whether a system's name is that of a user's own policy."""
    return ":" in system


def module(system: str) -> str:
    """The module that a policy is found in."""
    return system.partition(":")[0]


def load(system: str) -> SystemFactory:
    """Import a policy, also from the working directory. Raises InputError."""
    name, _, attribute = system.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, ValueError) as error:
        instead = f"; write {name.removesuffix('.py')}:{attribute}" if name.endswith(".py") else ""
        raise InputError(f"--system {system!r} names a module that can't be imported: {error}{instead}") from None
    except AttributeError:
        raise InputError(f"--system {system!r} names nothing in {name!r}: write module:Name") from None
    if not callable(found):
        raise InputError(f"--system {system!r} must be a class or function that builds a system from its settings")
    return partial(_build, system, found)


def _build(system: str, factory: SystemFactory, settings: Settings) -> System:
    """What a user's class or function makes of the settings. Raises InputError when that can't be a system; what it
    raises itself is left as it is, with its traceback."""
    try:
        signature(factory).bind(settings)
    except TypeError as error:
        raise InputError(f"--system {system!r} must take one argument, the Settings: {error}") from None
    built = factory(settings)
    missing = [name for name in ("replicas", "arrive", "served", "passes_on") if not hasattr(built, name)]
    if missing:
        raise InputError(f"--system {system!r} built a {type(built).__name__}, which has no {', '.join(missing)}")
    return built
