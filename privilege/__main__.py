"""`python -m privilege`: show that every permission is used and needed. The only place of this program that reads
the environment.

A drill, the integration tests of the workflow and the exercises run with the local cloud's record of permissions on;
then each action of each statement is taken away in a deployed environment, and the exercise that uses it must fail.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from deployment import local
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.configuration import configured
from deployment.problem import Problem
from drills.drill import Drill
from drills.measurement import Objectives
from drills.scenarios import SCENARIOS
from drills.timeline import Timeline
from privilege.mutation import Trial
from privilege.report import Report, compare, show
from privilege.site import Failed, Site
from privilege.used import Usage, read
from stacks.settings import SettingsError

# So that a witness suspects within a second and the arbiter grants no grace: what is asked for is the same.
SWIFT = {"PROBE_INTERVAL_SECONDS": "0.5", "FAILURE_THRESHOLD": "2", "MULTI_AZ_GRACE_SECONDS": "0"}
SCENARIO = "primary-lost"
WORKFLOW = "tests/integration/test_workflow.py"
GOODBYE_SECONDS = 60.0


@dataclass
class Run:
    """One run of everything."""

    environment: Mapping[str, str]
    console: Console
    usage: Usage = field(default_factory=Usage)
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    suffix: str = field(default_factory=lambda: f"privilege-{secrets.token_hex(2)}")

    @property
    def state(self) -> Path:
        """The folder of this run's local cloud."""
        return ROOT / f".local-cloud-{self.suffix}"

    def everything(self, *, rehearse: bool) -> Report:
        """Drill and tests (unless left out), exercises, mutations, comparison."""
        with tempfile.TemporaryDirectory(prefix="permissions-") as folder:
            if rehearse:
                self._rehearse(Path(folder))
            report = self._try()
        return Report(report.rows, (*self.problems, *report.problems), self.seconds)

    def _rehearse(self, folder: Path) -> None:
        settings = configured({"environmentSuffix": "drill"})
        file = folder / f"{SCENARIO}.json"
        with self._phase(f"drill {SCENARIO}"):
            objectives = Objectives(settings.rto_seconds, settings.rpo_seconds)
            quiet = Timeline(lambda _entry: None)
            verdict = (
                Drill(SCENARIOS[SCENARIO], self.environment, quiet, objectives, permissions=file)
                .run()
                .measurement.verdict
            )
        if verdict != "met":
            self.problems.append(f"The drill {SCENARIO} did not meet its objectives: {verdict}.")
        self.usage.add(read(file))
        file = folder / "workflow.json"
        with self._phase("integration tests of the workflow"):
            command = [sys.executable, "-m", "pytest", WORKFLOW, "-q", "--permissions", str(file)]
            tests = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(self.environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                said, _ = tests.communicate()
            except KeyboardInterrupt:
                # They stop their local cloud; whoever interrupted may not have reached them
                tests.send_signal(signal.SIGINT)
                tests.communicate(timeout=GOODBYE_SECONDS)
                raise
        if tests.returncode != 0:
            self.problems.append(f"The integration tests failed:\n{said[-2000:]}")
        if file.exists():
            self.usage.add(read(file))

    def _try(self) -> Report:
        environment = {**self.environment, **SWIFT}
        log = ROOT / "reports" / "logs" / "least-privilege.log"
        try:
            with self._phase("deploy"):
                local.up(self.state, environment)
                target = local.environment_of(self.state, environment)
                local.bootstrap(target, log)
                cdk = Cdk(self.suffix, target, log)
                cdk.synth()
                local.play_agency(target, self.suffix)
                site = Site(Account(target), cdk.deploy())
            trial = Trial(site, lambda line: self.console.print(f"[dim]{line}[/]"))
            with self._phase("exercises with and without each action"):
                trial.run()
            self.problems.extend(f"With the deployed policies {failure}." for failure in trial.broken)
            self.problems.extend(
                f"{role} was refused {action} with the deployed policies: it uses what it may not."
                for role, actions in sorted(trial.denied.items())
                for action in sorted(set(actions))
            )
            self.usage.allowed += site.usage().allowed
            return compare(site.roles(), self.suffix, self.usage, trial.verdicts)
        finally:
            with self._phase("stop"):
                local.down(self.state, environment)
                Cdk(self.suffix, environment).discard()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.console.print(f"[cyan]{name}[/] ...")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Exit codes: 0 least privilege is shown, 1 it is not, or could not be tried; 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m privilege", description=__doc__)
    parser.add_argument("--exercises-only", action="store_true", help="without the drill and the integration tests")
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler)
    try:
        report = Run(environment, console).everything(rehearse=not chosen.exercises_only)
    except (Problem, SettingsError, Failed) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: the local cloud is stopped.", file=sys.stderr)
        return 130
    show(report, console)
    console.print(f"Report: {report.write().relative_to(ROOT)}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
