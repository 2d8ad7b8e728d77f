"""The switchover machine's questions: may it begin, and has the standby caught up?"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from functions import clients, journal
from functions.arbiter import WITNESSES
from functions.environment import Environment, detection, environment
from recovery import incident, observation, operation, pause, rds, roles, switchover
from recovery.switchover import Situation

CATCH_UP_SECONDS = 8.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"step": "begin", "incident", "epoch", "execution"} → {"hindrance" (or null), "primary", "standby"}.

    {"step": "catchUp", "standby", "lsn"} → {"replayed"}.
    Begun, it holds the operation and the lease, so that no witness takes the stopped writes for a loss.
    """
    settings = environment()
    if event["step"] == "catchUp":
        endpoint = settings.member(str(event["standby"])).endpoint
        replayed = switchover.caught_up(clients.access(settings), endpoint, str(event["lsn"]), CATCH_UP_SECONDS)
        return {"replayed": replayed}
    return _begin(settings, event)


def _begin(settings: Environment, event: dict[str, Any]) -> dict[str, Any]:
    table, client, now = clients.table(settings), clients.rds(), time.time()
    name, execution = str(event["incident"]), str(event["execution"])
    known = roles.known(table)
    with ThreadPoolExecutor(max_workers=2) as pool:
        primary = pool.submit(rds.status, client, known.primary)
        standby = pool.submit(rds.status, client, known.standby)
    lease, other = incident.read_lease(table), operation.running(table, now)
    hindrance = switchover.hindrance(
        Situation(
            now=now,
            epoch=int(event["epoch"]),
            roles=known,
            # Its own, when an answer was lost
            lease=None if lease is not None and lease.incident == name else lease,
            pause=pause.active(table, now),
            operation=None if other is not None and other.execution == execution else other,
            observations=tuple(seen for each in WITNESSES if (seen := observation.read(table, each)) is not None),
            primary=primary.result(),
            standby=standby.result(),
            detection=detection(),
        )
    )
    if hindrance is None and not operation.claim(table, "switchover", execution, now):
        hindrance = "Another operation has begun in this moment."
    if hindrance is None and incident.take_lease_for(table, known.epoch, name, now) is None:
        hindrance = "An incident has begun in this moment."
    journal.note("switchover asked for", {"incident": name, "hindrance": hindrance})
    return {"hindrance": hindrance, "primary": known.primary, "standby": known.standby}
