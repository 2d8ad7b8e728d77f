"""`python -m drills`: lose something on purpose and measure the recovery. The only place of this program that reads
the environment."""

from __future__ import annotations

import argparse
import getpass
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from deployment.cdk import ROOT
from deployment.configuration import configured
from deployment.problem import Problem
from deployment.work_tree import plan_of
from drills import cycles
from drills.chain import PAGE, Chain
from drills.drill import Drill
from drills.measurement import Objectives
from drills.report import REPORTS, Action, Setting, course, summarise, write
from drills.rewind import RewindDrill
from drills.scenarios import SCENARIOS
from drills.timeline import Entry, Timeline
from stacks.settings import SettingsError

FAILOVER_PLAN, REWIND_PLAN = "failover-machine.md", "runbooks/wrong-data.md"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run one drill. Exit codes: 0 objectives met and nothing left behind, 1 missed or could not run, 2 not measured,
    130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m drills", description=__doc__)
    parser.add_argument("--scenario", default="primary-lost", help="`list` shows them all")
    parser.add_argument("--cycles", type=int, help="instead: so many failovers and switchovers in a row, under load")
    parser.add_argument("--partitions", type=int, help="instead: so many faults of the primary that heal by themselves")
    parser.add_argument("--seed", type=int, default=1, help="partitions: chooses the faults and their moments")
    parser.add_argument("--plan", type=Path, help="the plan that is rehearsed (default: the procedure in docs/)")
    parser.add_argument(
        "--action", action="append", default=[], metavar="WHAT|OWNER|DUE", help="a corrective action for the report"
    )
    parser.add_argument("--verify", action="store_true", help="instead: look whether any report was changed")
    chosen = parser.parse_args(arguments)
    if chosen.verify:
        return verify()
    console = Console(highlight=False, soft_wrap=True)
    if chosen.scenario == "list":
        for scenario in SCENARIOS.values():
            console.print(f"{scenario.name:20} {scenario.description}")
        return 0
    if chosen.cycles is not None and chosen.cycles < 1:
        print(f"{chosen.cycles} cycles cannot be run: give 1 or more.", file=sys.stderr)
        return 1
    if chosen.scenario not in SCENARIOS:
        print(f"There is no scenario {chosen.scenario!r}; expected one of: {', '.join(SCENARIOS)}.", file=sys.stderr)
        return 1
    started = time.time()

    def show(entry: Entry) -> None:
        console.print(f"[dim]{entry.at - started:7.1f} s[/]  [cyan]{entry.source:14}[/] {entry.event}", markup=True)

    # A terminal that closes or a job that is cancelled must clean up as Ctrl-C does.
    for each in ENDING_SIGNALS:
        signal.signal(each, _interrupt)
    try:
        settings = configured({"environmentSuffix": "drill"})
        objectives = Objectives(settings.rto_seconds, settings.rpo_seconds)
        scenario = SCENARIOS[chosen.scenario]
        plan = chosen.plan or ROOT / "docs" / (FAILOVER_PLAN if scenario.cause is not None else REWIND_PLAN)
        try:
            setting = Setting(getpass.getuser(), plan_of(plan.resolve()), actions(chosen.action))
        except OSError as error:
            raise Problem(f"The plan {plan} cannot be read: {error.strerror}.") from error
        timeline = Timeline(show)
        if chosen.cycles is not None:
            steps = cycles.rehearse(
                environment, lambda course: course.cycles(chosen.cycles), partial(_note, timeline, "cycles")
            )
            return _ended("cycles", steps, timeline, objectives, setting)
        if chosen.partitions is not None:
            steps = cycles.rehearse(
                {**environment, **cycles.NO_GRACE},
                lambda course: cycles.partitions(course, chosen.partitions, chosen.seed),
                partial(_note, timeline, "partitions"),
            )
            return _ended("partitions", steps, timeline, objectives, setting)
        kind = Drill if scenario.cause is not None else RewindDrill
        report = kind(scenario, environment, timeline, objectives, setting=setting).run()
        path = report.write()
    except (Problem, SettingsError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: the local cloud is stopped and nothing is left of the drill.", file=sys.stderr)
        return 130
    summarise(report, console, path)
    if report.measurement.verdict == "not measured":
        return 2
    return 0 if report.measurement.verdict == "met" and not report.left_behind else 1


def _ended(
    kind: str, steps: Sequence[cycles.Step], timeline: Timeline, objectives: Objectives, setting: Setting
) -> int:
    """Print and write what a course of many steps has shown; 0 when nothing was lost and no outage was too long."""
    summary = cycles.summary(steps)
    record = course(kind, [asdict(step) for step in steps], summary, timeline.entries, objectives, setting)
    path = write(record, REPORTS)
    print(f"{summary}\nreport: {path.with_name(PAGE).relative_to(ROOT)} (and .json)")
    return 0 if record["verdict"] == "met" else 1


def actions(given: Sequence[str]) -> tuple[Action, ...]:
    """Corrective actions from the command line. Raises Problem for one that says nothing."""
    found = []
    for text in given:
        what, owner, due, *_ = (part.strip() for part in f"{text}||".split("|"))
        if not what or text.count("|") > 2:
            raise Problem(f"{text!r} is no corrective action: write 'what|owner|due', owner and due may be empty.")
        found.append(Action(what, owner, due))
    return tuple(found)


def verify() -> int:
    """Look at the chain of evidence and every report in it: 0 OK, 1 a warning, 2 something was changed."""
    try:
        verification = Chain(REPORTS).verify()
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    for finding in verification.findings:
        print(f"{finding.verdict:8} {finding.kind:10} {finding.where}: {finding.meaning}")
    print(f"{verification.verdict}: {verification.entries} drills, the newest entry is {verification.head}")
    return verification.exit_code


def _note(timeline: Timeline, source: str, line: str) -> None:
    timeline.add(source, line)


def _interrupt(_signal: int, _frame: object) -> None:
    # Once is enough: an impatient second Ctrl-C must not stop the clean-up half way.
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    print("Interrupted: stopping the local cloud ...", file=sys.stderr)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
