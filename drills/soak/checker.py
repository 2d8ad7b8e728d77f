"""What must hold after a seed, whatever happened in it. Pure: evidence in, sentences out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.ledger import Attempt, acknowledged
from recovery import clock
from recovery.history import Entry
from recovery.roles import Roles

TAIL_SECONDS = 1.0
"""A transaction acknowledged longer than this before the first harm had replicated, or something is wrong."""
OWN_ERRORS = ("FailoverFailed", "SwitchoverFailed", "ReprotectFailed")
"""With which a machine says that it was in vain; any other error is one of its definition."""


@dataclass(frozen=True)
class Evidence:
    """What a seed has left. Times are epoch seconds; `entries` are the incidents and operations since it began.

    `harmed_at`: when the first fault struck that may keep transactions from the standby (None: there was none).
    `hosts`: each member's address. `members`: what is wrong with either of them now, in words; `left`: what is still
    held or running; `executions`: of the machines, with `name`, `status` and `error`. `unfenced` tells that an operator
    accepted an unfenced primary.
    """

    before: Roles
    after: Roles
    attempts: Sequence[Attempt]
    present: Collection[int]
    entries: Sequence[Entry]
    hosts: Mapping[str, str]
    harmed_at: float | None = None
    unfenced: bool = False
    members: Sequence[str] = ()
    left: Sequence[str] = ()
    executions: Sequence[Mapping[str, Any]] = ()
    served: bool = True


@dataclass(frozen=True)
class Finding:
    """The sentences of what was violated (none: nothing was), and how many transactions were lost as allowed."""

    violations: tuple[str, ...]
    tail: int
    changes: tuple[str, ...] = field(default=())


def judge(evidence: Evidence) -> Finding:
    """What was violated."""
    missing = lost(evidence)
    tail = {n: a for n, a in missing.items() if _allowed(evidence, a)}
    found = [
        *_losses({n: a for n, a in missing.items() if n not in tail}),
        *written_behind_the_fence(evidence),
        *epochs(evidence),
        *(f"{each}" for each in evidence.members),
        *(f"{each} is left" for each in evidence.left),
        *_executions(evidence),
    ]
    if not evidence.served:
        found.append("Nothing is acknowledged although all faults are over.")
    return Finding(tuple(found), len(tail), tuple(entry.kind for entry in _changes(evidence)))


def lost(evidence: Evidence) -> dict[int, Attempt]:
    """What was acknowledged and is not there."""
    present = set(evidence.present)
    return {each.number: each for each in acknowledged(evidence.attempts) if each.number not in present}


def _losses(missing: Mapping[int, Attempt]) -> list[str]:
    if not missing:
        return []
    first, last = min(a.ended for a in missing.values()), max(a.ended for a in missing.values())
    hosts = ", ".join(sorted({str(a.host) for a in missing.values()}))
    return [
        f"{len(missing)} acknowledged transactions are missing that no failover was allowed to lose, acknowledged "
        f"between {clock.iso(first)} and {clock.iso(last)} by {hosts}, for example {min(missing)}."
    ]


def _allowed(evidence: Evidence, attempt: Attempt) -> bool:
    """Whether an asynchronous standby may lack it: acknowledged after the first harm and before the old primary was
    fenced, by the primary that a failover then replaced."""
    if evidence.harmed_at is None or attempt.ended < evidence.harmed_at - TAIL_SECONDS:
        return False
    for entry in _changes(evidence):
        if entry.kind == "failover":
            old, _, fenced = _passage(evidence, entry)
            # None: an operator accepted that it was not shown
            if attempt.host == evidence.hosts[old] and (fenced is None or attempt.ended <= fenced):
                return True
    return False


def written_behind_the_fence(evidence: Evidence) -> list[str]:
    """Transactions that a member acknowledged between its fence and its next promotion."""
    if evidence.unfenced:
        return []
    found = []
    passages = [_passage(evidence, entry) for entry in _changes(evidence)]
    for old, _, fenced in passages:
        if fenced is None:
            found.append(f"The roles have passed from {old} without a fence in the record.")
            continue
        # It is promoted again only after the other one was fenced in its turn
        again = min((at for _, new, at in passages if new == old and at is not None and at > fenced), default=None)
        late = [
            each.number
            for each in acknowledged(evidence.attempts)
            if each.host == evidence.hosts[old] and each.started > fenced and (again is None or each.ended < again)
        ]
        if late:
            found.append(f"{old} acknowledged {len(late)} transactions after it was fenced, for example {late[0]}.")
    return found


def epochs(evidence: Evidence) -> list[str]:
    """Whether the epoch grew by one with each change of roles, and the roles changed each time."""
    changed = [entry.epoch for entry in _changes(evidence)]
    expected = list(range(evidence.before.epoch, evidence.after.epoch))
    found = []
    if changed != expected:
        found.append(f"The epoch went from {evidence.before.epoch} to {evidence.after.epoch} by changes of {changed}.")
    pair = (evidence.before.primary, evidence.before.standby)
    right = pair if len(expected) % 2 == 0 else pair[::-1]
    if (evidence.after.primary, evidence.after.standby) != right:
        found.append(f"After {len(expected)} changes the roles of {evidence.before} are {evidence.after}.")
    if not evidence.after.protected:
        found.append(f"{evidence.after.standby} has not become a standby again.")
    return found


def _changes(evidence: Evidence) -> list[Entry]:
    """The incidents and operations that changed the roles, in order of epochs."""
    return sorted((each for each in evidence.entries if each.outcome == "promoted"), key=lambda entry: entry.epoch)


def _passage(evidence: Evidence, entry: Entry) -> tuple[str, str, float | None]:
    """Old and new primary of a change, and when the old one was fenced."""
    odd = (entry.epoch - evidence.before.epoch) % 2
    old, new = (evidence.before.primary, evidence.before.standby)[:: -1 if odd else 1]
    return old, new, _moment(entry.timeline, f"{old} is fenced")


def _moment(timeline: Iterable[Mapping[str, Any]], event: str) -> float | None:
    return next((clock.seconds(step["at"]) for step in timeline if step["event"] == event), None)


def _executions(evidence: Evidence) -> list[str]:
    found = []
    for each in evidence.executions:
        if each["status"] == "RUNNING":
            found.append(f"The execution {each['name']} still runs.")
        elif each["status"] != "SUCCEEDED" and each["error"] not in OWN_ERRORS:
            found.append(f"The execution {each['name']} ended as {each['status']}: {each['error']}.")
    return found
