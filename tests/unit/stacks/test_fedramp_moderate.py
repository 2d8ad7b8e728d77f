"""The AWS Config rules of "Operational Best Practices for FedRAMP (Moderate)" that judge what is deployed here.

Config judges an account after a deploy; this judges the templates before one. Each rule is met, and each check finds
the same templates broken.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.stacks.conftest import Resource, System

Violations = Callable[[System], list[str]]
Break = Callable[[System], None]


@dataclass(frozen=True)
class Rule:
    """A Config rule by name, the controls it serves, what violates it, and how to make the templates do so."""

    name: str
    controls: str
    violations: Violations
    break_it: Break

    @property
    def id(self) -> str:
        return f"{self.name} [{self.controls}]"


def each(kind: str, holds: Callable[[dict[str, Any]], Any], at_least: int = 1) -> Violations:
    """The resources of a type whose properties do not hold; their absence violates too unless `at_least` is 0."""

    def violations(system: System) -> list[str]:
        found = system.of(kind)
        if len(found) < at_least:
            return [f"{len(found)} of {kind}"]
        return [resource.logical_id for resource in found if not holds(resource.properties)]

    return violations


def give(kind: str, **properties: Any) -> Break:
    """Give one resource of the type other properties (None takes one away)."""

    def break_it(system: System) -> None:
        target = system.of(kind)[-1].properties
        for name, value in properties.items():
            if value is None:
                del target[name]
            else:
                target[name] = value

    return break_it


def add(kind: str, **properties: Any) -> Break:
    def break_it(system: System) -> None:
        system.templates["Network"]["Resources"]["Added"] = {"Type": kind, "Properties": properties}

    return break_it


def remove(kind: str) -> Break:
    def break_it(system: System) -> None:
        victim = system.of(kind)[-1]
        del system.templates[victim.stack]["Resources"][victim.logical_id]

    return break_it


def backed_up(kind: str, name_of: Callable[[Resource], str]) -> Violations:
    """The resources that the selection of a backup plan does not name."""

    def violations(system: System) -> list[str]:
        selected = json.dumps([s.properties["BackupSelection"]["Resources"] for s in selections(system)])
        return [found.logical_id for found in system.of(kind) if name_of(found) not in selected]

    return violations


def selections(system: System) -> list[Resource]:
    return system.of("AWS::Backup::BackupSelection")


def select_less(system: System) -> None:
    selections(system)[0].properties["BackupSelection"]["Resources"] = []


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


def keep_less(system: System) -> None:
    (plan,) = system.of("AWS::Backup::BackupPlan")
    plan.properties["BackupPlan"]["BackupPlanRule"][0]["Lifecycle"]["DeleteAfterDays"] = 34


def encrypted_or_replica(member: dict[str, Any]) -> bool:
    """A replica has its source's encryption, and RDS refuses the property on it."""
    return member.get("StorageEncrypted") is True or "SourceDBInstanceIdentifier" in member


def alarms_without_action(system: System) -> list[str]:
    alarms = [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]
    assert len(alarms) > 30
    return [
        alarm.logical_id
        for alarm in alarms
        if not alarm.properties.get("AlarmActions") or alarm.properties.get("ActionsEnabled") is False
    ]


def inline_policies(system: System) -> list[str]:
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
    return system.of(f"AWS::IAM::{kind}")


def open_to_ssh(system: System) -> list[str]:
    inline = [
        (group.logical_id, rule)
        for group in system.of("AWS::EC2::SecurityGroup")
        for rule in group.properties.get("SecurityGroupIngress", [])
    ]
    rules = [*inline, *((r.logical_id, r.properties) for r in system.of("AWS::EC2::SecurityGroupIngress"))]
    assert rules
    return [
        name
        for name, rule in rules
        if (rule.get("CidrIp") == "0.0.0.0/0" or rule.get("CidrIpv6") == "::/0")
        and (rule["IpProtocol"] == "-1" or rule["FromPort"] <= 22 <= rule["ToPort"])
    ]


def vpcs_without(what: Callable[[System], Iterator[str]]) -> Violations:
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
        assert attribute == "DefaultSecurityGroup"
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
RULES = (
    Rule("rds-multi-az-support", "CP-10, SC-5", each(DB, lambda p: p["MultiAZ"] is True, 2), give(DB, MultiAZ=False)),
    Rule(
        "rds-instance-deletion-protection-enabled",
        "SC-5",
        each(DB, lambda p: p["DeletionProtection"] is True, 2),
        give(DB, DeletionProtection=False),
    ),
    Rule(
        "db-instance-backup-enabled",
        "CP-9(b), CP-10, SI-12",
        each(DB, lambda p: p.get("BackupRetentionPeriod", 0) >= 1, 2),
        give(DB, BackupRetentionPeriod=0),
    ),
    Rule(
        "rds-resources-protected-by-backup-plan",
        "CP-9(b), CP-10, SI-12",
        backed_up(DB, lambda member: f"db:{member.properties['DBInstanceIdentifier']}"),
        select_less,
    ),
    Rule(
        "rds-storage-encrypted", "SC-28", each(DB, encrypted_or_replica, 2), give(DB, SourceDBInstanceIdentifier=None)
    ),
    Rule(
        "efs-encrypted-check",
        "SC-28",
        each(EFS, lambda p: p["Encrypted"] is True and "KmsKeyId" in p),
        give(EFS, KmsKeyId=None),
    ),
    Rule(
        "rds-logging-enabled",
        "AC-2(4), AU-2, AU-3, AU-6(1)(3), AU-12",
        each(DB, lambda p: {"postgresql", "upgrade"} <= set(p.get("EnableCloudwatchLogsExports", ())), 2),
        give(DB, EnableCloudwatchLogsExports=["postgresql"]),
    ),
    Rule(
        "rds-enhanced-monitoring-enabled",
        "CA-7(a)(b)",
        each(DB, lambda p: p.get("MonitoringInterval", 0) > 0 and "MonitoringRoleArn" in p, 2),
        give(DB, MonitoringInterval=0),
    ),
    Rule(
        "lambda-dlq-check",
        "CA-7(a)(b)",
        each(FUNCTION, lambda p: p.get("DeadLetterConfig", {}).get("TargetArn")),
        give(FUNCTION, DeadLetterConfig=None),
    ),
    Rule(
        "lambda-concurrency-check",
        "CA-7(a)(b)",
        each(FUNCTION, lambda p: p.get("ReservedConcurrentExecutions", 0) >= 1),
        give(FUNCTION, ReservedConcurrentExecutions=None),
    ),
    Rule(
        "rds-instance-public-access-check",
        "AC-3, AC-4, AC-6, SC-7",
        each(DB, lambda p: p["PubliclyAccessible"] is False, 2),
        give(DB, PubliclyAccessible=True),
    ),
    Rule(
        "lambda-function-public-access-prohibited",
        "AC-3, AC-4, AC-6, SC-7",
        each("AWS::Lambda::Permission", lambda p: p["Principal"] != "*" and "SourceAccount" in p),
        give("AWS::Lambda::Permission", SourceAccount=None),
    ),
    Rule(
        "lambda-inside-vpc",
        "AC-3, AC-4, AC-6, SC-7",
        each(FUNCTION, lambda p: p.get("VpcConfig", {}).get("SubnetIds")),
        give(FUNCTION, VpcConfig=None),
    ),
    Rule(
        "efs-resources-protected-by-backup-plan",
        "CP-9(b), CP-10, SI-12",
        backed_up(EFS, lambda files: json.dumps({"Fn::GetAtt": [files.logical_id, "Arn"]})),
        select_less,
    ),
    Rule(
        "backup-plan-min-frequency-and-min-retention-check",
        "CP-9(b), CP-10, SI-12",
        plans_too_seldom,
        keep_less,
    ),
    Rule(
        "cmk-backing-key-rotation-enabled",
        "SC-12, SC-13, SC-28",
        each("AWS::KMS::Key", lambda p: p["EnableKeyRotation"] is True),
        give("AWS::KMS::Key", EnableKeyRotation=False),
    ),
    Rule(
        "kms-cmk-not-scheduled-for-deletion",
        "SC-12, SC-13, SC-28",
        # No role of the system may schedule it; that leaves the account's administrators and the stack's own end
        each("AWS::IAM::ManagedPolicy", lambda p: "kms:ScheduleKeyDeletion" not in json.dumps(p)),
        add("AWS::IAM::ManagedPolicy", PolicyDocument={"Statement": [{"Action": "kms:ScheduleKeyDeletion"}]}),
    ),
    Rule(
        "cloudwatch-alarm-action-check",
        "AU-6, CA-7, IR-4(1), SI-4",
        alarms_without_action,
        give("AWS::CloudWatch::Alarm", AlarmActions=[]),
    ),
    Rule(
        "cloudwatch-log-group-encrypted",
        "AU-9, AU-11, SC-28, SI-12",
        each("AWS::Logs::LogGroup", lambda p: p.get("KmsKeyId")),
        give("AWS::Logs::LogGroup", KmsKeyId=None),
    ),
    Rule(
        "cw-loggroup-retention-period-check",
        "AU-9, AU-11, SC-28, SI-12",
        each("AWS::Logs::LogGroup", lambda p: p.get("RetentionInDays", 0) >= 365),
        give("AWS::Logs::LogGroup", RetentionInDays=180),
    ),
    Rule(
        "sns-encrypted-kms",
        "SC-8, SC-13, SC-28",
        each("AWS::SNS::Topic", lambda p: p.get("KmsMasterKeyId")),
        give("AWS::SNS::Topic", KmsMasterKeyId=None),
    ),
    Rule(
        "s3-default-encryption-kms, s3-bucket-ssl-requests-only",
        "SC-8, SC-13, SC-28",
        # There is no bucket; one would need rules of its own here
        each("AWS::S3::Bucket", lambda _: False, 0),
        add("AWS::S3::Bucket"),
    ),
    Rule(
        "iam-no-inline-policy-check",
        "AC-2, AC-3, AC-6",
        inline_policies,
        give("AWS::IAM::Role", Policies=[{"PolicyName": "inline"}]),
    ),
    Rule(
        "restricted-ssh",
        "AC-3, AC-4, SC-7",
        open_to_ssh,
        add("AWS::EC2::SecurityGroupIngress", IpProtocol="tcp", FromPort=0, ToPort=1024, CidrIp="0.0.0.0/0"),
    ),
    Rule(
        "subnet-auto-assign-public-ip-disabled",
        "AC-3, AC-4, SC-7",
        each("AWS::EC2::Subnet", lambda p: p["MapPublicIpOnLaunch"] is False, 2),
        give("AWS::EC2::Subnet", MapPublicIpOnLaunch=True),
    ),
    Rule("vpc-flow-logs-enabled", "AC-3, AC-4, SC-7", vpcs_without(with_flow_log), remove("AWS::EC2::FlowLog")),
    Rule(
        "vpc-default-security-group-closed",
        "AC-3, AC-4, SC-7",
        vpcs_without(with_default_group_closed),
        give("AWS::Scheduler::Schedule", Target={"Arn": "arn:aws:scheduler:::aws-sdk:ec2:stopInstances"}),
    ),
)


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_the_templates_meet(protected: System, rule: Rule) -> None:
    assert rule.violations(protected) == []


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_broken_templates_do_not_meet(protected: System, rule: Rule) -> None:
    order = ["Observability", "Failover", "TransactionLog", "Database", "Storage", "Security", "Network", "parent"]
    templates = {name: copy.deepcopy(protected.templates[name]) for name in order}
    broken = System(protected.folder, templates)
    rule.break_it(broken)
    assert rule.violations(broken) != []


def test_without_protect_deletion_protection_is_the_only_rule_not_met(system: System) -> None:
    unmet = [rule.name for rule in RULES if rule.violations(system)]
    assert unmet == ["rds-instance-deletion-protection-enabled"]
