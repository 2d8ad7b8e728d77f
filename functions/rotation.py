"""The rotation of the secret, called by Secrets Manager once per step."""

import time
from typing import Any

from functions import clients, journal
from functions.environment import environment
from recovery.rotation import Rotation


def handler(event: dict[str, Any], context: Any) -> None:  # noqa: ARG001 - Lambda's signature
    """{"SecretId", "ClientRequestToken", "Step"} → nothing; raising makes Secrets Manager try again later."""
    settings = environment()
    step = str(event["Step"])
    Rotation(
        clients.secretsmanager(),
        clients.database(settings),
        clients.table(settings),
        str(event["SecretId"]),
        str(event["ClientRequestToken"]),
    ).step(step, time.time())
    journal.note("rotation step done", {"step": step, "version": event["ClientRequestToken"]})
