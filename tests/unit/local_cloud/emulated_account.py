"""An account inside the emulator, in this process: roles, functions and what tests read back."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministack import app
from ministack.core.responses import request_scope
from ministack.services import cloudwatch, cloudwatch_logs, eventbridge, iam, lambda_svc, scheduler
from ministack.services.cloudformation import provisioners

from local_cloud import file_systems, functions_runtime, schedules, state_machines
from local_cloud.server import LocalCloudOptions

ACCOUNT = "210987654321"
REGION = "eu-central-2"
LOGS: tuple[str, ...] = ("logs:CreateLogStream", "logs:PutLogEvents")


@dataclass(frozen=True)
class Account:
    """The local cloud's patches over an emulator without a server."""

    options: LocalCloudOptions
    authority_bundle: Path

    def role(
        self,
        name: str,
        *actions: str,
        service: str = "lambda.amazonaws.com",
        resource: str = "*",
        condition: dict[str, Any] | None = None,
    ) -> str:
        statement: dict[str, Any] = {"Effect": "Allow", "Action": list(actions) or ["none:None"], "Resource": resource}
        statement |= {"Condition": condition} if condition else {}
        trust = {"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}}
        iam._roles[name] = {
            "RoleName": name,
            "AssumeRolePolicyDocument": json.dumps(trust),
            "InlinePolicies": {"inline": json.dumps({"Statement": [statement]})},
            "AttachedPolicies": [],
        }
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    def function(self, name: str, source: str, **props: Any) -> str:
        """Deploy a function as CloudFormation does; return its ARN."""
        template: dict[str, Any] = {
            "FunctionName": name,
            "Handler": "app.handler",
            "Runtime": "python3.14",
            "Timeout": 5,
        }
        template |= {"Code": {"ZipFile": source}, "Role": props.pop("Role", None) or self.role(f"{name}-role", *LOGS)}
        handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
        _, attributes = handlers["create"](name, {**template, **props}, "stack")
        return str(attributes["Arn"])

    def invoke(self, name: str, event: Any = None) -> Any:
        """Invoke a function; return its result."""
        result = self.attempt(name, event)
        assert "error" not in result, result
        return json.loads(result["body"])

    def attempt(self, name: str, event: Any = None) -> dict[str, Any]:
        """Invoke a function; return the record of it, `error` included."""
        result = lambda_svc._execute_function(lambda_svc._functions[name], {} if event is None else event)
        assert isinstance(result, dict)
        return result

    def log_group(self, name: str) -> None:
        cloudwatch_logs._create_log_group({"logGroupName": name})

    def log(self, name: str) -> list[str]:
        streams = cloudwatch_logs._log_groups[name]["streams"].values()
        return [event["message"] for stream in streams for event in stream["events"]]

    def metric(self, namespace: str, name: str, **dimensions: str) -> float:
        bucket = cloudwatch._metric_bucket((namespace, name, cloudwatch._dims_key(dimensions)))
        return float(sum(point["Value"] for point in bucket))


@contextlib.contextmanager
def emulated_account(state: Path) -> Iterator[Account]:
    """Install the local cloud's parts over the emulator for the length of a test."""
    options = LocalCloudOptions(state, "127.0.0.1", 4566, ACCOUNT, REGION, "10.60.0.10")
    bundle = state / "authority.pem"
    authenticated, app.AUTH = app.AUTH, True
    with request_scope(ACCOUNT, REGION):
        file_systems.install(options)
        functions_runtime.install(options, bundle)
        state_machines.install(options)
        schedules.install(options)
        eventbridge._ensure_default_bus()
        try:
            yield Account(options, bundle)
        finally:
            functions_runtime.stop_all()
            app.AUTH = authenticated
            for store in (lambda_svc._functions, cloudwatch_logs._log_groups, scheduler._schedules, iam._roles):
                store.clear()
            cloudwatch._metrics.clear()
            eventbridge._rules.clear()
            eventbridge._targets.clear()


def eventually(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """Wait until a condition holds; return what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value
