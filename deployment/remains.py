"""What exists of an environment suffix: every kind of resource that the system is made of or leaves behind.

A kind is asked for by listing all of it in the region and keeping what carries the suffix, so that something that no
template knows any more is found too. `KINDS` and `PARTS` together cover every resource type of the templates; a test
keeps it so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from deployment.account import Account

Names = Callable[[Any], Iterable[str]]
PARENT_STACK = re.compile(r"citizens-dr-([a-z0-9-]+)")
# The services throttle by account; few at once are fast enough.
ASKED_AT_ONCE = 6


@dataclass(frozen=True)
class Kind:
    """One kind of resource. `names` lists all there are, each with whatever tells whose it is.

    `types` are the CloudFormation types it covers. `holds_data`: kept when a protected environment is destroyed.
    """

    name: str
    service: str
    names: Names
    types: tuple[str, ...] = ()
    holds_data: bool = False


@dataclass(frozen=True)
class Remainder:
    """A resource that carries the suffix."""

    kind: str
    name: str
    holds_data: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Survey:
    """What was found, and the kinds that could not be asked for, each with the reason."""

    found: tuple[Remainder, ...]
    unasked: tuple[str, ...]


def pages(client: Any, operation: str, **arguments: Any) -> Iterable[Any]:
    """Every page of a list call, paginated or not."""
    if client.can_paginate(operation):
        yield from client.get_paginator(operation).paginate(**arguments)
    else:
        yield getattr(client, operation)(**arguments)


def _listed(operation: str, key: str, *fields: str, **arguments: Any) -> Names:
    """Names out of a list call: `key` holds the items, `fields` of an item make its name (none: the item is it)."""

    def names(client: Any) -> Iterable[str]:
        for page in pages(client, operation, **arguments):
            for item in page.get(key) or ():
                yield " ".join(str(item.get(field) or "") for field in fields) if fields else str(item)

    return names


def _tagged(operation: str, key: str, identifier: str) -> Names:
    """EC2 resources have no names: what carries the suffix in its tags, description or groups counts as named so."""

    def names(client: Any) -> Iterable[str]:
        for page in pages(client, operation):
            for item in page[key]:
                tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", item.get("TagSet", []))}
                groups = (group.get("GroupName", "") for group in item.get("Groups", []))
                texts = (
                    item[identifier],
                    tags.get("Name", ""),
                    tags.get("aws:cloudformation:stack-name", ""),
                    item.get("GroupName", ""),
                    item.get("Description", ""),
                    item.get("LogGroupName") or item.get("LogDestination", ""),
                    *groups,
                )
                yield " ".join(dict.fromkeys(text for text in texts if text))

    return names


def _existing_stacks(client: Any) -> Iterable[str]:
    for page in pages(client, "describe_stacks"):
        yield from (stack["StackName"] for stack in page["Stacks"] if stack["StackStatus"] != "DELETE_COMPLETE")


def _keys_in_use(client: Any) -> Iterable[str]:
    """Customer-managed keys by their description; one pending deletion counts as gone."""
    for page in pages(client, "list_keys"):
        for key in page["Keys"]:
            try:
                described = client.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
            except ClientError as error:
                if error.response["Error"]["Code"] in ("AccessDeniedException", "NotFoundException"):
                    continue  # another team's key, whose policy keeps everyone else out
                raise
            if described["KeyManager"] == "CUSTOMER" and described["KeyState"] != "PendingDeletion":
                yield f"{key['KeyId']} {described.get('Description', '')}"


def _rotations(client: Any) -> Iterable[str]:
    for page in pages(client, "list_secrets"):
        for secret in page["SecretList"]:
            # One that a service owns is rotated by that service
            if secret.get("RotationEnabled") and not secret.get("OwningService"):
                yield f"of {secret['Name']} by {rotation_function(client, secret)}"


def rotation_function(client: Any, secret: Mapping[str, Any]) -> str:
    """The name of the function that rotates a listed secret."""
    arn = secret.get("RotationLambdaARN") or client.describe_secret(SecretId=secret["ARN"]).get("RotationLambdaARN", "")
    return str(arn).rpartition(":")[2]


def _recovery_points(client: Any) -> Iterable[str]:
    """Of every vault: an account's automatic backups put theirs elsewhere than our plan does."""
    for page in pages(client, "list_backup_vaults"):
        for vault in page["BackupVaultList"]:
            name = vault["BackupVaultName"]
            for points in pages(client, "list_recovery_points_by_backup_vault", BackupVaultName=name):
                for point in points["RecoveryPoints"]:
                    yield f"{point['RecoveryPointArn']} of {point.get('ResourceArn', '')} in {name}"


KINDS: tuple[Kind, ...] = (
    Kind("stack", "cloudformation", _existing_stacks, ("AWS::CloudFormation::Stack",)),
    Kind(
        "DB instance",
        "rds",
        _listed("describe_db_instances", "DBInstances", "DBInstanceIdentifier"),
        ("AWS::RDS::DBInstance",),
    ),
    Kind(
        "DB snapshot",
        "rds",
        _listed(
            "describe_db_snapshots",
            "DBSnapshots",
            "DBSnapshotIdentifier",
            "DBInstanceIdentifier",
            SnapshotType="manual",
        ),
        holds_data=True,
    ),
    Kind(
        "automated backup",
        "rds",
        _listed(
            "describe_db_instance_automated_backups",
            "DBInstanceAutomatedBackups",
            "DbiResourceId",
            "DBInstanceIdentifier",
        ),
        holds_data=True,
    ),
    Kind(
        "DB subnet group",
        "rds",
        _listed("describe_db_subnet_groups", "DBSubnetGroups", "DBSubnetGroupName"),
        ("AWS::RDS::DBSubnetGroup",),
    ),
    Kind(
        "DB parameter group",
        "rds",
        _listed("describe_db_parameter_groups", "DBParameterGroups", "DBParameterGroupName"),
        ("AWS::RDS::DBParameterGroup",),
    ),
    Kind("function", "lambda", _listed("list_functions", "Functions", "FunctionName"), ("AWS::Lambda::Function",)),
    Kind(
        "log group",
        "logs",
        _listed("describe_log_groups", "logGroups", "logGroupName"),
        ("AWS::Logs::LogGroup",),
        holds_data=True,
    ),
    Kind("table", "dynamodb", _listed("list_tables", "TableNames"), ("AWS::DynamoDB::Table",), holds_data=True),
    Kind(
        "table backup",
        "dynamodb",
        _listed("list_backups", "BackupSummaries", "BackupName", "TableName", BackupType="ALL"),
        holds_data=True,
    ),
    Kind(
        "state machine",
        "stepfunctions",
        _listed("list_state_machines", "stateMachines", "name"),
        ("AWS::StepFunctions::StateMachine",),
    ),
    Kind("topic", "sns", _listed("list_topics", "Topics", "TopicArn"), ("AWS::SNS::Topic",)),
    Kind(
        "subscription",
        "sns",
        _listed("list_subscriptions", "Subscriptions", "SubscriptionArn", "TopicArn"),
        ("AWS::SNS::Subscription",),
    ),
    Kind("queue", "sqs", _listed("list_queues", "QueueUrls"), ("AWS::SQS::Queue",), holds_data=True),
    Kind("schedule", "scheduler", _listed("list_schedules", "Schedules", "Name"), ("AWS::Scheduler::Schedule",)),
    Kind(
        "schedule group",
        "scheduler",
        _listed("list_schedule_groups", "ScheduleGroups", "Name"),
        ("AWS::Scheduler::ScheduleGroup",),
    ),
    Kind("rule", "events", _listed("list_rules", "Rules", "Name"), ("AWS::Events::Rule",)),
    Kind(
        "file system",
        "efs",
        _listed("describe_file_systems", "FileSystems", "FileSystemId", "Name"),
        ("AWS::EFS::FileSystem",),
        holds_data=True,
    ),
    Kind(
        "access point",
        "efs",
        _listed("describe_access_points", "AccessPoints", "AccessPointId", "Name"),
        ("AWS::EFS::AccessPoint",),
    ),
    Kind(
        "backup vault",
        "backup",
        _listed("list_backup_vaults", "BackupVaultList", "BackupVaultName"),
        ("AWS::Backup::BackupVault",),
        holds_data=True,
    ),
    Kind("recovery point", "backup", _recovery_points, holds_data=True),
    Kind(
        "backup plan",
        "backup",
        _listed("list_backup_plans", "BackupPlansList", "BackupPlanName"),
        ("AWS::Backup::BackupPlan",),
    ),
    Kind("alarm", "cloudwatch", _listed("describe_alarms", "MetricAlarms", "AlarmName"), ("AWS::CloudWatch::Alarm",)),
    Kind(
        "composite alarm",
        "cloudwatch",
        _listed("describe_alarms", "CompositeAlarms", "AlarmName", AlarmTypes=["CompositeAlarm"]),
        ("AWS::CloudWatch::CompositeAlarm",),
    ),
    Kind(
        "dashboard",
        "cloudwatch",
        _listed("list_dashboards", "DashboardEntries", "DashboardName"),
        ("AWS::CloudWatch::Dashboard",),
    ),
    Kind("bucket", "s3", _listed("list_buckets", "Buckets", "Name"), ("AWS::S3::Bucket",), holds_data=True),
    Kind("role", "iam", _listed("list_roles", "Roles", "RoleName"), ("AWS::IAM::Role",)),
    Kind(
        "policy",
        "iam",
        _listed("list_policies", "Policies", "PolicyName", Scope="Local"),
        ("AWS::IAM::ManagedPolicy",),
    ),
    Kind("key", "kms", _keys_in_use, ("AWS::KMS::Key",), holds_data=True),
    Kind("key alias", "kms", _listed("list_aliases", "Aliases", "AliasName"), ("AWS::KMS::Alias",)),
    Kind("rotation", "secretsmanager", _rotations, ("AWS::SecretsManager::RotationSchedule",)),
    Kind("VPC", "ec2", _tagged("describe_vpcs", "Vpcs", "VpcId"), ("AWS::EC2::VPC",)),
    Kind("subnet", "ec2", _tagged("describe_subnets", "Subnets", "SubnetId"), ("AWS::EC2::Subnet",)),
    Kind(
        "route table",
        "ec2",
        _tagged("describe_route_tables", "RouteTables", "RouteTableId"),
        ("AWS::EC2::RouteTable",),
    ),
    Kind(
        "security group",
        "ec2",
        _tagged("describe_security_groups", "SecurityGroups", "GroupId"),
        ("AWS::EC2::SecurityGroup",),
    ),
    Kind(
        "VPC endpoint",
        "ec2",
        _tagged("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
        ("AWS::EC2::VPCEndpoint",),
    ),
    Kind("flow log", "ec2", _tagged("describe_flow_logs", "FlowLogs", "FlowLogId"), ("AWS::EC2::FlowLog",)),
    Kind(
        "network interface",
        "ec2",
        _tagged("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId"),
    ),
)

# Types that are not asked for, because they are part of another one and cannot outlive it.
PARTS: Mapping[str, str] = {
    "AWS::Backup::BackupSelection": "part of its backup plan, which cannot be deleted before it",
    "AWS::EC2::SecurityGroupEgress": "a rule of its security group",
    "AWS::EC2::SecurityGroupIngress": "a rule of its security group",
    "AWS::EC2::SubnetRouteTableAssociation": "part of its route table, which cannot be deleted before it",
    "AWS::EFS::MountTarget": "part of its file system and subnet, neither of which can be deleted before it",
    "AWS::Lambda::EventInvokeConfig": "a setting of its function",
    "AWS::Lambda::Permission": "a statement in its function's policy",
    "AWS::Logs::MetricFilter": "part of its log group, and deleted by the stack where that is kept",
    "AWS::S3::BucketPolicy": "a setting of its bucket",
    "AWS::SecretsManager::SecretTargetAttachment": "fields in the agency's own secret, which stays",
    "AWS::SNS::TopicPolicy": "a setting of its topic",
    "AWS::SQS::QueuePolicy": "a setting of its queue",
}


def survey(account: Account, suffix: str) -> Survey:
    """Ask for every kind. A kind that may not be asked for is in the answer, never an error."""
    clients = {service: account.client(service) for service in sorted({kind.service for kind in KINDS})}

    def ask(kind: Kind) -> list[str] | str:
        try:
            return list(kind.names(clients[kind.service]))
        except ClientError as error:
            return f"{kind.name} ({error.response['Error']['Code']})"
        except BotoCoreError as error:
            return f"{kind.name} ({error})"

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answers = list(pool.map(ask, KINDS))
    stacks = answers[0] if isinstance(answers[0], list) else []
    others = [match[1] for name in stacks if (match := PARENT_STACK.fullmatch(name)) and match[1] != suffix]
    return Survey(
        found=tuple(
            Remainder(kind.name, name.strip(), kind.holds_data)
            for kind, names in zip(KINDS, answers, strict=True)
            if isinstance(names, list)
            for name in names
            if carries(name, suffix, others)
        ),
        unasked=tuple(answer for answer in answers if isinstance(answer, str)),
    )


def of(account: Account, suffix: str) -> list[str]:
    """`<kind> <name>` of each resource that carries the suffix; also a line for each kind that could not be asked for.
    The agency's secret and keys pending deletion do not count."""
    seen = survey(account, suffix)
    return [*map(str, seen.found), *(f"unknown: {kind}" for kind in seen.unasked)]


def carries(text: str, suffix: str, others: Iterable[str] = ()) -> bool:
    """Whether a name is one of the suffix's: `citizens-<suffix>` or `citizens-<part>-<suffix>`, alone or continued by
    what AWS or we append.

    `others` are the suffixes of other environments: a name that is one of theirs in full (`citizens-1-ci-dev` is
    `ci-dev`'s, not `dev`'s) does not count.
    """
    longer = [other for other in others if other.endswith(f"-{suffix}")]
    return any(not any(_owns(name, other) for other in longer) for name in _NAME.findall(text) if _owns(name, suffix))


# A name as far as it is ours. Appended are: `-NestedStackName…`, `-uuid` of a function's interface, `-isolated-<zone>`,
# `-schedule`, `-final-<time>`, the moment of a drill's copy. CloudFormation's snapshots, whose names are lower case,
# tell the instance beside it.
_NAME = re.compile(r"(?<![A-Za-z0-9-])(?:[A-Za-z0-9-]*ENI-)?(citizens-[a-z0-9-]+)")
_APPENDED = re.compile(r"-(?:isolated-.*|schedule|final-.*|\d{14}|[0-9a-f]{8}-[0-9a-f]{4}-.*)?$")


def _owns(name: str, suffix: str) -> bool:
    return re.sub(_APPENDED, "", name).removeprefix("citizens").endswith(f"-{suffix}")
