"""Policy statements and roles. Nobody here gets an AWS managed policy, an inline policy or a wildcard action.

Permissions are customer-managed policies of their own: an assessor's rule against inline policies then holds, and
each can be read, compared and taken away alone. A resource is "*" only through `without_resources`, which asks why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import CfnResource
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.policy_packs import acknowledge, wildcard

READ_ITEMS = ("dynamodb:GetItem",)
ENCRYPT_AND_DECRYPT = ("kms:Decrypt", "kms:GenerateDataKey")


@dataclass(frozen=True)
class Unrestricted:
    """Why an action is allowed on "*". `page` is where AWS says so, needed where the action could be restricted by its
    kind; actions without one have no resource-level permission at all (service authorization reference)."""

    reason: str
    page: str = ""


_VPC_PAGE = "AWS Lambda developer guide, Giving Lambda functions access to resources in an Amazon VPC"
_NO_RESOURCES = Unrestricted("the action has no resource-level permission")
_UNKNOWN_INTERFACE = Unrestricted("the interface's id is unknown until Lambda creates it", _VPC_PAGE)

# Every "*" resource of the system, with the reason; nothing else may have one.
REASONS_WITHOUT_RESOURCES: Mapping[str, Unrestricted] = {
    "ec2:CreateNetworkInterface": Unrestricted(
        "Lambda attaches a function to a VPC only with the unrestricted permission", _VPC_PAGE
    ),
    "ec2:DescribeNetworkInterfaces": _NO_RESOURCES,
    "ec2:DescribeSubnets": _NO_RESOURCES,
    "ec2:DeleteNetworkInterface": _UNKNOWN_INTERFACE,
    "ec2:AssignPrivateIpAddresses": _UNKNOWN_INTERFACE,
    "ec2:UnassignPrivateIpAddresses": _UNKNOWN_INTERFACE,
    "ec2:DescribeSecurityGroupRules": _NO_RESOURCES,
    "cloudwatch:DescribeAlarms": Unrestricted(
        "CloudWatch tells of composite alarms only whoever may ask for all",
        "Amazon CloudWatch API reference, DescribeAlarms",
    ),
    "cloudwatch:PutMetricData": Unrestricted(
        "a metric is no resource; restricted by the condition on the namespace",
        "Amazon CloudWatch user guide, Using condition keys to limit access to CloudWatch namespaces",
    ),
    "secretsmanager:GetRandomPassword": _NO_RESOURCES,
    "logs:CreateLogDelivery": _NO_RESOURCES,
    "logs:GetLogDelivery": _NO_RESOURCES,
    "logs:UpdateLogDelivery": _NO_RESOURCES,
    "logs:DeleteLogDelivery": _NO_RESOURCES,
    "logs:ListLogDeliveries": _NO_RESOURCES,
    "logs:PutResourcePolicy": _NO_RESOURCES,
    "logs:DescribeResourcePolicies": _NO_RESOURCES,
    "logs:DescribeLogGroups": _NO_RESOURCES,
    "xray:PutTraceSegments": _NO_RESOURCES,
    "xray:PutTelemetryRecords": _NO_RESOURCES,
    "xray:GetSamplingRules": _NO_RESOURCES,
    "xray:GetSamplingTargets": _NO_RESOURCES,
    "rds:DescribeEvents": _NO_RESOURCES,
    "rds:DescribeDBSnapshots": Unrestricted(
        "AWS Backup looks for snapshots by name before it has made one",
        "AWS managed policy AWSBackupServiceRolePolicyForBackup",
    ),
    "tag:GetResources": _NO_RESOURCES,
}

VPC_ATTACHMENT = (
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
)


def allow(
    actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, Any] | None = None
) -> iam.PolicyStatement:
    """Allow exactly these actions on exactly these ARNs."""
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions)


def without_resources(actions: Sequence[str], conditions: Mapping[str, Any] | None = None) -> iam.PolicyStatement:
    """Allow actions that have no resource-level permission. Raises KeyError for one without a written reason."""
    for action in actions:
        REASONS_WITHOUT_RESOURCES[action]
    return iam.PolicyStatement(actions=list(actions), resources=["*"], conditions=conditions)


def use_key(key_arn: str, service: str, region: str) -> iam.PolicyStatement:
    """Allow the use of a customer-managed key, only through one service (`dynamodb`, `sqs`, `secretsmanager` …)."""
    return allow(
        ENCRYPT_AND_DECRYPT,
        [key_arn],
        {"StringEquals": {"kms:ViaService": f"{service}.{region}.amazonaws.com"}},
    )


@dataclass(frozen=True)
class Identity:
    """A role and what must exist before anybody can act with it: the policy is a resource of its own."""

    role: iam.Role
    policy: iam.CfnManagedPolicy

    @property
    def arn(self) -> str:
        """The role's ARN."""
        return self.role.role_arn

    def before(self, user: CfnResource) -> None:
        """Create `user` after the permissions and delete it before them."""
        user.add_resource_dependency(self.policy)


def identity(
    scope: Construct,
    construct_id: str,
    *,
    name: str,
    description: str,
    principal: iam.IPrincipal,
    statements: Sequence[iam.PolicyStatement],
    patterns: Mapping[str, str] | None = None,
) -> Identity:
    """A role `name` that `principal` may assume, with one customer-managed policy of the same name.

    `patterns` tells, for each ARN with a wildcard in the statements, why it cannot be narrower.
    """
    role = iam.Role(scope, f"{construct_id}Role", role_name=name, description=description, assumed_by=principal)
    policy = iam.CfnManagedPolicy(
        scope,
        f"{construct_id}Policy",
        managed_policy_name=name,
        description=description,
        policy_document=iam.PolicyDocument(statements=list(statements)),
        roles=[role.role_name],
    )
    unrestricted = sorted({action for each in statements if "*" in each.resources for action in each.actions})
    if unrestricted:
        reasons = "; ".join(f"{action}: {REASONS_WITHOUT_RESOURCES[action].reason}" for action in unrestricted)
        acknowledge(policy, wildcard(policy), reasons)
    for arn, reason in (patterns or {}).items():
        acknowledge(policy, wildcard(policy, arn), reason)
    return Identity(role, policy)


def confined_service(service: str, account: str, source_arn: str | None = None) -> iam.IPrincipal:
    """A service principal that may act only for this account (and for `source_arn`): no confused deputy."""
    conditions: dict[str, Any] = {"StringEquals": {"aws:SourceAccount": account}}
    if source_arn is not None:
        conditions["ArnLike"] = {"aws:SourceArn": source_arn}
    return iam.ServicePrincipal(service, conditions=conditions)
