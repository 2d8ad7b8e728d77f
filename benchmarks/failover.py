"""Failover beside Patroni's: the same load, the same loss of a whole node, in turns; kill → first acknowledged write.

Three systems stay up and lose their primary in turns: ours as it is deployed, Patroni with its defaults, and Patroni as
tight as its documentation allows. Ours is blind: RDS goes on to say `available`, and with a grace of 0 the witnesses
alone notice. The local cloud's delay of a promotion stays in. The moment of the loss is random within Patroni's
longest loop, because its leader lock is as old as that. Every run is kept, with the settings it was made with, so runs
of several evenings add up.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from benchmarks.patroni import DEFAULT, TIGHTEST, PatroniPair, Timing
from benchmarks.result import Result
from deployment import local
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.configuration import configured
from deployment.operations import Operations
from deployment.problem import Problem
from drills.client import Application
from drills.cycles import INSTANT
from drills.ledger import Ledger
from drills.measurement import Measurement, Objectives, measure
from drills.report import REPORTS
from drills.scenarios import post
from recovery import incident, roles
from recovery.suspicion import REST_SECONDS
from recovery.table import RecoveryTable

RUNS = REPORTS / "failover-runs.json"
DEFAULT_TARGET = 0.35
TUNED_TARGET = 1.0
LONGEST_SECONDS = 120.0
LOAD_SECONDS = 3.0
SETTLE_SECONDS = 2.0
READY_SECONDS = 240.0
BLIND_SECONDS = 60.0
BLIND: Mapping[str, float] = {**INSTANT, "promotion_seconds": 1.0, "failed_after_seconds": BLIND_SECONDS}
"""RDS does not notice the loss until the run is over (a run that lasted longer is refused); only then can it be deleted
and made again. A promotion takes the local cloud's usual second; what comes after the measurement takes no time."""
NO_GRACE = {"MULTI_AZ_GRACE_SECONDS": "0"}
OURS, PATRONI_DEFAULT, PATRONI_TUNED = "ours", "patroni-default", "patroni-tuned"


@dataclass(frozen=True)
class Run:
    """One loss: seconds from the kill to the first acknowledged write, how much too long that may be, and the
    transactions that were acknowledged in the run and that were missing after it."""

    system: str
    settings: str
    seconds: float
    resolution: float
    acknowledged: int
    missing: int


class System(Protocol):
    """A pair under measurement."""

    name: str
    settings: str

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to whoever takes writes."""
        ...

    def await_ready(self) -> None:
        """Wait until the pair is redundant and at rest."""
        ...

    def lose(self) -> None:
        """Kill the primary's whole node."""
        ...

    def rebuild(self) -> None:
        """Begin to make the lost node again, where that does not happen by itself."""
        ...


class Deployed:
    """Ours, deployed into a local cloud of its own."""

    name = OURS

    def __init__(self, state: Path, environment: Mapping[str, str]) -> None:
        """Deploy it. `close` takes it away."""
        self._state, self._environment = state, environment
        log = state / "cdk.log"
        chosen = configured({"environmentSuffix": "bench"})
        self.settings = (
            f"probe interval {chosen.probe_interval_seconds} s, failure threshold {chosen.failure_threshold}, grace 0, "
            f"RDS stays available, promotion {BLIND['promotion_seconds']:g} s; TLS verify-full"
        )
        try:
            local.up(state, environment)
            target = local.environment_of(state, environment)
            local.bootstrap(target, state / "bootstrap.log")
            cdk = Cdk("bench", {**target, **NO_GRACE}, log)
            cdk.synth()
            local.play_agency(target, "bench")
            outputs = cdk.deploy()
        except BaseException:
            self.close()
            raise
        account = Account(target)
        self._control = target["LOCAL_CLOUD_URL"]
        post(f"{self._control}/delays", BLIND, "PUT")
        self._table = RecoveryTable(account.client("dynamodb"), outputs["RecoveryTableName"])
        self._operations = Operations(account, "bench", lambda _: None)
        self.connect = Application(account, outputs).connect
        self._lost_at: float | None = None

    def await_ready(self) -> None:
        """Protected, at rest after the last incident, and both witnesses content."""
        self._operations.await_protection(0, READY_SECONDS)
        deadline = time.monotonic() + READY_SECONDS
        while not self._at_rest():
            if time.monotonic() > deadline:
                raise Problem(f"Our pair was not at rest within {READY_SECONDS:.0f} s.")
            time.sleep(0.5)

    def _at_rest(self) -> bool:
        if incident.read_lease(self._table) is not None:
            return False
        if self._lost_at is not None and time.time() < self._lost_at + 2 * REST_SECONDS:
            # A suspicion so soon after an incident waits, which is not what is measured
            return False
        try:
            self._operations.preview_of_switchover()
        except Problem:
            return False
        return True

    def lose(self) -> None:
        """Primary and Multi-AZ copy, for good."""
        self._lost_at = time.time()
        post(f"{self._control}/rds/{roles.known(self._table).primary}/lose")

    def rebuild(self) -> None:
        """It reprotects itself."""

    def close(self) -> None:
        """Take the local cloud away."""
        local.down(self._state, self._environment)
        Cdk("bench", self._environment).discard()


class Rival:
    """Patroni with some timing."""

    def __init__(self, name: str, state: Path, timing: Timing) -> None:
        """Start it. `close` takes it away."""
        self.name, self.settings = name, f"{timing}; no TLS"
        self._pair = PatroniPair(state, timing)
        self._lost = self._pair.nodes[0]
        self.connect = self._pair.connect
        self.close = self._pair.close

    def await_ready(self) -> None:
        """A leader and a replica that streams."""
        self._pair.await_protection()

    def lose(self) -> None:
        """The leader's agent, PostgreSQL and data."""
        self._lost = self._pair.leader()
        self._pair.lose(self._lost)

    def rebuild(self) -> None:
        """Start the lost node's agent again."""
        self._pair.start(self._lost)


def measured(system: System, wait: float) -> Run:
    """Lose a system's primary under load, `wait` seconds after it is ready. Raises Problem if nothing was measured."""
    system.await_ready()
    ledger = Ledger(system.connect)
    try:
        ledger.create_table()
        ledger.empty_table()
        ledger.start()
        time.sleep(LOAD_SECONDS + wait)
        failed_at = time.time()
        system.lose()
        measurement = _watch(ledger, failed_at)
    except psycopg.Error as error:
        raise Problem(f"{system.name} could not be asked before or after the loss: {error}") from error
    finally:
        ledger.stop()
    missing, seconds, resolution = (
        measurement.transactions_missing,
        measurement.rto_seconds,
        measurement.rto_resolution_seconds,
    )
    if seconds is None or resolution is None or missing is None:
        raise Problem(f"{system.name}: {measurement.reason}")
    if system.name == OURS and seconds >= BLIND_SECONDS:
        raise Problem(
            f"RDS had noticed the loss when ours was back after {seconds:.1f} s: that is not what is compared."
        )
    system.rebuild()
    return Run(system.name, system.settings, seconds, resolution, measurement.transactions_acknowledged, missing)


def _watch(ledger: Ledger, failed_at: float) -> Measurement:
    while time.time() < failed_at + LONGEST_SECONDS:
        failures = [a for a in ledger.attempts if a.outcome == "failed" and a.ended >= failed_at]
        if failures and ledger.acknowledged_since(failures[-1].started) is not None:
            time.sleep(SETTLE_SECONDS)
            break
        time.sleep(0.1)
    ended_at = time.time()
    ledger.stop()
    objectives = Objectives(LONGEST_SECONDS, LONGEST_SECONDS)
    return measure(ledger.attempts, ledger.rows_present(), failed_at, ended_at, objectives, ledger.broken)


def kept(path: Path, settings: Mapping[str, str]) -> list[Run]:
    """The runs of a file that were made with these settings (system → settings); none where there is no file."""
    if not path.exists():
        return []
    try:
        found = [Run(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise Problem(f"{path} does not hold runs of this benchmark ({error}): remove it.") from error
    return [run for run in found if settings.get(run.system) == run.settings]


def keep(path: Path, runs: Iterable[Run]) -> None:
    """Write all runs, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps([asdict(run) for run in runs], indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def results(runs: Sequence[Run]) -> dict[str, Result]:
    """The ratios of the medians, with each alternation's own as the runs, for the systems that were measured."""
    found = {}
    ours = [run for run in runs if run.system == OURS]
    for name, rival, target in (
        ("failover_vs_patroni_default", PATRONI_DEFAULT, DEFAULT_TARGET),
        ("failover_vs_patroni_tuned", PATRONI_TUNED, TUNED_TARGET),
    ):
        theirs = [run for run in runs if run.system == rival]
        if not ours or not theirs:
            continue
        ratio = statistics.median(r.seconds for r in ours) / statistics.median(r.seconds for r in theirs)
        each = tuple(round(own.seconds / other.seconds, 2) for own, other in zip(ours, theirs, strict=False))
        found[name] = Result(round(ratio, 3), "×", each, target, note=f"{described(ours)}; {described(theirs)}")
    return found


def described(runs: Sequence[Run]) -> str:
    """One system's runs in a sentence."""
    seconds = sorted(run.seconds for run in runs)
    return (
        f"{runs[0].system} ({runs[0].settings}): median {statistics.median(seconds):.1f} s "
        f"({seconds[0]:.1f}–{seconds[-1]:.1f}), {len(runs)} runs, {sum(run.missing for run in runs)} of "
        f"{sum(run.acknowledged for run in runs)} acknowledged transactions lost"
    )


def failover(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """So many alternations, added to those that were measured before with the same settings."""
    folder = REPORTS / "failover"
    with contextlib.ExitStack() as stack:

        def up(make: Callable[[], Deployed | Rival]) -> Deployed | Rival:
            system = make()
            stack.callback(system.close)
            return system

        systems: list[System] = [
            up(lambda: Rival(PATRONI_DEFAULT, folder / PATRONI_DEFAULT, DEFAULT)),
            up(lambda: Rival(PATRONI_TUNED, folder / PATRONI_TUNED, TIGHTEST)),
            up(lambda: Deployed(ROOT / ".local-cloud-failover", environment)),
        ]
        all_runs = kept(RUNS, {system.name: system.settings for system in systems})
        for number in range(runs):
            for system in systems:
                run = measured(system, random.uniform(0, DEFAULT.loop_wait))
                all_runs.append(run)
                keep(RUNS, all_runs)
                _say(
                    f"{number + 1}/{runs} {run.system:16} {run.seconds:5.1f} s (±{run.resolution:.1f}), lost "
                    f"{run.missing} of {run.acknowledged}"
                )
    for name in (OURS, PATRONI_DEFAULT, PATRONI_TUNED):
        if of_system := [run for run in all_runs if run.system == name]:
            _say(described(of_system))
    return results(all_runs)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
