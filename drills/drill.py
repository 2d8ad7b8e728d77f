"""A drill from the first process to the last: deploy, load, fail, watch, measure, destroy."""

from __future__ import annotations

import json
import secrets
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from deployment import local, outputs, preflight, remains
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.configuration import configured
from deployment.destruction import Destruction
from deployment.problem import Problem
from deployment.work_tree import commit_of
from drills.client import Application
from drills.ledger import Ledger
from drills.measurement import Measurement, Objectives, measure
from drills.observed import Observed
from drills.report import REPORTS, Report, Setting
from drills.scenarios import Scenario, Site
from drills.timeline import Timeline
from drills.watch import Watch

READY_SECONDS = 60.0
"""How long the witnesses may take to report after a deploy: their schedules fire once a minute."""

ALONE = {"AUTO_REPROTECT": "false"}
"""A drill ends with the service: a standby in the making would only be in the way of its destroy."""

LOAD_SECONDS = 5.0
"""Load before the failure, so that there is something to lose."""

SETTLE_SECONDS = 2.0
"""Load after service is back, so that a recovery that does not hold is seen."""

UNWANTED_SECONDS = 20.0
"""Where nothing may be promoted, how long a promotion is waited for: detection and two rounds of the arbiter."""


@dataclass
class Drill:
    """One drill in a local cloud of its own, which is gone afterwards whatever happened."""

    scenario: Scenario
    environment: Mapping[str, str]
    timeline: Timeline
    objectives: Objectives
    suffix: str = field(default_factory=lambda: f"drill-{secrets.token_hex(2)}")
    phases: dict[str, float] = field(default_factory=dict)
    permissions: Path | None = None
    """A file for what every role asked for during the drill."""
    setting: Setting = field(default_factory=Setting)
    preflight: tuple[Mapping[str, str], ...] = ()
    observed: Observed | None = None
    complaints: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        """The folder of this drill's local cloud."""
        return ROOT / f".local-cloud-{self.suffix}"

    def run(self) -> Report:
        """Run the drill; the local cloud is down when this returns or raises."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        log = REPORTS / "logs" / f"{self.suffix}.log"
        try:
            cdk = self._prepare(log)
            template_sha256 = cdk.template_sha256()
            account = Account(cdk.environment)
            self._check(account, cdk)
            with self._phase("deploy"):
                flat = cdk.deploy()
                outputs.write(flat, self.suffix)
            unlike = len(local.not_honoured(cdk.environment))
            self.timeline.add(
                "drill",
                f"deployed {self.suffix} in {self.phases['deploy']:.1f} s; {unlike} template properties have no effect "
                "in the local cloud (make local-deploy lists them)",
            )
            measurement = self._rehearse(account, flat)
            delays = self._control(cdk.environment, "delays")
            with self._phase("destroy"):
                self._destroy(cdk, account)
                outputs.forget(self.suffix)
            left = tuple(remains.of(account, self.suffix))
            self.timeline.add("drill", f"destroyed in {self.phases['destroy']:.1f} s, {len(left) or 'nothing'} left")
        finally:
            with self._phase("stop"):
                local.down(self.state, self.environment)
                outputs.forget(self.suffix)
                Cdk(self.suffix, self.environment).discard()
        log.unlink(missing_ok=True)
        return Report(
            suffix=self.suffix,
            scenario=self.scenario.name,
            started_at=started_at,
            measurement=measurement,
            objectives=self.objectives,
            timeline=tuple(self.timeline.entries),
            phases=self.phases,
            delays=delays,
            left_behind=left,
            commit=commit_of(ROOT),
            template_sha256=template_sha256,
            description=self.scenario.description,
            setting=self.setting,
            preflight=self.preflight,
            observed=self.observed,
            alarms=self.scenario.telling_alarms,
            possible_alarms=self.scenario.possible_alarms,
            complaints=self.complaints,
        )

    def _check(self, account: Account, cdk: Cdk) -> None:
        """Preflight, as before any deploy. Raises Problem when a check failed."""
        with self._phase("preflight"):
            chosen = configured({"environmentSuffix": self.suffix})
            verdicts = preflight.run(preflight.Subject(account, chosen, cdk))
        self.preflight = tuple({"check": v.check, "verdict": v.verdict, "found": v.found} for v in verdicts)
        if preflight.has_failed(verdicts):
            raise Problem(f"{preflight.as_text(verdicts)}\nA check failed: nothing was deployed.")
        self.timeline.add("preflight", f"{len(verdicts)} checks, none failed")

    def _observe(self, ledger: Ledger, watch: Watch, present: set[int] | None, failed_at: float, ended: float) -> None:
        """Keep what was seen for the report."""
        kept = None if present is None else frozenset(present)
        self.observed = Observed(tuple(ledger.attempts), kept, failed_at, ended, watch.watched())
        self.complaints = tuple(dict.fromkeys(watch.complaints))

    def _destroy(self, cdk: Cdk, account: Account) -> None:
        """As an operator does it; what is said of it is told of operators only."""
        Destruction(account, cdk, protect=False, announce=lambda _: None).run()

    def _prepare(self, log: Path) -> Cdk:
        """Start the local cloud and synthesise, side by side."""
        self.timeline.add("drill", "starting the local cloud and synthesising the templates")
        with self._phase("prepare"), ThreadPoolExecutor() as pool:
            # The scenario's own settings are the system's, so the environment of everything that is deployed.
            synth = pool.submit(Cdk(self.suffix, {**self.environment, **ALONE, **self.scenario.settings}, log).synth)
            local.up(self.state, self.environment, self.permissions)
            environment = local.environment_of(self.state, self.environment)
            local.bootstrap(environment, log)
            local.play_agency(environment, self.suffix)
            synth.result()
        self.timeline.add(
            "drill", f"local cloud at {environment['AWS_ENDPOINT_URL']}, {self.phases['prepare']:.1f} s; deploying"
        )
        return Cdk(self.suffix, environment, log)

    def _rehearse(self, account: Account, flat: Mapping[str, str]) -> Measurement:
        """Load, failure, recovery; from the failure on nothing is touched but the clients' own transactions."""
        application = Application(account, flat)
        ledger = Ledger(application.connect)
        watch = Watch(account, flat, self.timeline)
        with self._phase("load"):
            ledger.create_table()
            ledger.start()
            self._await_witnesses(account, flat)
            watch.start()
            time.sleep(LOAD_SECONDS)
        site = Site(account.environment["LOCAL_CLOUD_URL"], account, flat)
        try:
            if self.scenario.beforehand is not None:
                with self._phase("set the scene"):
                    self.timeline.add("drill", self.scenario.beforehand(site))
            with self._phase("recover"):
                self.timeline.add("client", f"{len(ledger.attempts)} transactions so far, all through the writer URI")
                failed_at = time.time()
                assert self.scenario.cause is not None, "a client does the harm: another kind of drill"
                self.timeline.add("drill", self.scenario.cause(site), failed_at)
                if self.scenario.ends == "refused":
                    self._await_end(watch, failed_at)
                else:
                    self._await_service(ledger, failed_at)
                if self.scenario.ends == "untouched":
                    time.sleep(UNWANTED_SECONDS)
                if self.scenario.healed is not None:
                    self.timeline.add("drill", self.scenario.healed(site))
                    self._await_record(watch)
        finally:
            ledger.stop()
        ended_at = time.time()
        self._await_record(watch)
        watch.stop()
        present = _present(ledger)
        self._observe(ledger, watch, present, failed_at, ended_at)
        measurement = measure(
            ledger.attempts,
            present,
            failed_at,
            ended_at,
            self.objectives,
            ledger.broken,
            expects_outage=self.scenario.outage is True,
        )
        if measurement.rto_seconds:
            self.timeline.add("client", "first transaction acknowledged again", failed_at + measurement.rto_seconds)
        return judge(measurement, self.scenario, watch.promotions, watch.refusals)

    def _await_witnesses(self, account: Account, flat: Mapping[str, str]) -> None:
        """Wait until both witnesses have seen both members: before that the system is still starting."""
        table = account.client("dynamodb")
        deadline = time.monotonic() + READY_SECONDS
        missing = {"observation#a", "observation#c"}
        while missing:
            for key in sorted(missing):
                item = table.get_item(TableName=flat["RecoveryTableName"], Key={"id": {"S": key}}).get("Item")
                if item and _sees_both(item):
                    missing.discard(key)
                    self.timeline.add("witness", f"witness {key[-1]} sees primary and standby")
            if missing and time.monotonic() > deadline:
                raise Problem(
                    f"{' and '.join(sorted(missing))} did not show both members within {READY_SECONDS:.0f} s "
                    f"after the deploy: "
                    "see the witnesses' log groups."
                )
            time.sleep(0.2)

    def _await_service(self, ledger: Ledger, failed_at: float) -> None:
        """Wait until transactions are acknowledged again and stay so, or the RTO is spent."""
        deadline = failed_at + (self.objectives.rto_seconds if self.scenario.outage else SETTLE_SECONDS)
        noticed = back = False
        told = time.monotonic()
        while time.time() < deadline:
            failures = [a for a in ledger.attempts if a.outcome == "failed" and a.ended >= failed_at]
            if failures and not noticed:
                noticed = True
                self.timeline.add("client", f"first transaction failed: {failures[0].error}", failures[0].ended)
            if noticed and not back:
                back = ledger.acknowledged_since(failures[-1].started) is not None
                if back:
                    deadline = min(deadline, time.time() + SETTLE_SECONDS)
            if noticed and not back and time.monotonic() - told > 5:
                told = time.monotonic()
                self.timeline.add(
                    "client", f"no service for {time.time() - failed_at:.0f} s, {len(failures)} transactions failed"
                )
            if ledger.broken:
                return
            time.sleep(0.1)

    def _await_end(self, watch: Watch, failed_at: float) -> None:
        """Wait until an incident has ended without a promotion, or the RTO is spent."""
        while not watch.refusals and time.time() < failed_at + self.objectives.rto_seconds:
            time.sleep(0.2)

    def _await_record(self, watch: Watch) -> None:
        """Let the incident finish its record: service is back before the machine has ended."""
        deadline = time.monotonic() + 30
        while watch.execution_status == "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.2)

    def _control(self, environment: Mapping[str, str], path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{environment['LOCAL_CLOUD_URL']}/{path}", timeout=10) as answer:  # noqa: S310
            value: dict[str, Any] = json.load(answer)
            return value

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = time.monotonic() - started


def judge(measurement: Measurement, scenario: Scenario, promotions: int, refusals: Sequence[str]) -> Measurement:
    """The verdict of a scenario: what clients saw, and whether what had to come of the failure came of it."""
    wanted = 1 if scenario.ends == "promoted" else 0
    if promotions != wanted:
        reason = f"There were {promotions} promotions where {wanted} should have been."
        return replace(measurement, verdict="missed", reason=reason)
    if scenario.ends == "refused":
        if not refusals:
            return replace(measurement, verdict="missed", reason="The arbiter did not refuse in time.")
        return replace(measurement, verdict="met", reason=f"Refused, as it must be: {refusals[0]}")
    if scenario.loses_at_most is not None and (measurement.rpo_seconds or 0.0) > scenario.loses_at_most:
        reason = (
            f"{measurement.rpo_seconds:.1f} s of acknowledged transactions are lost, more than the "
            f"{scenario.loses_at_most:.0f} s that the log may lack."
        )
        return replace(measurement, verdict="missed", reason=reason)
    if scenario.outage is False and measurement.rto_seconds:
        reason = f"Clients had no service for {measurement.rto_seconds:.1f} s and should have noticed nothing."
        return replace(measurement, verdict="missed", reason=reason)
    return measurement


def _sees_both(item: Mapping[str, Any]) -> bool:
    return all(
        item.get(member, {}).get("M", {}).get("reachable", {}).get("BOOL") is True for member in ("primary", "standby")
    )


def _present(ledger: Ledger) -> set[int] | None:
    """The rows after recovery; None when they cannot be read, which the measurement then says."""
    for _ in range(5):
        try:
            return ledger.rows_present()
        except (psycopg.Error, ClientError, BotoCoreError):
            threading.Event().wait(1)
    return None
