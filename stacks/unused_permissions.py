"""Permissions that nothing exercises in the local cloud, with the reason: the only ones that may stay unused.

Whatever a deployed role may do beyond what `make least-privilege` sees it do stands here, or the command fails. It
fails as well when an entry here is granted to nobody, or is used after all. Plain data: no CDK here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Unused:
    """Actions of the roles whose names without suffix match `roles` (`*` for any part), why, and where AWS says so."""

    roles: str
    actions: tuple[str, ...]
    reason: str
    source: str

    def covers(self, role: str, action: str) -> bool:
        """Whether the entry speaks of this action of this role."""
        return fnmatchcase(role, self.roles) and action in self.actions


UNUSED: Sequence[Unused] = (
    Unused(
        "citizens-*",
        ("kms:Decrypt", "kms:GenerateDataKey"),
        "the service decrypts on the role's behalf; in the local cloud nothing is encrypted at rest",
        "AWS KMS developer guide, kms:ViaService",
    ),
    Unused(
        "citizens-*",
        (
            "ec2:AssignPrivateIpAddresses",
            "ec2:CreateNetworkInterface",
            "ec2:DeleteNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:UnassignPrivateIpAddresses",
        ),
        "Lambda attaches the function to the VPC with the function's role; the local cloud makes no network interfaces",
        "AWS Lambda developer guide, Giving Lambda functions access to resources in an Amazon VPC",
    ),
    *(
        Unused(
            f"citizens-{function}",
            ("sqs:SendMessage",),
            "Lambda refuses a dead-letter queue that the role may not send to; the function is invoked synchronously",
            "AWS Lambda API reference, DeadLetterConfig",
        )
        for function in (
            *("arbiter", "probe", "open-log", "roll-forward", "rewind", "cutover", "verify"),
            *("reprotect", "switchover", "drill"),
        )
    ),
    Unused(
        "citizens-*-schedule",
        ("sqs:SendMessage",),
        "EventBridge Scheduler sends what Lambda would not take for over a minute; the local cloud drops it",
        "EventBridge Scheduler user guide, Configuring a dead-letter queue",
    ),
    *(
        Unused(
            f"citizens-{function}",
            ("elasticfilesystem:ClientWrite",),
            "EFS asks for it when a mounted client writes; the local cloud's file system is a folder",
            "Amazon EFS user guide, Using IAM to control file system data access",
        )
        for function in ("archive", "roll-forward", "log-care")
    ),
    *(
        entry
        for machine in (
            "citizens-failover",
            "citizens-reprotect-machine",
            "citizens-switchover-machine",
            "citizens-drill-machine",
        )
        for entry in (
            Unused(
                machine,
                (
                    "logs:DeleteLogDelivery",
                    "logs:DescribeLogGroups",
                    "logs:DescribeResourcePolicies",
                    "logs:GetLogDelivery",
                    "logs:ListLogDeliveries",
                    "logs:PutResourcePolicy",
                    "logs:UpdateLogDelivery",
                ),
                "Step Functions sets up its log delivery; the local cloud asks for one permission in place of all",
                "AWS Step Functions developer guide, Using CloudWatch Logs to log execution history",
            ),
            Unused(
                machine,
                (
                    "xray:GetSamplingRules",
                    "xray:GetSamplingTargets",
                    "xray:PutTelemetryRecords",
                    "xray:PutTraceSegments",
                ),
                "Step Functions sends traces; the local cloud records none",
                "AWS Step Functions developer guide, Trace Step Functions request data in AWS X-Ray",
            ),
        )
    ),
    Unused(
        "citizens-reprotect-machine",
        ("iam:PassRole", "kms:CreateGrant", "kms:DescribeKey", "rds:AddTagsToResource", "rds:CreateDBSnapshot"),
        "RDS asks for them when a replica with a monitoring role, a key and tags is made, and when a final snapshot is "
        "taken; the local cloud asks for the request's own action alone",
        "Service authorization reference, Amazon RDS, dependent actions of both requests",
    ),
    Unused(
        "citizens-drill-machine",
        ("kms:CreateGrant", "kms:DescribeKey", "rds:AddTagsToResource"),
        "RDS asks for them when a copy with tags is made of an encrypted instance; the local cloud asks for the "
        "request's own action alone",
        "Service authorization reference, Amazon RDS, dependent actions of both requests",
    ),
    Unused(
        "citizens-monitoring",
        (
            "logs:CreateLogGroup",
            "logs:CreateLogStream",
            "logs:DescribeLogStreams",
            "logs:GetLogEvents",
            "logs:PutLogEvents",
            "logs:PutRetentionPolicy",
        ),
        "enhanced monitoring is an agent on RDS's hosts; the local cloud's instances have none",
        "Amazon RDS user guide, Setting up and enabling Enhanced Monitoring",
    ),
    Unused(
        "citizens-flow-logs",
        ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
        "the VPC's network writes flow logs; the local cloud has no packets to tell about",
        "Amazon VPC user guide, IAM role for publishing flow logs to CloudWatch Logs",
    ),
    Unused(
        "citizens-backup",
        (
            "backup:CopyIntoBackupVault",
            "backup:DescribeBackupVault",
            "dynamodb:CreateBackup",
            "dynamodb:DescribeTable",
            "dynamodb:ListTagsOfResource",
            "dynamodb:StartAwsBackupJob",
            "elasticfilesystem:Backup",
            "elasticfilesystem:DescribeTags",
            "kms:CreateGrant",
            "kms:DescribeKey",
            "rds:AddTagsToResource",
            "rds:CreateDBSnapshot",
            "rds:DeleteDBSnapshot",
            "rds:DescribeDBInstances",
            "rds:DescribeDBSnapshots",
            "rds:ListTagsForResource",
            "rds:ModifyDBSnapshotAttribute",
            "tag:GetResources",
        ),
        "AWS Backup makes the daily recovery points; the local cloud keeps the plan and makes none",
        "AWS managed policy AWSBackupServiceRolePolicyForBackup",
    ),
)


def reason(role: str, action: str) -> Unused | None:
    """The entry that excuses an unused action of a role (its name without suffix), or None."""
    return next((entry for entry in UNUSED if entry.covers(role, action)), None)
