"""Every alarm, as a table: what is measured, when it is too much, what that means and what to do about it.

What missing data means is chosen for each alarm: silence of something that must speak (witness, archive) is a fault;
silence of something that speaks only when it goes wrong (errors, dead letters) is good news. Thresholds come from the
settings: objectives, disk size, days between two rotations. What an alarm needs to be told it has in `Watched`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from stacks.database import SLOT_SHARE_OF_STORAGE
from stacks.names import METRICS_NAMESPACE, Names, deployed_functions
from stacks.settings import Settings

GIB = 1024**3
# CloudWatch's limit of an alarm's description.
DESCRIPTION_LENGTH = 1024
MISSING_IS_A_FAULT: Literal["breaching"] = "breaching"
MISSING_IS_GOOD_NEWS: Literal["notBreaching"] = "notBreaching"


class Severity(StrEnum):
    """What an alarm asks of whoever gets it: to act now, or within the working day."""

    CRITICAL = "Critical"
    WARNING = "Warning"


@dataclass(frozen=True)
class Metric:
    """A metric and how the points of a period become one value."""

    namespace: str
    name: str
    dimensions: Mapping[str, str]
    statistic: Literal["Average", "Maximum", "Minimum", "Sum"] = "Maximum"


@dataclass(frozen=True)
class Alarm:
    """Goes off when the value of `datapoints` of the last `periods` periods (s each) is beyond `threshold`, in the
    metric's unit; all of them must be when `datapoints` is None. `name` is part of the alarm's name, and makes its
    construct's id.
    """

    name: str
    metric: Metric
    threshold: float
    meaning: str
    action: str
    severity: Severity = Severity.WARNING
    missing: Literal["breaching", "notBreaching"] = MISSING_IS_GOOD_NEWS
    below: bool = False
    period: int = 60
    periods: int = 1
    datapoints: int | None = None

    @property
    def construct_id(self) -> str:
        """The name in the manner of construct ids."""
        return in_construct_style(self.name)

    @property
    def description(self) -> str:
        """What whoever gets the alarm reads."""
        return described(self.severity, self.meaning, self.action)


@dataclass(frozen=True)
class Watched:
    """What the alarms are about: names, settings and what only the other stacks know."""

    names: Names
    settings: Settings
    state_machine_arn: str
    dead_letters_name: str
    operations: Mapping[str, str] = field(default_factory=dict)
    """The ARNs of the operations' machines, by operation."""

    @property
    def filtered_namespace(self) -> str:
        """Where the metrics of the log groups' filters are: a filter cannot add the suffix as a dimension."""
        return f"{METRICS_NAMESPACE}/{self.settings.environment_suffix}"

    def ours(self, name: str, **dimensions: str) -> Metric:
        """A metric that a function sends."""
        return Metric(METRICS_NAMESPACE, name, {"Suffix": self.settings.environment_suffix, **dimensions})


@dataclass(frozen=True)
class Filter:
    """A metric made from a log group: `value` (a number, or a field of the event) for each event of that `pattern`."""

    name: str
    log_group: str
    metric: str
    pattern: str
    value: str = "1"

    @property
    def construct_id(self) -> str:
        """The name in the manner of construct ids."""
        return in_construct_style(self.name)


DAYS_SINCE_ROTATION = "PasswordAgeDays"
FAILED_ROTATIONS = "FailedRotationSteps"
REFUSED_SIGN_INS = "RefusedSignIns"


def in_construct_style(name: str) -> str:
    """`log-lag` → `LogLag`."""
    return "".join(part[0].upper() + part[1:] for part in name.split("-"))


def described(severity: Severity, meaning: str, action: str) -> str:
    """An alarm's description: how urgent it is, what it means and what to do, in this order."""
    return f"{severity}: {meaning}. What to do: {action}."


def filters(watched: Watched, member_log_groups: tuple[str, str]) -> tuple[Filter, ...]:
    """What is measured by what the logs say. The rotation's events are those of `functions.rotation`."""
    rotation = watched.names.function_log_group("rotation")
    refused = '"password authentication failed for user"'
    return (
        Filter("failed-rotation-steps", rotation, FAILED_ROTATIONS, '{ $.event = "rotation step failed" }'),
        Filter("password-age", rotation, DAYS_SINCE_ROTATION, '{ $.event = "password age" }', "$.days"),
        *(
            Filter(f"refused-sign-ins-{number}", group, REFUSED_SIGN_INS, refused)
            for number, group in enumerate(member_log_groups, 1)
        ),
    )


def alarms(watched: Watched) -> tuple[Alarm, ...]:
    """All of them."""
    return (
        *_reachability(watched),
        *_objectives(watched),
        *_log(watched),
        *_machine(watched),
        *_operations(watched),
        *_functions(watched),
        *_credentials(watched),
        *(alarm for member in watched.names.members for alarm in _member(watched, member)),
    )


def unreachable_primary(witness: str) -> str:
    """The name of the alarm of one witness that does not reach the primary."""
    return f"primary-unreachable-from-{witness}"


def _reachability(watched: Watched) -> Iterator[Alarm]:
    """The primary is lost when *both* witnesses cannot reach it; one alone is that zone's trouble."""
    for witness in ("a", "c"):
        yield Alarm(
            name=unreachable_primary(witness),
            metric=watched.ours("PrimaryReachable", Witness=witness),
            threshold=1,
            below=True,
            periods=2,
            missing=MISSING_IS_A_FAULT,
            meaning=f"Witness {witness} cannot write to the primary, or is silent",
            action=f"If the other witness can, look at zone {witness} and the log of witness-{witness}; if neither "
            "can, follow the incident that primary-lost announces",
        )
        yield Alarm(
            name=f"standby-unreachable-from-{witness}",
            metric=watched.ours("StandbyReachable", Witness=witness),
            threshold=1,
            below=True,
            periods=5,
            missing=MISSING_IS_A_FAULT,
            meaning=f"Witness {witness} cannot read the standby, or is silent: no failover is possible",
            action="Look at the standby's status and events in RDS, then at the witness's log",
        )


def _objectives(watched: Watched) -> Iterator[Alarm]:
    """Early: at half the objective there is still time to act."""
    half = watched.settings.rpo_seconds / 2
    for witness in ("a", "c"):
        yield Alarm(
            name=f"standby-lag-from-{witness}",
            metric=watched.ours("StandbyLagSeconds", Witness=witness),
            threshold=half,
            periods=3,
            # An unreachable standby has no lag and an alarm of its own
            meaning="The standby is behind by half the recovery point objective",
            action="Look for a long transaction or a burst of writes on the primary and for conflicts on the standby",
        )


def _log(watched: Watched) -> Iterator[Alarm]:
    """That the transaction log is kept, and that what was kept is still there."""
    care = watched.names.function_log_group("log-care")
    yield Alarm(
        name="log-verdict",
        metric=watched.ours("LogVerdict"),
        # 0 is OK, 1 a WARNING, 2 a FAILURE
        threshold=1,
        period=86_400,
        severity=Severity.CRITICAL,
        missing=MISSING_IS_A_FAULT,
        meaning="The log's files are damaged or incomplete, or nobody has verified them for a day",
        action=f"Read the findings in {care}: each names a file; bring it back from the backup",
    )
    if not watched.settings.transaction_log:
        return
    half = watched.settings.rpo_seconds / 2
    yield Alarm(
        name="log-lag-bytes",
        metric=watched.ours("LogLagBytes"),
        threshold=watched.settings.allocated_storage * GIB * SLOT_SHARE_OF_STORAGE / 2,
        periods=3,
        # The lag in seconds speaks of silence
        meaning="The archived transaction log is behind by half of what its slot may hold back; beyond all of it "
        "PostgreSQL gives the slot up, and the log has a gap",
        action="Look at the log of the function archive, and in pg_replication_slots whether the slot is active",
    )
    yield Alarm(
        name="log-lag",
        metric=watched.ours("LogLagSeconds"),
        threshold=half,
        periods=5,
        missing=MISSING_IS_A_FAULT,
        meaning="The archived transaction log is behind by half the recovery point objective, or silent",
        action="Look at the log of the function archive: it says what it waits for",
    )
    yield Alarm(
        name="log-gap",
        metric=watched.ours("LogGaps"),
        threshold=0,
        severity=Severity.CRITICAL,
        meaning="The log's slot was lost: the log has a gap that nothing can be rolled forward across",
        action="Take a snapshot of the primary now; from there on the log is whole again",
    )


def _machine(watched: Watched) -> Iterator[Alarm]:
    for what in ("Failed", "TimedOut", "Aborted"):
        yield Alarm(
            name=f"machine-{what.lower()}",
            metric=Metric(
                "AWS/States", f"Executions{what}", {"StateMachineArn": watched.state_machine_arn}, statistic="Sum"
            ),
            threshold=0,
            severity=Severity.CRITICAL,
            meaning=f"A run of the failover machine has ended as {what.lower()}",
            action=f"Open the execution in {watched.names.state_machine}: the last state names the cause; see which "
            "member accepts writes before anything is started again",
        )


def _operations(watched: Watched) -> Iterator[Alarm]:
    for operation, arn in watched.operations.items():
        for what in ("Failed", "TimedOut", "Aborted"):
            yield Alarm(
                name=f"{operation}-machine-{what.lower()}",
                metric=Metric("AWS/States", f"Executions{what}", {"StateMachineArn": arn}, statistic="Sum"),
                threshold=0,
                severity=Severity.CRITICAL,
                meaning=f"A {operation} has ended as {what.lower()}: there may be no standby, or nobody let in",
                action="`history --steps` tells how far it came; give the same command again, which goes on from there",
            )


def _functions(watched: Watched) -> Iterator[Alarm]:
    for name in deployed_functions(watched.settings.transaction_log):
        yield Alarm(
            name=f"{name}-errors",
            metric=Metric("AWS/Lambda", "Errors", {"FunctionName": watched.names.of(name)}, statistic="Sum"),
            threshold=0,
            # A function that runs every minute may fail once while the database restarts
            periods=1 if name in ("rotation", "cutover", "open-log", "roll-forward", "verify") else 3,
            meaning=f"The function {watched.names.of(name)} has failed"
            + (": the password may not have been rotated" if name == "rotation" else ""),
            action=f"Read the last error in {watched.names.function_log_group(name)}",
        )
    yield Alarm(
        name="dead-letters",
        metric=Metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": watched.dead_letters_name}),
        threshold=0,
        meaning="An invocation was given up",
        action=f"Read the message in the queue {watched.dead_letters_name}: it names the function and the error",
    )


def _credentials(watched: Watched) -> Iterator[Alarm]:
    names, settings = watched.names, watched.settings
    overdue = settings.rotation_days + 1
    rotate = f"`aws secretsmanager rotate-secret --secret-id {settings.secret_name}`"
    yield Alarm(
        name="rotation-failed",
        metric=Metric(watched.filtered_namespace, FAILED_ROTATIONS, {}, statistic="Sum"),
        threshold=0,
        meaning="A step of the password's rotation has failed; the current password keeps working",
        action=f"Read `rotation step failed` in {names.function_log_group('rotation')} and do what its reason says; "
        f"Secrets Manager tries again by itself, or at once by {rotate}. During an incident it is refused on purpose",
    )
    yield Alarm(
        name="rotation-overdue",
        metric=Metric(watched.filtered_namespace, DAYS_SINCE_ROTATION, {}),
        threshold=overdue,
        period=900,
        periods=4,
        missing=MISSING_IS_A_FAULT,
        meaning=f"The database's password is older than {overdue} days, though it rotates every "
        f"{settings.rotation_days}, or nobody has measured it for an hour",
        action=f"Rotate by {rotate}; when that fails see rotation-failed; when the age is missing see rotation-errors",
    )
    yield Alarm(
        name="superseded-password",
        metric=Metric(watched.filtered_namespace, REFUSED_SIGN_INS, {}, statistic="Sum"),
        threshold=settings.refused_sign_ins,
        period=300,
        periods=12,
        # A client that reads the secret again when it is refused is refused once, right after a rotation.
        datapoints=2,
        meaning="A password is refused again and again: a client keeps one that a rotation has superseded, or "
        "somebody is guessing",
        action="Search `password authentication failed` in "
        f"{' and '.join(names.member_log_group(member, 'postgresql') for member in names.members)}: the line names "
        "user and address; let that client read the secret again, or block the address",
    )


def _member(watched: Watched, member: str) -> Iterator[Alarm]:
    number = watched.names.members.index(member) + 1
    disk = watched.settings.allocated_storage * GIB

    def alarm(
        what: str,
        metric: str,
        statistic: Literal["Average", "Maximum", "Minimum"],
        threshold: float,
        meaning: str,
        action: str,
        *,
        below: bool = False,
        periods: int = 5,
    ) -> Alarm:
        return Alarm(
            name=f"{what}-{number}",
            metric=Metric("AWS/RDS", metric, {"DBInstanceIdentifier": member}, statistic),
            threshold=threshold,
            below=below,
            periods=periods,
            # A lost member sends nothing, which the witnesses see sooner and better
            meaning=f"{member}: {meaning}",
            action=action,
        )

    slots = (
        "Look at pg_replication_slots and at the log of the function archive: a slot that nobody reads fills the disk"
    )
    yield alarm(
        *("free-storage", "FreeStorageSpace", "Minimum", disk * 0.15),
        "less than 15 % of the first storage size is free",
        "Find what grows (tables, slots, temporary files) and enlarge the storage: a full disk stops the member",
        below=True,
    )
    yield alarm(
        *("cpu", "CPUUtilization", "Average", 85),
        "the processor is over 85 % busy",
        "Find the statements in Performance Insights or pg_stat_activity; a larger class is a setting",
        periods=10,
    )
    yield alarm(
        *("memory", "FreeableMemory", "Average", 128 * 1024**2),
        "less than 128 MiB of memory can be freed",
        "Look for too many connections or large sorts; a larger class is a setting",
        below=True,
    )
    yield alarm(
        *("connections", "DatabaseConnections", "Maximum", 300),
        "over 300 connections are open",
        "See in pg_stat_activity which client opens them, and let it use a pool",
    )
    yield alarm(
        *("slot-lag", "OldestReplicationSlotLag", "Maximum", disk * 0.1),
        "a replication slot is behind by a tenth of the disk",
        slots,
    )
    yield alarm(
        *("transaction-logs", "TransactionLogsDiskUsage", "Maximum", disk * 0.2),
        "transaction logs fill a fifth of the disk",
        slots,
    )
