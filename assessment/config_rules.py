"""The AWS Config rules of "Operational Best Practices for FedRAMP (Moderate)" that judge what is deployed here.

Config judges an account after a deploy; this judges the templates before one. The table is the one source of which
rule serves which controls: the tests meet and break each rule, the assessment reports each under its controls.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stacks.templates import Resource, System

Violations = Callable[[System], list[str]]


@dataclass(frozen=True)
class Rule:
    """A Config rule by name, the controls it serves, the types it looks at, and what violates it (logical ids)."""

    name: str
    controls: str
    kinds: tuple[str, ...]
    violations: Violations

    @property
    def id(self) -> str:
        """The rule and its controls as the tests' names show them."""
        return f"{self.name} [{self.controls}]"


def each(kind: str, holds: Callable[[dict[str, Any]], Any], at_least: int = 1) -> Violations:
    """The resources of a type whose properties do not hold; their absence violates too unless `at_least` is 0."""

    def violations(system: System) -> list[str]:
        found = system.of(kind)
        if len(found) < at_least:
            return [f"{len(found)} of {kind}"]
        return [resource.logical_id for resource in found if not holds(resource.properties)]

    return violations


def backed_up(kind: str, name_of: Callable[[Resource], str]) -> Violations:
    """The resources that the selection of a backup plan does not name."""

    def violations(system: System) -> list[str]:
        selected = json.dumps([s.properties["BackupSelection"]["Resources"] for s in selections(system)])
        return [found.logical_id for found in system.of(kind) if name_of(found) not in selected]

    return violations


def selections(system: System) -> list[Resource]:
    """What the backup plans select."""
    return system.of("AWS::Backup::BackupSelection")


def plans_too_seldom(system: System) -> list[str]:
    """Config's defaults for FedRAMP: at least daily, kept for at least 35 days."""
    rules = [
        rule
        for plan in system.of("AWS::Backup::BackupPlan")
        for rule in plan.properties["BackupPlan"]["BackupPlanRule"]
        if rule["ScheduleExpression"].startswith("cron(") and rule["ScheduleExpression"].endswith(" * * ? *)")
    ]
    kept = [rule["RuleName"] for rule in rules if rule["Lifecycle"]["DeleteAfterDays"] >= 35]
    return [] if kept else ["no daily rule that keeps for 35 days"]


def encrypted_or_replica(member: dict[str, Any]) -> bool:
    """A replica has its source's encryption, and RDS refuses the property on it."""
    return member.get("StorageEncrypted") is True or "SourceDBInstanceIdentifier" in member


def buckets_in_plaintext(system: System) -> list[str]:
    """Buckets without a key of KMS's as their default, or with a policy that lets a call without TLS through."""
    over_tls = {
        policy.properties["Bucket"]["Ref"]
        for policy in system.of("AWS::S3::BucketPolicy")
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
        and statement["Action"] == "s3:*"
        and statement["Principal"] in ("*", {"AWS": "*"})
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
    }
    buckets = system.of("AWS::S3::Bucket")
    return (
        [each.logical_id for each in buckets if each.logical_id not in over_tls or not _by_kms(each.properties)]
        if buckets
        else ["no bucket"]
    )


def _by_kms(bucket: dict[str, Any]) -> bool:
    rules = bucket.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration", ())
    defaults = [rule["ServerSideEncryptionByDefault"] for rule in rules]
    return bool(defaults) and all(each["SSEAlgorithm"] == "aws:kms" and each["KMSMasterKeyID"] for each in defaults)


def alarms_without_action(system: System) -> list[str]:
    """Alarms that tell nobody; that there is none violates too."""
    alarms = [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]
    if not alarms:
        return ["no alarm"]
    return [
        alarm.logical_id
        for alarm in alarms
        if not alarm.properties.get("AlarmActions") or alarm.properties.get("ActionsEnabled") is False
    ]


def inline_policies(system: System) -> list[str]:
    """Policies that are part of a role, user or group."""
    inline = [
        policy for kind in ("Policy", "UserPolicy", "GroupPolicy", "RolePolicy") for policy in of_iam(system, kind)
    ]
    with_inline = [
        entity
        for kind in ("Role", "User", "Group")
        for entity in of_iam(system, kind)
        if "Policies" in entity.properties
    ]
    return [found.logical_id for found in (*inline, *with_inline)]


def of_iam(system: System, kind: str) -> list[Resource]:
    """The IAM resources of a kind."""
    return system.of(f"AWS::IAM::{kind}")


def open_to_ssh(system: System) -> list[str]:
    """Security groups with an ingress rule that lets the world reach port 22."""
    inline = [
        (group.logical_id, rule)
        for group in system.of("AWS::EC2::SecurityGroup")
        for rule in group.properties.get("SecurityGroupIngress", [])
    ]
    rules = [*inline, *((r.logical_id, r.properties) for r in system.of("AWS::EC2::SecurityGroupIngress"))]
    if not rules:
        return ["no rule of a security group"]
    return [
        name
        for name, rule in rules
        if (rule.get("CidrIp") == "0.0.0.0/0" or rule.get("CidrIpv6") == "::/0")
        and (rule["IpProtocol"] == "-1" or rule["FromPort"] <= 22 <= rule["ToPort"])
    ]


def vpcs_without(what: Callable[[System], Iterator[str]]) -> Violations:
    """The VPCs that `what` does not yield."""

    def violations(system: System) -> list[str]:
        have = set(what(system))
        return [vpc.logical_id for vpc in system.of("AWS::EC2::VPC") if vpc.logical_id not in have]

    return violations


def with_flow_log(system: System) -> Iterator[str]:
    """The VPC's id reaches the flow log's stack as a parameter, so what it stands for is in the parent."""
    for log in system.of("AWS::EC2::FlowLog"):
        if log.properties["TrafficType"] in ("ALL", "REJECT"):
            yield resolved(system, log.stack, log.properties["ResourceId"])


def resolved(system: System, stack: str, reference: Any) -> str:
    """The logical id at the far end of a reference that crosses nested stacks."""
    name: str = reference["Ref"]
    if name not in system.templates[stack].get("Parameters", {}):
        return name
    (nested,) = [
        each.properties["Parameters"]
        for each in system.of("AWS::CloudFormation::Stack", "parent")
        if each.logical_id.startswith(stack)
    ]
    source_stack, output = nested[name]["Fn::GetAtt"]
    source = next(name for name in system.templates if source_stack.startswith(f"{name}Nested"))
    return str(system.templates[source]["Outputs"][output.removeprefix("Outputs.")]["Value"]["Ref"])


def with_default_group_closed(system: System) -> Iterator[str]:
    """Both rules that EC2 gives a default group are taken away by schedules that may do so."""
    revoked: dict[str, set[str]] = {}
    for schedule in system.of("AWS::Scheduler::Schedule"):
        action = str(schedule.properties["Target"]["Arn"]).rpartition(":")[2]
        if not action.startswith("revokeSecurityGroup"):
            continue
        text, (vpc, attribute) = joined(schedule.properties["Target"]["Input"])
        if attribute != "DefaultSecurityGroup":
            continue
        (permission,) = json.loads(text)["IpPermissions"]
        everything = {"revokeSecurityGroupIngress": "UserIdGroupPairs", "revokeSecurityGroupEgress": "IpRanges"}[action]
        wanted = {"UserIdGroupPairs": [{"GroupId": "group"}], "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}[everything]
        allowed = json.dumps([policy.properties for policy in of_iam(system, "ManagedPolicy")])
        may = f"ec2:{action[0].upper()}{action[1:]}" in allowed
        if may and permission == {"IpProtocol": "-1", everything: wanted}:
            revoked.setdefault(vpc, set()).add(action)
    yield from (vpc for vpc, actions in revoked.items() if len(actions) == 2)


def joined(value: Any) -> tuple[str, tuple[str, str]]:
    """A joined text with its one attribute replaced by `group`, and that attribute."""
    parts = value["Fn::Join"][1]
    (attribute,) = {tuple(part["Fn::GetAtt"]) for part in parts if isinstance(part, dict)}
    resource, name = attribute
    return "".join(part if isinstance(part, str) else "group" for part in parts), (resource, name)


DB, EFS, FUNCTION = "AWS::RDS::DBInstance", "AWS::EFS::FileSystem", "AWS::Lambda::Function"
GROUP_RULES = ("AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupIngress")
SELECTION, PLAN, KEY = "AWS::Backup::BackupSelection", "AWS::Backup::BackupPlan", "AWS::KMS::Key"
PERMISSION, POLICY, ROLE = "AWS::Lambda::Permission", "AWS::IAM::ManagedPolicy", "AWS::IAM::Role"
ALARMS = ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
LOG_GROUP, TOPIC = "AWS::Logs::LogGroup", "AWS::SNS::Topic"
BUCKET, BUCKET_POLICY = "AWS::S3::Bucket", "AWS::S3::BucketPolicy"
SUBNET, FLOW_LOG, SCHEDULE = "AWS::EC2::Subnet", "AWS::EC2::FlowLog", "AWS::Scheduler::Schedule"

BACKUP = "CP-9(b), CP-10, SI-12"
MONITORING = "CA-7(a)(b)"
PRIVATE = "AC-3, AC-4, AC-6, SC-7"
KEYS = "SC-12, SC-13, SC-28"
LOGS = "AU-9, AU-11, SC-28, SI-12"
IN_TRANSIT = "SC-8, SC-13, SC-28"
NETWORK = "AC-3, AC-4, SC-7"

RULES = (
    Rule("rds-multi-az-support", "CP-10, SC-5", (DB,), each(DB, lambda p: p["MultiAZ"] is True, 2)),
    Rule(
        "rds-instance-deletion-protection-enabled",
        "SC-5",
        (DB,),
        each(DB, lambda p: p["DeletionProtection"] is True, 2),
    ),
    Rule("db-instance-backup-enabled", BACKUP, (DB,), each(DB, lambda p: p.get("BackupRetentionPeriod", 0) >= 1, 2)),
    Rule(
        "rds-resources-protected-by-backup-plan",
        BACKUP,
        (DB, SELECTION),
        backed_up(DB, lambda member: f"db:{member.properties['DBInstanceIdentifier']}"),
    ),
    Rule("rds-storage-encrypted", "SC-28", (DB,), each(DB, encrypted_or_replica, 2)),
    Rule("efs-encrypted-check", "SC-28", (EFS,), each(EFS, lambda p: p["Encrypted"] is True and "KmsKeyId" in p)),
    Rule(
        "rds-logging-enabled",
        "AC-2(4), AU-2, AU-3, AU-6(1)(3), AU-12",
        (DB,),
        each(DB, lambda p: {"postgresql", "upgrade"} <= set(p.get("EnableCloudwatchLogsExports", ())), 2),
    ),
    Rule(
        "rds-enhanced-monitoring-enabled",
        MONITORING,
        (DB,),
        each(DB, lambda p: p.get("MonitoringInterval", 0) > 0 and "MonitoringRoleArn" in p, 2),
    ),
    Rule(
        "lambda-dlq-check",
        MONITORING,
        (FUNCTION,),
        each(FUNCTION, lambda p: p.get("DeadLetterConfig", {}).get("TargetArn")),
    ),
    Rule(
        "lambda-concurrency-check",
        MONITORING,
        (FUNCTION,),
        each(FUNCTION, lambda p: p.get("ReservedConcurrentExecutions", 0) >= 1),
    ),
    Rule("rds-instance-public-access-check", PRIVATE, (DB,), each(DB, lambda p: p["PubliclyAccessible"] is False, 2)),
    Rule(
        "lambda-function-public-access-prohibited",
        PRIVATE,
        (PERMISSION,),
        each(PERMISSION, lambda p: p["Principal"] != "*" and "SourceAccount" in p),
    ),
    Rule("lambda-inside-vpc", PRIVATE, (FUNCTION,), each(FUNCTION, lambda p: p.get("VpcConfig", {}).get("SubnetIds"))),
    Rule(
        "efs-resources-protected-by-backup-plan",
        BACKUP,
        (EFS, SELECTION),
        backed_up(EFS, lambda files: json.dumps({"Fn::GetAtt": [files.logical_id, "Arn"]})),
    ),
    Rule("backup-plan-min-frequency-and-min-retention-check", BACKUP, (PLAN,), plans_too_seldom),
    Rule("cmk-backing-key-rotation-enabled", KEYS, (KEY,), each(KEY, lambda p: p["EnableKeyRotation"] is True)),
    Rule(
        "kms-cmk-not-scheduled-for-deletion",
        KEYS,
        (KEY, POLICY),
        # No role of the system may schedule it; that leaves the account's administrators and the stack's own end
        each(POLICY, lambda p: "kms:ScheduleKeyDeletion" not in json.dumps(p)),
    ),
    Rule("cloudwatch-alarm-action-check", "AU-6, CA-7, IR-4(1), SI-4", ALARMS, alarms_without_action),
    Rule("cloudwatch-log-group-encrypted", LOGS, (LOG_GROUP,), each(LOG_GROUP, lambda p: p.get("KmsKeyId"))),
    Rule(
        "cw-loggroup-retention-period-check",
        LOGS,
        (LOG_GROUP,),
        each(LOG_GROUP, lambda p: p.get("RetentionInDays", 0) >= 365),
    ),
    Rule("sns-encrypted-kms", IN_TRANSIT, (TOPIC,), each(TOPIC, lambda p: p.get("KmsMasterKeyId"))),
    Rule(
        "s3-default-encryption-kms, s3-bucket-ssl-requests-only",
        IN_TRANSIT,
        (BUCKET, BUCKET_POLICY),
        buckets_in_plaintext,
    ),
    Rule("iam-no-inline-policy-check", "AC-2, AC-3, AC-6", (ROLE, POLICY), inline_policies),
    Rule("restricted-ssh", NETWORK, GROUP_RULES, open_to_ssh),
    Rule(
        "subnet-auto-assign-public-ip-disabled",
        NETWORK,
        (SUBNET,),
        each(SUBNET, lambda p: p["MapPublicIpOnLaunch"] is False, 2),
    ),
    Rule("vpc-flow-logs-enabled", NETWORK, (FLOW_LOG,), vpcs_without(with_flow_log)),
    Rule("vpc-default-security-group-closed", NETWORK, (SCHEDULE,), vpcs_without(with_default_group_closed)),
)
