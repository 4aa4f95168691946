"""The supervisor of a fleet: brings about what a file says, replica by replica, and keeps it up.

A newer file is brought about in this order: what is too many drains, what is missing starts, what is made otherwise now
is replaced one by one. A new replica takes its place before the old one goes where there are GPUs for both, else after
it. When a new one doesn't come up, the others are left as they are. Models with limits are scaled between them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from slosgate.engines.cancelling import ended
from slosgate.engines.fleet.figures import Figures
from slosgate.engines.fleet.listener import Listener
from slosgate.engines.fleet.member import Member, State
from slosgate.engines.fleet.places import Launch, Place
from slosgate.engines.fleet.scaling import EVERY_S, Scaling
from slosgate.engines.fleet.sight import Sight
from slosgate.engines.fleet.spec import FleetSpec, GatewaysSpec, ModelSpec
from slosgate.engines.fleet.status import Group, MemberStatus, Status
from slosgate.engines.secrets import REDIS

GATEWAY = "gateway"
METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where gateways that share an address keep their counts for each other
GATEWAY_DRAIN_S = 600.0  # gateways bound their drain themselves
POLL_S = 0.05

_log = logging.getLogger("slosgate.fleet")


@dataclass(frozen=True, slots=True)
class GatewayRecipe:
    """What a gateway is made by: also what its configuration says, which may change while the fleet's file doesn't."""

    spec: GatewaysSpec
    config: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many members that are alike."""

    group: str
    recipe: GatewayRecipe | ModelSpec
    count: int


class Superseded(Exception):
    """There is a newer file."""


class Supervisor:
    """Replicas run at `place`, gateways `here`, on this machine."""

    def __init__(self, spec: FleetSpec, *, redis_url: str, here: Place, place: Place, sight: Sight) -> None:
        self.spec = spec
        self.members: list[Member] = []
        self._redis_url = redis_url
        self._listener = Listener()
        self._here = here
        self._place = place
        self._sight = sight
        self._figures = Figures(sight)
        self._scaling = Scaling()
        self._tasks: dict[Member, asyncio.Task[None]] = {}
        self._drains: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._busy = False
        self._stuck = ""  # why the newest file was not brought about

    def apply(self, spec: FleetSpec) -> None:
        """Bring this about from now on."""
        self.spec = spec
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled; `down` comes before."""
        self._changed.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sight.run())
            tasks.create_task(self._figures.run(self._gateway_pids))
            tasks.create_task(self._keep_to_spec())
            tasks.create_task(self._scale())

    async def down(self) -> None:
        """Drain gateways, then replicas."""
        self.spec = msgspec.structs.replace(self.spec, models={})
        self._listener.close()
        await self._drain([m for m in self.members if m.group == GATEWAY])
        await self._drain(list(self.members))

    async def kill(self) -> None:
        """End everything at once."""
        await ended(self._tasks.values())

    # What is wanted

    async def _scale(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            if self._scaling.look(self.spec.models, lambda name: self._figures.wanted(self._model(name))):
                self._changed.set()

    async def _keep_to_spec(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._busy, self._stuck = True, ""
            try:
                self._listener.open(self.spec.gateways.host, self.spec.gateways.port)
                await self._bring_about(list(_wanted(self.spec, self._scaling)))
            except Superseded:
                pass
            except OSError as error:
                self._stuck = f"the file can't be brought about: {error}"
                _log.error("%s", self._stuck)
            self._busy = False

    async def _bring_about(self, wanted: list[Wanted]) -> None:
        drain = asyncio.create_task(self._drain(list(self._surplus(wanted))))
        self._drains.add(drain)  # it goes on when there is something newer
        drain.add_done_callback(self._drains.discard)
        await asyncio.sleep(0)  # it has told them
        for want in wanted:
            for _ in range(want.count - len(self._of(want.group))):
                self._add(want)
        await self._until(drain.done)
        for want in wanted:
            for old in [m for m in self._of(want.group) if m.recipe != want.recipe]:
                if not await self._replace(old, want):
                    return
        await self._until(lambda: all(m.state is State.READY or m.looping for m in self.members))

    def _surplus(self, wanted: Iterable[Wanted]) -> Iterator[Member]:
        """Members that nothing is to take the place of: of other recipes first, then those that are not up."""
        by_group = {want.group: want for want in wanted}
        for group in {member.group for member in self.members}:
            want = by_group.get(group)
            found = self._of(group)
            if want is not None:
                found.sort(key=partial(self._worth, want.recipe))
            yield from found[: max(0, len(found) - (want.count if want else 0))]

    def _worth(self, recipe: object, member: Member) -> tuple[bool, bool, int]:
        """What is worth least goes first."""
        return member.recipe == recipe, member.state is State.READY, self._figures.load(member.name) or 0

    async def _replace(self, old: Member, want: Wanted) -> bool:
        """Whether a new member is up in place of an old one."""
        gpus = want.recipe.gpus if isinstance(want.recipe, ModelSpec) else 0
        roomy = gpus == 0 or self._place.has_room(gpus)
        if not roomy:
            await self._drain([old])
        new = self._add(want)
        await self._until(lambda: new.state is State.READY or new.looping)
        if new.looping:
            self._stuck = f"{new.name} doesn't come up, so the others are left as they are"
            _log.error("%s: %s", self._stuck, new.why)
            return False
        if roomy:
            await self._drain([old])
        return True

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Raises Superseded when there is a newer file before it holds."""
        while not condition():
            if self._changed.is_set():
                raise Superseded
            await asyncio.sleep(POLL_S)

    # Members

    def _of(self, group: str) -> list[Member]:
        return [m for m in self.members if m.group == group and not m.leaving]

    def _add(self, want: Wanted) -> Member:
        if isinstance(want.recipe, GatewayRecipe):
            launch = self._gateway(self._free_name(GATEWAY), want.recipe.spec)
            member = Member(GATEWAY, want.recipe, launch, self._here, self._gateway_ready)
        else:
            launch = self._replica(self._free_name(want.group), want.recipe)
            member = Member(want.group, want.recipe, launch, self._place, self._replica_ready)
        self.members.append(member)
        self._tasks[member] = asyncio.create_task(member.run())
        return member

    def _free_name(self, group: str) -> str:
        taken, number = {member.name for member in self.members}, 1
        while (name := f"{self.spec.name}-{group}-{number}") in taken:
            number += 1
        return name

    def _gateway(self, name: str, recipe: GatewaysSpec) -> Launch:
        config = ("--config", recipe.config) if recipe.config else ()
        pages = str(self._sight.pages)
        return Launch(
            name,
            ("serve", *config, "--fd", str(self._listener.descriptor), "--pages", pages),
            {**recipe.environment, REDIS: self._redis_url, METRICS: pages},
            drain_s=GATEWAY_DRAIN_S, listens=False, files=(self._listener.descriptor,),
        )  # fmt: skip

    def _replica(self, name: str, recipe: ModelSpec) -> Launch:
        model = ("--model", recipe.model) if recipe.model else ()
        return Launch(
            name,
            ("engine", recipe.engine, "--name", name, *model, "--drain-s", f"{recipe.drain_s:g}", *recipe.options),
            {**recipe.environment, REDIS: self._redis_url},
            gpus=recipe.gpus, drain_s=recipe.drain_s,
        )  # fmt: skip

    async def _drain(self, members: list[Member]) -> None:
        for member in members:
            member.stop()
        for member in members:
            if member in self._tasks:
                await self._tasks[member]
            self._tasks.pop(member, None)
            self.members = [m for m in self.members if m is not member]

    # Whether they are up

    async def _replica_ready(self, member: Member) -> bool:
        info = self._sight.replicas.get(member.name)
        return info is not None and member.running is not None and info.url == member.running.url

    async def _gateway_ready(self, member: Member) -> bool:
        """It knows every replica that is up: from then on it can take another gateway's place."""
        page = await self._sight.ready(member.running.pid) if member.running else None
        up = {m.name for m in self.members if m.group != GATEWAY and m.state is State.READY}
        return page is not None and page.state_available and up <= page.replicas.keys()

    def _gateway_pids(self) -> list[int]:
        return [m.running.pid for m in self.members if m.group == GATEWAY and m.running and m.state is State.READY]

    # What it shows

    def status(self) -> Status:
        wanted = {name: self._scaling.count(name, model) for name, model in self.spec.models.items()}
        wanted[GATEWAY] = self.spec.gateways.count if wanted else 0
        groups = dict.fromkeys([*wanted, *(member.group for member in self.members)])
        found = sorted(self.members, key=lambda member: member.name)
        members = {group: [self._member_status(m) for m in found if m.group == group] for group in groups}
        return Status(
            name=self.spec.name,
            address=f"http://{self.spec.gateways.host}:{self.spec.gateways.port}",
            busy=self._busy or self._changed.is_set(),
            stuck=self._stuck,
            groups=tuple(
                Group(
                    name=group, wanted=wanted.get(group, 0), members=tuple(members[group]),
                    **self._figures.of(self._model(group)),
                )
                for group in groups
            ),
        )  # fmt: skip

    def _model(self, group: str) -> str:
        """What its replicas are asked for by; empty as long as none is registered."""
        found = [self._sight.replicas.get(member.name) for member in self.members if member.group == group]
        return next((info.model for info in found if info), "")

    def _member_status(self, member: Member) -> MemberStatus:
        waits_s = max(0.0, member.retry_s - time.monotonic()) if member.state is State.WAITING else 0.0
        return MemberStatus(
            name=member.name, state=member.state, gpus=member.running.gpus if member.running else (),
            failures=member.failures, looping=member.looping, why=member.why, retry_in_s=waits_s,
            load=self._figures.load(member.name), pid=member.running.pid if member.running else 0,
        )  # fmt: skip


def _wanted(spec: FleetSpec, scaling: Scaling) -> Iterator[Wanted]:
    """Raises OSError when the gateways' configuration can't be read."""
    for name, model in spec.models.items():
        yield Wanted(name, model.recipe, scaling.count(name, model))
    if spec.models:
        config = Path(spec.gateways.config).read_bytes() if spec.gateways.config else b""
        yield Wanted(GATEWAY, GatewayRecipe(spec.gateways.recipe, config), spec.gateways.count)
