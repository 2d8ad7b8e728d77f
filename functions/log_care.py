"""The care of the log's files, twice a day: are they all there and unchanged, and which may go? An operator's holds,
with which nothing goes, are put in place here too: only a function reaches the file system."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions import clients, journal
from functions.environment import Environment, environment, log_folder, log_kept_days
from recovery import rds
from recovery.transaction_log import retention
from recovery.transaction_log.retention import DAY_SECONDS, Policy, RetentionRefused
from recovery.transaction_log.segment import LogInUse, SegmentCorrupt
from recovery.transaction_log.verification import EXIT_CODES, FAILURE, WARNING, verify

RESERVE_SECONDS = 60.0
"""Left of the function's time for removing what expired: reading stops before."""
BEGIN_SECONDS = 120.0
"""The archive and this begin with the same deploy: so long a log that is not there yet is waited for."""
POLL_SECONDS = 1.0
FINDINGS_TOLD = 20


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """{"action": "hold" | "release" | "holds", …} → {"holds"} or {"refused"}; anything else → the care."""
    match event.get("action"):
        case "hold" | "release" | "holds":
            return _held(event)
        case _:
            return _care(context)


def _held(event: dict[str, Any]) -> dict[str, Any]:
    """{"action", "name", "reason"} → {"holds": all that there are then}; a refusal is no error of this function."""
    root = log_folder()
    try:
        match event["action"]:
            case "hold":
                retention.hold(root, str(event.get("name", "")), str(event.get("reason", "")), time.time())
            case "release":
                retention.release(root, str(event.get("name", "")))
        found = [asdict(each) for each in retention.holds(root)]
    except (RetentionRefused, LogInUse) as refused:
        return {"refused": str(refused)}
    journal.note(str(event["action"]), {"name": event.get("name"), "holds": found})
    return {"holds": found}


def _care(context: Any) -> dict[str, Any]:
    """→ {"verdict", "findings", "told", "expired", "needed_since"}; damage is not an error of this function: it alarms.

    `told` are the first findings themselves.
    """
    settings = environment()
    root = log_folder()
    if not _begun(root, context.get_remaining_time_in_millis() / 1000 - RESERVE_SECONDS):
        _show(settings, WARNING, 0, 0)
        journal.note("no log", {"folder": str(root)})
        return {"verdict": WARNING, "findings": 0, "told": [], "expired": 0, "needed_since": None}
    report = verify(root, seconds=context.get_remaining_time_in_millis() / 1000 - RESERVE_SECONDS)
    told = [asdict(finding) for finding in report.findings[:FINDINGS_TOLD]]
    for finding in told:
        journal.note("finding", finding)
    needed_since = rds.restorable_until(clients.rds(), tuple(settings.members))
    # A damaged log keeps all that it has: what is around the damage may be wanted for mending it.
    expired = _expire(Policy(log_kept_days() * DAY_SECONDS, needed_since)) if report.verdict != FAILURE else 0
    _show(settings, report.verdict, sum(epoch.bytes for epoch in report.epochs), expired)
    result = {
        "verdict": report.verdict,
        "findings": len(report.findings),
        "expired": expired,
        "needed_since": needed_since,
    }
    journal.note("log looked after", result)
    return {**result, "told": told}


def _begun(root: Path, seconds: float) -> bool:
    """Whether there is a log, which is waited for `BEGIN_SECONDS`, or `seconds` when that is less."""
    until = time.monotonic() + min(BEGIN_SECONDS, seconds)
    while not any(root.glob("epoch-*")):
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _expire(policy: Policy) -> int:
    try:
        expired = retention.expire(log_folder(), policy, time.time())
    except (RetentionRefused, SegmentCorrupt, LogInUse) as refused:
        journal.note("trouble", {"with": "retention", "error": str(refused)})
        return 0
    journal.note("expired", expired.as_json())
    return sum(expired.segments.values())


def _show(settings: Environment, verdict: str, size: int, expired: int) -> None:
    """Tell CloudWatch; silence there is an alarm of its own."""
    dimensions = [{"Name": "Suffix", "Value": settings.suffix}]
    data: list[Any] = [
        {"MetricName": "LogVerdict", "Value": EXIT_CODES[verdict], "Unit": "None", "Dimensions": dimensions},
        {"MetricName": "LogBytes", "Value": size, "Unit": "Bytes", "Dimensions": dimensions},
        {"MetricName": "LogSegmentsExpired", "Value": expired, "Unit": "Count", "Dimensions": dimensions},
    ]
    try:
        clients.cloudwatch().put_metric_data(Namespace=settings.namespace, MetricData=data)
    except (BotoCoreError, ClientError) as error:
        journal.note("trouble", {"with": "metrics", "error": str(error)})
