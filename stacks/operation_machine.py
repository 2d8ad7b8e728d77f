"""Makes an operation's machine: own role, own encrypted log, and what every operation's end needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn

from stacks.failover import DELIVER_LOGS, TRACE
from stacks.nested import CitizensStack
from stacks.permissions import allow, confined_service, identity, use_key, without_resources
from stacks.security import SecurityProps


def operation_machine(
    stack: CitizensStack,
    construct_id: str,
    name: str,
    description: str,
    definition: Mapping[str, Any],
    *,
    security: SecurityProps,
    functions: Sequence[str],
    statements: Sequence[iam.PolicyStatement],
    table_actions: Sequence[str] = ("dynamodb:DeleteItem", "dynamodb:UpdateItem"),
    patterns: Mapping[str, str] | None = None,
) -> sfn.CfnStateMachine:
    """A machine with a role, a log and what every operation's end needs: record, notice, claim."""
    logs = stack.log_group(f"{construct_id}MachineLogs", stack.names.machine_log_group(name), security.log_key_arn)
    who = identity(
        stack,
        f"{construct_id}Machine",
        name=name,
        description=description,
        principal=confined_service("states.amazonaws.com", stack.account, stack.arn("states", f"stateMachine:{name}")),
        statements=[
            allow(("lambda:InvokeFunction",), functions),
            allow(table_actions, [stack.recovery_table_arn]),
            use_key(security.data_key_arn, "dynamodb", stack.region),
            allow(("sns:Publish",), [security.alert_topic_arn]),
            use_key(security.alert_key_arn, "sns", stack.region),
            without_resources(DELIVER_LOGS),
            without_resources(TRACE),
            *statements,
        ],
        patterns=patterns,
    )
    destination = sfn.CfnStateMachine.CloudWatchLogsLogGroupProperty(log_group_arn=logs.attr_arn)
    machine = sfn.CfnStateMachine(
        stack,
        f"{construct_id}Machine",
        state_machine_name=name,
        state_machine_type="STANDARD",
        role_arn=who.arn,
        definition_string=Stack.of(stack).to_json_string(definition),
        logging_configuration=sfn.CfnStateMachine.LoggingConfigurationProperty(
            level="ALL",
            include_execution_data=True,
            destinations=[
                sfn.CfnStateMachine.LogDestinationProperty(cloud_watch_logs_log_group=destination),
            ],
        ),
        tracing_configuration=sfn.CfnStateMachine.TracingConfigurationProperty(enabled=True),
    )
    who.before(machine)
    return machine
