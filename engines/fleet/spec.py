"""The fleet file: which models, how many replicas of each, gateways, Redis, GPUs.

    [gateways]                    # all share one address
    count = 2
    port = 8000
    config = "slosgate.toml"      # classes, keys, limits; beside this file
    [redis]                       # url; without one the fleet has a Valkey of its own
    [machine]
    gpus = [0, 1, 2, 3]           # to hand out; by default those that are found
    [models.chat]
    engine = "vllm"               # or "sim"
    model = "meta-llama/Llama-3.1-8B-Instruct"
    replicas = 2                  # or between limits: {least = 1, most = 8, down_after_s = 120}
    gpus = 2                      # of each replica
    options = ["--tensor-parallel-size", "2"]
    environment = {HF_HUB_OFFLINE = "1"}
    drain_s = 120                 # how long a replica that is to go may finish what it has

Every unknown key and every value out of range is refused with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from slosgate.engines import toml
from slosgate.engines.store import url_problem

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Count = Annotated[int, Meta(ge=1, le=1024)]
Positive = Annotated[float, Meta(gt=0)]
# Options of an engine that the fleet gives itself.
OURS = ("--model", "--name", "--host", "--port", "--url", "--redis", "--drain-s")


class GatewaysSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gateways, which share one listening socket: none of them closes the door when it goes."""

    count: Count = 1
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    config: str = ""  # path of the gateways' own configuration
    environment: dict[str, str] = {}

    @property
    def recipe(self) -> GatewaysSpec:
        """What one gateway is made by: gateways of other recipes are replaced."""
        return msgspec.structs.replace(self, count=1)


class RedisSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str = ""  # empty: a Valkey that only this user gets to, and that ends with the fleet


class MachineSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gpus: tuple[int | str, ...] | None = None  # indices or ids, as CUDA_VISIBLE_DEVICES takes them; None: those found


class LimitsSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As many replicas as the requests of late want, between limits."""

    least: Count = 1
    most: Count
    down_after_s: Positive = 120.0  # for which fewer must have been enough before one goes


class ModelSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replicas that are alike."""

    engine: Literal["sim", "vllm"]
    model: str = ""  # name or folder, as `vllm serve` takes it; a simulated replica serves its profile's by default
    replicas: Annotated[int, Meta(ge=0, le=1024)] | LimitsSpec = 1
    gpus: Annotated[int, Meta(ge=0, le=1024)] = 0  # of each replica
    options: tuple[str, ...] = ()  # of `slosgate engine`, as on its command line
    environment: dict[str, str] = {}
    drain_s: Positive = 60.0

    @property
    def recipe(self) -> ModelSpec:
        """What one replica is made by: replicas of other recipes are replaced."""
        return msgspec.structs.replace(self, replicas=1)

    @property
    def most(self) -> int:
        """Replicas that there may be at once."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.most


class FleetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=rf"{NAME}|^$")] = ""  # empty: the file's
    gateways: GatewaysSpec = GatewaysSpec()
    redis: RedisSpec = RedisSpec()
    machine: MachineSpec = MachineSpec()
    models: dict[str, ModelSpec] = {}


def load(path: Path) -> FleetSpec:
    """Read and check a file; its paths become absolute. Raises toml.Unusable, and OSError when it can't be read."""
    text = path.read_text(encoding="utf-8")
    spec = toml.read(text, FleetSpec)
    lines = toml.Lines(text)
    problems = [lines.problem(key, said) for key, said in _cross_checks(spec, path.parent)]
    if problems:
        raise toml.Unusable(problems)
    gateways = spec.gateways
    if gateways.config:
        config = str((path.parent / gateways.config).resolve())
        gateways = msgspec.structs.replace(gateways, config=config)
    return msgspec.structs.replace(spec, name=spec.name or _name_of(path), gateways=gateways)


def _name_of(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+|^[^A-Za-z0-9]+", "-", path.stem)[:63].lstrip("-_.") or "fleet"


def _cross_checks(spec: FleetSpec, folder: Path) -> Iterator[tuple[toml.Path, str]]:
    if not spec.models:
        yield ("models",), "is missing: a fleet serves at least one model, [models.NAME]"
    if spec.redis.url and (problem := url_problem(spec.redis.url)):
        yield ("redis", "url"), problem
    if spec.gateways.config and not (folder / spec.gateways.config).is_file():
        yield ("gateways", "config"), f"no such file: {folder / spec.gateways.config}"
    for name, model in spec.models.items():
        yield from ((("models", name, key), said) for key, said in _model_checks(name, model))


def _model_checks(name: str, model: ModelSpec) -> Iterator[tuple[str, str]]:
    if problem := _name_problem(name):
        yield "engine", problem
    if model.engine == "vllm" and not model.model:
        yield "model", "is missing: the name or folder of the model, as `vllm serve` takes it"
    if isinstance(model.replicas, LimitsSpec) and model.replicas.least > model.replicas.most:
        yield "replicas", f"least is {model.replicas.least}, more than most, {model.replicas.most}"
    for option in model.options:
        if option.partition("=")[0].replace("_", "-") in OURS:
            yield "options", f"{option} is given by the fleet itself; leave it out"


def _name_problem(name: str) -> str:
    try:
        msgspec.convert(name, Annotated[str, Meta(pattern=NAME)])
    except msgspec.ValidationError:
        return f"{name!r} is no name for a table of replicas; accepted: letters, digits, '.', '_' and '-'"
    return "" if name != "gateway" else "'gateway' is what gateways are called; name the model otherwise"
