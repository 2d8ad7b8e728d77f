"""Where the state of an environment is read: RDS, the recovery table, EC2, CloudWatch, the secret, the machines, and
the members themselves. Each look stands alone and asks nothing that another one finds out.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from drctl.asking import NotAsked
from drctl.place import Place
from recovery import heartbeat, incident, observation, operation, override, pause, promise, rds, roles, secret
from recovery.connection import Database, Session, verify_full
from recovery.incident import Lease
from recovery.objectives import Detection, Objectives, detection_of, objectives_of
from recovery.observation import Observation
from recovery.operation import Operation
from recovery.override import Override
from recovery.pause import Pause
from recovery.rds import Event, MemberStatus
from recovery.roles import Roles
from recovery.table import RecoveryTable
from recovery.worst_case import Unbounded
from stacks.names import DATABASE, METRICS_NAMESPACE

WITNESSES = ("a", "c")
CALL_SECONDS = 2.5
SIGN_IN_SECONDS = 2.0
STATEMENT_SECONDS = 1.0
LOG_LAG_MINUTES = 15
VERDICT_HOURS = 26
VERDICTS = ("OK", "WARNING", "FAILURE")
_MAKING = threading.Lock()
"""boto3 makes one client at a time; several at once may spoil the session they share."""


@dataclass(frozen=True)
class TableView:
    """What the recovery table says."""

    roles: Roles | None
    observations: tuple[Observation, ...]
    lease: Lease | None
    pause: Pause | None
    operation: Operation | None
    override: Override | None


@dataclass(frozen=True)
class InstanceView:
    """A member as RDS describes it; `restorable_until` in epoch seconds, zones by name."""

    status: MemberStatus
    zone: str | None = None
    copy_zone: str | None = None
    restorable_until: float | None = None


@dataclass(frozen=True)
class LogView:
    """The transaction log by its metrics: lag in s and bytes, newest verdict and its age (s), gaps; None is unknown."""

    lag_seconds: float | None = None
    lag_bytes: float | None = None
    verdict: str | None = None
    verdict_age: float | None = None
    gaps: float | None = None


@dataclass(frozen=True)
class SecretView:
    """The age of the password and its next rotation in s, and the host that the secret leads to."""

    age: float
    rotates_in: float | None
    host: str | None


@dataclass(frozen=True)
class MachinesView:
    """Executions that run now, by machine, and the RTO that the deployed failover machine promises, s."""

    running: tuple[str, ...]
    definition: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class SettingsView:
    """What the deployed arbiter works with."""

    detection: Detection
    objectives: Objectives


@dataclass(frozen=True)
class SqlView:
    """A member's own word: whether it takes writes, and its WAL position, text."""

    takes_writes: bool
    lsn: str | None


class Sources:
    """The looks at one environment."""

    def __init__(self, place: Place, ca_file: str) -> None:
        self._place = place
        self._names = place.names
        self._ca_file = ca_file

    def all(self) -> dict[str, Callable[[], Any]]:
        """Every look by the name of its source."""
        return {
            "recovery table": self.table,
            "RDS": self.instances,
            "RDS events": self.events,
            "EC2": self.ingress,
            "CloudWatch": self.log,
            "alarms": self.alarms,
            "secret": self.secret,
            "machines": self.machines,
            "settings": self.settings,
            **{member: functools.partial(self.member, member) for member in self._names.members},
        }

    def table(self) -> TableView:
        """Roles, observations, and what runs or is ordered."""
        table, now = RecoveryTable(self._client("dynamodb"), self._names.recovery_table), time.time()
        known = roles.read(table)
        return TableView(
            roles=known,
            observations=tuple(seen for each in WITNESSES if (seen := observation.read(table, each)) is not None),
            lease=incident.read_lease(table),
            pause=pause.active(table, now),
            operation=operation.running(table, now),
            override=override.active(table, now, None if known is None else known.epoch),
        )

    def instances(self) -> dict[str, InstanceView]:
        """Both members; one that RDS does not know is `absent`."""
        client = self._client("rds")
        found: dict[str, InstanceView] = {}
        for member in self._names.members:
            try:
                (described,) = client.describe_db_instances(DBInstanceIdentifier=member)["DBInstances"]
            except client.exceptions.DBInstanceNotFoundFault:
                found[member] = InstanceView(MemberStatus(rds.ABSENT))
                continue
            until = described.get("LatestRestorableTime")
            found[member] = InstanceView(
                MemberStatus(
                    described.get("DBInstanceStatus", rds.UNKNOWN),
                    described.get("ReadReplicaSourceDBInstanceIdentifier") or None,
                    bool(described.get("MultiAZ")),
                ),
                described.get("AvailabilityZone"),
                described.get("SecondaryAvailabilityZone"),
                None if until is None else until.timestamp(),
            )
        return found

    def events(self) -> dict[str, tuple[Event, ...]]:
        """The members' events of the last hour."""
        client = self._client("rds")
        return {member: rds.events(client, member) for member in self._names.members}

    def ingress(self) -> dict[str, int]:
        """How many rules let anybody in to each member: none is a fence. A group that is not there is left out."""
        client = self._client("ec2")
        # The number in a member's identifier is that of its group (`stacks.network`)
        named = {self._names.of(f"member-{number}"): member for number, member in enumerate(self._names.members, 1)}
        groups = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": list(named)}])
        return {named[group["GroupName"]]: len(group.get("IpPermissions", [])) for group in groups["SecurityGroups"]}

    def log(self) -> LogView:
        """The newest values of the log's metrics."""
        client, now = self._client("cloudwatch"), time.time()

        def newest(name: str, seconds: float, period: int) -> tuple[float, float] | None:
            answer = client.get_metric_statistics(
                Namespace=METRICS_NAMESPACE,
                MetricName=name,
                Dimensions=[{"Name": "Suffix", "Value": self._names.suffix}],
                StartTime=datetime.fromtimestamp(now - seconds, UTC),
                EndTime=datetime.fromtimestamp(now + 60, UTC),
                Period=period,
                Statistics=["Maximum"],
            )
            points = sorted((point["Timestamp"].timestamp(), point["Maximum"]) for point in answer["Datapoints"])
            return points[-1] if points else None

        recent = LOG_LAG_MINUTES * 60
        lag, size, gaps = (newest(name, recent, 60) for name in ("LogLagSeconds", "LogLagBytes", "LogGaps"))
        # A day of minutes is more than one answer holds; what was verified just now must show at once
        verdict = newest("LogVerdict", recent, 60) or newest("LogVerdict", VERDICT_HOURS * 3600, 300)
        return LogView(
            lag_seconds=None if lag is None else lag[1],
            lag_bytes=None if size is None else size[1],
            gaps=None if gaps is None else gaps[1],
            verdict=None if verdict is None else VERDICTS[int(verdict[1])],
            verdict_age=None if verdict is None else max(0.0, now - verdict[0]),
        )

    def alarms(self) -> tuple[str, ...]:
        """The names of this environment's alarms that are on, without prefix and suffix."""
        client = self._client("cloudwatch")
        prefix, suffix = self._names.of("").removesuffix(self._names.suffix), f"-{self._names.suffix}"
        found = client.describe_alarms(
            AlarmNamePrefix=prefix, StateValue="ALARM", AlarmTypes=["MetricAlarm", "CompositeAlarm"], MaxRecords=100
        )
        names = [each["AlarmName"] for kind in ("MetricAlarms", "CompositeAlarms") for each in found.get(kind, [])]
        return tuple(sorted(each[len(prefix) - 1 : -len(suffix)].strip("-") for each in names if each.endswith(suffix)))

    def secret(self) -> SecretView:
        """The password's age, its next rotation, and where the secret leads."""
        client, name, now = self._client("secretsmanager"), self._secret_name(), datetime.now(UTC)
        described = client.describe_secret(SecretId=name)
        due = described.get("NextRotationDate")
        return SecretView(
            age=(now - (described.get("LastRotatedDate") or described["CreatedDate"])).total_seconds(),
            rotates_in=None if due is None else (due - now).total_seconds(),
            host=secret.read(client, name).fields.get("host"),
        )

    def machines(self) -> MachinesView:
        """What runs, and the failover machine as it is deployed."""
        client = self._client("stepfunctions")
        arns = self._machine_arns(client)
        running = [
            execution["name"]
            for arn in arns.values()
            for execution in client.list_executions(stateMachineArn=arn, statusFilter="RUNNING")["executions"]
        ]
        described = client.describe_state_machine(stateMachineArn=arns[self._names.state_machine])
        return MachinesView(tuple(running), json.loads(described["definition"]))

    def settings(self) -> SettingsView:
        """What was deployed, which may differ from what is configured now."""
        answer = self._client("lambda").get_function_configuration(FunctionName=self._names.of("arbiter"))
        variables: Mapping[str, str] = answer["Environment"]["Variables"]
        return SettingsView(detection_of(variables), objectives_of(variables))

    def member(self, name: str) -> SqlView:
        """A member's own word, by the credentials of the secret. NotAsked where that is not possible from here."""
        endpoint = self._place.endpoints.get(name)
        if endpoint is None:
            raise NotAsked("the outputs, which name its endpoint, are not at hand")
        # Before the sign-in: a network that does not lead there is no word about the member
        credentials = secret.read(self._client("secretsmanager"), self._secret_name()).credentials
        database = Database(DATABASE, verify_full(self._ca_file))
        with Session.open(endpoint, database, credentials, SIGN_IN_SECONDS, "citizens-drctl") as session:
            state = heartbeat.state(session, STATEMENT_SECONDS)
        return SqlView(not state.in_recovery, state.lsn)

    # ----------------------------------------------------------------------------------------------------------------

    def _client(self, service: str) -> Any:
        with _MAKING:
            return self._place.account.client(service, patience=CALL_SECONDS, attempts=1)

    def _secret_name(self) -> str:
        name = self._place.outputs.get("SecretName")
        if name is None:
            raise NotAsked("the outputs, which name the secret, are not at hand")
        return name

    def _machine_arns(self, client: Any) -> dict[str, str]:
        wanted = (self._names.state_machine, self._names.reprotect_machine, self._names.switchover_machine)
        return {
            found["name"]: found["stateMachineArn"]
            for page in client.get_paginator("list_state_machines").paginate()
            for found in page["stateMachines"]
            if found["name"] in wanted
        }


def promised(definition: Mapping[str, Any], settings: SettingsView) -> float | None:
    """The worst-case RTO of a deployed machine, s; None when it gives no bound."""
    try:
        return promise.prove(definition, settings.detection, settings.objectives).path.seconds
    except (promise.ObjectiveMissed, Unbounded, LookupError, TypeError, ValueError):
        return None
