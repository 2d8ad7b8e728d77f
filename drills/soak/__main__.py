"""`python -m drills.soak`: seed after seed in one local cloud, a line for each, and `reports/soak.json`; or every call
of every step that fails, and `reports/faults.json`.

The only place of this program that reads the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deployment import local
from deployment.cdk import ROOT, Cdk
from deployment.problem import Problem
from drills.report import REPORTS
from drills.soak.checker import Finding
from drills.soak.course import SWIFT, Course, Lived, lived_through
from drills.soak.schedule import drawn
from drills.soak.steps import combinations, judged
from drills.virtual.schedules import VirtualSeed
from drills.virtual.world import Machines
from stacks.names import Names

RESULTS = REPORTS / "soak.json"
STEPS = REPORTS / "faults.json"
VIRTUAL = REPORTS / "soak-virtual.json"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Live through the seeds, or through the steps' faults. Exit codes: 0 nothing was violated, 1 something was or it
    could not run, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m drills.soak", description="Random schedules of faults and orders")
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them; with --seeds 1 one seed again")
    parser.add_argument("--show", action="store_true", help="only print the schedules")
    parser.add_argument("--virtual", action="store_true", help="live through the seeds in virtual time")
    parser.add_argument("--steps", nargs="?", const="", help="instead: each call of each state (or of this one) fails")
    chosen = parser.parse_args(arguments)
    if chosen.seeds < 1:
        parser.error("--seeds must be at least 1")
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    if chosen.show:
        for seed in seeds:
            print(f"seed {seed}: " + "; ".join(str(act) for act in drawn(seed).acts))
        return 0
    for each in ENDING_SIGNALS:
        signal.signal(each, _interrupt)
    if chosen.virtual:
        return in_virtual_time(environment, seeds)
    told = Told(RESULTS if chosen.steps is None else STEPS)
    try:
        with deployed(environment) as course:
            if chosen.steps is None:
                lived_through(course, seeds, lambda lived: told.seed(lived))
            else:
                every_step(course, chosen.steps, told)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted after {len(told.found)} of them: the local cloud is stopped.", file=sys.stderr)
        return 130
    finally:
        told.write()
    wanted = len(seeds) if chosen.steps is None else len(told.found)
    print(f"{len(told.found)} of {wanted}, {len(told.broken)} with violations; {told.path.relative_to(ROOT)}")
    return 1 if told.broken or not told.found or len(told.found) < wanted else 0


def in_virtual_time(environment: Mapping[str, str], seeds: range) -> int:
    """The seeds over the synthesised machines, in as many processes as there are cores. Exit codes as of `main`."""
    suffix = f"soak-{secrets.token_hex(2)}"
    cdk = Cdk(suffix, environment, REPORTS / "logs" / f"{suffix}.log")
    broken, changes, done = [], 0, 0
    try:
        cdk.synth()
        machines = Machines.synthesised(cdk.assembly, Names(suffix))
        with ProcessPoolExecutor() as pool:
            for seed, finding, notes in pool.map(partial(one_seed, machines), seeds):
                done, changes = done + 1, changes + len(finding.changes)
                if finding.violations:
                    broken.append(seed)
                    print("\n    ".join((f"seed {seed:4}  violated", *finding.violations, *notes)), flush=True)
                    print(f"    again: make soak WORLD=virtual SEEDS=1 FROM={seed}", flush=True)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted after {done} seeds.", file=sys.stderr)
        return 130
    finally:
        cdk.discard()
    print(f"{done} seeds in virtual time, {changes} changes of roles, {len(broken)} with violations")
    report = {"seeds": done, "first": seeds.start, "changes_of_roles": changes, "violated": broken}
    VIRTUAL.parent.mkdir(parents=True, exist_ok=True)
    VIRTUAL.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if broken else 0


def one_seed(machines: Machines, seed: int) -> tuple[int, Finding, list[str]]:
    """A seed in a virtual world of its own: what it violates, and what became of its acts."""
    lived = VirtualSeed(machines, drawn(seed))
    return seed, lived.live(), lived.notes


@contextlib.contextmanager
def deployed(environment: Mapping[str, str]) -> Iterator[Course]:
    """A course in a local cloud of its own, of which nothing is left."""
    with local.system(f"soak-{secrets.token_hex(2)}", {**environment, **SWIFT}) as system:
        course = Course(system.account, system.outputs)
        course.prepare()
        print(f"deployed {system.cdk.suffix}", flush=True)
        yield course


def every_step(course: Course, state: str, told: Told) -> None:
    """One failover for each combination (of one state, where one is named), as long as the pair comes out whole."""
    chosen = [each for each in combinations(course.failover_machine) if each.name.startswith(state)]
    if not chosen:
        raise Problem(f"The failover machine has no state {state!r} that asks for anything.")
    for number, combination in enumerate(chosen, start=1):
        lived = course.live_through(combination.schedule)
        told.step(f"{number}/{len(chosen)} {combination.name}", lived, judged(lived))
        if lived.finding.violations and not course.whole():
            return


@dataclass
class Told:
    """What has been lived through so far: shown as it comes, and kept for the report."""

    path: Path
    found: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def seed(self, lived: Lived) -> None:
        """A line for a seed."""
        seed = lived.schedule.seed
        acts = "; ".join(str(act) for act in lived.schedule.acts)
        again = f"make soak SEEDS=1 FROM={seed}"
        self._tell(f"seed {seed:4}", lived, lived.finding.violations, acts, again)

    def step(self, name: str, lived: Lived, violations: Sequence[str]) -> None:
        """A line for a combination."""
        state = name.partition(" ")[2].partition(":")[0]
        self._tell(name, lived, violations, "", f"make faults STATE={state}")

    def _tell(self, name: str, lived: Lived, violations: Sequence[str], acts: str, again: str) -> None:
        changes = ", ".join(lived.finding.changes) or "no change"
        print(
            f"{name}  {'violated' if violations else 'ok'}  {lived.seconds:.1f} s  epoch {lived.epochs[0]} → "
            f"{lived.epochs[1]} ({changes})  {lived.acknowledged} acknowledged, {lived.finding.tail} not replicated at "
            f"a loss  {acts}".rstrip(),
            flush=True,
        )
        if violations:
            for sentence in (*violations, *lived.notes):
                print(f"    {sentence}", flush=True)
            print(f"    again: {again}", flush=True)
            self.broken.append(name.strip())
        self.found.append({"name": name.strip(), **lived.as_json(), "violations": list(violations)})

    def write(self) -> None:
        """The report: what was lived through, and what was violated."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "runs": len(self.found),
            "violated": self.broken,
            "changes_of_roles": sum(len(each["changes_of_roles"]) for each in self.found),
            "acknowledged": sum(each["acknowledged"] for each in self.found),
            "seconds": round(sum(each["seconds"] for each in self.found), 1),
            "each": self.found,
        }
        self.path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _interrupt(_signal: int, _frame: object) -> None:
    # Once is enough: an impatient second Ctrl-C must not stop the clean-up half way.
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    print("Interrupted: stopping the local cloud ...", file=sys.stderr)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
