"""Classes that no configured replica could ever serve: a configuration that promises nothing but refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slosgate.engines import profiles
from slosgate.gateway.config import ClassConfig, Config
from slosgate.gateway.errors import some
from slosgate.planner.profile import HardwareProfile


def warnings(config: Config, registering: Sequence[str] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """What an idle replica can't keep even for a prompt of one token, as (path, message).

    `registering` are profiles of replicas that register in Redis, as far as they are known. Others that do may be
    faster, so this is no error. Raises UnknownProfile for one of those.
    """
    for number, replica in enumerate(config.replicas):
        if replica.url.rstrip("/").endswith("/v1"):
            yield ("replicas", str(number), "url"), f"paths begin with /v1 already: leave it out of {replica.url}"
    known = {name: profiles.load(name) for name in _named(config, registering)}
    if not known:
        if config.replicas:
            yield from _without_profile(config)
        return
    for name, slo_class in config.classes.items():
        yield from ((("classes", name, field), message) for field, message in _unreachable(slo_class, known))


def unchecked(config: Config, registering: Sequence[str] = ()) -> str:
    """Which classes `warnings` knew nothing to compare with, and what would help; empty where it did."""
    promising = [name for name, slo_class in config.classes.items() if slo_class.promises]
    if not promising or _named(config, registering):
        return ""
    return (
        f"not checked: whether a replica could keep the SLO of {some(promising)}, for no [[replicas]] has a profile; "
        "--profile NAME or FILE says on which hardware replicas register"
    )


def _named(config: Config, registering: Sequence[str]) -> list[str]:
    return [*(replica.profile for replica in config.replicas if replica.profile), *registering]


def _without_profile(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, slo_class in config.classes.items():
        if slo_class.promises and slo_class.when_full == "reject":
            message = "no configured replica has a profile, so nothing can be guaranteed and all of it is refused"
            yield ("classes", name, "when_full"), message


def _unreachable(slo_class: ClassConfig, known: dict[str, HardwareProfile]) -> Iterator[tuple[str, str]]:
    ttft_ms, fastest = min((profile.zero_load_ttft_s(1) * 1000, name) for name, profile in known.items())
    if slo_class.ttft_ms is not None and slo_class.ttft_ms < ttft_ms:
        yield "ttft_ms", _sentence("a TTFT", slo_class.ttft_ms, ttft_ms, fastest, "for one prompt token")
    if slo_class.e2e_ms is not None and slo_class.e2e_ms < ttft_ms:
        yield "e2e_ms", _sentence("a whole answer", slo_class.e2e_ms, ttft_ms, fastest, "for one prompt token")
    tpot_ms, fastest = min((profile.perf.iteration_s(1, 2, 1) * 1000, name) for name, profile in known.items())
    for field, asked_ms in (("tpot_ms", slo_class.tpot_ms), ("think_tpot_ms", slo_class.think_tpot_ms)):
        if asked_ms is not None and asked_ms < tpot_ms:
            yield field, _sentence("a TPOT", asked_ms, tpot_ms, fastest, "a token")


def _sentence(what: str, asked_ms: float, least_ms: float, profile: str, for_what: str) -> str:
    return (
        f"{what} of {asked_ms:g} ms can never be kept: the fastest replica known here ({profile}) takes "
        f"{least_ms:.3g} ms {for_what} when it is idle"
    )
