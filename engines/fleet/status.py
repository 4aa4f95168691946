"""What a fleet says of itself, as a record and as a table of 80 columns."""

from __future__ import annotations

import msgspec
from rich.table import Table
from rich.text import Text

COLUMNS = 80
WIDTHS = {"GPUs": 4, "load": 6, "headroom": 8, "attained": 8, "kept": 7}  # of figures
MOST_GPUS = 9
STATE = 15  # of "10 of 12 ready,"
STYLES = {"ready": "green", "draining": "yellow", "starting": "cyan"}


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: str
    gpus: tuple[str, ...]
    failures: int  # in a row
    looping: bool  # it keeps ending
    why: str  # it ended last
    retry_in_s: float
    load: int | None  # requests there; None where nobody says
    pid: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of one table of the file, or the gateways. What is None is not known (yet)."""

    name: str
    wanted: int
    members: tuple[MemberStatus, ...]
    model: str = ""
    headroom: int | None = None  # requests like the recent ones that could be guaranteed now
    needed: int | None = None  # replicas on which the requests of the last minute could be promised
    offered: int = 0  # requests with an SLO, in the last minutes
    attained: float | None = None  # share of these
    kept: float | None = None  # share of the guarantees

    @property
    def ready(self) -> int:
        return sum(member.state == "ready" for member in self.members)


class Status(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    busy: bool  # something is still to be brought about
    stuck: str  # why the newest file was not
    groups: tuple[Group, ...]

    @property
    def whole(self) -> bool:
        """Whether everything that is wanted is up, and nothing else."""
        return not self.busy and all(g.ready == g.wanted == len(g.members) for g in self.groups)

    @property
    def troubles(self) -> list[str]:
        """What keeps it from being whole, in sentences."""
        looping = [m for group in self.groups for m in group.members if m.looping]
        told = [f"{m.name} keeps ending ({m.failures} times): {m.why}" for m in looping]
        return [self.stuck, *told] if self.stuck else told


def table(status: Status) -> Table:
    """Names are cut where there is no room for them, figures never."""
    gpus = [len(",".join(member.gpus)) for group in status.groups for member in group.members]
    widths = WIDTHS | {"GPUs": min(max((WIDTHS["GPUs"], *gpus)), MOST_GPUS)}
    room = COLUMNS - STATE - sum(1 + width for width in widths.values()) - 1
    shown = Table(title=f"{status.name} at {status.address}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True, overflow="ellipsis", max_width=room)
    shown.add_column("state", min_width=STATE, max_width=STATE)
    for column, width in widths.items():
        shown.add_column(column, justify="right", no_wrap=True, overflow="ellipsis", min_width=width, max_width=width)
    for group in status.groups:
        name = f"{group.name} ({group.model})" if group.model else group.name
        figures = (_number(group.headroom), _share(group.attained), _share(group.kept))
        short = group.needed is not None and group.needed > group.wanted
        state = f"{group.ready} of {group.wanted} ready" + (f",\n{group.needed} needed" if short else "")
        shown.add_row(Text(name, "bold"), state, "", "", *figures)
        for member in group.members:
            shown.add_row(f"  {member.name}", _state(member), ",".join(member.gpus), _number(member.load), "", "", "")
    return shown


def _state(member: MemberStatus) -> Text:
    if member.looping:
        return Text("crash loop", "red")
    if member.state == "waiting":
        return Text(f"ended, again in {member.retry_in_s:.0f} s", "red")
    return Text(member.state, STYLES.get(member.state, ""))


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
