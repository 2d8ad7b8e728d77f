"""State machines: the emulator's interpreter under the machine's own role, with AWS's error names, logs and metrics."""

from __future__ import annotations

import contextvars
import copy
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ministack import app
from ministack.core import iam_actions
from ministack.core.responses import _service_model, error_response_json, get_account_id, get_region, json_response
from ministack.services import cloudwatch, cloudwatch_logs, lambda_svc, stepfunctions
from ministack.services.cloudformation import provisioners

from local_cloud import api_faults, permissions
from local_cloud.permissions import RoleSession

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

SERVICE = "states.amazonaws.com"
# What the role needs so that Step Functions can deliver the machine's log (developer guide, "Logging to CloudWatch
# Logs"); the first of these stands for the rest.
_LOG_DELIVERY = "logs:CreateLogDelivery"
# The levels of a machine's log and the events that each of them keeps.
_FATAL_EVENTS = frozenset({"ExecutionFailed", "ExecutionAborted", "ExecutionTimedOut"})
_FAILURE_SUFFIXES = ("Failed", "TimedOut", "Aborted", "StartFailed", "ScheduleFailed")
_EXECUTION_METRICS = {
    "RUNNING": "ExecutionsStarted",
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "ABORTED": "ExecutionsAborted",
    "TIMED_OUT": "ExecutionsTimedOut",
}
# Requests that make an instance from another one need the permission on both.
_COPYING = {
    "rds:CreateDBInstanceReadReplica": ("DBInstanceIdentifier", "SourceDBInstanceIdentifier"),
    "rds:RestoreDBInstanceToPointInTime": ("TargetDBInstanceIdentifier", "SourceDBInstanceIdentifier"),
}
# Optimised integrations (`arn:aws:states:::<service>:<action>`): the error AWS raises where the role may not call.
_OPTIMISED_DENIALS = {
    "lambda": "Lambda.AWSLambdaException",
    "dynamodb": "DynamoDB.AmazonDynamoDBException",
    "sns": "SNS.AuthorizationErrorException",
    "sqs": "SQS.AmazonSQSException",
    "events": "EventBridge.AWSEventBridgeException",
    "states": "StepFunctions.AWSStepFunctionsException",
}
# Likewise the error where a call is throttled; SDK integrations name theirs after the service's model.
_OPTIMISED_THROTTLES = {
    "lambda": "Lambda.TooManyRequestsException",
    "dynamodb": "DynamoDB.ProvisionedThroughputExceededException",
    "sns": "SNS.ThrottledException",
    "states": "StepFunctions.AWSStepFunctionsException",
}

_logger = logging.getLogger(__name__)
_start_execution = stepfunctions._start_execution
_run_execution = stepfunctions._run_execution
_fail_execution = stepfunctions._fail_execution
_add_event = stepfunctions._add_event
_emit_status = stepfunctions._emit_execution_status_event
_invoke_resource = stepfunctions._invoke_resource
_invoke_with_callback = stepfunctions._invoke_with_callback
_call_service = app.call_service_handler_sync
_create_machine = stepfunctions._create_state_machine
_update_machine = stepfunctions._update_state_machine
_normalise_response = stepfunctions._normalize_query_response
_error_matches = stepfunctions._error_matches
_emulators_member_name = stepfunctions._api_name_to_sfn_key
_dispatch_query = stepfunctions._dispatch_aws_sdk_query
_create_from_template = provisioners._sfn_state_machine_create
_update_from_template = provisioners._sfn_state_machine_update


@dataclass(frozen=True)
class _Machine:
    """The execution that the current thread runs a part of."""

    session: RoleSession
    machine_arn: str


_running: contextvars.ContextVar[_Machine | None] = contextvars.ContextVar("running_state_machine", default=None)
# The service an SDK integration is about to call, by the name in its resource ARN (`rds`).
_calling: contextvars.ContextVar[str] = contextvars.ContextVar("calling_service", default="")
_start_lock = threading.Lock()


def install(_options: LocalCloudOptions) -> None:
    """Make state machines run as described above."""
    permissions.install()
    stepfunctions._start_execution = _start_once
    stepfunctions._run_execution = _run_as_role
    stepfunctions._fail_execution = _fail_running
    stepfunctions._add_event = _add_and_log_event
    stepfunctions._emit_execution_status_event = _emit_and_measure
    stepfunctions._invoke_resource = _invoke_as_role
    stepfunctions._invoke_with_callback = _invoke_with_callback_as_role
    stepfunctions._call_lambda = _call_lambda
    stepfunctions._create_state_machine = _create_trusted
    stepfunctions._update_state_machine = _update_trusted
    stepfunctions._prefix_sdk_error = sdk_error_name
    stepfunctions._normalize_query_response = _normalise_as_sdk
    stepfunctions._error_matches = _matches
    stepfunctions._api_name_to_sfn_key = member_name
    stepfunctions._dispatch_aws_sdk_query = _dispatch_known_fields
    app.call_service_handler_sync = _call_service_as_role
    provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"].update(
        create=_create_with_log, update=_update_with_log
    )


# Creating and starting


def _create_trusted(data: dict[str, Any]) -> Any:
    machine_arn = f"arn:aws:states:{get_region()}:{get_account_id()}:stateMachine:{data.get('name', '')}"
    return _distrust(str(data.get("roleArn", "")), machine_arn) or _create_machine(data)


def _update_trusted(data: dict[str, Any]) -> Any:
    role = str(data.get("roleArn") or "")
    return (_distrust(role, str(data.get("stateMachineArn", ""))) if role else None) or _update_machine(data)


def _distrust(role_arn: str, machine_arn: str) -> Any:
    if permissions.role_trusts(role_arn, SERVICE, machine_arn):
        return None
    message = (
        f"Neither the global service principal {SERVICE}, nor the regional one is authorized to assume {role_arn}."
    )
    return error_response_json("AccessDeniedException", message, 400)


def _create_with_log(logical_id: str, properties: Mapping[str, Any], stack: str) -> Any:
    return _create_from_template(logical_id, _with_log(properties), stack)


def _update_with_log(
    physical_id: str, old: Mapping[str, Any], new: Mapping[str, Any], stack: str, logical_id: str | None = None
) -> Any:
    return _update_from_template(physical_id, _with_log(old), _with_log(new), stack, logical_id)


def _with_log(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The emulator keeps a template's logging configuration as it is written there; the API's begins in lower case."""
    if "LoggingConfiguration" not in properties:
        return dict(properties)
    return {**properties, "LoggingConfiguration": _in_lower_case(properties["LoggingConfiguration"])}


def _in_lower_case(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key)[:1].lower() + str(key)[1:]: _in_lower_case(part) for key, part in value.items()}
    return [_in_lower_case(part) for part in value] if isinstance(value, list) else value


def _start_once(data: dict[str, Any]) -> Any:
    """Start an execution; the same name with the same input while it runs is the same execution, as on AWS."""
    with _start_lock:
        machine = stepfunctions._state_machines.get(
            stepfunctions._resolve_state_machine_arn(str(data.get("stateMachineArn", "")))
        )
        if machine is not None and data.get("name"):
            arn = f"arn:aws:states:{get_region()}:{get_account_id()}:execution:{machine['name']}:{data['name']}"
            running = stepfunctions._executions.get(arn)
            if running and running["status"] == "RUNNING" and running["input"] == data.get("input", "{}"):
                return json_response({"executionArn": arn, "startDate": running["startDate"]})
        return _start_execution(data)


def _run_as_role(execution_arn: str) -> None:
    execution = stepfunctions._executions.get(execution_arn)
    machine = stepfunctions._state_machines.get(execution["stateMachineArn"]) if execution else None
    if execution is None or machine is None:
        _run_execution(execution_arn)
        return
    name = hashlib.sha256(execution_arn.encode()).hexdigest()[:32]
    _running.set(_Machine(RoleSession(machine["roleArn"], name), machine["stateMachineArn"]))
    _log_event(execution, execution["events"][0])
    seconds = json.loads(machine["definition"]).get("TimeoutSeconds")
    timer = None
    if isinstance(seconds, int | float):
        timer = threading.Timer(seconds, contextvars.copy_context().run, (_time_out, execution))
        timer.daemon = True
        timer.start()
    try:
        _run_execution(execution_arn)
    finally:
        if timer is not None:
            timer.cancel()


def _time_out(execution: dict[str, Any]) -> None:
    if execution["status"] != "RUNNING":
        return
    execution["status"] = "TIMED_OUT"
    execution["stopDate"] = stepfunctions.now_iso()
    stepfunctions._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {}})
    stepfunctions._emit_execution_status_event(execution)


def _fail_running(execution: dict[str, Any], error: str, cause: str) -> None:
    # A task that ends after its execution was stopped or timed out changes nothing any more.
    if execution["status"] == "RUNNING":
        _fail_execution(execution, error, cause)


def _matches(error_equals: list[str], error: str) -> bool:
    """AWS: States.ALL and States.TaskFailed do not catch States.Runtime and States.DataLimitExceeded."""
    if error in ("States.Runtime", "States.DataLimitExceeded"):
        return error in error_equals
    return bool(_error_matches(error_equals, error))


# The role


def _invoke_as_role(resource: str, input_data: Any) -> Any:
    _authorise(resource, input_data)
    service, action, target = _called(resource, input_data if isinstance(input_data, dict) else {})
    machine = _running.get()
    # Only what invokes a function can have one killed
    kinds = api_faults.KINDS if service == "lambda" else ("throttle", "lose_answer")
    fault = api_faults.faults.strike(machine.session.role_name, action, target, kinds) if machine else None
    if fault is None:
        return _invoke_resource(resource, input_data)
    sdk = ":aws-sdk:" in resource
    if fault.kind == "throttle":
        name = None if sdk else _OPTIMISED_THROTTLES.get(service)
        raise stepfunctions._ExecutionError(name or sdk_error_name(service, "Throttling"), api_faults.THROTTLED)
    if fault.kind == "kill":
        api_faults.kill_later(target.rpartition(":")[2], fault.after_ms)
        return _invoke_resource(resource, input_data)
    _invoke_resource(resource, input_data)
    prefix = _sdk_prefix(service) if sdk else _OPTIMISED_THROTTLES[service].partition(".")[0]
    text = "Unable to execute HTTP request: Read timed out"
    raise stepfunctions._ExecutionError(f"{prefix}.SdkClientException", text)


def _called(resource: str, request: Mapping[str, Any]) -> tuple[str, str, str]:
    """Service, action (as IAM names it) and target of a task's resource."""
    if ":lambda:" in resource and ":function:" in resource:
        return "lambda", "lambda:InvokeFunction", resource
    parts = resource.removeprefix("arn:aws:states:::").removeprefix("aws-sdk:").split(":")
    service, verb = parts[0].lower(), parts[-1].split(".")[0]
    if (service, verb) == ("lambda", "invoke"):
        verb = "InvokeFunction"
    return service, f"{service}:{verb[:1].upper()}{verb[1:]}", _optimised_target(service, request)


def _invoke_with_callback_as_role(resource: str, input_data: Any, token: str, state: Any) -> Any:
    _authorise(resource.replace(".waitForTaskToken", ""), input_data)
    return _invoke_with_callback(resource, input_data, token, state)


def _authorise(resource: str, input_data: Any) -> None:
    """Raise AWS's error when the machine's role may not be assumed or may not call an optimised integration.

    The calls of an SDK integration are authorised one step later, as the requests they become.
    """
    machine = _running.get()
    if machine is None:
        return
    role = machine.session.role_arn
    if not permissions.role_trusts(role, SERVICE, machine.machine_arn):
        raise stepfunctions._ExecutionError("States.Permissions", f"{SERVICE} is not authorized to assume {role}.")
    parts = resource.split(":")
    if "aws-sdk" in parts:
        _calling.set(parts[parts.index("aws-sdk") + 1].lower())
        return
    _calling.set("")
    if ":lambda:" in resource and ":function:" in resource:
        service, action, target = "lambda", "InvokeFunction", resource
    elif len(parts) >= 7 and parts[:5] == ["arn", "aws", "states", "", ""]:
        service, verb = parts[5], parts[6].split(".")[0]
        action = "InvokeFunction" if (service, verb) == ("lambda", "invoke") else verb[:1].upper() + verb[1:]
        target = _optimised_target(service, input_data if isinstance(input_data, dict) else {})
    else:
        return
    denial = permissions.role_denial(machine.session, f"{service}:{action}", target, service=service)
    if denial:
        raise stepfunctions._ExecutionError(_OPTIMISED_DENIALS.get(service, "States.TaskFailed"), denial)


def _optimised_target(service: str, request: Mapping[str, Any]) -> str:
    region, account = get_region(), get_account_id()
    if service == "lambda":
        name = str(request.get("FunctionName", ""))
        return name if name.startswith("arn:") else f"arn:aws:lambda:{region}:{account}:function:{name}"
    if service == "dynamodb":
        name = str(request.get("TableName", ""))
        return name if name.startswith("arn:") else f"arn:aws:dynamodb:{region}:{account}:table/{name}"
    return str(request.get("TopicArn") or request.get("StateMachineArn") or request.get("QueueUrl") or "*")


def _call_service_as_role(
    handler: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    body: Any,
    query_params: dict[str, Any],
    timeout: float | None = None,
) -> Any:
    machine, sdk_service = _running.get(), _calling.get()
    if machine is not None and sdk_service:
        service = headers["authorization"].split("Credential=", 1)[1].split("/")[3]
        _authorise_request(machine.session, sdk_service, service, method, path, headers, _bytes(body), query_params)
    return _call_service(handler, method, path, headers, body, query_params, timeout)


def call_sdk(session: RoleSession, service: str, action: str, arguments: Mapping[str, Any]) -> Any:
    """Call `action` of `service` by its SDK name (`ec2`, `revokeSecurityGroupIngress`) with what the role may.

    Raises the emulator's execution error, as an SDK integration of a machine does.
    """
    _running.set(_Machine(session, ""))
    _calling.set(service)
    return stepfunctions._invoke_aws_sdk_integration(f"arn:aws:states:::aws-sdk:{service}:{action}", dict(arguments))


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body or "").encode()


def _authorise_request(
    session: RoleSession,
    sdk_service: str,
    service: str,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query_params: dict[str, Any],
) -> None:
    form = parse_qs(body.decode()) if "form-urlencoded" in headers.get("content-type", "") else {}
    params = {**form, **query_params}
    action = iam_actions.extract_iam_action(service, method, path, headers, body, params)
    if action is None:
        return
    region, account = get_region(), get_account_id()
    resource = iam_actions.extract_resource_arn(service, method, path, headers, body, params, region, account)
    resources = [
        f"arn:aws:rds:{region}:{account}:db:{_last(params[field])}"
        for field in _COPYING.get(action, ())
        if params.get(field)
    ]
    context = dict(iam_actions.request_tag_context(service, action, body, params))
    if service == "dynamodb":
        context |= iam_actions.dynamodb_service_context(body)
    for each in resources or [resource]:
        denial = permissions.role_denial(session, action, each, service=service, context=context)
        if denial:
            name = {"ec2": "UnauthorizedOperation", "sns": "AuthorizationError"}.get(service, "AccessDeniedException")
            text = f"{denial} (Service: {_sdk_prefix(sdk_service)}, Status Code: 403)"
            raise stepfunctions._ExecutionError(sdk_error_name(sdk_service, name), text)


def _last(value: Any) -> str:
    """The identifier of an instance that a request names by it or by its ARN."""
    return str(value[0] if isinstance(value, list) else value).rpartition(":")[2]


# Names


def _sdk_prefix(service: str) -> str:
    return str(stepfunctions._AWS_SDK_ERROR_PREFIX.get(service, service.capitalize()))


def sdk_error_name(service: str, code: str) -> str:
    """Return the name under which an SDK integration's error is caught.

    Step Functions names errors after the AWS SDK for Java 2: the class of a modelled error (`DBInstanceNotFound`, shape
    `DBInstanceNotFoundFault` → `Rds.DbInstanceNotFoundException`), the service's own exception for all others
    (`Ec2.Ec2Exception`).
    """
    if code.startswith("States."):
        return code
    prefix = _sdk_prefix(service)
    code = code.rsplit("#", 1)[-1]
    if code.startswith(f"{prefix}."):
        return code
    key = stepfunctions._AWS_SDK_SERVICE_MAP.get(service, {}).get("service_key", service)
    model = _service_model(key)
    for shape in model.error_shapes if model is not None else ():
        if code in (shape.name, shape.error_code):
            return f"{prefix}.{_exception_class(shape.name)}"
    return f"{prefix}.{prefix}Exception"


def _exception_class(shape: str) -> str:
    base = shape.removesuffix("Fault").removesuffix("Exception")
    # Every acronym is lowered in a class's name: InvalidDBInstanceState → InvalidDbInstanceState.
    name = re.sub(r"([A-Z])([A-Z]+)(?=[A-Z][a-z]|[0-9]|$)", lambda acronym: acronym[1] + acronym[2].lower(), base)
    return f"{name}Exception"


def member_name(wire_name: str) -> str:
    """Return the name of a request's or an answer's field in a state machine, from its name in the service's model.

    The SDK for Java 2 lowers only the acronym a name begins with: `DBInstances` → `DbInstances`, but
    `ReadReplicaSourceDBInstanceIdentifier` and `MultiAZ` stay as they are.
    """
    end = 1
    while (
        end < len(wire_name)
        and wire_name[end].isupper()
        and not (end + 1 < len(wire_name) and wire_name[end + 1].islower())
    ):
        end += 1
    return wire_name[:1].upper() + wire_name[1:end].lower() + wire_name[end:]


def _dispatch_known_fields(service_info: dict[str, Any], service: str, action: str, request: Any) -> Any:
    """Refuse fields that AWS refuses, and send the others under their names in the service's model."""
    key = service_info.get("service_key", service)
    operation = action[:1].upper() + action[1:]
    model = _service_model(key)
    shape = next(
        (
            model.operation_model(name).input_shape
            for name in (model.operation_names if model is not None else ())
            if name.lower() == operation.lower()
        ),
        None,
    )
    if shape is not None and isinstance(request, dict):
        names = {member_name(wire): wire for wire in shape.members}
        for field in request:
            if field not in names:
                text = f"The field {json.dumps(field)} is not supported by Step Functions for {service}:{action}"
                raise stepfunctions._ExecutionError("States.Runtime", text)
        if key != "ec2":
            overrides = stepfunctions._QUERY_PARAM_NAME_OVERRIDES
            overrides[key, operation] = {**names, **overrides.get((key, operation), {})}
    return _dispatch_query(service_info, service, action, request)


def _normalise_as_sdk(service: str, action: str, result: Any) -> Any:
    """Complete what the emulator misses when it shapes EC2's answers: a rule's ports and flags are not text."""
    shaped = _normalise_response(service, action, result)
    if service == "ec2" and isinstance(shaped, dict) and action == "DescribeSecurityGroupRules":
        for rule in shaped.get("SecurityGroupRules", []):
            if isinstance(rule, dict) and isinstance(rule.get("IsEgress"), str):
                rule["IsEgress"] = rule["IsEgress"] == "true"
    return shaped


def _call_lambda(reference: str, event: Any) -> Any:
    """Invoke a function for a task; raises with the function's error type, or the name of Lambda's own error."""
    func, config, name = lambda_svc._get_func_record_for_ref(reference)
    if not func or not config:
        raise stepfunctions._ExecutionError("Lambda.ResourceNotFoundException", f"Function not found: {name}")
    record = lambda_svc._execution_record_for_config(func, config)
    result = lambda_svc._execute_function_with_config_scope(record, copy.deepcopy(event))
    body = result.get("body")
    if result.get("throttle"):
        raise stepfunctions._ExecutionError("Lambda.TooManyRequestsException", body["message"])
    if result.get("error"):
        error = body if isinstance(body, dict) else {"errorType": "Lambda.Unknown", "errorMessage": str(body)}
        raise stepfunctions._ExecutionError(error["errorType"], json.dumps(error))
    return json.loads(body) if isinstance(body, str | bytes) else body


# Logs and metrics


def _add_and_log_event(execution: dict[str, Any], event_type: str, details: dict[str, Any] | None = None) -> Any:
    event = _add_event(execution, event_type, details)
    _log_event(execution, event)
    return event


def _log_event(execution: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    """Append an event to the machine's log group in the shape of AWS's log events."""
    machine = stepfunctions._state_machines.get(execution["stateMachineArn"])
    logging_configuration = (machine or {}).get("loggingConfiguration") or {}
    if machine is None or not _kept(str(logging_configuration.get("level", "OFF")), event["type"]):
        return
    session = RoleSession(machine["roleArn"], machine["name"][:64])
    if permissions.role_denial(session, _LOG_DELIVERY, "*"):
        return
    included = bool(logging_configuration.get("includeExecutionData"))
    moment = datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
    entry = {
        "id": str(event["id"]),
        "type": event["type"],
        "details": _details(event, included),
        "redrive_count": "0",
        "previous_event_id": str(event["id"] - 1),
        "event_timestamp": str(int(moment.timestamp() * 1000)),
        "execution_arn": execution["executionArn"],
    }
    started = datetime.fromisoformat(execution["startDate"].replace("Z", "+00:00"))
    token = hashlib.sha256(execution["executionArn"].encode()).hexdigest()[:8]
    stream = f"states/{machine['name']}/{started:%Y-%m-%d-%H-%M}/{token}"
    for destination in logging_configuration.get("destinations") or []:
        arn = str((destination.get("cloudWatchLogsLogGroup") or {}).get("logGroupArn", ""))
        group = arn.partition(":log-group:")[2].removesuffix(":*")
        cloudwatch_logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
        cloudwatch_logs._put_log_events(
            {
                "logGroupName": group,
                "logStreamName": stream,
                "logEvents": [{"timestamp": int(time.time() * 1000), "message": json.dumps(entry)}],
            }
        )


def _kept(level: str, event_type: str) -> bool:
    if level == "ALL":
        return True
    if level == "ERROR":
        return event_type.endswith(_FAILURE_SUFFIXES) or event_type == "FailStateEntered"
    return level == "FATAL" and event_type in _FATAL_EVENTS


def _details(event: Mapping[str, Any], included: bool) -> dict[str, Any]:
    details: dict[str, Any] = {}
    for key, value in event.items():
        if not key.endswith("EventDetails"):
            continue
        for name, item in value.items():
            if name not in ("input", "output", "parameters"):
                details[name] = item
            elif included:
                details[name] = item
                details[f"{name}Details"] = {"truncated": False}
    return details


def _emit_and_measure(execution: dict[str, Any]) -> None:
    _emit_status(execution)
    dimensions = {"StateMachineArn": execution["stateMachineArn"]}
    cloudwatch.record_metric("AWS/States", _EXECUTION_METRICS[execution["status"]], 1, "Count", dimensions)
    if execution.get("stopDate"):
        started, stopped = (
            datetime.fromisoformat(execution[key].replace("Z", "+00:00")) for key in ("startDate", "stopDate")
        )
        elapsed = (stopped - started).total_seconds() * 1000
        cloudwatch.record_metric("AWS/States", "ExecutionTime", elapsed, "Milliseconds", dimensions)
