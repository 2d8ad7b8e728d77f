"""An hour of a deployed system on a clock that runs fast: load, a lost primary, the standby made again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from deployment import local
from deployment.account import Account
from drills import cycles
from drills.client import Application
from drills.dashboard.reading import Board, read
from drills.ledger import Ledger
from drills.scenarios import post

WITNESSES = ("witness-a", "witness-c")
LOOKING = (*WITNESSES, "archive", "posture")
"""What looks once a minute."""
MINUTE = 60
# A run of a witness ends six seconds before its function's time-out: one round of probes.
ONE_ROUND_SECONDS = 7
CREDITS = 480.0
"""What the hosts are told to have: no machine but AWS's has CPU credits."""
SUFFIX = "example"


def film(environment: Mapping[str, str], minutes: int, announce: Callable[[str], None]) -> Board:
    """The dashboard at the end of so many minutes, in a local cloud of its own. Raises Problem."""
    with local.system(SUFFIX, environment) as deployed:
        announce(f"deployed {SUFFIX}")
        return _Hour(deployed.account, deployed.outputs, announce).film(minutes)


class _Hour:
    """One deployed system, and its clock."""

    def __init__(self, account: Account, outputs: Mapping[str, str], announce: Callable[[str], None]) -> None:
        self._account, self._outputs, self._announce = account, outputs, announce
        self._control = account.environment["LOCAL_CLOUD_URL"]
        self._functions = account.client("lambda", patience=90)
        post(f"{self._control}/delays", cycles.INSTANT, "PUT")

    def film(self, minutes: int) -> Board:
        for number in (1, 2):
            member = self._outputs[f"Member{number}Identifier"]
            post(f"{self._control}/rds/{member}/host", {"CPUCreditBalance": CREDITS}, "PUT")
        ledger = Ledger(Application(self._account, self._outputs).connect)
        ledger.create_table()
        ledger.start()
        try:
            course = cycles.Cycles(self._account, self._outputs, ledger, self._announce)
            # Nothing is measured before both witnesses have seen both members
            course.await_calm()
            self._night()
            begin = self._now()
            self._pass(minutes // 2)
            course.failover()
            self._pass(minutes - minutes // 2)
            end = self._now()
        finally:
            ledger.stop()
        return read(self._account, self._outputs["DashboardName"], begin, end)

    def _night(self) -> None:
        """What is only done at night: a recovery point is made, the drill machine counts the days."""
        region, account = self._outputs["Region"], self._account.client("sts").get_caller_identity()["Account"]
        self._account.client("backup").start_backup_job(
            BackupVaultName=self._outputs["BackupVaultName"],
            ResourceArn=f"arn:aws:rds:{region}:{account}:db:{self._outputs['Member1Identifier']}",
            IamRoleArn=f"arn:aws:iam::{account}:role/{self._name('backup')}",
        )
        machines, machine = self._account.client("stepfunctions"), self._outputs["DrillStateMachineArn"]
        given = '{"ask": "replica", "by": "the rehearsal of the dashboard"}'
        execution = machines.start_execution(stateMachineArn=machine, input=given)["executionArn"]
        deadline = time.monotonic() + 180
        while machines.describe_execution(executionArn=execution)["status"] == "RUNNING":
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        self._announce("a drill has passed")

    def _pass(self, minutes: int) -> None:
        """Minute by minute, with one look of everything that looks once a minute."""
        with self._short_looks(), self._by_hand(), ThreadPoolExecutor(4) as pool:
            for _ in range(minutes):
                now = self._now()
                post(f"{self._control}/clock", {"advance_seconds": MINUTE - now % MINUTE + 1}, "PUT")
                list(pool.map(self._look, LOOKING))
        self._announce(f"{minutes} minutes have passed")

    def _look(self, name: str) -> None:
        payload = b'{"seconds": 1}' if name == "archive" else b"{}"
        with contextlib.suppress(self._functions.exceptions.TooManyRequestsException):
            self._functions.invoke(FunctionName=self._name(name), Payload=payload)

    @contextlib.contextmanager
    def _short_looks(self) -> Iterator[None]:
        before = {name: self._timeout(name) for name in WITNESSES}
        for name in WITNESSES:
            self._set_timeout(name, ONE_ROUND_SECONDS)
        try:
            yield
        finally:
            for name, seconds in before.items():
                self._set_timeout(name, seconds)

    @contextlib.contextmanager
    def _by_hand(self) -> Iterator[None]:
        """Without the schedules of what looks here every minute: on a fast clock its runs would lie over each other,
        and be throttled."""
        for name in LOOKING:
            self._set_schedule(name, "DISABLED")
        try:
            yield
        finally:
            for name in LOOKING:
                self._set_schedule(name, "ENABLED")

    def _set_schedule(self, name: str, state: Literal["ENABLED", "DISABLED"]) -> None:
        schedules = self._account.client("scheduler")
        found = next(
            each
            for page in schedules.get_paginator("list_schedules").paginate(NamePrefix=self._name(name))
            for each in page["Schedules"]
            if each["Name"] == self._name(name)
        )
        known = schedules.get_schedule(Name=found["Name"], GroupName=found["GroupName"])
        kept = ("Name", "GroupName", "Description", "ScheduleExpression", "FlexibleTimeWindow", "Target")
        schedules.update_schedule(**{part: known[part] for part in kept if part in known}, State=state)

    def _timeout(self, name: str) -> int:
        return int(self._functions.get_function_configuration(FunctionName=self._name(name))["Timeout"])

    def _set_timeout(self, name: str, seconds: int) -> None:
        self._functions.update_function_configuration(FunctionName=self._name(name), Timeout=seconds)

    def _name(self, name: str) -> str:
        return f"citizens-{name}-{self._outputs['EnvironmentSuffix']}"

    def _now(self) -> float:
        found: dict[str, Any] = post(f"{self._control}/clock", {"advance_seconds": 0}, "PUT")
        return float(found["now"])
