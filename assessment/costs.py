"""What is billed, as counts from the synthesised templates: docs/costs.md. No prices: they change, counts do not."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stacks.settings import Settings
from stacks.templates import PARENT, Resource, System

HOURS = 730
"""Of a month, as AWS's price pages count it."""
MINUTES = HOURS * 60
_RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_PER_MINUTE = {"minute": 1.0, "hour": 60.0, "day": 1440.0}

FREE = frozenset(
    {
        *("AWS::CloudFormation::Stack", "AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::KMS::Alias"),
        *("AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::RouteTable", "AWS::EC2::SubnetRouteTableAssociation"),
        *("AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress"),
        *("AWS::RDS::DBSubnetGroup", "AWS::RDS::DBParameterGroup", "AWS::SecretsManager::SecretTargetAttachment"),
        *("AWS::Lambda::EventInvokeConfig", "AWS::Lambda::Permission", "AWS::Scheduler::ScheduleGroup"),
        *("AWS::SNS::TopicPolicy", "AWS::SQS::QueuePolicy", "AWS::EFS::MountTarget", "AWS::EFS::AccessPoint"),
        *("AWS::Backup::BackupPlan", "AWS::Backup::BackupSelection", "AWS::Backup::BackupVault"),
        *("AWS::Logs::MetricFilter", "AWS::SecretsManager::RotationSchedule", "AWS::EC2::FlowLog"),
        *("AWS::Events::Rule", "AWS::S3::BucketPolicy"),
    }
)
"""Types that cost nothing of themselves; what they cause (requests, bytes, recovery points) is counted elsewhere."""


@dataclass(frozen=True)
class Line:
    """One line of the bill: the service, the unit that is billed, how many a month, and what they are made of."""

    service: str
    unit: str
    count: str
    made_of: str


def page(system: System, settings: Settings) -> str:
    """The page."""
    lines = "".join(f"| {each.service} | {each.unit} | {each.count} | {each.made_of} |\n" for each in billed(system))
    others = uncounted(system)
    also = f"\nAlso deployed, and not counted above: {', '.join(others)}.\n" if others else ""
    return (
        "# What is billed\n\n"
        "Counted from the templates by `make costs` with the settings of `cdk.json`; a test keeps it current. There "
        "are no prices here:\nmultiply by those of "
        f"{settings.region}. A month has {HOURS} hours. Nothing here knows your data: what grows with it is named by "
        "its unit, without a count.\n\n"
        f"| service | billed by | a month | made of |\n|---|---|---|---|\n{lines}{also}\n"
        "What a failover, switchover, reprotect or restore costs beyond this: state transitions and short runs of "
        "functions; a final\nsnapshot of a lost member, kept until somebody deletes it; another instance of the same "
        "class while something is restored\nbeside the members. `protect` adds final snapshots on a destroy.\n\n"
        "What makes it cheaper: a smaller `instance_class` (two Multi-AZ members are four instances' worth), a "
        "shorter `log_retention_days`\nand `backup_retention_days` where no rule asks for more, `transaction_log` off "
        "(then a lost primary's last seconds are lost too).\n"
    )


def billed(system: System) -> Iterator[Line]:
    """Every line, in the order of what usually costs most."""
    yield from _members(system)
    yield from _network(system)
    yield from _functions(system)
    yield from _observability(system)
    yield from _storage(system)
    yield from _others(system)


def uncounted(system: System) -> list[str]:
    """Types that are deployed, cost something perhaps, and that no line speaks of."""
    counted = {
        *("RDS::DBInstance", "EC2::VPCEndpoint", "Lambda::Function", "Scheduler::Schedule", "CloudWatch::Alarm"),
        *("CloudWatch::CompositeAlarm", "CloudWatch::Dashboard", "Logs::LogGroup", "EFS::FileSystem", "KMS::Key"),
        *("DynamoDB::Table", "SNS::Topic", "SQS::Queue", "StepFunctions::StateMachine", "S3::Bucket"),
    }
    kinds = {each.type for each in system.all} - FREE - {f"AWS::{kind}" for kind in counted}
    return sorted(kind.removeprefix("AWS::") for kind in kinds)


def _members(system: System) -> Iterator[Line]:
    members = system.of("AWS::RDS::DBInstance")
    source = next(each for each in members if "AllocatedStorage" in each.properties)
    for (kind, multi_az), count in Counter(
        (each.properties["DBInstanceClass"], each.properties["MultiAZ"]) for each in members
    ).items():
        where = "Multi-AZ" if multi_az else "Single-AZ"
        yield Line("RDS", f"{where} instance hours, {kind}", f"{count * HOURS:,}", f"{count} members")
    gigabytes = int(source.properties["AllocatedStorage"])
    most = source.properties.get("MaxAllocatedStorage")
    grows = f"; grows by itself up to {most} GiB each" if most else ""
    yield Line(
        "RDS",
        f"Multi-AZ {source.properties['StorageType']} GiB",
        f"{len(members) * gigabytes}",
        f"{len(members)} × {gigabytes} GiB{grows}",
    )
    if any(each.logical_id.startswith("Drill") for each in system.of("AWS::StepFunctions::StateMachine")):
        yield Line(
            "RDS",
            "Single-AZ instance hours and GiB of drills",
            "by drills",
            "a throw-away copy of a member in each, deleted at its end",
        )
    kept = source.properties["BackupRetentionPeriod"]
    yield Line(
        "RDS",
        "GiB of backups beyond the storage of the members",
        "by data",
        f"automated backups of {kept} days for point-in-time restore",
    )
    for each in system.of("AWS::Lambda::Function"):
        days = int(each.properties["Environment"]["Variables"].get("DRILL_DAYS", "0"))
        if days:
            yield Line(
                "RDS",
                f"Single-AZ instance hours, GiB, {source.properties['DBInstanceClass']}",
                "by data",
                f"drills: two throw-away copies every {days} days, each from its creation to its deletion",
            )


def _network(system: System) -> Iterator[Line]:
    endpoints = system.of("AWS::EC2::VPCEndpoint")
    interfaces = [each.properties for each in endpoints if each.properties["VpcEndpointType"] == "Interface"]
    zones = sum(len(each["SubnetIds"]) for each in interfaces)
    names = ", ".join(sorted(str(each["ServiceName"]).rpartition(".")[2] for each in interfaces))
    yield Line("VPC", "interface endpoint hours", f"{zones * HOURS:,}", f"{names}, each in its zones: {zones} in all")
    yield Line("VPC", "GiB through interface endpoints", "by data", "calls of functions")
    gateways = [each.properties for each in endpoints if each.properties["VpcEndpointType"] == "Gateway"]
    reached = sorted(str(each["ServiceName"]).rpartition(".")[2] for each in gateways)
    yield Line("VPC", "gateway endpoints", "free", f"{len(gateways)} ({', '.join(reached)})")


def _functions(system: System) -> Iterator[Line]:
    runs = dict(_runs(system))
    functions = {each.logical_id: each.properties for each in system.of("AWS::Lambda::Function")}
    scheduled = {name: count for name, count in runs.items() if name in functions}
    told = ", ".join(f"{_spoken(name)} {count:,.0f}" for name, count in scheduled.items())
    yield Line("Lambda", "requests", f"{sum(scheduled.values()):,.0f}", f"by schedule: {told}")
    yield Line(
        "Lambda",
        "GB-seconds, at most",
        f"{sum(_gigabyte_seconds(functions[name], count) for name, count in scheduled.items()):,.0f}",
        "those runs, had each lasted until its time-out, as far as the reserved concurrency lets them; witnesses and "
        "archive work for about a minute of each",
    )
    on_demand = len(functions) - len(scheduled)
    yield Line("Lambda", "requests when something happens", "by events", f"{on_demand} other functions")
    yield Line("EventBridge Scheduler", "invocations", f"{sum(runs.values()):,.0f}", f"{len(runs)} schedules")


def _gigabyte_seconds(function: Mapping[str, Any], runs: float) -> float:
    """The most that so many runs a month can use: no more at once than the reserved concurrency."""
    busy = function.get("ReservedConcurrentExecutions", runs) * HOURS * 3600.0
    return float(min(runs * function["Timeout"], busy) * function["MemorySize"] / 1024)


def _runs(system: System) -> Iterator[tuple[str, float]]:
    """Runs a month by the function that a schedule starts, or by the schedule when it calls a service itself."""
    for schedule in system.of("AWS::Scheduler::Schedule"):
        target = schedule.properties["Target"]["Arn"]
        name = target["Fn::GetAtt"][0] if isinstance(target, Mapping) and "Fn::GetAtt" in target else None
        yield name or schedule.logical_id, per_month(schedule.properties["ScheduleExpression"])


def per_month(schedule: str) -> float:
    """How often a schedule runs in a month of 730 hours, from its expression: rate(…), cron(…) or at(…)."""
    if match := _RATE.fullmatch(schedule):
        return MINUTES / (int(match[1]) * _PER_MINUTE[match[2]])
    if not schedule.startswith("cron("):
        return 1.0
    minute, hour, day, month, weekday, _ = schedule.removeprefix("cron(").removesuffix(")").split()
    days = MINUTES / 1440
    if day not in ("*", "?"):
        days = _times(day, 31)
    elif weekday not in ("*", "?"):
        days *= _times(weekday, 7) / 7
    return _times(minute, 60) * _times(hour, 24) * days * _times(month, 12) / 12


def _times(field: str, all_of_them: int) -> float:
    """How many values a field of a cron expression has; an `L`, `W` or `#` is one."""
    if field == "*":
        return all_of_them
    count = 0.0
    for part in field.split(","):
        first, _, step = part.partition("/")
        begin, _, end = first.partition("-")
        if step:
            count += (all_of_them if begin in ("*", "0") else all_of_them - int(begin)) / int(step)
        elif begin.isdigit() and end.isdigit():
            count += int(end) - int(begin) + 1
        else:
            count += 1
    return count


def _observability(system: System) -> Iterator[Line]:
    alarms = system.of("AWS::CloudWatch::Alarm")
    fast = [each for each in alarms if each.properties.get("Period", 60) < 60]
    metrics = sum(max(1, len(list(_alarm_metrics(each)))) for each in alarms)
    yield Line("CloudWatch", "alarm metrics, standard resolution", f"{metrics - len(fast)}", f"{len(alarms)} alarms")
    if fast:
        yield Line("CloudWatch", "alarm metrics, high resolution", f"{len(fast)}", "alarms of less than a minute")
    composite = len(system.of("AWS::CloudWatch::CompositeAlarm"))
    yield Line("CloudWatch", "composite alarms", f"{composite}", "")
    yield Line("CloudWatch", "dashboards", f"{len(system.of('AWS::CloudWatch::Dashboard'))}", "")
    custom = {each for alarm in alarms for each in _alarm_metrics(alarm) if not each[0].startswith("AWS/")}
    yield Line("CloudWatch", "custom metrics, at least", f"{len(custom)}", "those that alarms watch")
    groups = system.of("AWS::Logs::LogGroup")
    days = ", ".join(str(each) for each in sorted({group.properties["RetentionInDays"] for group in groups}))
    yield Line("CloudWatch Logs", "GiB taken in, GiB kept", "by data", f"{len(groups)} log groups, kept {days} days")
    interval = {each.properties.get("MonitoringInterval", 0) for each in system.of("AWS::RDS::DBInstance")}
    yield Line(
        "CloudWatch Logs",
        "GiB of enhanced monitoring",
        "by data",
        f"both members, every {', '.join(map(str, sorted(interval)))} s",
    )
    flow = len(system.of("AWS::EC2::FlowLog"))
    yield Line("CloudWatch Logs", "GiB of flow logs (vended)", "by traffic", f"{flow} flow log of all traffic")


def _alarm_metrics(alarm: Resource) -> Iterator[tuple[str, str, str]]:
    """Namespace, name and dimensions of each metric that an alarm reads."""
    stats = [each["MetricStat"]["Metric"] for each in alarm.properties.get("Metrics", ()) if "MetricStat" in each]
    for metric in stats or [alarm.properties]:
        yield str(metric.get("Namespace")), str(metric.get("MetricName")), str(metric.get("Dimensions"))


def _storage(system: System) -> Iterator[Line]:
    for files in system.of("AWS::EFS::FileSystem"):
        rules = [str(value).removeprefix("AFTER_").replace("_", " ").lower() for value in _lifecycle(files)]
        moved = f"; to Infrequent Access after {', '.join(rules)}" if rules else ""
        yield Line("EFS", "GiB kept, GiB read and written", "by data", f"{files.logical_id}{moved}")
    selected = sum(
        len(each.properties["BackupSelection"]["Resources"]) for each in system.of("AWS::Backup::BackupSelection")
    )
    for plan in system.of("AWS::Backup::BackupPlan"):
        for rule in plan.properties["BackupPlan"]["BackupPlanRule"]:
            kept = rule["Lifecycle"]["DeleteAfterDays"]
            yield Line(
                "AWS Backup",
                "GiB of recovery points, warm",
                "by data",
                f"rule {rule['RuleName']}: {selected} resources × {kept} recovery points kept",
            )
    for table in system.of("AWS::DynamoDB::Table"):
        recovery = table.properties.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled")
        also = ", GiB of point-in-time recovery" if recovery else ""
        yield Line("DynamoDB", f"requests on demand, GiB{also}", "by use", table.logical_id)
    for bucket in system.of("AWS::S3::Bucket"):
        yield Line("S3", "GiB kept, requests", "by data", bucket.logical_id)


def _lifecycle(files: Resource) -> Iterator[Any]:
    for policy in files.properties.get("LifecyclePolicies", ()):
        yield from (value for name, value in policy.items() if name == "TransitionToIA")


def _others(system: System) -> Iterator[Line]:
    keys = system.of("AWS::KMS::Key")
    names = ", ".join(each.logical_id for each in keys)
    yield Line("KMS", "customer-managed keys", f"{len(keys)}", f"{names}; the first rotations add key material, billed")
    yield Line("KMS", "requests", "by use", "of the services that encrypt")
    yield Line("Secrets Manager", "secrets", "1", "the agency's; it is not of these stacks, and calls are billed")
    machines = ", ".join(each.logical_id for each in system.of("AWS::StepFunctions::StateMachine"))
    yield Line("Step Functions", "state transitions (standard)", "by incidents", machines)
    yield Line("SNS", "notifications", "by alarms", f"{len(system.of('AWS::SNS::Topic'))} topic")
    yield Line("SQS", "requests", "by failures", f"{len(system.of('AWS::SQS::Queue'))} dead-letter queue")
    traced = [
        each.logical_id
        for each in system.all
        if each.stack != PARENT and each.properties.get("TracingConfiguration", {}).get("Enabled") is True
    ]
    yield Line("X-Ray", "traces", "by incidents", ", ".join(traced))


def _spoken(name: str) -> str:
    """`LogCare` as people say it: log care."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
