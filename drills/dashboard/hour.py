"""An hour of a deployed system on a clock that runs fast: load, a lost primary, the standby made again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deployment import local
from deployment.account import Account
from drills import cycles
from drills.client import Application
from drills.dashboard.reading import Board, read
from drills.ledger import Ledger
from drills.scenarios import post

WITNESSES = ("witness-a", "witness-c")
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
        """What is only done at night: the drill machine counts the days, the log's files are verified."""
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
        with self._short_looks(), ThreadPoolExecutor(4) as pool:
            for _ in range(minutes):
                now = self._now()
                post(f"{self._control}/clock", {"advance_seconds": MINUTE - now % MINUTE + 1}, "PUT")
                list(pool.map(self._look, (*WITNESSES, "archive", "posture")))
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

    def _timeout(self, name: str) -> int:
        return int(self._functions.get_function_configuration(FunctionName=self._name(name))["Timeout"])

    def _set_timeout(self, name: str, seconds: int) -> None:
        self._functions.update_function_configuration(FunctionName=self._name(name), Timeout=seconds)

    def _name(self, name: str) -> str:
        return f"citizens-{name}-{self._outputs['EnvironmentSuffix']}"

    def _now(self) -> float:
        found: dict[str, Any] = post(f"{self._control}/clock", {"advance_seconds": 0}, "PUT")
        return float(found["now"])
