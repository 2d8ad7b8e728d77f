"""The machine's CutOver: the role record passes to the new primary, where the secret points already."""

import time
from typing import Any

from functions import clients, journal
from functions.environment import environment
from recovery.cutover import CutOver, pass_roles


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"incident", "epoch" (old), "primary" (new), "standby" (old primary)} → {"epoch" (new), "host"}."""
    settings = environment()
    order = CutOver(
        incident=str(event["incident"]),
        epoch=int(event["epoch"]),
        primary=settings.member(str(event["primary"])),
        standby=str(event["standby"]),
    )
    roles = pass_roles(order, clients.table(settings), time.time())
    result = {"epoch": roles.epoch, "host": order.primary.endpoint.host}
    journal.note("cut over", {"incident": order.incident, "primary": roles.primary, **result})
    return result
