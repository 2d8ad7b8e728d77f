"""An unplanned change of roles on a person's word: what the arbiter would do, what would be lost, and the order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deployment.problem import Problem
from drctl.asking import Answer
from drctl.sources import LogView
from drctl.status import situation_of
from recovery import arbiter
from recovery.arbiter import Decision, Situation
from recovery.override import ACCEPTABLE, Override
from recovery.prediction import data_at_risk, standby_lag

STARTS = ("promote", "force", "wait")
"""What the arbiter may be about to do when a machine is started: anything else would end without an act."""


@dataclass(frozen=True)
class Preview:
    """What a failover would do now; `missing` is what neither the standby nor the log has, s (None: unknown).

    `since` is the first failed probe, epoch seconds.
    """

    decision: Decision
    missing: float | None
    standby_lag: float | None
    log_lag: float | None
    since: float | None

    @property
    def may_start(self) -> bool:
        """Whether starting the machine would come to anything."""
        return self.decision.action in STARTS

    def as_text(self) -> str:
        """For whoever has to confirm it."""
        roles = f"{self.decision.standby} in place of {self.decision.primary} (epoch {self.decision.epoch})"

        def told(lag: float | None) -> str:
            return "an unknown time" if lag is None else f"{lag:.1f} s"

        missing = "unknown" if self.missing is None else f"about {self.missing:.1f} s of transactions"
        return (
            f"Failover: {roles}.\n"
            f"The arbiter would now: {self.decision.action} - {self.decision.reason}\n"
            f"May be lost: {missing} (the standby is {told(self.standby_lag)} behind, the log "
            f"{told(self.log_lag)}; what the log has is rolled forward).\n"
            f"{self.decision.primary} is fenced first and made again as a replica afterwards: what only it holds is in "
            "its final snapshot."
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "action": self.decision.action,
            "reason": self.decision.reason,
            "primary": self.decision.primary,
            "standby": self.decision.standby,
            "epoch": self.decision.epoch,
            "missing_seconds": self.missing,
            "standby_lag_seconds": self.standby_lag,
            "log_lag_seconds": self.log_lag,
        }


def preview(answers: Mapping[str, Answer], now: float, accepts: Iterable[str], by: str, reason: str) -> Preview:
    """What a machine that is started now would do, with so much accepted. Raises Problem when nobody can tell."""
    accepted = frozenset(accepts)
    if unknown := sorted(accepted - set(ACCEPTABLE)):
        raise Problem(f"{', '.join(unknown)} cannot be accepted: give some of {', '.join(ACCEPTABLE)}.")
    if accepted and not reason.strip():
        raise Problem("What is accepted needs a --reason: it is written down with the incident.")
    situation = situation_of(answers, now)
    if situation is None:
        trouble = answers["recovery table"].trouble or "it holds no roles yet"
        raise Problem(f"Nothing was started: the recovery table says nothing ({trouble}).")
    since = _since(situation)
    situation = replace(
        situation,
        started_at=now if since is None else since,
        override=Override(by, reason, accepted) if accepted else situation.override,
    )
    log = answers["CloudWatch"].value
    log_lag = log.lag_seconds if isinstance(log, LogView) else None
    lag = standby_lag(situation)
    return Preview(arbiter.decide(situation), data_at_risk((lag, log_lag)), lag, log_lag, since)


def _since(situation: Situation) -> float | None:
    firsts = [
        each.first_failure_at
        for each in arbiter.fresh(situation)
        if each.first_failure_at is not None and not each.primary.reachable
    ]
    return min(firsts, default=None)
