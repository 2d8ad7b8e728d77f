"""The reprotect machine's Plan: what is the next step from a primary alone to a pair?"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from functions import clients, journal
from functions.arbiter import WITNESSES
from functions.environment import detection, environment
from recovery import incident, observation, operation, pause, reprotection, roles
from recovery.reprotection import Plan, Situation


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"epoch", "execution", "wanted" (settings by member), "lifted", "automatic", "forensics", "deletions",
    "refusals"} → a plan.

    What the plan says of the role record is done already: it says so as `wait` or as `protected`.
    """
    settings = environment()
    table = clients.table(settings)
    known = roles.known(table)
    now = time.time()
    if not operation.claim(table, "reprotect", str(event["execution"]), now):
        other = operation.running(table, now)
        reason = f"Another operation runs: {other.kind} {other.execution}." if other else "Another operation has run."
        refused = other is not None and not event["automatic"]
        return asdict(Plan("refuse" if refused else "wait", reason, known.primary, known.standby))
    wanted = event["wanted"][known.standby]
    client = clients.rds()
    with ThreadPoolExecutor(max_workers=2) as pool:
        primary = pool.submit(reprotection.describe, client, known.primary, {})
        standby = pool.submit(reprotection.describe, client, known.standby, wanted)
    seen = [observation.read(table, witness) for witness in WITNESSES]
    plan = reprotection.plan(
        Situation(
            now=now,
            epoch=int(event["epoch"]),
            roles=known,
            # Read after the roles: an incident that begins later finds what they say
            lease=incident.read_lease(table),
            pause=pause.active(table, now),
            observations=tuple(each for each in seen if each is not None),
            primary=primary.result(),
            standby=standby.result(),
            wanted=wanted,
            lifted=bool(event["lifted"]),
            automatic=bool(event["automatic"]),
            forensics=bool(event["forensics"]),
            deletions=int(event["deletions"]),
            refusals=int(event["refusals"]),
            detection=detection(),
        )
    )
    if plan.action in ("unprotect", "protected") and not roles.set_protected(
        table, known.epoch, plan.action == "protected"
    ):
        plan = replace(plan, action="wait", reason="The roles have changed in this moment.")
    journal.note("planned", {"epoch": known.epoch, "action": plan.action, "reason": plan.reason})
    return asdict(plan)
