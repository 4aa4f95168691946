"""What a configuration means, in lines for people: `slosgate check-config` prints them."""

from __future__ import annotations

from collections.abc import Iterator

from slosgate.gateway.config import Config, KeyConfig, ReplicaConfig, ServerConfig
from slosgate.gateway.http.bodies import SLOWEST_BYTES_PER_S
from slosgate.gateway.http.relay import SLOW_TOKEN_S
from slosgate.gateway.promises.contract import default_class, describe


def lines(config: Config) -> Iterator[str]:
    """Classes, keys, limits, replicas, and where else requests go."""
    for name, slo_class in config.classes.items():
        tiers = f" (service_tier {', '.join(slo_class.service_tiers)})" if slo_class.service_tiers else ""
        yield f"class {name}: {describe(slo_class)}{tiers}"
    for name, key in config.keys.items():
        yield f"key {name}: {_key(key, config)}"
    if not config.keys:
        yield "no keys: everybody may ask, for every class and any SLO"
    yield from _limits(config.server)
    for replica in config.replicas:
        yield f"replica {replica.label}: {_replica(replica)}"
    for name, overflow in config.overflow.items():
        yield f"overflow {name}: {overflow.model}, within {overflow.timeout_s:g} s"
    yield f"operators: {_operators(config)}"


def _key(key: KeyConfig, config: Config) -> str:
    parts = [f"classes {', '.join(key.classes or config.classes)}", f"by default {default_class(config, key)}"]
    parts.append("SLOs of its own, but none tighter than its class" if key.may_set_slo else "no SLOs of its own")
    per_minute, at_once = key.requests_per_minute, key.max_concurrent
    parts.append("any number of requests a minute" if per_minute is None else f"{per_minute} requests a minute")
    parts.append("any number at once" if at_once is None else f"{at_once} at once")
    if key.weight != 1.0:
        parts.append(f"weight {key.weight:g}")
    return ", ".join(parts)


def _limits(server: ServerConfig) -> Iterator[str]:
    yield (
        f"requests: headers of {server.max_header_bytes} bytes within {server.header_timeout_s:g} s, bodies of "
        f"{server.max_body_bytes} bytes within {server.body_timeout_s:g} s and a second for each {SLOWEST_BYTES_PER_S} "
        "bytes"
    )
    yield (
        f"answers: begin within {server.first_byte_timeout_s:g} s and {SLOW_TOKEN_S:g} s a token of max_tokens if "
        f"not streamed, never pause for {server.request_timeout_s:g} s, end within {server.max_answer_bytes} bytes"
    )


def _replica(replica: ReplicaConfig) -> str:
    parts = [f"{replica.url}, {replica.model or 'the model that it lists'}"]
    parts.append(f"profile {replica.profile}" if replica.profile else "no profile, so best effort only")
    if replica.api_key_env:
        parts.append(f"API key in ${replica.api_key_env}")
    return ", ".join(parts)


def _operators(config: Config) -> str:
    admin = config.admin
    where = f"on {admin.address}" if admin.address else "beside the API"
    pages = "/metrics and /ready for everybody"
    if admin.pages_need_key:
        pages = "/metrics and /ready with the admin key"
    elif config.keys:
        pages = "/metrics with an API key, /ready for everybody"
    return f"{pages}, /admin {'with the admin key' if admin.sha256 else 'for nobody'}, {where}"
