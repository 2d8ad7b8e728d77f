"""The transaction log on the command line: `verify` it, `list` its transactions, `roll-forward` a database along it,
let old segments `expire`, `hold` and `release` them.

`verify` ends with 0 OK, 1 WARNING, 2 FAILURE; the others with 0, or 2 and one sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from recovery import clock
from recovery.connection import Credentials, Database, Refused, Session, Unreachable, verify_full
from recovery.members import Endpoint
from recovery.transaction_log import listing, retention
from recovery.transaction_log.application import Diverged
from recovery.transaction_log.batches import Until
from recovery.transaction_log.ddl import DdlRefused
from recovery.transaction_log.path import GapOnTheWay, Log, LogUnfit
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.position import Position, position
from recovery.transaction_log.retention import DAY_SECONDS, Policy, RetentionRefused
from recovery.transaction_log.roll_forward import Account, Unsuitable, roll_forward
from recovery.transaction_log.segment import LogInUse, SegmentCorrupt
from recovery.transaction_log.standing import StandsNowhere
from recovery.transaction_log.verification import verify

CONNECT_SECONDS = 10.0
EXPECTED = (
    DdlRefused, Diverged, GapOnTheWay, LogInUse, LogUnfit, MessageUnknown, OSError, Refused, RetentionRefused,
    SegmentCorrupt, StandsNowhere, Unreachable, Unsuitable, ValueError,
)  # fmt: skip


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run one command; returns its exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "verify":
        report = verify(chosen.folder, chosen.processes)
        print(json.dumps(report.as_json(), indent=2) if chosen.json else report.as_text())
        return report.exit_code
    try:
        match chosen.command:
            case "list":
                _list(chosen)
            case "roll-forward":
                account = _roll_forward(chosen, environment)
                print(json.dumps(account.as_json(), indent=2) if chosen.json else account.as_text())
            case "expire":
                policy = Policy(chosen.days * DAY_SECONDS, chosen.needed_since)
                expired = retention.expire(chosen.folder, policy, time.time(), chosen.dry_run)
                print(json.dumps(expired.as_json(), indent=2) if chosen.json else expired.as_text())
            case _:
                _hold_or_release(chosen)
    except EXPECTED as error:
        print(f"{chosen.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recovery.transaction_log", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("verify", help="is the log all there and unchanged?")
    checking.add_argument("--processes", type=_count, default=os.cpu_count() or 1, help="read so many at once")
    expiring = commands.add_parser("expire", help="remove segments that are older and not needed any more")
    expiring.add_argument("--days", type=_days, required=True, help="keep what was committed in the last DAYS days")
    expiring.add_argument(
        "--needed-since",
        type=_time,
        required=True,
        metavar="TIME",
        help="when the newest recovery point was made (ISO 8601 with an offset): the log since is kept",
    )
    expiring.add_argument("--dry-run", action="store_true", help="only say what would go")
    holding = commands.add_parser("hold", help="let nothing expire until the hold is released")
    holding.add_argument("--name", required=True, help="of the hold, for its release")
    holding.add_argument("--reason", required=True, help="why, for whoever finds it")
    releasing = commands.add_parser("release", help="take a hold away")
    releasing.add_argument("--name", required=True, help="of the hold")
    showing = commands.add_parser("list", help="transactions, the tables they touched, and how many rows")
    showing.add_argument("--since", type=_time, help="ISO 8601 time with an offset; from this commit time on")
    showing.add_argument("--before", type=_time, help="before this commit time")
    showing.add_argument("--table", help="only transactions that touched this table: schema.name")
    showing.add_argument("--ddl", action="store_true", help="only transactions with DDL")
    rolling = commands.add_parser("roll-forward", help="apply what the log holds beyond where a database stands")
    until = rolling.add_mutually_exclusive_group()
    until.add_argument("--to-lsn", metavar="EPOCH:LSN", help="up to this commit, and with it")
    until.add_argument("--to-time", type=_time, help="up to the last commit at this time (ISO 8601 with an offset)")
    until.add_argument("--before-transaction", metavar="XID|EPOCH:LSN", help="up to just before this transaction")
    rolling.add_argument(
        "--from", dest="start", metavar="EPOCH:LSN", help="where the database stands, if it cannot tell"
    )
    rolling.add_argument("--stop-at-gap", action="store_true", help="go as far as there is no gap")
    rolling.add_argument("--dry-run", action="store_true", help="say what would be applied; change nothing")
    rolling.add_argument("--host", required=True, help="the instance's endpoint")
    rolling.add_argument("--port", type=int, default=5432)
    rolling.add_argument("--database", default="citizens")
    rolling.add_argument("--user", required=True, help="the main user; its password is read from PGPASSWORD")
    rolling.add_argument(
        "--ca-file", type=Path, required=True, help="the certificate authorities' bundle (verify-full)"
    )
    for command in (checking, expiring, holding, releasing, showing, rolling):
        command.add_argument("folder", type=Path, help="the folder that holds epoch-1, epoch-2 and so on")
        command.add_argument("--json", action="store_true", help="for programs")
    return parser


def _time(text: str) -> float:
    try:
        return clock.seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 2026-11-25T10:20:30+09:00") from None


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError("use 1 to 64")
    return number


def _days(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 36_500:
        raise argparse.ArgumentTypeError("use 0 to 36500")
    return number


def _hold_or_release(chosen: argparse.Namespace) -> None:
    if chosen.command == "hold":
        made = retention.hold(chosen.folder, chosen.name, chosen.reason, time.time())
        told = {"name": made.name, "reason": made.reason, "since": made.since}
        print(json.dumps(told) if chosen.json else f"held: {made.name}, since {made.since}: {made.reason}")
    else:
        retention.release(chosen.folder, chosen.name)
        left = [hold.name for hold in retention.holds(chosen.folder)]
        print(json.dumps({"holds": left}) if chosen.json else f"released; holds left: {', '.join(left) or 'none'}")


def _list(chosen: argparse.Namespace) -> None:
    for listed in listing.transactions(Log(chosen.folder), chosen.since, chosen.before):
        if chosen.table is not None and chosen.table not in listed.tables:
            continue
        if chosen.ddl and not listed.ddl:
            continue
        print(json.dumps(listed.as_json(), ensure_ascii=False) if chosen.json else listed.as_text())


def _roll_forward(chosen: argparse.Namespace, environment: Mapping[str, str]) -> Account:
    log = Log(chosen.folder)
    until = _until(chosen, log)
    start = None if chosen.start is None else position(chosen.start, log.epochs[-1])
    if "PGPASSWORD" not in environment:
        raise ValueError("there is no password: put it into the environment variable PGPASSWORD.")
    database = Database(chosen.database, verify_full(str(chosen.ca_file)))
    credentials = Credentials(chosen.user, environment["PGPASSWORD"])
    endpoint = Endpoint(chosen.host, chosen.port)
    with Session.open(endpoint, database, credentials, CONNECT_SECONDS, "citizens-roll-forward") as session:
        return roll_forward(session, log, until, start=start, stop_at_gap=chosen.stop_at_gap, dry_run=chosen.dry_run)


def _until(chosen: argparse.Namespace, log: Log) -> Until:
    newest = log.epochs[-1]
    if chosen.to_lsn is not None:
        return Until(last=position(chosen.to_lsn, newest))
    if chosen.to_time is not None:
        return Until(time_us=round(chosen.to_time * 1e6))
    if chosen.before_transaction is None:
        return Until()
    return Until(before=before_transaction(log, chosen.before_transaction))


def before_transaction(log: Log, text: str) -> Position:
    """The commit of the transaction with this id or at this position; ValueError when there is none, or several."""
    if not text.isdecimal():
        return position(text, log.epochs[-1])
    found = listing.find(log, int(text))
    if len(found) != 1:
        which = ", ".join(str(transaction.at) for transaction in found)
        raise ValueError(
            f"several transactions have the id {text}; name one by its position: {which}."
            if found
            else f"no transaction of the log has the id {text}; `list` shows those it has."
        )
    return found[0].at


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
