"""`python -m drills.dashboard`: deploy into a local cloud of its own, lose the primary in the middle of an hour on a
clock that runs fast, and draw the deployed dashboard. The only place of this program that reads the environment."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deployment.cdk import ROOT
from deployment.problem import Problem
from drills.dashboard.hour import film
from drills.dashboard.picture import draw
from stacks.settings import SettingsError


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Draw it. Exit codes: 0 drawn, 1 it could not be."""
    parser = argparse.ArgumentParser(prog="python -m drills.dashboard", description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "dashboard.png", help="the picture (PNG)")
    parser.add_argument("--minutes", type=int, default=60, help="how long the hour is, on the fast clock")
    chosen = parser.parse_args(arguments)
    if not 10 <= chosen.minutes <= 600:
        print(f"{chosen.minutes} minutes cannot be drawn: give 10 to 600.", file=sys.stderr)
        return 1
    try:
        board = film(environment, chosen.minutes, print)
        draw(board, chosen.to)
    except (Problem, SettingsError, OSError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{chosen.to} shows {len(board.widgets)} widgets.")
    if board.unmeasured:
        print("Nothing was measured for " + "; ".join(board.unmeasured) + ".")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
