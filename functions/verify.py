"""The machine's Verify: write to the new primary and read back."""

from dataclasses import asdict
from typing import Any

from functions import clients, journal
from functions.environment import environment
from recovery.verification import verify


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{} → {"verified": true, "member", "written_at", "lsn"}; VerificationFailed otherwise."""
    settings = environment()
    verified = verify(clients.access(settings), settings.members, clients.table(settings))
    journal.note("verified", asdict(verified))
    return {"verified": True, **asdict(verified)}
