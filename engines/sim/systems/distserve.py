"""DistServe: prefill on some replicas, decode on the others (Zhong et al., OSDI 2024).

A request is prefilled where the fewest prompt tokens wait, which gives its first token. Its KV then travels over the
link to the decode replica with the least KV assigned, and it decodes there. A prefill replica keeps the prompts of a
session's earlier stages; what those decoded is on another replica and is computed again. Two simplifications favour
DistServe: KV that waits for a decode replica takes no memory, and transfers neither wait for each other nor slow
anything down.
"""

from __future__ import annotations

from functools import partial

import msgspec

from slosgate.engines.sim.policies.distserve import DecodePolicy, PrefillPolicy
from slosgate.engines.sim.systems.base import Fleet, Settings, StageJob, one_replica


class DistServe:
    """`settings.prefill_replicas` of `settings.replicas` prefill: the split to tune. Rates are per GPU of both kinds.

    `settings.budget` bounds a prefill batch; `settings.drafts` adds fixed speculation. Raises ValueError for a split
    that leaves one kind without a replica.
    """

    def __init__(self, settings: Settings) -> None:
        prefills = settings.replicas // 2 if settings.prefill_replicas is None else settings.prefill_replicas
        if not 0 < prefills < settings.replicas:
            raise ValueError(
                f"distserve needs a replica for prefill and one for decode, not {prefills} of {settings.replicas}"
            )
        prefill = partial(PrefillPolicy, budget=settings.budget)
        decode = partial(DecodePolicy, drafts=settings.drafts)
        overhead_s = settings.profile.request_overhead_s
        self.replicas = [
            # A request comes in once; between the replicas there is no HTTP.
            one_replica(settings, prefill, n, overhead_s=overhead_s)
            if n < prefills
            else one_replica(settings, decode, n, overhead_s=0.0)
            for n in range(settings.replicas)
        ]
        self._prefills, self._decodes = range(prefills), range(prefills, settings.replicas)
        self._load = [0] * settings.replicas  # prompt tokens of the requests on each replica
        self._session: dict[str, int] = {}  # where a request's earlier stages were prefilled
        self._transfer_s = settings.profile.kv_bytes_per_token / settings.link_bytes_per_s

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        known = self._session.get(job.request.id)
        replica = self._least_loaded(self._prefills) if known is None else known
        if len(job.request.calls) > 1:
            self._session[job.request.id] = replica
        request = job.engine_request()
        self._load[replica] += request.prompt_tokens
        fleet.submit(job, replica, msgspec.structs.replace(request, output_tokens=1), now_s)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        request = job.engine_request()
        self._load[job.replica] -= request.prompt_tokens
        if job.emitted >= request.output_tokens:
            if job.last:
                self._session.pop(job.request.id, None)
            return True
        replica = self._least_loaded(self._decodes)
        self._load[replica] += request.prompt_tokens
        here = msgspec.structs.replace(request, resident=True, parts=())
        arrives_s = now_s + request.prompt_tokens * self._transfer_s
        fleet.at(arrives_s, lambda time_s: fleet.submit(job, replica, here, time_s))
        return False

    def passes_on(self, job: StageJob, replica: int) -> bool:
        return replica in self._prefills or not job.last

    def _least_loaded(self, replicas: range) -> int:
        return min(replicas, key=lambda number: self._load[number])
