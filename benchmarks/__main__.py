"""`python -m benchmarks`: how long things take on this machine, as a table and as `reports/bench.json`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.failover import RUNS, failover
from benchmarks.log_under_load import log_under_load
from benchmarks.result import Result, median_of
from benchmarks.roll_forward import roll_forward_race
from benchmarks.transaction_log import transaction_log
from benchmarks.verification import verification
from deployment import local
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.problem import Problem
from drills.client import Application
from drills.report import REPORTS
from drills.rotation_load import rotate_under_load
from recovery.clock import iso

ROTATIONS = 200
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULTS = REPORTS / "bench.json"


def synthesis(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """Wall time of synthesising the parent and all nested templates, in a process of its own as `make synth` does."""
    times = []
    for _ in range(runs):
        started = time.monotonic()
        Cdk("bench", environment, ROOT / "reports" / "logs" / "bench.log").synth()
        times.append(time.monotonic() - started)
    return {"synth": median_of(times, 10)}


def drills(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """Wall time of whole drills, and of their parts as each drill's own report states them."""
    wall, deploy, recover = [], [], []
    for _ in range(runs):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "drills"],
            cwd=ROOT,
            env=dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        wall.append(time.monotonic() - started)
        if done.returncode != 0:
            raise SystemExit(f"a drill ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        report = json.loads((REPORTS / "latest" / "report.json").read_text(encoding="utf-8"))
        deploy.append(float(report["phases_seconds"]["deploy"]))
        recover.append(float(report["rto_seconds"]))
    return {
        "drill": median_of(wall, 90),
        "local_deploy": median_of(deploy, 20),
        "kill_to_first_write": median_of(recover, 30),
    }


def rotation(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:  # noqa: ARG001 - rotations are the runs
    """Rotations one after the other on a deployed system while clients connect: what a client would notice."""
    state = ROOT / ".local-cloud-bench"
    local.up(state, environment)
    try:
        inside = local.environment_of(state, environment)
        local.bootstrap(inside, state / "bootstrap.log")
        cdk = Cdk("bench", inside, state / "cdk.log")
        cdk.synth()
        local.play_agency(inside, "bench")
        load = rotate_under_load(Application(Account(inside), cdk.deploy()), ROTATIONS)
    finally:
        local.down(state, environment)
    print(
        f"{load.rotations} rotations, {load.asked_again} times asked for again; {load.signed_in} sign-ins, "
        f"{load.retried} needed the secret again",
        file=sys.stderr,
    )
    return {
        "rotation": median_of(load.seconds, 10),
        "rotation_client_failures": Result(len(load.failures), "failures", (float(len(load.failures)),), 0),
        "rotation_sessions_dropped": Result(len(load.dropped), "sessions", (float(len(load.dropped)),), 0),
    }


APART = ("failover",)
"""What runs only when it is named: it needs Patroni, and an hour's quarter."""

BENCHMARKS: Mapping[str, Callable[[int, Mapping[str, str]], dict[str, Result]]] = {
    "synthesis": synthesis,
    "drills": drills,
    "rotation": rotation,
    "transaction-log": transaction_log,
    "verification": verification,
    "log-under-load": log_under_load,
    "roll-forward": roll_forward_race,
    "failover": failover,
}


def write(results: Mapping[str, Result], path: Path = RESULTS) -> None:
    """Merge results into `bench.json`: name → {median, unit, runs, target, at_least, note, measured_at (ISO 8601)};
    others that are there stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    measured_at = iso(time.time())
    merged = known | {name: {**asdict(result), "measured_at": measured_at} for name, result in results.items()}
    path.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")


def show(results: Mapping[str, Result], console: Console) -> None:
    """Print results as a table."""
    table = Table("benchmark", "median", "lowest", "highest", "target", "runs")
    for name, result in results.items():
        colour, digits = "green" if result.kept else "red", 2 if result.unit == "×" else 1
        table.add_row(
            name,
            f"[{colour}]{result.median:.{digits}f} {result.unit}[/]",
            f"{min(result.runs):.{digits}f}",
            f"{max(result.runs):.{digits}f}",
            f"{'≥' if result.at_least else '≤'} {result.target:g}",
            str(len(result.runs)),
        )
    console.print(table)


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run the benchmarks; 0 when every median keeps its target, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each benchmark")
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="run only this one (may be repeated)")
    parser.add_argument("--anew", action="store_true", help="failover: forget the runs that were measured before")
    chosen = parser.parse_args(arguments)
    if chosen.runs < 1:
        print(f"{chosen.runs} runs measure nothing: give 1 or more.", file=sys.stderr)
        return 1
    if chosen.anew:
        RUNS.unlink(missing_ok=True)
    for each in ENDING_SIGNALS:
        # Every benchmark cleans up when it is interrupted, also where the caller ignores Ctrl-C
        signal.signal(each, signal.default_int_handler)
    results: dict[str, Result] = {}
    try:
        for name in chosen.only or [each for each in BENCHMARKS if each not in APART]:
            print(f"{name}: {chosen.runs} runs ...", file=sys.stderr)
            results |= BENCHMARKS[name](chosen.runs, environment)
            write(results)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: nothing is left running; what was measured is kept.", file=sys.stderr)
        return 130
    show(results, Console())
    return 0 if all(result.kept for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
