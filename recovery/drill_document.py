"""What a test report says of a drill on AWS, from its record in the recovery table (`drill#…`). Pure.

The record keeps figures; what they are of and how they were measured is said here, once for all drills.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]

SCOPES: Mapping[str, str] = {
    "replica drill": "A read replica of the primary was made, promoted as the standby would be, verified, rolled "
    "forward by the transaction log to the moment of the request, and deleted. Members, roles and applications were "
    "left alone.",
    "restore drill": "The newest automated backup was restored beside the members, verified, rolled forward by the "
    "transaction log to the moment of the request, and deleted. Members, roles and applications were left alone.",
    "switchover drill": "The roles of the members were changed as planned; applications were kept out meanwhile.",
}
RTO_BASES: Mapping[str, str] = {
    "replica drill": "from the first request for the promotion to a copy that takes writes and holds a heartbeat; "
    "detection, fence and cut-over are not in it. It was ready at most the resolution before, after the last look",
    "restore drill": "from the request for the restore to an instance that takes writes and holds a heartbeat, shown "
    "and not judged: it grows with the data. It was ready at most the resolution before, after the last look",
    "switchover drill": "from the fence that keeps applications out to a row that was written and read back on the new "
    "primary; the machine stamps each step when it has ended, so that it is exact to one step",
}
RPO_BASES: Mapping[str, str] = {
    "heartbeat": "by the newest heartbeat that the copy holds, without the log: exact to one round of the witnesses",
    "LSN": "the new primary had replayed all that the old one had written when it took no more writes",
}
ROWS_BASES: Mapping[str, str] = {
    "heartbeat": "the newest heartbeat was read back; the log's changes were applied on it, each of which must match "
    "the row that it changes, or the drill fails",
    "LSN": "a row was written as an application would and read back",
}
_SHOWN = frozenset(
    (
        *("kind", "outcome", "reason", "epoch", "timeline", "started_at", "ended_at", "execution", "identifier", "by"),
        *("measured", "verified", "log", "rto_seconds", "rto_resolution_seconds", "rto_limit_seconds"),
        *("rpo_seconds", "rpo_limit_seconds", "rpo_by", "preflight", "deviations", "restoration"),
        *("commit", "template_sha256", "plan", "suffix", "alarms", "steps", "id", "expires_at"),
    )
)


def described(record: Record) -> dict[str, Any]:
    """The parts of a document (`recovery.report_page`) that only a drill's record has. What it lacks is left out or
    None: records of drills that could not begin, and of older deployments, hold less."""
    kind, by = str(record.get("kind", "")), str(record.get("rpo_by", ""))
    # A switchover promotes only what has replayed everything: there is nothing to roll forward, and nothing to miss
    account = _mapping(record.get("log")) or ({"known to be missing": 0} if by == "LSN" else {})
    return {
        "scope": SCOPES.get(kind, "A drill that ended before it was known of what."),
        "suffix": record.get("suffix"),
        "participants": [
            {"role": "test director", "who": str(record.get("by") or "not recorded")},
            {"role": "detection and decision", "who": "none: a drill begins with its request"},
            {"role": "recovery", "who": f"state machine (no person): {record.get('execution') or 'unknown'}"},
        ],
        "preflight": _rows_of(record.get("preflight"), "check", "verdict", "found"),
        "before": _before(record),
        "objectives": {
            "rto_seconds": _number(record.get("rto_limit_seconds")),
            "rpo_seconds": _number(record.get("rpo_limit_seconds")),
        },
        "rto_seconds": _number(record.get("rto_seconds")),
        "rto_resolution_seconds": _number(record.get("rto_resolution_seconds")),
        "rto_basis": RTO_BASES.get(kind),
        "rpo_seconds": _number(record.get("rpo_seconds")),
        "rpo_basis": RPO_BASES.get(by),
        "rows": _rows(by, account),
        "rows_basis": ROWS_BASES.get(by),
        "alarms": None if record.get("alarms") is None else _rows_of(record["alarms"], "name", "state", "at", "note"),
        "deviations": None if record.get("deviations") is None else _list(record["deviations"]),
        "loss_account": account,
        "corrective_actions": [],
        "restoration": _list(record.get("restoration")),
        "plan": _mapping(record.get("plan")) or None,
        "commit": record.get("commit") or None,
        "template_sha256": record.get("template_sha256") or None,
        "facts": {
            **{
                f"step {each['step']}, seconds": each["seconds"]
                for each in _rows_of(record.get("steps"), "step", "seconds")
            },
            **{name: value for name, value in record.items() if name not in _SHOWN},
        },
    }


def _before(record: Record) -> dict[str, Any]:
    measured, verified = _mapping(record.get("measured")), _mapping(record.get("verified"))
    found = {
        "the copy": record.get("identifier"),
        "the copy behind, seconds": measured.get("lag_seconds"),
        "the copy behind, bytes": measured.get("lag_bytes"),
        "the backup behind, seconds": verified.get("missing_seconds") if "lag_seconds" not in measured else None,
        "LSN of the primary": measured.get("primary_lsn"),
        "LSN replayed by the copy": measured.get("replayed_lsn"),
        "newest heartbeat of the copy": verified.get("heartbeat_at"),
        "LSN of the copy when verified": verified.get("lsn"),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _rows(by: str, account: Record) -> str:
    if by == "LSN":
        return "written and read back"
    if by != "heartbeat":
        return "not verified"
    changes, transactions = _number(account.get("changes")), _number(account.get("transactions"))
    if changes is None or transactions is None:
        return "heartbeat read back"
    return f"heartbeat read back, {changes:,} changes of {transactions:,} transactions matched"


def _mapping(value: object) -> dict[str, Any]:
    found = _decoded(value)
    return dict(found) if isinstance(found, Mapping) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _rows_of(value: object, *names: str) -> list[dict[str, str]]:
    """Records with these fields, as text; whatever else stands there is left out."""
    found = (each for each in _list(value) if isinstance(each, Mapping) and each.keys() >= set(names))
    return [{name: str(each[name]) for name in names} for each in found]


def _list(value: object) -> list[Any]:
    found = _decoded(value)
    return list(found) if isinstance(found, list | tuple) else []


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None
