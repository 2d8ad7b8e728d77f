from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ministack.services import dynamodb, ec2, iam, stepfunctions
from ministack.services.cloudformation import provisioners

from local_cloud import permissions, state_machines
from tests.unit.local_cloud.emulated_account import ACCOUNT, LOGS, REGION, Account, emulated_account, eventually

DESCRIBE = f"rds:DescribeDBInstances on resource: arn:aws:rds:{REGION}:{ACCOUNT}:db:*"
SERVICE = "states.amazonaws.com"
FAILING = """
def handler(event, context):
    class FenceNotShown(Exception): pass
    raise FenceNotShown("still reachable")
"""


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulated_account(tmp_path) as emulated:
        yield emulated
        stepfunctions._state_machines.clear()
        stepfunctions._executions.clear()


def task(resource: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    state = {"Type": "Task", "Resource": f"arn:aws:states:::{resource}", "Arguments": arguments, "End": True, **more}
    return {"QueryLanguage": "JSONata", "StartAt": "Do", "States": {"Do": state}}


def create(role: str, definition: dict[str, Any], **more: Any) -> Any:
    request = {
        "name": f"machine-{len(stepfunctions._state_machines)}",
        "roleArn": role,
        "definition": json.dumps(definition),
        **more,
    }
    return stepfunctions._create_state_machine(request)


def start(arn: str, **more: Any) -> tuple[int, dict[str, Any]]:
    status, _, body = stepfunctions._start_execution({"stateMachineArn": arn, **more})
    return status, json.loads(body)


def run(role: str, definition: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Create a machine, run it to its end and return the execution's record."""
    status, _, body = create(role, definition, **more)
    assert status == 200, body
    _, started = start(json.loads(body)["stateMachineArn"])
    execution = stepfunctions._executions[started["executionArn"]]
    eventually(lambda: execution["status"] != "RUNNING")
    assert isinstance(execution, dict)
    return execution


def test_a_task_invokes_a_function_when_the_role_may(account: Account) -> None:
    arn = account.function("f", "def handler(event, context):\n    return {'got': event}\n")
    role = account.role("machine", "lambda:InvokeFunction", service=SERVICE, resource=arn)
    execution = run(role, task("lambda:invoke", {"FunctionName": arn, "Payload": {"a": 1}}))
    assert json.loads(execution["output"])["Payload"] == {"got": {"a": 1}}
    dimensions = {"StateMachineArn": execution["stateMachineArn"]}
    assert account.metric("AWS/States", "ExecutionsStarted", **dimensions) >= 1
    assert account.metric("AWS/States", "ExecutionsSucceeded", **dimensions) >= 1


def test_a_role_that_may_not_invoke_is_refused_in_awss_words(account: Account) -> None:
    arn = account.function("f", "def handler(event, context):\n    return 1\n")
    execution = run(
        account.role("machine", "sns:Publish", service=SERVICE), task("lambda:invoke", {"FunctionName": "f"})
    )
    assert execution["error"] == "Lambda.AWSLambdaException"
    expected = f"is not authorized to perform: lambda:InvokeFunction on resource: {arn}"
    assert execution["cause"].startswith(f"User: arn:aws:sts::{ACCOUNT}:assumed-role/machine/")
    assert expected in execution["cause"]
    assert account.metric("AWS/States", "ExecutionsFailed", StateMachineArn=execution["stateMachineArn"]) == 1


@pytest.mark.parametrize(
    ("resource", "arguments", "error", "action"),
    [
        ("aws-sdk:rds:describeDBInstances", {}, "Rds.RdsException", DESCRIBE),
        ("aws-sdk:rds:promoteReadReplica", {"DbInstanceIdentifier": "b"}, "Rds.RdsException", "rds:PromoteReadReplica"),
        ("aws-sdk:ec2:describeSecurityGroupRules", {}, "Ec2.Ec2Exception", "ec2:DescribeSecurityGroupRules"),
        ("aws-sdk:dynamodb:getItem", {"TableName": "t", "Key": {}}, "DynamoDb.DynamoDbException", "dynamodb:GetItem"),
        ("aws-sdk:sns:publish", {"TopicArn": "t", "Message": "m"}, "Sns.AuthorizationErrorException", "sns:Publish"),
        ("sns:publish", {"TopicArn": "t", "Message": "m"}, "SNS.AuthorizationErrorException", "sns:Publish"),
        ("dynamodb:putItem", {"TableName": "t", "Item": {}}, "DynamoDB.AmazonDynamoDBException", "dynamodb:PutItem"),
    ],
)  # fmt: skip
def test_every_integration_needs_the_roles_permission(
    account: Account, resource: str, arguments: dict[str, Any], error: str, action: str
) -> None:
    execution = run(account.role("machine", service=SERVICE), task(resource, arguments))
    assert execution["error"] == error
    assert f"is not authorized to perform: {action}" in execution["cause"]


def test_conditions_of_the_roles_policy_count(account: Account) -> None:
    condition = {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}
    role = account.role("machine", "rds:*", service=SERVICE, condition=condition)
    assert run(role, task("aws-sdk:rds:describeDBInstances", {}))["error"] == "Rds.RdsException"


def test_a_role_that_does_not_trust_step_functions_is_refused_when_the_machine_is_made(account: Account) -> None:
    status, _, body = create(account.role("machine", "*"), task("sns:publish", {}))
    assert (status, json.loads(body)["__type"]) == (400, "AccessDeniedException")
    assert create(f"arn:aws:iam::{ACCOUNT}:role/absent", task("sns:publish", {}))[0] == 400
    arn = json.loads(create(account.role("good", "*", service=SERVICE), task("sns:publish", {}))[2])["stateMachineArn"]
    status, _, _ = stepfunctions._update_state_machine({"stateMachineArn": arn, "roleArn": account.role("bad", "*")})
    assert status == 400


def test_a_trust_that_is_withdrawn_stops_the_tasks(account: Account) -> None:
    role = account.role("machine", "*", service=SERVICE)
    arn = json.loads(create(role, task("aws-sdk:rds:describeDBInstances", {}))[2])["stateMachineArn"]
    iam._roles["machine"]["AssumeRolePolicyDocument"] = "{}"
    execution = stepfunctions._executions[start(arn)[1]["executionArn"]]
    eventually(lambda: execution["status"] != "RUNNING")
    assert execution["error"] == "States.Permissions"


def test_a_functions_exception_is_caught_by_its_name(account: Account) -> None:
    account.function("f", FAILING)
    catch = {"Catch": [{"ErrorEquals": ["FenceNotShown"], "Next": "Caught", "Output": "{% $states.errorOutput %}"}]}
    definition = task("lambda:invoke", {"FunctionName": "f"}, **catch)
    definition["States"]["Caught"] = {"Type": "Succeed"}
    execution = run(account.role("machine", "lambda:InvokeFunction", service=SERVICE), definition)
    output = json.loads(execution["output"])
    assert output["Error"] == "FenceNotShown"
    assert json.loads(output["Cause"])["errorMessage"] == "still reachable"


def test_a_throttled_function_and_an_absent_one_have_awss_names(account: Account) -> None:
    account.function("f", FAILING, ReservedConcurrentExecutions=0)
    role = account.role("machine", "lambda:InvokeFunction", service=SERVICE)
    assert run(role, task("lambda:invoke", {"FunctionName": "f"}))["error"] == "Lambda.TooManyRequestsException"
    with pytest.raises(stepfunctions._ExecutionError) as error:
        state_machines._call_lambda(f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:absent", {})
    assert error.value.error == "Lambda.ResourceNotFoundException"


@pytest.mark.parametrize(
    ("service", "code", "name"),
    [
        ("rds", "DBInstanceNotFound", "Rds.DbInstanceNotFoundException"),
        ("rds", "InvalidDBInstanceState", "Rds.InvalidDbInstanceStateException"),
        ("rds", "InvalidParameterValue", "Rds.RdsException"),
        ("ec2", "InvalidGroup.NotFound", "Ec2.Ec2Exception"),
        ("dynamodb", "ConditionalCheckFailedException", "DynamoDb.ConditionalCheckFailedException"),
        ("dynamodb", "com.amazonaws.dynamodb#ValidationException", "DynamoDb.DynamoDbException"),
        ("secretsmanager", "ResourceNotFoundException", "SecretsManager.ResourceNotFoundException"),
        ("sns", "NotFound", "Sns.NotFoundException"),
        ("rds", "Rds.RdsException", "Rds.RdsException"),
        ("rds", "States.Timeout", "States.Timeout"),
    ],
)
def test_errors_of_sdk_integrations_are_named_after_the_java_sdk(service: str, code: str, name: str) -> None:
    assert state_machines.sdk_error_name(service, code) == name


@pytest.mark.parametrize(
    ("wire", "member"),
    [
        ("DBInstances", "DbInstances"),
        ("ReadReplicaSourceDBInstanceIdentifier", "ReadReplicaSourceDBInstanceIdentifier"),
        ("MultiAZ", "MultiAZ"),
        ("KmsKeyId", "KmsKeyId"),
        ("DBName", "DbName"),
        ("TopicArn", "TopicArn"),
    ],
)
def test_fields_are_named_after_the_java_sdk(wire: str, member: str) -> None:
    assert state_machines.member_name(wire) == member


def test_an_absent_instance_is_not_found(account: Account) -> None:
    role = account.role("machine", "rds:*", service=SERVICE)
    definition = task("aws-sdk:rds:describeDBInstances", {"DbInstanceIdentifier": "absent"})
    assert run(role, definition)["error"] == "Rds.DbInstanceNotFoundException"


def test_a_field_that_step_functions_does_not_know_is_refused(account: Account) -> None:
    role = account.role("machine", "rds:*", service=SERVICE)
    execution = run(role, task("aws-sdk:rds:promoteReadReplica", {"DBInstanceIdentifier": "wrong"}))
    assert execution["error"] == "States.Runtime"
    assert '"DBInstanceIdentifier" is not supported' in execution["cause"]


def test_a_condition_that_fails_on_an_item_is_caught_by_its_name(account: Account) -> None:
    dynamodb._create_table(
        {
            "TableName": "recovery",
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
        }
    )
    keys = {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["lease"]}}
    role = account.role("machine", "dynamodb:PutItem", service=SERVICE, condition=keys)
    put = {"TableName": "recovery", "Item": {"id": {"S": "lease"}}, "ConditionExpression": "attribute_not_exists(id)"}
    assert run(role, task("aws-sdk:dynamodb:putItem", put)).get("cause") is None
    again = run(role, task("aws-sdk:dynamodb:putItem", put))
    assert again["error"] == "DynamoDb.ConditionalCheckFailedException"
    other = {**put, "Item": {"id": {"S": "roles"}}}
    assert run(role, task("aws-sdk:dynamodb:putItem", other))["error"] == "DynamoDb.DynamoDbException"


def test_ingress_rules_are_found_and_revoked(account: Account) -> None:
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": "sg-f"}]}
    cidr = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "10.60.0.0/16"}]}
    group = {"GroupId": "sg-1", "VpcId": "vpc-1", "IpPermissions": [rule, cidr], "IpPermissionsEgress": []}
    ec2._security_groups["sg-1"] = group
    find = task(
        "aws-sdk:ec2:describeSecurityGroupRules",
        {"Filters": [{"Name": "group-id", "Values": ["sg-1"]}]},
        Next="Revoke",
        Output={"ids": "{% [$states.result.SecurityGroupRules[IsEgress = false].SecurityGroupRuleId] %}"},
    )
    find["States"]["Do"].pop("End")
    revoke = task(
        "aws-sdk:ec2:revokeSecurityGroupIngress",
        {"GroupId": "sg-1", "SecurityGroupRuleIds": "{% $states.input.ids %}"},
    )
    find["States"]["Revoke"] = revoke["States"]["Do"]
    execution = run(account.role("machine", "ec2:*", service=SERVICE), find)
    output = json.loads(execution["output"])
    assert output["Return"] is True
    assert len(output["RevokedSecurityGroupRules"]) == 2
    assert group["IpPermissions"] == []


def test_the_same_name_and_input_is_the_same_execution_while_it_runs(account: Account) -> None:
    wait = {"QueryLanguage": "JSONata", "StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 1, "End": True}}}
    arn = json.loads(create(account.role("machine", service=SERVICE), wait)[2])["stateMachineArn"]
    first, second = (start(arn, name="7-a", input='{"n": 1}') for _ in range(2))
    assert first == second
    assert start(arn, name="7-a", input='{"n": 2}')[1]["__type"] == "ExecutionAlreadyExists"
    stepfunctions._stop_execution({"executionArn": first[1]["executionArn"]})
    assert start(arn, name="7-a", input='{"n": 1}')[1]["__type"] == "ExecutionAlreadyExists"
    assert start(arn + "-absent", name="7-a")[0] == 400


def test_an_execution_that_exceeds_the_machines_timeout_is_timed_out(account: Account) -> None:
    wait = {"StartAt": "W", "TimeoutSeconds": 0.3, "States": {"W": {"Type": "Wait", "Seconds": 1, "Next": "F"}}}
    wait["States"]["F"] = {"Type": "Fail"}  # type: ignore[index]
    execution = run(account.role("machine", service=SERVICE), wait)
    assert execution["status"] == "TIMED_OUT"
    assert account.metric("AWS/States", "ExecutionsTimedOut", StateMachineArn=execution["stateMachineArn"]) == 1


def test_a_task_that_exceeds_its_timeout_is_caught(account: Account) -> None:
    account.function("f", "import time\ndef handler(event, context):\n    time.sleep(3)\n")
    role = account.role("machine", "lambda:InvokeFunction", service=SERVICE)
    assert run(role, task("lambda:invoke", {"FunctionName": "f"}, TimeoutSeconds=0.2))["error"] == "States.Timeout"


@pytest.mark.parametrize(
    ("level", "permitted", "kinds"),
    [
        ("ALL", True, ["ExecutionStarted", "TaskStateEntered", "TaskScheduled", "TaskFailed", "ExecutionFailed"]),
        ("ERROR", True, ["TaskFailed", "ExecutionFailed"]),
        ("FATAL", True, ["ExecutionFailed"]),
        ("OFF", True, []),
        ("ALL", False, []),
    ],
)
def test_the_machines_log_has_awss_events(account: Account, level: str, permitted: bool, kinds: list[str]) -> None:
    group = "/aws/vendedlogs/states/machine"
    account.log_group(group)
    destination = {"cloudWatchLogsLogGroup": {"logGroupArn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:*"}}
    logs = {"level": level, "includeExecutionData": level != "ERROR", "destinations": [destination]}
    role = account.role("machine", *(["logs:CreateLogDelivery"] if permitted else LOGS), service=SERVICE)
    execution = run(role, task("lambda:invoke", {"FunctionName": "f"}), loggingConfiguration=logs)
    entries = eventually(lambda: len(lines := account.log(group)) >= len(kinds) and [lines])[0]
    events = [json.loads(line) for line in entries]
    assert [event["type"] for event in events] == kinds
    for event in events:
        assert event["execution_arn"] == execution["executionArn"]
        assert event["event_timestamp"].isdigit()
    if kinds and level == "ALL":
        assert events[0]["id"] == "1"
        assert events[1]["details"] == {"name": "Do", "input": "{}", "inputDetails": {"truncated": False}}


def test_a_machine_of_a_template_writes_its_log_as_one_of_the_api_does(account: Account) -> None:
    group = "/aws/vendedlogs/states/machine"
    account.log_group(group)
    arn = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:*"
    properties = {
        "StateMachineName": "machine",
        "RoleArn": account.role("machine", "logs:CreateLogDelivery", service=SERVICE),
        "DefinitionString": json.dumps({"StartAt": "Do", "States": {"Do": {"Type": "Pass", "End": True}}}),
    }
    logged = {"Level": "ALL", "Destinations": [{"CloudWatchLogsLogGroup": {"LogGroupArn": arn}}]}
    handlers = provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"]
    machine, _ = handlers["create"]("Machine", properties, "stack")
    _, silent = start(machine, name="silent")
    eventually(lambda: stepfunctions._executions[silent["executionArn"]]["status"] != "RUNNING")
    handlers["update"](machine, properties, {**properties, "LoggingConfiguration": logged}, "stack", "Machine")
    start(machine, name="told")
    eventually(lambda: any("ExecutionSucceeded" in line for line in account.log(group)))
    assert not any(":silent" in line for line in account.log(group))


def test_a_runtime_error_is_not_caught_by_all() -> None:
    assert not state_machines._matches(["States.ALL"], "States.Runtime")
    assert state_machines._matches(["States.Runtime"], "States.Runtime")
    assert state_machines._matches(["States.ALL"], "Lambda.Unknown")


def test_the_role_is_needed_for_callbacks_and_functions_named_in_the_resource(account: Account) -> None:
    machine = state_machines._Machine(permissions.RoleSession(account.role("machine", service=SERVICE), "s"), "m")
    token = state_machines._running.set(machine)
    try:
        with pytest.raises(stepfunctions._ExecutionError, match="AWSLambdaException"):
            state_machines._invoke_with_callback_as_role(
                "arn:aws:states:::lambda:invoke.waitForTaskToken", {"FunctionName": "f"}, "t", {}
            )
        with pytest.raises(stepfunctions._ExecutionError, match="AWSLambdaException"):
            state_machines._invoke_as_role(f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f", {})
        state_machines._authorise(f"arn:aws:states:{REGION}:{ACCOUNT}:activity:a", {})
    finally:
        state_machines._running.reset(token)
    state_machines._authorise("arn:aws:states:::sns:publish", {})


def test_condition_keys_that_the_emulator_leaves_out_are_there(account: Account) -> None:
    context = permissions.request_context
    body = json.dumps({"Namespace": "CitizensRecovery"}).encode()
    expected = {"cloudwatch:namespace": "CitizensRecovery"}
    assert expected.items() <= context("monitoring", "cloudwatch:PutMetricData", body, {}).items()
    assert (
        expected.items()
        <= context("monitoring", "cloudwatch:PutMetricData", b"", {"Namespace": ["CitizensRecovery"]}).items()
    )
    for unreadable in (b"\x00", b"[]"):
        assert "cloudwatch:namespace" not in context("monitoring", "cloudwatch:PutMetricData", unreadable, {})
        assert "dynamodb:LeadingKeys" not in context("dynamodb", "dynamodb:GetItem", unreadable, {})


@pytest.mark.parametrize(
    ("original", "parameters"),
    [
        (state_machines._start_execution, ["data"]),
        (state_machines._run_execution, ["exec_arn"]),
        (state_machines._fail_execution, ["execution", "error", "cause"]),
        (state_machines._add_event, ["execution", "event_type", "details"]),
        (state_machines._emit_status, ["execution"]),
        (state_machines._invoke_resource, ["resource", "input_data"]),
        (state_machines._invoke_with_callback, ["resource", "input_data", "token", "state_def"]),
        (state_machines._call_service, ["handler", "method", "path", "headers", "body", "query_params", "timeout"]),
        (state_machines._create_machine, ["data"]),
        (state_machines._update_machine, ["data"]),
        (state_machines._normalise_response, ["service_key", "action", "result"]),
        (state_machines._error_matches, ["error_equals", "error"]),
        (state_machines._emulators_member_name, ["name"]),
        (state_machines._dispatch_query, ["service_info", "service_name", "action", "input_data"]),
        (stepfunctions._resolve_state_machine_arn, ["arn"]),
        (permissions._request_tag_context, ["service", "iam_action", "body", "params"]),
    ],
)
def test_the_emulators_hooks_for_state_machines_are_as_expected(original: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(original).parameters) == parameters
