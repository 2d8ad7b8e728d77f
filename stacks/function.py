"""Makes a function: own role, own encrypted log group, isolated subnets, dead letters, reserved concurrency."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_

from stacks.names import DATABASE, DATABASE_PORT, METRICS_NAMESPACE
from stacks.nested import CitizensStack
from stacks.permissions import (
    READ_ITEMS,
    VPC_ATTACHMENT,
    allow,
    identity,
    use_key,
    without_resources,
)

RUNTIME = "python3.14"


@dataclass(frozen=True)
class Platform:
    """What all functions stand on. `bucket` and `key` locate the package; ARNs are of the keys and the queue."""

    bucket: str
    key: str
    subnet_ids: tuple[str, str]
    group_id: str
    data_key_arn: str
    log_key_arn: str
    dead_letters_arn: str


@dataclass(frozen=True)
class Members:
    """How functions reach the database: `hosts` by member, the secret's full ARN."""

    identifiers: tuple[str, str]
    hosts: tuple[str, str]
    secret_arn: str

    def as_json(self) -> str:
        """The functions' MEMBERS: identifier → host and port."""
        return json.dumps(
            {
                name: {"host": host, "port": DATABASE_PORT}
                for name, host in zip(self.identifiers, self.hosts, strict=True)
            }
        )


@dataclass(frozen=True)
class FunctionSpec:
    """One function. `timeout` in seconds, `memory` in MiB, `concurrency` reserved executions; `database_user` is whom
    it signs in as, by IAM.
    """

    name: str
    module: str
    purpose: str
    timeout: int
    statements: Sequence[iam.PolicyStatement]
    database_user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int = 256
    concurrency: int = 1
    subnet_ids: Sequence[str] | None = None
    access_point_arn: str | None = None
    mount_path: str | None = None
    # Why an ARN of the statements has a wildcard, by that ARN
    patterns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeployedFunction:
    """A function that exists: its resource, name and ARN."""

    resource: lambda_.CfnFunction
    name: str
    arn: str


def function(stack: CitizensStack, spec: FunctionSpec, platform: Platform) -> DeployedFunction:
    """Add the function `citizens-<name>-<suffix>` to `stack`."""
    name = stack.names.of(spec.name)
    construct_id = "".join(part.capitalize() for part in spec.name.split("-"))
    group = stack.log_group(f"{construct_id}Logs", stack.names.function_log_group(spec.name), platform.log_key_arn)
    who = identity(
        stack,
        construct_id,
        name=name,
        description=f"Function {name}: {spec.purpose}",
        principal=iam.ServicePrincipal("lambda.amazonaws.com"),
        statements=[
            allow(("logs:CreateLogStream", "logs:PutLogEvents"), [group.attr_arn]),
            without_resources(VPC_ATTACHMENT),
            allow(("sqs:SendMessage",), [platform.dead_letters_arn]),
            use_key(platform.data_key_arn, "sqs", stack.region),
            *([connect_as(stack, spec.database_user)] if spec.database_user else []),
            *spec.statements,
        ],
        patterns={**spec.patterns, **(_members_to_come(stack, spec.database_user) if spec.database_user else {})},
    )
    properties: dict[str, Any] = {}
    variables = {**_common(stack), **spec.environment}
    if spec.database_user is not None:
        variables["DATABASE_USER"] = spec.database_user
    if spec.access_point_arn is not None:
        properties["file_system_configs"] = [
            lambda_.CfnFunction.FileSystemConfigProperty(
                arn=spec.access_point_arn, local_mount_path=spec.mount_path or ""
            )
        ]
    resource = lambda_.CfnFunction(
        stack,
        construct_id,
        function_name=name,
        description=spec.purpose,
        runtime=RUNTIME,
        handler=f"functions.{spec.module}.handler",
        code=lambda_.CfnFunction.CodeProperty(s3_bucket=platform.bucket, s3_key=platform.key),
        role=who.arn,
        timeout=spec.timeout,
        memory_size=spec.memory,
        reserved_concurrent_executions=spec.concurrency,
        environment=lambda_.CfnFunction.EnvironmentProperty(variables=variables),
        vpc_config=lambda_.CfnFunction.VpcConfigProperty(
            subnet_ids=list(spec.subnet_ids or platform.subnet_ids), security_group_ids=[platform.group_id]
        ),
        dead_letter_config=lambda_.CfnFunction.DeadLetterConfigProperty(target_arn=platform.dead_letters_arn),
        logging_config=lambda_.CfnFunction.LoggingConfigProperty(log_format="JSON", log_group=group.ref),
        **properties,
    )
    who.before(resource)
    return DeployedFunction(resource, name, resource.attr_arn)


def _common(stack: CitizensStack) -> dict[str, str]:
    return {
        "SUFFIX": stack.settings.environment_suffix,
        "RECOVERY_TABLE": stack.names.recovery_table,
        "SECRET_ID": stack.settings.secret_name,
        "DATABASE": DATABASE,
        "METRICS_NAMESPACE": METRICS_NAMESPACE,
    }


def read_secret(stack: CitizensStack, secret_arn: str) -> list[iam.PolicyStatement]:
    """Read the database's secret, and decrypt it when it has a customer-managed key."""
    statements = [allow(("secretsmanager:GetSecretValue",), [secret_arn])]
    if stack.settings.secret_key_arn is not None:
        statements.append(use_key(stack.settings.secret_key_arn, "secretsmanager", stack.region))
    return statements


def connect_as(stack: CitizensStack, user: str) -> iam.PolicyStatement:
    """Sign in to the members as one database user and no other (IAM database authentication).

    Any member: a member that was restored or created again has another resource id, and a policy that named the lost
    one would keep every function out just then. The user's name and the network keep others off.
    """
    return allow(("rds-db:connect",), [*_members_to_come(stack, user)])


def _members_to_come(stack: CitizensStack, user: str) -> dict[str, str]:
    return {stack.arn("rds-db", f"dbuser:*/{user}"): "A member made again has another resource id; the user is named"}


def use_table(
    stack: CitizensStack, platform: Platform, actions: Sequence[str] = READ_ITEMS
) -> list[iam.PolicyStatement]:
    """Actions on the recovery table, and the key that encrypts it."""
    return [
        allow(actions, [stack.recovery_table_arn]),
        use_key(platform.data_key_arn, "dynamodb", stack.region),
    ]


def put_metrics() -> iam.PolicyStatement:
    """Publish metrics in the system's namespace and no other."""
    return without_resources(
        ("cloudwatch:PutMetricData",), {"StringEquals": {"cloudwatch:namespace": METRICS_NAMESPACE}}
    )
