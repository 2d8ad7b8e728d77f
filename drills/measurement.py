"""What a drill measured, from what its clients saw: a pure rule that would rather say "not measured" than guess."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from drills.ledger import Attempt, acknowledged

Verdict = Literal["met", "missed", "not measured"]

PROBE_LOST_SECONDS = 10.0
"""A client that made no attempt for this long (libpq's time-out for two hosts is 4 s) was not watching."""


@dataclass(frozen=True)
class Objectives:
    """What recovery must keep to: seconds without service, seconds of data lost."""

    rto_seconds: float
    rpo_seconds: float


@dataclass(frozen=True)
class Measurement:
    """The result of a drill as its clients saw it.

    `rto_seconds`: from the failure to the first acknowledged transaction that was begun after the outage was first
    seen.
    `rto_resolution_seconds`: from the last refusal that a client got before that to the acknowledgement; service came
    back to the clients in between, so the RTO is at most that much too long.
    `rpo_seconds`: from the first acknowledged transaction that is missing to the failure; 0 when none is missing.
    """

    verdict: Verdict
    reason: str
    rto_seconds: float | None
    rto_resolution_seconds: float | None
    rpo_seconds: float | None
    transactions_acknowledged: int
    transactions_missing: int | None


def measure(
    attempts: Sequence[Attempt],
    present: Collection[int] | None,
    failed_at: float,
    ended_at: float,
    objectives: Objectives,
    broken: Sequence[str] = (),
    *,
    expects_outage: bool = True,
) -> Measurement:
    """Judge a drill.

    `attempts`: every transaction tried; `present`: the numbers in the database after recovery, None when they could
    not be read; `failed_at`: when the failure was caused; `ended_at`: when the drill stopped waiting. All times in
    seconds
    on the same clock. A failure that clients should not notice (`expects_outage` false) is met when they do not.
    """
    confirmed = list(acknowledged(attempts))

    def result(verdict: Verdict, reason: str) -> Measurement:
        return Measurement(verdict, reason, None, None, None, len(confirmed), None)

    if broken:
        return result("not measured", f"The probe itself failed: {broken[0]}.")
    if not any(attempt.ended <= failed_at for attempt in confirmed):
        return result(
            "not measured", "No transaction was acknowledged before the failure, so there was no service to lose."
        )
    blind = _longest_silence(attempts, failed_at, ended_at)
    if blind > PROBE_LOST_SECONDS:
        return result(
            "not measured",
            f"The probe made no attempt for {blind:.1f} s after the failure: what happened then was not seen.",
        )
    first_failure = min(
        (attempt.ended for attempt in attempts if attempt.outcome == "failed" and attempt.ended >= failed_at),
        default=None,
    )
    if first_failure is None and expects_outage:
        return result("not measured", "No transaction failed after the failure was caused: no outage was seen.")
    if first_failure is None:
        return _account(confirmed, present, failed_at, 0.0, 0.0, objectives)
    # Service is back when it stays back: after the last transaction that was begun and failed, whichever writer began
    # it.
    last_begun = max(attempt.started for attempt in attempts if attempt.outcome == "failed")
    back = min(
        (a for a in confirmed if a.started >= first_failure and a.ended > last_begun),
        key=lambda a: a.ended,
        default=None,
    )
    if back is None:
        waited = ended_at - failed_at
        return result(
            "missed",
            f"No transaction was acknowledged within {waited:.0f} s after the failure (objective "
            f"{objectives.rto_seconds:.0f} s).",
        )
    rto = back.ended - failed_at
    refused = max((a.ended for a in attempts if a.outcome == "failed" and a.ended <= back.ended), default=failed_at)
    resolution = back.ended - max(refused, failed_at)
    return _account(confirmed, present, failed_at, rto, resolution, objectives)


def _account(
    confirmed: Sequence[Attempt],
    present: Collection[int] | None,
    failed_at: float,
    rto: float,
    resolution: float,
    objectives: Objectives,
) -> Measurement:
    """The verdict once the outage is known: what is missing, and whether both objectives are kept."""
    acknowledged_count = len(confirmed)
    if present is None:
        reason = "The rows could not be read after recovery, so what is missing is not known."
        return Measurement("not measured", reason, rto, resolution, None, acknowledged_count, None)
    lost = [attempt for attempt in confirmed if attempt.number not in present]
    rpo = max(failed_at - min(attempt.ended for attempt in lost), 0.0) if lost else 0.0
    measured = (
        f"outage {rto:.1f} s of {objectives.rto_seconds:.0f} s, "
        f"{len(lost)} of {acknowledged_count} acknowledged transactions missing"
    )
    verdict: Verdict = "missed"
    if rto > objectives.rto_seconds:
        reason = f"The outage was longer than the RTO: {measured}."
    elif rpo > objectives.rpo_seconds:
        reason = f"{rpo:.0f} s of data are lost, more than the RPO: {measured}."
    else:
        verdict, reason = "met", f"{measured[0].upper()}{measured[1:]}."
    return Measurement(verdict, reason, rto, resolution, rpo, acknowledged_count, len(lost))


def _longest_silence(attempts: Sequence[Attempt], since: float, until: float) -> float:
    """The longest time between `since` and `until` in which no attempt was under way."""
    longest, covered = 0.0, since
    for attempt in sorted(attempts, key=lambda attempt: attempt.started):
        if attempt.ended < since:
            continue
        longest = max(longest, min(attempt.started, until) - covered)
        covered = max(covered, attempt.ended)
    return max(longest, until - covered)
