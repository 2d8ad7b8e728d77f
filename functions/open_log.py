"""The machine's OpenLog: slot and record of the new epoch's transaction log."""

import time
from dataclasses import asdict
from typing import Any

from functions import clients, journal
from functions.environment import environment
from recovery.transaction_log.open_log import SECONDS, open_log


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"epoch" (the new one), "member"} → {"slot", "begin_lsn"}."""
    settings = environment()
    member = settings.member(str(event["member"]))
    with clients.access(settings).open(member.endpoint, SECONDS, "citizens-open-log") as session:
        opened = open_log(session, clients.table(settings), int(event["epoch"]), member.identifier, time.time())
    journal.note("log opened", {"epoch": event["epoch"], **asdict(opened)})
    return asdict(opened)
