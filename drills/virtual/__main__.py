"""`python -m drills.virtual`: seeded incidents in virtual time, as a table and as `reports/incidents.json`.

The only place of this program that reads the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deployment.cdk import Cdk
from deployment.configuration import configured
from deployment.problem import Problem
from drills.report import REPORTS
from drills.virtual.incidents import KINDS, Measured, lived_through, summary, violations
from recovery import promise
from recovery.clock import iso
from stacks.names import Names
from stacks.settings import SettingsError

RESULTS = REPORTS / "incidents.json"
SUFFIX = "rehearsal"


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Live through the incidents. Returns the exit code: 1 when an invariant is broken, or it could not run."""
    parser = argparse.ArgumentParser(prog="python -m drills.virtual", description="Seeded incidents in virtual time")
    parser.add_argument("--count", type=int, default=1000, help="incidents, one for each seed from --seed on")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; with --count 1 one incident again")
    chosen = parser.parse_args(arguments)
    if chosen.count < 1:
        parser.error("--count must be at least 1")
    try:
        settings = configured({"environmentSuffix": SUFFIX})
        cdk = Cdk(SUFFIX, environment, REPORTS / "logs" / "incidents.log")
        cdk.synth()
    except (SettingsError, Problem) as error:
        print(error, file=sys.stderr)
        return 1
    templates = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cdk.assembly.glob("*.template.json"))]
    definition = promise.from_templates(templates, Names(SUFFIX).state_machine)
    seeds = range(chosen.seed, chosen.seed + chosen.count)
    work = partial(lived_through, definition, settings.detection, settings.objectives)
    with ProcessPoolExecutor() as pool:
        found = [
            each for part in pool.map(work, [seeds[n : n + 20] for n in range(0, len(seeds), 20)]) for each in part
        ]
    broken = violations(found)
    _show(found, broken)
    write(RESULTS, found, broken, chosen.seed)
    return 1 if broken else 0


def _show(found: Sequence[Measured], broken: Sequence[str]) -> None:
    table = Table(title=f"{len(found)} incidents in virtual time: seconds without service")
    for column in ("kind", "incidents", "promoted", "p50", "p95", "p99", "max", "own, longest"):
        table.add_column(column, justify="left" if column == "kind" else "right", no_wrap=True)
    for kind in (*KINDS, "all"):
        those = [each for each in found if kind in (each.kind, "all")]
        if those:
            figures = [f"{value:.1f}" for value in summary(those).values()]
            own = max(each.own for each in those)
            table.add_row(kind, str(len(those)), str(sum(each.promotions for each in those)), *figures, f"{own:.1f}")
    Console().print(table)
    for sentence in broken:
        print(sentence)


def write(path: Path, found: Sequence[Measured], broken: Sequence[str], seed: int) -> None:
    """Write the report: the figures, and each incident."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "made_at": iso(time.time()),
        "incidents": len(found),
        "first_seed": seed,
        "rto_seconds": summary(found),
        "rto_seconds_promoted": summary([each for each in found if each.promotions]),
        "own_seconds": {
            part: round(max((getattr(each, part) for each in found), default=0.0), 1)
            for part in ("noticing", "deciding", "fencing", "finishing", "own")
        },
        "violations": list(broken),
        "each": [asdict(each) for each in found],
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
