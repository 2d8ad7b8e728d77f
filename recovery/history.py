"""What has happened: every incident, operation and drill that the recovery table knows, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recovery.table import Record, RecoveryTable

PREFIXES = ("incident#", "operation#", "drill#")


@dataclass(frozen=True)
class Entry:
    """One incident, operation or drill; times are ISO-8601 UTC, `timeline` its steps as `at` and `event`, `execution`
    the ARN of what has done it, where the record tells."""

    kind: str
    identity: str
    epoch: int
    outcome: str
    reason: str
    started_at: str
    ended_at: str
    timeline: Sequence[dict[str, Any]]
    execution: str = ""


def read(table: RecoveryTable) -> list[Entry]:
    """All of it, newest first."""
    records = [record for prefix in PREFIXES for record in table.all(prefix)]
    return sorted((_entry(record) for record in records), key=lambda entry: entry.started_at, reverse=True)


def as_text(entries: Sequence[Entry], *, steps: bool = False) -> str:
    """A line for each entry; with `steps` the timeline of each below it."""
    if not entries:
        return "Nothing has happened yet."
    lines = []
    for entry in entries:
        first = entry.reason.splitlines()[0][:160] if entry.reason else ""
        lines.append(f"{entry.started_at}  {entry.kind:13}  epoch {entry.epoch:<4}  {entry.outcome:10}  {first}")
        if steps:
            lines += [f"    {step['at']}  {step['event']}" for step in entry.timeline]
    return "\n".join(lines)


def as_json(entries: Sequence[Entry]) -> str:
    """The same as a JSON list of objects."""
    return json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=2)


def _entry(record: Record) -> Entry:
    family, _, identity = str(record["id"]).partition("#")
    return Entry(
        kind=str(record.get("kind") or ("failover" if family == "incident" else family)),
        identity=identity,
        epoch=int(record.get("epoch", 0)),
        outcome=str(record.get("outcome", "unknown")),
        reason=str(record.get("reason", "")),
        started_at=str(record.get("started_at", "")),
        ended_at=str(record.get("ended_at", "")),
        timeline=json.loads(record.get("timeline") or "[]"),
        execution=str(record.get("execution", "")),
    )
