"""The machine's Observe: gather what is known and decide."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from functions import clients, journal
from functions.environment import detection, environment, objectives
from recovery import incident, observation, override, pause, rds, roles
from recovery.arbiter import Situation, decide
from recovery.clock import seconds

WITNESSES = ("a", "c")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"incident", "epoch", "started_at", "forced"?, "override"?} → the decision with its reason and inputs."""
    settings = environment()
    accepted = override.parse(event.get("override"))
    table, client = clients.table(settings), clients.rds()
    # All at once, whoever is primary: one call that hangs costs no other its time
    with ThreadPoolExecutor(max_workers=10) as pool:
        reading = pool.submit(roles.known, table)
        leasing = pool.submit(incident.read_lease, table)
        accepting = pool.submit(override.active, table, time.time(), int(event["epoch"]))
        pausing = pool.submit(pause.active, table, time.time())
        seen = [pool.submit(observation.read, table, witness) for witness in WITNESSES]
        statuses = {member: pool.submit(rds.status, client, member) for member in settings.members}
        events = {member: pool.submit(rds.events, client, member) for member in settings.members}
    known, lease = reading.result(), leasing.result()
    holder = lease.incident if lease is not None else ""
    decision = decide(
        Situation(
            now=time.time(),
            epoch=int(event["epoch"]),
            started_at=seconds(str(event["started_at"])),
            roles=known,
            observations=tuple(found for each in seen if (found := each.result()) is not None),
            primary=statuses[known.primary].result(),
            standby=statuses[known.standby].result(),
            events=events[known.primary].result(),
            forced=bool(event.get("forced", False)),
            holder=None if holder == event["incident"] else holder,
            paused=pausing.result(),
            override=accepted or accepting.result(),
            detection=detection(),
            objectives=objectives(),
        )
    )
    journal.note("decided", {"incident": event.get("incident"), "action": decision.action, "reason": decision.reason})
    return asdict(decision)
