"""Cycle after cycle in one environment: lose the primary, get the standby back, switch over, get it back again.

The load never stops. What a failover of an asynchronous standby may lose, the last moment before the loss, is counted
apart; nothing else may be missing, ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deployment.account import Account
from deployment.operations import Operations
from deployment.problem import Problem
from drills.client import Application
from drills.ledger import Attempt, Ledger, acknowledged
from drills.scenarios import post
from recovery import incident, roles
from recovery.roles import Roles
from recovery.table import RecoveryTable

TAIL_SECONDS = 1.0
"""A transaction acknowledged longer than this before the loss had replicated, or something is wrong."""
STEP_SECONDS = 240.0
LOAD_SECONDS = 2.0
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
        self._forgiven: set[int] = set()

    def cycle(self) -> list[Step]:
        """Failover, reprotect, switchover, reprotect. Raises Problem when one of them does not come about."""
        return [self.failover(), self.switchover()]

    def failover(self) -> Step:
        """Lose the primary for good, and wait until there is a standby again."""
        before, began = self._ready(), time.time()
        post(f"{self._control}/rds/{before.primary}/lose")
        return self._judge("failover", before, began)

    def switchover(self) -> Step:
        """Switch over by the operator's command, and wait until there is a standby again."""
        before = self._ready()
        self._operations.preview_of_switchover()
        began = time.time()
        self._operations.follow(self._operations.switchover())
        return self._judge("switchover", before, began)

    def _ready(self) -> Roles:
        """Protected, nobody at work, load acknowledged for a while, and both witnesses content."""
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

    def _judge(self, kind: str, before: Roles, began: float) -> Step:
        self._until(lambda: roles.known(self._table).epoch > before.epoch, "the change of roles")
        self._until(lambda: self._ledger.acknowledged_since(time.time() - 1) is not None, "load acknowledged again")
        self._operations.await_protection(before.epoch + 1, STEP_SECONDS)
        ended = time.time()
        after = roles.known(self._table)
        if (after.epoch, after.primary, after.standby) != (before.epoch + 1, before.standby, before.primary):
            raise Problem(f"After the {kind} of {before} the roles are {after}.")
        if self._ledger.broken:
            raise Problem(f"The load has stopped: {self._ledger.broken[0]}")
        attempts = self._ledger.attempts
        missing = {a.number: a for a in acknowledged(attempts)}
        for number in self._ledger.rows_present() | self._forgiven:
            missing.pop(number, None)
        tail = {n for n, a in missing.items() if kind == "failover" and began - TAIL_SECONDS <= a.ended <= began + 0.5}
        self._forgiven |= tail
        step = Step(
            kind, after.epoch, outage(attempts, began, ended), ended - began, len(tail), len(missing) - len(tail)
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


def run(account: Account, outputs: Mapping[str, str], cycles: int, announce: Callable[[str], None]) -> list[Step]:
    """So many cycles under load, with an RDS that takes no time. Raises Problem when one cannot be finished."""
    post(f"{account.environment['LOCAL_CLOUD_URL']}/delays", INSTANT, "PUT")
    ledger = Ledger(Application(account, outputs).connect)
    ledger.create_table()
    ledger.start()
    try:
        course = Cycles(account, outputs, ledger, announce)
        return [step for _ in range(cycles) for step in course.cycle()]
    finally:
        ledger.stop()
