"""The machine's CutOver: the secret's host and the role record pass to the new primary."""

import time
from typing import Any

from functions import clients, journal
from functions.environment import environment
from recovery.cutover import CutOver, cut_over


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"incident", "epoch" (old), "primary" (new), "standby" (old primary)} → {"epoch" (new), "host"}."""
    settings = environment()
    order = CutOver(
        incident=str(event["incident"]),
        epoch=int(event["epoch"]),
        primary=settings.member(str(event["primary"])),
        standby=str(event["standby"]),
    )
    roles = cut_over(
        order,
        clients.secretsmanager(),
        settings.secret_id,
        clients.access(settings),
        clients.table(settings),
        time.time(),
    )
    result = {"epoch": roles.epoch, "host": order.primary.endpoint.host}
    journal.note("cut over", {"incident": order.incident, "primary": roles.primary, **result})
    return result
