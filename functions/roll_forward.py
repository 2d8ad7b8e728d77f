"""The machine's RollForward: the promoted member gets what the old epoch's log holds beyond it."""

from typing import Any

from functions import clients, journal
from functions.environment import environment, log_folder
from recovery import master, secret
from recovery.transaction_log.after_promotion import bring_up
from recovery.transaction_log.path import Log, LogUnfit

SIGN_IN_SECONDS = 5.0
RESERVE_SECONDS = 2.0
"""Left of the function's time for its answer."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """{"epoch" (old), "member" (promoted)} → the loss account; "trouble" says why transactions are missing, or null.

    As the main user: rows are written to everybody's tables, and DDL is run as whoever owns what it is about.
    """
    settings = environment()
    try:
        log = Log(log_folder())
    except LogUnfit as unfit:
        return {"transactions": 0, "trouble": str(unfit)}
    endpoint = settings.member(str(event["member"])).endpoint
    versions = secret.candidates(clients.secretsmanager(), settings.secret_id)
    database = clients.database(settings)
    with master.open_first(endpoint, database, versions, SIGN_IN_SECONDS, "citizens-roll-forward") as session:
        seconds = context.get_remaining_time_in_millis() / 1000 - RESERVE_SECONDS
        account = bring_up(session, log, int(event["epoch"]), seconds)
    journal.note("rolled forward", {"epoch": event["epoch"], **account})
    return account
