"""What an operator asks of the log when data is wrong: its transactions, and a restored database rolled forward.

Only a function reaches the file system. It never touches a member: what is rolled forward is a restored instance.
"""

from typing import Any

from functions import clients, journal
from functions.environment import Environment, environment, log_folder
from recovery import clock
from recovery.connection import Session
from recovery.members import Endpoint
from recovery.transaction_log import standing
from recovery.transaction_log.batches import Until
from recovery.transaction_log.listing import Listed, transactions
from recovery.transaction_log.path import Log, bounds
from recovery.transaction_log.position import Position, position
from recovery.transaction_log.roll_forward import roll_forward
from recovery.transaction_log.segment import read_header

SIGN_IN_SECONDS = 10.0
STATEMENT_SECONDS = 600.0
MARGIN_SECONDS = 20.0
"""Of the function's time: a statement that is cut off then has been rolled back before the function ends."""
MOST_LISTED = 1000
"""An answer of Lambda holds 6 MB."""


class NoSuchTransaction(Exception):
    """The log holds no transaction that commits there."""


class RequestUnclear(Exception):
    """The event is not one that this function knows."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """{"action": "list" | "find" | "stand" | "roll-forward", …} → what it says, see the functions below."""
    settings, log = environment(), Log(log_folder())
    seconds = min(STATEMENT_SECONDS, context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS)
    match event.get("action"):
        case "list":
            return _list(log, event)
        case "find":
            return _shown(_find(log, position(str(event["at"]), log.epochs[-1])))
        case "stand":
            with _session(settings, _endpoint(event)) as session:
                return {"stands": str(standing.find(session, log, seconds)), "log_ends": str(log.end())}
        case "roll-forward":
            return _roll_forward(settings, log, event, seconds)
        case unknown:
            raise RequestUnclear(f"The action {unknown!r} is none of list, find, stand, roll-forward.")


def _list(log: Log, event: dict[str, Any]) -> dict[str, Any]:
    """{"since", "before" (ISO 8601), "after" (EPOCH:X/Y)} → {"transactions", "more", "log_ends"}; all are optional."""
    since, before = (clock.seconds(str(event[name])) if event.get(name) else None for name in ("since", "before"))
    after = position(str(event["after"]), log.epochs[-1]) if event.get("after") else None
    found: list[dict[str, Any]] = []
    for listed in transactions(log, since, before):
        if after is None or listed.transaction.at > after:
            if len(found) == MOST_LISTED:
                return {"transactions": found, "more": True, "log_ends": str(log.end())}
            found.append(_shown(listed))
    return {"transactions": found, "more": False, "log_ends": str(log.end())}


def _find(log: Log, at: Position) -> Listed:
    """Only the segment that may hold it is unpacked: a log of days is large."""
    since = 0.0
    for segment in log.segments(at.epoch) if at.epoch in log.epochs else ():
        if bounds(segment)[1] >= at.lsn:
            break
        since = read_header(segment).committed_at or since
    for listed in transactions(log, since):
        if listed.transaction.at == at:
            return listed
        if listed.transaction.at > at:
            break
    raise NoSuchTransaction(f"No transaction of the log commits at {at}; `log` lists them.")


def _shown(listed: Listed) -> dict[str, Any]:
    return {**listed.as_json(), "committed_at_us": listed.transaction.time_us, "text": listed.as_text()}


def _roll_forward(settings: Environment, log: Log, event: dict[str, Any], seconds: float) -> dict[str, Any]:
    """{"host", "port", "before" (EPOCH:X/Y) or "until" (ISO 8601), "dry_run"} → the account. Again: it goes on."""
    endpoint = _endpoint(event)
    if endpoint.host in {member.endpoint.host for member in settings.members.values()}:
        raise RequestUnclear(f"{endpoint.host} is a member: only a restored instance is rolled forward here.")
    before, until = event.get("before"), event.get("until")
    if bool(before) == bool(until):
        raise RequestUnclear("Say where to stop: `before` a transaction, or `until` a time.")
    stop = (
        Until(before=position(str(before), log.epochs[-1]))
        if before
        else Until(time_us=round(clock.seconds(str(until)) * 1e6))
    )
    with _session(settings, endpoint) as session:
        account = roll_forward(session, log, stop, dry_run=bool(event.get("dry_run")), seconds=seconds)
    journal.note("rolled forward", account.as_json())
    return account.as_json()


def _endpoint(event: dict[str, Any]) -> Endpoint:
    return Endpoint(str(event["host"]), int(event["port"]))


def _session(settings: Environment, endpoint: Endpoint) -> Session:
    """As the role that roll forward has in the members too: a restored database has it, if it had it in its time."""
    return clients.access(settings).open(endpoint, SIGN_IN_SECONDS, "citizens-rewind")
