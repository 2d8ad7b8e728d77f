"""The machine's look at one member, over a new connection."""

from dataclasses import asdict
from typing import Any

from functions import clients
from functions.environment import detection, environment
from recovery.probe import look


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"member"} → {"reachable", "in_recovery", "lsn", "error"}."""
    settings = environment()
    member = settings.member(str(event["member"]))
    return asdict(look(clients.access(settings), member.endpoint, detection().probe_timeout))
