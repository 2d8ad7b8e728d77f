"""Decide what to do about a primary that may be lost. Pure: no clock, no network, no database.

Three parties give signals that the primary is lost, each counting once: witness a, witness c, and RDS by its status or
its events. A witness that reaches neither member only proves that it is itself cut off: it gives no signal. Nothing
destructive happens on fewer than two signals, nor while any fresh witness still writes to the primary, nor (unless RDS
itself says that it is lost) while transactions that others commit there keep coming to the standby.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from recovery.objectives import Detection, Objectives
from recovery.observation import Observation
from recovery.override import LAG, Override
from recovery.pause import Pause
from recovery.rds import ABSENT, UNKNOWN, Event, MemberStatus
from recovery.roles import Roles

Action = Literal["stand_by", "wait", "force", "promote", "refuse"]

CLOCK_SKEW_SECONDS = 5.0
"""How far a witness's clock may be off from the arbiter's; AWS keeps them within milliseconds."""
ACTING_SECONDS = 600.0
"""Kept back of the RTO for acting: 480 s for RDS's promotion and two minutes for all else (`recovery.promise`)."""
SIGNALS_NEEDED = 2
RECORDED_EVENTS = 20
"""The newest events that go into the record; Step Functions carries 256 KiB at most."""

LOST_STATUSES = frozenset({"failed", "storage-full", "deleting", "restore-error", ABSENT})
LOST_PREFIXES = ("incompatible-", "inaccessible-encryption-credentials")
BUSY_STATUSES = frozenset({"rebooting", "modifying", "starting", "maintenance", "upgrading", "storage-optimization"})
CAPABLE_STATUSES = frozenset({"available", "storage-optimization"})


@dataclass(frozen=True)
class Situation:
    """Everything a decision is made from. Times are epoch seconds; `now` is the arbiter's own clock.

    `started_at` is when the incident began; `holder` is the incident that holds the lease when it is not this one (""
    when nobody does). `forced` tells that this incident has forced a failover already. `paused` is the pause that was
    last read, over or not.
    """

    now: float
    epoch: int
    started_at: float
    roles: Roles
    observations: tuple[Observation, ...]
    primary: MemberStatus
    standby: MemberStatus
    events: tuple[Event, ...] = ()
    forced: bool = False
    holder: str | None = None
    paused: Pause | None = None
    override: Override | None = None
    detection: Detection = field(default_factory=Detection)
    objectives: Objectives = field(default_factory=Objectives)


@dataclass(frozen=True)
class Decision:
    """What to do, why (one sentence with its numbers), and what it was decided from."""

    action: Action
    reason: str
    primary: str
    standby: str
    epoch: int
    primary_status: str
    inputs: dict[str, Any]
    override: dict[str, Any] | None = None
    """What an operator accepts and says about it, if anything: {"by", "reason", "accepts"}."""


def lost(status: str) -> bool:
    """Whether RDS says by this status that the instance cannot come back by itself."""
    return status in LOST_STATUSES or status.startswith(LOST_PREFIXES)


def trust_seconds(detection: Detection) -> float:
    """How old an observation may be: three slow rounds, and at least ten seconds (a new run's cold start)."""
    return max(10.0, 3 * max(detection.probe_interval, detection.probe_timeout))


def fresh(situation: Situation) -> tuple[Observation, ...]:
    """The observations that count: of the present epoch, not too old, not from the future, give or take clock skew."""
    oldest = situation.now - trust_seconds(situation.detection) - CLOCK_SKEW_SECONDS
    newest = situation.now + CLOCK_SKEW_SECONDS
    return tuple(
        seen for seen in situation.observations if seen.epoch == situation.roles.epoch and oldest <= seen.at <= newest
    )


def waiting_limit(detection: Detection, objectives: Objectives) -> float:
    """Seconds since the loss after which no decision is put off: the grace is granted, what acting needs is kept."""
    return min(objectives.rto_seconds, max(detection.multi_az_grace, objectives.rto_seconds - ACTING_SECONDS))


def decide(situation: Situation) -> Decision:
    """The decision for any situation; never raises."""
    action, reason = _judge(situation)
    return Decision(
        action=action,
        reason=reason,
        primary=situation.roles.primary,
        standby=situation.roles.standby,
        epoch=situation.roles.epoch,
        primary_status=situation.primary.status,
        inputs=_inputs(situation),
        override=_accepted(situation.override),
    )


def _judge(situation: Situation) -> tuple[Action, str]:
    roles, detection = situation.roles, situation.detection
    if roles.epoch != situation.epoch:
        return (
            "stand_by",
            f"The roles have passed to epoch {roles.epoch} since this incident of epoch {situation.epoch} began.",
        )

    if situation.holder is not None:
        return "stand_by", f"The lease is not this incident's: {situation.holder or 'nobody'} holds it."

    seen = fresh(situation)
    elapsed = _elapsed(situation, seen)
    limit = waiting_limit(detection, situation.objectives)
    # Said so that a clock that tells nonsense ends the waiting
    late = not (elapsed < limit and situation.now - situation.started_at < limit)

    seeing = [each.witness for each in seen if each.primary.reachable]
    blind = [each.witness for each in seen if confirms_loss(each, detection)]
    if seeing and len(seeing) == len(seen):
        return "stand_by", f"The primary {roles.primary} takes writes from every fresh witness ({_names(seeing)})."
    if (pause := situation.paused) is not None and pause.until > situation.now and situation.override is None:
        return (
            "refuse",
            f"{pause.by} paused automatic action for another {pause.until - situation.now:.0f} s: {pause.reason}.",
        )
    if seeing:
        if late or elapsed >= detection.multi_az_grace:
            return (
                "stand_by",
                f"Witness {_names(seeing)} still writes to the primary {roles.primary} after {elapsed:.0f} s: "
                "the others are cut off from it, not it from the world.",
            )
        return (
            "wait",
            f"Witness {_names(seeing)} writes to the primary, another cannot: signals disagree for {elapsed:.0f} s.",
        )

    if lost(situation.primary.status) and lost(situation.standby.status):
        # No witness reaches anything then, so none would ever be a second signal; and nothing is left to promote
        return (
            "refuse",
            f"RDS has lost both {roles.primary} ({situation.primary.status}) and {roles.standby} "
            f"({situation.standby.status}): restore to a point in time.",
        )

    rds_says_lost = lost(situation.primary.status) or _failure_event(situation)
    signals = [f"witness {name}" for name in blind] + (["RDS"] if rds_says_lost else [])
    if len(signals) < SIGNALS_NEEDED:
        found = f"{len(signals)} of {SIGNALS_NEEDED} signals ({_names(signals) or 'none'}) that the primary is lost"
        if late:
            return (
                "refuse",
                f"Only {found} after {elapsed:.0f} s, limit {limit:.0f} s: nothing destructive is done.",
            )
        return "wait", f"Only {found} after {elapsed:.0f} s: waiting for a second one."

    if not rds_says_lost and (served := serves_others(seen, situation)):
        found = (
            f"{_names(blind)} cannot write to the primary {roles.primary}, but transactions that others committed "
            f"there {served:.0f} s after the first failed probe have reached the standby: the witnesses are cut off"
        )
        return ("stand_by", f"{found}, still after {elapsed:.0f} s.") if late else ("wait", f"{found}.")

    case = (
        f"{roles.primary} is lost by {len(signals)} signals ({_names(signals)}; RDS status {situation.primary.status})"
    )
    hindrance = _hindrance(situation, seen)
    if hindrance is not None:
        return _hindered(situation, hindrance, case, elapsed, late)
    ready = _readiness(situation, _lag(seen))
    # Its status is RDS's last word; an event of a failure is not while RDS does something about it
    if lost(situation.primary.status) or (rds_says_lost and not _failing_over(situation)):
        return "promote", f"{case} and cannot come back by itself; {ready}."
    if elapsed < detection.multi_az_grace and not late:
        doing = "is failing over by itself" if _failing_over(situation) else "may still fail over by itself"
        return "wait", f"{case}; RDS {doing}: {elapsed:.0f} s of {detection.multi_az_grace:.0f} s of grace have passed."
    return "promote", f"{case}; the grace of {detection.multi_az_grace:.0f} s is over after {elapsed:.0f} s; {ready}."


@dataclass(frozen=True)
class _Hindrance:
    """Why the standby cannot take over now, and whether that may pass by itself."""

    reason: str
    may_pass: bool


def _hindrance(situation: Situation, seen: Sequence[Observation]) -> _Hindrance | None:
    standby, name, rpo = situation.standby, situation.roles.standby, situation.objectives.rpo_seconds
    if not situation.roles.protected:
        # It is the old primary of an earlier change of roles, or being made anew: its data end in the past
        return _Hindrance(f"{name} has not become a standby again since epoch {situation.roles.epoch}", may_pass=False)
    if lost(standby.status):
        return _Hindrance(f"the standby {name} is lost too (RDS status {standby.status})", may_pass=False)
    if standby.status not in CAPABLE_STATUSES:
        return _Hindrance(
            f"the standby {name} is {standby.status}, and RDS promotes only an available one", may_pass=True
        )
    if standby.replica_of not in (None, situation.roles.primary):
        return _Hindrance(
            f"the standby {name} replicates {standby.replica_of}, not {situation.roles.primary}", may_pass=False
        )
    if not any(each.standby.reachable for each in seen):
        return _Hindrance(f"no fresh witness reaches the standby {name}", may_pass=True)
    lag = _lag(seen)
    accepted = situation.override is not None and LAG in situation.override.accepts
    if lag is None and not accepted:
        return _Hindrance(f"no fresh witness knows the lag of the standby {name}", may_pass=True)
    if lag is not None and lag > rpo and not accepted:
        return _Hindrance(f"the standby {name} is {lag:.0f} s behind, beyond the RPO of {rpo:.0f} s", may_pass=False)
    # A standby that replicates nothing any more and is within the RPO: an earlier run promoted it and was cut short.
    return None


def _hindered(situation: Situation, hindrance: _Hindrance, case: str, elapsed: float, late: bool) -> tuple[Action, str]:
    """The standby cannot take over: the Multi-AZ copy is the last resort, forced once, after RDS had its chance."""
    grace = situation.detection.multi_az_grace
    can_force = situation.primary.status == "available" and situation.primary.multi_az
    if can_force and not situation.forced and (elapsed >= grace or late):
        return (
            "force",
            f"{case}; {hindrance.reason}; after {elapsed:.0f} s its Multi-AZ copy is the only one left to take over.",
        )
    if late or not (hindrance.may_pass or can_force):
        return "refuse", f"{case}, but {hindrance.reason} after {elapsed:.0f} s."
    return "wait", f"{case}, but {hindrance.reason}: waiting since {elapsed:.0f} s for that to pass or RDS to recover."


def _readiness(situation: Situation, lag: float | None) -> str:
    behind = f"{situation.roles.standby} lags " + ("an unknown time" if lag is None else f"{lag:.1f} s")
    rpo = situation.objectives.rpo_seconds
    if lag is not None and lag <= rpo:
        return f"{behind}, within the RPO of {rpo:.0f} s"
    assert situation.override is not None, "beyond the RPO is a hindrance without one"
    return f"{behind}, of an RPO of {rpo:.0f} s, which {situation.override.by} accepts ({situation.override.reason})"


def confirms_loss(seen: Observation, detection: Detection) -> bool:
    """Whether a witness's word counts as a signal: it missed the primary often enough, and reaches the standby."""
    return not seen.primary.reachable and seen.failures >= detection.failure_threshold and seen.standby.reachable


def serves_others(seen: Sequence[Observation], situation: Situation) -> float | None:
    """Seconds from the first failed probe to the newest commit that came to the standby, if it came a moment ago.

    Nobody but a client can have committed it, for no witness reaches the primary: so the primary serves its clients.
    """
    firsts = [each.first_failure_at for each in seen if each.first_failure_at is not None]
    commits = [each.standby.committed_at for each in seen if each.standby.committed_at is not None]
    if not firsts or not commits:
        return None
    after = max(commits) - min(firsts)
    recent = situation.now - max(commits) <= trust_seconds(situation.detection) + CLOCK_SKEW_SECONDS
    return after if after > CLOCK_SKEW_SECONDS and recent else None


def _lag(seen: Sequence[Observation]) -> float | None:
    """The largest lag any fresh witness measured, in seconds; what is not a number counts as endless."""
    lags = [each.standby.lag_seconds for each in seen if each.standby.lag_seconds is not None]
    return max((math.inf if math.isnan(lag) else lag for lag in lags), default=None)


def _elapsed(situation: Situation, seen: Sequence[Observation]) -> float:
    """Seconds since the primary was lost: since the first failed probe of that witness which lost it last (one may have
    been cut off from it for hours, and RDS has its grace nevertheless), or else since the incident began."""
    firsts = [
        each.first_failure_at for each in seen if each.first_failure_at is not None and not each.primary.reachable
    ]
    return max(0.0, situation.now - max(firsts, default=situation.started_at))


def _recent(situation: Situation, event: Event) -> bool:
    """Of the primary, and not from before this loss (as far as detection may have come late)."""
    since = situation.started_at - situation.detection.worst_case_seconds - 60.0
    return event.member == situation.roles.primary and event.at >= since


def _failure_event(situation: Situation) -> bool:
    return any(_recent(situation, event) and event.failure for event in situation.events)


def _failing_over(situation: Situation) -> bool:
    under_way = False
    for event in situation.events:
        if _recent(situation, event) and (event.failover_started or event.failover_ended):
            under_way = event.failover_started
    return under_way or situation.primary.status in BUSY_STATUSES or situation.primary.status == UNKNOWN


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _accepted(override: Override | None) -> dict[str, Any] | None:
    if override is None:
        return None
    return {"by": override.by, "reason": override.reason, "accepts": sorted(override.accepts)}


def _inputs(situation: Situation) -> dict[str, Any]:
    counted = {each.witness for each in fresh(situation)}
    return {
        "now": situation.now,
        "started_at": situation.started_at,
        "forced": situation.forced,
        "holder": situation.holder,
        "paused": None if situation.paused is None else asdict(situation.paused),
        "observations": [asdict(each) | {"fresh": each.witness in counted} for each in situation.observations],
        "primary": asdict(situation.primary),
        "standby": asdict(situation.standby),
        "events": [asdict(event) for event in situation.events[-RECORDED_EVENTS:]],
        "settings": asdict(situation.detection) | asdict(situation.objectives),
    }
