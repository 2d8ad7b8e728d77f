"""What a drill saw beyond its verdict, as the report shows it: pure rules over attempts, samples and alarms."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drills.ledger import Attempt
from drills.measurement import Measurement

BUCKETS = 90
"""A plot has room for so many bars at most."""
BUCKET_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)
STATISTICS_SECONDS = 60.0
"""CloudWatch looks once a minute: an alarm may go off so much later than its condition has lasted long enough."""


@dataclass(frozen=True)
class LagSample:
    """A witness's observation of the standby: epoch seconds, seconds and bytes behind, both positions."""

    at: float
    witness: str
    seconds: float
    bytes: int | None
    primary_lsn: str | None
    replayed_lsn: str | None


@dataclass(frozen=True)
class Step:
    """One visit of a state of the machine, epoch seconds."""

    name: str
    begun: float
    ended: float


@dataclass(frozen=True)
class Change:
    """An alarm went into ALARM, epoch seconds."""

    alarm: str
    at: float


@dataclass(frozen=True)
class Watched:
    """What was watched: lag, steps, alarms that went off; `needs` tells for each alarm how long (s) its condition must
    last; `records` are the incidents' own records in the recovery table."""

    lag: Sequence[LagSample] = ()
    steps: Sequence[Step] = ()
    changes: Sequence[Change] = ()
    needs: Mapping[str, float] | None = None
    records: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Observed:
    """All that clients and the watch saw; times in epoch seconds. `present`: the numbers that the database holds
    after recovery, None when it could not be read."""

    attempts: Sequence[Attempt]
    present: frozenset[int] | None
    failed_at: float
    ended_at: float
    watched: Watched

    @property
    def lost(self) -> tuple[int, ...]:
        """The acknowledged transactions that are missing, by number."""
        if self.present is None:
            return ()
        return tuple(a.number for a in self.attempts if a.outcome == "acknowledged" and a.number not in self.present)


def series(observed: Observed, back: float | None) -> dict[str, Any]:
    """What is plotted, in seconds since the fault; `back` is when service was back."""
    origin, attempts = observed.failed_at, observed.attempts
    if not attempts:
        return {}
    begun, ended = min(a.ended for a in attempts) - origin, max(a.ended for a in attempts) - origin
    bucket = next((each for each in BUCKET_SECONDS if (ended - begun) / each <= BUCKETS), BUCKET_SECONDS[-1])
    first, last = int(begun // bucket), int(ended // bucket)
    grouped: dict[int, list[Attempt]] = {number: [] for number in range(first, last + 1)}
    for attempt in attempts:
        grouped[int((attempt.ended - origin) // bucket)].append(attempt)
    return {
        "bucket_seconds": bucket,
        "clients": [_bucket(number * bucket, grouped[number]) for number in sorted(grouped)],
        "lag": [
            {"at": round(sample.at - origin, 3), "seconds": round(sample.seconds, 3)}
            for sample in sorted(observed.watched.lag, key=lambda sample: sample.at)
        ],
        "steps": [
            {"name": step.name, "from": round(step.begun - origin, 3), "to": round(step.ended - origin, 3)}
            for step in observed.watched.steps
        ],
        "back": back,
    }


def _bucket(at: float, attempts: Sequence[Attempt]) -> dict[str, Any]:
    times = [(a.ended - a.started) * 1000 for a in attempts if a.outcome == "acknowledged"]
    return {
        "at": at,
        "acknowledged": len(times),
        "failed": len(attempts) - len(times),
        "median_ms": round(statistics.median(times), 1) if times else None,
        "longest_ms": round(max(times), 1) if times else None,
    }


def before(observed: Observed) -> dict[str, Any]:
    """Lag and positions as the witnesses saw them last before the fault."""
    samples = [sample for sample in observed.watched.lag if sample.at <= observed.failed_at]
    if not samples:
        return {}
    newest = max(samples, key=lambda sample: sample.at)
    return {
        "observed by": f"witness {newest.witness}",
        "seconds before the fault": round(observed.failed_at - newest.at, 2),
        "standby behind, seconds": newest.seconds,
        "standby behind, bytes": newest.bytes,
        "LSN of the primary": newest.primary_lsn,
        "LSN replayed by the standby": newest.replayed_lsn,
    }


def alarms(
    observed: Observed, expected: Iterable[str], lasted: float | None, possible: Collection[str] = ()
) -> list[dict[str, Any]]:
    """What alarms did: those that went off, and those that had to; `possible` are those that may.

    `lasted`: how long (s) what they are about went on; None: until the end of the drill.
    """
    watched = observed.watched
    if watched.needs is None:
        return []
    span = min(observed.ended_at - observed.failed_at, lasted if lasted is not None else float("inf"))
    fired: dict[str, float] = {}
    for change in watched.changes:
        if change.at >= observed.failed_at:
            fired.setdefault(change.alarm, change.at)
    wanted = list(expected)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "state": "fired" if name in wanted else "fired, as it may" if name in possible else "fired unexpectedly",
            "at": at,
            "note": f"{at - observed.failed_at:.1f} s after the fault",
        }
        for name, at in fired.items()
    ]
    for name in wanted:
        if name in fired:
            continue
        needs = watched.needs.get(name)
        if needs is None:
            rows.append({"name": name, "state": "failed to fire", "at": None, "note": "it is not deployed"})
        elif span < needs + STATISTICS_SECONDS:
            note = f"goes off when that lasts {needs:.0f} s, and it lasted {span:.0f} s"
            rows.append({"name": name, "state": "was not due", "at": None, "note": note})
        else:
            note = f"what it is about lasted {span:.0f} s, and it goes off after {needs:.0f} s"
            rows.append({"name": name, "state": "failed to fire", "at": None, "note": note})
    return rows


def deviations(
    measurement: Measurement,
    found_alarms: Sequence[Mapping[str, Any]],
    left_behind: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    preflight: Sequence[Mapping[str, str]] = (),
    complaints: Sequence[str] = (),
) -> list[str]:
    """What did not come as it was expected, a sentence each. `complaints`: what the watch could not see."""
    found = [] if measurement.verdict == "met" else [f"The verdict is {measurement.verdict!r}: {measurement.reason}"]
    found += [
        f"The alarm {each['name']} {each['state']}: {each['note']}."
        for each in found_alarms
        if each["state"] in ("failed to fire", "fired unexpectedly")
    ]
    found += [f"Preflight, {each['check']}: {each['found']}" for each in preflight if each["verdict"] == "failed"]
    found += [
        f"The machine: {step['event']}"
        for record in records
        for step in record.get("timeline", ())
        if " failed: " in step["event"] or "at risk" in step["event"]
    ]
    found += [f"The watch {each}" for each in complaints]
    found += [f"The destroy left {each}." for each in left_behind]
    return found
