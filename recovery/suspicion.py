"""From the suspicion that the primary is lost to a running failover machine, exactly once per incident."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from recovery import incident, pause
from recovery.clock import iso
from recovery.incident import Lease
from recovery.roles import Roles
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

REST_SECONDS = 30.0
"""After an incident has ended (refused, stood by, failed) and the suspicion goes on, the next one waits this long."""


class Suspicion:
    """One witness's way to start the machine. Every call may be repeated, and is, while the suspicion lasts.

    `states` makes the client when it is first needed: most runs of a witness never suspect anything. A switchover
    holds the lease while it stops the writes: as long as its execution runs, that is no loss.
    """

    def __init__(
        self,
        table: RecoveryTable,
        states: Callable[[], SFNClient],
        machine_arn: str,
        witness: str,
        switchover_arn: str = "",
    ) -> None:
        self._table = table
        self._states = states
        self._machine_arn = machine_arn
        self._witness = witness
        self._switchover_arn = switchover_arn

    def act(self, roles: Roles, now: float, last_incident_at: float | None, since: float | None = None) -> Lease | None:
        """Take or read the lease and start its execution; the lease that runs now, or None while resting.

        `since` is the first failed probe, epoch seconds.

        A crash between lease and start heals itself: the next call, of either witness, starts the same name. In a pause
        nothing is started.
        """
        if pause.active(self._table, now) is not None:
            return None
        lease = incident.read_lease(self._table)
        if lease is None or not lease.held(now):
            if _resting(now, last_incident_at):
                return None
            lease = incident.take_lease(self._table, roles.epoch, self._witness, now, since)
        elif not self._start(lease):
            # Its execution has ended without releasing the lease.
            if _resting(now, max(lease.taken_at, last_incident_at or 0.0)):
                return None
            lease = incident.take_over_lease(self._table, lease, roles.epoch, self._witness, now, since)
        else:
            return lease
        # Nobody's: the other witness took it in this very moment, and starts it.
        return lease if lease is not None and self._start(lease) else None

    def _start(self, lease: Lease) -> bool:
        """Whether the lease's execution runs now. The same lease always gives the same name and the same input."""
        if lease.witness == incident.SWITCHOVER:
            return self._runs(self._switchover_arn, lease)
        try:
            self._states().start_execution(
                stateMachineArn=self._machine_arn,
                name=lease.execution_name,
                input=json.dumps(
                    {
                        "incident": lease.incident,
                        "epoch": lease.epoch,
                        "witness": lease.witness,
                        "started_at": iso(lease.taken_at),
                        "since": iso(lease.taken_at if lease.since is None else lease.since),
                    }
                ),
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
                raise
            return self._runs(self._machine_arn, lease)
        return True

    def _runs(self, machine_arn: str, lease: Lease) -> bool:
        execution = f"{machine_arn.replace(':stateMachine:', ':execution:')}:{lease.execution_name}"
        try:
            return self._states().describe_execution(executionArn=execution)["status"] == "RUNNING"
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExecutionDoesNotExist":
                raise
            return False


def _resting(now: float, last_incident_at: float | None) -> bool:
    return last_incident_at is not None and now - last_incident_at < REST_SECONDS
