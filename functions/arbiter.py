"""The machine's Observe: gather what is known and decide."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from functions import clients, journal
from functions.environment import detection, environment, objectives
from recovery import incident, observation, rds, roles
from recovery.arbiter import Situation, decide
from recovery.clock import seconds

WITNESSES = ("a", "c")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"incident", "epoch", "started_at", "forced"?} → the decision with its reason and inputs."""
    settings = environment()
    table = clients.table(settings)
    known = roles.known(table)
    seen = [observation.read(table, witness) for witness in WITNESSES]
    lease = incident.read_lease(table)
    holder = lease.incident if lease is not None else ""
    client = clients.rds()
    with ThreadPoolExecutor(max_workers=3) as pool:
        primary = pool.submit(rds.status, client, known.primary)
        standby = pool.submit(rds.status, client, known.standby)
        events = pool.submit(rds.events, client, known.primary)
    decision = decide(
        Situation(
            now=time.time(),
            epoch=int(event["epoch"]),
            started_at=seconds(str(event["started_at"])),
            roles=known,
            observations=tuple(each for each in seen if each is not None),
            primary=primary.result(),
            standby=standby.result(),
            events=events.result(),
            forced=bool(event.get("forced", False)),
            holder=None if holder == event["incident"] else holder,
            detection=detection(),
            objectives=objectives(),
        )
    )
    journal.note("decided", {"incident": event.get("incident"), "action": decision.action, "reason": decision.reason})
    return asdict(decision)
