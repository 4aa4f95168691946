"""The profile that an engine starts with: a given one, one that it measured before, or a derived one until it has.

A measurement needs two: the scheduler notes its iterations (`Measuring`), and the launcher sends requests through the
engine's own HTTP port and leaves the fitted profile in a file (`self_measurement.py`). Until then it isn't registered.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from vllm.platforms import current_platform

from slosgate.engines import profiles
from slosgate.engines.messages import IterationReport
from slosgate.engines.vllm import compat, kept
from slosgate.engines.vllm.engine_profile import effective_profile
from slosgate.engines.vllm.flight import Flight
from slosgate.engines.vllm.iteration_log import IterationLog
from slosgate.engines.vllm.self_measurement import ITERATIONS, RESULT, TASK, Task
from slosgate.engines.vllm.settings import AUTO, ReplicaSettings, load_profile
from slosgate.planner import devices, shapes
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.roofline import derive

logger = logging.getLogger("vllm.slosgate")

ROOM_BYTES = 1e15  # of a device: how much memory there is, the engine knows
UNLIKE = 0.1  # relative difference of KV bytes a token from which on a profile is another model's


class Measuring:
    """The scheduler's part of a measurement: say what is wanted, note iterations, take the result."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._result = folder / RESULT
        self._log = IterationLog(str(folder / ITERATIONS), flush_every=1)
        written = folder / f"{TASK}.new"
        written.write_bytes(msgspec.json.encode(task))
        written.replace(folder / TASK)

    def note(self, report: IterationReport, flight: Flight) -> None:
        """An iteration ended; one that was put off says nothing of what the device takes."""
        if not flight.put_off:
            self._log.write(report, flight, 0)

    def result(self) -> HardwareProfile | None:
        """What came of it, once it is known."""
        if not self._result.exists():
            return None
        self.close()
        return profiles.load(str(self._result))

    def close(self) -> None:
        self._log.close()


def starting_profile(settings: ReplicaSettings, scheduler: Any) -> tuple[HardwareProfile, Measuring | None]:
    """The profile for a vLLM scheduler, and the measurement that will better it, if there is to be one.

    Raises BadSettings for a given profile that can't be used.
    """
    if settings.profile != AUTO:
        given = load_profile(settings.profile)
        for doubt in doubts(given, scheduler):
            logger.warning("the profile %s may be wrong here: %s", given.name, doubt)
        return effective_profile(given, scheduler), None
    config = scheduler.vllm_config.model_config.hf_config.to_dict()
    key = kept.fingerprint(config, {"device": device_name(), **compat.what_matters(scheduler.vllm_config)})
    before = kept.find(key)
    if before is not None:
        logger.info("slosgate plans with what was measured before: %s", before.source)
        return effective_profile(before, scheduler), None
    profile = effective_profile(derived(config, scheduler), scheduler)
    if not settings.measuring:
        return profile, None
    vocabulary = int(scheduler.vllm_config.model_config.get_vocab_size())
    return profile, Measuring(Path(settings.measuring), Task(profile=profile, key=key, vocabulary=vocabulary))


def derived(config: dict[str, Any], scheduler: Any) -> HardwareProfile:
    """A profile from the model's config and the device's name; a rough one where either is unknown."""
    model_config, parallel = scheduler.vllm_config.model_config, scheduler.vllm_config.parallel_config
    bits = 8.0 * model_config.dtype.itemsize
    try:
        model = shapes.shape(model_config.model, config, quantization=model_config.quantization, bits=bits)
    except shapes.UnknownModel as error:
        logger.warning("%s: planning starts with the shape of %s", error, shapes.LLAMA_31_8B.name)
        model = shapes.LLAMA_31_8B
    device = known_device() or devices.A100
    if known_device() is None:
        logger.warning("unknown GPU %s: planning starts with the speed of %s", device_name(), device.name)
    roomy = dataclasses.replace(device, memory_bytes=ROOM_BYTES)
    return derive(f"auto-{devices.short_name(device)}", model, roomy, int(parallel.world_size))


def device_name() -> str:
    """As the driver reports it; CPU where vLLM runs on the processor."""
    return "CPU" if current_platform.is_cpu() else str(current_platform.get_device_name())


def known_device() -> devices.Device | None:
    try:
        return devices.device(device_name())
    except devices.UnknownDevice:
        return None


def doubts(profile: HardwareProfile, scheduler: Any) -> Iterator[str]:
    """In what a given profile contradicts the engine, one sentence each."""
    here, spans = known_device(), int(scheduler.vllm_config.parallel_config.world_size)
    if here is not None and here.name.lower() not in profile.device.lower():
        yield f"it is of {profile.device}, and this is {here.name}"
    if profile.gpus != spans:
        yield f"it is of {profile.gpus} GPUs, and this replica spans {spans}"
    bytes_here = compat.kv_bytes_per_token(scheduler)
    if profile.kv_bytes_per_token and bytes_here and abs(bytes_here / profile.kv_bytes_per_token - 1) > UNLIKE:
        yield (
            f"{profile.model} has {profile.kv_bytes_per_token} bytes of KV a token, and the model here {bytes_here}: "
            f"start without --profile, and the replica measures itself"
        )
