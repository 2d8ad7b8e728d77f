"""What would happen if the primary were lost now: the arbiter's own rule, asked about a loss that did not happen.

Nothing here is a rule of its own. The present observations are turned into those of a loss, and `arbiter.decide` says
what it would do. How long that takes at most is what `recovery.promise` proves of the deployed machine; how much could
be missing is what neither the standby nor the log has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recovery import arbiter
from recovery.arbiter import Action, Situation
from recovery.observation import Observation
from recovery.rds import MemberStatus


@dataclass(frozen=True)
class Prediction:
    """What the arbiter would do, why; whether that brings the database back without a person."""

    action: Action
    reason: str

    @property
    def recovers(self) -> bool:
        """Whether the standby would take over by itself."""
        return self.action == "promote"


def if_lost_now(situation: Situation) -> Prediction:
    """What the arbiter would do if RDS said now that the primary has failed and both witnesses lost it.

    `situation.observations` are as they are; those too old to be trusted stay so, and count for nothing.
    """
    imagined = replace(
        situation,
        started_at=situation.now,
        epoch=situation.roles.epoch,
        observations=tuple(_blinded(each, situation) for each in situation.observations),
        primary=MemberStatus("failed", None, situation.primary.multi_az),
        events=(),
        forced=False,
        holder=None,
    )
    decision = arbiter.decide(imagined)
    return Prediction(decision.action, decision.reason)


def _blinded(seen: Observation, situation: Situation) -> Observation:
    return replace(
        seen,
        primary=replace(seen.primary, reachable=False, error="imagined"),
        failures=situation.detection.failure_threshold,
        first_failure_at=situation.now,
    )


def standby_lag(situation: Situation) -> float | None:
    """The largest lag that a fresh witness measured, s; None when none did."""
    lags = [each.standby.lag_seconds for each in arbiter.fresh(situation) if each.standby.lag_seconds is not None]
    return max(lags, default=None)


def data_at_risk(known: Sequence[float | None]) -> float | None:
    """Seconds of transactions that are in none of the copies, each so far behind (None: unknown, so of no use)."""
    return min((lag for lag in known if lag is not None), default=None)
