"""`python -m recovery.transaction_log verify|expire|hold|release FOLDER`: look after the files of a transaction log.

`verify` exits with 0 (OK), 1 (WARNING) or 2 (FAILURE); the others with 0, or with 2 and a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from recovery import clock
from recovery.transaction_log import retention
from recovery.transaction_log.retention import DAY_SECONDS, Policy, RetentionRefused
from recovery.transaction_log.segment import LogInUse, SegmentCorrupt
from recovery.transaction_log.verification import verify

_FOLDER = "the folder that holds epoch-1, epoch-2 and so on"


def main(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
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
        help="when the newest recovery point was made (ISO 8601, UTC when no offset is given): the log since is kept",
    )
    expiring.add_argument("--dry-run", action="store_true", help="only say what would go")
    holding = commands.add_parser("hold", help="let nothing expire until the hold is released")
    holding.add_argument("--name", required=True, help="of the hold, for its release")
    holding.add_argument("--reason", required=True, help="why, for whoever finds it")
    releasing = commands.add_parser("release", help="take a hold away")
    releasing.add_argument("--name", required=True, help="of the hold")
    for command in (checking, expiring, holding, releasing):
        command.add_argument("folder", type=Path, help=_FOLDER)
        command.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen)
    except (RetentionRefused, SegmentCorrupt, LogInUse, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _run(chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "verify":
            report = verify(chosen.folder, chosen.processes)
            print(json.dumps(report.as_json(), indent=2) if chosen.json else report.as_text())
            return report.exit_code
        case "expire":
            policy = Policy(chosen.days * DAY_SECONDS, chosen.needed_since)
            expired = retention.expire(chosen.folder, policy, time.time(), chosen.dry_run)
            print(json.dumps(expired.as_json(), indent=2) if chosen.json else expired.as_text())
        case "hold":
            made = retention.hold(chosen.folder, chosen.name, chosen.reason, time.time())
            told = {"name": made.name, "reason": made.reason, "since": made.since}
            print(json.dumps(told) if chosen.json else f"held: {made.name}, since {made.since}: {made.reason}")
        case _:
            retention.release(chosen.folder, chosen.name)
            left = [hold.name for hold in retention.holds(chosen.folder)]
            print(json.dumps({"holds": left}) if chosen.json else f"released; holds left: {', '.join(left) or 'none'}")
    return 0


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


def _time(text: str) -> float:
    try:
        return clock.seconds(text if "+" in text or text.endswith("Z") else f"{text}Z")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 2026-11-22T10:20:30Z") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
