"""What is left of an environment suffix: every kind of resource the system is made of, asked for by name or tag."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deployment.account import Account

Names = Callable[[Any], Iterable[str]]


def _paged(operation: str, key: str, name: str | None, **arguments: Any) -> Names:
    """Names out of a paginated list call: `key` holds the items, `name` the field of an item (None: the item is the
    name)."""

    def names(client: Any) -> Iterable[str]:
        pages = (
            client.get_paginator(operation).paginate(**arguments)
            if client.can_paginate(operation)
            else [getattr(client, operation)(**arguments)]
        )
        for page in pages:
            for item in page.get(key, []):
                yield str(item if name is None else item.get(name) or "")

    return names


def _tagged(operation: str, key: str, identifier: str) -> Names:
    """EC2 resources have no names: those whose Name tag (or CloudFormation's) carries the suffix count as named so."""

    def names(client: Any) -> Iterable[str]:
        for page in client.get_paginator(operation).paginate():
            for item in page[key]:
                tags: Mapping[str, str] = {tag["Key"]: tag["Value"] for tag in item.get("Tags", item.get("TagSet", []))}
                yield f"{item[identifier]} {tags.get('Name', '')} {tags.get('aws:cloudformation:stack-name', '')}"

    return names


def _pending_stacks(client: Any) -> Iterable[str]:
    for page in client.get_paginator("describe_stacks").paginate():
        yield from (stack["StackName"] for stack in page["Stacks"] if stack["StackStatus"] != "DELETE_COMPLETE")


def _live_aliases(client: Any) -> Iterable[str]:
    for page in client.get_paginator("list_aliases").paginate():
        yield from (alias["AliasName"] for alias in page["Aliases"])


KINDS: tuple[tuple[str, str, Names], ...] = (
    ("stack", "cloudformation", _pending_stacks),
    ("DB instance", "rds", _paged("describe_db_instances", "DBInstances", "DBInstanceIdentifier")),
    (
        "DB snapshot",
        "rds",
        _paged("describe_db_snapshots", "DBSnapshots", "DBSnapshotIdentifier", SnapshotType="manual"),
    ),
    ("DB subnet group", "rds", _paged("describe_db_subnet_groups", "DBSubnetGroups", "DBSubnetGroupName")),
    ("DB parameter group", "rds", _paged("describe_db_parameter_groups", "DBParameterGroups", "DBParameterGroupName")),
    ("function", "lambda", _paged("list_functions", "Functions", "FunctionName")),
    ("log group", "logs", _paged("describe_log_groups", "logGroups", "logGroupName")),
    ("table", "dynamodb", _paged("list_tables", "TableNames", None)),
    ("state machine", "stepfunctions", _paged("list_state_machines", "stateMachines", "name")),
    ("topic", "sns", _paged("list_topics", "Topics", "TopicArn")),
    ("queue", "sqs", _paged("list_queues", "QueueUrls", None)),
    ("schedule", "scheduler", _paged("list_schedules", "Schedules", "Name")),
    ("rule", "events", _paged("list_rules", "Rules", "Name")),
    ("file system", "efs", _paged("describe_file_systems", "FileSystems", "Name")),
    ("backup vault", "backup", _paged("list_backup_vaults", "BackupVaultList", "BackupVaultName")),
    ("backup plan", "backup", _paged("list_backup_plans", "BackupPlansList", "BackupPlanName")),
    ("alarm", "cloudwatch", _paged("describe_alarms", "MetricAlarms", "AlarmName")),
    (
        "composite alarm",
        "cloudwatch",
        _paged("describe_alarms", "CompositeAlarms", "AlarmName", AlarmTypes=["CompositeAlarm"]),
    ),
    ("dashboard", "cloudwatch", _paged("list_dashboards", "DashboardEntries", "DashboardName")),
    ("role", "iam", _paged("list_roles", "Roles", "RoleName")),
    ("policy", "iam", _paged("list_policies", "Policies", "PolicyName", Scope="Local")),
    ("key alias", "kms", _live_aliases),
    ("VPC", "ec2", _tagged("describe_vpcs", "Vpcs", "VpcId")),
    ("subnet", "ec2", _tagged("describe_subnets", "Subnets", "SubnetId")),
    ("security group", "ec2", _tagged("describe_security_groups", "SecurityGroups", "GroupId")),
    ("network interface", "ec2", _tagged("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId")),
)


def of(account: Account, suffix: str) -> list[str]:
    """`<kind> <name>` of each resource that carries the suffix. The agency's secret and keys pending deletion do
    not."""
    carries = re.compile(rf"(?<![a-z0-9]){re.escape(suffix)}(?![a-z0-9])", re.IGNORECASE)
    return [
        f"{kind} {name.strip()}"
        for kind, service, names in KINDS
        for name in names(account.client(service))
        if carries.search(name)
    ]
