"""The templates meet each AWS Config rule of `assessment.config_rules`, and each check finds them broken."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from assessment.config_rules import DB, EFS, FUNCTION, RULES, Rule, selections
from stacks.templates import System

Break = Callable[[System], None]


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


def select_less(system: System) -> None:
    selections(system)[0].properties["BackupSelection"]["Resources"] = []


def keep_less(system: System) -> None:
    (plan,) = system.of("AWS::Backup::BackupPlan")
    plan.properties["BackupPlan"]["BackupPlanRule"][0]["Lifecycle"]["DeleteAfterDays"] = 34


# How to make the templates violate each rule.
BREAKS: dict[str, Break] = {
    "rds-multi-az-support": give(DB, MultiAZ=False),
    "rds-instance-deletion-protection-enabled": give(DB, DeletionProtection=False),
    "db-instance-backup-enabled": give(DB, BackupRetentionPeriod=0),
    "rds-resources-protected-by-backup-plan": select_less,
    "rds-storage-encrypted": give(DB, SourceDBInstanceIdentifier=None),
    "efs-encrypted-check": give(EFS, KmsKeyId=None),
    "rds-logging-enabled": give(DB, EnableCloudwatchLogsExports=["postgresql"]),
    "rds-enhanced-monitoring-enabled": give(DB, MonitoringInterval=0),
    "lambda-dlq-check": give(FUNCTION, DeadLetterConfig=None),
    "lambda-concurrency-check": give(FUNCTION, ReservedConcurrentExecutions=None),
    "rds-instance-public-access-check": give(DB, PubliclyAccessible=True),
    "lambda-function-public-access-prohibited": give("AWS::Lambda::Permission", SourceAccount=None),
    "lambda-inside-vpc": give(FUNCTION, VpcConfig=None),
    "efs-resources-protected-by-backup-plan": select_less,
    "backup-plan-min-frequency-and-min-retention-check": keep_less,
    "cmk-backing-key-rotation-enabled": give("AWS::KMS::Key", EnableKeyRotation=False),
    "kms-cmk-not-scheduled-for-deletion": add(
        "AWS::IAM::ManagedPolicy", PolicyDocument={"Statement": [{"Action": "kms:ScheduleKeyDeletion"}]}
    ),
    "cloudwatch-alarm-action-check": give("AWS::CloudWatch::Alarm", AlarmActions=[]),
    "cloudwatch-log-group-encrypted": give("AWS::Logs::LogGroup", KmsKeyId=None),
    "cw-loggroup-retention-period-check": give("AWS::Logs::LogGroup", RetentionInDays=180),
    "sns-encrypted-kms": give("AWS::SNS::Topic", KmsMasterKeyId=None),
    "s3-default-encryption-kms, s3-bucket-ssl-requests-only": remove("AWS::S3::BucketPolicy"),
    "iam-no-inline-policy-check": give("AWS::IAM::Role", Policies=[{"PolicyName": "inline"}]),
    "restricted-ssh": add(
        "AWS::EC2::SecurityGroupIngress", IpProtocol="tcp", FromPort=0, ToPort=1024, CidrIp="0.0.0.0/0"
    ),
    "subnet-auto-assign-public-ip-disabled": give("AWS::EC2::Subnet", MapPublicIpOnLaunch=True),
    "vpc-flow-logs-enabled": remove("AWS::EC2::FlowLog"),
    "vpc-default-security-group-closed": give(
        "AWS::Scheduler::Schedule", Target={"Arn": "arn:aws:scheduler:::aws-sdk:ec2:stopInstances"}
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_the_templates_meet(protected: System, rule: Rule) -> None:
    assert rule.violations(protected) == []


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_broken_templates_do_not_meet(protected: System, rule: Rule) -> None:
    # The last of a type is broken: of the first nested stack that has one
    broken = System(protected.folder, copy.deepcopy(dict(reversed(protected.templates.items()))))
    BREAKS[rule.name](broken)
    assert rule.violations(broken) != []


def test_without_protect_deletion_protection_is_the_only_rule_not_met(system: System) -> None:
    unmet = [rule.name for rule in RULES if rule.violations(system)]
    assert unmet == ["rds-instance-deletion-protection-enabled"]


def test_no_resource_at_all_meets_no_rule_that_needs_one(protected: System) -> None:
    nothing = System(protected.folder, {"parent": {"Resources": {}}})
    unmet = {rule.name for rule in RULES if rule.violations(nothing)}
    # Without roles, members, file systems or networks there is nothing inline, open or left out of a backup
    assert {rule.name for rule in RULES} - unmet == {
        "rds-resources-protected-by-backup-plan",
        "efs-resources-protected-by-backup-plan",
        "iam-no-inline-policy-check",
        "vpc-flow-logs-enabled",
        "vpc-default-security-group-closed",
    }


def test_every_rule_looks_at_something_that_is_deployed(protected: System) -> None:
    unseen = [rule.name for rule in RULES if not any(protected.of(kind) for kind in rule.kinds)]
    assert unseen == []
