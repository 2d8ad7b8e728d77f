"""A pair of members in virtual time: what RDS, EC2 and the network do to them, and what their clients see. A model.

Rows are numbers. A primary's row is with its standby a moment later, as long as both work; a failover to the Multi-AZ
copy loses none. An open connection outlives a closed security group and ends when its server restarts, as on AWS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from drills.ledger import Attempt
from drills.virtual.machine import TaskFailed
from recovery.rds import ABSENT, Event, MemberStatus

APPLICATIONS, FUNCTIONS = "applications", "functions"
SIDES = frozenset({APPLICATIONS, FUNCTIONS})
SLOW_PROBE_MS = 150
"""A new connection takes a dozen round trips: with so much more for each it is not there within a probe's 2 s."""
FAILURE = ("failure",)
FAILOVER = ("failover",)


@dataclass
class Member:
    """One DB instance. `received` of `rows` at a replica is what it has, `replayed` how many of these it shows."""

    name: str
    rows: list[tuple[int, float]] = field(default_factory=list)
    replica_of: str | None = None
    status: str = "available"
    exists: bool = True
    alive: bool = True
    frozen: bool = False
    replaying: bool = True
    replayed: int = 0
    fault: str = "none"
    fault_side: str = "everyone"
    delay_ms: int = 0
    ingress: set[str] = field(default_factory=lambda: set(SIDES))
    generation: int = 0
    heard_at: float = 0.0
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def recovering(self) -> bool:
        """Whether it is a replica, which takes no writes."""
        return self.replica_of is not None

    def struck(self, side: str) -> str:
        """The fault of the network that callers of a side suffer."""
        return self.fault if self.fault_side in ("everyone", side) else "none"

    def answers(self, side: str, *, session: bool = False) -> bool:
        """Whether somebody of that side gets an answer, over a connection that is open already or a new one."""
        if not self.exists or not self.alive or self.frozen or self.struck(side) in ("cut", "hang"):
            return False
        slow = self.struck(side) == "slow" and self.delay_ms >= SLOW_PROBE_MS
        return session or (side in self.ingress and not (slow and side == FUNCTIONS))

    def described(self) -> MemberStatus:
        """As RDS describes it."""
        return MemberStatus(self.status, self.replica_of, True) if self.exists else MemberStatus(ABSENT)

    def restart(self) -> None:
        """End every connection."""
        self.generation += 1


class Pair:
    """Two members, their clients, and RDS's events."""

    def __init__(self, names: tuple[str, str], clients: int, now: float) -> None:
        first, second = Member(names[0]), Member(names[1], replica_of=names[0])
        self.members = {each.name: each for each in (first, second)}
        self.log: dict[int, float] = {}
        self.events: list[Event] = []
        self.attempts: list[Attempt] = []
        self.snapshots: list[str] = []
        self.promotions: list[tuple[float, str]] = []
        self._sessions: dict[int, tuple[str, int] | None] = dict.fromkeys(range(clients))
        self._numbers = 0
        for each in self.members.values():
            each.heard_at = now

    def tell(self, at: float, member: str, message: str, categories: tuple[str, ...]) -> None:
        """An event of RDS."""
        self.events.append(Event(at, member, message, categories))

    # Clients and replication -----------------------------------------------------------------------------------------

    def write(self, client: int, now: float) -> None:
        """One transaction of a client, over its connection or a new one to whichever member takes writes."""
        self._numbers += 1
        session = self._sessions[client]
        if session is not None:
            member = self.members[session[0]]
            held = session[1] == member.generation and member.exists and not member.recovering
            if not held or not member.answers(APPLICATIONS, session=True):
                self._sessions[client] = None
                self.attempts.append(Attempt(self._numbers, now, now, "failed", "broken", member.name))
                return
            self._commit(member, now)
            return
        for member in self.members.values():
            if member.answers(APPLICATIONS) and not member.recovering:
                self._sessions[client] = (member.name, member.generation)
                self._commit(member, now)
                return
        self.attempts.append(Attempt(self._numbers, now, now, "failed", "nobody takes writes"))

    def _commit(self, member: Member, now: float) -> None:
        member.rows.append((self._numbers, now))
        self.attempts.append(Attempt(self._numbers, now, now, "acknowledged", host=member.name))

    def replicate(self, now: float) -> None:
        """What the primary has comes to its standby."""
        for standby in self.members.values():
            source = self.members.get(standby.replica_of or "")
            if source is None or not (standby.exists and standby.alive and not standby.frozen):
                continue
            if source.exists and source.alive and not source.frozen and standby.status != "creating":
                standby.rows = list(source.rows)
                standby.heard_at = now
            if standby.replaying:
                standby.replayed = len(standby.rows)

    def archive(self) -> None:
        """The primary's rows come into the log."""
        for member in self.members.values():
            if not member.recovering and member.answers(FUNCTIONS):
                self.log.update(member.rows)

    def lag(self, standby: Member, now: float) -> float:
        """Seconds that a standby is behind, as its heartbeat tells."""
        if standby.replaying:
            return max(0.0, now - standby.heard_at - 1.0)
        shown = standby.rows[standby.replayed - 1][1] if standby.replayed else standby.heard_at
        return max(0.0, now - shown)

    # RDS -------------------------------------------------------------------------------------------------------------

    def need(self, name: str, *statuses: str) -> Member:
        """A member that RDS lets be asked something; TaskFailed otherwise."""
        member = self.members.get(name)
        if member is None or not member.exists:
            raise TaskFailed("Rds.DbInstanceNotFoundException", f"{name} not found")
        if member.status not in statuses:
            raise TaskFailed("Rds.InvalidDbInstanceStateException", f"{name} is {member.status}")
        return member

    def lose(self, name: str, status: str) -> None:
        """For good."""
        member = self.members[name]
        member.alive = False
        member.restart()
        if status == "failed":
            member.rows = []
        member.replayed = min(member.replayed, len(member.rows))

    def remove(self, name: str) -> None:
        """Delete an instance; its replicas become instances of their own."""
        gone = self.members[name]
        gone.exists = gone.alive = False
        gone.restart()
        for other in self.members.values():
            if other.replica_of == name:
                other.replica_of = None
