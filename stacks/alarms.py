"""Every alarm, as a table: what is measured, when it is too much, what that means and what to do about it.

What missing data means is chosen for each alarm: silence of something that must speak (witness, archive) is a fault;
silence of something that speaks only when it goes wrong (errors, dead letters) is good news. Thresholds come from the
settings: objectives, disk size, instance class, days between two rotations; each says how. What an alarm needs to be
told it has in `Watched`. Composite alarms (`composites`) sum up what several of them say about one question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from stacks import instance_class
from stacks.backup_plan import NIGHTLY
from stacks.database import SLOT_SHARE_OF_STORAGE
from stacks.instance_class import GIB
from stacks.names import METRICS_NAMESPACE, Names, deployed_functions
from stacks.settings import Settings

RUNBOOKS = "docs/runbooks"
# CloudWatch's limit of an alarm's description.
DESCRIPTION_LENGTH = 1024
MISSING_IS_A_FAULT: Literal["breaching"] = "breaching"
MISSING_IS_GOOD_NEWS: Literal["notBreaching"] = "notBreaching"


WITNESSES = ("a", "c")
ENDINGS = ("failed", "timedout", "aborted")
_ENDED = {"failed": "ExecutionsFailed", "timedout": "ExecutionsTimedOut", "aborted": "ExecutionsAborted"}
# What is invoked every minute may fail once while the database restarts; what is not gets no second look.
EVERY_MINUTE = ("witness-a", "witness-c", "archive", "posture")
MINUTES_OF_A_FAULT = 3
# What the recovery time objective leaves the arbiter for waiting (`recovery.arbiter.waiting_limit`).
MINUTES_OF_WAITING = 5
# Refused in so many minutes in a row, where one run at a time is by design: longer than the longest run of each (s).
LONGEST_RUNS: Mapping[str, int] = {"archive": 900, "roll-forward": 45, "evidence": 120}
# A fifth is left for the functions, for RDS's own and for whoever has to look into it.
SHARE_OF_CONNECTIONS = 0.8
# RDS renews a server certificate, valid for a year, when half of it is over: at a quarter it has missed that by months.
CERTIFICATE_DAYS = 90
# Every application needs the new bundle before the members can change: their yearly release is time enough.
AUTHORITY_DAYS = 365
# NIST SP 800-53 CP-4 as FedRAMP Moderate sets it: the plan is tested at least yearly.
DRILL_DAYS = 365
# A drill that could not run (an incident, a pause) is tried again the night after, and counted every night.
DRILL_GRACE_DAYS = 2
DRILL = "drill"
# What an operation that was cut short may have left.
LEFT_BEHIND_USUALLY = "there may be no standby, or nobody let in"
LEFT_BEHIND: Mapping[str, str] = {DRILL: "its copy may cost until the next night's sweep; no member was touched"}
QUARTER = 900
HOUR = 3600


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


class Told:
    """What an alarm and a composite have in common: a name, and what whoever gets it reads."""

    name: str
    meaning: str
    action: str
    runbook: str
    severity: Severity

    @property
    def construct_id(self) -> str:
        """The name in the manner of construct ids."""
        return in_construct_style(self.name)

    @property
    def description(self) -> str:
        """What whoever gets the alarm reads."""
        return described(self.severity, self.meaning, self.action, self.runbook)


@dataclass(frozen=True)
class Alarm(Told):
    """Goes off when the value of `datapoints` of the last `periods` periods (s each) is beyond `threshold`, in the
    metric's unit; all of them must be when `datapoints` is None. `name` is part of the alarm's name, and makes its
    construct's id; `runbook` is the stem of the file under docs/runbooks.
    """

    name: str
    metric: Metric
    threshold: float
    meaning: str
    action: str
    runbook: str
    severity: Severity = Severity.WARNING
    missing: Literal["breaching", "notBreaching"] = MISSING_IS_GOOD_NEWS
    below: bool = False
    period: int = 60
    periods: int = 1
    datapoints: int | None = None


@dataclass(frozen=True)
class Composite(Told):
    """Goes off when of any group of `rule` all alarms (by their names here) are in alarm."""

    name: str
    rule: Sequence[tuple[str, ...]]
    meaning: str
    action: str
    runbook: str
    severity: Severity = Severity.CRITICAL

    @property
    def children(self) -> tuple[str, ...]:
        """The alarms it looks at, each once."""
        return tuple(dict.fromkeys(name for group in self.rule for name in group))


@dataclass(frozen=True)
class Watched:
    """What the alarms are about: names, settings and what only the other stacks know."""

    names: Names
    settings: Settings
    state_machine_arn: str
    dead_letters_name: str
    operations: Mapping[str, str] = field(default_factory=dict)
    """The ARNs of the operations' machines, by operation."""
    drill_days: int | None = None
    """Days between two scheduled drills; None when no drill is scheduled."""

    @property
    def filtered_namespace(self) -> str:
        """Where the metrics of the log groups' filters are: a filter cannot add the suffix as a dimension."""
        return f"{METRICS_NAMESPACE}/{self.settings.environment_suffix}"

    def ours(self, name: str, statistic: Literal["Maximum", "Minimum"] = "Maximum", **dimensions: str) -> Metric:
        """A metric that a function sends."""
        return Metric(METRICS_NAMESPACE, name, {"Suffix": self.settings.environment_suffix, **dimensions}, statistic)


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


def described(severity: Severity, meaning: str, action: str, runbook: str) -> str:
    """An alarm's description: how urgent it is, what it means, what to do and where that is told, in this order."""
    return f"{severity}: {meaning}. What to do: {action}. Runbook: {RUNBOOKS}/{runbook}.md"


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
        *_readiness(watched),
        *_log(watched),
        *_machine(watched),
        *_operations(watched),
        *_functions(watched),
        *_credentials(watched),
        *_backups(watched),
        *_drills(watched),
        *(alarm for member in watched.names.members for alarm in _member(watched, member)),
    )


def composites(watched: Watched) -> tuple[Composite, ...]:
    """The answers to the three questions of whoever is called: is it lost, is it being dealt with, are we at risk?"""
    lost = tuple(unreachable_primary(witness) for witness in WITNESSES)
    machine = watched.names.state_machine
    return (
        Composite(
            name="primary-lost",
            rule=(lost,),
            meaning="Both witnesses cannot write to the primary: a failover should be under way",
            action=f"See whether {machine} runs; if it does not, its arbiter's log says why",
            runbook="primary-unreachable",
        ),
        Composite(
            name="incident",
            rule=(lost, ("incident-begun",), ("incident-running",), *((f"machine-{end}",) for end in ENDINGS)),
            meaning="The primary is lost, or the failover machine is at work on it or has ended badly",
            action=f"Follow the execution in {machine} and `history --steps`; leave the members alone until its end",
            runbook="incident",
        ),
        Composite(
            name="recovery-at-risk",
            rule=(
                ("takeover-hindered",),
                ("redundancy-lost",),
                *((f"standby-lag-from-{witness}",) for witness in WITNESSES),
                tuple(f"standby-unreachable-from-{witness}" for witness in WITNESSES),
            ),
            meaning="If the primary were lost now, the standby could not take over within the objectives",
            action="The alarms in this one's reason say what stands in the way; until it is gone keep changes and "
            "maintenance away from the primary",
            runbook="recovery-at-risk",
        ),
    )


def unreachable_primary(witness: str) -> str:
    """The name of the alarm of one witness that does not reach the primary."""
    return f"primary-unreachable-from-{witness}"


def _reachability(watched: Watched) -> Iterator[Alarm]:
    """The primary is lost when *both* witnesses cannot reach it; one alone is that zone's trouble."""
    for witness in WITNESSES:
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
            runbook="primary-unreachable",
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
            runbook="standby-unreachable",
        )


def _readiness(watched: Watched) -> Iterator[Alarm]:
    """Whether the standby could take over now, within the objectives."""
    settings = watched.settings
    for witness in WITNESSES:
        yield Alarm(
            name=f"standby-lag-from-{witness}",
            metric=watched.ours("StandbyLagSeconds", Witness=witness),
            # Early: at half the objective there is still time to act
            threshold=settings.rpo_seconds / 2,
            periods=3,
            # An unreachable standby has no lag and an alarm of its own
            meaning="The standby is behind by half the recovery point objective",
            action="Look for a long transaction or a burst of writes on the primary and for conflicts on the standby",
            runbook="standby-lag",
        )
    yield Alarm(
        name="takeover-hindered",
        metric=watched.ours("TakeoverPossible"),
        threshold=1,
        below=True,
        # While RDS backs the standby up it would not promote it: the arbiter waits as long for that to pass
        periods=MINUTES_OF_WAITING,
        severity=Severity.CRITICAL,
        missing=MISSING_IS_A_FAULT,
        meaning="The arbiter would not promote the standby if the primary were lost now, or nobody asks it",
        action=f"`reason` in {watched.names.function_log_group('posture')} is its own sentence: remove what it names",
        runbook="recovery-at-risk",
    )
    yield Alarm(
        name="redundancy-lost",
        metric=watched.ours("Protected"),
        threshold=1,
        below=True,
        # A primary that is lost without a standby is restored from backups, which may lose as much as the RPO: no
        # longer than that is it left alone
        period=QUARTER,
        periods=max(1, round(settings.rpo_seconds / QUARTER)),
        # Silence of the function is takeover-hindered's
        meaning=f"There has been no standby for {settings.rpo_seconds // 60} minutes: the loss of the primary would "
        "have to be recovered from backups",
        action="See in `history --steps` whether a reprotect runs and how far it is; start one when none does",
        runbook="redundancy-lost",
    )
    yield Alarm(
        name="same-zone",
        metric=watched.ours("SameZone", statistic="Minimum"),
        threshold=0,
        # RDS may report the old zone for minutes after a Multi-AZ failover
        period=QUARTER,
        meaning="The primary copies of both members are in one availability zone: its loss would make RDS fail over "
        "both at once",
        action="Fail the standby over to its Multi-AZ copy: `aws rds reboot-db-instance --force-failover`",
        runbook="same-zone",
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
        runbook="log-verdict",
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
        runbook="log-lag",
    )
    yield Alarm(
        name="log-lag",
        metric=watched.ours("LogLagSeconds"),
        threshold=half,
        periods=5,
        missing=MISSING_IS_A_FAULT,
        meaning="The archived transaction log is behind by half the recovery point objective, or silent",
        action="Look at the log of the function archive: it says what it waits for",
        runbook="log-lag",
    )
    yield Alarm(
        name="log-gap",
        metric=watched.ours("LogGaps"),
        threshold=0,
        severity=Severity.CRITICAL,
        meaning="The log's slot was lost: the log has a gap that nothing can be rolled forward across",
        action="Take a snapshot of the primary now; from there on the log is whole again",
        runbook="log-gap",
    )


def _executions(arn: str, metric: str) -> Metric:
    return Metric("AWS/States", metric, {"StateMachineArn": arn}, statistic="Sum")


def _machine(watched: Watched) -> Iterator[Alarm]:
    machine = watched.names.state_machine
    yield Alarm(
        name="incident-begun",
        metric=_executions(watched.state_machine_arn, "ExecutionsStarted"),
        threshold=0,
        severity=Severity.CRITICAL,
        meaning="A run of the failover machine has begun: a witness suspects that the primary is lost",
        action=f"Follow the execution in {machine}; it decides by itself, and its record says what it was decided from",
        runbook="incident",
    )
    yield Alarm(
        name="incident-running",
        metric=watched.ours("IncidentRunning"),
        threshold=0,
        severity=Severity.CRITICAL,
        meaning="An incident holds the lease: the failover machine is at work, or died before it released it",
        action=f"See whether {machine} runs; a lease without a run is taken over by a witness that suspects a loss",
        runbook="incident",
    )
    for ending in ENDINGS:
        yield Alarm(
            name=f"machine-{ending}",
            metric=_executions(watched.state_machine_arn, _ENDED[ending]),
            threshold=0,
            severity=Severity.CRITICAL,
            meaning=f"A run of the failover machine has ended as {ending}",
            action=f"Open the execution in {machine}: the last state names the cause; see which "
            "member accepts writes before anything is started again",
            runbook="machine-failed",
        )


def _operations(watched: Watched) -> Iterator[Alarm]:
    for operation, arn in watched.operations.items():
        for ending in ENDINGS:
            yield Alarm(
                name=f"{operation}-machine-{ending}",
                metric=_executions(arn, _ENDED[ending]),
                threshold=0,
                severity=Severity.WARNING if operation == DRILL else Severity.CRITICAL,
                meaning=f"A {operation} has ended as {ending}: " + LEFT_BEHIND.get(operation, LEFT_BEHIND_USUALLY),
                action="`history --steps` tells how far it came; give the same command again, which goes on from there",
                runbook="operation-failed",
            )


def _functions(watched: Watched) -> Iterator[Alarm]:
    for name in deployed_functions(watched.settings.transaction_log):
        dimensions = {"FunctionName": watched.names.of(name)}
        usual = MINUTES_OF_A_FAULT if name in EVERY_MINUTE else 1
        yield Alarm(
            name=f"{name}-errors",
            metric=Metric("AWS/Lambda", "Errors", dimensions, statistic="Sum"),
            threshold=0,
            periods=usual,
            meaning=f"The function {watched.names.of(name)} has failed"
            + (": the password may not have been rotated" if name == "rotation" else ""),
            action=f"Read the last error in {watched.names.function_log_group(name)}",
            runbook="function-errors",
        )
        longest = LONGEST_RUNS.get(name)
        yield Alarm(
            name=f"{name}-throttles",
            metric=Metric("AWS/Lambda", "Throttles", dimensions, statistic="Sum"),
            threshold=0,
            periods=usual if longest is None else math.ceil(longest / 60) + 1,
            meaning=f"Lambda refuses to run {watched.names.of(name)}: more runs at once than are reserved for it, or "
            "the account's concurrency is used up or cut",
            action="Look at the function's reserved concurrency and at the account's unreserved one; a run that hangs "
            f"is in {watched.names.function_log_group(name)}",
            runbook="function-errors",
        )
    yield Alarm(
        name="dead-letters",
        metric=Metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": watched.dead_letters_name}),
        threshold=0,
        meaning="An invocation was given up",
        action=f"Read the message in the queue {watched.dead_letters_name}: it names the function and the error",
        runbook="dead-letters",
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
        runbook="rotation",
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
        runbook="rotation",
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
        runbook="superseded-password",
    )
    yield Alarm(
        name="certificate-expiring",
        metric=watched.ours("CertificateDays", statistic="Minimum"),
        threshold=CERTIFICATE_DAYS,
        below=True,
        period=QUARTER,
        meaning=f"A member's server certificate ends in less than {CERTIFICATE_DAYS} days, though RDS renews it when "
        "half of its year is over; once it has ended no client that verifies it gets in, and no function",
        action="`aws rds modify-db-instance --ca-certificate-identifier` with the authority it has renews it; see its "
        "maintenance window and pending actions for why RDS did not",
        runbook="certificate-authority",
    )
    yield Alarm(
        name="authority-expiring",
        metric=watched.ours("AuthorityDays", statistic="Minimum"),
        threshold=AUTHORITY_DAYS,
        below=True,
        period=QUARTER,
        meaning=f"A certificate authority of the bundle that the functions verify with ends in less than "
        f"{AUTHORITY_DAYS} days",
        action="Put the region's new bundle into functions/ and deploy, give it to every application, and only then "
        "let the members change to the new authority",
        runbook="certificate-authority",
    )


def _backups(watched: Watched) -> Iterator[Alarm]:
    half = watched.settings.rpo_seconds / 2
    yield Alarm(
        name="backups-missing",
        metric=watched.ours("RestorableAgeSeconds", statistic="Minimum"),
        # RDS uploads the WAL every five minutes; a restore may lose as much as the RPO: at half of it there is time
        threshold=half,
        period=300,
        periods=3,
        severity=Severity.CRITICAL,
        missing=MISSING_IS_A_FAULT,
        meaning=f"No member can be restored to a moment of the last {half / 60:g} minutes, or has any automated backup",
        action="See in RDS whether automated backups are on (retention above 0) and the latest restorable time of "
        "both members; take a snapshot of the primary now",
        runbook="backups-missing",
    )
    hours = math.ceil(NIGHTLY.longest_gap_seconds / HOUR) + 1
    yield Alarm(
        name="backups-overdue",
        metric=Metric(
            "AWS/Backup", "NumberOfBackupJobsCompleted", {"BackupVaultName": watched.names.plain}, statistic="Sum"
        ),
        threshold=1,
        below=True,
        # Hour by hour, so that it is the newest recovery point's age; the hour more is the one that it was made in
        period=HOUR,
        periods=hours,
        missing=MISSING_IS_A_FAULT,
        meaning=f"The newest recovery point in the vault {watched.names.plain} is over {hours - 1} hours old, though "
        "the plan makes new ones every day: it is not run any more, or its jobs do not end",
        action="`aws backup list-backup-jobs --by-backup-vault-name` says what became of the last ones; see that the "
        "plan still has its rule and its selection, and start the jobs by hand",
        runbook="backups-overdue",
    )
    yield Alarm(
        name="backup-job-failed",
        metric=Metric(
            "AWS/Backup", "NumberOfBackupJobsFailed", {"BackupVaultName": watched.names.plain}, statistic="Sum"
        ),
        threshold=0,
        # AWS Backup sends its metrics every five minutes
        period=300,
        meaning="AWS Backup could not make a daily recovery point of a member, the transaction log or the table",
        action="`aws backup list-backup-jobs --by-state FAILED` says of which and why; start that job again",
        runbook="backups-missing",
    )


def _drills(watched: Watched) -> Iterator[Alarm]:
    days = DRILL_DAYS if watched.drill_days is None else watched.drill_days + DRILL_GRACE_DAYS
    yield Alarm(
        name="drill-overdue",
        metric=watched.ours("DaysSinceDrill"),
        threshold=days,
        # It is measured daily, at any hour: a day without a point may follow one with two
        period=86_400,
        periods=2,
        missing=MISSING_IS_GOOD_NEWS if watched.drill_days is None else MISSING_IS_A_FAULT,
        meaning=f"No drill has succeeded for {days} days"
        + (
            "" if watched.drill_days is None else f", though one runs every {watched.drill_days}, or nobody counts them"
        ),
        action="Read why the last ones failed in `history --steps`, mend that, and start a drill by hand",
        runbook="drill-overdue",
    )


def _member(watched: Watched, member: str) -> Iterator[Alarm]:
    settings = watched.settings
    number = watched.names.members.index(member) + 1
    disk = settings.allocated_storage * GIB
    has = instance_class.of(settings.instance_class)

    def alarm(
        what: str,
        metric: str,
        statistic: Literal["Average", "Maximum", "Minimum"],
        threshold: float,
        meaning: str,
        action: str,
        runbook: str,
        *,
        below: bool = False,
        period: int = 60,
        periods: int = 5,
    ) -> Alarm:
        return Alarm(
            name=f"{what}-{number}",
            metric=Metric("AWS/RDS", metric, {"DBInstanceIdentifier": member}, statistic),
            threshold=threshold,
            below=below,
            period=period,
            periods=periods,
            # A lost member sends nothing, which the witnesses see sooner and better
            meaning=f"{member}: {meaning}",
            action=action,
            runbook=runbook,
        )

    slots = (
        "Look at pg_replication_slots and at the log of the function archive: a slot that nobody reads fills the disk"
    )
    yield alarm(
        # RDS enlarges the storage by itself when a tenth is free, and may do so once in six hours only
        *("free-storage", "FreeStorageSpace", "Minimum", disk * 0.15),
        "less than 15 % of the first storage size is free",
        "Find what grows (tables, slots, temporary files) and enlarge the storage: a full disk stops the member",
        "storage",
        below=True,
    )
    yield alarm(
        # Beyond it what queues up makes probes late, which are given up after probe_timeout_seconds
        *("cpu", "CPUUtilization", "Average", 85),
        "the processor is over 85 % busy",
        "Find the statements in Performance Insights or pg_stat_activity; a larger class is a setting",
        "capacity",
        periods=10,
    )
    yield alarm(
        *("memory", "FreeableMemory", "Average", has.memory_gib * GIB / 20),
        f"less than a twentieth of the {has.memory_gib} GiB of memory can be freed",
        "Look for too many connections or large sorts; a larger class is a setting",
        "capacity",
        below=True,
    )
    connections = int(has.max_connections * SHARE_OF_CONNECTIONS)
    yield alarm(
        *("connections", "DatabaseConnections", "Maximum", connections),
        f"over {connections} of {has.max_connections} connections are open",
        "See in pg_stat_activity which client opens them, and let it use a pool",
        "capacity",
    )
    if has.credits_an_hour is not None:
        # A recovery works at full load for as long as it may take: a credit is a processor's minute
        needed = has.processors * settings.rto_seconds / 60
        # An instance that was just made has none, and earns them at rest in this time
        earned = math.ceil(needed / has.credits_an_hour * 3600 / QUARTER)
        yield alarm(
            *("credits", "CPUCreditBalance", "Maximum", needed),
            f"fewer than {needed:g} CPU credits have been left for {earned * QUARTER // 60} minutes: not enough for a "
            "recovery at full speed, and beyond them every processor minute is charged",
            "Find what keeps the processor busy; a class that does not burst is a setting",
            "capacity",
            below=True,
            period=QUARTER,
            periods=earned + 1,
        )
    yield alarm(
        *("slot-lag", "OldestReplicationSlotLag", "Maximum", disk * 0.1),
        "a replication slot is behind by a tenth of the disk",
        slots,
        "replication-slots",
    )
    yield alarm(
        *("transaction-logs", "TransactionLogsDiskUsage", "Maximum", disk * 0.2),
        "transaction logs fill a fifth of the disk",
        slots,
        "replication-slots",
    )
