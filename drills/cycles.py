"""Cycle after cycle in one environment: lose the primary, get the standby back, switch over, get it back again.

The load never stops. What a failover of an asynchronous standby may lose, the last moment before the loss, is counted
apart; nothing else may be missing, ever.
"""

from __future__ import annotations

import random
import secrets
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.error import HTTPError

from deployment import local
from deployment.account import Account
from deployment.destruction import Destruction
from deployment.operations import Operations
from deployment.problem import Problem
from drills.client import Application
from drills.ledger import Attempt, Ledger, acknowledged
from drills.scenarios import post
from recovery import clock, history, incident, roles
from recovery.roles import Roles
from recovery.table import RecoveryTable

TAIL_SECONDS = 1.0
"""A transaction acknowledged longer than this before the loss had replicated, or something is wrong."""
STEP_SECONDS = 240.0
LOAD_SECONDS = 2.0
CALM_SECONDS = 20.0
FAULTS: Mapping[str, Mapping[str, object]] = {
    "cut": {"fault": "cut"},
    "hang": {"fault": "hang"},
    # Too slow for a witness that signs in; who is signed in already goes on writing
    "slow": {"fault": "slow", "delay_ms": 600},
    # Cut off, and in the middle of that its server dies and is started again by RDS
    "restart": {"fault": "cut"},
}
STUBBORN = 10_000_000
"""Where the numbers of the clients begin that know one address only."""
LONGEST_FAULT_SECONDS = 25.0
"""From before the suspicion until after the cut-over: a failover takes about ten seconds of it."""
NO_GRACE = {"MULTI_AZ_GRACE_SECONDS": "0"}
INSTANT: Mapping[str, float] = dict.fromkeys(
    (
        *("creation_seconds", "promotion_seconds", "multi_az_failover_seconds"),
        *("failed_after_seconds", "reboot_seconds", "backing_up_seconds"),
    ),
    0.0,
)
"""RDS as if it took no time, so that what is measured is ours."""


@dataclass(frozen=True)
class Step:
    """One change of roles: its kind, outage at the client (s), time until there was a standby again (s), lost rows."""

    kind: str
    epoch: int
    outage: float
    unprotected: float
    tail: int
    lost: int


def _unless_deleted(url: str, body: Mapping[str, object] | None = None) -> None:
    """Tell a member something, unless a reprotect has deleted it meanwhile: then there is nothing to heal."""
    try:
        post(url, body)
    except HTTPError as error:
        if error.code != HTTPStatus.NOT_FOUND:
            raise


class Cycles:
    """Failovers and switchovers of one environment, with load and checks."""

    def __init__(
        self, account: Account, outputs: Mapping[str, str], ledger: Ledger, announce: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._announce = announce
        self._control = account.environment["LOCAL_CLOUD_URL"]
        self._table = RecoveryTable(account.client("dynamodb"), outputs["RecoveryTableName"])
        self._operations = Operations(account, outputs["EnvironmentSuffix"], lambda _: None)
        self._application = Application(account, outputs)
        self._members = {outputs[f"Member{n}Identifier"]: n for n in (1, 2)}
        self._hosts = {outputs[f"Member{n}Identifier"]: outputs[f"Member{n}Endpoint"] for n in (1, 2)}
        self._forgiven: set[int] = set()
        self._stubborn: list[Attempt] = []

    def cycle(self) -> list[Step]:
        """Failover, reprotect, switchover, reprotect. Raises Problem when one of them does not come about."""
        return [self.failover(), self.switchover()]

    def failover(self) -> Step:
        """Lose the primary for good, and wait until there is a standby again."""
        before, began = self._ready(), time.time()
        post(f"{self._control}/rds/{before.primary}/lose")
        return self._judge("failover", before, began)

    def cycles(self, count: int) -> list[Step]:
        """So many cycles."""
        return [step for _ in range(count) for step in self.cycle()]

    def switchover(self) -> Step:
        """Switch over by the operator's command, and wait until there is a standby again."""
        before = self._ready()
        self._operations.preview_of_switchover()
        began = time.time()
        self._operations.follow(self._operations.switchover())
        return self._judge("switchover", before, began)

    def partition(self, fault: str, heals_after: float) -> Step:
        """Cut the primary off, let it hang, be slow or be restarted, and heal that after so many seconds, wherever the
        failover is by then. Beside the load there are clients that have cached its address and hold connections open.

        What it acknowledged before it was fenced and had not replicated is the tail; after the fence it may acknowledge
        nothing. When the fault heals before anything is promoted, nothing may be missing at all.
        """
        before = self._ready()
        number = self._members[before.primary]
        first = max((each.number for each in self._stubborn), default=STUBBORN) + 100
        clients = Ledger(lambda: self._application.connect_member(number), writers=2, first=first)
        clients.start()
        try:
            time.sleep(LOAD_SECONDS / 2)
            began = time.time()
            self._strike(before.primary, fault, heals_after)
            self._until(
                lambda: roles.known(self._table).epoch > before.epoch or self._calm_since(began + heals_after),
                "a failover or a calm primary",
            )
            kind = f"{fault} {heals_after:.1f} s"
            failed_over = roles.known(self._table).epoch > before.epoch
            if failed_over:
                # The record comes after the roles
                self._until(lambda: self._fenced_at(before) is not None, f"the record that {before.primary} is fenced")
                self._operations.await_protection(before.epoch + 1, STEP_SECONDS)
        finally:
            clients.stop()
            self._stubborn += clients.attempts
        if not failed_over:
            lost = len(self._missing(self._attempts))
            self._announce(f"{kind:10} epoch {before.epoch:3}  healed before anything was promoted  lost {lost}")
            return Step(kind, before.epoch, 0.0, 0.0, 0, lost)
        fenced_at = self._fenced_at(before)
        assert fenced_at is not None
        late = [
            each.number
            for each in acknowledged(self._attempts)
            if each.host == self._hosts[before.primary] and each.started > fenced_at
        ]
        if late:
            raise Problem(f"{before.primary} acknowledged {len(late)} transactions behind the fence, e.g. {late[0]}.")
        return self._judge(kind, before, began, fenced_at=fenced_at)

    def _strike(self, primary: str, fault: str, heals_after: float) -> None:
        endpoint = f"{self._control}/rds/{primary}/endpoint"
        post(endpoint, FAULTS[fault])
        if fault == "restart":
            time.sleep(heals_after / 2)
            _unless_deleted(f"{self._control}/rds/{primary}/kill")
        time.sleep(heals_after / 2 if fault == "restart" else heals_after)
        _unless_deleted(endpoint, {"fault": "none"})

    @property
    def _attempts(self) -> list[Attempt]:
        return self._ledger.attempts + self._stubborn

    def _calm_since(self, healed_at: float) -> bool:
        return time.time() > healed_at + CALM_SECONDS and incident.read_lease(self._table) is None

    def _fenced_at(self, before: Roles) -> float | None:
        """When the failover of an epoch had shown that the old primary is out of reach, epoch seconds."""
        for entry in history.read(self._table):
            if entry.kind == "failover" and (entry.epoch, entry.outcome) == (before.epoch, "promoted"):
                for step in entry.timeline:
                    if step["event"] == f"{before.primary} is fenced":
                        return clock.seconds(step["at"])
        return None

    def _missing(self, attempts: Iterable[Attempt]) -> dict[int, Attempt]:
        """What was acknowledged and is not there, except what was put down as a tail before."""
        missing = {each.number: each for each in acknowledged(attempts)}
        for number in self._ledger.rows_present() | self._forgiven:
            missing.pop(number, None)
        return missing

    def await_calm(self) -> None:
        """Wait until there is a standby and nobody at work. Raises Problem when that does not come about."""
        self._ready()

    def _ready(self) -> Roles:
        """Protected, nobody at work, load acknowledged for a while, and both witnesses content."""
        self._until(lambda: roles.read(self._table) is not None, "a witness that has seen both members")
        self._operations.await_protection(0, STEP_SECONDS)
        self._until(lambda: incident.read_lease(self._table) is None, "the release of the lease")
        since = time.time()
        time.sleep(LOAD_SECONDS)
        self._until(lambda: self._ledger.acknowledged_since(since) is not None, "load that is acknowledged")
        self._until(self._contented, "witnesses that see nothing in the way of a switchover")
        return roles.known(self._table)

    def _contented(self) -> bool:
        try:
            self._operations.preview_of_switchover()
        except Problem:
            return False
        return True

    def _judge(self, kind: str, before: Roles, began: float, fenced_at: float | None = None) -> Step:
        self._until(lambda: roles.known(self._table).epoch > before.epoch, "the change of roles")
        self._until(lambda: self._ledger.acknowledged_since(time.time() - 1) is not None, "load acknowledged again")
        self._operations.await_protection(before.epoch + 1, STEP_SECONDS)
        ended = time.time()
        after = roles.known(self._table)
        if (after.epoch, after.primary, after.standby) != (before.epoch + 1, before.standby, before.primary):
            raise Problem(f"After the {kind} of {before} the roles are {after}.")
        if self._ledger.broken:
            raise Problem(f"The load has stopped: {self._ledger.broken[0]}")
        missing = self._missing(self._attempts)
        last = fenced_at if fenced_at is not None else began + 0.5
        tail = {n for n, a in missing.items() if kind != "switchover" and began - TAIL_SECONDS <= a.ended <= last}
        self._forgiven |= tail
        step = Step(
            kind,
            after.epoch,
            outage(self._ledger.attempts, began, ended),
            ended - began,
            len(tail),
            len(missing) - len(tail),
        )
        self._announce(
            f"{step.kind:10} epoch {step.epoch:3}  outage {step.outage:5.1f} s  standby again after "
            f"{step.unprotected:5.1f} s  not replicated at the loss {step.tail}  lost {step.lost}"
        )
        return step

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise Problem(f"Waited {STEP_SECONDS:.0f} s in vain for {what}.")
            time.sleep(0.5)


def outage(attempts: Iterable[Attempt], began: float, ended: float) -> float:
    """The longest time without an acknowledgement in a stretch of time, s."""
    moments = sorted(a.ended for a in acknowledged(attempts) if began <= a.ended <= ended)
    return max(
        (later - earlier for earlier, later in zip([began, *moments], [*moments, ended], strict=True)), default=0
    )


def partitions(course: Cycles, rounds: int, seed: int) -> list[Step]:
    """So many faults that heal at moments which the seed chooses."""
    chance = random.Random(seed)  # noqa: S311  (a replayable choice of moments)
    return [
        course.partition(chance.choice(list(FAULTS)), round(chance.uniform(1, LONGEST_FAULT_SECONDS), 1))
        for _ in range(rounds)
    ]


def rehearse(
    environment: Mapping[str, str], course: Callable[[Cycles], list[Step]], announce: Callable[[str], None]
) -> list[Step]:
    """A course in a local cloud of its own; at the end a diff must be empty and a destroy leave nothing."""
    with local.system(f"cycle-{secrets.token_hex(2)}", environment) as deployed:
        announce(f"deployed {deployed.cdk.suffix}")
        steps = run(deployed.account, deployed.outputs, course, announce)
        if difference := deployed.cdk.diff():
            raise Problem(f"After all of it a deploy would change something:\n{difference}")
        outcome = Destruction(deployed.account, deployed.cdk, protect=False, announce=lambda _: None).run()
        if outcome.left:
            raise Problem(f"After all of it a destroy leaves {', '.join(outcome.left)}.")
        announce("the diff is empty, and the destroy has left nothing")
    return steps


def summary(steps: Iterable[Step]) -> str:
    """Worst and median of each kind, in sentences."""
    lines = []
    kept = list(steps)
    for kind in dict.fromkeys(step.kind for step in kept):
        of_kind = [step for step in kept if step.kind == kind]
        outages, times = [step.outage for step in of_kind], [step.unprotected for step in of_kind]
        lines.append(
            f"{len(of_kind)} {kind}s: outage median {statistics.median(outages):.1f} s, longest {max(outages):.1f} s; "
            f"standby again after median {statistics.median(times):.1f} s, longest {max(times):.1f} s; not replicated "
            f"at the loss {sum(step.tail for step in of_kind)}, lost {sum(step.lost for step in of_kind)}"
        )
    return "\n".join(lines)


def run(
    account: Account,
    outputs: Mapping[str, str],
    course: Callable[[Cycles], list[Step]],
    announce: Callable[[str], None],
) -> list[Step]:
    """A course under load, with an RDS that takes no time. Raises Problem when it cannot be finished."""
    post(f"{account.environment['LOCAL_CLOUD_URL']}/delays", INSTANT, "PUT")
    ledger = Ledger(Application(account, outputs).connect)
    ledger.create_table()
    ledger.start()
    try:
        return course(Cycles(account, outputs, ledger, announce))
    finally:
        ledger.stop()
