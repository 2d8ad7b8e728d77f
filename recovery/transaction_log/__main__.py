"""`python -m recovery.transaction_log verify FOLDER`: exit code 0 OK, 1 WARNING, 2 FAILURE."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from recovery.transaction_log.verification import verify


def main(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m recovery.transaction_log", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("verify", help="is the log all there and unchanged?")
    checking.add_argument("folder", type=Path, help="the folder that holds epoch-1, epoch-2 and so on")
    checking.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    report = verify(chosen.folder)
    print(json.dumps(report.as_json(), indent=2) if chosen.json else report.as_text())
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
